"""P4: no window of any key is exceeded, by any number of fetchers, through kills."""

import asyncio
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from contracts import subjects
from contracts.refresh_request import RefreshRequest
from services.fetcher.quota.ledger import permits_used
from services.runtime.quota import QuotaWindow
from tests.connected.deployment import Deployment, deployed, until
from tests.connected.fake_yahoo import PlayedYahoo

FETCHERS = ("fetcher", "fetcher2", "fetcher3", "fetcher4")
SYMBOLS = [f"S{i:03d}" for i in range(260)]
# By length in seconds; the hour ends it before the symbols do.
LIMITS: Mapping[float, int] = {1.0: 12, 3.0: 30, 10.0: 90, 3600.0: 240}
WINDOWS = {"PER_SECOND": "12", "WINDOWS__3S": "30", "WINDOWS__10S": "90", "PER_HOUR": "240"}
SETTINGS = {**WINDOWS, "KEPT_FOR_MANUAL": "0", "KEPT_FOR_LIVE": "0"}


@pytest.mark.slow
async def test_four_fetchers_never_exceed_any_window_whichever_of_them_and_whether_nats_is_killed(tmp_path: Path):
    chance = random.Random(20261125)
    async with PlayedYahoo(delay_s=0.03).serve() as yahoo:
        environment = {"QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": yahoo.url}
        environment |= {f"QUOTEBUS_PROVIDERS__YAHOO__{name}": value for name, value in SETTINGS.items()}
        async with deployed(tmp_path, (), environment, redis=False) as deployment:
            await asyncio.gather(*(deployment.start(name, "fetcher") for name in FETCHERS))
            await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS))
            for blow in range(8):
                await until(partial(_grew, yahoo, len(yahoo.calls) + chance.randint(8, 24)))
                if blow == 4:
                    await deployment.nats.kill()
                    await deployment.nats.start()
                else:
                    await _kill_one(deployment, chance.choice(FETCHERS))
            hour = QuotaWindow("yahoo", "k1", "hour", LIMITS[3600.0])
            await until(partial(_is_spent, deployment, hour))
            await asyncio.sleep(2)
    for length_s, limit in LIMITS.items():
        assert yahoo.most_in_any(length_s) <= limit, f"more than {limit} calls within {length_s} s"
    # A killed fetcher may take permits along for calls that never left; the others are all used.
    assert len(yahoo.calls) >= LIMITS[3600.0] - 8 * 4


async def _kill_one(deployment: Deployment, name: str) -> None:
    await deployment.services[name].kill()
    await deployment.start(name, "fetcher")


async def _grew(yahoo: PlayedYahoo, count: int) -> bool:
    return len(yahoo.calls) >= count


async def _is_spent(deployment: Deployment, window: QuotaWindow) -> bool:
    return (await permits_used(deployment.bus.js, window))[0] >= window.limit
