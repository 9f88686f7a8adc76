"""A played vendor's count of what it is asked."""

from datetime import UTC, datetime

import pytest

from quotebus.simulate.quota import Quota
from services.fetcher.provider import Limits


class Clock:
    """Says what it is set to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NOON = instant("2026-03-11T12:00:00")


def test_a_window_slides_and_what_it_refuses_is_not_counted():
    clock = Clock()
    quota = Quota(Limits(per_minute=2), clock)
    allowed = []
    for clock.now in (0.0, 30.0, 59.9, 60.0, 60.1, 90.0):
        allowed.append(quota.take(1, NOON) is None)
    assert allowed == [True, True, False, True, False, True]
    assert [(v.window, v.spent, v.limit) for v in quota.violations] == [("minute", 2, 2)] * 2


def test_a_refusal_says_when_there_is_room_again():
    clock = Clock()
    quota = Quota(Limits(per_second=1), clock)
    quota.take(1, NOON)
    clock.now = 0.25
    assert quota.take(1, NOON) == ("second", instant("2026-03-11T12:00:00.750"))


def test_a_request_of_more_weight_takes_more_and_one_that_is_too_heavy_never_fits():
    quota = Quota(Limits(per_minute=8), Clock())
    assert [quota.take(weight, NOON) is None for weight in (4, 4, 1)] == [True, True, False]
    assert Quota(Limits(per_minute=8), Clock()).take(20, NOON) is not None


@pytest.mark.parametrize(
    ("limits", "until", "again"),
    [
        (Limits(per_day=1, day_zone="America/New_York"), "2026-03-12T03:59:59", "2026-03-12T04:00:00"),
        (Limits(per_month=1), "2026-03-31T23:59:59", "2026-04-01T00:00:00"),
    ],
)
def test_a_day_and_a_month_end_in_the_vendors_zone(limits: Limits, until: str, again: str):
    quota = Quota(limits, Clock())
    assert quota.take(1, NOON) is None
    refused = quota.take(1, instant(until))
    assert refused is not None
    assert refused[1] == instant(again)
    assert quota.take(1, instant(again)) is None
