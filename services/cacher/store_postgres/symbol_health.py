"""Symbol health in Postgres: the later message of a symbol replaces the earlier one, in whatever order they come."""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from contracts.symbol_health import SymbolHealth

_STATES = """
INSERT INTO symbol_states AS s (provider, dataset, timeframe, symbol, state, before, since, at, failures, next_probe_at, verdict,
    message, renamed_to, by, sequence)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[],
    $9::int[], $10::timestamptz[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[])
    AS n (provider, dataset, timeframe, symbol)
ORDER BY symbol, provider, dataset, timeframe
ON CONFLICT (symbol, provider, dataset, timeframe) DO UPDATE SET state = excluded.state, before = excluded.before,
    since = excluded.since, at = excluded.at, failures = excluded.failures, next_probe_at = excluded.next_probe_at,
    verdict = excluded.verdict, message = excluded.message, renamed_to = excluded.renamed_to, by = excluded.by,
    sequence = excluded.sequence
-- A stream that is made anew counts from 1 again: then only the time can tell.
WHERE (s.at, s.sequence) < (excluded.at, excluded.sequence)"""
_COLUMNS = (
    "provider", "dataset", "timeframe", "symbol", "state", "before", "since", "at", "failures", "next_probe_at", "verdict",
    "message", "renamed_to", "by",
)  # fmt: skip


class SequencedHealth(NamedTuple):
    """A message and its sequence on the stream."""

    health: SymbolHealth
    sequence: int


class SymbolStore:
    """Keeps how each symbol stands."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def write(self, told: Sequence[SequencedHealth]) -> None:
        """Store the last of each symbol of these. All of them or, when it raises, none."""
        last: dict[tuple[object, ...], SequencedHealth] = {}
        for each in sorted(told, key=lambda one: one.sequence):
            health = each.health
            last[health.symbol, health.provider, health.dataset, health.timeframe] = each
        columns = [[_value(each.health, name) for each in last.values()] for name in _COLUMNS]
        await self._pool.execute(_STATES, *columns, [each.sequence for each in last.values()])


def _value(health: SymbolHealth, name: str) -> object:
    value = getattr(health, name)
    if name == "timeframe":
        return value or ""
    # A null character is the one thing that a text cannot hold.
    return value.replace("\0", "\\0") if isinstance(value, str) else value
