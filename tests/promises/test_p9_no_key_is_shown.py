"""P9: a provider's key appears nowhere."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.js.errors import NotFoundError
from redis.asyncio import Redis

from contracts import subjects
from contracts.message import Dataset, Timeframe
from contracts.refresh_request import RefreshRequest
from quotebus.cli import run
from tests.connected.deployment import Deployment, deployed, until
from tests.connected.fake_echo_vendor import FAILING, RESTING, Parrot

KEYS = {"tiingo": "cAnArY7header/a+b=9%c1", "alpha_vantage": "cAnArY7query/a+b=9%c1"}
# Where a person may have put a key by mistake.
MISPLACED = {"BASE_URL": f"https://u:{KEYS['tiingo']}@api.example.com/?token={KEYS['tiingo']}", "API_KEYY": KEYS["tiingo"]}
JOB = '[[job]]\nid = "quotes"\nevery_s = 2\nsymbols = ["KEYDATA"]\ndataset = "quote"\n'
ASKED: list[tuple[str, Dataset, Timeframe | None]] = [
    ("tiingo", "bars", "1d"),
    ("tiingo", "quote", None),
    ("tiingo", "actions", None),
    ("alpha_vantage", "bars", "1d"),
    ("alpha_vantage", "bars", "5m"),
    ("alpha_vantage", "quote", None),
    ("alpha_vantage", "chain", None),
    ("alpha_vantage", "actions", None),
]
TABLES = """
    SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


def shapes(word: str) -> Iterator[bytes]:
    """The word as it is, in hexadecimal, and within base64 wherever it begins."""
    yield word.encode()
    yield word.encode().hex().encode()
    for before in range(3):
        encoded = base64.b64encode(b" " * before + word.encode())
        yield encoded[4 if before else 0 : -4]


# Letters and digits of each key, which percent-encoding and escapes leave as they are.
WORDS = ("cAnArY7header", "cAnArY7query")
CANARY = re.compile(b"|".join(re.escape(shape) for word in WORDS for shape in shapes(word)), re.IGNORECASE)


def leaks(where: str, content: bytes | str) -> list[str]:
    raw = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    return [f"{where}: …{raw[max(0, hit.start() - 80) : hit.end() + 40]!r}" for hit in CANARY.finditer(raw)][:2]


def test_a_leak_would_be_found() -> None:
    key = KEYS["tiingo"]
    for text in (key, f"user:{key}", f"Token {key} x"):
        assert leaks("plain", f"[{text}]")
        assert leaks("base64", base64.b64encode(text.encode()))
        assert leaks("hex", text.encode().hex())
    assert not leaks("other", "*** canary")


def environment(parrot: Parrot) -> dict[str, str]:
    found = {"QUOTEBUS_LOG__LEVEL": "debug", "QUOTEBUS_FETCHER__BREAKER_FAILURES": "1000"}
    for provider, key in KEYS.items():
        table = {"api_key": key, "base_url": parrot.url, "per_second": "0", "per_hour": "0", "per_day": "0"}
        found |= {f"QUOTEBUS_PROVIDERS__{provider}__{name}".upper(): value for name, value in table.items()}
    return found


@pytest.fixture
async def parrot() -> AsyncIterator[Parrot]:
    async with Parrot().serve() as played:
        yield played


@pytest.mark.slow
async def test_a_key_that_the_provider_repeats_everywhere_is_nowhere_in_what_a_run_leaves(
    tmp_path: Path, parrot: Parrot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with deployed(tmp_path, (), environment(parrot)) as deployment:
        (tmp_path / "quotebus.toml").write_text(JOB)
        await asyncio.gather(*(deployment.start(name) for name in ("scheduler", "fetcher", "cacher")))
        await _everything_asked(deployment)
        for name, value in deployment.environment.items():
            monkeypatch.setenv(name, value)
        found = await _in_servers(deployment)
        found += [leak async for leak in _in_commands(deployment, capsys)]
    for file in sorted(tmp_path.rglob("*")):
        if file.is_file():
            found += leaks(str(file.relative_to(tmp_path)), file.read_bytes())
    assert not found, "\n".join(found[:10])
    # It was repeated in every way, or the search would prove nothing.
    assert {what for what, origin in parrot.repeated if origin == "header"} >= {"KEYDATA", *FAILING, *RESTING}
    assert {what for what, origin in parrot.repeated if origin == "query"} >= {"KEYDATA", *FAILING, *RESTING}


async def _everything_asked(deployment: Deployment) -> None:
    """Every dataset and failure of both providers, then the refusals after which they rest."""
    lane = subjects.refresh_request("manual")
    for provider, dataset, timeframe in ASKED:
        request = RefreshRequest(symbols=["KEYDATA", *FAILING], provider=provider, dataset=dataset, timeframe=timeframe)
        await deployment.bus.publish(lane, request)
    await until(lambda: _runs_over(deployment, len(ASKED)))
    for symbol in RESTING:
        for provider in KEYS:
            await deployment.bus.publish(lane, RefreshRequest(symbols=[symbol], provider=provider))
            await until(lambda provider=provider, symbol=symbol: _rests(deployment, provider, symbol))
        if symbol != RESTING[-1]:
            # Nobody waits ten minutes here: a process that knows of no refusal goes on.
            await deployment.services["fetcher"].kill()
            state = await deployment.bus.js.key_value(subjects.STATE_BUCKET)
            for provider in KEYS:
                await state.delete(subjects.key_state(provider, "k1"))
                await deployment.bus.js.purge_stream(subjects.TASKS)
            await deployment.start("fetcher")


async def _runs_over(deployment: Deployment, count: int) -> bool:
    [row] = await deployment.rows("SELECT count(*) AS n FROM runs WHERE finished_at IS NOT NULL AND job IS NULL")
    return bool(row["n"] >= count)


async def _rests(deployment: Deployment, provider: str, symbol: str) -> bool:
    state = "stopped" if symbol == "KEY401" else "cooling_down"
    try:
        kept = await (await deployment.bus.js.key_value(subjects.STATE_BUCKET)).get(subjects.key_state(provider, "k1"))
    except Exception:
        return False
    return bool(json.loads(kept.value or b"{}").get("state") == state)


async def _in_streams(deployment: Deployment) -> AsyncIterator[tuple[str, str]]:
    js = deployment.bus.js
    for info in await js.streams_info():
        for sequence in range(max(1, info.state.first_seq), info.state.last_seq + 1):
            with suppress(NotFoundError):  # deleted, or replaced in its bucket
                message = await js.get_msg(info.config.name or "", seq=sequence)
                yield f"stream {info.config.name}", f"{message.subject} {message.headers} {message.data!r}"


async def _in_tables(deployment: Deployment) -> AsyncIterator[tuple[str, str]]:
    for table in await deployment.rows(TABLES):
        for row in await deployment.rows(f"SELECT t::text AS text FROM {table['name']} t"):
            yield f"table {table['name']}", row["text"]


async def _in_redis(deployment: Deployment) -> AsyncIterator[tuple[str, str]]:
    assert deployment.redis is not None
    async with Redis.from_url(deployment.redis.url) as redis:
        async for key in redis.scan_iter():
            yield f"redis {key!r}", f"{key!r} {await redis.get(key)!r}"


async def _in_health(deployment: Deployment) -> AsyncIterator[tuple[str, str]]:
    async with aiohttp.ClientSession() as session:
        for service in deployment.services.values():
            for path in ("/metrics", "/readyz", "/livez"):
                async with session.get(service.url + path) as response:
                    yield f"{service.name}{path}", f"{response.headers} {await response.text()}"


async def _in_servers(deployment: Deployment) -> list[str]:
    found = []
    for source in (_in_streams, _in_tables, _in_redis, _in_health):
        told = [each async for each in source(deployment)]
        assert len(told) >= 4, f"{source.__name__}: there is hardly anything to search"
        found += [leak for where, content in told for leak in leaks(where, content)]
    return found


def _commands(deployment: Deployment, letters: int, runs: list[str]) -> Iterator[list[str]]:
    for output in ("table", "json"):
        yield from (["status", "-o", output], ["doctor", "-o", output], ["config", "show", "--origin", "-o", output])
        yield from (
            ["runs", "-o", output],
            ["dead", "ls", "-o", output],
            ["jobs", "-o", output],
            ["price", "KEYDATA", "-o", output],
        )
        yield from (["runs", "--run", number, "-o", output] for number in runs)
        for provider, dataset, timeframe in ASKED:
            frame = ["--timeframe", timeframe] if timeframe else []
            yield ["fetch", provider, dataset, "KEYDATA", *FAILING, *frame, "-o", output]
        for symbol in RESTING:
            yield from (["fetch", provider, "bars", symbol, "-o", output] for provider in KEYS)
    yield from (["dead", "show", str(number)] for number in range(1, letters + 1))
    yield ["history", "KEYDATA", "-o", "csv"]


async def _in_commands(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[str]:
    letters = (await deployment.bus.js.stream_info(subjects.DEAD)).state.last_seq
    assert letters > 20
    runs = [row["run_id"] for row in await deployment.rows("SELECT run_id FROM runs ORDER BY run_id LIMIT 10")]
    for command in _commands(deployment, letters, runs):
        for leak in await _typed(command, capsys):
            yield leak


async def _typed(command: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    await asyncio.to_thread(run, command)
    printed: Any = capsys.readouterr()
    assert printed.out or printed.err, command
    return leaks(f"quotebus {' '.join(command)}", printed.out + printed.err)
