"""Commands that speak with the bus: refresh, watch, dead letters, runs as they end."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.msg import Msg

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.fetch_task import FetchTask
from contracts.message import decode, encode
from contracts.price_events import PriceQuote
from contracts.refresh_ask import RefreshAnswer, RefreshAsk, SymbolOutcome
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunFinished
from quotebus.client import Client

NOW = datetime(2024, 3, 4, 15, 30, tzinfo=UTC)


@asynccontextmanager
async def fetcher(qb: Client, outcomes: dict[str, str]) -> AsyncIterator[list[RefreshAsk]]:
    """Answers asks with these outcomes by symbol, and remembers what it was asked."""
    asked: list[RefreshAsk] = []

    async def answer(message: Msg) -> None:
        asked.append(decode(message.data, RefreshAsk))
        found = [SymbolOutcome(symbol=s, outcome=outcomes[s], rows=1) for s in asked[-1].symbols]
        await message.respond(encode(RefreshAnswer(outcomes=found)))

    subscription = await qb.nc.subscribe(subjects.REFRESH_ASK, cb=answer)
    await qb.nc.flush()
    yield asked
    await subscription.unsubscribe()


async def test_a_refresh_tells_each_symbols_outcome_and_the_exit_code_sums_up(quotebus: Any, qb: Client) -> None:
    outcomes = {"AAPL": "refreshed", "BRK.B": "merged", "GONE": "failed"}
    async with fetcher(qb, outcomes) as asked:
        for symbols, code in ((["AAPL", "BRK.B"], 0), (["AAPL", "GONE"], 1), (["GONE"], 2)):
            ended = await quotebus("refresh", *symbols, "--wait", "--timeframe", "1d", "--timeout", "5", "-o", "ndjson")
            assert (ended.code, [row["outcome"] for row in ended.rows]) == (code, [outcomes[symbol] for symbol in symbols])
    assert (asked[0].timeframe, asked[0].timeout_s) == ("1d", 5.0)


async def test_a_refresh_that_is_not_waited_for_prints_the_id_it_is_known_by(quotebus: Any, qb: Client) -> None:
    ended = await quotebus("refresh", "AAPL", "--start", "2024-01-02", "--end", "2024-02-01", "-o", "ndjson")
    assert ended.code == 0
    stored = await qb.js.get_last_msg(subjects.REFRESH, "refresh.request.manual")
    request = decode(stored.data or b"", RefreshRequest)
    assert request.request_id == ended.rows[0]["request_id"]
    assert (str(request.start), str(request.end)) == ("2024-01-02", "2024-02-01")


async def test_without_a_fetcher_a_refresh_says_how_to_start_one(quotebus: Any, qb: Client) -> None:
    ended = await quotebus("refresh", "AAPL", "--wait", "-o", "json")
    assert ended.code == 2
    assert json.loads(ended.err)["error"] == "no_fetcher"
    assert ended.out == ""


async def test_a_watch_that_nobody_looks_at_prints_the_events_of_the_bus(quotebus: Any, qb: Client) -> None:
    for symbol in ("AAPL", "BRK.B"):
        event = PriceQuote(symbol=symbol, provider="synthetic", feed="synthetic", observed_at=NOW, fetched_at=NOW, price=1.5)
        await qb.js.publish(subjects.price("quote", None, symbol), encode(event))
    assert [(row["symbol"], row["price"]) for row in (await quotebus("watch", "-n", "2")).rows] == [("AAPL", 1.5), ("BRK.B", 1.5)]
    assert [row["symbol"] for row in (await quotebus("watch", "BRK.B", "-n", "1")).rows] == ["BRK.B"]


async def bury(qb: Client, subject: str, body: bytes, reason: str = "not_found", stream: str | None = "X") -> None:
    letter = DeadLetter(
        reason=reason, message="gone", service="fetcher", subject=subject, stream=stream, body=body.decode(), at=NOW
    )
    await qb.js.publish(subjects.dead(reason), encode(letter))


async def test_dead_letters_are_listed_and_shown(quotebus: Any, qb: Client) -> None:
    await bury(qb, "refresh.request.manual", b'{"symbols": 7}', "malformed")
    await bury(qb, "task.x", b"{}")
    await qb.js.publish("refresh.dead.odd", b"no letter at all")
    rows = (await quotebus("dead", "ls", "-o", "ndjson")).rows
    assert [(row["letter"], row["reason"]) for row in rows] == [(1, "malformed"), (2, "not_found"), (3, "malformed")]
    assert [row["letter"] for row in (await quotebus("dead", "ls", "--reason", "not_found", "-o", "ndjson")).rows] == [2]
    shown = json.loads((await quotebus("dead", "show", "1")).out)
    assert shown[0]["body"] == '{"symbols": 7}'
    assert (await quotebus("dead", "show", "9")).err == "quotebus: no dead letter 9: `quotebus dead ls` lists all\n"


async def test_a_retried_letter_goes_where_it_was_and_is_gone(quotebus: Any, qb: Client) -> None:
    request = RefreshRequest(symbols=["AAPL"])
    await bury(qb, "refresh.request.live", encode(request))
    await bury(qb, subjects.REFRESH_ASK, b"{}", stream=None)
    ended = await quotebus("dead", "retry", "--all", "-o", "ndjson")
    assert (ended.code, [row["outcome"] for row in ended.rows]) == (1, ["retried", "kept"])
    stored = await qb.js.get_last_msg(subjects.REFRESH, "refresh.request.live")
    assert decode(stored.data or b"", RefreshRequest) == request
    assert [row["letter"] for row in (await quotebus("dead", "ls", "-o", "ndjson")).rows] == [2]


async def test_a_retried_task_has_time_again(quotebus: Any, qb: Client) -> None:
    task = FetchTask(
        provider="synthetic", lane="live", symbol="AAPL", dataset="quote", wanted_at=NOW, expires_at=NOW,
        request_id="r", run_id="1", tried=["synthetic"],
    )  # fmt: skip
    await bury(qb, subjects.fetch_task(task), encode(task))
    assert (await quotebus("dead", "retry", "1")).code == 0
    again = decode((await qb.js.get_last_msg(subjects.TASKS, subjects.fetch_task(task))).data or b"", FetchTask)
    assert again.expires_at > datetime.now(UTC) + timedelta(minutes=50)
    assert (again.tried, again.symbol) == ([], "AAPL")


async def test_dropped_letters_are_gone_for_good(quotebus: Any, qb: Client) -> None:
    for reason in ("not_found", "expired", "expired"):
        await bury(qb, "task.x", b"{}", reason)
    assert (await quotebus("dead", "drop", "--all", "--reason", "expired")).code == 0
    assert [row["letter"] for row in (await quotebus("dead", "ls", "-o", "ndjson")).rows] == [1]
    assert (await quotebus("dead", "drop", "1")).code == 0
    assert (await quotebus("dead", "ls")).err == "there are no dead letters\n"


@pytest.mark.parametrize("command", [["watch"], ["runs", "--follow", "-o", "ndjson"]])
async def test_what_goes_on_until_it_is_interrupted_prints_at_once_and_ends_without_complaint(
    qb: Client, command: list[str]
) -> None:
    script = "import sys; from quotebus.cli import main; sys.argv[0] = 'quotebus'; main()"
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        publishing = asyncio.create_task(publish_for_ever(qb))
        assert running.stdout is not None
        async with asyncio.timeout(30):
            assert json.loads(await running.stdout.readline())["provider" if command == ["watch"] else "run_id"]
        publishing.cancel()
        running.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(running.communicate(), 30)
        assert (running.returncode, err) == (0, b"")
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def publish_for_ever(qb: Client) -> None:
    """New events again and again, as a follower that has only begun has missed the first."""
    event = PriceQuote(symbol="AAPL", provider="synthetic", feed="synthetic", observed_at=NOW, fetched_at=NOW, price=1.5)
    run = RunFinished(run_id="1", request_id="r", planned=1, counts={"refreshed": 1}, calls={}, started_at=NOW, finished_at=NOW)
    while True:
        await qb.js.publish("price.quote.AAPL", encode(event))
        await qb.js.publish("run.finished.-", encode(run))
        await asyncio.sleep(0.1)
