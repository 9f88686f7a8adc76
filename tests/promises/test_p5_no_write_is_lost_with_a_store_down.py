"""P5: without Redis no write is lost or late; without Postgres nothing is acknowledged, and all is stored afterwards."""

import asyncio
from pathlib import Path

from contracts import subjects
from contracts.refresh_request import RefreshRequest
from tests.connected.deployment import deployed, until
from tests.connected.fake_yahoo import PlayedYahoo
from tests.promises.whole_run import SYMBOLS, all_stored, finished, is_there, more_calls, with_yahoo


async def test_redis_down_for_the_whole_run_costs_not_one_stored_bar(tmp_path: Path, yahoo: PlayedYahoo):
    async with deployed(tmp_path, (), with_yahoo(yahoo)) as deployment:
        assert deployment.redis is not None
        await deployment.redis.kill()
        await asyncio.gather(deployment.start("fetcher"), deployment.start("cacher"))
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS[:60]))
        await until(lambda: all_stored(deployment, 60))
        await until(lambda: is_there(finished(deployment)))


async def test_postgres_down_means_nothing_acknowledged_and_everything_stored_after(tmp_path: Path, yahoo: PlayedYahoo):
    async with deployed(tmp_path, ("fetcher", "cacher"), with_yahoo(yahoo)) as deployment:
        await deployment.postgres.kill()
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS[:40]))
        await until(lambda: more_calls(yahoo, 40))
        await asyncio.sleep(1)
        info = await deployment.bus.js.consumer_info(subjects.PRICES, "cacher")
        assert (info.ack_floor.stream_seq if info.ack_floor else 0) == 0
        await deployment.postgres.start()
        await until(lambda: all_stored(deployment, 40))
