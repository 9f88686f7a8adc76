"""`quotebus runs` and the progress of a refresh, on real servers; bars on a real terminal."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from contracts import subjects
from contracts.message import decode, encode
from contracts.refresh_ask import RefreshAnswer, RefreshAsk, SymbolOutcome
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunFinished, RunMissed, RunPlanned, RunResult
from quotebus.client import Client
from services.cacher.store_postgres.prices import SERVER_SETTINGS
from services.cacher.store_postgres.runs import HistoryStore, RunEvent, RunStore
from services.runtime.postgres import open_pool
from services.runtime.settings import PostgresSettings, Secret

SCRIPT = "import sys; from quotebus.cli import main; sys.argv[0] = 'quotebus'; main()"
SLOT = datetime(2024, 3, 4, 21, tzinfo=UTC)


@pytest.fixture
async def pool(migrated: None, postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        yield pool


def plan(run_id: str, *symbols: str, at: datetime = SLOT, **terms: Any) -> RunPlanned:
    known = {
        "job": "eod",
        "slot_at": at,
        "timeframe": "1d",
        "planned": len(symbols),
        "requested_at": at + timedelta(seconds=2),
    } | terms
    return RunPlanned(
        run_id=run_id, request_id="r", lane="live", dataset="bars", wanted_at=at, symbols=[*symbols],
        deadline_at=datetime.now(UTC) + timedelta(hours=1), **known,
    )  # fmt: skip


def result(run_id: str, symbol: str, outcome: Any = "refreshed", reason: str | None = None, request_id: str = "r") -> RunResult:
    return RunResult(
        run_id=run_id, request_id=request_id, job="eod", symbol=symbol, outcome=outcome, reason=reason, provider="tiingo", calls=1,
        wanted_at=SLOT, called_at=SLOT, at=SLOT,
    )  # fmt: skip


async def keep(pool: asyncpg.Pool, *events: RunEvent) -> None:
    await RunStore(pool).write(events)


async def test_there_is_a_row_for_each_run_and_each_slot_without_one(quotebus: Any, pool: asyncpg.Pool) -> None:
    await keep(pool, plan("7", "AAPL", "GONE"), result("7", "AAPL"), result("7", "GONE", "failed", "not_found"))
    slots = [SLOT - timedelta(days=2), SLOT - timedelta(days=1)]
    await HistoryStore(pool).write_missed([RunMissed(job="eod", reason="too_late", missed=2, slots=slots, at=SLOT)])
    rows = (await quotebus("runs", "eod", "-o", "ndjson")).rows
    assert [(row["run"], row["state"], row["reason"]) for row in rows] == [
        ("7", "over", None), (None, "missed", "too_late"), (None, "missed", "too_late")
    ]  # fmt: skip
    assert (rows[0]["late_s"], rows[0]["reasons"], rows[0]["calls"]) == (2.0, {"failed": {"not_found": 1}}, {"tiingo": 2})
    table = (await quotebus("runs")).out.splitlines()
    assert "missed: too_late" in table[2]
    assert "2024-03-03 21:00:00Z" in table[2]
    assert (await quotebus("runs", "other")).err == "other has not run yet\n"


async def test_a_run_is_shown_with_its_figures_and_each_symbol(quotebus: Any, pool: asyncpg.Pool) -> None:
    await keep(pool, plan("7", "AAPL", "GONE"), result("7", "AAPL"), result("7", "GONE", "failed", "not_found"))
    # The numbers began again: this is another run.
    await keep(pool, plan("7", "OLD", at=SLOT - timedelta(days=9), job=None), result("7", "OLD"))
    await pool.execute("UPDATE runs SET request_id = 'older' WHERE requested_at < $1", SLOT)
    rows = (await quotebus("runs", "7", "-o", "ndjson")).rows
    assert {row["symbol"]: (row["outcome"], row["reason"]) for row in rows}["GONE"] == ("failed", "not_found")
    shown = (await quotebus("runs", "7")).out
    for said in ("late_s        2", "outcomes      failed=1 refreshed=1", "reasons       failed=not_found=1", "GONE    failed"):
        assert said in shown, shown
    assert (await quotebus("runs", "9")).err == "quotebus: there is no run 9: `quotebus runs` lists the newest\n"
    assert (await quotebus("runs", "eod", "7")).code == 2


async def test_a_retry_asks_for_what_failed_and_for_nothing_else(quotebus: Any, qb: Client, pool: asyncpg.Pool) -> None:
    days = {"start": date(2024, 1, 2), "end": date(2024, 2, 1), "provider": "tiingo"}
    await keep(pool, plan("7", "AAPL", "GONE", "SLOW", **days), result("7", "AAPL"), result("7", "GONE", "failed"))
    await keep(pool, result("7", "SLOW", "expired"))
    ended = await quotebus("runs", "retry", "7", "-o", "ndjson")
    assert (ended.code, ended.rows[0]["symbols"]) == (0, ["GONE", "SLOW"])
    stored = await qb.js.get_last_msg(subjects.REFRESH, "refresh.request.manual")
    request = decode(stored.data or b"", RefreshRequest)
    assert (request.symbols, request.dataset, request.timeframe) == (["GONE", "SLOW"], "bars", "1d")
    assert {"start": request.start, "end": request.end, "provider": request.provider} == days
    assert (request.request_id, request.job) == (ended.rows[0]["request_id"], None)


async def test_a_retry_of_a_run_without_failures_asks_for_nothing(quotebus: Any, qb: Client, pool: asyncpg.Pool) -> None:
    await keep(pool, plan("7", "AAPL"), result("7", "AAPL"))
    ended = await quotebus("runs", "retry", "7")
    assert (ended.code, ended.out, ended.err) == (0, "", "no symbol of run 7 has failed\n")
    assert (await qb.js.stream_info(subjects.REFRESH)).state.messages == 0
    assert (await quotebus("runs", "retry", "9")).code == 2


async def test_a_run_that_was_refused_says_so_everywhere(quotebus: Any, qb: Client, pool: asyncpg.Pool) -> None:
    await keep(pool, plan("7", refused="universe activ is not defined"))
    [row] = (await quotebus("runs", "-o", "ndjson")).rows
    assert (row["run"], row["state"], row["reason"], row["planned"]) == ("7", "over", "universe activ is not defined", 0)
    heading, line = (await quotebus("runs")).out.splitlines()[:2]
    assert "refused" in line
    assert "2024-03-04 21:00:02Z" in line, heading
    assert "reason        universe activ is not defined" in (await quotebus("runs", "7")).out
    ended = await quotebus("runs", "retry", "7")
    assert (ended.code, ended.err) == (
        2, "quotebus: run 7 was refused (universe activ is not defined): put that right and run its job again\n"
    )  # fmt: skip
    assert (await qb.js.stream_info(subjects.REFRESH)).state.messages == 0


async def publish(qb: Client, *events: RunPlanned | RunResult | RunFinished | RunMissed) -> None:
    for event in events:
        kind = type(event).__name__.removeprefix("Run").lower()
        await qb.js.publish(subjects.run(kind, event.job), encode(event))


def finished(run_id: str, **counts: int) -> RunFinished:
    return RunFinished(
        run_id=run_id, request_id="r", job="eod", slot_at=SLOT, planned=sum(counts.values()), counts=counts,  # type: ignore[arg-type]
        calls={"tiingo": 2}, started_at=SLOT + timedelta(seconds=2), finished_at=SLOT + timedelta(seconds=9),
    )  # fmt: skip


@asynccontextmanager
async def typed(*arguments: str, **pipes: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command of its own; interrupted at the end, if it has not ended, which it must take well."""
    running = await asyncio.create_subprocess_exec(sys.executable, "-c", SCRIPT, *arguments, **pipes)
    try:
        yield running
        if running.returncode is None:
            running.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(running.wait(), 30) == 0
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def test_who_follows_hears_of_runs_under_way_and_of_their_ends_in_lines(qb: Client, pool: asyncpg.Pool) -> None:
    begun = plan("7", "AAPL", "MSFT", at=datetime.now(UTC) - timedelta(seconds=4))
    await keep(pool, begun)
    await publish(qb, begun, result("7", "AAPL"), result("6", "AAPL"), finished("6", refreshed=1))
    async with typed("runs", "--follow", stdout=asyncio.subprocess.PIPE) as following:
        assert following.stdout is not None
        lines = []
        async with asyncio.timeout(30):
            lines.append(json.loads(await following.stdout.readline()))
            missed = RunMissed(job="eod", reason="too_late", missed=3, slots=[SLOT], at=SLOT)
            refused = msgspec.structs.replace(finished("8"), refused="no provider")
            await publish(qb, result("7", "MSFT"), finished("7", refreshed=2), refused, missed)
            while lines[-1]["state"] != "missed":
                lines.append(json.loads(await following.stdout.readline()))
    assert [(line["state"], line["run_id"]) for line in lines if line["state"] != "going"] == [
        ("over", "7"), ("over", "8"), ("missed", None)
    ]  # fmt: skip
    over, other, told = (line for line in lines if line["state"] != "going")
    assert (over["late_s"], over["took_s"], over["outcomes"], over["calls"]) == (2.0, 7.0, {"refreshed": 2}, {"tiingo": 2})
    assert (over["reason"], other["reason"]) == (None, "no provider")
    assert (told["missed_slots"], told["reason"]) == (3, "too_late")
    assert all({*line} == {*over} for line in lines)


class Terminal:
    """A terminal that a command writes to, and all that it has shown."""

    def __init__(self) -> None:
        self._mine, self.its = pty.openpty()
        self.shown = ""
        asyncio.get_running_loop().add_reader(self._mine, self._read)

    def _read(self) -> None:
        try:
            self.shown += os.read(self._mine, 65536).decode(errors="replace")
        except OSError:
            asyncio.get_running_loop().remove_reader(self._mine)

    async def shows(self, text: str) -> None:
        """Return once the text has been shown."""
        async with asyncio.timeout(30):
            while text not in self.shown:
                await asyncio.sleep(0.05)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._mine)
        os.close(self._mine)
        os.close(self.its)


@pytest.fixture
async def terminal(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Terminal]:
    for name, value in (("TERM", "xterm"), ("COLUMNS", "120"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    yield terminal
    terminal.close()


async def test_on_a_terminal_each_run_has_a_bar_until_it_is_over(qb: Client, pool: asyncpg.Pool, terminal: Terminal) -> None:
    begun = plan("7", "AAPL", "GONE", "MSFT", at=datetime.now(UTC) - timedelta(seconds=4))
    await keep(pool, begun)
    await publish(qb, begun, result("7", "AAPL"), result("7", "GONE", "failed"))
    async with typed("runs", "--follow", stdout=terminal.its):
        await terminal.shows("eod 7")
        await terminal.shows("2/3")
        await terminal.shows("refreshed=1 failed=1")
        await publish(qb, finished("7", refreshed=2, failed=1))
        await terminal.shows("run 7  eod: 2 refreshed, 1 failed; calls: 2 tiingo; 7.0 s")
        await publish(qb, msgspec.structs.replace(finished("8"), refused="no provider"))
        await terminal.shows("run 8  eod: refused: no provider;")


async def test_on_a_terminal_a_refresh_that_is_waited_for_counts_its_symbols(qb: Client, terminal: Terminal) -> None:
    going_on = asyncio.Event()

    async def answer(message: Any) -> None:
        ask = decode(message.data, RefreshAsk)
        for symbol, whose in (("AAPL", ask.request_id), ("MSFT", "another's")):
            await qb.js.publish("run.result.-", encode(result("7", symbol, request_id=str(whose))))
        await going_on.wait()
        await message.respond(encode(RefreshAnswer(outcomes=[SymbolOutcome(symbol=s, outcome="refreshed") for s in ask.symbols])))

    await qb.nc.subscribe(subjects.REFRESH_ASK, cb=answer)
    await qb.nc.flush()
    async with typed("refresh", "AAPL", "MSFT", "--wait", stdout=asyncio.subprocess.PIPE, stderr=terminal.its) as refreshing:
        await terminal.shows("1/2")
        going_on.set()
        out, _ = await asyncio.wait_for(refreshing.communicate(), 30)
    assert [line.split()[:2] for line in out.decode().splitlines()[1:]] == [["AAPL", "refreshed"], ["MSFT", "refreshed"]]
