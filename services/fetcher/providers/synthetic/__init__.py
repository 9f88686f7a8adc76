"""A made-up market: needs no key and no network, and says of itself in every event that it is synthetic.

Source: none. A symbol and an instant give the same price always and everywhere, for any date; nothing is remembered.
Symbols: whatever matches [A-Z0-9.^=/:-] up to 20 characters trades, except those that begin with ZZ, which are not found.
Sessions: shares 09:30-16:00 New York on weekdays; currency pairs (EURUSD=X, EUR/USD) all of every weekday; crypto pairs (BTC-USD)
always. 1 January, 19 June, 4 July and 25 December are holidays of the first two. While a market is closed, its quote is its last
close with that instant: who wants to see something move on a Sunday asks for BTC-USD.
Units: raw prices per share in dollars (of pairs: in their quote currency). One share in four splits once between 2019 and 2026,
every second one pays a dividend each quarter: both are among the actions. Shares have options of six expirations, priced by
Black and Scholes with a smile; one in twenty has no quote.
Limits: none, and no permit is taken, as there is nobody to call.
Quirks: longer bars are made of the shorter ones exactly; volume adds up. An intraday hour begins with the session, at 09:30.
Options: `seed` (another market), `latency_s`, `fault_rate` (0 to 1: this share of the calls fails, and of the others' symbols).
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from contracts.message import TIMEFRAMES
from contracts.price_events import MAX_ROWS, PriceBars, PriceEvent
from services.fetcher.adapter.events import LATEST_BARS, EventBuilder
from services.fetcher.adapter.fields import Unit, day_start
from services.fetcher.provider import Answer, Credentials, FetchCall, Http, Profile, ProviderError, Verdict, refuse_unoffered
from services.fetcher.providers.synthetic.bars import TickBar, bars, latest, quote_of, rows_a_day
from services.fetcher.providers.synthetic.chain import chain_of
from services.fetcher.providers.synthetic.market import FIRST_DAY, Instrument, instrument
from services.fetcher.providers.synthetic.seeded_random import chance

MAX_BARS_A_CALL = 200_000
ACTIONS_DAYS = 3653
_OPTIONS = ("fault_rate", "latency_s", "seed")
_CALL_FAULTS = (Verdict.RATE_LIMITED, Verdict.SERVER_ERROR, Verdict.TIMEOUT)
_SYMBOL_FAULTS = (Verdict.NOT_FOUND, Verdict.PLAN_RESTRICTED, Verdict.MALFORMED)
_DAY = timedelta(days=1)


class Synthetic:
    """The made-up market with its options."""

    profile = Profile(
        name="synthetic",
        base_url="https://synthetic.invalid",
        offers={"bars": TIMEFRAMES, "quote": (), "chain": (), "actions": ()},
        basis="raw",
        feed="synthetic",
        symbols_per_call={"bars": 100, "quote": 100, "actions": 100},
        secrets=(),
        real=False,
    )

    def __init__(self, credentials: Credentials) -> None:
        for name in credentials.options.keys() - set(_OPTIONS):
            raise ValueError(f"providers.synthetic.options.{name}: no such option; there are {', '.join(_OPTIONS)}")
        self._seed = int(_option(credentials.options, "seed", -(2.0**53), 2.0**53))
        self._latency_s = _option(credentials.options, "latency_s", 0.0, 3600.0)
        self._fault_rate = _option(credentials.options, "fault_rate", 0.0, 1.0)

    def to_vendor(self, symbol: str) -> str:
        """Return the symbol itself."""
        return symbol

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:  # noqa: ARG002  (there is nobody to call)
        """See `Provider.fetch`. Nothing later than `now` is given."""
        refuse_unoffered(self.profile, call)
        await asyncio.sleep(self._latency_s)
        self._fail_call(call, now)
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        for symbol in call.symbols:
            try:
                events += await self._symbol(symbol, call, now)
            except ProviderError as error:
                failed[symbol] = error
            # A hundred symbols are a good part of a second's work: others want the loop too.
            await asyncio.sleep(0)
        return Answer(events, failed)

    async def _symbol(self, symbol: str, call: FetchCall, now: datetime) -> Sequence[PriceEvent]:
        found = instrument(symbol, self._seed)
        if found is None:
            raise ProviderError(Verdict.NOT_FOUND, f"synthetic: {symbol} is no symbol of this market")
        drawn = self._chance(f"symbol {symbol}", now)
        if drawn < self._fault_rate:
            verdict = _pick(_SYMBOL_FAULTS, drawn / self._fault_rate)
            raise ProviderError(verdict, f"synthetic: {symbol} fails, as fault_rate wants it")
        builder = EventBuilder(self.profile, call, symbol, now, Unit(found.currency))
        if call.dataset == "quote":
            return [builder.quote(quote_of(found, now))]
        if call.dataset == "chain":
            return builder.chain(chain_of(symbol, quote_of(found, now), found.key) if found.kind == "share" else ())
        if call.dataset == "actions":
            return [builder.actions(found.actions(*_span(call, now)))]
        return await _bar_events(found, builder, now)

    def _fail_call(self, call: FetchCall, now: datetime) -> None:
        drawn = self._chance(f"call {call.dataset} {' '.join(call.symbols)}", now)
        if drawn < self._fault_rate:
            verdict = _pick(_CALL_FAULTS, drawn / self._fault_rate)
            retry_at = now + timedelta(seconds=2) if verdict is Verdict.RATE_LIMITED else None
            raise ProviderError(verdict, "synthetic: the call fails, as fault_rate wants it", retry_at)

    def _chance(self, what: str, now: datetime) -> float:
        return chance(f"{self._seed} {what} {now.isoformat()}")


async def _bar_events(found: Instrument, builder: EventBuilder, now: datetime) -> list[PriceBars]:
    call, timeframe = builder.call, builder.call.timeframe or "1d"
    if call.start is None:
        rows = await _listed(latest(found, timeframe, LATEST_BARS, now))
        return _events(found, builder, rows[-LATEST_BARS:])
    first, last = _span(call, now)
    if ((last - first).days + 1) * rows_a_day(found, timeframe) > MAX_BARS_A_CALL:
        raise ProviderError(Verdict.BAD_REQUEST, f"synthetic: {timeframe} bars of {first} to {last} are too many for one call")
    return _events(found, builder, await _listed(bars(found, timeframe, (first, last), now)))


async def _listed(rows: Iterable[TickBar]) -> list[TickBar]:
    """List the rows, yielding to the event loop now and then."""
    found: list[TickBar] = []
    for row in rows:
        found.append(row)
        if len(found) % 50 == 0:
            await asyncio.sleep(0)
    return found


def _events(found: Instrument, builder: EventBuilder, rows: Sequence[TickBar]) -> list[PriceBars]:
    """Events of at most MAX_ROWS that share out the asked range."""
    start, end = builder.call.start, builder.call.end
    parts = [rows[i : i + MAX_ROWS] for i in range(0, len(rows), MAX_ROWS)] or [[]]
    edges = [day_start(start) if start else None, *(part[0].at for part in parts[1:]), day_start(end) if end else None]
    return [_event(found, builder, part, (edges[i], edges[i + 1])) for i, part in enumerate(parts)]


def _event(
    found: Instrument, builder: EventBuilder, rows: Sequence[TickBar], share: tuple[datetime | None, datetime | None]
) -> PriceBars:
    pieces = [row.piece for row in rows]
    return PriceBars(
        symbol=builder.symbol,
        provider=builder.profile.name,
        feed=builder.profile.feed,
        observed_at=builder.now,
        fetched_at=builder.now,
        currency=found.currency,
        timeframe=builder.call.timeframe or "1d",
        basis=builder.profile.basis,
        asked_from=share[0],
        asked_to=share[1],
        at=[row.at for row in rows],
        open=[piece.open / found.ticks for piece in pieces],
        high=[piece.high / found.ticks for piece in pieces],
        low=[piece.low / found.ticks for piece in pieces],
        close=[piece.close / found.ticks for piece in pieces],
        volume=[float(piece.volume) for piece in pieces],
        final=[row.final for row in rows],
    )


def _span(call: FetchCall, now: datetime) -> tuple[date, date]:
    """Return the first and last day that are asked for, within what there is."""
    today = now.astimezone(UTC).date()
    first, end = call.start or today - ACTIONS_DAYS * _DAY, call.end or today + _DAY
    return max(first, FIRST_DAY), min(end - _DAY, today)


def _option(options: Mapping[str, str | float], name: str, least: float, most: float) -> float:
    given = options.get(name, 0.0)
    try:
        if least <= (value := float(given)) <= most:
            return value
    except ValueError:
        pass
    raise ValueError(f"providers.synthetic.options.{name}: {given!r}; give a number from {least:g} to {most:g}")


def _pick(verdicts: Sequence[Verdict], drawn: float) -> Verdict:
    return verdicts[int(drawn * len(verdicts))]


PROVIDER = Synthetic
