"""The choice of a provider with all that it is made by: accounts, who rests, symbol health, and what is left of each one's day."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import nats.errors
from nats.js.errors import APIError

from contracts.fetch_task import FetchTask
from contracts.message import Lane
from contracts.symbol_health import SymbolHealth
from services.fetcher.accounts import Account, Key
from services.fetcher.choose_provider import Choice, Chosen, NoProviderError, Standing, candidates, stands_in
from services.fetcher.circuit.breaker import ProviderCircuit
from services.fetcher.permits import used_permits
from services.fetcher.provider import providers
from services.fetcher.symbol_health import Series
from services.fetcher.symbol_states import SymbolStates
from services.runtime.bus import Bus
from services.runtime.quota import SYMBOLS


class Chooser:
    """Chooses providers: for the planner, and for whoever has to pass a task on."""

    def __init__(
        self, bus: Bus, accounts: Mapping[str, Account], circuits: Mapping[str, ProviderCircuit], states: SymbolStates
    ) -> None:
        self._bus = bus
        self._accounts = accounts
        self._circuits = circuits
        self._states = states

    async def choice(self, task: FetchTask, asked: str | None) -> Choice:
        """The providers for tasks like this one, as they stand now.

        Raises:
            NoProviderError: there is none.
            nats.errors.Error: the bus does not answer.
        """
        able = candidates(self._accounts, task, asked)
        await self._states.refresh()
        return await self._choice(able, task)

    async def instead(self, task: FetchTask, reason: str, *, ready: bool = False) -> FetchTask | None:
        """The same task for the next provider whose rows may stand in for those of this one's; None when there is none.

        `reason`: why this one does not do it. `ready`: only somebody who can do it now.
        """
        tried = [*task.tried, task.provider]
        wanted = msgspec.structs.replace(task, tried=tried)
        try:
            able = candidates(self._alike(task.provider), wanted, None)
        except NoProviderError:
            return None
        everybody = await self._choice(able, task, always=ready)
        choice = everybody.ready() if ready else everybody
        chosen = choice.of(task.symbol) if choice else None
        if not isinstance(chosen, Chosen):
            return None
        name = chosen.account.name
        passed = [each for each in dict.fromkeys([*task.fallback_from, *tried, *chosen.instead_of]) if each != name]
        why = task.fallback_reason or reason
        return msgspec.structs.replace(wanted, provider=name, fallback_from=passed, fallback_reason=why)

    async def _choice(self, able: Sequence[Account], task: FetchTask, *, always: bool = False) -> Choice:
        def asleep(provider: str, symbol: str) -> SymbolHealth | None:
            return self._states.asleep(Series(provider, task.dataset, task.timeframe, symbol))

        return Choice(task.dataset, able, await self._standings(able, task.lane, always=always), asleep)

    def _alike(self, provider: str) -> Mapping[str, Account]:
        """Those that may stand in for a provider; for one that is gone anybody, as its task is planned anew."""
        here = self._accounts.get(provider)
        if here is not None:
            return {name: account for name, account in self._accounts.items() if stands_in(account, here)}
        # But nothing made up for something real.
        was_real = provider not in providers() or providers()[provider].profile.real
        return {name: account for name, account in self._accounts.items() if account.profile.real or not was_real}

    async def _standings(self, able: Sequence[Account], lane: Lane, *, always: bool) -> dict[str, Standing]:
        # With nobody to choose from, what is left of its day decides nothing.
        counts = len(able) > 1 or always
        return {a.name: await self._standing(a, lane, counts=counts) for a in able}

    async def _standing(self, account: Account, lane: Lane, *, counts: bool) -> Standing:
        circuit = self._circuits[account.name]
        state = circuit.blocked_state(lane)
        until = datetime.now(UTC) + timedelta(seconds=circuit.retry_in_s(lane)) if state else None
        return Standing(state, await self._calls_left(account, lane) if counts else None, until)

    async def _calls_left(self, account: Account, lane: Lane) -> int | None:
        left = [await self._left(key, lane) for key in account.keys]
        return None if None in left else sum(filter(None, left))

    async def _left(self, key: Key, lane: Lane) -> int | None:
        """How many calls of its day and month a key has for this lane; None where nothing limits them."""
        dated = [w for w in key.windows if w.by_date and w.window != SYMBOLS and lane in w.lanes]
        left = []
        for window in dated:
            try:
                used, _ = await used_permits(self._bus.js, window)
            except (APIError, nats.errors.Error):
                used = 0  # the permit decides in the end
            left.append(max(0, window.limit - used))
        return min(left, default=None)
