"""Datasets: one descriptor each, by which subjects, streams, stores, documents and commands know what there is.

A new dataset: its event in `price_events`, its name in `message.Dataset`, its descriptor here, a migration. What else it lacks the
test of completeness names (tests/contracts/test_datasets.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from contracts.message import Dataset
from contracts.price_events import PriceActions, PriceBars, PriceChain, PriceEvent, PriceIv, PriceQuote

_BARS_TTL_S = {"1m": 60, "5m": 300, "15m": 300, "30m": 300, "1h": 300, "1d": 3600, "1wk": 7200, "1mo": 7200}


@dataclass(frozen=True, slots=True)
class DatasetDescriptor:
    """One dataset.

    `index`: the column that has one entry a row; None for a dataset of one row. `timeframed`: there is one series for each
    timeframe. `ranged`: days of the past may be asked for. `follows_sessions`: nothing new comes while its exchange is closed.
    `ttl_s`: how long a document of it is fresh, by timeframe or, without timeframes, by the dataset's own name; empty: there are no
    documents. `of_underlying`: its symbol is the underlying of what the rows are about.
    """

    name: Dataset
    event: type[PriceEvent]
    index: str | None
    ttl_s: Mapping[str, int]
    timeframed: bool = False
    ranged: bool = False
    follows_sessions: bool = True
    of_underlying: bool = False

    @property
    def pattern(self) -> str:
        """Every subject of the dataset."""
        return f"price.{self.name}.*.*" if self.timeframed else f"price.{self.name}.*"

    def rows(self, event: PriceEvent) -> int:
        """Number of rows in an event of this dataset; a single row without any value counts as none."""
        if self.index is not None:
            return len(getattr(event, self.index))
        return 1 if any(getattr(event, name, None) is not None for name in ("price", "bid", "ask")) else 0


DATASETS: Mapping[str, DatasetDescriptor] = {
    each.name: each
    for each in (
        DatasetDescriptor("bars", PriceBars, "at", _BARS_TTL_S, timeframed=True, ranged=True),
        DatasetDescriptor("quote", PriceQuote, None, {"quote": 60}),
        DatasetDescriptor("chain", PriceChain, "contract", {"chain": 900}, of_underlying=True),
        DatasetDescriptor("iv", PriceIv, "expiry", {"iv": 1800}, of_underlying=True),
        DatasetDescriptor("actions", PriceActions, "date", {}, ranged=True, follows_sessions=False),
    )
}
DATASET_NAMES: tuple[Dataset, ...] = get_args(Dataset)
# Documents by what a reader asks for: a timeframe, for bars, or the name of a dataset without timeframes.
DOCUMENT_TTL_S: Mapping[str, int] = {kind: ttl for each in DATASETS.values() for kind, ttl in each.ttl_s.items()}
_BY_EVENT = {each.event: each for each in DATASETS.values()}


def dataset_of(event: PriceEvent) -> DatasetDescriptor:
    """The dataset that an event is of."""
    return _BY_EVENT[type(event)]
