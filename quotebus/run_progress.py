"""How far the runs have come, from the events of the bus. No connection here."""

from dataclasses import dataclass, field

from contracts.run_events import RunFinished, RunPlanned, RunResult


@dataclass(eq=False)
class RunGoing:
    """A run under way. `outcomes`: the last known of each symbol; a merged one is not done before its twin's call."""

    run_id: str
    job: str | None
    planned: int = 0
    outcomes: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Symbols that have their outcome."""
        return len(self.outcomes)

    @property
    def counts(self) -> dict[str, int]:
        """Symbols by outcome, so far."""
        counts: dict[str, int] = {}
        for outcome in self.outcomes.values():
            counts[outcome] = counts.get(outcome, 0) + 1
        return counts


class RunsGoing:
    """The runs that are under way, as the events tell them: in any order, and any of them twice."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], RunGoing] = {}
        self._over: set[tuple[str, str]] = set()

    def take(self, event: RunPlanned | RunResult | RunFinished) -> RunGoing | None:
        """Take an event in; give the run if it is one that goes on."""
        key = (event.run_id, event.request_id)
        if isinstance(event, RunFinished):
            self._over.add(key)
            self.runs.pop(key, None)
        if key in self._over:
            return None
        run = self.runs.setdefault(key, RunGoing(event.run_id, event.job))
        if isinstance(event, RunPlanned):
            run.planned = event.planned
        elif isinstance(event, RunResult) and (event.outcome != "merged" or event.called_at is not None):
            run.outcomes[event.symbol] = event.outcome
        return run
