"""A provider's workers: one for each of its keys, with what they share."""

from dataclasses import dataclass

from services.fetcher.accounts import Account, Key
from services.fetcher.chooser import Chooser
from services.fetcher.circuit.breaker import KeyCircuit, ProviderCircuit
from services.fetcher.circuit.key_state import KeyStateStore
from services.fetcher.learned import Learner
from services.fetcher.ledger import Ledger
from services.fetcher.make_call import Caller, Clients
from services.fetcher.on_fetch_task import Work, Worker
from services.fetcher.pace import Pace
from services.fetcher.symbol_permits import SymbolDesk
from services.fetcher.symbol_states import SymbolStates
from services.runtime.bus import Bus
from services.runtime.consumer import FailurePolicy
from services.runtime.settings import FetcherSettings


def provider_circuit(keys: KeyStateStore, account: Account, settings: FetcherSettings) -> ProviderCircuit:
    """Build the circuit of a provider over those of its API keys."""
    failures, pause_s = settings.breaker_failures, settings.breaker_pause_s
    return ProviderCircuit({key.name: KeyCircuit(keys, account.name, key.name, failures, pause_s) for key in account.keys})


@dataclass(frozen=True)
class Shop:
    """What the workers of all providers share. `keys`: how each key is; `symbols`: how each symbol is."""

    bus: Bus
    keys: KeyStateStore
    symbols: SymbolStates
    chooser: Chooser
    failures: FailurePolicy
    settings: FetcherSettings

    def workers(self, account: Account, circuit: ProviderCircuit, http: Clients) -> list[Worker]:
        """One worker a key; each knows the others."""
        symbols = SymbolDesk(self.bus, account.keys, circuit.keys)
        workers = {key.name: Worker(self._work(account, key, circuit, symbols, http)) for key in account.keys}
        for key, worker in workers.items():
            worker.others = {name: other for name, other in workers.items() if name != key}
        return list(workers.values())

    def _work(self, account: Account, key: Key, circuit: ProviderCircuit, symbols: SymbolDesk, http: Clients) -> Work:
        pace = Pace(key, account.settings.burst)
        return Work(
            bus=self.bus,
            account=account,
            caller=Caller(
                account=account,
                key=key,
                ledger=Ledger(self.bus, key.windows, pace),
                pace=pace,
                circuit=circuit.keys[key.name],
                learner=Learner(self.bus, self.keys, account.name, key),
                http=http,
            ),
            circuit=circuit,
            symbols=symbols,
            chooser=self.chooser,
            states=self.symbols,
            failures=self.failures,
            ack_wait_s=self.settings.ack_wait_s,
            calls_at_once=self.settings.calls_at_once,
        )
