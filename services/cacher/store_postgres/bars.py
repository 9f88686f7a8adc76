"""Bar writer: stages bars by binary COPY and merges those that changed, a timeframe and month at a time."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from contracts.price_events import BAR_COLUMN_NAMES, BAR_COLUMNS, CORRECTED_COLUMNS, PriceBars
from services.cacher.binary_copy import (
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
from services.cacher.decode_event import DecodedEvent
from services.runtime.postgres import read_booleans, read_microseconds
from services.runtime.prices.bar_columns import arrays_sent, listed, read_column
from services.runtime.prices.read_postgres import Connection

KEPT_BY_MONTH = ("1m", "5m")

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


@dataclass(frozen=True, slots=True)
class LockedBars:
    """Bars of a series that is locked. `first`: nothing of the series is stored. `newest`: no observation of it is newer."""

    observed: DecodedEvent
    instrument: int
    series: int
    first: bool
    newest: bool


@dataclass(frozen=True, slots=True)
class TableSlice:
    """An event's rows in one table."""

    known: LockedBars
    event: PriceBars
    table: str
    bars: BarValues


def write_order(bars: Sequence[LockedBars]) -> list[list[LockedBars]]:
    """The events in rounds: those of one series whose ranges overlap one after the other, all others together."""
    in_turn: list[list[LockedBars]] = []
    taken: dict[int, list[tuple[datetime, datetime, int]]] = defaultdict(list)
    for known in bars:
        low, high = known.observed.at_from, known.observed.at_to
        earlier = [turn for first, last, turn in taken[known.series] if first < high and low < last]
        turn = max(earlier) + 1 if earlier else 0
        taken[known.series].append((low, high, turn))
        if turn == len(in_turn):
            in_turn.append([])
        in_turn[turn].append(known)
    return in_turn


def slices(known: LockedBars) -> list[TableSlice]:
    """The event's rows, table by table."""
    event, bars = known.observed.event, known.observed.bars
    assert isinstance(event, PriceBars)
    assert bars is not None
    if event.timeframe not in KEPT_BY_MONTH:
        return [TableSlice(known, event, f"bars_{event.timeframe}", bars)]
    starts = list(months(event))
    rows = [bisect_left(event.at, start) for start in starts] + [len(event.at)]
    return [
        TableSlice(known, event, month_table(event.timeframe, start), bars.between(first, last))
        for start, first, last in zip(starts, rows[:-1], rows[1:], strict=True)
        if first < last
    ]


def months(event: PriceBars) -> Iterator[datetime]:
    """The first instant of each month that the event's bars may be in."""
    if event.at:
        month = event.at[0].astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        while month <= event.at[-1]:
            yield month
            month = (month + timedelta(days=32)).replace(day=1)


def month_table(timeframe: str, month: datetime) -> str:
    """The table of this month's bars."""
    return f"bars_{timeframe}_{month:%Y%m}"


def stored_bars(row: Mapping[str, Any]) -> BarValues:
    """The stored bars that the query for them gave as one row of binary arrays."""
    at = read_microseconds(row["at"])
    values = tuple(read_column(column, row[column.name], len(at)) for column in BAR_COLUMNS)
    return BarValues(at, values, read_booleans(row["final"]))


def changed_rows(bars: BarValues, stored: BarValues) -> list[int]:
    """The rows of `bars` that are not stored just so, an optional column left out that is null throughout: it says nothing."""
    told = [
        number
        for number, (column, values) in enumerate(zip(BAR_COLUMNS, bars.values, strict=True))
        if not column.optional or values.count(None) < len(values)
    ]
    ours, theirs = _columns(bars, told), _columns(stored, told)
    if bars.at == stored.at and ours == theirs:
        return []
    held: Callable[[int], object] = dict(zip(stored.at, _rows(theirs), strict=True)).get
    return [row for row, (at, values) in enumerate(zip(bars.at, _rows(ours), strict=True)) if held(at) != values]


def _columns(bars: BarValues, numbers: Iterable[int]) -> list[Sequence[Any]]:
    return [*(bars.values[number] for number in numbers), bars.final]


def _rows(columns: Sequence[Sequence[Any]]) -> "zip[tuple[Any, ...]]":
    return zip(*columns, strict=True)


@dataclass(slots=True)
class BarsWritten:
    """Result of writing bars: the count of rows, their series, and the ids of corrections of final bars."""

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
    """Stored bars between the first and the last instant of each slice, by the slice's number."""
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
