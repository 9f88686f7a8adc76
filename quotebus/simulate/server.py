"""The HTTP server that plays one vendor on this machine, and tells at /_quotebus/calls what it was asked."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import msgspec
from aiohttp import web

from quotebus.simulate.faults import Faults, inject
from quotebus.simulate.market import SimulatedMarket
from quotebus.simulate.quota import Quota, Violation
from quotebus.simulate.vendor import SECRETS, Handler, Reason, RefusedError, Vendor, VendorRequest, reply
from services.fetcher.provider import Limits, Reply

CALLS_PATH = "/_quotebus/calls"
REMEMBERED = 20_000


def now_utc() -> datetime:
    """The clock of a vendor that nobody has set."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Rules:
    """Behaviour of a simulated vendor. `faults`: share of requests that fail; `clock`: source of its current time."""

    limits: Limits = field(default_factory=Limits)
    faults: float = 0.0
    latency_s: float = 0.0
    seed: int = 0
    clock: Callable[[], datetime] = now_utc


class SimulatedCall(msgspec.Struct):
    """One request, without its query, which may hold a key. `outcome`: `ok`, why it was refused, or the fault it met."""

    at: datetime
    method: str
    path: str
    symbols: list[str]
    weight: int
    outcome: str


class Calls(msgspec.Struct):
    """Response of /_quotebus/calls: counts of outcomes, violations of the quota, and the newest calls."""

    provider: str
    count: int
    outcomes: dict[str, int]
    violations: list[Violation]
    calls: list[SimulatedCall]


@dataclass
class Simulator:
    """One vendor, played. `url`: where, while it is served."""

    vendor: Vendor
    rules: Rules = field(default_factory=Rules)
    url: str = ""

    def __post_init__(self) -> None:
        self.quota = Quota(self.rules.limits)
        self._faults = Faults(self.rules.faults, self.rules.seed)
        self._calls: deque[SimulatedCall] = deque(maxlen=REMEMBERED)
        self._outcomes: Counter[str] = Counter()
        self._answering = asyncio.Lock()

    @asynccontextmanager
    async def serve(self, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator["Simulator"]:
        """Answer on a port (0: any free one) while the block runs.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application()
        app.router.add_get(CALLS_PATH, self._tell)
        for route, handler in self.vendor.routes.items():
            method, _, path = route.partition(" ")
            app.router.add_route(method, path, partial(self._answer, route, handler))
        app.router.add_route("*", "/{rest:.*}", partial(self._answer, "", _nothing_there))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            self.url = f"http://{host}:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    def report(self) -> Calls:
        """Report of the calls received so far."""
        count = sum(self._outcomes.values())
        return Calls(self.vendor.name, count, dict(self._outcomes), self.quota.violations, list(self._calls))

    def environment(self, limits: Mapping[str, int]) -> dict[str, str]:
        """The variables with which quotebus asks here. `limits`: those that are not the vendor's own, such as `per_minute`."""
        secrets = {name: SECRETS[name] for name in self.vendor.profile.secrets}
        settings = {"base_url": self.url, **secrets, **{name: str(limit) for name, limit in limits.items()}}
        return {f"QUOTEBUS_PROVIDERS__{self.vendor.name}__{name}".upper(): value for name, value in settings.items()}

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self.report()), content_type="application/json")

    async def _answer(self, route: str, handler: Handler, request: web.Request) -> web.StreamResponse:
        now = self.rules.clock()
        form = {name: str(value) for name, value in (await request.post()).items()}
        headers = {name.lower(): value for name, value in request.headers.items()}
        ask = VendorRequest(
            request.path, {**request.query, **form, **request.match_info}, headers, SimulatedMarket(now, self.rules.seed), now
        )
        weight = self.vendor.weight(ask)
        try:
            if route not in self.vendor.open_routes:
                self._refuse_stranger(ask)
            if full := self.quota.take(weight, now):
                raise RefusedError(Reason.THROTTLED, *full)
            async with self._answering:
                # One at a time, and between two of them what has come in is counted: when it comes, not when it is answered.
                await asyncio.sleep(0)
                answer, outcome = _replied(handler(ask)), "ok"
        except (RefusedError, KeyError, ValueError) as error:
            refused = error if isinstance(error, RefusedError) else RefusedError(Reason.BAD_REQUEST, str(error))
            answer, outcome = self.vendor.refused(refused), str(refused.why)
        fault = None if outcome in (Reason.THROTTLED, Reason.NO_KEY, Reason.WRONG_KEY) else self._faults.draw()
        self._outcomes[fault or outcome] += 1
        self._calls.append(SimulatedCall(now, request.method, request.path, ask.market.asked, weight, fault or outcome))
        await asyncio.sleep(self.rules.latency_s)
        if fault:
            return await inject(fault, request, answer)
        return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)

    def _refuse_stranger(self, ask: VendorRequest) -> None:
        if self.vendor.key_in is None:
            return
        key = self.vendor.key_in(ask)
        if key != self.vendor.key:
            raise RefusedError(Reason.WRONG_KEY if key else Reason.NO_KEY)


def _replied(answer: object) -> Reply:
    return answer if isinstance(answer, Reply) else reply(answer)


def _nothing_there(ask: VendorRequest) -> object:
    raise RefusedError(Reason.NO_SUCH_PATH, ask.path)
