"""P6: after SIGTERM no message waits for its ack timeout."""

from pathlib import Path

from contracts import subjects
from contracts.refresh_request import RefreshRequest
from tests.connected.deployment import deployed, until
from tests.connected.fake_yahoo import PlayedYahoo
from tests.promises.whole_run import SYMBOLS, all_stored, finished, is_there, more_calls, with_yahoo


async def test_a_fetcher_and_a_cacher_that_are_told_to_stop_in_the_middle_lose_and_repeat_nothing(
    tmp_path: Path, yahoo: PlayedYahoo
):
    environment = with_yahoo(yahoo) | {"QUOTEBUS_FETCHER__ACK_WAIT_S": "60", "QUOTEBUS_CACHER__ACK_WAIT_S": "60"}
    async with deployed(tmp_path, ("fetcher", "cacher"), environment) as deployment:
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS[:200]))
        await until(lambda: more_calls(yahoo, 50))
        for name in ("fetcher", "cacher"):
            await deployment.services[name].stop(8)
            assert await deployment.services[name].ended() == 0, deployment.log(name)[-2000:]
            await deployment.start(name)
        # With an ack timeout of a minute, a stranded message would keep the run from ending within 30 s.
        await until(lambda: all_stored(deployment, 200), timeout_s=30)
        await until(lambda: is_there(finished(deployment)), timeout_s=30)
    # A call that was under way when the fetcher stopped may be made again; one that had brought its event is not.
    assert len(yahoo.calls) <= 200 + 8
