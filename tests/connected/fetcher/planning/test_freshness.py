"""What is not asked for, on a real NATS: nothing can be new, or nobody can bring it in time; each symbol says which."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from prometheus_client import REGISTRY

from contracts import subjects
from contracts.message import encode
from contracts.refresh_request import RefreshRequest
from contracts.trading_sessions import TradingSessions
from services.fetcher.accounts import quotas
from services.runtime.bus import Bus
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import topology
from services.runtime.settings import FetcherSettings, ProviderSettings
from tests.connected.deployment import until
from tests.connected.fake_tiingo import PlayedTiingo
from tests.connected.fetcher.fetcher_harness import fetching, is_in_state, run, settings_for

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def sessions(*days: datetime) -> TradingSessions:
    """An exchange that is open for an hour on these days, and known for a month around today."""
    return TradingSessions(
        calendar="XTST", timezone="UTC", first=(TODAY - timedelta(days=15)).date(), last=(TODAY + timedelta(days=15)).date(),
        day=[each.date() for each in days], open=list(days), close=[each + timedelta(hours=1) for each in days],
        break_start=[None] * len(days), break_end=[None] * len(days), source="test", made_at=TODAY,
    )  # fmt: skip


async def know(bus: Bus, known: TradingSessions) -> None:
    await (await bus.js.key_value(subjects.SESSIONS_BUCKET)).put(known.calendar, encode(known))


async def test_of_a_closed_exchange_the_latest_is_asked_for_once_and_by_hand_always(bus: Bus, nats_url: str) -> None:
    settings = settings_for(nats_url, synthetic=ProviderSettings(enabled=True))
    await provision(bus.js, topology(settings, quotas(settings)))
    await know(bus, sessions(TODAY - timedelta(days=7)))
    async with fetching(bus, settings):
        wish = {"dataset": "quote", "calendar": "XTST"}
        first = await run(bus, "A", **wish)
        again = await run(bus, "A", **wish)
        by_hand = await run(bus, "A", lane="manual", **wish)
        await know(bus, sessions(TODAY - timedelta(days=7), TODAY + timedelta(hours=datetime.now(UTC).hour)))
        opened = await run(bus, "A", **wish)
    assert [(result.outcome, result.reason) for [result] in (first, again, by_hand, opened)] == [
        ("refreshed", None),
        ("skipped", "closed" if TODAY.weekday() >= 5 else "holiday"),
        ("refreshed", None),
        ("refreshed", None),
    ]


async def test_what_cannot_be_brought_before_it_is_worthless_is_skipped_and_says_why(bus: Bus, nats_url: str) -> None:
    async with PlayedTiingo().serve() as tiingo:
        tiingo.refusals["first"] = (401, "")
        account = ProviderSettings(base_url=tiingo.url, api_key="first", per_second=0, per_hour=0, per_day=0)
        async with fetching(bus, settings_for(nats_url, tiingo=account)):
            await run(bus, "A", lane="manual")
            await until(lambda: is_in_state(bus, "tiingo", "stopped"))
            soon = datetime.now(UTC) + timedelta(seconds=60)
            [result] = await run(bus, "B", expires_at=soon)
    assert (result.outcome, result.reason, result.provider) == ("skipped", "unauthorized", "tiingo")
    assert "later than this is worth a call" in str(result.message)


async def test_a_pair_among_the_symbols_of_a_closed_exchange_is_asked_for_all_the_same(bus: Bus, nats_url: str) -> None:
    settings = settings_for(nats_url, synthetic=ProviderSettings(enabled=True))
    await provision(bus.js, topology(settings, quotas(settings)))
    await know(bus, sessions(TODAY - timedelta(days=7)))
    async with fetching(bus, settings):
        wish = {"dataset": "quote", "calendar": "XTST"}
        await run(bus, "A", "BTC-USD", **wish)
        again = await run(bus, "A", "BTC-USD", **wish)
    assert {result.symbol: result.outcome for result in again} == {"A": "skipped", "BTC-USD": "refreshed"}


async def test_an_answer_of_somebody_who_would_not_be_asked_now_is_not_enough(bus: Bus, nats_url: str) -> None:
    async with PlayedTiingo().serve() as tiingo:
        account = ProviderSettings(base_url=tiingo.url, api_key="k", per_second=0, per_hour=0, per_day=0)
        settings = settings_for(nats_url, tiingo=account, synthetic=ProviderSettings(enabled=True))
        await provision(bus.js, topology(settings, quotas(settings)))
        async with fetching(bus, settings):
            first = await run(bus, "A", provider="synthetic", max_age_s=3600)
            again = await run(bus, "A", provider="synthetic", max_age_s=3600)
            real = await run(bus, "A", max_age_s=3600)
    found = [(result.outcome, result.reason, result.provider) for [result] in (first, again, real)]
    assert found == [("refreshed", None, "synthetic"), ("skipped", "fresh", None), ("refreshed", None, "tiingo")]


async def test_without_a_calendar_bars_of_days_of_plain_tickers_are_not_asked_for_again_once_the_last_session_is_there(
    bus: Bus, nats_url: str
) -> None:
    async with PlayedTiingo().serve() as tiingo:
        account = ProviderSettings(base_url=tiingo.url, api_key="k", per_second=0, per_hour=0, per_day=0)
        settings = settings_for(nats_url, tiingo=account)
        await provision(bus.js, topology(settings, quotas(settings)))
        outcomes = {}
        async with fetching(bus, settings):
            for name, day in (
                ("unknown", None),
                ("long ago", datetime(2023, 1, 3, tzinfo=UTC)),
                ("later", TODAY - timedelta(days=3)),
            ):
                if day is not None:
                    known = msgspec.structs.replace(sessions(day), calendar="XNYS", first=day.date())
                    await know(bus, known)
                await run(bus, "A", "VOD.L")
                outcomes[name] = {result.symbol: result.outcome for result in await run(bus, "A", "VOD.L")}
    asked = {"A": "refreshed", "VOD.L": "refreshed"}
    # What the vendor has ends on 2 January 2026: of a session since then its bar is missing, so it may still come.
    assert outcomes == {"unknown": asked, "long ago": {**asked, "A": "skipped"}, "later": asked}


@pytest.mark.parametrize(
    ("status", "per_day", "state", "reason"), [(0, 1, "quota_spent", "no_budget"), (500, 0, "breaker_open", "breaker")]
)
async def test_a_spent_day_and_an_open_breaker_are_reasons_too_and_counted(
    bus: Bus, nats_url: str, status: int, per_day: int, state: str, reason: str
) -> None:
    # Where it is noon: near midnight no call is made.
    noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
    async with PlayedTiingo().serve() as tiingo:
        tiingo.refusals |= {"k": (status, "")} if status else {}
        limits = {"per_second": 0, "per_hour": 0, "per_day": per_day, "day_zone": noon, "kept_for_manual": 0, "kept_for_live": 0}
        settings = settings_for(nats_url, tiingo=ProviderSettings(base_url=tiingo.url, api_key="k", **limits))
        fetcher = FetcherSettings(ack_wait_s=5, breaker_failures=1, breaker_pause_s=3600)
        labels = {"provider": "tiingo", "outcome": "skipped", "reason": reason}
        before = REGISTRY.get_sample_value("quotebus_results_total", labels) or 0.0
        async with fetching(bus, msgspec.structs.replace(settings, fetcher=fetcher)):
            await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["A", "B"]))
            await until(lambda: is_in_state(bus, "tiingo", state))
            [result] = await run(bus, "C", expires_at=datetime.now(UTC) + timedelta(seconds=60))
        assert (result.outcome, result.reason, result.provider) == ("skipped", reason, "tiingo")
        assert REGISTRY.get_sample_value("quotebus_results_total", labels) == before + 1
