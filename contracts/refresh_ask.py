"""Refresh ask and its answer: a refresh by request-reply, with the outcome of each symbol."""

from datetime import date
from typing import Annotated

import msgspec

from contracts.message import Dataset, Message, SymbolText, Text, Timeframe


class RefreshAsk(Message, frozen=True, kw_only=True, tag="refresh_ask.v1", forbid_unknown_fields=True):
    """`refresh.ask`: a refresh whose outcome is awaited. Sent by `nats request` and the command line.

    A fetcher answers with `RefreshAnswer`. `timeout_s`: answer after so many seconds at the latest, with what is known by then.
    `request_id`: what the results on `run.result.-` are to be known by meanwhile; the fetcher gives one where it is missing.
    """

    symbols: list[SymbolText]
    dataset: Dataset = "bars"
    timeframe: Timeframe | None = None
    start: date | None = None
    end: date | None = None
    provider: Text | None = None
    max_age_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 25.0
    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None


class SymbolOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one symbol: that of its `RunResult`, or `pending` when the timeout passed first."""

    symbol: str
    outcome: str
    reason: str | None = None
    provider: str | None = None
    rows: int = 0


class RefreshAnswer(Message, frozen=True, kw_only=True, tag="refresh_answer.v1"):
    """The answer to a `RefreshAsk`: one outcome per symbol. `error` is set instead when the ask itself was refused."""

    request_id: str | None = None
    run_id: str | None = None
    outcomes: list[SymbolOutcome] = []
    error: str | None = None
