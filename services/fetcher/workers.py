"""A provider's workers: one for each of its keys, with what they share."""

from dataclasses import dataclass

from nats.js.kv import KeyValue

from services.fetcher.accounts import Account, Key
from services.fetcher.chooser import Chooser
from services.fetcher.key_state import KeyStates
from services.fetcher.learned import Learner
from services.fetcher.ledger import Ledger
from services.fetcher.make_call import Caller, Clients
from services.fetcher.on_fetch_task import Work, Worker
from services.fetcher.pace import Pace
from services.fetcher.rest import Rest
from services.fetcher.rest_of_all import RestOfAll
from services.fetcher.symbol_permits import SymbolDesk
from services.fetcher.symbol_states import SymbolStates
from services.runtime.bus import Bus
from services.runtime.settings import FetcherSettings


def rest_of_all(bus: Bus, bucket: KeyValue, keys: KeyStates, account: Account, settings: FetcherSettings) -> RestOfAll:
    """The rests of a provider's keys, for all who ask when it works again. `bucket`: KV `state`."""
    failures, pause_s = settings.breaker_failures, settings.breaker_pause_s
    rests = {key.name: Rest(keys, account.name, key.name, failures, pause_s) for key in account.keys}
    return RestOfAll(bus, bucket, account.name, rests)


@dataclass(frozen=True)
class Shop:
    """What the workers of all providers share. `keys`: how each key is; `symbols`: how each symbol is."""

    bus: Bus
    keys: KeyStates
    symbols: SymbolStates
    chooser: Chooser
    settings: FetcherSettings

    def workers(self, account: Account, rest: RestOfAll, http: Clients) -> list[Worker]:
        """One worker a key; each knows the others."""
        symbols = SymbolDesk(self.bus, account.keys, rest.keys)
        workers = {key.name: Worker(self._work(account, key, rest, symbols, http)) for key in account.keys}
        for key, worker in workers.items():
            worker.others = {name: other for name, other in workers.items() if name != key}
        return list(workers.values())

    def _work(self, account: Account, key: Key, rest: RestOfAll, symbols: SymbolDesk, http: Clients) -> Work:
        pace = Pace(key, account.settings.burst)
        return Work(
            bus=self.bus,
            account=account,
            caller=Caller(
                account=account,
                key=key,
                ledger=Ledger(self.bus, key.windows, pace),
                pace=pace,
                rest=rest.keys[key.name],
                learner=Learner(self.bus, self.keys, account.name, key),
                http=http,
            ),
            rest=rest,
            symbols=symbols,
            chooser=self.chooser,
            states=self.symbols,
            ack_wait_s=self.settings.ack_wait_s,
            calls_at_once=self.settings.calls_at_once,
        )
