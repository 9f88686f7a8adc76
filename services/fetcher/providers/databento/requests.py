"""Databento's requests: parameters, splitting, and the range that is available."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from services.fetcher.adapter.responses import decode_json
from services.fetcher.provider import Http, ProviderError, Verdict
from services.fetcher.providers.databento.parsing import Answered, Record, RefusalError, parse_answer

NARROWINGS = 2  # the bounds of the data set, then those of the schema or of a licence
LONGEST_CLOSURE = timedelta(days=5)  # a holiday on either side of a weekend, and one more


class TimeRange(NamedTuple):
    """From `start` until before `end`."""

    start: datetime
    end: datetime

    def within(self, earliest: datetime | None, latest: datetime | None) -> "TimeRange | None":
        """Return the part of it that lies in bounds; None: nothing does."""
        start, end = max(self.start, earliest or self.start), min(self.end, latest or self.end)
        return TimeRange(start, end) if start < end else None

    def before(self, latest: datetime) -> "TimeRange":
        """Return the range as long as this one that ends no later."""
        return self if latest >= self.end else TimeRange(latest - (self.end - self.start), latest)

    def cut(self, days: int) -> Iterator["TimeRange"]:
        """Parts of so many days at most, in order of time."""
        start, step = self.start, timedelta(days=max(1, days))
        while start < self.end:
            yield TimeRange(start, min(start + step, self.end))
            start += step


@dataclass
class FetchedRecords:
    """Records of all requests by symbol, the symbols that are known, and the end of the range that they cover."""

    records: dict[str, list[Record]]
    known: set[str] = field(default_factory=set)
    until: datetime | None = None

    def add(self, answered: Answered, wanted: TimeRange) -> None:
        for symbol, records in answered.by_symbol(self.records).items():
            self.records[symbol] += records
        self.known |= {symbol for symbol in self.records if answered.knows(symbol)}
        self.until = wanted.end


@dataclass
class Requests:
    """`symbols`: in the vendor's spelling, each once. `earliest`, `latest`: what refusals have taught."""

    http: Http
    headers: Mapping[str, str]
    secrets: Sequence[str]
    now: datetime
    dataset: str
    kind: str
    symbols: tuple[str, ...]
    earliest: datetime | None = None
    latest: datetime | None = None

    async def all(self, schema: str, ranges: Iterable[TimeRange], *, slide: bool = False) -> FetchedRecords:
        """Fetch the records of all ranges, oldest first.

        Raises:
            ProviderError: a range could not be had; empty, when there is nothing of any.
        """
        found = FetchedRecords({symbol: [] for symbol in self.symbols})
        nothing = ProviderError(Verdict.EMPTY, f"databento: {self.dataset} has nothing of the range yet")
        for wanted in ranges:
            inside = wanted if slide else wanted.within(self.earliest, self.latest)
            if inside is None:
                continue
            try:
                answered, inside = await self.one(schema, inside, slide=slide)
                found.add(answered, inside)
            except ProviderError as error:
                if error.verdict is Verdict.NOT_FOUND:
                    found.until = inside.end
                elif error.verdict is Verdict.EMPTY:
                    nothing = error
                elif error.verdict is Verdict.PLAN_RESTRICTED and found.known and self.latest:
                    break  # the parts before the bound of the licence are paid for, and whole
                else:
                    raise
        if found.until is None:
            raise nothing
        return found

    async def one(self, schema: str, wanted: TimeRange, *, slide: bool) -> tuple[Answered, TimeRange]:
        """Fetch the records of one range, and the part of it that is available; with `slide` the newest range of that length.

        Raises:
            ProviderError: it could not be had; not_found, when no symbol means anything in it; empty, when it is not there.
        """
        for _ in range(NARROWINGS):
            try:
                return await self._once(schema, wanted, self.symbols), wanted
            except RefusalError as error:
                self.earliest, self.latest = error.earliest or self.earliest, error.latest or self.latest
                wanted = clamp(wanted, error, slide=slide)
        return await self._once(schema, wanted, self.symbols), wanted

    async def _once(self, schema: str, wanted: TimeRange, symbols: Sequence[str]) -> Answered:
        form = {
            **self._symbols_in(symbols),
            "schema": schema,
            "start": f"{wanted.start:%Y-%m-%dT%H:%M:%SZ}",
            "end": f"{wanted.end:%Y-%m-%dT%H:%M:%SZ}",
            "encoding": "dbn",
            "compression": "zstd",
        }
        reply = await self.http.post_form("/v0/timeseries.get_range", form, self.headers)
        try:
            return parse_answer(reply, schema, self.now, *self.secrets)
        except RefusalError as error:
            named = {symbol for symbol in symbols if _is_named(symbol, error.words)}
            if error.verdict is not Verdict.NOT_FOUND or not 0 < len(named) < len(symbols):
                raise
        # One that cannot be resolved spoils the request for all.
        answered = await self._once(schema, wanted, [symbol for symbol in symbols if symbol not in named])
        return replace(answered, unknown=answered.unknown | named)

    async def known_symbols(self, symbols: Sequence[str], wanted: TimeRange) -> set[str]:
        """Fetch which symbols are known on days around the range, which may hold closed days alone. This is never billed."""
        form = {
            **self._symbols_in(symbols),
            "start_date": f"{(wanted.start - 2 * LONGEST_CLOSURE).date()}",
            "end_date": f"{wanted.end.date()}",
        }
        document = decode_json(await self.http.post_form("/v0/symbology.resolve", form, self.headers))
        result = document.get("result") if isinstance(document, dict) else None
        spans = result if isinstance(result, dict) else {}
        return {symbol for symbol in symbols if any(span.get("s") for span in spans.get(symbol) or [] if isinstance(span, dict))}

    def _symbols_in(self, symbols: Sequence[str]) -> dict[str, str]:
        return {"dataset": self.dataset, "symbols": ",".join(symbols), "stype_in": self.kind, "stype_out": "instrument_id"}


def _is_named(symbol: str, words: str) -> bool:
    return bool(re.search(rf"(?<![\w.]){re.escape(symbol)}(?!\w|\.\w)", words))


def clamp(wanted: TimeRange, error: RefusalError, *, slide: bool = False) -> TimeRange:
    """Return the part of a refused range that the vendor would answer; with `slide` one of the same length.

    Raises:
        RefusalError: the refusal itself, where it names no other range; empty, where the vendor has nothing of the range.
    """
    inside = wanted.before(error.latest) if slide and error.latest else wanted.within(error.earliest, error.latest)
    if inside == wanted or (inside is None and error.verdict is Verdict.PLAN_RESTRICTED):
        raise error
    if inside is None:
        raise RefusalError(Verdict.EMPTY, f"{error.message}; nothing of the range is there")
    return inside
