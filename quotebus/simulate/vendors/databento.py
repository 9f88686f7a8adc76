"""Databento, played: bars, and best bids and offers, in its binary encoding; what names of symbols mean in a range."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, SupportsBytes

import databento_dbn as dbn
import zstandard
from databento_dbn.metadata import MappingInterval

from contracts.message import Timeframe
from quotebus.simulate.market import SimulatedMarket
from quotebus.simulate.vendor import Reason, RefusedError, Vendor, VendorRequest, iso, reply, seconds
from services.fetcher.adapter.events import Contract
from services.fetcher.provider import Reply

BARS: dict[str, tuple[int, Timeframe]] = {"ohlcv-1m": (33, "1m"), "ohlcv-1h": (34, "1h"), "ohlcv-1d": (35, "1d")}
VENUE, CONSOLIDATED = 95, 30
DELAY = timedelta(minutes=15)  # of what a key without a live licence may see
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LATE = "data_end_after_available_end"
NO_SIDE = dbn.Side.from_str("N")
# Their stubs want a list of levels, which they do not take.
_Book: Any = dbn.BBOMsg
_OptionBook: Any = dbn.CBBOMsg
Span = tuple[datetime, datetime]


@dataclass
class Meaning:
    """From a day until before another, a symbol means this instrument."""

    start_date: date
    end_date: date
    symbol: str


@dataclass
class Mapped:
    """All that a symbol means."""

    raw_symbol: str
    intervals: Sequence[MappingInterval]


def get_range(ask: VendorRequest) -> object:
    """The records of a schema; a range that ends too late is refused with the bound."""
    symbols, schema = ask.symbols("symbols"), ask.fields["schema"]
    start, end = (datetime.fromisoformat(ask.fields[name]).astimezone(UTC) for name in ("start", "end"))
    available = (ask.now - DELAY).replace(second=0, microsecond=0)
    if end > available:
        raise RefusedError(Reason.BAD_REQUEST, LATE, available)
    known = [ask.known(symbol) for symbol in symbols if not ask.market.is_dead(symbol)]
    if not known:
        raise RefusedError(Reason.UNKNOWN, ask.fields["symbols"])
    if ask.fields.get("stype_in") == "parent":
        names, records = _options(known, start, end)
    else:
        names = {symbol: number for number, symbol in enumerate(known, 1)}
        tell = _bars if schema in BARS else _books
        records = [record for symbol, number in names.items() for record in tell(ask, symbol, number, (start, end))]
    missing = [symbol for symbol in symbols if symbol not in known]
    days = start.date(), (end + DAY).date()
    metadata = _metadata(ask, names, missing, days)
    packed = zstandard.compress(bytes(metadata) + b"".join(bytes(record) for record in records))
    return reply(packed, 206 if missing else 200, "application/octet-stream")


def _metadata(ask: VendorRequest, names: Mapping[str, int], missing: Sequence[str], days: tuple[date, date]) -> dbn.Metadata:
    return dbn.Metadata(
        dataset=ask.fields["dataset"],
        start=0,
        end=1,
        stype_in=dbn.SType.from_str(ask.fields.get("stype_in", "raw_symbol")),
        stype_out=dbn.SType.from_str("instrument_id"),
        schema=dbn.Schema.from_str(ask.fields["schema"]),
        symbols=[*names, *missing],
        not_found=list(missing),
        mappings=[Mapped(name, [Meaning(*days, str(number))]) for name, number in names.items()],
        version=3,
    )


def _bars(ask: VendorRequest, symbol: str, number: int, span: Span) -> list[SupportsBytes]:
    kind, timeframe = BARS[ask.fields["schema"]]
    # Nothing is known of what came after the end of the range.
    market = SimulatedMarket(span[1], ask.market.seed)
    bars = market.bars(symbol, timeframe, span[0].date(), span[1].date())
    told = [bar for bar in bars if span[0] <= bar.at < span[1]]
    prices = [{name: _billionths(value) for name, value in bar.prices.items()} for bar in told]
    return [
        dbn.OHLCVMsg(kind, VENUE, number, seconds(bar.at) * 10**9, **price, volume=int(bar.volume))
        for bar, price in zip(told, prices, strict=True)
    ]


def _books(ask: VendorRequest, symbol: str, number: int, span: Span) -> list[SupportsBytes]:
    """The state at the end of the last minute with a trade."""
    spot = SimulatedMarket(span[1] - MINUTE, ask.market.seed).quote(symbol)
    if spot.at is None or spot.at < span[0]:
        return []
    levels = dbn.BidAskPair(_billionths(spot.bid), _billionths(spot.ask), 1, 1, 1, 1)
    stamp = seconds(span[1] - MINUTE) * 10**9
    return [_Book(196, VENUE, number, stamp, _billionths(spot.price), 1, NO_SIDE, stamp, levels=levels)]


def _options(parents: Sequence[str], start: datetime, end: datetime) -> tuple[dict[str, int], list[SupportsBytes]]:
    root = parents[0].removesuffix(".OPT")
    market = SimulatedMarket(end - MINUTE)
    at = market.quote(root).at
    if at is None or at < start:
        raise RefusedError(Reason.UNKNOWN, parents[0])
    contracts = market.chain(root)
    names = {f"{row.contract[:-15]:<6}{row.contract[-15:]}": number for number, row in enumerate(contracts, 1)}
    stamp = seconds(end - MINUTE) * 10**9
    return names, [_option(row, number, stamp) for number, row in enumerate(contracts, 1)]


def _option(row: Contract, number: int, stamp: int) -> SupportsBytes:
    """Undefined prices where there is no quote."""
    levels = dbn.ConsolidatedBidAskPair(_billionths(row.bid), _billionths(row.ask), 1, 1, CONSOLIDATED, CONSOLIDATED)
    book: SupportsBytes = _OptionBook(193, CONSOLIDATED, number, stamp, _billionths(row.last), 1, NO_SIDE, stamp, levels=levels)
    return book


def resolve(ask: VendorRequest) -> object:
    """The instrument of each symbol that is known."""
    first, last = ask.fields["start_date"], ask.fields["end_date"]
    known = {s: [] if ask.market.is_dead(s) else [{"d0": first, "d1": last, "s": "1"}] for s in ask.symbols("symbols")}
    return {"result": known, "status": 0}


def _billionths(price: float | None) -> int:
    return dbn.UNDEF_PRICE if price is None else round(price * 10**9)


def key_in(ask: VendorRequest) -> str:
    """The user's name of HTTP Basic."""
    encoded = ask.headers.get("authorization", "").removeprefix("Basic ")
    return b64decode(encoded).decode().removesuffix(":") if encoded else ""


def refused(error: RefusedError) -> Reply:
    """A case with its words; who asks too often learns when it may again."""
    status, case, words = {
        Reason.UNKNOWN: (422, "symbology_invalid_request", "Nothing of this could be resolved"),
        Reason.PAID: (403, "license_not_found_unauthorized", "A license is required"),
        Reason.THROTTLED: (429, "rate_limited", "Too many requests"),
        Reason.NO_KEY: (401, "auth_authentication_failed", "No authentication"),
        Reason.WRONG_KEY: (401, "auth_authentication_failed", "Authentication failed"),
        Reason.BAD_REQUEST: (422, error.about, "The request is not valid"),
    }.get(error.why, (404, "not_found", "No such method"))
    payload = {"available_end": iso(error.again_at)} if error.about == LATE else None
    detail = {"case": case, "message": words, "status_code": status, "payload": payload}
    return reply({"detail": detail}, status, **({"retry_after": "1"} if status == 429 else {}))


VENDOR = Vendor(
    name="databento",
    routes={"POST /v0/timeseries.get_range": get_range, "POST /v0/symbology.resolve": resolve},
    refused=refused,
    key_in=key_in,
)
