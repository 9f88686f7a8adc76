"""`task.<provider>.<lane>.<dataset>.<timeframe>.<range>.<SYMBOL>`: one symbol to fetch."""

from datetime import date

from contracts.message import Dataset, Lane, Message, Timeframe, UtcInstant


class FetchTask(Message, frozen=True, kw_only=True, tag="fetch_task.v1"):
    """One symbol that a provider shall be asked for. Sent by the fetcher's planner; received by its worker of that provider.

    `start` and `end` as in `RefreshRequest`. `wanted_at`: an answer whose call started at or after this instant serves the
    task, whoever asked for it. `tried`: providers that were asked before this one and could not answer. `fallback_from`: all that
    come before this one and were asked or passed over, the first choice first; `fallback_reason`: why not the first choice.
    """

    provider: str
    lane: Lane
    symbol: str
    dataset: Dataset
    timeframe: Timeframe | None = None
    start: date | None = None
    end: date | None = None
    wanted_at: UtcInstant
    expires_at: UtcInstant
    request_id: str
    run_id: str
    job: str | None = None
    tried: list[str] = []
    fallback_from: list[str] = []
    fallback_reason: str | None = None
