"""What Marketstack answers: pages of rows, and errors by name."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from services.fetcher.adapter.events import Action, Bar, Quote
from services.fetcher.adapter.fields import PLAIN, Unit, day_of, day_start, instant_of, number, price, unit_of
from services.fetcher.adapter.responses import decode_json, error_for_status, quota_window_end, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

NEW_YORK = "America/New_York"  # the last exchange's day is over when the day is over there
US_EXCHANGES = frozenset({"XNAS", "XNYS", "XASE", "ARCX", "BATS", "IEXG", "OTCM", "OTCB", "OTCQ", "PINX", "PSGM"})
# Currencies come in lower case, of which the minor units are told apart here.
MINOR_CODES = {"GBX": "GBX", "ILA": "ILA", "ZAC": "ZAc"}
VERDICTS = {
    "unauthorized": Verdict.UNAUTHORIZED,
    "invalid_access_key": Verdict.UNAUTHORIZED,
    "missing_access_key": Verdict.UNAUTHORIZED,
    "inactive_user": Verdict.UNAUTHORIZED,
    "https_access_restricted": Verdict.PLAN_RESTRICTED,
    "function_access_restricted": Verdict.PLAN_RESTRICTED,
    "usage_limit_reached": Verdict.RATE_LIMITED,
    "too_many_requests": Verdict.RATE_LIMITED,
    "rate_limit_reached": Verdict.RATE_LIMITED,
    "404_not_found": Verdict.NOT_FOUND,
    "not_found": Verdict.NOT_FOUND,
    "not_found_error": Verdict.NOT_FOUND,
    "no_valid_symbols_provided": Verdict.NOT_FOUND,
    "data_not_available": Verdict.EMPTY,
    "invalid_api_function": Verdict.BAD_REQUEST,
    "validation_error": Verdict.BAD_REQUEST,
    "internal_error": Verdict.SERVER_ERROR,
}
BY_STATUS = {
    400: Verdict.BAD_REQUEST,
    401: Verdict.UNAUTHORIZED,
    403: Verdict.PLAN_RESTRICTED,
    404: Verdict.NOT_FOUND,
    406: Verdict.EMPTY,
    422: Verdict.BAD_REQUEST,
    429: Verdict.RATE_LIMITED,
}

Record = Mapping[str, object]


class Page(NamedTuple):
    """Rows `offset` to `offset + length` of `total`."""

    rows: Sequence[Record]
    offset: int
    length: int
    total: int


def parse_page(reply: Reply, now: datetime, key: str) -> Page:
    """One page. `key` is kept out of what is said.

    Raises:
        ProviderError: the answer is an error, or nothing that can be read.
    """
    document = decode_json(reply)
    if isinstance(document, dict):
        if error := document.get("error"):
            raise _refused(error if isinstance(error, dict) else {"message": error}, reply, now, key)
        if reply.status == 404:
            words = document.get("detail") or document.get("message") or "has nothing there"
            raise ProviderError(Verdict.NOT_FOUND, f"marketstack: {sanitize(words, key)}")
        rows = _rows(document.get("data")) if "data" in document else None
        if rows is not None and reply.status == 200:
            pagination = document.get("pagination")
            told = pagination if isinstance(pagination, dict) else {}
            offset, count, total = (int(number(told.get(name)) or 0) for name in ("offset", "count", "total"))
            return Page(rows, offset, max(count, len(rows)), total)
    raise error_for_status("marketstack", reply, now)


def _rows(data: object) -> list[Record] | None:
    """The rows of a list, in which a symbol without any may be an empty list; or of the list within a ticker's own record."""
    if isinstance(data, dict):
        inner = next((data[name] for name in ("eod", "splits", "dividends", "intraday") if isinstance(data.get(name), list)), None)
        rows = _rows(inner) if inner is not None else None
        return None if rows is None else [{"symbol": data.get("symbol"), **row} for row in rows]
    if data is None:
        return []
    if not isinstance(data, list) or any(row and not isinstance(row, dict) for row in data):
        return None
    return [row for row in data if row]


def _refused(error: Record, reply: Reply, now: datetime, key: str) -> ProviderError:
    name = next((str(error[field]).lower() for field in ("code", "type") if isinstance(error.get(field), str)), "")
    words = str(error.get("message") or error.get("info") or name)
    verdict = VERDICTS.get(name) or BY_STATUS.get(reply.status)
    if verdict is None:
        if reply.status != 200:
            return error_for_status("marketstack", reply, now)
        verdict = Verdict.MALFORMED
    if name == "validation_error" and (fault := _fault(error.get("context"))):
        field, kind, words = fault
        verdict = Verdict.NOT_FOUND if field == "symbols" and "valid" in kind else verdict
    message = f"marketstack: {sanitize(words, key)}"
    if verdict is Verdict.UNAUTHORIZED:
        message = "marketstack: the key is not accepted, or its account is not active; set api_key"
    retry_at = retry_after(reply, now) or (_retry_at(name, now) if verdict is Verdict.RATE_LIMITED else None)
    return ProviderError(verdict, message, retry_at)


def _retry_at(name: str, now: datetime) -> datetime | None:
    if name == "rate_limit_reached":
        return now + timedelta(seconds=1)
    # A month of requests begins on the day of the subscription, which is not told: a new one shows within a day.
    return quota_window_end("day", now, "UTC") if name in ("usage_limit_reached", "too_many_requests") else None


def _fault(context: object) -> tuple[str, str, str] | None:
    """The first parameter that is at fault, the kind of fault, and the vendor's words."""
    for field, faults in context.items() if isinstance(context, dict) else ():
        for fault in faults if isinstance(faults, list) else [faults]:
            if isinstance(fault, dict):
                return str(field), str(fault.get("key")), f"{field}: {fault.get('message')}"
    return None


def on_busiest_exchange(rows: Sequence[Record]) -> Sequence[Record]:
    """The rows of one listing: two exchanges under one symbol are two prices, maybe in two currencies."""
    traded: dict[str, float] = defaultdict(float)
    for row in rows:
        traded[str(row.get("exchange"))] += number(row.get("volume")) or 0.0
    busiest = max(traded, key=traded.__getitem__, default="")
    return rows if len(traded) < 2 else [row for row in rows if str(row.get("exchange")) == busiest]


def unit_in(rows: Sequence[Record]) -> Unit:
    """The unit of the prices: as it is said, else that of the exchange where it is of the US."""
    for row in rows:
        if code := str(row.get("price_currency") or "").strip():
            return unit_of(MINOR_CODES.get(code.upper(), code))
    return Unit("USD") if rows and str(rows[0].get("exchange")) in US_EXCHANGES else PLAIN


def parse_rows(rows: Iterable[Record]) -> Iterator[Bar]:
    """Daily bars, raw, each under the date of its session as it is written."""
    for row in rows:
        if day := day_of(row.get("date")):
            o, h, low, c, adjusted = (price(row.get(name)) for name in ("open", "high", "low", "close", "adj_close"))
            yield Bar(day_start(day, NEW_YORK), o, h, low, c, number(row.get("volume")), adjusted)


def parse_live(rows: Sequence[Record]) -> Quote | None:
    """The newest quote of IEX. `last`, bid and ask are null without an agreement with the exchange; the vendor's own is not."""
    row = max(rows, key=lambda row: str(row.get("date")), default={})
    last = price(row.get("last")) or price(row.get("marketstack_last"))
    if last is None:
        return None
    before = price(row.get("close"))
    return Quote(
        at=instant_of(row.get("date")),
        price=last,
        bid=price(row.get("bid_price")),
        ask=price(row.get("ask_price")),
        # Now and then a row's close is its own.
        previous_close=before if before != last else None,
        volume=number(row.get("volume")),
    )


def parse_close(rows: Sequence[Record]) -> Quote | None:
    """The newest session's close as a quote: of when in the day it was is not known."""
    row = max(rows, key=lambda row: str(row.get("date")), default={})
    last, day = price(row.get("close")), day_of(row.get("date"))
    if last is None:
        return None
    return Quote(at=day_start(day) if day else None, price=last, volume=number(row.get("volume")))


def parse_splits(rows: Iterable[Record]) -> Iterator[Action]:
    """New shares per old, as a factor, else as `4:1`."""
    for row in rows:
        factor = number(row.get("split_factor")) or _ratio(row.get("stock_split"))
        if factor and factor != 1.0 and (day := day_of(row.get("date"))):
            yield Action(day, "split", factor)


def _ratio(text: object) -> float | None:
    found = re.fullmatch(r"\s*([\d.]+)\s*[:/]\s*([\d.]+)\s*", str(text))
    new, old = (number(found[1]), number(found[2])) if found else (None, None)
    return new / old if new and old else None


def parse_dividends(rows: Iterable[Record]) -> Iterator[Action]:
    """Amounts per share on their ex-dates."""
    for row in rows:
        amount = price(row.get("dividend"))
        if amount and (day := day_of(row.get("date"))):
            yield Action(day, "dividend", amount)
