"""`run.>`: what a refresh planned, what became of each symbol, and how it ended."""

from datetime import date
from typing import Literal, get_args

from contracts.message import Message, UtcInstant

MAX_SLOTS = 1000
MAX_FAILED_NAMED = 20
Outcome = Literal["refreshed", "empty", "skipped", "merged", "failed", "expired"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class RunPlanned(Message, frozen=True, kw_only=True, tag="run_planned.v1"):
    """The tasks a request became. Sent by the planner on `run.planned.<job>`; received by the cacher, which opens the run.

    One request is one run; `run_id` is the request's sequence on its stream. A large run is announced in `parts`; `symbols`
    are this part's, `planned` counts all of them. The run is closed as expired at `deadline_at`. `start`, `end` and `provider` are
    the request's own: what it takes to ask the same again. `refused`: why no task could come of the request at all; those of its
    symbols that are known have failed.
    """

    run_id: str
    request_id: str
    job: str | None = None
    lane: str
    dataset: str
    timeframe: str | None = None
    slot_at: UtcInstant | None = None
    requested_at: UtcInstant
    wanted_at: UtcInstant
    deadline_at: UtcInstant
    missed_slots: int = 0
    planned: int
    part: int = 1
    parts: int = 1
    symbols: list[str]
    start: date | None = None
    end: date | None = None
    provider: str | None = None
    refused: str | None = None


class RunResult(Message, frozen=True, kw_only=True, tag="run_result.v1"):
    """Outcome of one symbol of a run. Sent by the fetcher on `run.result.<job>`; received by the cacher and by the requester.

    `outcome`, of which readers take further ones as they come: refreshed (rows were published), empty (asked, nothing there),
    skipped (`reason`: fresh; closed or holiday, when nothing can be new; no_budget, breaker, rate_limited or unauthorized, when
    the provider is unavailable for too long; or the verdict by which it does not have the symbol; `message` says when it is
    asked again), merged (a call that started at or after `wanted_at` served this task too), failed (`reason` is the verdict),
    expired.
    `task`: the task's subject, the same for every run that wants the same thing; none when no task was made.
    `called_at`: start of the call that served it. `calls`: permits this symbol cost; a shared call counts with one symbol.
    """

    run_id: str
    request_id: str
    job: str | None = None
    symbol: str
    outcome: str
    reason: str | None = None
    message: str | None = None
    provider: str | None = None
    task: str | None = None
    wanted_at: UtcInstant
    called_at: UtcInstant | None = None
    at: UtcInstant
    rows: int = 0
    calls: int = 0


class RunFinished(Message, frozen=True, kw_only=True, tag="run_finished.v1"):
    """A run is over: every planned symbol has its outcome. Sent by the cacher on `run.finished.<job>`; received by anybody.

    `counts`: symbols by outcome. `reasons`: the same by outcome and reason, of those that have one. `calls`: permits by provider.
    `started_at`: when the request was accepted; later than `slot_at` by as much as it was asked late. `missed_slots`: slots before
    this one that nobody asked. `failed_symbols`: the first MAX_FAILED_NAMED of those that failed or expired. `refused`: why
    nothing was asked at all.
    """

    run_id: str
    request_id: str
    job: str | None = None
    slot_at: UtcInstant | None = None
    planned: int
    counts: dict[str, int]
    calls: dict[str, int]
    started_at: UtcInstant
    finished_at: UtcInstant
    reasons: dict[str, dict[str, int]] = {}
    lane: str | None = None
    dataset: str | None = None
    timeframe: str | None = None
    missed_slots: int = 0
    failed_symbols: list[str] = []
    refused: str | None = None

    @property
    def failed(self) -> int:
        """Symbols that were asked for and have nothing to show for it."""
        return self.counts.get("failed", 0) + self.counts.get("expired", 0)

    @property
    def state(self) -> Literal["complete", "partial", "failed"]:
        """State of the run: all, some or none of its symbols have the data. Without symbols it is complete, unless refused."""
        if self.refused:
            return "failed"
        return "complete" if not self.failed else "partial" if self.failed < sum(self.counts.values()) else "failed"


class RunMissed(Message, frozen=True, kw_only=True, tag="run_missed.v1"):
    """Slots of a job that got no run. Sent by the scheduler on `run.missed.<job>`; received by the cacher and by anybody.

    `reason`: too_late (older than the job catches up), caught_up (a later slot's request serves them too). Readers take further
    reasons as they come. `slots`: the newest MAX_SLOTS of them, rising; `missed` counts all.
    """

    job: str
    reason: str
    missed: int
    slots: list[UtcInstant]
    at: UtcInstant
