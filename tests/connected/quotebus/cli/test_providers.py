"""`quotebus providers`: what is used of each limit, read from the bus alone."""

import csv
import io
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from contracts import subjects
from quotebus.client import Client
from services.fetcher.circuit.key_state import KeyState
from services.fetcher.quota.ledger import QuotaLedger
from services.fetcher.tasks.key_assignment import KeySymbolQuota
from services.runtime.bus import Bus, connect
from services.runtime.quota import SYMBOLS, QuotaWindow
from services.runtime.settings import NatsSettings

ZONE = "America/New_York"


@pytest.fixture
def two_keys(monkeypatch: pytest.MonkeyPatch, servers: None) -> None:
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__API_KEY", "canary-one")
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__KEYS__SECOND__API_KEY", "canary-two")
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__KEYS__SECOND__PER_HOUR", "5000")
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__KEYS__THIRD__PER_DAY", "7")
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__ALPHA_VANTAGE__PRIORITY", "5")


async def test_each_limit_of_each_key_has_a_line_without_a_fetcher(two_keys: None, quotebus: Any, qb: Client) -> None:
    bus = Bus(qb.nc, qb.js)
    hour = QuotaWindow("tiingo", "k1", "hour", 50, ZONE)
    for _ in range(3):
        await QuotaLedger(bus, [hour]).acquire()
    await KeySymbolQuota(bus, QuotaWindow("tiingo", "k1", SYMBOLS, 500, ZONE)).take(["A", "B"])
    until = datetime.now(UTC) + timedelta(minutes=10)
    resting = KeyState(provider="tiingo", key="second", state="cooling_down", until=until, reason="too many requests", pace=0.5)
    resting = msgspec.structs.replace(resting, slowed_at=datetime.now(UTC))
    await (await qb.js.key_value(subjects.STATE_BUCKET)).put(subjects.key_state("tiingo", "second"), msgspec.json.encode(resting))
    ended = await quotebus("providers", "-o", "ndjson")
    assert ended.code == 0, ended.err
    found = {(row["provider"], row["key"], row["window"]): row for row in ended.rows}
    used = {window: found["tiingo", "k1", window]["used"] for window in ("hour", "day", "day-live", "day-backfill", "symbols")}
    assert used == {"hour": 3, "day": 0, "day-live": 0, "day-backfill": 0, "symbols": 2}
    assert 3590 < found["tiingo", "k1", "hour"]["resets_in_s"] <= 3601
    assert 0 < found["tiingo", "k1", "symbols"]["resets_in_s"] <= 31 * 86400
    second = found["tiingo", "second", "hour"]
    assert (second["state"], second["limit"], second["pace"], second["detail"]) == ("cooling_down", 5000, 0.5, "too many requests")
    assert found["tiingo", "k1", "hour"]["state"] == "ok"
    assert found["synthetic", "k1", "none"]["state"] == "ok"
    assert "canary" not in ended.out


async def test_a_limit_that_is_used_up_says_so(servers: None, monkeypatch: pytest.MonkeyPatch, quotebus: Any) -> None:
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__YAHOO__WINDOWS__600S", "2")
    assert (await quotebus("migrate")).code == 0
    async with connect(NatsSettings(url=os.environ["QUOTEBUS_NATS__URL"]), "test") as bus:
        await QuotaLedger(bus, [QuotaWindow("yahoo", "k1", "600s", 2)]).acquire(2)
    rows = {row["window"]: row for row in (await quotebus("providers", "-o", "ndjson")).rows if row["provider"] == "yahoo"}
    assert (rows["600s"]["state"], rows["600s"]["used"]) == ("quota_spent", 2)
    assert 590 < rows["600s"]["resets_in_s"] <= 601
    assert (rows["second"]["state"], rows["second"]["used"], rows["second"]["resets_in_s"]) == ("ok", 0, None)


async def test_what_keeps_a_provider_from_working_is_said_with_the_variable_to_set(
    two_keys: None, quotebus: Any, qb: Client
) -> None:
    found = {(row["provider"], row["key"]): row for row in (await quotebus("providers", "-o", "ndjson")).rows}
    third, alpha, yahoo = found["tiingo", "third"], found["alpha_vantage", "k1"], found["yahoo", None]
    assert (third["state"], third["detail"]) == ("no_key", "set QUOTEBUS_PROVIDERS__TIINGO__KEYS__THIRD__API_KEY")
    assert (alpha["state"], alpha["detail"]) == ("no_key", "set QUOTEBUS_PROVIDERS__ALPHA_VANTAGE__API_KEY")
    assert (yahoo["state"], yahoo["detail"]) == ("off", "it has no table [providers.yahoo]")


async def test_providers_print_as_a_table_and_as_csv_too(two_keys: None, quotebus: Any, qb: Client) -> None:
    table = (await quotebus("providers")).out
    assert table.splitlines()[0].split() == [
        "provider", "key", "state", "window", "used", "limit", "resets_in_s", "pace", "until", "detail",
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO((await quotebus("providers", "-o", "csv")).out)))
    assert {"tiingo", "synthetic", "yahoo"} <= {row["provider"] for row in rows}


async def test_before_a_migration_the_ledgers_are_said_to_be_missing(
    two_keys: None, quotebus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "run `quotebus migrate`" in (await quotebus("providers")).err
    assert (await quotebus("migrate")).code == 0
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__PER_HOUR", "60")
    [hour] = [
        row
        for row in (await quotebus("providers", "-o", "ndjson")).rows
        if (row["key"], row["window"], row["limit"]) == ("k1", "hour", 60)
    ]
    assert (hour["used"], hour["detail"]) == (None, "its ledger is missing: run `quotebus migrate`")
