from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from math import inf, nan
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.message import Timeframe
from contracts.price_events import PriceBars
from services.fetcher.calls.validation import validate

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2025, 1, 1, tzinfo=UTC)
CALM = [100.0, 101.0, 100.0, 102.0, 101.0, 100.0, 101.0, 102.0]


def bars(closes: Sequence[float], timeframe: Timeframe = "1d", **changed: Any) -> PriceBars:
    """Bars of one price each, a day apart."""
    step = timedelta(days=1) if timeframe in ("1d", "1wk", "1mo") else timedelta(hours=1)
    whole = PriceBars(
        symbol="ACME",
        provider="anybody",
        feed="eod",
        observed_at=MONDAY,
        fetched_at=MONDAY,
        timeframe=timeframe,
        basis="raw",
        at=[MONDAY + i * step for i in range(len(closes))],
        open=list(closes),
        high=list(closes),
        low=list(closes),
        close=list(closes),
        volume=[10.0] * len(closes),
        final=[True] * len(closes),
    )
    return msgspec.structs.replace(whole, **changed)


def rules(event: PriceBars, now: datetime = NOW, **terms: Any) -> dict[int, str]:
    """The rule each broken row broke, by the row's number."""
    kept, broken = validate(event, now, **terms)
    assert len(kept.at) + len(broken) == len(event.at)
    assert set(kept.at).isdisjoint({at for at, _, _ in broken})
    return {event.at.index(at): rule for at, rule, _ in broken if at}


def test_sound_bars_are_given_back_as_they_are() -> None:
    event = bars(CALM)
    assert validate(event, NOW) == (event, [])
    assert validate(event, NOW)[0] is event


def test_an_answer_without_bars_is_sound() -> None:
    assert validate(bars([]), NOW) == (bars([]), [])


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"low": [100.0, 102.0, 100.0]}, "low_above_high"),
        ({"open": [100.0, 99.0, 100.0]}, "open_outside_low_high"),
        ({"close": [100.0, 101.5, 100.0]}, "close_outside_low_high"),
        ({"high": [100.0, nan, 100.0]}, "not_finite"),
        ({"high": [100.0, inf, 100.0]}, "not_finite"),
        ({"volume": [10.0, nan, 10.0]}, "not_finite"),
        ({"volume": [10.0, -1.0, None]}, "negative_volume"),
        ({"adjusted_close": [100.0, inf, None]}, "not_finite"),
        ({"low": [100.0, 0.0, 100.0]}, "price_not_positive"),
        ({"high": [100.0, 10_000.0, 100.0]}, "hundredfold"),
    ],
)
def test_a_row_that_breaks_a_rule_is_kept_back_under_its_name(changed: dict[str, Any], rule: str) -> None:
    kept, broken = validate(bars([100.0, 101.0, 100.0], **changed), NOW)
    assert [(at, name) for at, name, _ in broken] == [(MONDAY + timedelta(days=1), rule)]
    assert kept.close == [100.0, 100.0]
    assert kept.at == [MONDAY, MONDAY + timedelta(days=2)]


def test_the_broken_row_is_kept_as_json() -> None:
    _, [(_, _, row)] = validate(bars([100.0, -3.0, 100.0]), NOW)
    assert msgspec.json.decode(row) == {
        "at": "2024-01-02T00:00:00Z",
        "open": -3.0,
        "high": -3.0,
        "low": -3.0,
        "close": -3.0,
        "volume": 10.0,
    }


def test_a_future_may_trade_below_zero() -> None:
    assert rules(bars([3.0, -37.6, 10.0], symbol="CL=F")) == {}
    assert rules(bars([3.0, -37.6, 10.0], symbol="CL")) == {1: "price_not_positive"}


def test_a_bar_outside_the_asked_range_is_kept_back() -> None:
    asked = {"asked_from": MONDAY + timedelta(days=1), "asked_to": MONDAY + timedelta(days=3)}
    assert rules(bars([100.0] * 4, **asked)) == {0: "outside_asked_range", 3: "outside_asked_range"}


def test_a_week_belongs_to_a_range_that_it_overlaps() -> None:
    weeks = bars([100.0] * 3, "1wk", at=[MONDAY + timedelta(days=7 * i) for i in range(3)])
    asked = {"asked_from": MONDAY + timedelta(days=9), "asked_to": MONDAY + timedelta(days=14)}
    assert rules(msgspec.structs.replace(weeks, **asked)) == {0: "outside_asked_range", 2: "outside_asked_range"}


def test_a_bar_of_the_future_is_kept_back_but_a_session_may_begin_before_its_date_does_in_utc() -> None:
    assert rules(bars([100.0] * 3), MONDAY + timedelta(days=1, hours=12)) == {}
    assert rules(bars([100.0] * 3), MONDAY + timedelta(days=1, hours=8)) == {2: "in_the_future"}
    assert rules(bars([100.0] * 3, "1h"), MONDAY + timedelta(hours=1)) == {2: "in_the_future"}


def test_a_lone_spike_is_kept_back() -> None:
    assert rules(bars([*CALM, 900.0, 101.0, 100.0])) == {8: "jump"}
    assert rules(bars([*CALM, 3.0, 101.0, 100.0])) == {8: "jump"}


def test_a_jump_of_the_last_bar_is_kept_back_until_the_next_confirms_it() -> None:
    assert rules(bars([*CALM, 180.0])) == {8: "jump"}
    assert rules(bars([*CALM, 180.0, 182.0])) == {}


def test_how_far_is_too_far_depends_on_how_much_it_moves_anyway() -> None:
    wild = [100.0, 130.0, 95.0, 120.0, 90.0, 125.0, 100.0, 135.0]
    assert rules(bars([*wild, 300.0, 120.0])) == {}
    assert rules(bars([*wild, 300.0, 120.0]), jump_multiple=2.0) == {8: "jump"}


def test_a_split_explains_a_jump() -> None:
    split_on_the_last_day = [*CALM, 25.0]
    assert rules(bars(split_on_the_last_day)) == {8: "jump"}
    assert rules(bars(split_on_the_last_day), splits={date(2024, 1, 9): 4.0}) == {}
    adjusted = [close / 4 for close in CALM] + [25.0]
    assert rules(bars(split_on_the_last_day, adjusted_close=adjusted)) == {}


def test_pence_for_pounds_is_kept_back_however_long_it_goes_on() -> None:
    flipped = [close * 100 for close in CALM]
    assert rules(bars([*CALM, *flipped, *CALM])) == dict.fromkeys(range(8, 16), "hundredfold")
    assert rules(bars([*CALM, *(close / 100 for close in CALM)])) == dict.fromkeys(range(8, 16), "hundredfold")
    assert rules(bars([CALM[0] * 100, *CALM])) == {0: "hundredfold"}


def test_a_split_of_one_for_a_hundred_explains_even_that() -> None:
    assert rules(bars([*CALM, 10_000.0, 10_100.0]), splits={date(2024, 1, 9): 0.01}) == {}


price = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(price, price, price, price, st.none() | price), max_size=30))
def test_what_is_published_can_always_be_stored(rows: list[tuple[float, float, float, float, float | None]]) -> None:
    o, h, low, c, volume = ([row[i] for row in rows] for i in range(5))
    kept, broken = validate(bars(c, open=o, high=h, low=low, volume=volume), NOW)
    assert len(kept.at) + len(broken) == len(rows)
    for row in zip(kept.open, kept.high, kept.low, kept.close, kept.volume, strict=True):
        assert 0 < row[2] <= min(row[0], row[3]) <= max(row[0], row[3]) <= row[1] < inf
        assert row[4] is None or 0 <= row[4] < inf
