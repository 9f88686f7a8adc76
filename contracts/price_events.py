"""`price.>`: what a provider said, one symbol an event, columnar."""

from datetime import UTC, date
from operator import ge
from typing import Literal, NamedTuple

import msgspec

from contracts.message import Message, UtcInstant

MAX_ROWS = 2000
Column = list[float | None]
Delay = Literal["real_time", "delayed", "end_of_day"]


class BarColumn(NamedTuple):
    """One column of values of a bar, by which it is packed, stored, read and printed.

    `type`: PostgreSQL's. `nullable`: a value may be unknown. `optional`: an event may lack the column, and a null of it says
    nothing: what is stored stays. `unit`: `price` (per share, in the currency's major unit) or `count`, which is never negative.
    `resampled`: which of the values of shorter bars a longer one has, their sum, or none (null).
    """

    name: str
    type: Literal["float8", "int8"] = "float8"
    nullable: bool = False
    optional: bool = False
    unit: Literal["price", "count"] = "price"
    resampled: Literal["first", "max", "min", "last", "sum", "none"] = "none"


# A new column: here, in `PriceBars`, in a migration, and in what an adapter gives (`Row`).
BAR_COLUMNS = (
    BarColumn("open", resampled="first"),
    BarColumn("high", resampled="max"),
    BarColumn("low", resampled="min"),
    BarColumn("close", resampled="last"),
    BarColumn("volume", nullable=True, unit="count", resampled="sum"),
    BarColumn("adjusted_close", nullable=True, optional=True, resampled="last"),
    BarColumn("trade_count", "int8", nullable=True, optional=True, unit="count", resampled="sum"),
    BarColumn("vwap", nullable=True, optional=True),
)
BAR_COLUMN_NAMES = tuple(column.name for column in BAR_COLUMNS)
# What `before` and `after` of a correction list.
CORRECTED_COLUMNS = ("open", "high", "low", "close", "volume")


class _Provenance(Message, frozen=True, kw_only=True):
    """Where an event comes from, in every event.

    `observed_at`: as of when the vendor says this was true, else the start of the call less the vendor's declared delay.
    `fetched_at`: when the call started. `feed`: the class of source, such as `sip`, `iex`, `delayed`, `eod` or `synthetic`;
    rows of two feeds are never mixed. `currency`: ISO 4217, the major unit; `quoted_in`: the vendor's own unit where that
    is a hundredth of it (GBp, ILA, ZAc) and prices were divided by 100. `fallback_from`: providers in whose place this one
    answers, the first choice first, left out where there are none; `fallback_reason`: why not the first choice, a verdict or the
    state it was in. `delay`: how late the provider's newest data is (real_time, delayed, end_of_day).
    Readers take further words as they come.
    """

    symbol: str
    provider: str
    feed: str
    observed_at: UtcInstant
    fetched_at: UtcInstant
    currency: str | None = None
    quoted_in: str | None = None
    request_id: str | None = None
    run_id: str | None = None
    fallback_from: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    fallback_reason: str | None = None
    delay: str | None = None


class PriceBars(_Provenance, frozen=True, kw_only=True, tag="price_bars.v1"):
    """Bars of one series in time order, at most MAX_ROWS; no rows means "asked, and nothing there".

    Sent by the fetcher on `price.bars.<timeframe>.<SYMBOL>`; received by the cacher and by anybody. Every column has the
    length of `at`: start of the bar, UTC; 00:00 of the session date for 1d, of the week's Monday for 1wk, of the month's first
    day for 1mo. Prices per share in `currency`. `basis`: what the vendor has already adjusted for. `final`: false while a bar
    can still change. `trade_count`: trades within the bar, `vwap`: their average price
    by volume, where the vendor tells.
    `asked_from`, `asked_to`: the range this event answers for (to exclusive); none when the latest bars were asked.
    """

    timeframe: str
    basis: str
    asked_from: UtcInstant | None = None
    asked_to: UtcInstant | None = None
    at: list[UtcInstant]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: Column
    final: list[bool]
    adjusted_close: Column | None = None
    trade_count: list[int | None] | None = None
    vwap: Column | None = None

    def __post_init__(self) -> None:
        _check_lengths(self, "at", *BAR_COLUMN_NAMES, "final")
        if any(map(ge, self.at, self.at[1:])):
            raise ValueError("at: instants must rise")


class PriceQuote(_Provenance, frozen=True, kw_only=True, tag="price_quote.v1"):
    """The price of now. Sent by the fetcher on `price.quote.<SYMBOL>`; received by the cacher and by anybody.

    `at`: the vendor's quote time, else its last trade's, else none. Unknown numbers are null, never 0. `volume`: of the day.
    """

    at: UtcInstant | None = None
    price: float | None = None
    bid: float | None = None
    ask: float | None = None
    previous_close: float | None = None
    volume: float | None = None


class PriceChain(_Provenance, frozen=True, kw_only=True, tag="price_chain.v1"):
    """An option chain, all columns one row a contract. Sent by the fetcher on `price.chain.<SYMBOL>` (the underlying).

    `part` of `parts`: a chain of more than MAX_ROWS contracts comes in several events. `iv` is a fraction (0.25 = 25 %).
    """

    part: int = 1
    parts: int = 1
    contract: list[str]
    expiry: list[date]
    strike: list[float]
    right: list[str]
    bid: Column
    ask: Column
    last: Column
    mark: Column
    volume: Column
    open_interest: Column
    iv: Column
    delta: Column
    gamma: Column
    theta: Column
    vega: Column
    at: list[UtcInstant | None]

    def __post_init__(self) -> None:
        _check_lengths(self, "at", "contract", "expiry", "strike", "right", "bid", "ask", "last", "mark", "volume")
        _check_lengths(self, "at", "open_interest", "iv", "delta", "gamma", "theta", "vega")


class PriceActions(_Provenance, frozen=True, kw_only=True, tag="price_actions.v1"):
    """Splits and dividends in order of date. Sent by the fetcher on `price.actions.<SYMBOL>`.

    `date`: the ex-date. `ratio`: new shares per old (4-for-1 = 4), of splits; `amount`: per share, of dividends.
    """

    asked_from: UtcInstant | None = None
    asked_to: UtcInstant | None = None
    date: list[date]
    kind: list[str]
    ratio: Column
    amount: Column


class PriceIv(_Provenance, frozen=True, kw_only=True, tag="price_iv.v1"):
    """Implied volatility of an underlying, made of its newest stored option chain; no rows means that there was none of use.

    Sent by the fetcher on `price.iv.<SYMBOL>`; received by the cacher and by anybody. `feed`, `observed_at` and `currency` are the
    chain's, `chain_provider` is whose it was, `at` of when its newest quote is. Volatilities are of a year, as fractions (0.25 is
    25 %). `iv_30d`: at the money (the option whose delta is a half), 30 days ahead. `skew_25d`: likewise, of the 25-delta put less
    that of the 25-delta call. `iv_rank`: where `iv_30d` stands between the least (0) and the greatest (1) of the year, one a day,
    up to itself; `iv_percentile`: the share of the earlier days on which it was lower; both null while too few days are known, and
    `history_days` says how many are. Columns, one row an expiration: `forward`, the price that puts and calls agree on; `iv` at
    the money; `contracts`, how many told it.
    """

    chain_provider: str | None = None
    at: UtcInstant | None = None
    iv_30d: float | None = None
    skew_25d: float | None = None
    iv_rank: float | None = None
    iv_percentile: float | None = None
    history_days: int = 0
    expiry: list[date]
    forward: Column
    iv: Column
    contracts: list[int]

    def __post_init__(self) -> None:
        _check_lengths(self, "expiry", "forward", "iv", "contracts")

    @property
    def day(self) -> date:
        """The day whose volatility it tells, UTC: that of its newest quote, on a Sunday Friday."""
        return (self.at or self.observed_at).astimezone(UTC).date()


class PriceCorrected(Message, frozen=True, kw_only=True, tag="price_corrected.v1"):
    """A final bar changed after the fact. Sent by the cacher on `price.corrected.<timeframe>.<SYMBOL>`.

    The message id is the correction's. Lists are [open, high, low, close, volume], before and after.
    """

    correction_id: int
    symbol: str
    timeframe: str
    basis: str
    feed: str
    provider: str
    at: UtcInstant
    before: Column
    after: Column
    observed_at: UtcInstant


class PriceQuarantined(_Provenance, frozen=True, kw_only=True, tag="price_quarantined.v1"):
    """Rows that failed validation and were not published. Sent by the fetcher on `price.quarantined.<SYMBOL>`, to the cacher.

    One entry a row: `at` its instant where it had one, `rule` the name of the rule it broke, `row` the row as JSON text.
    """

    dataset: str
    timeframe: str | None = None
    at: list[UtcInstant | None]
    rule: list[str]
    row: list[str]


PriceEvent = PriceBars | PriceQuote | PriceChain | PriceActions | PriceIv


def _check_lengths(event: PriceBars | PriceChain | PriceIv, index: str, *columns: str) -> None:
    rows = len(getattr(event, index))
    if rows > MAX_ROWS:
        raise ValueError(f"{index}: {rows} rows, at most {MAX_ROWS} an event")
    for name in columns:
        column = getattr(event, name)
        if column is not None and len(column) != rows:
            raise ValueError(f"{name}: {len(column)} values for {rows} rows")
