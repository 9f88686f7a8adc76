"""`plan.ask`: what the enabled jobs will cost, against what each provider allows."""

from datetime import date

import msgspec

from contracts.job import Job
from contracts.message import Message


class PlanAsk(Message, frozen=True, kw_only=True, tag="plan_ask.v1", forbid_unknown_fields=True):
    """A question for the costs of all enabled jobs. Sent by the gateway and by people; a fetcher answers with `CostPlan`.

    `job`: counted as if it were there, in place of the one with its id.
    """

    job: Job | None = None


class JobCost(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of one job. `runs`, `calls`, `merged`: on its fullest day of the next seven; `calls`: permits at least.

    More than `calls` are needed where an answer has several pages. `merged`: further ones that it would need if no other job
    wanted the same as of the same instant. `problem`: why it is not known, or what is wrong with the job.
    """

    job: str
    lane: str
    dataset: str
    timeframe: str | None = None
    provider: str | None = None
    symbols: int | None = None
    runs: int | None = None
    calls: int | None = None
    merged: int | None = None
    problem: str | None = None


class LimitUse(msgspec.Struct, frozen=True, kw_only=True):
    """Demand of the jobs on one rate limit of a provider, all its keys together.

    `window`: as in `quotebus providers`; `wanted`: calls (of `symbols`: different symbols) in the fullest such window of the next
    seven days, of a month: thirty days like these. `do`: what helps where it does not fit.
    """

    provider: str
    window: str
    limit: int
    wanted: int
    fits: bool
    do: str | None = None


class CostPlan(Message, frozen=True, kw_only=True, tag="cost_plan.v1"):
    """The answer to `plan.ask`. `from_day`: the first of the seven days, UTC. `error`: why there is no answer."""

    from_day: date
    jobs: list[JobCost] = []
    limits: list[LimitUse] = []
    error: str | None = None

    @property
    def fits(self) -> bool:
        """True if the demand fits every limit."""
        return all(limit.fits for limit in self.limits)
