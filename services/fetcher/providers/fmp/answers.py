"""What FMP answers: arrays of rows, and an object or a sentence in place of them."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from services.fetcher.adapter.events import Action, Bar, Quote
from services.fetcher.adapter.fields import YEARS, day_of, day_start, from_epoch, number, price
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

NEW_YORK = "America/New_York"
PLAN = ("premium", "special endpoint", "exclusive endpoint", "restricted endpoint", "legacy endpoint", "subscription", "upgrade")
FAULTS = ("invalid", "missing", "required", "parameter")
MILLISECONDS = 1e11  # seconds since 1970 are fewer for three thousand years to come

Record = Mapping[str, object]


def parse_records(reply: Reply, now: datetime, key: str) -> list[Record]:
    """The rows of an answer; none where the vendor has none. `key` is kept out of what is said.

    Raises:
        ProviderError: the answer is a refusal, or nothing that can be read.
    """
    document = decode_json(reply)
    if isinstance(document, list) and reply.status == 200:
        rows: list[Record] = [row for row in document if isinstance(row, dict)]
        if rows or all(row is None for row in document):
            if words := _sentence(rows[0]) if rows else "":
                raise _refused(words, reply, now, key)
            return rows
    words = decode_text(reply) if document is None else _sentence(document)
    if words and not words.startswith("<"):
        raise _refused(words, reply, now, key)
    raise error_for_status("fmp", reply, now)


def _sentence(document: object) -> str:
    if isinstance(document, dict):
        return str(next((document[name] for name in ("Error Message", "error", "message") if document.get(name)), ""))
    return document if isinstance(document, str) else ""


def _refused(words: str, reply: Reply, now: datetime, key: str) -> ProviderError:
    verdict = _verdict(words.lower(), reply.status)
    if verdict is None:
        return error_for_status("fmp", reply, now)
    message = f"fmp: {sanitize(words, key)}"
    if verdict is Verdict.RATE_LIMITED:
        # Day, minute and bytes are refused in much the same words, and none says when it is over.
        spent = "bytes of 30 days" if "bandwidth" in words.lower() else "calls"
        message = f"fmp: this key has no {spent} left for now"
    elif verdict is Verdict.UNAUTHORIZED:
        message = "fmp: the key is not accepted; set api_key"
    return ProviderError(verdict, message, retry_after(reply, now))


def _verdict(words: str, status: int) -> Verdict | None:
    """What the vendor's words mean, whatever the status, as a refusal may come with 200; None: the status says all."""
    rules = (
        (Verdict.RATE_LIMITED, status == 429 or "limit reach" in words or "too many requests" in words),
        (Verdict.UNAUTHORIZED, "invalid api key" in words),
        (Verdict.PLAN_RESTRICTED, status == 402 or any(word in words for word in PLAN)),
        (Verdict.UNAUTHORIZED, status == 401 or any(word in words for word in ("api key", "apikey", "suspend"))),
        (Verdict.PLAN_RESTRICTED, status == 403),
        (None, status >= 500),
        (Verdict.NOT_FOUND, "not found" in words),
        (Verdict.BAD_REQUEST, status in (400, 422) or any(word in words for word in FAULTS)),
        (Verdict.MALFORMED, status == 200),
    )
    return next((verdict for verdict, holds in rules if holds), None)


def parse_sessions(records: Iterable[Record], zone: str) -> list[Bar]:
    """Daily bars, each somewhere in the session of its date."""
    return [_row(record, day_start(day, zone)) for record in records if (day := day_of(record.get("date")))]


def parse_adjusted_closes(records: Iterable[Record], zone: str) -> dict[datetime, float | None]:
    """The closes adjusted for dividends too, by the instant of `parse_sessions`."""
    return {day_start(day, zone): price(record.get("adjClose")) for record in records if (day := day_of(record.get("date")))}


def parse_minutes(records: Iterable[Record]) -> list[Bar]:
    """Intraday bars. Of two rows with the same wall-clock time, the later is of the hour after the clock went back."""
    times = [(time, record) for record in records if (time := _wall_clock(record.get("date")))]
    if times and times[0][0] > times[-1][0]:
        times.reverse()
    rows, seen = [], set[datetime]()
    for time, record in times:
        rows.append(_row(record, time.replace(tzinfo=ZoneInfo(NEW_YORK), fold=int(time in seen)).astimezone(UTC)))
        seen.add(time)
    return rows


def _wall_clock(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text)).replace(tzinfo=None)
    except ValueError:
        return None
    return found if found.year in YEARS else None


def _row(record: Record, at: datetime) -> Bar:
    o, h, low, c = (price(record.get(name)) for name in ("open", "high", "low", "close"))
    return Bar(at, o, h, low, c, number(record.get("volume")))


def parse_spot(record: Record) -> Quote | None:
    """The quote; it has neither bid nor ask. None without a price."""
    last = price(record.get("price"))
    if last is None:
        return None
    seconds = number(record.get("timestamp")) or 0.0
    return Quote(
        at=from_epoch(seconds / 1000 if seconds > MILLISECONDS else seconds),
        price=last,
        previous_close=price(record.get("previousClose")),
        volume=number(record.get("volume")),
    )


def parse_splits(records: Iterable[Record]) -> Iterator[Action]:
    """New shares per old: 4-for-1 is 4, 1-for-80 is 0.0125; one for one is none."""
    for record in records:
        new, old = number(record.get("numerator")), number(record.get("denominator"))
        if new and old and new != old and (day := day_of(record.get("date"))):
            yield Action(day, "split", new / old)


def parse_dividends(records: Iterable[Record]) -> Iterator[Action]:
    """The amount as it was declared; where that is unknown, the one adjusted for later splits."""
    for record in records:
        amount = price(record.get("dividend")) or price(record.get("adjDividend"))
        if amount and (day := day_of(record.get("date"))):
            yield Action(day, "dividend", amount)
