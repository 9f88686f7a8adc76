"""The requests for one batch of symbols: within the bounds of what is there, and again without what the vendor does not know."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.fetcher.adapter.responses import decode_json
from services.fetcher.provider import Http, ProviderError, Verdict
from services.fetcher.providers.databento.answers import Answered, Record, parse_answer
from services.fetcher.providers.databento.ranges import Range, narrowed
from services.fetcher.providers.databento.refusals import RefusalError

NARROWINGS = 2  # the bounds of the data set, then those of the schema or of a licence
LONGEST_CLOSURE = timedelta(days=5)  # a holiday on either side of a weekend, and one more


@dataclass
class Found:
    """What all requests brought: records by symbol, the symbols that mean something, and until when that is the whole."""

    records: dict[str, list[Record]]
    known: set[str] = field(default_factory=set)
    until: datetime | None = None

    def add(self, answered: Answered, asked: Range) -> None:
        for symbol, records in answered.by_symbol(self.records).items():
            self.records[symbol] += records
        self.known |= {symbol for symbol in self.records if answered.knows(symbol)}
        self.until = asked.end


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

    async def all(self, schema: str, ranges: Iterable[Range], *, slide: bool = False) -> Found:
        """The records of all ranges, oldest first.

        Raises:
            ProviderError: a range could not be had; empty, when there is nothing of any.
        """
        found = Found({symbol: [] for symbol in self.symbols})
        nothing = ProviderError(Verdict.EMPTY, f"databento: {self.dataset} has nothing of the range yet")
        for asked in ranges:
            inside = asked if slide else asked.within(self.earliest, self.latest)
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

    async def one(self, schema: str, asked: Range, *, slide: bool) -> tuple[Answered, Range]:
        """The records of one range, and which part of it is there; with `slide` the newest range of that length that is there.

        Raises:
            ProviderError: it could not be had; not_found, when no symbol means anything in it; empty, when it is not there.
        """
        for _ in range(NARROWINGS):
            try:
                return await self._once(schema, asked, self.symbols), asked
            except RefusalError as error:
                self.earliest, self.latest = error.earliest or self.earliest, error.latest or self.latest
                asked = narrowed(asked, error, slide=slide)
        return await self._once(schema, asked, self.symbols), asked

    async def _once(self, schema: str, asked: Range, symbols: Sequence[str]) -> Answered:
        form = {
            **self._who(symbols),
            "schema": schema,
            "start": f"{asked.start:%Y-%m-%dT%H:%M:%SZ}",
            "end": f"{asked.end:%Y-%m-%dT%H:%M:%SZ}",
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
        answered = await self._once(schema, asked, [symbol for symbol in symbols if symbol not in named])
        return replace(answered, unknown=answered.unknown | named)

    async def meaningful(self, symbols: Sequence[str], asked: Range) -> set[str]:
        """Those that mean something on days around the range, which may hold closed days alone. This is never billed."""
        form = {
            **self._who(symbols),
            "start_date": f"{(asked.start - 2 * LONGEST_CLOSURE).date()}",
            "end_date": f"{asked.end.date()}",
        }
        document = decode_json(await self.http.post_form("/v0/symbology.resolve", form, self.headers))
        result = document.get("result") if isinstance(document, dict) else None
        spans = result if isinstance(result, dict) else {}
        return {symbol for symbol in symbols if any(span.get("s") for span in spans.get(symbol) or [] if isinstance(span, dict))}

    def _who(self, symbols: Sequence[str]) -> dict[str, str]:
        return {"dataset": self.dataset, "symbols": ",".join(symbols), "stype_in": self.kind, "stype_out": "instrument_id"}


def _is_named(symbol: str, words: str) -> bool:
    return bool(re.search(rf"(?<![\w.]){re.escape(symbol)}(?!\w|\.\w)", words))
