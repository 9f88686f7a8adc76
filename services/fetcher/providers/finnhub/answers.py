"""What Finnhub answers: candles in columns, quotes of one letter a field, and errors under any status."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from contracts.message import Timeframe
from services.fetcher.adapter.events import Action, Bar, Quote
from services.fetcher.adapter.fields import LENGTHS, PLAIN, Unit, day_of, day_start, from_epoch, number, price, unit_of
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict
from services.fetcher.providers.finnhub.markets import Market

# What an error's words say before its status does: the same words have come with 200, 401, 403 and 429.
SAID = (
    (Verdict.RATE_LIMITED, ("limit reached", "rate limit", "too many requests")),
    (Verdict.PLAN_RESTRICTED, ("access to this resource", "subscription", "premium", "upgrade", "your plan")),
    (Verdict.UNAUTHORIZED, ("api key", "token")),
)
UNKNOWN = ("not supported", "not found", "invalid", "unknown", "not exist", "wrong")
STATUSES = {401: Verdict.UNAUTHORIZED, 403: Verdict.PLAN_RESTRICTED, 404: Verdict.NOT_FOUND, 429: Verdict.RATE_LIMITED}
LONGEST_REST = timedelta(days=1)

Record = Mapping[str, object]


class Candle(NamedTuple):
    """A candle under the instant it is stamped with, whatever that means in its market."""

    stamp: datetime
    row: Bar


def parse_document(reply: Reply, now: datetime, key: str) -> object:
    """The object or list of an answer with data.

    Raises:
        ProviderError: the answer is an error, or nothing that can be read.
    """
    document = decode_json(reply)
    words = document.get("error") if isinstance(document, dict) else None
    if words:
        raise _error(_said(str(words)) or _by_status(str(words), reply.status), str(words), reply, now, key)
    if isinstance(document, (dict, list)) and reply.status == 200:
        return document
    if reply.status == 302:
        # Who asked too often has been sent on to a page instead of being told so.
        raise ProviderError(
            Verdict.RATE_LIMITED, "finnhub: sent us to a page, as it does to who asks too often", _reset(reply, now)
        )
    text = decode_text(reply)
    verdict = Verdict.RATE_LIMITED if reply.status == 429 else None if text.startswith("<") else _said(text)
    raise _error(verdict, text, reply, now, key) if verdict else error_for_status("finnhub", reply, now)


def _said(words: str) -> Verdict | None:
    low = words.lower()
    if "symbol" in low and any(word in low for word in UNKNOWN):
        return Verdict.NOT_FOUND
    return next((verdict for verdict, known in SAID if any(word in low for word in known)), None)


def _by_status(words: str, status: int) -> Verdict:
    if status >= 500 or "internal" in words.lower() or "timeout" in words.lower():
        return Verdict.SERVER_ERROR
    return STATUSES.get(status) or (Verdict.BAD_REQUEST if 400 <= status < 500 else Verdict.MALFORMED)


def _error(verdict: Verdict, words: str, reply: Reply, now: datetime, key: str) -> ProviderError:
    if verdict is Verdict.RATE_LIMITED or reply.status == 429:
        return ProviderError(Verdict.RATE_LIMITED, "finnhub: too many requests", _reset(reply, now))
    if verdict is Verdict.UNAUTHORIZED:
        return ProviderError(verdict, "finnhub: the key is not accepted; set api_key")
    return ProviderError(verdict, f"finnhub: {sanitize(words, key)}", retry_after(reply, now))


def _reset(reply: Reply, now: datetime) -> datetime | None:
    """When the window that is spent is over, as the headers say."""
    reset = from_epoch(reply.headers.get("x-ratelimit-reset"))
    return reset if reset and now < reset < now + LONGEST_REST else retry_after(reply, now)


def parse_candles(document: object, market: Market, timeframe: Timeframe) -> list[Candle]:
    """The candles of an answer in the order given; none where it says `no_data`. Columns may be missing, short or hold nulls.

    Raises:
        ProviderError: malformed, when it has neither candles nor says that there are none.
    """
    columns: Record = document if isinstance(document, dict) else {}
    times = columns.get("t")
    if columns.get("s") == "no_data":
        return []
    if not isinstance(times, list):
        raise ProviderError(Verdict.MALFORMED, "finnhub: answered something else instead of candles")
    o, h, low, c, v = (_column(columns.get(name), len(times)) for name in "ohlcv")
    found = []
    for i, seconds in enumerate(times):
        if (stamp := from_epoch(seconds)) is not None:
            at = stamp if timeframe in LENGTHS else day_start(market.session_of(stamp), market.zone)
            found.append(Candle(stamp, Bar(at, o[i], h[i], low[i], c[i], v[i])))
    return found


def _column(values: object, rows: int) -> list[float | None]:
    known = [number(value) for value in values] if isinstance(values, list) else []
    return [*known, *[None] * (rows - len(known))]


def parse_spot(document: object) -> Quote | None:
    """The quote; None where all is zero or null, which is how an unknown symbol is answered.

    Raises:
        ProviderError: malformed, when it is no quote.
    """
    if not isinstance(document, dict) or "c" not in document:
        raise ProviderError(Verdict.MALFORMED, "finnhub: answered something else instead of a quote")
    spot = Quote(at=from_epoch(document.get("t")), price=price(document["c"]), previous_close=price(document.get("pc")))
    return None if spot == Quote() else spot


def records_in(document: object) -> list[Record]:
    """The rows of a list.

    Raises:
        ProviderError: malformed, when it is no list of rows.
    """
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        return document
    raise ProviderError(Verdict.MALFORMED, "finnhub: answered something else instead of a list")


def parse_splits(records: Iterable[Record]) -> Iterator[Action]:
    """Splits: `toFactor` new shares for `fromFactor` old."""
    for record in records:
        day, old, new = day_of(record.get("date")), number(record.get("fromFactor")), number(record.get("toFactor"))
        if day and old and new:
            yield Action(day, "split", new / old)


def parse_dividends(records: Iterable[Record]) -> tuple[list[Action], Unit | None]:
    """Dividends as they were paid, in the major unit, on their ex-date; and their unit if it is told, PLAIN for several."""
    actions: list[Action] = []
    units: set[Unit] = set()
    for record in records:
        day, amount = day_of(record.get("date")), number(record.get("amount"))
        if day and amount:
            unit = unit_of(str(record.get("currency") or ""))
            actions.append(Action(day, "dividend", unit.known(amount)))
            units.add(unit._replace(scale=1.0))
    units.discard(PLAIN)
    return actions, (units.pop() if len(units) == 1 else PLAIN) if units else None
