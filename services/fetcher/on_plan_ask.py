"""`plan.ask`: the costs of the jobs in the bucket, for whoever shows or changes them."""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError

from contracts.job import Job
from contracts.message import decode
from contracts.plan_ask import CostPlan, PlanAsk
from contracts.refresh_request import RefreshRequest
from services.fetcher.accounts import ProviderAccount, accounts
from services.fetcher.planning.cost_estimate import cost_estimate
from services.fetcher.planning.universe import Universe, UniverseRefusedError, UniverseUnavailableError
from services.runtime.bus import Bus
from services.runtime.jobs.store import JobError, open_job_bucket
from services.runtime.settings import Settings


class PlanAskHandler:
    """Answers asks for costs. Any fetcher may: all of them have the same settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._accounts = accounts(settings)
        self._bus: Bus | None = None

    def open(self, bus: Bus) -> None:
        """Answer from now on."""
        self._bus = bus

    async def on_plan_ask(self, body: bytes) -> CostPlan:
        """The costs, or why there is no answer."""
        today = datetime.now(UTC).date()
        if self._bus is None:
            return CostPlan(from_day=today, error="the fetcher is starting: ask again")
        try:
            ask = decode(body or b"{}", PlanAsk)
            return await costs(self._bus.nc, self._settings, self._accounts, ask.job)
        except (msgspec.MsgspecError, ValueError, JobError, APIError, nats.errors.Error) as error:
            return CostPlan(from_day=today, error=str(error) or type(error).__name__)


async def costs(nc: Client, settings: Settings, known: Mapping[str, ProviderAccount], draft: Job | None = None) -> CostPlan:
    """Estimate the cost of the enabled jobs of this server with these accounts; `draft` replaces the job with its id.

    Raises:
        JobError: there is no bucket of jobs.
        nats.errors.Error: the server does not answer.
    """
    bucket = await open_job_bucket(nc)
    jobs = [job for job in await bucket.all() if job.enabled and (draft is None or job.id != draft.id)]
    if draft is not None:
        jobs = sorted([*jobs, draft], key=lambda job: job.id)
    universe = Universe(settings.postgres.dsn.get_secret_value(), settings.universes)
    found: dict[str, list[str] | str] = {}
    symbols: dict[str, list[str] | str] = {}
    for job in jobs:
        if job.universe is not None and job.universe not in found:
            try:
                found[job.universe] = await universe.named(job.universe)
            except (UniverseRefusedError, UniverseUnavailableError) as error:
                found[job.universe] = str(error)
        listed = found[job.universe] if job.universe is not None else []
        named = await universe.symbols(RefreshRequest(symbols=job.symbols)) if job.symbols else []
        symbols[job.id] = listed if isinstance(listed, str) else list(dict.fromkeys([*named, *listed]))
    return cost_estimate(jobs, symbols, known, await bucket.calendars(jobs), datetime.now(UTC))
