"""A price document: one symbol's prices as Redis holds them and the gateway serves them, columnar JSON, plain or zstd.

A document ends with what tells which of two is kept: `"real":1,"as_of":"2026-01-02T15:04:05.000000Z"}`. Compared as text, real
prices come after made-up ones, and of two alike the newer comes later. A compressed document carries the same ending in a
skippable frame after the data, which every zstd reader passes over; the one there is the newer of the two.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

import msgspec
import zstandard

from contracts.datasets import DOCUMENT_TTL_S
from contracts.price_events import BAR_COLUMN_NAMES, BAR_COLUMNS, BarColumn
from services.runtime.settings import RedisSettings

SYNTHETIC = "synthetic"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x50\x2a\x4d\x18"
_MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
_encoder = msgspec.json.Encoder()
# 1,"as_of":"2026-01-02T15:04:05.000000Z"} at the end of every document: of two under one key, the greater is kept.
VERSION_SUFFIX_BYTES = 40


class PriceDocument(msgspec.Struct, kw_only=True):
    """Head of every price document. `real`: 0 for a made-up market. `as_of`: the newest observation it holds."""

    symbol: str
    provider: str
    currency: str | None


class BarsDocument(PriceDocument, kw_only=True):
    """The newest bars of one series, oldest first. `columns`: `at`, then each of BAR_COLUMNS, then `final`."""

    timeframe: str
    columns: Mapping[str, Sequence[Any]]
    basis: str
    feed: str
    real: Literal[0, 1]
    as_of: str

    def flat(self) -> dict[str, object]:
        """The document as it is written: its columns are members like the others."""
        fields = msgspec.structs.asdict(self)
        return {name: fields[name] for name in _BARS_HEAD} | dict(self.columns) | {name: fields[name] for name in _BARS_END}


_BARS_HEAD, _BARS_END = ("symbol", "provider", "currency", "timeframe"), ("basis", "feed", "real", "as_of")


def column_type(column: BarColumn) -> Any:
    """The type of a column in a document."""
    value: Any = int if column.type == "int8" else float
    return list[value | None] if column.nullable else list[value]


# A document of bars as it is written: what readers are told of it.
WrittenBars = msgspec.defstruct(
    "BarsDocument",
    [
        ("timeframe", str),
        ("at", list[datetime]),
        *((column.name, column_type(column)) for column in BAR_COLUMNS),
        ("final", list[bool]),
        *((name, BarsDocument.__annotations__[name]) for name in _BARS_END),
    ],
    bases=(PriceDocument,),
    namespace={"__doc__": "The newest bars of one series, oldest first."},
    kw_only=True,
)


class QuoteDocument(PriceDocument, kw_only=True):
    """The price of now."""

    at: datetime | None
    price: float | None
    bid: float | None
    ask: float | None
    previous_close: float | None
    volume: float | None
    feed: str
    real: Literal[0, 1]
    as_of: str


class ChainDocument(PriceDocument, kw_only=True):
    """An option chain, one row a contract, by expiry, strike and right. `symbol` is the underlying."""

    contract: list[str]
    expiry: list[str]
    strike: list[float]
    right: list[str]
    bid: list[float | None]
    ask: list[float | None]
    last: list[float | None]
    mark: list[float | None]
    volume: list[float | None]
    open_interest: list[float | None]
    iv: list[float | None]
    delta: list[float | None]
    gamma: list[float | None]
    theta: list[float | None]
    vega: list[float | None]
    at: list[datetime | None]
    feed: str
    real: Literal[0, 1]
    as_of: str


class IvDocument(PriceDocument, kw_only=True):
    """Implied volatility as the newest option chain tells it; the columns are its expirations. `symbol` is the underlying."""

    chain_provider: str | None
    at: datetime | None
    iv_30d: float | None
    skew_25d: float | None
    iv_rank: float | None
    iv_percentile: float | None
    history_days: int
    expiry: list[date]
    forward: list[float | None]
    iv: list[float | None]
    contracts: list[int]
    feed: str
    real: Literal[0, 1]
    as_of: str


Document = BarsDocument | QuoteDocument | ChainDocument | IvDocument
# The documents of each dataset that has any.
DOCUMENTS: Mapping[str, type[Document]] = {"bars": BarsDocument, "quote": QuoteDocument, "chain": ChainDocument, "iv": IvDocument}
_DATASETS = {kind: dataset for dataset, kind in DOCUMENTS.items()}


def document_key(settings: RedisSettings, document: Document) -> str:
    """Redis key of a document."""
    if isinstance(document, BarsDocument):
        return bars_key(settings, document.symbol, document.timeframe)
    return dataset_key(settings, _DATASETS[type(document)], document.symbol)


def bars_key(settings: RedisSettings, symbol: str, timeframe: str) -> str:
    """Redis key of the bars of a symbol."""
    return f"{settings.prefix}:price:{symbol}:{timeframe}:{settings.lookback}"


def dataset_key(settings: RedisSettings, dataset: str, symbol: str) -> str:
    """Redis key of a symbol's quote, chain or implied volatility."""
    return f"{settings.prefix}:{dataset}:{symbol}"


def ttl_s(settings: RedisSettings, kind: str) -> int:
    """Time to live in seconds of a document of this timeframe or dataset in Redis."""
    return settings.ttl_s.get(kind, DOCUMENT_TTL_S[kind])


def document_kind(document: Document) -> str:
    """The timeframe of bars, else the dataset."""
    if isinstance(document, BarsDocument):
        return document.timeframe
    return _DATASETS[type(document)]


def as_of_text(instant: datetime) -> str:
    """The instant in the fixed width that makes two of them compare as text."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def is_real_flag(feed: str) -> Literal[0, 1]:
    """0 for a made-up market's feed, else 1."""
    return 0 if feed == SYNTHETIC else 1


def version_suffix(basis: str, feed: str, as_of: datetime) -> bytes:
    """The end of a document of bars, which says which series it shows and as of when."""
    return b'"basis":' + _encoder.encode(basis) + b',"feed":' + _encoder.encode(feed) + _end(feed, as_of)


def _end(feed: str, as_of: datetime) -> bytes:
    return f',"real":{is_real_flag(feed)},"as_of":"{as_of_text(as_of)}"}}'.encode()


def encode_document(document: Document, *, compress: bool) -> bytes:
    """The document as Redis holds it."""
    body = _encoder.encode(document.flat() if isinstance(document, BarsDocument) else document)
    if not compress:
        return body
    end = body[body.rindex(b'"basis":' if isinstance(document, BarsDocument) else b'"real":') :]
    return zstandard.ZstdCompressor(level=1).compress(body) + _SKIPPABLE_MAGIC + len(end).to_bytes(4, "little") + end


def decode_bars(body: bytes) -> BarsDocument:
    """The bars of a document's JSON; a column that an older version did not write is null throughout.

    Raises:
        msgspec.MsgspecError: it is no document of bars.
    """
    fields: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    nothing = [None] * len(fields.get("at", ()))
    optional = {column.name: nothing for column in BAR_COLUMNS if column.optional}
    written = msgspec.structs.asdict(msgspec.convert(optional | fields, WrittenBars))
    columns = {name: written.pop(name) for name in ("at", *BAR_COLUMN_NAMES, "final")}
    return BarsDocument(**written, columns=columns)


def document_json(value: bytes) -> bytes:
    """The JSON of a document as Redis holds it, whether compressed or not.

    Raises:
        zstandard.ZstdError: the value is no document.
    """
    if not value.startswith(_ZSTD_MAGIC):
        return value
    body = zstandard.ZstdDecompressor().decompress(value, max_output_size=_MAX_DOCUMENT_BYTES)
    # The ending outside may be newer: a refresh that changed nothing writes only there.
    _, frame, end = value.rpartition(_SKIPPABLE_MAGIC)
    return body[: len(body) - len(end[4:])] + end[4:] if frame else body
