"""Whether anything can be new, around a Christmas with a half day."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.trading_sessions import TradingSessions
from services.fetcher.planning.freshness import MarketHours
from services.runtime.schedules.sessions import Calendar

OPEN = {22: 21, 23: 21, 24: 18, 26: 21, 29: 21}  # December 2025, to this hour UTC
NEW_YORK = Calendar(
    TradingSessions(
        calendar="XNYS", timezone="America/New_York", first=date(2025, 12, 22), last=date(2025, 12, 29),
        day=[date(2025, 12, day) for day in OPEN], open=[datetime(2025, 12, day, 14, 30, tzinfo=UTC) for day in OPEN],
        close=[datetime(2025, 12, day, hour, tzinfo=UTC) for day, hour in OPEN.items()],
        break_start=[None] * 5, break_end=[None] * 5, source="test", made_at=datetime(2025, 12, 1, tzinfo=UTC),
    )
)  # fmt: skip


AS_LATE = datetime.max.replace(tzinfo=UTC)  # as new as the answer itself


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2025, 12, day, hour, minute, tzinfo=UTC)


def why(fetched: datetime, now: datetime, delay_s: float = 0.0, *, newest: datetime | None = AS_LATE, **kind: Any) -> str | None:
    terms: dict[str, Any] = {"dataset": "quote", "timeframe": None, **kind}
    return MarketHours(NEW_YORK, delay_s=delay_s, **terms).why_unchanged(fetched, fetched if newest is AS_LATE else newest, now)


@pytest.mark.parametrize(
    ("fetched", "now", "expected"),
    [
        (at(22, 22), at(23, 3), "closed"),  # the night
        (at(22, 22), at(23, 14, 31), None),  # it is open
        (at(22, 20), at(22, 22), None),  # the last answer is from before the close
        (at(22, 21, 10), at(22, 22), None),  # or from while the close settled
        (at(24, 18, 20), at(24, 20), "closed"),  # a half day
        (at(24, 19), at(25, 15), "holiday"),
        (at(24, 19), at(26, 15), None),
        (at(26, 22), at(27, 15), "closed"),  # a Saturday
    ],
)
def test_quotes_are_not_asked_for_again_while_the_exchange_is_closed(
    fetched: datetime, now: datetime, expected: str | None
) -> None:
    assert why(fetched, now) == expected


def test_the_providers_delay_is_waited_for() -> None:
    assert why(at(22, 21, 20), at(22, 22)) == "closed"
    assert why(at(22, 21, 20), at(22, 22), delay_s=900) is None


def test_a_day_s_bar_may_be_corrected_until_late_at_night() -> None:
    assert why(at(22, 22), at(23, 3), dataset="bars", timeframe="1d") is None
    assert why(at(27, 10), at(28, 10), dataset="bars", timeframe="1d") == "closed"
    assert why(at(22, 22), at(23, 3), dataset="bars", timeframe="5m") == "closed"


def test_what_is_announced_at_any_time_and_what_nobody_knows_is_asked_for() -> None:
    assert why(at(24, 19), at(25, 15), dataset="actions") is None
    assert why(at(29, 22), at(30, 12)) is None
    assert why(at(20, 1), at(21, 3)) is None
    assert why(at(21, 23), at(22, 3)) is None


@pytest.mark.parametrize(
    ("newest", "kind", "expected"),
    [
        (at(26, 0), {"dataset": "bars", "timeframe": "1d"}, "closed"),
        (at(24, 0), {"dataset": "bars", "timeframe": "1d"}, None),  # Friday's bar is not there yet
        (None, {"dataset": "bars", "timeframe": "1d"}, None),
        (at(22, 0), {"dataset": "bars", "timeframe": "1wk"}, "closed"),
        (at(22, 0) - timedelta(days=7), {"dataset": "bars", "timeframe": "1wk"}, None),
        (at(1, 0), {"dataset": "bars", "timeframe": "1mo"}, "closed"),
        (at(26, 20, 55), {"dataset": "bars", "timeframe": "5m"}, "closed"),
        (at(24, 17, 55), {"dataset": "bars", "timeframe": "5m"}, None),
        (at(26, 0), {"dataset": "quote"}, "closed"),
        (at(24, 18), {"dataset": "quote"}, None),
        (None, {"dataset": "quote"}, "closed"),
        (None, {"dataset": "chain"}, "closed"),
    ],
)
def test_what_the_last_session_had_must_be_there(newest: datetime | None, kind: dict[str, Any], expected: str | None) -> None:
    assert why(at(27, 15), at(28, 15), newest=newest, **kind) == expected


moments = st.integers(0, 8 * 24 * 60 - 1).map(lambda minutes: at(22, 0) + timedelta(minutes=minutes))


@given(moments, moments, st.sampled_from([("quote", None), ("bars", "5m"), ("bars", "1d"), ("chain", None)]), st.floats(0, 86400))
def test_an_answer_is_enough_only_if_it_is_younger_than_the_last_close_and_nothing_has_opened_since(
    fetched: datetime, now: datetime, kind: tuple[Any, Any], delay_s: float
) -> None:
    if why(fetched, now, delay_s, dataset=kind[0], timeframe=kind[1]) is not None:
        settled = delay_s + (12 * 3600 if kind[1] == "1d" else 900)
        for day, hour in OPEN.items():
            opens, closes = at(day, 14, 30), at(day, hour)
            assert not opens <= now < closes
            assert opens > now or fetched >= closes + timedelta(seconds=settled) or closes > fetched > now
