"""Checks of `quotebus doctor`: servers, streams, sessions, universes, logins."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from quotebus.cli.context import nats_of, postgres_of, reason_of
from quotebus.cli.errors import CommandError

if TYPE_CHECKING:
    from quotebus.cli.local_settings import LocalSettings
    from quotebus.client import Client
    from services.fetcher.auth.tokens import Tokens
    from services.runtime.schedules.sessions import Calendar

_MUCH_BACKLOG = 1000
_MANY_ASLEEP = 50
_DAY = timedelta(days=1)


_FEW_DAYS = 30


@dataclass(frozen=True)
class Check:
    """One line. `fail`: something does not work; `warn`: it works, and somebody should look."""

    state: Literal["ok", "warn", "fail"]
    what: str
    found: str
    do: str | None = None


async def checks(here: "LocalSettings") -> AsyncIterator[Check]:
    """Everything there is to check, what others stand on first."""
    async for check in _providers(here):
        yield check
    try:
        async with nats_of(here) as qb:
            async for check in _nats(here, qb):
                yield check
    except CommandError as error:
        yield Check("fail", "nats", error.message)
    try:
        async with postgres_of(here) as connection:
            yield Check("ok", "postgres", f"answers, version {connection.get_server_version().major}")
            yield await _migrations(here)
    except CommandError as error:
        yield Check("fail", "postgres", error.message)
    yield await _redis(here)


async def _providers(here: "LocalSettings") -> AsyncIterator[Check]:
    from services.fetcher.accounts import accounts, incomplete_keys
    from services.runtime.settings import FIRST_KEY

    working = [name for name, account in accounts(here.settings).items() if not account.profile.is_local]
    for name, settings in here.settings.providers.items():
        for key, variables in incomplete_keys(name, settings).items() if settings.enabled is not False else ():
            state: Literal["warn", "fail"] = "fail" if settings.enabled else "warn"
            missing = " and ".join(variable.rpartition("__")[2].lower() for variable in variables)
            of = name if key == FIRST_KEY else f"the key {key} of {name}"
            yield Check(state, "provider keys", f"{of} has no {missing}", f"set {' and '.join(variables)}")
    if working:
        yield Check("ok", "providers", f"{', '.join(working)} can be asked")
    else:
        yield Check("warn", "providers", "none can be asked", "name one in quotebus.toml: [providers.synthetic] needs no key")


async def _nats(here: "LocalSettings", qb: "Client") -> AsyncIterator[Check]:
    import nats.errors

    version = qb.nc.connected_server_version
    server = f"{version.major}.{version.minor}.{version.patch} ({here.origin('nats', 'url')})"
    try:
        await qb.js.account_info()
    except nats.errors.Error as error:
        yield Check("fail", "jetstream", f"{server}: {reason_of(error)}", "enable JetStream on the server: nats-server -js")
        return
    yield Check("ok", "nats", f"version {server}, with JetStream")
    for check in (_streams(here, qb), _skew(qb), _dead(qb), _symbols(qb)):
        try:
            yield await check
        except nats.errors.Error as error:
            yield Check("fail", "streams", reason_of(error), "run `quotebus migrate`")
    async for behind in _backlog(here, qb):
        yield behind
    from quotebus.cli.checks import login_checks, session_checks, universe_checks

    for further in (login_checks(here, qb), session_checks(qb), universe_checks(here, qb)):
        async for line in further:
            yield line


async def _streams(here: "LocalSettings", qb: "Client") -> Check:
    from services.fetcher.accounts import quotas
    from services.runtime.jetstream.provision import drift
    from services.runtime.jetstream.topology import topology

    wanted = topology(here.settings, quotas(here.settings))
    if found := await drift(qb.js, wanted):
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        return Check("fail", "streams", f"{found[0]}{more}", "run `quotebus migrate`")
    return Check("ok", "streams", f"{len(wanted.streams)} streams and {len(wanted.consumers)} consumers are as they should be")


async def _skew(qb: "Client") -> Check:
    from services.runtime.bus import MAX_CLOCK_SKEW, Bus, clock_skew

    try:
        skew = await clock_skew(Bus(qb.nc, qb.js))
    except KeyError:
        return Check("warn", "clock", "cannot be compared without the stream REFRESH", "run `quotebus migrate`")
    found = f"this clock is {skew.total_seconds():+.3f} s off the NATS server's"
    if abs(skew) > MAX_CLOCK_SKEW:
        return Check("fail", "clock", found, "synchronise both: chrony or another NTP client")
    return Check("ok", "clock", found)


async def _dead(qb: "Client") -> Check:
    from contracts import subjects
    from services.runtime.follow import read_stream

    async with aclosing(read_stream(qb.nc, subjects.DEAD, subjects.dead("*"), datetime.now(UTC) - _DAY)) as messages:
        reasons = Counter([message.subject.rsplit(".", 1)[1] async for message in messages])
    if reasons:
        found = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        return Check("warn", "dead letters", f"in the last 24 h: {found}", "look at them: `quotebus dead ls`")
    return Check("ok", "dead letters", "none in the last 24 h")


async def _symbols(qb: "Client") -> Check:
    from quotebus.cli.symbols import symbol_health

    asleep = [health for health in await symbol_health(qb) if health.state != "active"]
    if not asleep:
        return Check("ok", "symbols", "all are active")
    states = Counter(f"{health.state} with {health.provider}" for health in asleep)
    found = f"{len(asleep)} are not active: {', '.join(f'{count} {state}' for state, count in states.most_common(4))}"
    if len(asleep) <= _MANY_ASLEEP:
        return Check("ok", "symbols", found)
    return Check(
        "warn", "symbols", found, "are they spelt and planned right? `quotebus symbols` lists them, `symbols reset` tries anew"
    )


async def _backlog(here: "LocalSettings", qb: "Client") -> AsyncIterator[Check]:
    backlog = await backlogs(here, qb)
    for consumer, waiting in backlog.items():
        if waiting > _MUCH_BACKLOG:
            yield Check("warn", "backlog", f"{waiting} messages wait for {consumer}", "is the service running? `quotebus status`")
    if backlog and max(backlog.values()) <= _MUCH_BACKLOG:
        yield Check("ok", "backlog", f"{sum(backlog.values())} messages wait for {len(backlog)} consumers")


async def backlogs(here: "LocalSettings", qb: "Client") -> dict[str, int]:
    """Messages that each durable consumer has still to work off, those that are being worked on included."""
    import nats.errors

    from services.fetcher.accounts import quotas
    from services.runtime.jetstream.topology import topology

    found = {}
    for stream, consumer in topology(here.settings, quotas(here.settings)).consumers:
        name = consumer.durable_name or ""
        try:
            info = await qb.js.consumer_info(stream, name)
        except nats.errors.Error:
            continue
        found[name] = (info.num_pending or 0) + (info.num_ack_pending or 0)
    return found


async def _migrations(here: "LocalSettings") -> Check:
    from quotebus.cli.migrate import pending_migrations

    pending = await pending_migrations(here)
    if pending:
        return Check("fail", "migrations", f"pending: {', '.join(pending)}", "run `quotebus migrate`")
    return Check("ok", "migrations", "none is pending")


async def _redis(here: "LocalSettings") -> Check:
    from services.runtime.prices.read_redis import RedisUnreadableError, ping

    if here.settings.redis.url is None:
        return Check("ok", "redis", "none is configured: prices are read from PostgreSQL")
    try:
        await ping(here.settings.redis)
    except RedisUnreadableError as error:
        # Nothing is lost without it, only slower.
        origin = here.origin("redis", "url")
        return Check("warn", "redis", f"{error} (url: {origin})", "start it, or leave QUOTEBUS_REDIS__URL empty to do without")
    return Check("ok", "redis", "answers")


async def login_checks(here: "LocalSettings", qb: "Client") -> AsyncIterator[Check]:
    """Check the lifetime of each login that a person has to renew."""
    from nats.js.errors import NotFoundError

    from services.fetcher.accounts import accounts
    from services.fetcher.auth.login_monitor import token_stores, with_logins
    from services.fetcher.auth.tokens import decode_tokens
    from services.fetcher.provider import ProviderError

    known = accounts(here.settings)
    try:
        stores = await token_stores(qb.js, known)
    except NotFoundError:
        return  # its own line says that the bucket is missing
    for (name, key), lasts in with_logins(known).items():
        try:
            tokens = decode_tokens((await stores[name, key].read()).value)
        except ProviderError as error:
            yield Check("warn", "login", error.message)
        else:
            yield _login(name, key, tokens, lasts)


def _login(provider: str, key: str, tokens: "Tokens | None", lasts: timedelta) -> Check:
    from services.fetcher.accounts import variable_of
    from services.fetcher.auth.tokens import login_state
    from services.runtime.settings import FIRST_KEY

    name = provider if key == FIRST_KEY else f"{provider} {key}"

    if tokens is None:
        return Check("warn", "login", f"{name}: not used yet", f"prove it: `quotebus refresh SYMBOL` of {name}")
    state, ends = login_state(tokens, lasts, datetime.now(UTC))
    how = f"log in again and set {variable_of(provider, key, 'refresh_token')}, then restart the fetchers"
    if state == "ended":
        return Check("fail", "login", tokens.revoked_reason or f"{name}: ended {ends:%Y-%m-%d %H:%M}Z", how)
    left = f"{name}: lasts until {ends:%Y-%m-%d %H:%M}Z at the latest"
    return Check("warn", "login", left, how) if state == "ends_soon" else Check("ok", "login", left)


async def session_checks(qb: "Client") -> AsyncIterator[Check]:
    """A line for each exchange that a job names; none if none does."""
    from nats.js.errors import NotFoundError

    from services.runtime.jobs.store import JobError, open_job_bucket

    try:
        bucket = await open_job_bucket(qb.nc)
        jobs = [job for job in await bucket.all() if job.calendar is not None]
        calendars = await bucket.calendars(jobs)
    except (JobError, NotFoundError):
        return  # its own line says that the bucket is missing
    for code in sorted({job.calendar for job in jobs if job.calendar is not None}):
        waiting = [job.id for job in jobs if job.calendar == code]
        yield _known(calendars[code]) if code in calendars else _missing(code, waiting)


def _missing(code: str, jobs: list[str]) -> Check:
    do = "run `quotebus migrate`; a running scheduler does so by itself, and its log says why it could not"
    return Check("fail", "sessions", f"{code}: not known, so {', '.join(jobs)} wait", do)


def _known(calendar: "Calendar") -> Check:
    left = calendar.ahead(datetime.now(UTC).date())
    if left > _FEW_DAYS:
        return Check("ok", "sessions", f"{calendar.code}: known until {calendar.last}")
    state = f"end in {left} days" if left >= 0 else f"ended {-left} days ago: every weekday counts, and jobs of `session` wait"
    do = "run `quotebus migrate`; if that changes nothing, update exchange_calendars, which does not know more"
    return Check("warn", "sessions", f"{calendar.code}: known until {calendar.last}, they {state}", do)


async def universe_checks(here: "LocalSettings", qb: "Client") -> AsyncIterator[Check]:
    """A line for each universe that an enabled job names; none if none does, or if the database does not answer."""
    from nats.js.errors import NotFoundError

    from services.fetcher.planning.universe import Universe, UniverseRefusedError, UniverseUnavailableError
    from services.runtime.jobs.store import JobError, open_job_bucket

    try:
        jobs = [job for job in await (await open_job_bucket(qb.nc)).all() if job.enabled and job.universe is not None]
    except (JobError, NotFoundError):
        return  # its own line says that the bucket is missing
    universe = Universe(here.settings.postgres.dsn.get_secret_value(), here.settings.universes)
    for name in sorted({job.universe for job in jobs if job.universe is not None}):
        asking = ", ".join(job.id for job in jobs if job.universe == name)
        try:
            count = len(await universe.named(name))
        except UniverseRefusedError as error:
            yield Check("fail", "universe", str(error), f"jobs that ask for it: {asking}")
        except UniverseUnavailableError as error:
            yield Check("warn", "universe", str(error), "its requests wait until it can be")
        else:
            do = f"fill it for {asking}: `quotebus symbols import FILE.csv --table watchlist`, or see [universes]"
            yield Check("ok", "universe", f"{name}: {count} symbols") if count else Check("warn", "universe", f"{name}: empty", do)
