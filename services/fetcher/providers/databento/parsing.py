"""Parses Databento's responses: records of several venues, their symbols, and errors."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import NamedTuple

import msgspec
import zstandard
from databento_dbn import UNDEF_PRICE, UNDEF_TIMESTAMP, BBOMsg, CBBOMsg, DBNDecoder, DBNError, ErrorMsg, Metadata, OHLCVMsg

from services.fetcher.adapter.events import Bar, Quote
from services.fetcher.adapter.fields import EPOCH, instant_of, number, price
from services.fetcher.adapter.responses import decode_json, error_for_status, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

KINDS = {"ohlcv-1m": 33, "ohlcv-1h": 34, "ohlcv-1d": 35, "bbo-1m": 196, "cbbo-1m": 193}
ZSTD = b"\x28\xb5\x2f\xfd"
MAX_BYTES = 256 * 1024 * 1024  # unpacked; a request is made so small that it never comes near
CHUNK = 64 * 1024
SCALE = 1_000_000_000
LONGEST_INTEGER = 20  # digits of 64 bits, with a sign
BAR, BOOK = ("open", "high", "low", "close"), ("bid_px", "ask_px")
_INSTANT = r"\W*(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)"
_FROM = re.compile(rf"(?:available start of dataset \S+|between|available from){_INSTANT}")
_UNTIL = re.compile(rf"(?:available end of dataset \S+|available up to|end time before|data after|between{_INSTANT} and){_INSTANT}")
_NO_DATA_YET = "data_start_after_available_end"
_HINTS = {
    Verdict.UNAUTHORIZED: "set api_key",
    Verdict.PLAN_RESTRICTED: "see the account's subscriptions and funds",
    Verdict.NOT_FOUND: "check the symbol and the setting dataset",
}


class Record(NamedTuple):
    """One record of an instrument at a venue. `prices`: of a bar open, high, low, close; of a book last, bid, ask.

    `at`: of a bar its start, of a book the end of the minute that it is the state of.
    """

    instrument: int
    venue: int
    at: datetime
    prices: tuple[float | None, ...]
    volume: float | None = None
    symbol: str | None = None


@dataclass(frozen=True)
class Answered:
    """Records in the vendor's order. `names`: the symbols of an instrument, each from a day until another; an id's meaning changes.

    `unknown`: asked symbols that mean nothing in the range.
    """

    records: list[Record]
    names: Mapping[int, list[tuple[date, date, str]]] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    def by_symbol(self, builders: Iterable[str]) -> dict[str, list[Record]]:
        """Return the records of each asked symbol; see `names_of`."""
        symbols = list(builders)
        found: dict[str, list[Record]] = {symbol: [] for symbol in symbols}
        lists = {_plain(symbol): records for symbol, records in found.items()}
        for record in self.records:
            for name in self.names_of(record, symbols):
                if (records := found.get(name, lists.get(_plain(name)))) is not None:
                    records.append(record)
        return found

    def knows(self, symbol: str) -> bool:
        """True if an asked symbol means something in the range."""
        return symbol not in self.unknown and _plain(symbol) not in map(_plain, self.unknown)

    def names_of(self, record: Record, symbols: list[str]) -> list[str]:
        """Return the symbols that a record is of, of those asked.

        Raises:
            ProviderError: malformed, when that is not said.
        """
        if record.symbol is not None:
            return [record.symbol]
        if self.names:
            # The state of a day's last minute is stamped with the next day's first instant.
            days = record.at.date(), (record.at - timedelta(microseconds=1)).date()
            spans = self.names.get(record.instrument, [])
            return next((found for day in days if (found := [n for start, end, n in spans if start <= day < end])), [])
        if len(symbols) == 1:
            return symbols
        if (name := str(record.instrument)) in symbols:
            return [name]
        raise ProviderError(Verdict.MALFORMED, "databento: does not say whose a record is")


class RefusalError(ProviderError):
    """A refusal in the vendor's `words`. `earliest`, `latest`: the range (to exclusive) that it would have answered, if named."""

    words = ""
    earliest: datetime | None = None
    latest: datetime | None = None


def parse_answer(reply: Reply, schema: str, now: datetime, *secrets: str) -> Answered:
    """Parse the records of a schema.

    Raises:
        ProviderError: a refusal, or something that cannot be read to its end.
    """
    if reply.status not in (200, 206):  # 206: some of the symbols mean nothing
        raise refused(reply, now, *secrets)
    body = _unpacked(reply.body) if reply.body[:4] == ZSTD else reply.body
    if body[:3] == b"DBN":
        return _from_dbn(body, schema)
    if body.lstrip()[:1] != b"{":
        raise error_for_status("databento", Reply(200, {}, body), now)
    if b'"detail"' in body[:200]:
        raise refused(Reply(reply.status, reply.headers, body), now, *secrets)
    return Answered([record for line in body.splitlines() if line.strip() for record in _from_line(line, KINDS[schema])])


def _unpacked(packed: bytes) -> bytes:
    """Return the content of all frames, one after the other."""
    unpacked, frame = bytearray(), zstandard.ZstdDecompressor().decompressobj()
    try:
        for i in range(0, len(packed), CHUNK):
            rest = packed[i : i + CHUNK]
            while rest:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                unpacked += frame.decompress(rest)
                rest = frame.unused_data
            if len(unpacked) > MAX_BYTES:
                raise _unreadable("is larger than we read")
    except zstandard.ZstdError:
        raise _unreadable("cannot be unpacked") from None
    if not frame.eof:
        raise _unreadable("breaks off")
    return bytes(unpacked)


def _from_dbn(body: bytes, schema: str) -> Answered:
    decoder = DBNDecoder()
    try:
        decoder.write(body)
        messages = decoder.decode()
    except DBNError:
        raise _unreadable("is not the binary encoding we know") from None
    if not messages or decoder.buffer():
        raise _unreadable("breaks off")
    metadata, kind = messages[0], KINDS[schema]
    if not isinstance(metadata, Metadata) or str(metadata.schema or schema) != schema:
        raise _unreadable(f"holds no {schema}")
    records = [record for message in messages[1:] for record in _from_message(message, kind)]
    names: dict[int, list[tuple[date, date, str]]] = defaultdict(list)
    for symbol, spans in metadata.mappings.items():
        for span in spans:
            if span["symbol"].isdecimal():  # an empty one: in this span the symbol means nothing
                names[int(span["symbol"])].append((span["start_date"], span["end_date"], symbol))
    known = {symbol for spans in names.values() for _, _, symbol in spans}
    unresolved = {symbol for symbol in metadata.symbols if known and symbol not in known}
    return Answered(records, dict(names), frozenset(metadata.not_found) - known | unresolved)


def _from_message(message: object, kind: int) -> Iterator[Record]:
    if isinstance(message, ErrorMsg):
        raise ProviderError(Verdict.SERVER_ERROR, "databento: broke off its answer with an error")
    if isinstance(message, OHLCVMsg) and int(message.rtype) == kind and (at := _instant(message.ts_event)):
        prices = tuple(map(_price, (message.open, message.high, message.low, message.close)))
        yield Record(message.instrument_id, message.publisher_id, at, prices, _volume(message.volume))
    elif isinstance(message, BBOMsg | CBBOMsg) and int(message.rtype) == kind and (at := _instant(message.ts_recv)):
        top = message.levels[0]
        yield Record(message.instrument_id, message.publisher_id, at, tuple(map(_price, (message.price, top.bid_px, top.ask_px))))


def _from_line(line: bytes, kind: int) -> Iterator[Record]:
    """Parse a record of a line of JSON: numbers may be texts, prices whole billionths, and instants nanoseconds or ISO texts."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unreadable("holds a line that is no record") from None
    nested = fields.get("hd")
    head = nested if isinstance(nested, dict) else fields
    if number(head.get("rtype", kind)) != kind:
        return
    levels = fields.get("levels")
    top = levels[0] if isinstance(levels, list) and levels and isinstance(levels[0], dict) else fields
    bar = "open" in fields
    at = _instant_in(head.get("ts_event") if bar else fields.get("ts_recv"))
    if at is None and not (bar or levels):
        raise _unreadable("holds a line that is no record")
    values = list(map(fields.get, BAR)) if bar else [fields.get("price"), *map(top.get, BOOK)]
    if at is not None:
        instrument, venue = int(number(head.get("instrument_id")) or 0), int(number(head.get("publisher_id")) or 0)
        symbol, volume = fields.get("symbol"), number(fields.get("volume"))
        volume = None if volume is None else _volume(volume)
        yield Record(instrument, venue, at, tuple(map(_price_in, values)), volume, str(symbol) if symbol else None)


def _price(billionths: int) -> float | None:
    return None if billionths == UNDEF_PRICE else billionths / SCALE


def _price_in(value: object) -> float | None:
    """Return a price with a point in it is meant as it stands, one without counts billionths."""
    text = str(value)
    if not text.removeprefix("-").isdecimal():
        return number(value)
    return _price(int(text)) if len(text) <= LONGEST_INTEGER else None


def _plain(symbol: str) -> str:
    return "".join(symbol.split()).upper()


def _volume(count: float) -> float | None:
    return None if count >= UNDEF_TIMESTAMP else float(count)


def _instant(nanoseconds: int) -> datetime | None:
    return None if nanoseconds in (0, UNDEF_TIMESTAMP) else EPOCH + timedelta(microseconds=nanoseconds // 1000)


def _instant_in(value: object) -> datetime | None:
    text = str(value)
    if not text.isdecimal():
        return instant_of(text)
    return _instant(int(text)) if len(text) <= LONGEST_INTEGER else None


def _unreadable(problem: str) -> ProviderError:
    return ProviderError(Verdict.MALFORMED, f"databento: the answer {problem}")


def consolidated(bars: Iterable[Record]) -> list[Bar]:
    """One bar an instant: all volume, the highest high, the lowest low, open and close of the busiest venue.

    A venue's record without a price is left out; of two of one venue the later counts.
    """
    instants: dict[datetime, dict[int, Record]] = defaultdict(dict)
    for bar in bars:
        if None not in bar.prices:
            instants[bar.at][bar.venue] = bar
    return [_whole(at, list(venues.values())) for at, venues in sorted(instants.items())]


def _whole(at: datetime, venues: Sequence[Record]) -> Bar:
    busiest = max(venues, key=lambda bar: bar.volume or 0.0)
    volumes = [bar.volume for bar in venues if bar.volume is not None]
    opened, _, _, closed = busiest.prices
    highs = [high for bar in venues if (high := bar.prices[1]) is not None]
    lows = [low for bar in venues if (low := bar.prices[2]) is not None]
    return Bar(at, opened, max(highs), min(lows), closed, sum(volumes) if volumes else None)


def top_of_book(books: Iterable[Record]) -> Quote | None:
    """Return the best bid and ask of the last minute in which a venue had either, and the last price known; None: nothing is."""
    last: Record | None = None
    sides: dict[datetime, list[Record]] = defaultdict(list)
    for book in books:
        if price(book.prices[0]) is not None and (last is None or book.at >= last.at):
            last = book
        if price(book.prices[1]) is not None or price(book.prices[2]) is not None:
            sides[book.at].append(book)
    if not sides:
        return Quote(at=last.at, price=last.prices[0]) if last else None
    at = max(sides)
    bids = [bid for book in sides[at] if (bid := price(book.prices[1])) is not None]
    asks = [ask for book in sides[at] if (ask := price(book.prices[2])) is not None]
    return Quote(at=at, price=last.prices[0] if last else None, bid=max(bids, default=None), ask=min(asks, default=None))


def last_trade(bars: Iterable[Record], length: timedelta, until: datetime) -> Quote | None:
    """Return the close of the last bar, as of the bar's end; None: there is none."""
    rows = [row for row in consolidated(bars) if price(row.close) is not None]
    return Quote(at=min(rows[-1].at + length, until), price=rows[-1].close) if rows else None


def refused(reply: Reply, now: datetime, *secrets: str) -> ProviderError:
    """Return the error that a reply stands for which brings no data."""
    document = decode_json(reply)
    detail = document.get("detail") if isinstance(document, dict) else None
    case, words, payload = _told(detail)
    if not words:
        return error_for_status("databento", reply, now)
    verdict = _verdict(reply.status, case, words.lower())
    hint = _HINTS.get(verdict)
    message = f"databento: {sanitize(words, *secrets)}" + (f" ({hint})" if hint else "")
    error = RefusalError(verdict, message, retry_after(reply, now))
    error.words = words
    until = _UNTIL.search(words)
    start = _FROM.search(words)
    error.earliest = instant_of(payload.get("available_start")) or (instant_of(start[1]) if start else None)
    error.latest = instant_of(payload.get("available_end")) or (instant_of(until[2]) if until else None)
    if error.latest is not None:
        # The bound of a licence moves on by the second: whole minutes keep a last bar from being a part of one.
        error.latest = error.latest.replace(second=0, microsecond=0)
    return error


def _told(detail: object) -> tuple[str, str, Mapping[str, object]]:
    """Case, message and payload of a `detail`, which may be a text, an object, or a list of what is wrong with each field."""
    if isinstance(detail, list):
        fields = (f"{each.get('loc')}: {each.get('msg')}" if isinstance(each, dict) else str(each) for each in detail)
        return "", "; ".join(fields), {}
    if isinstance(detail, dict):
        payload = detail.get("payload")
        case = str(detail.get("case") or "")
        return case, str(detail.get("message") or case), payload if isinstance(payload, dict) else {}
    return "", detail if isinstance(detail, str) else "", {}


def _verdict(status: int, case: str, words: str) -> Verdict:
    if status == 429:
        return Verdict.RATE_LIMITED
    if status >= 500 or status == 408:
        return Verdict.SERVER_ERROR
    if status == 401 or case.startswith("auth_") or (status == 403 and ("authenticat" in words or "api key" in words)):
        return Verdict.UNAUTHORIZED
    # No funds is no dead key either: what a subscription covers still comes.
    if status in (402, 403) or case == "dataset_unavailable_range" or case.startswith(("license_", "account_", "subscription_")):
        return Verdict.PLAN_RESTRICTED
    if status == 404 or case.startswith("symbology_") or "could not resolve" in words or "could be resolved" in words:
        return Verdict.NOT_FOUND
    if case == _NO_DATA_YET:
        return Verdict.EMPTY
    return Verdict.BAD_REQUEST if 400 <= status < 500 else Verdict.MALFORMED
