"""What Alpha Vantage answers: tables in JSON or CSV under many spellings, and notices in place of them."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.message import Timeframe
from services.fetcher.adapter.events import Action, Bar, Contract, Quote
from services.fetcher.adapter.fields import LENGTHS, day_of, day_start, instant_of, number, price
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, quota_window_end
from services.fetcher.provider import ProviderError, Reply, Verdict

THROTTLED = ("rate limit", "requests per day", "call volume", "call frequency", "per minute", "per second", "sparingly")
FIRST_COLUMNS = ("timestamp", "symbol", "contractid", "exdividenddate", "effectivedate")
PRICES = ("open", "high", "low", "close", "volume", "adjustedclose")

Record = Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """The rows of any answer under one spelling of names, such as `adjustedclose`, and the zone of its times."""

    rows: Sequence[Record]
    zone: str | None = None


def parse_table(reply: Reply, now: datetime) -> Table:
    """The rows of a JSON or CSV answer.

    Raises:
        ProviderError: it is an error, or none of both.
    """
    # The vendor refuses with status 200; any other is the word of whatever stands in front of it.
    if reply.status != 200:
        raise error_for_status("alpha_vantage", reply, now)
    document = decode_json(reply)
    if isinstance(document, dict):
        if error := _refused(document, now):
            raise error
        return _from_json(document)
    header, *lines = decode_text(reply).splitlines() or [""]
    names = [_name(name) for name in header.split(",")]
    if names[0] in FIRST_COLUMNS and len(names) > 1:
        return Table([_first(zip(names, cells, strict=False)) for cells in csv.reader(lines) if cells])
    if any(word in header.lower() for word in THROTTLED) and reply.body.lstrip()[:1] != b"<":
        raise _notice(header, now)
    raise error_for_status("alpha_vantage", reply, now)


def _from_json(document: Record) -> Table:
    meta = _record(document.get("Meta Data"))
    zone = next((str(value) for name, value in meta.items() if name == "timezone"), None)
    for name, value in document.items():
        if isinstance(value, list) and name == "data":
            return Table([_record(row) for row in value])
        if isinstance(value, dict) and "Time Series" in name:
            return Table([{"timestamp": time, **_record(cells)} for time, cells in value.items()], zone)
        if isinstance(value, dict) and name.startswith(("Global Quote", "Realtime Currency Exchange Rate")):
            return Table([_record(value)] if value else [])
    if not document:
        raise ProviderError(Verdict.NOT_FOUND, "alpha_vantage: answered with nothing, as for a symbol it does not know")
    if not meta:
        raise ProviderError(Verdict.MALFORMED, "alpha_vantage: answered something else instead of data")
    return Table([])


def _record(cells: object) -> Record:
    return _first((_name(name), value) for name, value in cells.items()) if isinstance(cells, dict) else {}


def _first(cells: Iterable[tuple[str, object]]) -> Record:
    """Of two columns of a name the first: crypto prices come in the currency that was asked, then again in dollars."""
    return dict(reversed(list(cells)))


def _name(name: str) -> str:
    return re.sub(r"^\d+[a-z]?\. *|\(.*?\)|[^a-z]", "", name.strip().lower())


def _refused(document: Record, now: datetime) -> ProviderError | None:
    if error := document.get("Error Message"):
        if "apikey" in str(error).lower():
            return ProviderError(Verdict.UNAUTHORIZED, "alpha_vantage: the key is not accepted; set api_key")
        return ProviderError(Verdict.NOT_FOUND, "alpha_vantage: no such symbol, or not in this series")
    if notice := document.get("Note") or document.get("Information"):
        return _notice(str(notice), now)
    message = str(document.get("message") or "success").lower()
    if message == "success":
        return None
    if document.get("data") or "premium" in message:
        return ProviderError(Verdict.PLAN_RESTRICTED, "alpha_vantage: wants a premium plan for this; its sample rows are made up")
    if "data" not in document:
        return ProviderError(Verdict.MALFORMED, "alpha_vantage: a message instead of data that says neither limit nor plan nor key")
    return ProviderError(Verdict.EMPTY, "alpha_vantage: has no data for this")


def _notice(notice: str, now: datetime) -> ProviderError:
    words = notice.lower()
    # A throttled caller is told of premium endpoints too, and of every limit: what he ran into is the shortest one.
    if "this is a premium" in words or "premium feature" in words:
        return ProviderError(Verdict.PLAN_RESTRICTED, "alpha_vantage: wants a premium plan for this")
    if any(word in words for word in THROTTLED):
        window = next((name for name in ("second", "minute", "day") if f"per {name}" in words or f"/{name}" in words), "")
        which = f" a {window}" if window else ""
        return ProviderError(
            Verdict.RATE_LIMITED, f"alpha_vantage: no more calls{which} on this key", quota_window_end(window, now, "UTC")
        )
    if "premium" in words:
        return ProviderError(Verdict.PLAN_RESTRICTED, "alpha_vantage: wants a premium plan for this")
    if "demo" in words or "api key" in words or "apikey" in words:
        return ProviderError(Verdict.UNAUTHORIZED, "alpha_vantage: the key is not accepted; set api_key")
    return ProviderError(Verdict.MALFORMED, "alpha_vantage: a notice instead of data that says neither limit nor plan nor key")


def parse_rows(table: Table, timeframe: Timeframe, zone: str) -> Iterator[Bar]:
    """The bars; one without a readable time is left out."""
    for row in table.rows:
        day = day_of(row.get("timestamp"))
        at = instant_of(row.get("timestamp"), zone) if timeframe in LENGTHS else day_start(day, zone) if day else None
        if at is not None:
            o, h, low, c, volume, adjusted = (number(row.get(name)) for name in PRICES)
            yield Bar(at, o, h, low, c, volume, adjusted)


def parse_contracts(table: Table) -> Iterator[Contract]:
    """The options of a session, under its date; greeks are unknown where the volatility is."""
    for row in table.rows:
        expiry, as_of = day_of(row.get("expiration")), day_of(row.get("date"))
        iv = price(row.get("impliedvolatility"))
        if expiry is not None:
            yield Contract(
                contract=str(row.get("contractid", "")),
                expiry=expiry,
                strike=number(row.get("strike")) or 0.0,
                right="put" if str(row.get("type")).lower().startswith("p") else "call",
                bid=price(row.get("bid")),
                ask=price(row.get("ask")),
                last=price(row.get("last")),
                mark=price(row.get("mark")),
                volume=number(row.get("volume")),
                open_interest=number(row.get("openinterest")),
                iv=iv,
                delta=number(row.get("delta")) if iv else None,
                gamma=number(row.get("gamma")) if iv else None,
                theta=number(row.get("theta")) if iv else None,
                vega=number(row.get("vega")) if iv else None,
                at=day_start(as_of) if as_of else None,
            )


def parse_quote(table: Table) -> Quote | None:
    """The quote of a share; it has a session date and no time of day."""
    row = table.rows[0] if table.rows else {}
    day = day_of(row.get("latesttradingday") or row.get("latestday"))
    last = price(row.get("price"))
    if last is None:
        return None
    at = day_start(day) if day else None
    return Quote(at=at, price=last, previous_close=price(row.get("previousclose")), volume=number(row.get("volume")))


def parse_exchange_rate(table: Table) -> Quote | None:
    """The rate of a pair."""
    row = table.rows[0] if table.rows else {}
    last = price(row.get("exchangerate"))
    at = instant_of(row.get("lastrefreshed"))
    return (last and Quote(at=at, price=last, bid=price(row.get("bidprice")), ask=price(row.get("askprice")))) or None


def parse_actions(table: Table) -> Iterator[Action]:
    """The splits of one answer, the dividends of another."""
    for row in table.rows:
        split, dividend = number(row.get("splitfactor")), number(row.get("amount"))
        if split and (day := day_of(row.get("effectivedate"))):
            yield Action(day, "split", split)
        if dividend and (day := day_of(row.get("exdividenddate"))):
            yield Action(day, "dividend", dividend)
