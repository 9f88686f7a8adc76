"""P3: every symbol of an accepted request has one outcome, whatever is killed."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from contracts import subjects
from contracts.refresh_request import RefreshRequest
from tests.connected.deployment import deployed, until
from tests.connected.fake_yahoo import PlayedYahoo
from tests.promises.whole_run import SYMBOLS, all_stored, finished, is_there, more_calls, with_yahoo


@pytest.mark.slow
async def test_every_symbol_is_stored_once_and_no_quota_is_overspent_whatever_is_killed(tmp_path: Path, yahoo: PlayedYahoo):
    environment = with_yahoo(yahoo, per_second=40, burst=40)
    async with deployed(tmp_path, ("fetcher", "cacher"), environment) as deployment:
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS))
        for victim in ("fetcher", "cacher", "nats", "postgres"):
            await until(partial(more_calls, yahoo, len(yahoo.calls) + 60))
            part = getattr(deployment, victim, None) or deployment.services[victim]
            await part.kill()
            await asyncio.sleep(0.3)
            await part.start()
        await until(lambda: all_stored(deployment, 500))
        await until(lambda: is_there(finished(deployment)))
        closed = await finished(deployment)
    assert closed is not None
    assert closed.planned == 500
    assert closed.counts.get("failed", 0) == 0
    assert sum(closed.counts.values()) == 500
    assert yahoo.most_in_any(1.0) <= 40
