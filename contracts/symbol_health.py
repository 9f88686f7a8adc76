"""`symbol.health.<provider>.<dataset>.<timeframe>.<SYMBOL>`: whether a provider has a symbol, and when it is asked again."""

from typing import Literal

from contracts.message import Message, UtcInstant

SymbolState = Literal["active", "suspect", "plan_restricted", "delisted", "unknown", "renamed"]


class SymbolHealth(Message, frozen=True, kw_only=True, tag="symbol_health.v1"):
    """Health of a symbol with one provider. Sent by the fetcher, and by the command line when an operator resets it.

    Received by every fetcher (the last message of a subject is the state; no message means active), by the cacher, and by
    anybody. One is sent when the state changes, and when a probe failed and the next one is due later; never once a run.

    `state`: suspect (not found, for the first times), delisted (not found again and again, and there were prices before), unknown
    (likewise, and there never were), plan_restricted (the account's plan does not include it), renamed (the vendor says so;
    `renamed_to` is its word), active. `before`: the state that this one follows. `since`: when `state` began. `failures`: in a row,
    tries by hand in between not counted. `next_probe_at`: until then no scheduled request costs a call.
    `verdict`, `message`: of the last failure. `by`: who found it out, fetcher or person.
    """

    provider: str
    dataset: str
    timeframe: str | None = None
    symbol: str
    state: str
    before: str = "active"
    since: UtcInstant
    at: UtcInstant
    failures: int = 0
    next_probe_at: UtcInstant | None = None
    verdict: str | None = None
    message: str | None = None
    renamed_to: str | None = None
    by: str = "fetcher"
