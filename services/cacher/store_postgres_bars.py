"""Bars in Postgres: where nothing is stored yet by plain COPY, else through a staging table and only those that differ."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace

import asyncpg

from contracts.price_events import BAR_COLUMN_NAMES, BAR_COLUMNS, CORRECTED_COLUMNS, PriceBars
from services.cacher.bar_slices import KEPT_BY_MONTH, LockedBars, TableSlice, month_table, months, slices, write_order
from services.cacher.changed_rows import changed_rows, stored_bars
from services.cacher.copy_rows import (
    HEADER,
    PACKED_COLUMNS,
    TRAILER,
    BarValues,
    copy_rows,
    instant_of,
    int2,
    int4,
    pack_bars,
    row_start,
    text,
    timestamptz,
)
from services.runtime.prices.bar_columns import arrays_sent, listed
from services.runtime.prices.read_postgres import Connection

_TABLE_COLUMNS = ("instrument", "timeframe", "basis", "feed", "provider", "observed_at", *PACKED_COLUMNS)
_STAGED_COLUMNS = ("part", "instrument", "observed_at", *PACKED_COLUMNS)
_STAGE = f"""
CREATE TEMP TABLE IF NOT EXISTS staged_bars (part smallint, instrument integer, at timestamptz, final boolean,
    observed_at timestamptz, {", ".join(f"{column.name} {column.type}" for column in BAR_COLUMNS)}) ON COMMIT DELETE ROWS"""
_STORED = f"""
SELECT e.ordinal, b.*
FROM unnest($1::int[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::text[]) WITH ORDINALITY
    AS e (instrument, first, last, basis, feed, ordinal)
CROSS JOIN LATERAL (
    SELECT {arrays_sent()}
    FROM (
        SELECT * FROM TABLE b WHERE b.instrument = e.instrument AND b.timeframe = 'TIMEFRAME' AND b.at BETWEEN e.first AND e.last
            AND b.basis = e.basis AND b.feed = e.feed ORDER BY b.at OFFSET 0
    ) stored
) b
WHERE b.at IS NOT NULL"""
_NAMES, _CORRECTED = listed("{0}"), listed("{0}", CORRECTED_COLUMNS)
# An optional column that is null leaves what is stored.
_TOLD = [f"coalesce(s.{column.name}, b.{column.name})" if column.optional else f"s.{column.name}" for column in BAR_COLUMNS]
# OFFSET 0 keeps the planner from turning one look-up a row into a scan of everything.
_WRITE = f"""
WITH changed AS MATERIALIZED (
    SELECT s.instrument, s.at, s.final, s.observed_at, b.final AS was_final,
        {", ".join(f"{told} AS {name}" for told, name in zip(_TOLD, BAR_COLUMN_NAMES, strict=True))},
        {listed("b.{0} AS was_{0}", CORRECTED_COLUMNS)}
    FROM staged_bars s
    LEFT JOIN LATERAL (
        SELECT * FROM TABLE b WHERE b.instrument = s.instrument AND b.timeframe = 'TIMEFRAME' AND b.at = s.at AND b.basis = $2
            AND b.feed = $3 OFFSET 0
    ) b ON true
    WHERE s.part = $1 AND (b.observed_at IS NULL OR b.observed_at < s.observed_at AND s.final >= b.final
        AND ({", ".join(_TOLD)}, s.final) IS DISTINCT FROM ({listed("b.{0}")}, b.final)) COVERAGE
), written AS (
    INSERT INTO TABLE AS t (instrument, timeframe, basis, feed, provider, observed_at, at, {_NAMES}, final)
    SELECT instrument, 'TIMEFRAME', $2, $3, $4, observed_at, at, {_NAMES}, final FROM changed ORDER BY instrument, at
    ON CONFLICT (instrument, timeframe, at, basis, feed) DO UPDATE
    SET {listed("{0} = excluded.{0}", ("provider", "observed_at", *BAR_COLUMN_NAMES, "final"))}
    WHERE t.observed_at < excluded.observed_at AND excluded.final >= t.final
), corrected AS (
    INSERT INTO corrections (instrument, timeframe, at, basis, feed, provider, before, after, observed_at)
    SELECT instrument, 'TIMEFRAME', at, $2, $3, $4, ARRAY[{listed("was_{0}", CORRECTED_COLUMNS)}], ARRAY[{_CORRECTED}], observed_at
    FROM changed
    WHERE was_final AND ({listed("was_{0}", CORRECTED_COLUMNS)}) IS DISTINCT FROM ({_CORRECTED})
    ORDER BY instrument, at RETURNING id
)
SELECT (SELECT count(*) FROM changed) AS rows, ARRAY(SELECT DISTINCT instrument FROM changed) AS instruments,
    ARRAY(SELECT id FROM corrected ORDER BY id) AS corrections"""
# Only for an event that is not its series' newest. Equal instants are parts of one answer and do not shut each other out.
_COVERAGE = """
    AND NOT EXISTS (
        SELECT FROM observations o JOIN series x ON x.id = o.series
        WHERE x.instrument = s.instrument AND x.dataset = 'bars' AND x.timeframe = 'TIMEFRAME' AND x.basis = $2 AND x.feed = $3
            AND o.observed_at > s.observed_at AND o.at_from <= s.at AND o.at_to > s.at
    )"""


@dataclass(slots=True)
class BarsWritten:
    """How many rows were written, in which series, and the ids of corrections of final bars."""

    rows: int = 0
    series: set[int] = field(default_factory=set)
    corrections: list[int] = field(default_factory=list)


class BarsWriter:
    """Writes bars inside a transaction that holds the locks of their series."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._tables: set[str] = set()

    async def prepare(self, events: Iterable[PriceBars]) -> None:
        """Make the tables of months that are new. Not in the batch's transaction, which would keep other writers waiting."""
        for event in events:
            for month in months(event) if event.timeframe in KEPT_BY_MONTH else ():
                table = month_table(event.timeframe, month)
                if table not in self._tables:
                    await self._pool.execute("SELECT ensure_bars_month($1, $2)", event.timeframe, month.date())
                    self._tables.add(table)

    async def write(self, connection: Connection, bars: Sequence[LockedBars]) -> BarsWritten:
        """Write these events, given in order of `observed_at`."""
        written = BarsWritten()
        try:
            for together in write_order([known for known in bars if known.observed.rows]):
                await _write_round(connection, [part for known in together for part in slices(known)], written)
        except asyncpg.UndefinedTableError:
            # Somebody dropped a month: the next attempt looks again which there are.
            self._tables.clear()
            raise
        return written


async def _write_round(connection: Connection, cut: Sequence[TableSlice], written: BarsWritten) -> None:
    by_table: dict[str, list[TableSlice]] = defaultdict(list)
    for each in cut:
        by_table[each.table].append(each)
    staged: list[TableSlice] = []
    for table, group in sorted(by_table.items()):
        stored = await _stored(connection, table, group)
        new = [each for number, each in enumerate(group) if number not in stored and each.known.newest]
        if new:
            await connection.copy_to_table(table, source=_new_rows(new), columns=_TABLE_COLUMNS, format="binary")
            written.rows += sum(len(each.bars.at) for each in new)
            written.series |= {each.known.series for each in new}
        for number, each in enumerate(group):
            if number in stored or not each.known.newest:
                rows = changed_rows(each.bars, stored[number]) if number in stored else range(len(each.bars.at))
                if rows:
                    staged.append(replace(each, bars=each.bars.take(rows)))
    if staged:
        await _write_staged(connection, staged, written)


async def _stored(connection: Connection, table: str, cut: Sequence[TableSlice]) -> dict[int, BarValues]:
    """What is stored between the first and the last instant of each slice, by the slice's number."""
    numbers = [number for number, each in enumerate(cut) if not each.known.first]
    if not numbers:
        return {}
    cut = [cut[number] for number in numbers]
    rows = await connection.fetch(
        _of(_STORED, table, cut[0].event.timeframe),
        [each.known.instrument for each in cut],
        [instant_of(each.bars.at[0]) for each in cut],
        [instant_of(each.bars.at[-1]) for each in cut],
        [each.event.basis for each in cut],
        [each.event.feed for each in cut],
    )
    return {numbers[row["ordinal"] - 1]: stored_bars(dict(row)) for row in rows}


async def _write_staged(connection: Connection, cut: Sequence[TableSlice], written: BarsWritten) -> None:
    parts: dict[tuple[str, str, str, str, str, bool], list[TableSlice]] = defaultdict(list)
    for each in cut:
        event = each.event
        parts[each.table, event.timeframe, event.basis, event.feed, event.provider, each.known.newest].append(each)
    await connection.execute(_STAGE)
    source = _staged_rows(list(parts.values()))
    await connection.copy_to_table("staged_bars", schema_name="pg_temp", source=source, columns=_STAGED_COLUMNS, format="binary")
    for number, ((table, timeframe, basis, feed, provider, newest), group) in enumerate(parts.items()):
        statement = _of(_WRITE.replace("COVERAGE", "" if newest else _COVERAGE), table, timeframe)
        [done] = await connection.fetch(statement, number, basis, feed, provider)
        series = {each.known.instrument: each.known.series for each in group}
        written.rows += done["rows"]
        written.series |= {series[instrument] for instrument in done["instruments"]}
        written.corrections += done["corrections"]


async def _new_rows(cut: Sequence[TableSlice]) -> AsyncIterator[bytes]:
    yield HEADER
    for each in cut:
        event = each.event
        constant = (
            text(event.timeframe),
            text(event.basis),
            text(event.feed),
            text(event.provider),
            timestamptz(event.observed_at),
        )
        start = row_start(len(_TABLE_COLUMNS), int4(each.known.instrument), *constant)
        yield copy_rows(start, pack_bars(each.bars))
    yield TRAILER


async def _staged_rows(parts: Sequence[Sequence[TableSlice]]) -> AsyncIterator[bytes]:
    yield HEADER
    for number, cut in enumerate(parts):
        for each in cut:
            constant = (int2(number), int4(each.known.instrument), timestamptz(each.event.observed_at))
            yield copy_rows(row_start(len(_STAGED_COLUMNS), *constant), pack_bars(each.bars))
    yield TRAILER


def _of(statement: str, table: str, timeframe: str) -> str:
    return statement.replace("TABLE", table).replace("TIMEFRAME", timeframe)
