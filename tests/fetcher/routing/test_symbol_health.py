"""What a failure or an answer makes of a symbol: pure rules."""

from datetime import UTC, datetime, timedelta

import msgspec

from contracts.symbol_health import SymbolHealth
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.routing.symbol_health import (
    ProbePolicy,
    SymbolHealthKey,
    describe_health,
    health_after_answer,
    is_suspended,
    next_health,
)

NOW = datetime(2026, 1, 5, tzinfo=UTC)
RULES = ProbePolicy([3600, 21600, 86400], [86400, 604800], dead_after=3)
GONE = SymbolHealthKey("tiingo", "bars", "1d", "GONE")
NOT_FOUND = ProviderError(Verdict.NOT_FOUND, "no such symbol")
PAID = ProviderError(Verdict.PLAN_RESTRICTED, "wants a plan")


def failing(*errors: ProviderError) -> list[SymbolHealth]:
    """The health after each of these failures, every probe made when it is due."""
    told: list[SymbolHealth] = []
    now = NOW
    for error in errors:
        health = next_health(told[-1] if told else None, GONE, error, now, RULES)
        assert health is not None
        assert health.next_probe_at is not None
        told.append(health)
        now = health.next_probe_at
    return told


def waits_h(told: list[SymbolHealth]) -> list[float]:
    """Hours from each failure to the next probe, without the spread."""
    return [(health.next_probe_at - health.at) / timedelta(hours=1) for health in told if health.next_probe_at]


def test_a_symbol_is_suspect_first_and_then_taken_for_dead_and_probed_ever_less_often():
    told = failing(*[NOT_FOUND] * 5)
    assert [health.state for health in told] == ["suspect", "suspect", "unknown", "unknown", "unknown"]
    assert [health.failures for health in told] == [1, 2, 3, 4, 5]
    assert all(rule <= wait <= 1.1 * rule for rule, wait in zip([1, 6, 24, 24, 24], waits_h(told), strict=True))


def test_since_is_when_the_state_began_not_when_it_was_last_confirmed():
    told = failing(*[NOT_FOUND] * 4)
    assert told[1].since == told[0].at == NOW
    assert told[3].since == told[2].at
    assert [health.before for health in told] == ["active", "suspect", "suspect", "unknown"]


def test_what_the_plan_does_not_include_is_left_alone_for_a_day_at_once():
    told = failing(PAID, PAID)
    assert [health.state for health in told] == ["plan_restricted"] * 2
    assert all(rule <= wait <= 1.1 * rule for rule, wait in zip([24, 168], waits_h(told), strict=True))


def test_another_verdict_begins_its_own_count():
    told = failing(NOT_FOUND, NOT_FOUND, PAID, NOT_FOUND)
    assert [(health.state, health.failures) for health in told] == [
        ("suspect", 1),
        ("suspect", 2),
        ("plan_restricted", 1),
        ("suspect", 1),
    ]


def test_a_try_before_the_probe_is_due_changes_nothing():
    [health] = failing(NOT_FOUND)
    assert next_health(health, GONE, NOT_FOUND, NOW + timedelta(minutes=59), RULES) is None


def test_a_symbol_that_the_vendor_calls_by_another_name_is_renamed():
    [health] = failing(ProviderError(Verdict.NOT_FOUND, "see META", renamed_to="META"))
    assert (health.state, health.renamed_to) == ("renamed", "META")
    assert describe_health(health).startswith("tiingo: renamed to META since 2026-01-05T00:00:00Z; next probe at 2026-01-05T01:0")


def test_only_verdicts_of_the_symbol_are_held_against_it():
    others = set(Verdict) - {Verdict.NOT_FOUND, Verdict.PLAN_RESTRICTED}
    assert not any(next_health(None, GONE, ProviderError(verdict, "no"), NOW, RULES) for verdict in others)


def test_an_answer_makes_a_doubted_symbol_active_and_is_no_news_of_an_active_one():
    [suspect] = failing(NOT_FOUND)
    active = health_after_answer(suspect, NOW)
    assert active is not None
    assert (active.state, active.before, active.failures, active.next_probe_at) == ("active", "suspect", 0, None)
    assert health_after_answer(active, NOW) is None
    assert health_after_answer(None, NOW) is None


def test_after_it_was_active_again_the_count_begins_anew():
    told = failing(NOT_FOUND, NOT_FOUND)
    active = health_after_answer(told[-1], NOW)
    again = next_health(active, GONE, NOT_FOUND, NOW, RULES)
    assert again is not None
    assert (again.state, again.failures, again.before) == ("suspect", 1, "active")


def test_a_symbol_sleeps_until_its_probe_is_due():
    [health] = failing(NOT_FOUND)
    assert health.next_probe_at is not None
    assert is_suspended(health, NOW)
    assert not is_suspended(health, health.next_probe_at)
    assert not is_suspended(msgspec.structs.replace(health, next_probe_at=None), NOW)
    assert not is_suspended(None, NOW)
