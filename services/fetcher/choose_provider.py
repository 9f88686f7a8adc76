"""Which provider a task goes to: by what each can, how the symbol and the provider stand, what is left of the day, and price."""

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.fetch_task import FetchTask
from contracts.message import Dataset
from contracts.symbol_health import SymbolHealth
from services.fetcher.accounts import Account

SPENT = "quota_spent"
# The health of a symbol with a provider, if it is not worth a call now.
AsleepWith = Callable[[str, str], SymbolHealth | None]


class NoProviderError(Exception):
    """No provider can do what the request asks; the text says why."""


@dataclass(frozen=True)
class Standing:
    """How a provider stands. `rests`: the state in which it is left alone, `until` when.

    `calls_left`: of its day and month; None: no limit, or not looked at.
    """

    rests: str | None = None
    calls_left: int | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Chosen:
    """A provider. `instead_of`: those that would have been asked before it, the first choice first; `reason`: why not that one.

    `standing`: its own, for whoever cannot wait.
    """

    account: Account
    instead_of: Sequence[str] = ()
    reason: str | None = None
    standing: Standing = Standing()


@dataclass(frozen=True)
class Asleep:
    """Nobody is worth a call for this symbol now. `health`: how it stands with the provider that is asked again first."""

    health: SymbolHealth


def candidates(accounts: Mapping[str, Account], task: FetchTask, asked: str | None) -> list[Account]:
    """Who may serve a task, the first choice first: the provider asked for, else all that offer the first choice's kind of series.

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
    return [account for account in able if stands_in(account, able[0])]


def stands_in(account: Account, other: Account) -> bool:
    """Whether one provider's rows may stand in for another's."""
    return account.profile.real == other.profile.real and account.series_class == other.series_class


def _rank(account: Account, task: FetchTask) -> tuple[int, float, str]:
    return account.settings.priority, account.settings.cost / account.symbols_per_call(task.dataset), account.name


class Choice:
    """The providers of one request, and for each symbol of it the best. What is given away is counted against each one's day."""

    def __init__(self, dataset: Dataset, able: Sequence[Account], standings: Mapping[str, Standing], asleep: AsleepWith) -> None:
        self._dataset = dataset
        self._able = able
        self._standings = standings
        self._asleep = asleep
        self._symbols_given: Counter[str] = Counter()

    def of(self, symbol: str, *, always: bool = False) -> Chosen | Asleep:
        """The provider for a symbol. `always`: somebody is asked even if nobody is known to have it."""
        asleep = {account.name: health for account in self._able if (health := self._asleep(account.name, symbol))}
        awake = [account for account in self._able if account.name not in asleep]
        if not awake and not always:
            return Asleep(min(asleep.values(), key=lambda health: health.next_probe_at or health.at))
        why = {account.name: self._trouble(account, asleep.get(account.name)) for account in self._able}
        # Of those in trouble the first is as good as any: the task waits for it.
        best = next((account for account in self._able if why[account.name] is None), (awake or self._able)[0])
        self._symbols_given[best.name] += 1
        before = [account.name for account in self._able[: self._able.index(best)]]
        return Chosen(best, before, why[before[0]] if before else None, self._standings[best.name])

    @property
    def names(self) -> frozenset[str]:
        """The providers that may be asked."""
        return frozenset(account.name for account in self._able)

    @property
    def real(self) -> bool:
        """Whether the prices are those of a real market."""
        return all(account.profile.real for account in self._able)

    @property
    def delay_s(self) -> float:
        """How old the newest data of the slowest of them is."""
        return max(account.profile.delay_s for account in self._able)

    def ready(self) -> "Choice | None":
        """The same without those that rest or have nothing left of their day; None when nobody is left."""
        able = [a for a in self._able if self._standings[a.name].rests is None and not self._is_spent(a)]
        return Choice(self._dataset, able, self._standings, self._asleep) if able else None

    def _trouble(self, account: Account, health: SymbolHealth | None) -> str | None:
        if health is not None:
            return health.verdict or health.state
        if rests := self._standings[account.name].rests:
            return rests
        return SPENT if self._is_spent(account) else None

    def _is_spent(self, account: Account) -> bool:
        left = self._standings[account.name].calls_left
        return left is not None and self._symbols_given[account.name] >= left * account.symbols_per_call(self._dataset)
