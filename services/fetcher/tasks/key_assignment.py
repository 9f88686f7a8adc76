"""The different symbols a provider key may ask for in a month: a symbol's first call takes a permit, all its later ones none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from services.fetcher.accounts import ApiKey
from services.fetcher.circuit.breaker import KeyCircuit, QuotaSpentError
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.quota.ledger import RESET_GUARD, PermitRequest, acquire_permits, reset_within_guard
from services.fetcher.tasks.task_queue import PendingTask
from services.runtime.bus import Bus
from services.runtime.quota import QuotaWindow


def _no_room(window: QuotaWindow, symbol: str, now: datetime) -> ProviderError:
    """Waiting does not help this symbol; another key or provider may."""
    reset = window.resets_at(now)
    assert reset is not None
    why = f"the plan's {window.limit} symbols of this month are others; {symbol} fits from {reset:%Y-%m-%d} on"
    return ProviderError(Verdict.PLAN_RESTRICTED, f"{window.provider}: {why}", reset.astimezone(UTC) + RESET_GUARD)


class KeySymbolQuota:
    """The symbols of one key. Those that count already are remembered: a permit is for the rest of the month."""

    def __init__(self, bus: Bus, window: QuotaWindow) -> None:
        self._bus = bus
        self._window = window
        self._known: dict[date | None, set[str]] = {}

    def counts(self, symbol: str) -> bool:
        """True if the symbol is known to hold its permit of this month."""
        return symbol in self._known.get(self._window.quota_date(datetime.now(UTC)), ())

    async def take(self, symbols: Iterable[str]) -> dict[str, ProviderError]:
        """Count these symbols; give those that found no room, each with its error.

        Raises:
            QuotaSpentError: the month's reset is nearer than our clocks can be trusted.
            LedgerError: the server does not answer: unknown is no permit.
        """
        now = datetime.now(UTC)
        if near := reset_within_guard(self._window, now):
            raise QuotaSpentError(self._window, near, f"its month resets within {RESET_GUARD.seconds} s")
        month = self._window.quota_date(now)
        known = self._known.setdefault(month, set())
        self._known = {month: known}
        refused = {}
        for symbol in symbols:
            if symbol not in known and await acquire_permits(self._bus, PermitRequest(self._window, symbol=symbol)) is None:
                refused[symbol] = _no_room(self._window, symbol, now)
            else:
                known.add(symbol)
        return refused


@dataclass(frozen=True)
class KeyAssignment:
    """Assignment of tasks to keys: to the `own` key, to another key by name, or `refused` for now, with the error."""

    own: list[PendingTask] = field(default_factory=list)
    elsewhere: list[tuple[str, PendingTask]] = field(default_factory=list)
    refused: list[tuple[PendingTask, ProviderError]] = field(default_factory=list)


class SymbolQuota:
    """Decides with which key of a provider a symbol is asked for: one that counts it already before one that has room."""

    def __init__(self, bus: Bus, keys: Iterable[ApiKey], circuits: Mapping[str, KeyCircuit]) -> None:
        self._permits = {key.name: KeySymbolQuota(bus, key.symbols) for key in keys if key.symbols}
        self._circuits = circuits

    async def assign(self, key: str, chosen: Sequence[PendingTask]) -> KeyAssignment:
        """Assign the pending tasks of the worker of `key` to the keys of the provider. Raises as `KeySymbolQuota.take` does."""
        placed = KeyAssignment()
        if key not in self._permits:
            placed.own.extend(chosen)
            return placed
        mine = []
        for held in chosen:
            other = self._key_counting(held, key)
            if other is None:
                mine.append(held)
            else:
                placed.elsewhere.append((other, held))
        errors = await self._permits[key].take([held.task.symbol for held in mine])
        for held in mine:
            if error := errors.get(held.task.symbol):
                self._move(placed, replace(held, refused_by=held.refused_by | {key}), error)
            else:
                placed.own.append(held)
        return placed

    def _key_counting(self, held: PendingTask, key: str) -> str | None:
        if self._permits[key].counts(held.task.symbol):
            return None
        counting = (name for name, permits in self._permits.items() if permits.counts(held.task.symbol))
        return next((name for name in counting if not self._circuits[name].retry_in_s(held.task.lane)), None)

    def _move(self, placed: KeyAssignment, held: PendingTask, error: ProviderError) -> None:
        left = [name for name in self._circuits if name not in held.refused_by]
        awake = [name for name in left if not self._circuits[name].retry_in_s(held.task.lane)]
        if awake:
            placed.elsewhere.append((awake[0], held))
        elif left:
            # It would come back from a key that rests at once: it waits in the queue instead.
            placed.refused.append((held, ProviderError(Verdict.RATE_LIMITED, f"{held.task.provider}: the key with room rests")))
        else:
            placed.refused.append((held, error))
