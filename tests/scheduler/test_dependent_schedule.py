"""The slots of a job that follows another."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.dependent_schedule import DependentSchedule

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def by_walking(finished: set[int], every: int | None, until: int) -> list[int]:
    """Minute by minute: one at which a run was over, or at which `every` have passed since the last known instant."""
    found, known = [], 0
    for minute in range(1, until + 1):
        if minute in finished or (every and (minute - known) % every == 0):
            found.append(minute)
        if minute in finished:
            known = minute
    return found


minutes = st.integers(1, 60)


@given(st.sets(minutes, max_size=8), st.none() | st.integers(1, 20), minutes, minutes)
def test_a_slot_is_the_end_of_a_run_or_a_whole_length_after_the_last_known_instant(
    finished: set[int], every: int | None, after: int, length: int
) -> None:
    chain = DependentSchedule("first", NOON, every * MINUTE if every else None)
    assert all(chain.add_run(NOON + n * MINUTE) for n in sorted(finished, key=lambda n: -n))
    start, end = NOON + after * MINUTE, NOON + (after + length) * MINUTE
    expected = [NOON + n * MINUTE for n in by_walking(finished, every, 200)]
    within = [slot for slot in expected if start < slot <= end]
    assert chain.count(start, end) == len(within)
    assert chain.last_until(start, end) == (within[-1] if within else None)
    following = [slot for slot in expected if slot > start]
    if following:
        assert chain.next_after(start) == following[0]


def test_a_run_is_news_once_and_not_when_something_later_was_asked() -> None:
    chain = DependentSchedule("first", NOON, None)
    assert chain.add_run(NOON + MINUTE)
    assert not chain.add_run(NOON + MINUTE)
    chain.add_published(NOON + 5 * MINUTE)
    assert not chain.add_run(NOON + 3 * MINUTE)
    assert chain.last_until(NOON, NOON + 60 * MINUTE) is None


def test_after_a_slot_was_asked_the_length_counts_from_it() -> None:
    chain = DependentSchedule("first", NOON, 30 * MINUTE)
    chain.add_published(NOON + 7 * MINUTE)
    assert chain.next_after(NOON + 8 * MINUTE) == NOON + 37 * MINUTE
    chain.add_run(NOON + 20 * MINUTE)
    assert chain.next_after(NOON + 8 * MINUTE) == NOON + 20 * MINUTE
    assert chain.next_after(NOON + 20 * MINUTE) == NOON + 50 * MINUTE
