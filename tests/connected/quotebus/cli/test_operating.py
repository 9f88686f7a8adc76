"""What an operator types: migrate, doctor, status."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.message import encode
from quotebus.client import Client
from services.fetcher.auth.token_store import EncryptedTokenStore
from services.fetcher.auth.tokens import Tokens
from services.fetcher.provider import Credentials


async def test_migrate_is_checked_done_and_then_nothing_is_left_to_do(quotebus: Any) -> None:
    pending = await quotebus("migrate", "--check", "-o", "ndjson")
    assert pending.code == 1
    assert "stream PRICES: missing" in [row["pending"] for row in pending.rows]
    assert any(row["pending"].startswith("migration 0001") for row in pending.rows)
    assert (await quotebus("migrate")).code == 0
    ended = await quotebus("migrate", "--check")
    assert (ended.code, ended.out, ended.err) == (0, "", "nothing is pending\n")


async def test_before_a_migration_commands_say_to_migrate(quotebus: Any) -> None:
    for command in (["refresh", "AAPL"], ["jobs"], ["dead", "ls"], ["runs"], ["price", "AAPL"], ["symbols"], ["watch", "-n", "1"]):
        ended = await quotebus(*command)
        assert ended.code == 2
        assert "run `quotebus migrate`" in ended.err, ended.err


async def test_the_doctor_finds_nothing_wrong_with_what_was_migrated(quotebus: Any, qb: Client) -> None:
    ended = await quotebus("doctor", "-o", "ndjson")
    states = {row["what"]: row["state"] for row in ended.rows}
    assert ended.code == 0, ended.out
    assert set(states.values()) == {"ok"}, ended.out
    assert {
        "settings",
        "providers",
        "nats",
        "streams",
        "clock",
        "dead letters",
        "symbols",
        "backlog",
        "postgres",
        "migrations",
        "redis",
    } == set(states)


async def test_the_doctor_says_what_is_wrong_and_what_to_do(quotebus: Any, qb: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await qb.js.delete_consumer(subjects.PRICES, "cacher")
    letter = DeadLetter(reason="not_found", message="gone", service="fetcher", subject="task.x", body="{}", at=datetime.now(UTC))
    await qb.js.publish(subjects.dead("not_found"), encode(letter))
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__ENABLED", "true")
    monkeypatch.setenv("QUOTEBUS_REDIS__URL", "redis://127.0.0.1:9/0")
    ended = await quotebus("doctor", "-o", "ndjson")
    rows = {row["what"]: row for row in ended.rows}
    assert ended.code == 1
    assert (rows["streams"]["state"], rows["streams"]["do"]) == ("fail", "run `quotebus migrate`")
    assert "consumer cacher: missing" in rows["streams"]["found"]
    assert rows["dead letters"]["found"] == "in the last 24 h: 1 not_found"
    assert rows["redis"]["state"] == "warn"
    assert rows["provider keys"]["do"] == "set QUOTEBUS_PROVIDERS__TIINGO__API_KEY"
    monkeypatch.setenv("QUOTEBUS_NATS__URLL", "x")
    ended = await quotebus("doctor")
    assert ended.code == 1
    assert ended.out.startswith("fail  settings       environment: QUOTEBUS_NATS__URLL: no such setting; did you mean")


async def test_the_doctor_tells_how_long_a_login_lasts(quotebus: Any, qb: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    access = Credentials(api_key="app-7f3a", api_secret="secret-9b1c", refresh_token="refresh-0")
    for name in ("api_key", "api_secret", "refresh_token"):
        monkeypatch.setenv(f"QUOTEBUS_PROVIDERS__SCHWAB__{name.upper()}", getattr(access, name))
    assert (await quotebus("migrate")).code == 0
    store = EncryptedTokenStore(await qb.js.key_value(subjects.TOKENS_BUCKET), "schwab", access)
    seen = []
    for ago, dead in (
        (None, ""),
        (timedelta(days=1), ""),
        (timedelta(days=6, hours=2), ""),
        (timedelta(days=1), "schwab: it is dead"),
    ):
        if ago is not None:
            tokens = Tokens(login="mark", login_at=datetime.now(UTC) - ago, refresh_token="canary-1", revoked_reason=dead)
            await store.write(msgspec.json.encode(tokens), (await store.read()).revision)
        ended = await quotebus("doctor", "-o", "ndjson")
        [row] = [row for row in ended.rows if row["what"] == "login"]
        seen.append((row["state"], ended.code))
        assert "canary" not in ended.out
        assert "schwab" in row["found"]
    assert seen == [("warn", 0), ("ok", 0), ("warn", 0), ("fail", 1)]
    assert "REFRESH_TOKEN" in row["do"]


async def test_the_status_tells_who_answers_and_what_waits(quotebus: Any, qb: Client) -> None:
    reports = [
        {"service": "scheduler", "ready": True, "parts": {"clock": "ok"}},
        {"service": "fetcher", "ready": False, "parts": {"bus": "ok", "plan": "waiting for the streams"}},
    ]

    async def answer(message: Msg) -> None:
        for report in reports:
            await message.respond(json.dumps(report).encode())

    await qb.nc.subscribe("status.ask", cb=answer)
    await qb.nc.flush()
    await qb.request_refresh(["AAPL"])
    ended = await quotebus("status", "-o", "ndjson")
    rows = {row["part"]: row for row in ended.rows}
    assert ended.code == 1
    assert [rows[name]["state"] for name in ("scheduler", "fetcher", "cacher")] == ["ready", "not ready", "no answer"]
    assert rows["fetcher"]["detail"] == "plan: waiting for the streams"
    assert rows["backlog"]["detail"] == "planner=1"
    assert rows["newest price"]["state"] == "none"
