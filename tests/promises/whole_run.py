"""Harness of the promises: a deployment that refreshes from a fake Yahoo, and its state."""

from contracts import subjects
from contracts.message import decode
from contracts.run_events import RunFinished
from tests.connected.deployment import Deployment
from tests.connected.fake_yahoo import PlayedYahoo

SYMBOLS = [f"S{i:03d}" for i in range(500)]


STORED = """
    SELECT count(DISTINCT i.symbol) AS symbols, count(*) AS bars
    FROM bars b JOIN instruments i ON i.id = b.instrument WHERE b.timeframe = '1d'
"""


def with_yahoo(yahoo: PlayedYahoo, **more: object) -> dict[str, str]:
    environment = {"QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": yahoo.url, "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0"}
    return environment | {f"QUOTEBUS_PROVIDERS__YAHOO__{name.upper()}": str(value) for name, value in more.items()}


async def all_stored(deployment: Deployment, symbols: int, bars: int = 20) -> bool:
    [row] = await deployment.rows(STORED)
    return (row["symbols"], row["bars"]) == (symbols, symbols * bars)


async def finished(deployment: Deployment) -> RunFinished | None:
    try:
        raw = await deployment.bus.js.get_last_msg(subjects.RUNS, "run.finished.*")
    except Exception:
        return None
    return decode(raw.data or b"", RunFinished)


async def more_calls(yahoo: PlayedYahoo, count: int) -> bool:
    return len(yahoo.calls) >= count


async def dead_letters(deployment: Deployment, count: int) -> bool:
    return (await deployment.bus.js.stream_info(subjects.DEAD)).state.messages == count


async def is_there(thing: object) -> bool:
    return (await thing) is not None  # type: ignore[misc]
