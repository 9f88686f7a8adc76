import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import databento_dbn as dbn
import pytest
import zstandard

from contracts.message import Timeframe
from contracts.price_events import PriceBars, PriceChain, PriceQuote
from services.fetcher.provider import Answer, Credentials, FetchCall, ProviderError, Reply, Verdict
from services.fetcher.providers.databento import Databento
from tests.fetcher.fake_vendor import FakeVendor, reply

KEY = "db-CANARY7F3A"
NOW = datetime(2024, 3, 15, 18, 0, 30, tzinfo=UTC)
KINDS = {"ohlcv-1s": 32, "ohlcv-1m": 33, "ohlcv-1h": 34, "ohlcv-1d": 35, "bbo-1m": 196, "cbbo-1m": 193}
DAY = FetchCall("bars", ("ACME",), "1d", date(2024, 3, 1), date(2024, 3, 15))
HOURS = FetchCall("bars", ("ACME",), "1h", date(2024, 3, 15), date(2024, 3, 16))
NOT_RESOLVED = "None of the symbols could be resolved"


@dataclass
class Span:
    start_date: date
    end_date: date
    symbol: str


@dataclass
class Mapped:
    raw_symbol: str
    intervals: Sequence[Span]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def bar(
    schema: str, start: str, price: float, volume: int = 10, *, instrument: int = 7, venue: int = 95, **prices: int
) -> dbn.OHLCVMsg:
    whole = {name: prices.get(name, int(price * 10**9)) for name in ("open", "high", "low", "close")}
    return dbn.OHLCVMsg(KINDS[schema], venue, instrument, ns(at(start)), **whole, volume=volume)


def book(minute: str, last: float | None, bid: float | None, ask: float | None, venue: int = 95, instrument: int = 7) -> dbn.BBOMsg:
    price, *sides = (dbn.UNDEF_PRICE if value is None else int(value * 10**9) for value in (last, bid, ask))
    levels = dbn.BidAskPair(sides[0], sides[1], 1, 1, 1, 1)
    side = dbn.Side.NONE
    return dbn.BBOMsg(196, venue, instrument, dbn.UNDEF_TIMESTAMP, price, 0, side, ns(at(minute)), levels=levels)


def stream(
    schema: str,
    *records: Any,
    names: Mapping[str, Sequence[Span]] | None = None,
    not_found: Sequence[str] = (),
    version: int = 3,
) -> bytes:
    mapped = names if names is not None else {"ACME": [Span(date(2023, 1, 1), date(2025, 1, 1), "7")]}
    metadata = dbn.Metadata(
        dataset="EQUS.MINI",
        start=0,
        stype_in=dbn.SType.RAW_SYMBOL,
        stype_out=dbn.SType.INSTRUMENT_ID,
        schema=dbn.Schema.from_str(schema),
        symbols=[*mapped, *not_found],
        not_found=list(not_found),
        mappings=[Mapped(symbol, spans) for symbol, spans in mapped.items()],
        end=1,
        version=version,
    )
    return bytes(metadata) + b"".join(bytes(record) for record in records)


def packed(content: bytes, frames: int = 1) -> Reply:
    size = -(-len(content) // frames)
    return reply(b"".join(zstandard.compress(content[i : i + size]) for i in range(0, len(content), size)))


def refusal(case: str, message: str = "No.", status: int = 422, **payload: str) -> Reply:
    detail = {"case": case, "message": message, "status_code": status, "docs": "https://example.com", "payload": payload or None}
    return reply({"detail": detail}, status)


def provider(dataset: str = "") -> Databento:
    return Databento(Credentials(api_key=KEY, dataset=dataset))


async def fetched(call: FetchCall, *answers: object, dataset: str = "", now: datetime = NOW) -> tuple[Answer, FakeVendor]:
    vendor = FakeVendor(*answers)
    return await provider(dataset).fetch(call, vendor, now), vendor


async def bars(call: FetchCall, *answers: object, dataset: str = "", now: datetime = NOW) -> PriceBars:
    answer, _ = await fetched(call, *answers, dataset=dataset, now=now)
    assert not answer.failed
    (event,) = answer.events
    assert isinstance(event, PriceBars)
    return event


async def quotes(call: FetchCall, *answers: object) -> tuple[list[PriceQuote], Answer, FakeVendor]:
    answer, vendor = await fetched(call, *answers)
    return [event for event in answer.events if isinstance(event, PriceQuote)], answer, vendor


async def error_of(call: FetchCall, *answers: object) -> ProviderError:
    try:
        answer, _ = await fetched(call, *answers)
    except ProviderError as error:
        return error
    assert not answer.events
    return next(iter(answer.failed.values()))


async def test_the_key_is_the_user_of_basic_authorisation_and_the_range_is_asked_to_the_second() -> None:
    _, vendor = await fetched(DAY, packed(stream("ohlcv-1d")))
    (asked,) = vendor.asked
    assert (asked.method, asked.path) == ("POST", "/v0/timeseries.get_range")
    assert asked.headers["Authorization"] == "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()
    assert asked.params == {
        "dataset": "EQUS.MINI",
        "symbols": "ACME",
        "stype_in": "raw_symbol",
        "stype_out": "instrument_id",
        "schema": "ohlcv-1d",
        "start": "2024-03-01T00:00:00Z",
        "end": "2024-03-15T00:00:00Z",
        "encoding": "dbn",
        "compression": "zstd",
    }


@pytest.mark.parametrize(
    ("symbol", "setting", "dataset", "kind", "spelling"),
    [
        ("BRK.B", "", "EQUS.MINI", "raw_symbol", "BRK.B"),
        ("ACME", "xnas.itch", "XNAS.ITCH", "raw_symbol", "ACME"),
        ("ESH4", "", "GLBX.MDP3", "raw_symbol", "ESH4"),
        ("ES.C.0", "", "GLBX.MDP3", "continuous", "ES.c.0"),
        ("VX.n.1", "XCBF.PITCH", "XCBF.PITCH", "continuous", "VX.n.1"),
        ("5482", "GLBX.MDP3", "GLBX.MDP3", "instrument_id", "5482"),
        ("AAPL250221C00250000", "", "OPRA.PILLAR", "raw_symbol", "AAPL  250221C00250000"),
        ("O:SPXW250221P05000000", "XNAS.ITCH", "OPRA.PILLAR", "raw_symbol", "SPXW  250221P05000000"),
        ("AAPL1 250221C00250000", "OPRA.PILLAR", "OPRA.PILLAR", "raw_symbol", "AAPL1 250221C00250000"),
    ],
)
async def test_a_symbol_tells_its_kind_and_where_it_is_sold(
    symbol: str, setting: str, dataset: str, kind: str, spelling: str
) -> None:
    answer, vendor = await fetched(FetchCall("bars", (symbol,), "1d"), reply({}), dataset=setting)
    assert answer.failed[symbol].verdict is Verdict.MALFORMED
    asked = vendor.asked[0].params
    assert (asked["dataset"], asked["stype_in"], asked["symbols"]) == (dataset, kind, spelling)


@pytest.mark.parametrize("symbol", ["ES.FUT", "AAPL.OPT", "ALL_SYMBOLS", "A,B"])
async def test_what_names_many_instruments_is_refused_before_it_is_billed(symbol: str) -> None:
    answer, vendor = await fetched(FetchCall("bars", (symbol, "ACME"), "1d"), packed(stream("ohlcv-1d")))
    assert answer.failed[symbol].verdict is Verdict.BAD_REQUEST
    assert [request.params["symbols"] for request in vendor.asked] == ["ACME"]


async def test_symbols_of_a_data_set_share_a_request_and_those_of_another_kind_have_their_own() -> None:
    call = FetchCall("bars", ("ACME", "ES.c.0", "BOLT", "ESH4"), "1d")
    _, vendor = await fetched(call, packed(stream("ohlcv-1d")))
    assert [request.params["symbols"] for request in vendor.asked] == ["ACME,BOLT", "ES.c.0", "ESH4"]


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 3])
async def test_every_version_of_the_encoding_is_read_in_one_frame_or_several(version: int, frames: int) -> None:
    content = stream("ohlcv-1d", bar("ohlcv-1d", "2024-03-13", 20.5), bar("ohlcv-1d", "2024-03-14", 21.25), version=version)
    event = await bars(DAY, packed(content, frames))
    assert (event.at, event.close, event.volume) == ([at("2024-03-13"), at("2024-03-14")], [20.5, 21.25], [10, 10])
    assert (event.currency, event.feed, event.basis, event.final) == ("USD", "venue", "raw", [True, True])


async def test_an_answer_that_is_not_packed_is_read_too() -> None:
    event = await bars(DAY, reply(stream("ohlcv-1d", bar("ohlcv-1d", "2024-03-13", 20.5))))
    assert event.close == [20.5]


@pytest.mark.parametrize("cut", [1, 30, 50])
async def test_an_answer_that_breaks_off_is_malformed_and_never_half_a_series(cut: int) -> None:
    content = stream("ohlcv-1d", bar("ohlcv-1d", "2024-03-13", 20.5), bar("ohlcv-1d", "2024-03-14", 21.25))
    for torn in (reply(content[:-cut]), reply(packed(content, 2).body[:-cut]), packed(content[:-cut])):
        assert (await error_of(DAY, torn)).verdict is Verdict.MALFORMED


async def test_undefined_values_are_unknown_and_never_prices() -> None:
    content = stream(
        "ohlcv-1d",
        bar("ohlcv-1d", "2024-03-12", 20.5, close=dbn.UNDEF_PRICE),
        bar("ohlcv-1d", "2024-03-13", 20.5, volume=dbn.UNDEF_TIMESTAMP),
        dbn.OHLCVMsg(35, 95, 7, dbn.UNDEF_TIMESTAMP, 1, 1, 1, 1, 1),
    )
    event = await bars(DAY, packed(content))
    assert (event.at, event.volume) == ([at("2024-03-13")], [None])


async def test_several_venues_make_one_bar_with_the_busiest_ones_open_and_close() -> None:
    first = bar("ohlcv-1h", "2024-03-15 14:00", 2.0, 100, venue=20, low=1_500_000_000)
    busiest = bar("ohlcv-1h", "2024-03-15 14:00", 2.25, 700, venue=22, high=2_500_000_000, close=2_125_000_000)
    dead = bar("ohlcv-1h", "2024-03-15 14:00", 9.0, 5000, venue=23, close=dbn.UNDEF_PRICE)
    repeated = bar("ohlcv-1h", "2024-03-15 14:00", 2.0, 120, venue=20, low=1_500_000_000)
    event = await bars(HOURS, packed(stream("ohlcv-1h", first, busiest, dead, repeated)))
    assert (event.open, event.high, event.low, event.close, event.volume) == ([2.25], [2.5], [1.5], [2.125], [820])


async def test_an_instrument_id_means_what_it_meant_that_day() -> None:
    names = {
        "ACME": [Span(date(2024, 3, 1), date(2024, 3, 13), "7"), Span(date(2024, 3, 13), date(2024, 3, 15), "8")],
        "BOLT": [Span(date(2024, 3, 1), date(2024, 3, 13), "8"), Span(date(2024, 3, 13), date(2024, 3, 15), "")],
    }
    records = [
        bar("ohlcv-1d", "2024-03-12", 10, instrument=7),
        bar("ohlcv-1d", "2024-03-12", 50, instrument=8),
        bar("ohlcv-1d", "2024-03-13", 11, instrument=8),
        bar("ohlcv-1d", "2024-03-14", 99, instrument=7),
    ]
    call = FetchCall("bars", ("ACME", "BOLT"), "1d", DAY.start, DAY.end)
    answer, _ = await fetched(call, packed(stream("ohlcv-1d", *records, names=names)))
    assert {e.symbol: e.close for e in answer.events if isinstance(e, PriceBars)} == {"ACME": [10, 11], "BOLT": [50]}


async def test_two_symbols_of_one_instrument_both_get_its_bars() -> None:
    span = [Span(date(2024, 3, 1), date(2024, 3, 15), "7")]
    call = FetchCall("bars", ("ES.c.0", "ES.v.0"), "1d", DAY.start, DAY.end)
    content = stream("ohlcv-1d", bar("ohlcv-1d", "2024-03-12", 10), names={"ES.c.0": span, "ES.v.0": span})
    answer, _ = await fetched(call, packed(content))
    assert [(e.symbol, e.close, e.currency, e.feed) for e in answer.events if isinstance(e, PriceBars)] == [
        ("ES.c.0", [10], None, "consolidated"),
        ("ES.v.0", [10], None, "consolidated"),
    ]


@pytest.mark.parametrize("status", [200, 206])
async def test_an_unknown_symbol_among_others_is_not_found_and_one_without_trades_is_empty(status: int) -> None:
    span = [Span(date(2024, 3, 1), date(2024, 3, 15), "8")]
    names = {"ACME": [Span(date(2024, 3, 1), date(2024, 3, 15), "7")], "QUIET": span, "GONE": [Span(*(date(2024, 3, 1),) * 2, "")]}
    content = stream("ohlcv-1d", bar("ohlcv-1d", "2024-03-12", 10), names=names, not_found=["NOSUCH"])
    call = FetchCall("bars", ("NOSUCH", "ACME", "QUIET", "GONE"), "1d", DAY.start, DAY.end)
    answer, _ = await fetched(call, Reply(status, {}, packed(content).body))
    assert {e.symbol: e.close for e in answer.events if isinstance(e, PriceBars)} == {"ACME": [10], "QUIET": []}
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == dict.fromkeys(
        ("NOSUCH", "GONE"), Verdict.NOT_FOUND
    )


async def test_a_symbol_that_spoils_the_request_for_all_is_left_out_of_the_next() -> None:
    call = FetchCall("bars", ("ES.c.0", "XX.c.0"), "1d", DAY.start, DAY.end)
    content = stream(
        "ohlcv-1d", bar("ohlcv-1d", "2024-03-12", 10), names={"ES.c.0": [Span(date(2024, 3, 1), date(2024, 3, 15), "7")]}
    )
    spoilt = refusal("symbology_invalid_request", "Could not resolve smart symbols: XX.c.0")
    answer, vendor = await fetched(call, spoilt, packed(content))
    assert [request.params["symbols"] for request in vendor.asked] == ["ES.c.0,XX.c.0", "ES.c.0"]
    assert [event.symbol for event in answer.events] == ["ES.c.0"]
    assert answer.failed["XX.c.0"].verdict is Verdict.NOT_FOUND


async def test_on_closed_days_a_known_symbol_is_empty_and_an_unknown_one_is_not_found() -> None:
    call = FetchCall("bars", ("ACME", "NOSUCH"), "1d", date(2024, 3, 9), date(2024, 3, 11))
    resolved = reply({"result": {"ACME": [{"d0": "2024-02-28", "d1": "2024-03-09", "s": "7"}], "NOSUCH": []}, "status": 1}, 206)
    answer, vendor = await fetched(call, refusal("symbology_invalid_request", NOT_RESOLVED), resolved)
    assert [request.path for request in vendor.asked] == ["/v0/timeseries.get_range", "/v0/symbology.resolve"]
    assert vendor.asked[1].params["start_date"] < "2024-03-01" < vendor.asked[1].params["end_date"]
    assert [(e.symbol, e.close) for e in answer.events if isinstance(e, PriceBars)] == [("ACME", [])]
    assert answer.failed["NOSUCH"].verdict is Verdict.NOT_FOUND


async def test_records_of_another_schema_are_malformed() -> None:
    assert (await error_of(DAY, packed(stream("ohlcv-1s", bar("ohlcv-1s", "2024-03-12", 10))))).verdict is Verdict.MALFORMED


PRETTY = (
    '{"hd":{"ts_event":"2024-03-13T00:00:00.000000000Z","rtype":35,"publisher_id":2,"instrument_id":7},"open":"20.500000000",'
    '"high":"21.000000000","low":"20.000000000","close":"20.750000000","volume":"300","symbol":"ACME"}'
)
RAW = (
    '{"hd":{"ts_event":"1710374400000000000","rtype":35,"publisher_id":2,"instrument_id":7},"open":"20750000000",'
    '"high":"22000000000","low":"20750000000","close":"21500000000","volume":"400"}'
)
UNKNOWN = (
    '{"hd":{"ts_event":"1710374400000000000","rtype":35,"publisher_id":2,"instrument_id":7},"open":null,"high":null,"low":null,'
    '"close":null,"volume":"0"}'
)
HEARTBEAT = '{"hd":{"ts_event":"1710374400000000000","rtype":23,"publisher_id":0,"instrument_id":0},"msg":"Heartbeat"}'


async def test_lines_of_json_are_read_with_pretty_prices_and_without() -> None:
    event = await bars(DAY, reply("\n".join((PRETTY, UNKNOWN, HEARTBEAT, RAW)) + "\n"))
    assert (event.at, event.open, event.close) == ([at("2024-03-13"), at("2024-03-14")], [20.5, 20.75], [20.75, 21.5])
    assert event.volume == [300, 400]


async def test_pretty_prices_may_come_with_raw_instants_and_lines_without_a_nested_header() -> None:
    flat = '{"ts_event":"1710374400000000000","rtype":35,"open":"7.25","high":"7.25","low":"7.25","close":"7.25","volume":"1"}'
    event = await bars(DAY, reply(flat))
    assert (event.at, event.close) == ([at("2024-03-14")], [7.25])


@pytest.mark.parametrize("lines", [PRETTY + "\n" + RAW[:80], '{"ok": true}', PRETTY + "\n[1]"])
async def test_a_line_that_is_no_record_is_malformed(lines: str) -> None:
    assert (await error_of(DAY, reply(lines))).verdict is Verdict.MALFORMED


async def test_lines_that_do_not_say_whose_they_are_are_malformed_when_several_symbols_were_asked() -> None:
    call = FetchCall("bars", ("ACME", "BOLT"), "1d", DAY.start, DAY.end)
    assert (await error_of(call, reply(RAW))).verdict is Verdict.MALFORMED
    answer, _ = await fetched(call, reply(PRETTY))
    assert {e.symbol: e.close for e in answer.events if isinstance(e, PriceBars)} == {"ACME": [20.75], "BOLT": []}


BOUNDS = {
    "the end of the data": refusal(
        "data_end_after_available_end",
        available_start="2018-05-01T00:00:00.000000000Z",
        available_end="2024-03-15T15:00:00.000000000Z",
    ),
    "in words": refusal("data_end_after_available_end", "It has data available up to '2024-03-15 15:00:00+00:00'."),
    "the end of the schema": refusal(
        "data_schema_not_fully_available",
        "Schema `ohlcv-1h` is only available between 2018-05-01T00:00:00Z and 2024-03-15T15:00:00Z.",
    ),
    "a subscription": refusal("dataset_unavailable_range", "Try again with an end time before 2024-03-15T15:00:41.380325000Z."),
    "a licence": refusal(
        "license_not_found_unauthorized", "A live data license is required to access data after 2024-03-15T15:00:00Z.", 403
    ),
}


@pytest.mark.parametrize("bound", BOUNDS)
async def test_a_range_that_reaches_past_what_is_there_is_asked_for_again_within_it(bound: str) -> None:
    content = stream("ohlcv-1h", bar("ohlcv-1h", "2024-03-15 13:00", 10), bar("ohlcv-1h", "2024-03-15 14:00", 11))
    answer, vendor = await fetched(HOURS, BOUNDS[bound], packed(content))
    assert [request.params["end"] for request in vendor.asked] == ["2024-03-15T18:00:00Z", "2024-03-15T15:00:00Z"]
    (event,) = answer.events
    assert isinstance(event, PriceBars)
    assert (event.close, event.final) == ([10, 11], [True, True])
    assert (event.asked_from, event.asked_to) == (at("2024-03-15"), at("2024-03-16"))


async def test_a_bar_that_reaches_past_what_is_there_is_not_final() -> None:
    event = await bars(
        HOURS,
        refusal("data_end_after_available_end", available_end="2024-03-15T14:20:00.000000000Z"),
        packed(stream("ohlcv-1h", bar("ohlcv-1h", "2024-03-15 13:00", 10), bar("ohlcv-1h", "2024-03-15 14:00", 11))),
    )
    assert event.final == [True, False]


async def test_a_range_that_begins_before_the_data_set_is_asked_for_from_its_first_day() -> None:
    call = FetchCall("bars", ("ACME",), "1d", date(2020, 1, 1), date(2024, 3, 15))
    bound = refusal(
        "data_start_before_available_start",
        "`start` in query ('2020-01-01 00:00:00+00:00') was before the available start of dataset EQUS.MINI "
        "('2023-03-28 00:00:00+00:00').",
    )
    _, vendor = await fetched(call, bound, packed(stream("ohlcv-1d")))
    assert [request.params["start"][:10] for request in vendor.asked] == ["2020-01-01", "2023-03-28"]


async def test_a_second_bound_is_kept_too_but_a_refusal_that_names_no_other_range_is_final() -> None:
    later, earlier = (refusal("data_end_after_available_end", available_end=f"2024-03-15T{h}:00:00Z") for h in (15, 10))
    _, vendor = await fetched(HOURS, later, earlier, packed(stream("ohlcv-1h")))
    assert [request.params["end"][11:13] for request in vendor.asked] == ["18", "15", "10"]
    vendor = FakeVendor(later)
    answer = await provider().fetch(HOURS, vendor, NOW)
    assert len(vendor.asked) == 2
    assert answer.failed["ACME"].verdict is Verdict.BAD_REQUEST


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        (refusal("data_start_after_available_end", available_end="2024-03-14T00:00:00Z"), Verdict.EMPTY),
        (refusal("data_end_after_available_end", available_end="2024-03-14T00:00:00Z"), Verdict.EMPTY),
        (refusal("data_start_before_available_start", available_start="2024-03-16T00:00:00Z"), Verdict.EMPTY),
        (
            refusal("license_not_found_unauthorized", "License required for data after 2024-03-14T00:00:00Z", 403),
            Verdict.PLAN_RESTRICTED,
        ),
        (refusal("dataset_unavailable_range", "Try an end time before 2024-03-14T00:00:00Z"), Verdict.PLAN_RESTRICTED),
    ],
)
async def test_what_is_not_there_yet_is_empty_and_what_wants_a_licence_is_not(bound: Reply, verdict: Verdict) -> None:
    vendor = FakeVendor(bound)
    answer = await provider().fetch(HOURS, vendor, NOW)
    assert answer.failed["ACME"].verdict is verdict
    assert len(vendor.asked) == 1


async def test_a_range_that_has_not_begun_is_empty_at_no_call() -> None:
    answer, vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 3, 20), date(2024, 3, 25)), reply({}))
    assert answer.failed["ACME"].verdict is Verdict.EMPTY
    assert not vendor.asked


async def test_a_long_range_is_asked_for_in_parts_that_an_answer_can_hold() -> None:
    call = FetchCall("bars", ("ACME",), "1m", date(2023, 9, 1), date(2024, 1, 1))
    minutes = [bar("ohlcv-1m", f"2023-{month}-06 15:00", 10) for month in ("09", "11")]
    answer, vendor = await fetched(call, *(packed(stream("ohlcv-1m", minute)) for minute in minutes))
    assert [(r.params["start"][:10], r.params["end"][:10]) for r in vendor.asked] == [
        ("2023-09-01", "2023-11-09"),
        ("2023-11-09", "2024-01-01"),
    ]
    (event,) = answer.events
    assert isinstance(event, PriceBars)
    assert event.at == [at("2023-09-06 15:00"), at("2023-11-06 15:00")]


async def test_parts_before_the_data_set_begins_cost_one_refusal_and_parts_past_a_licence_keep_what_was_paid_for() -> None:
    call = FetchCall("bars", ("ACME",), "1m", date(2023, 1, 1), date(2024, 3, 15))
    begins = refusal("data_start_before_available_start", available_start="2023-12-20T00:00:00Z")
    wall = refusal(
        "license_not_found_unauthorized", "A live data license is required to access data after 2024-02-20T00:00:00Z", 403
    )
    content = packed(stream("ohlcv-1m", bar("ohlcv-1m", "2023-12-21 15:00", 10)))
    answer, vendor = await fetched(call, begins, content, wall, content)
    assert [(r.params["start"][:10], r.params["end"][:10]) for r in vendor.asked] == [
        ("2023-01-01", "2023-03-11"),
        ("2023-12-20", "2024-02-19"),
        ("2024-02-19", "2024-03-15"),
        ("2024-02-19", "2024-02-20"),
    ]
    assert [e.close for e in answer.events if isinstance(e, PriceBars)] == [[10]]


@pytest.mark.parametrize(("timeframe", "days"), [("1m", 5), ("1h", 50), ("1d", 740)])
async def test_the_latest_bars_are_those_of_the_days_before_this_minute(timeframe: Timeframe, days: int) -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), timeframe), packed(stream(f"ohlcv-{timeframe}")))
    asked = vendor.asked[0].params
    assert asked["end"] == "2024-03-15T18:00:00Z"
    assert at(asked["start"][:-1]) == at("2024-03-15 18:00") - timedelta(days=days)


async def test_a_day_of_utc_keeps_its_date_through_daylight_saving() -> None:
    records = [bar("ohlcv-1d", day, 10) for day in ("2024-03-08", "2024-03-10", "2024-03-11")]
    assert (await bars(DAY, packed(stream("ohlcv-1d", *records)))).at == [at("2024-03-08"), at("2024-03-10"), at("2024-03-11")]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (refusal("auth_authentication_failed", "Authentication failed.", 401), Verdict.UNAUTHORIZED),
        (refusal("auth_account_locked", "This account is locked.", 403), Verdict.UNAUTHORIZED),
        (reply({"detail": "Not authenticated"}, 403), Verdict.UNAUTHORIZED),
        (refusal("account_insufficient_funds", "Insufficient funds.", 402), Verdict.PLAN_RESTRICTED),
        (refusal("license_not_found_unauthorized", "No license for EQUS.MINI.", 403), Verdict.PLAN_RESTRICTED),
        (refusal("dataset_unavailable_range", "Requires a subscription."), Verdict.PLAN_RESTRICTED),
        (refusal("symbology_invalid_request", NOT_RESOLVED), Verdict.NOT_FOUND),
        (reply({"detail": "Could not resolve smart symbols: ACME"}, 422), Verdict.NOT_FOUND),
        (reply({"detail": "Symbol not found"}, 404), Verdict.NOT_FOUND),
        (refusal("data_time_range_start_on_or_after_end", "Invalid time range query."), Verdict.BAD_REQUEST),
        (reply({"detail": [{"loc": ["body", "schema"], "msg": "field required"}]}, 400), Verdict.BAD_REQUEST),
        (reply({"detail": "Too many requests"}, 429, retry_after="7"), Verdict.RATE_LIMITED),
        (refusal("rate_limited", "Slow down.", 429), Verdict.RATE_LIMITED),
        (refusal("gateway_offline", "Try later.", 503), Verdict.SERVER_ERROR),
        (reply("<html>Bad gateway</html>", 502), Verdict.SERVER_ERROR),
        (reply({"detail": "Authentication failed"}, 401), Verdict.UNAUTHORIZED),
        (reply("", 200), Verdict.MALFORMED),
        (reply({"detail": "Odd."}, 200), Verdict.MALFORMED),
        (reply(zstandard.compress(b"DBN\x09" + b"\x00" * 300)), Verdict.MALFORMED),
        (reply(b"\x28\xb5\x2f\xfd" + b"junk" * 9), Verdict.MALFORMED),
    ],
)
async def test_every_way_to_fail_has_its_verdict(answer: Reply, verdict: Verdict) -> None:
    error = await error_of(DAY, answer)
    assert error.verdict is verdict
    if "retry-after" in answer.headers:
        assert error.retry_at == NOW + timedelta(seconds=7)


async def test_neither_the_key_nor_its_token_is_ever_in_an_error() -> None:
    token = base64.b64encode(f"{KEY}:".encode()).decode()
    error = await error_of(DAY, refusal("auth_authentication_failed", f"Not accepted: {KEY} {token}", 401))
    assert KEY not in str(error)
    assert token not in str(error)


QUOTE = FetchCall("quote", ("ACME",))


async def test_a_quote_is_the_last_minutes_best_bid_and_ask_and_the_last_price_known() -> None:
    content = stream(
        "bbo-1m",
        book("2024-03-15 17:57", 20.45, 20.4, 20.6),
        book("2024-03-15 17:58", None, 20.4, 20.55, venue=39),
        book("2024-03-15 17:58", None, 20.5, 20.6, venue=41),
        book("2024-03-15 17:59", None, None, None),
    )
    (event,), _, vendor = await quotes(QUOTE, packed(content))
    assert (event.at, event.observed_at) == (at("2024-03-15 17:58"),) * 2
    assert (event.price, event.bid, event.ask) == (20.45, 20.5, 20.55)
    assert (event.previous_close, event.volume, event.currency) == (None, None, "USD")
    asked = vendor.asked[0].params
    assert (asked["schema"], asked["start"], asked["end"]) == ("bbo-1m", "2024-03-15T17:00:30Z", "2024-03-15T18:00:30Z")


async def test_a_quote_of_the_newest_hour_there_is_is_asked_for_when_this_hour_is_not_there() -> None:
    bound = refusal("data_start_after_available_end", available_end="2024-03-15T15:00:00Z")
    (event,), _, vendor = await quotes(QUOTE, bound, packed(stream("bbo-1m", book("2024-03-15 14:59", None, 20.5, 20.75))))
    assert [(r.params["start"][11:19], r.params["end"][11:19]) for r in vendor.asked][1] == ("14:00:00", "15:00:00")
    assert (event.at, event.price) == (at("2024-03-15 14:59"), None)


async def test_after_the_close_a_quote_is_the_last_trade_of_the_days_before() -> None:
    trades = stream("ohlcv-1h", bar("ohlcv-1h", "2024-03-14 19:00", 20.5), bar("ohlcv-1h", "2024-03-15 17:00", 21.5))
    (event,), _, vendor = await quotes(QUOTE, packed(stream("bbo-1m", book("2024-03-15 17:59", None, None, 0))), packed(trades))
    assert [request.params["schema"] for request in vendor.asked] == ["bbo-1m", "ohlcv-1h"]
    assert (event.at, event.price, event.bid, event.ask) == (at("2024-03-15 18:00"), 21.5, None, None)


async def test_a_refusal_of_the_last_trades_does_not_spoil_the_quotes_that_came() -> None:
    names = {s: [Span(date(2024, 3, 1), date(2024, 3, 16), n)] for s, n in (("ACME", "7"), ("QUIET", "8"))}
    call = FetchCall("quote", ("ACME", "QUIET"))
    content = packed(stream("bbo-1m", book("2024-03-15 17:59", None, 20.5, 20.75), names=names))
    found, answer, vendor = await quotes(call, content, reply("not now", 503))
    assert [event.symbol for event in found] == ["ACME"]
    assert answer.failed["QUIET"].verdict is Verdict.SERVER_ERROR
    assert vendor.asked[1].params["symbols"] == "QUIET"


async def test_a_quote_that_is_not_there_is_empty_and_of_what_nobody_knows_not_found() -> None:
    nothing = packed(stream("bbo-1m")), packed(stream("ohlcv-1h"))
    assert (await error_of(QUOTE, *nothing)).verdict is Verdict.EMPTY
    unknown = refusal("symbology_invalid_request", NOT_RESOLVED)
    assert (await error_of(QUOTE, unknown)).verdict is Verdict.NOT_FOUND


async def test_an_options_quote_is_consolidated_by_the_vendor() -> None:
    names = {"ACME  240621C00050000": [Span(date(2024, 3, 15), date(2024, 3, 16), "7")]}
    content = stream("cbbo-1m", option("2024-03-15 17:59", 1, 2), names=names)
    (event,), _, vendor = await quotes(FetchCall("quote", ("O:ACME240621C00050000",)), packed(content))
    assert (vendor.asked[0].params["dataset"], vendor.asked[0].params["schema"]) == ("OPRA.PILLAR", "cbbo-1m")
    assert (event.bid, event.ask, event.feed) == (1.0, 2.0, "consolidated")


CHAIN = FetchCall("chain", ("BRK.B",))
CONTRACTS = {
    "BRKB  240621C00050000": [Span(date(2024, 3, 15), date(2024, 3, 16), "7")],
    "BRKB  240621P00047500": [Span(date(2024, 3, 15), date(2024, 3, 16), "8")],
}


def option(minute: str, bid: float, ask: float, instrument: int = 7) -> dbn.CBBOMsg:
    level = dbn.ConsolidatedBidAskPair(int(bid * 10**9), int(ask * 10**9), 1, 1, 20, 22)
    unknown = dbn.UNDEF_TIMESTAMP, dbn.UNDEF_PRICE
    return dbn.CBBOMsg(193, 30, instrument, *unknown, 0, dbn.Side.NONE, ns(at(minute)), levels=level)


async def test_a_chain_is_one_request_of_a_parent_whose_contracts_say_all_in_their_names() -> None:
    content = stream("cbbo-1m", option("2024-03-15 17:58", 1, 1.5), option("2024-03-15 17:59", 1.25, 1.5), names=CONTRACTS)
    answer, vendor = await fetched(CHAIN, packed(content))
    (event,) = answer.events
    assert isinstance(event, PriceChain)
    (asked,) = vendor.asked
    assert (asked.params["dataset"], asked.params["stype_in"], asked.params["symbols"]) == ("OPRA.PILLAR", "parent", "BRKB.OPT")
    assert (asked.params["start"], asked.params["end"]) == ("2024-03-15T17:55:30Z", "2024-03-15T18:00:30Z")
    assert event.contract == ["BRKB240621C00050000", "BRKB240621P00047500"]
    assert (event.expiry, event.strike, event.right) == ([date(2024, 6, 21)] * 2, [50.0, 47.5], ["call", "put"])
    assert (event.bid, event.ask, event.at) == ([1.25, None], [1.5, None], [at("2024-03-15 17:59"), None])
    assert (event.iv, event.delta, event.volume, event.open_interest) == ([None, None],) * 4
    assert (event.symbol, event.currency, event.feed) == ("BRK.B", "USD", "consolidated")


async def test_on_a_closed_day_a_chain_is_that_of_the_last_close() -> None:
    sunday = datetime(2024, 3, 17, 15, 0, tzinfo=UTC)
    content = stream("cbbo-1m", option("2024-03-15 20:00", 1, 1.5), names=CONTRACTS)
    answer, vendor = await fetched(CHAIN, refusal("symbology_invalid_request", NOT_RESOLVED), packed(content), now=sunday)
    assert [request.params["end"] for request in vendor.asked] == ["2024-03-17T15:00:00Z", "2024-03-15T20:01:00Z"]
    (event,) = answer.events
    assert isinstance(event, PriceChain)
    assert event.bid == [1.0, None]


async def test_a_chain_without_quotes_is_looked_for_at_the_closes_of_five_days_and_no_longer() -> None:
    answer, vendor = await fetched(CHAIN, packed(stream("cbbo-1m", names=CONTRACTS)))
    ends = [request.params["end"] for request in vendor.asked]
    assert ends == [
        "2024-03-15T18:00:30Z",
        "2024-03-15T17:01:00Z",
        *(f"2024-03-{d}T{h}:01:00Z" for d in (14, 13, 12, 11) for h in (20, 17)),
    ]
    (event,) = answer.events
    assert isinstance(event, PriceChain)
    assert (event.bid, event.ask) == ([None, None], [None, None])
    error = await error_of(CHAIN, refusal("symbology_invalid_request", "Could not resolve smart symbols: BRKB.OPT"))
    assert error.verdict is Verdict.NOT_FOUND


@pytest.mark.parametrize("symbol", ["ES.c.0", "EUR/USD", "7203.T", "TOOLONGNAME"])
async def test_what_has_no_options_in_america_is_refused_before_any_call(symbol: str) -> None:
    answer, vendor = await fetched(FetchCall("chain", (symbol,)), reply({}))
    assert answer.failed[symbol].verdict is Verdict.BAD_REQUEST
    assert not vendor.asked


async def test_quotes_that_are_not_named_by_contract_make_no_chain() -> None:
    parents = {"BRKB.OPT": [Span(date(2024, 3, 15), date(2024, 3, 16), "7")]}
    content = stream("cbbo-1m", option("2024-03-15 17:59", 1, 1.5), names=parents)
    assert (await error_of(CHAIN, packed(content))).verdict is Verdict.MALFORMED


async def test_a_record_of_midnight_is_of_the_instrument_of_the_day_that_ends() -> None:
    names = {"ACME": [Span(date(2024, 3, 14), date(2024, 3, 15), "7")]}
    content = stream("bbo-1m", book("2024-03-15 00:00", 20.5, 20.25, 20.75), names=names)
    (event,), _, _ = await quotes(QUOTE, packed(content))
    assert event.bid == 20.25


async def test_too_many_requests_in_one_data_set_leave_what_came_of_another() -> None:
    call = FetchCall("bars", ("ACME", "ES.c.0", "ESH4"), "1d", DAY.start, DAY.end)
    answer, vendor = await fetched(call, packed(stream("ohlcv-1d", bar("ohlcv-1d", "2024-03-12", 10))), reply("slow down", 429))
    assert len(vendor.asked) == 2
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == dict.fromkeys(
        ("ES.c.0", "ESH4"), Verdict.RATE_LIMITED
    )


async def test_more_bars_than_an_event_holds_come_in_several_events() -> None:
    minutes = [at("2024-03-11 00:00") + timedelta(minutes=i) for i in range(2100)]
    content = stream("ohlcv-1m", *(bar("ohlcv-1m", f"{minute:%Y-%m-%d %H:%M}", 10) for minute in minutes))
    call = FetchCall("bars", ("ACME",), "1m", date(2024, 3, 11), date(2024, 3, 13))
    answer, _ = await fetched(call, packed(content))
    assert [len(e.at) for e in answer.events if isinstance(e, PriceBars)] == [2000, 100]
