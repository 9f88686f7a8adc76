"""P8: no message, whatever its bytes, ends a process, stops a consumer or comes again for ever."""

import json
from pathlib import Path

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from tests.connected.deployment import Deployment, deployed, until
from tests.connected.fake_yahoo import PlayedYahoo
from tests.promises.whole_run import SYMBOLS, all_stored, dead_letters, finished, is_there, with_yahoo

NESTED = b'{"symbols":' + b"[" * 3_000 + b"]" * 3_000 + b"}"
DURABLES = {
    subjects.REFRESH: "planner",
    subjects.PRICES: "cacher",
    subjects.RUNS: "cacher-runs",
    subjects.SYMBOLS: "cacher-symbols",
}
SERVICES = ("fetcher", "cacher", "notifier")


def environment(yahoo: PlayedYahoo) -> dict[str, str]:
    receiver = [{"id": "ops", "url": "http://127.0.0.1:1/", "allow_private": True, "secret": "whsec_" + "c2VjcmV0" * 4}]
    return {
        "QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": yahoo.url,
        "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0",
        "QUOTEBUS_NOTIFY": json.dumps(receiver),
    }


async def letters(deployment: Deployment) -> list[DeadLetter]:
    state = (await deployment.bus.js.stream_info(subjects.DEAD)).state
    bodies = [(await deployment.bus.js.get_msg(subjects.DEAD, seq)).data for seq in range(1, state.last_seq + 1)]
    return [decode(body or b"", DeadLetter) for body in bodies]


async def all_acknowledged(deployment: Deployment) -> bool:
    infos = [await deployment.bus.js.consumer_info(stream, durable) for stream, durable in DURABLES.items()]
    return not any(info.num_pending or info.num_ack_pending for info in infos)


async def served(deployment: Deployment, symbol: str) -> bool:
    return bool(await deployment.rows("SELECT 1 FROM price_bars WHERE symbol = $1", symbol))


async def test_json_nested_deeper_than_the_stack_is_a_dead_letter_on_every_durable(tmp_path: Path, yahoo: PlayedYahoo) -> None:
    poisoned = (
        "refresh.request.manual",
        "task.yahoo.manual.bars.1d.latest.DEEP",
        "price.bars.1d.DEEP",
        "run.result.-",
        "run.missed.-",
        "symbol.health.yahoo.bars.1d.DEEP",
    )
    async with deployed(tmp_path, SERVICES, environment(yahoo), redis=False) as deployment:
        for subject in poisoned:
            await deployment.bus.js.publish(subject, NESTED)
        await until(lambda: _count_is(deployment, len(poisoned) + 1))  # `run.missed` is read by the notifier, too
        await deployment.bus.publish(subjects.refresh_request("manual"), RefreshRequest(symbols=["GOOD"]))
        await until(lambda: served(deployment, "GOOD"))
        await until(lambda: all_acknowledged(deployment))
        assert await _count_is(deployment, len(poisoned) + 1)
        found = await letters(deployment)
        logs = {name: deployment.log(name) for name in SERVICES}
    assert {letter.subject for letter in found} == set(poisoned)
    assert {letter.service for letter in found} == set(SERVICES)
    assert {letter.reason for letter in found} == {"malformed"}
    for letter in found:
        # Of a request the field is refused before its depth is known.
        named = ("symbols",) if letter.subject.startswith("refresh.") else ("nested too deeply", "RecursionError")
        assert any(text in letter.message for text in named), letter.message
    assert not any("part_failed" in log or "handler_failed" in log for log in logs.values())


async def test_a_request_for_prices_of_an_impossible_age_is_refused_by_its_field(tmp_path: Path, yahoo: PlayedYahoo) -> None:
    async with deployed(tmp_path, ("fetcher", "cacher"), environment(yahoo), redis=False) as deployment:
        await deployment.bus.js.publish("refresh.request.manual", b'{"symbols":["AAPL"],"max_age_s":1e12}')
        await until(lambda: _count_is(deployment, 1))
        await deployment.bus.publish(subjects.refresh_request("manual"), RefreshRequest(symbols=["GOOD"]))
        await until(lambda: served(deployment, "GOOD"))
        [letter] = await letters(deployment)
        log = deployment.log("fetcher")
    assert (letter.subject, letter.service) == ("refresh.request.manual", "fetcher")
    assert "max_age_s" in letter.message
    assert "part_failed" not in log


async def _count_is(deployment: Deployment, count: int) -> bool:
    return (await deployment.bus.js.stream_info(subjects.DEAD)).state.messages == count


async def test_malformed_events_and_results_are_dead_letters_and_stop_no_consumer(tmp_path: Path, yahoo: PlayedYahoo):
    bad = {
        "price.bars.1d.BAD": b'{"type":"price_bars.v1","symbol":"BAD"}',
        "price.quote.BAD": b"not json",
        "run.result.-": b'{"type":"run_result.v1","run_id":7}',
        "run.planned.-": b"[]",
    }
    async with deployed(tmp_path, ("fetcher", "cacher"), with_yahoo(yahoo)) as deployment:
        for subject, body in bad.items():
            await deployment.bus.js.publish(subject, body)
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS[:5]))
        await until(lambda: all_stored(deployment, 5))
        await until(lambda: is_there(finished(deployment)))
        await until(lambda: dead_letters(deployment, len(bad)))
        info = await deployment.bus.js.consumer_info(subjects.PRICES, "cacher")
        assert info.num_ack_pending == info.num_pending == 0
