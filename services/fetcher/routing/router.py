"""Router: selects the provider of a task by capability, availability, symbol health, remaining budget and priority."""

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import nats.errors
from nats.js.errors import APIError

from contracts.fetch_task import FetchTask
from contracts.message import Dataset, Lane
from contracts.symbol_health import SymbolHealth
from services.fetcher.accounts import ApiKey, ProviderAccount
from services.fetcher.circuit.breaker import ProviderCircuit
from services.fetcher.provider import providers
from services.fetcher.quota.ledger import permits_used
from services.fetcher.routing.symbol_health import SymbolHealthKey, SymbolHealthStore
from services.runtime.bus import Bus
from services.runtime.quota import SYMBOLS

SPENT = "quota_spent"
# The health of a symbol with a provider, if it is not worth a call now.
SuspendedAt = Callable[[str, str], SymbolHealth | None]


class NoProviderError(Exception):
    """No provider can do what the request asks; the text says why."""


@dataclass(frozen=True)
class Availability:
    """Availability of a provider. `blocked_state`: the state in which it takes no calls, until `until`.

    `calls_left`: of its day and month; None: no limit, or not looked at.
    """

    blocked_state: str | None = None
    calls_left: int | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class SelectedProvider:
    """A provider. `instead_of`: those that would have been asked before it, the first choice first; `reason`: why not that one.

    `standing`: its own, for whoever cannot wait.
    """

    account: ProviderAccount
    instead_of: Sequence[str] = ()
    reason: str | None = None
    availability: Availability = Availability()


@dataclass(frozen=True)
class NoHealthyProvider:
    """Nobody is worth a call for this symbol now. `health`: how it stands with the provider that is asked again first."""

    health: SymbolHealth


def candidates(accounts: Mapping[str, ProviderAccount], task: FetchTask, asked: str | None) -> list[ProviderAccount]:
    """Providers that can serve a task, by preference: the requested one, else all with the same class of series as the first.

    A made-up market is there only when no real provider is, and rows of another basis or feed are no substitute.

    Raises:
        NoProviderError: none fits; the text names the nearest or what is offered.
    """
    what = f"{task.timeframe} bars" if task.dataset == "bars" else task.dataset
    if asked is not None:
        if asked not in accounts:
            near = difflib.get_close_matches(asked, accounts, 1)
            hint = f"did you mean {near[0]}?" if near else f"enabled are {', '.join(sorted(accounts)) or 'none'}"
            raise NoProviderError(f"provider: {asked!r} is not enabled; {hint}")
        if not accounts[asked].offers(task.dataset, task.timeframe):
            raise NoProviderError(f"provider: {asked} has no {what}")
        return [accounts[asked]]
    there = [a for a in accounts.values() if task.dataset not in a.profile.explicit_only and a.name not in task.tried]
    able = [account for account in there if account.offers(task.dataset, task.timeframe)]
    if not able:
        raise NoProviderError(f"no enabled provider has {what}; enable one in [providers]")
    able.sort(key=lambda account: (not account.profile.real, *_rank(account, task)))
    return [account for account in able if is_substitute(account, able[0])]


def is_substitute(account: ProviderAccount, other: ProviderAccount) -> bool:
    """True if the rows of one provider may substitute for those of another."""
    return account.profile.real == other.profile.real and account.series_class == other.series_class


def _rank(account: ProviderAccount, task: FetchTask) -> tuple[int, float, str]:
    return account.settings.priority, account.settings.cost / account.symbols_per_call(task.dataset), account.name


class ProviderSelection:
    """The providers of one request, and for each symbol of it the best. What is given away is counted against each one's day."""

    def __init__(
        self, dataset: Dataset, able: Sequence[ProviderAccount], standings: Mapping[str, Availability], asleep: SuspendedAt
    ) -> None:
        self._dataset = dataset
        self._able = able
        self._standings = standings
        self._asleep = asleep
        self._symbols_given: Counter[str] = Counter()

    def of(self, symbol: str, *, always: bool = False) -> SelectedProvider | NoHealthyProvider:
        """The provider for a symbol. `always`: somebody is asked even if nobody is known to have it."""
        asleep = {account.name: health for account in self._able if (health := self._asleep(account.name, symbol))}
        awake = [account for account in self._able if account.name not in asleep]
        if not awake and not always:
            return NoHealthyProvider(min(asleep.values(), key=lambda health: health.next_probe_at or health.at))
        why = {account.name: self._trouble(account, asleep.get(account.name)) for account in self._able}
        # Of those in trouble the first is as good as any: the task waits for it.
        best = next((account for account in self._able if why[account.name] is None), (awake or self._able)[0])
        self._symbols_given[best.name] += 1
        before = [account.name for account in self._able[: self._able.index(best)]]
        return SelectedProvider(best, before, why[before[0]] if before else None, self._standings[best.name])

    @property
    def names(self) -> frozenset[str]:
        """The providers that may be asked."""
        return frozenset(account.name for account in self._able)

    @property
    def real(self) -> bool:
        """True if the prices are of a real market."""
        return all(account.profile.real for account in self._able)

    @property
    def delay_s(self) -> float:
        """Delay in seconds of the slowest provider's newest data."""
        return max(account.profile.delay_s for account in self._able)

    def ready(self) -> "ProviderSelection | None":
        """The same without those that rest or have nothing left of their day; None when nobody is left."""
        able = [a for a in self._able if self._standings[a.name].blocked_state is None and not self._is_spent(a)]
        return ProviderSelection(self._dataset, able, self._standings, self._asleep) if able else None

    def _trouble(self, account: ProviderAccount, health: SymbolHealth | None) -> str | None:
        if health is not None:
            return health.verdict or health.state
        if rests := self._standings[account.name].blocked_state:
            return rests
        return SPENT if self._is_spent(account) else None

    def _is_spent(self, account: ProviderAccount) -> bool:
        left = self._standings[account.name].calls_left
        return left is not None and self._symbols_given[account.name] >= left * account.symbols_per_call(self._dataset)


class Router:
    """Chooses providers: for the planner, and for whoever has to pass a task on."""

    def __init__(
        self, bus: Bus, accounts: Mapping[str, ProviderAccount], circuits: Mapping[str, ProviderCircuit], states: SymbolHealthStore
    ) -> None:
        self._bus = bus
        self._accounts = accounts
        self._circuits = circuits
        self._states = states

    async def select(self, task: FetchTask, asked: str | None) -> ProviderSelection:
        """The providers for tasks like this one, as they stand now.

        Raises:
            NoProviderError: there is none.
            nats.errors.Error: the bus does not answer.
        """
        able = candidates(self._accounts, task, asked)
        await self._states.refresh()
        return await self._select(able, task)

    async def fail_over(self, task: FetchTask, reason: str, *, ready: bool = False) -> FetchTask | None:
        """The same task for the next provider whose rows may stand in for those of this one's; None when there is none.

        `reason`: why this one does not do it. `ready`: only somebody who can do it now.
        """
        tried = [*task.tried, task.provider]
        wanted = msgspec.structs.replace(task, tried=tried)
        try:
            able = candidates(self._substitutes(task.provider), wanted, None)
        except NoProviderError:
            return None
        everybody = await self._select(able, task, always=ready)
        choice = everybody.ready() if ready else everybody
        chosen = choice.of(task.symbol) if choice else None
        if not isinstance(chosen, SelectedProvider):
            return None
        name = chosen.account.name
        passed = [each for each in dict.fromkeys([*task.fallback_from, *tried, *chosen.instead_of]) if each != name]
        why = task.fallback_reason or reason
        return msgspec.structs.replace(wanted, provider=name, fallback_from=passed, fallback_reason=why)

    async def _select(self, able: Sequence[ProviderAccount], task: FetchTask, *, always: bool = False) -> ProviderSelection:
        def asleep(provider: str, symbol: str) -> SymbolHealth | None:
            return self._states.suspended(SymbolHealthKey(provider, task.dataset, task.timeframe, symbol))

        return ProviderSelection(task.dataset, able, await self._availabilities(able, task.lane, always=always), asleep)

    def _substitutes(self, provider: str) -> Mapping[str, ProviderAccount]:
        """Those that may stand in for a provider; for one that is gone anybody, as its task is planned anew."""
        here = self._accounts.get(provider)
        if here is not None:
            return {name: account for name, account in self._accounts.items() if is_substitute(account, here)}
        # But nothing made up for something real.
        was_real = provider not in providers() or providers()[provider].profile.real
        return {name: account for name, account in self._accounts.items() if account.profile.real or not was_real}

    async def _availabilities(self, able: Sequence[ProviderAccount], lane: Lane, *, always: bool) -> dict[str, Availability]:
        # With nobody to choose from, what is left of its day decides nothing.
        counts = len(able) > 1 or always
        return {a.name: await self._availability(a, lane, counts=counts) for a in able}

    async def _availability(self, account: ProviderAccount, lane: Lane, *, counts: bool) -> Availability:
        circuit = self._circuits[account.name]
        state = circuit.blocked_state(lane)
        until = datetime.now(UTC) + timedelta(seconds=circuit.retry_in_s(lane)) if state else None
        return Availability(state, await self._calls_left(account, lane) if counts else None, until)

    async def _calls_left(self, account: ProviderAccount, lane: Lane) -> int | None:
        left = [await self._left(key, lane) for key in account.keys]
        return None if None in left else sum(filter(None, left))

    async def _left(self, key: ApiKey, lane: Lane) -> int | None:
        """Calls left to a key of its day and month for this lane; None where no limit applies."""
        dated = [w for w in key.windows if w.by_date and w.window != SYMBOLS and lane in w.lanes]
        left = []
        for window in dated:
            try:
                used, _ = await permits_used(self._bus.js, window)
            except (APIError, nats.errors.Error):
                used = 0  # the permit decides in the end
            left.append(max(0, window.limit - used))
        return min(left, default=None)
