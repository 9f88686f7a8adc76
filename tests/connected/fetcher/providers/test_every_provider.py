"""Every vendor, played by `quotebus simulate` with tiny quotas and with faults, asked by two fetchers that are killed."""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import aiohttp
import msgspec
import pytest

from contracts import subjects
from contracts.refresh_request import RefreshRequest
from quotebus.simulate.server import CALLS_PATH, Calls
from quotebus.simulate.vendor import vendors
from tests.connected.deployment import Deployment, deployed, until

NAMES = sorted(vendors())
SMALL = "marketstack"  # has a day's allowance that is less than what is asked of it
# An hour and a day, as both outlast this test: how long a call is under way then changes no count.
AN_HOUR, A_DAY = 24, 12
ALLOWED = {"--per-second": 0, "--per-minute": 0, "--per-hour": AN_HOUR, "--per-day": 0, "--per-month": 0}
SYMBOLS = 26
# Longer than this test takes on any machine: what is over, is over because it was stored or given up on.
WORTH_A_CALL = timedelta(hours=1)
PATIENCE_S = 600.0  # however busy the machine is
RESULTS = "SELECT symbol, outcome, reason, provider FROM results WHERE planned AND outcome IS NOT NULL"
STORED = "SELECT DISTINCT i.symbol FROM bars b JOIN instruments i ON i.id = b.instrument"


def symbols_of(name: str) -> list[str]:
    """So many that no other provider is asked for, one of which is unknown and one of a larger plan."""
    prefix = ascii_uppercase[NAMES.index(name)]
    last = islice(product(ascii_uppercase, repeat=2), SYMBOLS)
    return [*(prefix + "".join(letters) for letters in last), f"DEAD{prefix}", f"PAID{prefix}"]


@asynccontextmanager
async def simulated(names: Sequence[str], options: Mapping[str, object]) -> AsyncIterator[dict[str, str]]:
    """The environment of quotebus, while they are played in a process of their own."""
    arguments = [str(part) for option in options.items() for part in option]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from quotebus.cli import main; main()",
        "simulate",
        *names,
        *arguments,
        stdout=PIPE,
    )
    assert process.stdout is not None
    try:
        lines = [(await process.stdout.readline()).decode() for _ in names]
        yield dict(re.findall(r"(QUOTEBUS_\w+)=(\S+)", "".join(lines)))
    finally:
        process.terminate()
        assert await process.wait() == 0


def base_url(environment: Mapping[str, str], name: str) -> str:
    return environment[f"QUOTEBUS_PROVIDERS__{name.upper()}__BASE_URL"]


async def calls(environment: Mapping[str, str], name: str) -> Calls:
    """What a vendor counted by its own clock."""
    async with aiohttp.ClientSession() as session, session.get(base_url(environment, name) + CALLS_PATH) as response:
        return msgspec.json.decode(await response.read(), type=Calls)


@pytest.mark.slow
async def test_every_symbol_of_every_provider_is_stored_or_explained_or_waits_and_no_quota_is_overspent(tmp_path: Path):
    faults = {"--faults": 0.05, "--latency-ms": 20}
    others = [name for name in NAMES if name != SMALL]
    async with (
        simulated(others, {**ALLOWED, **faults}) as of_the_others,
        simulated([SMALL], {**ALLOWED, **faults, "--per-day": A_DAY}) as of_the_small,
    ):
        environment = {**of_the_others, **of_the_small, **_settings()}
        async with deployed(tmp_path, ("fetcher", "cacher"), environment) as deployment:
            await deployment.start("second", "fetcher")
            await _ask_for_all(deployment)
            for victim, share in (("fetcher", 0.15), ("second", 0.3)):
                await until(partial(_is_asked, environment, share * AN_HOUR * len(NAMES)), PATIENCE_S)
                await deployment.services[victim].kill()
                await deployment.start(victim, "fetcher")
            await until(partial(_is_over, deployment), PATIENCE_S)
            await _check_the_ends(deployment)
            await _check_what_is_told(deployment)
        for name in NAMES:
            told = await calls(environment, name)
            assert not told.violations, f"{name}: {told.violations[:3]}"
            assert not told.outcomes.keys() & {"throttled", "no_key", "wrong_key", "no_such_path"}, told.outcomes


def _settings() -> dict[str, str]:
    # A fault, or a symbol of a larger plan, may spoil a request for all who share it: few do here.
    own = {"TIMEOUT_S": "3", "SYMBOLS_PER_CALL": "2", "BURST": str(AN_HOUR)}
    # All of the hour and the day is for whoever asks.
    own |= {"KEPT_FOR_MANUAL": "0", "KEPT_FOR_LIVE": "0"}
    settings = {f"QUOTEBUS_PROVIDERS__{name.upper()}__{key}": value for name in NAMES for key, value in own.items()}
    # Where it is noon: near midnight no call is made.
    return settings | {f"QUOTEBUS_PROVIDERS__{SMALL.upper()}__DAY_ZONE": f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"}


async def _ask_for_all(deployment: Deployment) -> None:
    now = datetime.now(UTC)
    # So near that no vendor has to tell its whole history.
    days = {"start": now.date() - timedelta(days=30), "end": now.date() - timedelta(days=4)}
    for name in NAMES:
        request = RefreshRequest(symbols=symbols_of(name), provider=name, expires_at=now + WORTH_A_CALL, **days)
        await deployment.bus.publish(subjects.refresh_request("live"), request)


async def _is_over(deployment: Deployment) -> bool:
    """Tell whether nothing more will happen within the hour: each provider's symbols are over, or its permits are spent."""
    ended = {row["symbol"] for row in await deployment.rows(RESULTS)}
    waiting = await _waiting(deployment)
    left = {name: set(symbols_of(name)) - ended for name in NAMES}
    if any(symbols - waiting for symbols in left.values()):
        return False
    spent = await _spent(deployment)
    return all(name in spent for name in NAMES if left[name])


async def _waiting(deployment: Deployment) -> set[str]:
    """The symbols that still have a task."""
    state = (await deployment.bus.js.stream_info(subjects.TASKS, subjects_filter="task.>")).state
    return {subject.rpartition(".")[2] for subject in state.subjects or {}}


async def _spent(deployment: Deployment) -> set[str]:
    """The providers whose allowance is used up, as the ledger says."""
    rows = {(row["provider"], row["window"]): row for row in await _told(deployment, "providers")}
    tightest = {name: rows[name, "day" if name == SMALL else "hour"] for name in NAMES}
    # A call of two symbols may count twice, and then find no room for its second half.
    return {name for name, row in tightest.items() if row["used"] >= row["limit"] - 1}


async def _check_the_ends(deployment: Deployment) -> None:
    stored = {row["symbol"] for row in await deployment.rows(STORED)}
    results = {row["symbol"]: row for row in await deployment.rows(RESULTS)}
    assert results.keys() | await _waiting(deployment) == {symbol for name in NAMES for symbol in symbols_of(name)}
    for symbol, row in results.items():
        if row["outcome"] in ("refreshed", "merged"):
            assert symbol in stored, row
        elif row["outcome"] == "empty":
            assert symbol.startswith("DEAD"), row
        else:
            assert row["outcome"] in ("failed", "skipped") and row["reason"], row
    # Beside what the quotas keep back, only the symbols that a fault has met are not there.
    ends = [row["outcome"] for symbol, row in results.items() if not symbol.startswith(("DEAD", "PAID"))]
    assert ends.count("failed") <= 0.1 * len(ends)
    for name in NAMES:
        assert stored & set(symbols_of(name)), f"nothing of {name} is stored"


async def _check_what_is_told(deployment: Deployment) -> None:
    runs = await _told(deployment, "runs")
    assert len(runs) == len(NAMES)
    # The outcomes of a run are counted when it is over.
    assert {sum(run["outcomes"].values()) for run in runs if run["outcomes"]} <= {SYMBOLS + 2}
    windows = await _told(deployment, "providers")
    assert {row["provider"] for row in windows if row["window"] == "hour"} == set(NAMES)
    assert all(row["used"] <= row["limit"] for row in windows if row["limit"])
    assert SMALL in await _spent(deployment)


async def _told(deployment: Deployment, command: str) -> list[dict[str, Any]]:
    """What a command of quotebus shows beside this deployment."""
    program = "from quotebus.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, command, "-o", "json", stdout=PIPE, env={**os.environ, **deployment.environment}
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    rows: list[dict[str, Any]] = json.loads(out)
    return rows


async def _is_asked(environment: Mapping[str, str], count: float) -> bool:
    return sum([(await calls(environment, name)).count for name in NAMES]) >= count
