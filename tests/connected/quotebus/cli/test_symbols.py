"""`quotebus symbols` and the doctor's line about them, on a real NATS."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from contracts import subjects
from contracts.message import decode, encode
from contracts.symbol_health import SymbolHealth
from quotebus.client import Client

NOW = datetime(2026, 1, 5, 22, 30, tzinfo=UTC)
GONE = SymbolHealth(
    provider="yahoo",
    dataset="bars",
    timeframe="1d",
    symbol="GONE",
    state="delisted",
    before="suspect",
    since=NOW,
    at=NOW,
    failures=3,
    next_probe_at=NOW + timedelta(days=1),
    verdict="not_found",
    message="yahoo: no such symbol",
)


async def tell(qb: Client, *told: SymbolHealth) -> None:
    for health in told:
        subject = subjects.symbol_health(health.provider, health.dataset, health.timeframe, health.symbol)
        await qb.js.publish(subject, encode(health))


@pytest.fixture
async def asleep(qb: Client) -> None:
    """Three series that are not active, one that was made so and is again, and a message that is none."""
    quote = msgspec.structs.replace(GONE, dataset="quote", timeframe=None, state="suspect")
    paid = msgspec.structs.replace(GONE, provider="tiingo", symbol="BRK.B", state="plan_restricted")
    back = msgspec.structs.replace(GONE, symbol="BACK", state="active", next_probe_at=None)
    await tell(qb, GONE, quote, paid, msgspec.structs.replace(back, state="suspect"), back)
    await qb.js.publish(subjects.symbol_health("yahoo", "bars", "1d", "BAD"), b"no json")


async def test_symbols_lists_what_is_not_active_in_every_form(quotebus: Any, asleep: None) -> None:
    ended = await quotebus("symbols", "-o", "ndjson")
    assert ended.code == 0
    assert [(r["symbol"], r["provider"], r["dataset"], r["state"]) for r in ended.rows] == [
        ("BRK.B", "tiingo", "bars", "plan_restricted"),
        ("GONE", "yahoo", "bars", "delisted"),
        ("GONE", "yahoo", "quote", "suspect"),
    ]
    assert ended.rows[1] == {
        "symbol": "GONE",
        "provider": "yahoo",
        "dataset": "bars",
        "timeframe": "1d",
        "state": "delisted",
        "since": "2026-01-05T22:30:00Z",
        "failures": 3,
        "next_probe_at": "2026-01-06T22:30:00Z",
        "renamed_to": None,
        "message": "yahoo: no such symbol",
    }
    assert "2026-01-06 22:30:00Z" in (await quotebus("symbols")).out
    assert (await quotebus("symbols", "-o", "csv")).out.startswith("symbol,provider,dataset,timeframe,state,since,")


async def test_symbols_can_be_narrowed_by_state_and_provider(quotebus: Any, asleep: None) -> None:
    for options, found in (
        (("--state", "suspect"), ["GONE"]),
        (("--state", "active"), ["BACK"]),
        (("--provider", "tiingo"), ["BRK.B"]),
        (("--state", "renamed"), []),
    ):
        ended = await quotebus("symbols", *options, "-o", "ndjson")
        assert [row["symbol"] for row in ended.rows] == found
    assert (await quotebus("symbols", "--state", "renamed")).err == "no symbol is renamed\n"


async def test_a_person_resets_a_symbol_for_all_of_its_series(quotebus: Any, qb: Client, asleep: None) -> None:
    ended = await quotebus("symbols", "reset", "gone", "AAPL", "-o", "ndjson")
    assert ended.code == 1
    assert [(r["symbol"], r["dataset"], r["was"], r["outcome"]) for r in ended.rows] == [
        ("GONE", "bars", "delisted", "reset"),
        ("GONE", "quote", "suspect", "reset"),
        ("AAPL", None, "active", "was active"),
    ]
    raw = await qb.js.get_last_msg(subjects.SYMBOLS, subjects.symbol_health("yahoo", "bars", "1d", "GONE"))
    told = decode(raw.data or b"", SymbolHealth)
    assert (told.state, told.before, told.by, told.next_probe_at) == ("active", "delisted", "person", None)
    assert [row["symbol"] for row in (await quotebus("symbols", "-o", "ndjson")).rows] == ["BRK.B"]
    assert (await quotebus("symbols", "reset", "--all")).code == 0
    assert (await quotebus("symbols")).err == "every symbol is active\n"
    assert (await quotebus("symbols", "reset", "GONE")).code == 2
    assert "name symbols, or give --all" in (await quotebus("symbols", "reset")).err


async def test_the_doctor_speaks_of_symbols_that_are_not_active_and_warns_of_many(quotebus: Any, qb: Client, asleep: None) -> None:
    [few] = [row for row in (await quotebus("doctor", "-o", "ndjson")).rows if row["what"] == "symbols"]
    assert few["state"] == "ok"
    assert few["found"].startswith("3 are not active: ")
    await tell(qb, *(msgspec.structs.replace(GONE, symbol=f"S{i}") for i in range(50)))
    [many] = [row for row in (await quotebus("doctor", "-o", "ndjson")).rows if row["what"] == "symbols"]
    assert many["state"] == "warn"
    assert "51 delisted with yahoo" in many["found"]
    assert "`quotebus symbols`" in many["do"]
