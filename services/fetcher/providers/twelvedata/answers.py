"""What Twelve Data answers: series and quotes whose numbers are texts, by symbol where several were asked, and errors in both."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from contracts.message import Timeframe
from services.fetcher.adapter.events import Action, Bar, Quote
from services.fetcher.adapter.fields import (
    LENGTHS,
    Unit,
    day_of,
    day_start,
    from_epoch,
    instant_of,
    number,
    pair_of,
    price,
    unit_of,
)
from services.fetcher.adapter.responses import (
    check_zone,
    decode_json,
    decode_text,
    error_for_status,
    quota_window_end,
    retry_after,
    sanitize,
)
from services.fetcher.provider import ProviderError, Reply, Verdict

RESTRICTED = (
    "available starting",
    "available exclusively",
    "available on the",
    "upgrad",
    "higher tier",
    "with your plan",
    "your plan",
)
UNKNOWN = ("not found", "missing or invalid", "invalid **symbol", "invalid symbol")
VERDICTS = {
    400: Verdict.BAD_REQUEST,
    401: Verdict.UNAUTHORIZED,
    403: Verdict.PLAN_RESTRICTED,
    404: Verdict.NOT_FOUND,
    414: Verdict.BAD_REQUEST,
    429: Verdict.RATE_LIMITED,
}

Record = Mapping[str, object]


def parse_document(reply: Reply, now: datetime, key: str) -> Record:
    """The object of an answer, in which parts may still be errors.

    Raises:
        ProviderError: the answer as a whole is an error, or nothing that can be read.
    """
    document = decode_json(reply)
    if isinstance(document, dict):
        if error := error_in(document, reply, now, key):
            raise error
        if reply.status == 200:
            return document
        if reply.status in VERDICTS:
            raise _refused(reply.status, "", reply, now, key)
    if reply.status in (414, 429):
        words = decode_text(reply)
        raise _refused(reply.status, "" if words.startswith("<") else words, reply, now, key)
    raise error_for_status("twelvedata", reply, now)


def error_in(record: Record, reply: Reply, now: datetime, key: str) -> ProviderError | None:
    """The error that an object is, by its own code: the status it comes with has varied."""
    if "message" not in record or not (record.get("status") == "error" or "code" in record):
        return None
    return _refused(int(number(record.get("code")) or reply.status), str(record["message"]), reply, now, key)


def _refused(code: int, words: str, reply: Reply, now: datetime, key: str) -> ProviderError:
    verdict = _verdict(code, words.lower())
    if verdict is Verdict.RATE_LIMITED:
        window = "day" if "for the day" in words.lower() else "minute"
        return ProviderError(
            verdict, f"twelvedata: no more credits for the {window}", retry_after(reply, now) or _reset(window, now)
        )
    if verdict is Verdict.UNAUTHORIZED:
        return ProviderError(verdict, "twelvedata: the key is not accepted; set api_key")
    return ProviderError(
        verdict, f"twelvedata: {sanitize(words.replace('**', ''), key) or f'answered {code}'}", retry_after(reply, now)
    )


def _verdict(code: int, low: str) -> Verdict:
    # The refusal of an overspent key speaks of plans too, a symbol outside the plan comes as 404, an unknown one as 400.
    if code not in (401, 429):
        if "no data is available" in low:
            return Verdict.EMPTY
        if any(word in low for word in RESTRICTED):
            return Verdict.PLAN_RESTRICTED
        if ("symbol" in low or "figi" in low) and any(word in low for word in UNKNOWN):
            return Verdict.NOT_FOUND
    return VERDICTS.get(code) or (Verdict.SERVER_ERROR if code >= 500 else Verdict.MALFORMED)


def _reset(window: str, now: datetime) -> datetime | None:
    """When credits are given again: with the next minute of the clock, or day in UTC."""
    if window == "day":
        return quota_window_end(window, now, "UTC")
    return now.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)


def by_symbol(document: Record, symbols: Sequence[str]) -> dict[str, Record]:
    """The part of each of these symbols (the vendor's spelling); of one the whole is its part. Symbols left out are not in it."""
    parts: dict[str, Record] = {name.upper(): part for name, part in document.items() if isinstance(part, dict)}
    found = {symbol: parts[symbol.upper()] for symbol in symbols if symbol.upper() in parts}
    if found:
        return found
    own = str(document.get("symbol") or meta_of(document).get("symbol") or "").upper()
    return {symbol: document for symbol in symbols if len(symbols) == 1 or symbol.upper() == own}


def meta_of(record: Record) -> Record:
    """What a series says about itself."""
    meta = record.get("meta")
    return meta if isinstance(meta, dict) else {}


def unit_in(record: Record, symbol: str) -> Unit:
    """In what prices are quoted: pairs do not say it by code, but in their symbol."""
    pair = pair_of(symbol.partition(":")[0])
    return unit_of(str(record.get("currency") or "") or (pair.quote if pair else None))


def zone_in(record: Record, symbol: str, timeframe: Timeframe) -> str:
    """The exchange's zone, in which a series' times are written; that of pairs is UTC.

    Raises:
        ProviderError: malformed, when it is not said and the times mean nothing without it, or it is no zone.
    """
    named = meta_of(record).get("exchange_timezone")
    if named:
        return check_zone("twelvedata", str(named))
    if timeframe in LENGTHS and pair_of(symbol.partition(":")[0]) is None and "currency_base" not in meta_of(record):
        raise ProviderError(Verdict.MALFORMED, f"twelvedata: does not say in which zone the times of {symbol} are")
    return "UTC"


def values_in(record: Record) -> list[Record]:
    """The rows of a series.

    Raises:
        ProviderError: malformed, when it is no series.
    """
    values = record.get("values")
    if values is None and record.get("status") == "ok":
        return []
    if isinstance(values, list) and all(isinstance(row, dict) for row in values):
        return values
    raise ProviderError(Verdict.MALFORMED, "twelvedata: answered something else instead of a series")


def parse_rows(values: Iterable[Record], timeframe: Timeframe, zone: str) -> Iterator[Bar]:
    """Bars, of a day or longer under the date that is written."""
    for record in values:
        day = day_of(record.get("datetime"))
        at = instant_of(record.get("datetime"), zone) if timeframe in LENGTHS else day_start(day, zone) if day else None
        if at is not None:
            o, h, low, c = (number(record.get(name)) for name in ("open", "high", "low", "close"))
            yield Bar(at, o, h, low, c, number(record.get("volume")))


def parse_spot(record: Record) -> Quote:
    """The quote: as of its last minute, else the bar it belongs to, else only the session's date.

    Raises:
        ProviderError: malformed, when it is no quote.
    """
    if "close" not in record:
        raise ProviderError(Verdict.MALFORMED, "twelvedata: answered something else instead of a quote")
    day = day_of(record.get("datetime"))
    return Quote(
        at=from_epoch(record.get("last_quote_at")) or from_epoch(record.get("timestamp")) or (day_start(day) if day else None),
        price=price(record["close"]),
        previous_close=price(record.get("previous_close")),
        volume=number(record.get("volume")),
    )


def parse_actions(document: Record) -> Iterator[Action]:
    """The splits of one answer, the dividends of another.

    Raises:
        ProviderError: malformed, when it has neither.
    """
    rows = document.get("splits", document.get("dividends"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ProviderError(Verdict.MALFORMED, "twelvedata: answered something else instead of splits or dividends")
    for row in rows:
        day, amount = day_of(row.get("date")), number(row.get("amount"))
        new, old, ratio = (number(row.get(name)) for name in ("from_factor", "to_factor", "ratio"))
        # The vendor's names are the other way round: 4-for-1 is from 4 to 1. Its ratio is rounded, and of old to new.
        if day and ((new and old) or ratio):
            yield Action(day, "split", new / old if new and old else 1.0 / (ratio or 1.0))
        if amount and (ex_date := day_of(row.get("ex_date"))):
            yield Action(ex_date, "dividend", amount)
