"""Every vendor, played by `quotebus simulate` with tiny quotas and with faults, asked by two fetchers that are killed."""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
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
A_MINUTE, A_DAY = 24, 12
# In a window of a minute a call may be a second late and still not be counted twice, however busy the machine is.
ALLOWED = {"--per-second": 0, "--per-minute": A_MINUTE, "--per-hour": 0, "--per-day": 0, "--per-month": 0}
SYMBOLS = 26
# After a burst of eight calls there is one in 2.5 s: time for 22 calls each, of which half are made before the second kill.
LASTS = timedelta(seconds=35)
RESULTS = "SELECT symbol, outcome, reason, provider FROM results WHERE planned"
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
async def test_every_symbol_of_every_provider_is_stored_or_explained_and_no_quota_is_overspent(tmp_path: Path):
    if (datetime.now(UTC) + timedelta(minutes=2)).time() < time(0, 3):
        pytest.skip("too near to midnight UTC for a day's calls")
    faults = {"--faults": 0.05, "--latency-ms": 20}
    others = [name for name in NAMES if name != SMALL]
    async with (
        simulated(others, {**ALLOWED, **faults}) as of_the_others,
        simulated([SMALL], {**ALLOWED, **faults, "--per-day": A_DAY}) as of_the_small,
    ):
        # A fault, or a symbol of a larger plan, may spoil a request for all who share it: few do here.
        more = {"TIMEOUT_S": "2", "SYMBOLS_PER_CALL": "2", "BURST": "8"}
        environment = {**of_the_others, **of_the_small}
        environment |= {f"QUOTEBUS_PROVIDERS__{name.upper()}__{key}": value for name in NAMES for key, value in more.items()}
        # All of the day is for whoever asks.
        environment[f"QUOTEBUS_PROVIDERS__{SMALL.upper()}__KEPT_FOR_MANUAL"] = "0"
        async with deployed(tmp_path, ("fetcher", "cacher"), environment) as deployment:
            await deployment.start("second", "fetcher")
            await _ask_for_all(deployment)
            for victim, share in (("fetcher", 0.25), ("second", 0.5)):
                await until(partial(_is_asked, environment, share * A_MINUTE * len(NAMES)))
                await deployment.services[victim].kill()
                await deployment.start(victim, "fetcher")
            await until(lambda: _is_over(deployment))
            await _check_the_ends(deployment)
            await _check_what_is_told(deployment)
        for name in NAMES:
            told = await calls(environment, name)
            assert sum(call.weight for call in told.calls) >= A_DAY - 1
            assert not told.violations, f"{name}: {told.violations[:3]}"
            assert not told.outcomes.keys() & {"throttled", "no_key", "wrong_key", "no_such_path"}, told.outcomes


async def _ask_for_all(deployment: Deployment) -> None:
    until_then, today = datetime.now(UTC) + LASTS, datetime.now(UTC).date()
    # So near that no vendor has to tell its whole history.
    days = today - timedelta(days=30), today - timedelta(days=4)
    for name in NAMES:
        request = RefreshRequest(symbols=symbols_of(name), provider=name, start=days[0], end=days[1], expires_at=until_then)
        await deployment.bus.publish(subjects.refresh_request("live"), request)


async def _check_the_ends(deployment: Deployment) -> None:
    stored = {row["symbol"] for row in await deployment.rows(STORED)}
    results = {row["symbol"]: row for row in await deployment.rows(RESULTS)}
    assert results.keys() == {symbol for name in NAMES for symbol in symbols_of(name)}
    for symbol, row in results.items():
        if row["outcome"] in ("refreshed", "merged"):
            assert symbol in stored, row
        elif row["outcome"] == "empty":
            assert symbol.startswith("DEAD"), row
        else:
            assert row["outcome"] in ("failed", "expired", "skipped") and row["reason"], row
    # Beside what the quotas kept back, only the symbols that a fault has met are not there.
    ends = [row["outcome"] for symbol, row in results.items() if not symbol.startswith(("DEAD", "PAID"))]
    assert ends.count("failed") <= 0.1 * len(ends)
    assert len(stored) >= 0.6 * len(ends)
    assert ends.count("expired") >= SYMBOLS - A_DAY


async def _check_what_is_told(deployment: Deployment) -> None:
    runs = await _told(deployment, "runs")
    assert sum(sum(run["outcomes"].values()) for run in runs) == len(NAMES) * (SYMBOLS + 2)
    windows = await _told(deployment, "providers")
    assert {row["provider"] for row in windows if row["window"] == "minute"} == set(NAMES)
    assert all(row["used"] <= row["limit"] for row in windows if row["limit"])
    [day] = [row for row in windows if row["provider"] == SMALL and row["window"] == "day"]
    assert day["used"] >= A_DAY - 1


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


async def _is_over(deployment: Deployment) -> bool:
    [row] = await deployment.rows("SELECT count(*) AS runs FROM runs WHERE finished_at IS NOT NULL")
    return bool(row["runs"] == len(NAMES))


async def _is_asked(environment: Mapping[str, str], count: float) -> bool:
    return sum([(await calls(environment, name)).count for name in NAMES]) >= count
