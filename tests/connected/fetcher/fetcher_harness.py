"""Harness of fetcher tests: settings, a running fetcher, and what it stored and reported."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from contracts import subjects
from contracts.message import Lane, decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunResult
from services.fetcher.accounts import accounts, quotas
from services.fetcher.app import run_workers
from services.fetcher.circuit.key_state import KeyState
from services.fetcher.http.client import open_session
from services.runtime.bus import Bus
from services.runtime.health import Health
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import topology
from services.runtime.settings import FetcherSettings, NatsSettings, PostgresSettings, ProviderSettings, Settings


def settings_for(nats_url: str, **providers: ProviderSettings) -> Settings:
    return Settings(
        nats=NatsSettings(url=nats_url),
        postgres=PostgresSettings(dsn="postgresql://nobody@127.0.0.1:1/none"),
        fetcher=FetcherSettings(ack_wait_s=5),
        providers=providers,
    )


@asynccontextmanager
async def fetching(bus: Bus, settings: Settings) -> AsyncIterator[None]:
    known = accounts(settings)
    await provision(bus.js, topology(settings, quotas(settings)))
    async with open_session() as session, run_workers(settings, known, bus, session, Health("fetcher")):
        yield


async def stored(bus: Bus, stream: str, pattern: str) -> list[bytes]:
    """Every message of a stream whose subject matches."""
    found = []
    state = (await bus.js.stream_info(stream)).state
    for sequence in range(max(1, state.first_seq), state.last_seq + 1):
        raw = await bus.js.get_msg(stream, seq=sequence)
        if (raw.subject or "").startswith(pattern):
            found.append(raw.data or b"")
    return found


async def results(bus: Bus, count: int) -> list[RunResult]:
    """The first `count` results."""
    async with asyncio.timeout(20):
        while len(found := await stored(bus, subjects.RUNS, "run.result")) < count:
            await asyncio.sleep(0.05)
    return [decode(body, RunResult) for body in found]


async def state_of(bus: Bus, provider: str) -> dict[str, Any]:
    entry = await (await bus.js.key_value(subjects.STATE_BUCKET)).get(subjects.key_state(provider, "k1"))
    return msgspec.structs.asdict(msgspec.json.decode(entry.value or b"", type=KeyState))


async def is_in_state(bus: Bus, provider: str, *states: str) -> bool:
    try:
        return (await state_of(bus, provider))["state"] in states
    except Exception:
        return False


async def run(bus: Bus, *symbols: str, lane: Lane = "live", **wish: Any) -> list[RunResult]:
    """The results of one request."""
    ack = await bus.publish(subjects.refresh_request(lane), RefreshRequest(symbols=list(symbols), **wish))
    async with asyncio.timeout(20):
        while True:
            told = [decode(body, RunResult) for body in await stored(bus, subjects.RUNS, "run.result")]
            if len(mine := [result for result in told if result.run_id == str(ack.seq)]) >= len(symbols):
                return mine
            await asyncio.sleep(0.02)
