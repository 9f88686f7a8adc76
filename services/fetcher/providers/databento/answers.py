"""What Databento answers: records in its binary encoding (DBN) or as lines of JSON, compressed or not, and whose they are."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import NamedTuple

import msgspec
import zstandard
from databento_dbn import UNDEF_PRICE, UNDEF_TIMESTAMP, BBOMsg, CBBOMsg, DBNDecoder, DBNError, ErrorMsg, Metadata, OHLCVMsg

from services.fetcher.adapter.fields import EPOCH, instant_of, number
from services.fetcher.adapter.responses import error_for_status
from services.fetcher.provider import ProviderError, Reply, Verdict
from services.fetcher.providers.databento.refusals import refused

KINDS = {"ohlcv-1m": 33, "ohlcv-1h": 34, "ohlcv-1d": 35, "bbo-1m": 196, "cbbo-1m": 193}
ZSTD = b"\x28\xb5\x2f\xfd"
MOST_BYTES = 256 * 1024 * 1024  # unpacked; a request is made so small that it never comes near
CHUNK = 64 * 1024
SCALE = 1_000_000_000
LONGEST_INTEGER = 20  # digits of 64 bits, with a sign
BAR, BOOK = ("open", "high", "low", "close"), ("bid_px", "ask_px")


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

    def by_symbol(self, asked: Iterable[str]) -> dict[str, list[Record]]:
        """The records of each asked symbol; see `names_of`."""
        symbols = list(asked)
        found: dict[str, list[Record]] = {symbol: [] for symbol in symbols}
        lists = {_plain(symbol): records for symbol, records in found.items()}
        for record in self.records:
            for name in self.names_of(record, symbols):
                if (records := found.get(name, lists.get(_plain(name)))) is not None:
                    records.append(record)
        return found

    def knows(self, symbol: str) -> bool:
        """Whether an asked symbol means something in the range."""
        return symbol not in self.unknown and _plain(symbol) not in map(_plain, self.unknown)

    def names_of(self, record: Record, symbols: list[str]) -> list[str]:
        """The symbols that a record is of, of those asked.

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


def parse_answer(reply: Reply, schema: str, now: datetime, *secrets: str) -> Answered:
    """The records of a schema.

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
    """The content of all frames, one after the other."""
    unpacked, frame = bytearray(), zstandard.ZstdDecompressor().decompressobj()
    try:
        for i in range(0, len(packed), CHUNK):
            rest = packed[i : i + CHUNK]
            while rest:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                unpacked += frame.decompress(rest)
                rest = frame.unused_data
            if len(unpacked) > MOST_BYTES:
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
    """The record in a line of JSON, whose numbers may be texts, prices whole billionths and instants nanoseconds or ISO texts."""
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
    """A price with a point in it is meant as it stands, one without counts billionths."""
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
