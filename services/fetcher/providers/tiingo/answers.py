"""What Tiingo answers: rows in JSON or CSV, and sentences in place of them."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from services.fetcher.adapter.events import Action, Bar, Quote
from services.fetcher.adapter.fields import LENGTHS, day_of, day_start, instant_of, number, price
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, quota_window_end, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

NEW_YORK = "America/New_York"

Record = Mapping[str, object]


def parse_records(reply: Reply, now: datetime) -> list[Record]:
    """The rows of a JSON or CSV answer; none where the vendor has none.

    Raises:
        ProviderError: the answer is a sentence, or nothing that can be read.
    """
    document = decode_json(reply)
    text = decode_text(reply)
    header = text.partition("\n")[0].strip().split(",")
    if isinstance(document, list) and all(isinstance(row, dict) for row in document) and reply.status == 200:
        return document
    if document is None and "date" in header and len(header) > 1:
        return list(csv.DictReader(text.splitlines()))
    words = _sentence(document) if document is not None else text
    if words and not words.startswith("<"):
        raise _refused(words, reply, now)
    raise error_for_status("tiingo", reply, now)


def _sentence(document: object) -> str:
    if isinstance(document, dict):
        return str(document.get("detail") or document.get("message") or "")
    if isinstance(document, list):
        return " ".join(str(each) for each in document)
    return document if isinstance(document, str) else ""


def _refused(words: str, reply: Reply, now: datetime) -> ProviderError:
    low = words.lower()
    message = f"tiingo: {sanitize(words.removeprefix('Error: '))}"
    if reply.status == 429 or "run over" in low or "allocation" in low or "rate limit" in low:
        return ProviderError(Verdict.RATE_LIMITED, message, retry_after(reply, now) or quota_window_end(low, now, NEW_YORK))
    if "not found" in low:
        return ProviderError(Verdict.NOT_FOUND, message)
    if reply.status == 401 or "token" in low or "credentials" in low:
        return ProviderError(Verdict.UNAUTHORIZED, "tiingo: the key is not accepted; set api_key")
    if reply.status in (402, 403) or "permission" in low or "subscription" in low or "upgrade" in low:
        return ProviderError(Verdict.PLAN_RESTRICTED, message)
    if reply.status == 400 or (low.startswith("error") and reply.status < 500):
        return ProviderError(Verdict.BAD_REQUEST, message)
    return error_for_status("tiingo", reply, now)


def parse_rows(records: Iterable[Record], timeframe: Timeframe, zone: str) -> Iterator[Bar]:
    """Bars, of a day under the date of its session."""
    for record in records:
        day = _session_of(record.get("date"))
        at = instant_of(record.get("date")) if timeframe in LENGTHS else day_start(day, zone) if day else None
        if at is not None:
            o, h, low, c = (number(record.get(name)) for name in ("open", "high", "low", "close"))
            yield Bar(at, o, h, low, c, number(record.get("volume")), number(record.get("adjClose")))


def _session_of(text: object) -> date | None:
    """The date as it is written; of a currency's day that opens at 17:00 in New York, the date it closes on."""
    at = instant_of(text)
    if at is None or at.time() == time():
        return day_of(text)
    return (at.astimezone(ZoneInfo(NEW_YORK)) + timedelta(hours=7)).date()


def parse_actions(records: Iterable[Record]) -> Iterator[Action]:
    """Splits and dividends out of daily bars: a factor of 1 and no cash are none."""
    for record in records:
        day, factor, cash = day_of(record.get("date")), number(record.get("splitFactor")), number(record.get("divCash"))
        if day and factor and factor != 1.0:
            yield Action(day, "split", factor)
        if day and cash:
            yield Action(day, "dividend", cash)


def parse_spot(record: Record) -> Quote:
    """The top of the book at IEX, of a crypto pair or of a currency pair.

    Bid, ask and `last` of IEX are null without an agreement with the exchange; `tngoLast` is Tiingo's own.
    """
    book = record.get("topOfBookData")
    top: Record = book[0] if isinstance(book, list) and book and isinstance(book[0], dict) else record
    return Quote(
        at=next((at for name in ("quoteTimestamp", "lastSaleTimestamp", "timestamp") if (at := instant_of(top.get(name)))), None),
        price=_known(top, "last", "tngoLast", "lastPrice", "midPrice"),
        bid=price(top.get("bidPrice")),
        ask=price(top.get("askPrice")),
        previous_close=price(top.get("prevClose")),
        volume=number(top.get("volume")),
    )


def _known(record: Record, *names: str) -> float | None:
    return next((found for name in names if (found := price(record.get(name))) is not None), None)
