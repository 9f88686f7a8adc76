"""`run.>`: what a refresh planned, what became of each symbol, and how it ended."""

from typing import Literal

from contracts.message import Dataset, Lane, Message, Timeframe, UtcInstant

Outcome = Literal["refreshed", "empty", "skipped", "merged", "failed", "expired"]


class RunPlanned(Message, frozen=True, kw_only=True, tag="run_planned.v1"):
    """The tasks a request became. Sent by the planner on `run.planned.<job>`; received by the cacher, which opens the run.

    One request is one run; `run_id` is the request's sequence on its stream. A large run is announced in `parts`; `symbols`
    are this part's, `planned` counts all of them. The run is closed as expired at `deadline_at`.
    """

    run_id: str
    request_id: str
    job: str | None = None
    lane: Lane
    dataset: Dataset
    timeframe: Timeframe | None = None
    slot_at: UtcInstant | None = None
    requested_at: UtcInstant
    wanted_at: UtcInstant
    deadline_at: UtcInstant
    missed_slots: int = 0
    planned: int
    part: int = 1
    parts: int = 1
    symbols: list[str]


class RunResult(Message, frozen=True, kw_only=True, tag="run_result.v1"):
    """What became of one symbol of one run. Sent by the fetcher on `run.result.<job>`; received by the cacher and by whoever asked.

    `outcome`: refreshed (rows were published), empty (asked, nothing there), skipped (`reason`: fresh, or the
    verdict by which the provider does not have the symbol; `message` says when it is asked again), merged (a call that
    started at or after `wanted_at` serves this task too; it may still be under way), failed (`reason` is the verdict), expired.
    `task`: the task's subject, the same for every run that wants the same thing; none when no task was made.
    `called_at`: start of the call that served it. `calls`: permits this symbol cost; a shared call counts with one symbol.
    """

    run_id: str
    request_id: str
    job: str | None = None
    symbol: str
    outcome: Outcome
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

    `counts`: symbols by outcome. `calls`: permits by provider.
    """

    run_id: str
    request_id: str
    job: str | None = None
    slot_at: UtcInstant | None = None
    planned: int
    counts: dict[Outcome, int]
    calls: dict[str, int]
    started_at: UtcInstant
    finished_at: UtcInstant


class DeadLetter(Message, frozen=True, kw_only=True, tag="dead_letter.v1"):
    """A message that was given up on. Sent by whoever gave up, on `refresh.dead.<reason>`; received by operators.

    `reason`: a verdict, or `malformed`. `message` names the field or the fault and what to do. `subject`, `stream` and
    `sequence` say where it was; `body` is what it held, as text (undecodable bytes replaced), cut at 64 KiB.
    """

    reason: str
    message: str
    service: str
    subject: str
    stream: str | None = None
    sequence: int | None = None
    body: str
    symbol: str | None = None
    provider: str | None = None
    run_id: str | None = None
    request_id: str | None = None
    at: UtcInstant
