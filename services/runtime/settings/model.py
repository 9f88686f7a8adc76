"""Every setting as msgspec structs, with its default, its range and what is checked between settings."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Annotated, Literal, NamedTuple, get_args, get_type_hints
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, Struct, field

from contracts.job import Job, check_chain
from contracts.message import UniverseName

FIRST_KEY = "k1"  # the name of the key in a provider's own table
WATCHLIST, ACTIVE = "watchlist", "active"
BUILT_IN = (WATCHLIST, ACTIVE)
# The value of `enabled` of a job that waits for a provider.
AUTO = "auto"
# The provider that asks nobody, and so needs no table and no key.
DERIVED = "derived"
# `paused_reason` of a job of the settings; the scheduler resumes such a job once the reason no longer applies.
PAUSED_BY_SETTINGS = "enabled = false in the settings"
WAITS_FOR_PROVIDER = "waits for a provider: give one a key, or enabled = true"

PositiveInt = Annotated[int, Meta(ge=1)]
Limit = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Share = Annotated[float, Meta(ge=0, le=0.5)]
Intervals = Annotated[list[PositiveFloat], Meta(min_length=1)]
KeyName = Annotated[
    str,
    # It becomes part of a subject and of a stream's name.
    Meta(
        pattern=rf"^(?!{FIRST_KEY}$)[a-z0-9_-]{{1,32}}$",
        description=f"name a key by 1 to 32 of a-z, 0-9, _ and -; {FIRST_KEY} is the key in the provider's own table",
    ),
]
WindowName = Annotated[str, Meta(pattern="^[1-9][0-9]{0,5}s$", description="give a window's length in seconds, as in 600s")]
NamedUniverse = Annotated[UniverseName, Meta(description="name a universe by 1 to 64 of a-z, 0-9, _ and -, the first no -")]
ReceiverId = Annotated[
    str, Meta(pattern="^[a-z0-9_][a-z0-9_-]{0,63}$", description="give 1 to 64 of a-z, 0-9, _ and -, the first no -")
]
Occasion = Literal["finished", "failed", "missed"]


class Fault(NamedTuple):
    """One invalid setting: its path below the table that was checked, and what is right."""

    path: tuple[str, ...]
    text: str


class InvalidSettingsError(ValueError):
    """A table holds invalid settings; `faults` has each of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(f"{'.'.join(fault.path)}: {fault.text}" if fault.path else fault.text for fault in faults))
        self.faults = tuple(faults)


class Secret:
    """A text that no printing, formatting or encoding shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not serialised")


class JobTable(dict[str, object]):
    """A `[[job]]` table of which a job can be made."""


class Section(Struct, frozen=True, kw_only=True):
    """One table of the settings. A plain text that is given for a secret becomes one, so that nothing shows it."""

    def __post_init__(self) -> None:
        for name in _secret_fields(type(self)):
            if isinstance(text := getattr(self, name), str):
                msgspec.structs.force_setattr(self, name, Secret(text))


@cache
def _secret_fields(section: type[Section]) -> tuple[str, ...]:
    return tuple(name for name, hint in get_type_hints(section).items() if hint is Secret or Secret in get_args(hint))


class NatsSettings(Section, frozen=True, kw_only=True):
    """The bus. `replicas`: copies of each stream (3 on a cluster of three).

    `price_mebibytes`: room for seven days of price events. `max_deliveries`: a message on which a service fails so often becomes a
    dead letter; a delivery that only had to wait does not count.
    """

    url: str = "nats://127.0.0.1:4222"
    user: str | None = None
    password: Secret | None = None
    credentials_file: str | None = None
    replicas: PositiveInt = 1
    price_mebibytes: PositiveInt = 2048
    max_deliveries: PositiveInt = 5


class PostgresSettings(Section, frozen=True, kw_only=True):
    """The truth. `dsn` is a secret as it holds a password."""

    dsn: Secret = Secret("postgresql://quotebus@127.0.0.1:5432/quotebus")
    pool_size: PositiveInt = 4


class RedisSettings(Section, frozen=True, kw_only=True):
    """The fast copy; without a `url` there is none. `lookback`: bars kept per series. `ttl_s`: by timeframe or dataset."""

    url: Secret | None = None
    prefix: str = "quotebus"
    lookback: PositiveInt = 500
    timeout_s: PositiveFloat = 0.2
    compress: bool = False
    ttl_s: dict[str, PositiveInt] = {}


class KeySettings(Section, frozen=True, kw_only=True):
    """One key of a provider and what it allows; a limit of 0 means none.

    `windows`: limits over other lengths, by seconds: `{"600s": 60}`. `symbols_per_month`: different symbols, not calls.
    """

    api_key: Secret | None = None
    api_secret: Secret | None = None
    refresh_token: Secret | None = None
    per_second: Limit | None = None
    per_minute: Limit | None = None
    per_hour: Limit | None = None
    per_day: Limit | None = None
    per_month: Limit | None = None
    symbols_per_month: Limit | None = None
    windows: dict[WindowName, Limit] = {}

    @property
    def has_secret(self) -> bool:
        """True if the key has a credential."""
        return bool(self.api_key or self.api_secret or self.refresh_token)


class ProviderSettings(KeySettings, frozen=True, kw_only=True):
    """One provider's account and limits. What is not set is the adapter's own default (its free plan).

    `enabled`: by default a provider works when it needs no key or has one. `allow_http`: keys may travel in the clear. `keys`:
    further keys by name; what one of them does not say of its limits is as it is here. `kept_for_manual`, `kept_for_live`: shares
    of the day. `burst`: calls that may leave at once before pacing begins. `priority`: lower is asked first; of equals the one
    whose call has the lower `cost`, in whatever money all of them are counted in. `options`: the adapter's own extras.
    """

    enabled: bool | None = None
    base_url: str | None = None
    allow_http: bool = False
    keys: dict[KeyName, KeySettings] = {}
    dataset: str | None = None
    kept_for_manual: Share = 0.2
    kept_for_live: Share = 0.3
    day_zone: str | None = None
    symbols_per_call: PositiveInt | None = None
    burst: PositiveInt = 1
    priority: int = 100
    cost: Annotated[float, Meta(ge=0, le=1e300, description="give a finite number, 0 or more")] = 0.0
    timeout_s: PositiveFloat = 20.0
    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    options: dict[str, str | float] = {}

    @property
    def is_set_up(self) -> bool:
        """True if the provider is enabled by name, or has a credential. The adapter knows which credentials it needs."""
        return self.enabled is not False and (self.enabled is True or any(key.has_secret for key in (self, *self.keys.values())))


class UniverseSettings(Section, frozen=True, kw_only=True):
    """Which symbols a request or a job means by a name.

    `sql`: gives the column `symbol`, else its first is meant; the most important first, or by a column `priority`, the lowest
    first; $1 is `pre_populate` (text[]), $2 `active_days`. `dsn`: another database than ours. `active_days`: traded within so many
    days counts as active. `pre_populate`: symbols that belong to it anyway.
    """

    sql: str | None = None
    dsn: Secret | None = None
    active_days: PositiveInt = 30
    pre_populate: list[str] = []
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0


class SchedulerSettings(Section, frozen=True, kw_only=True):
    """The clock. `enabled = false` stops every scheduler from asking; requests by hand still work."""

    enabled: bool = True


class FetcherSettings(Section, frozen=True, kw_only=True):
    """`expires_after_s`: how long a task of a request that does not say is worth a call. `ack_wait_s`: of tasks and requests.

    `breaker_failures`: so many failures in a row and the provider rests for `breaker_pause_s`, doubling. `probe_after_s`: how
    long a symbol that was not found is left alone, after the first failure, the second …, the last one for ever after;
    `restricted_probe_after_s`: likewise one that the account's plan does not include. `dead_after`: not found so many times in a
    row, and it is no more suspected but taken for dead. `risk_free_rate`: interest without risk, a year's as a fraction, for
    implied volatility.
    """

    expires_after_s: PositiveFloat = 3600.0
    ack_wait_s: PositiveFloat = 30.0
    calls_at_once: PositiveInt = 4
    breaker_failures: PositiveInt = 5
    breaker_pause_s: PositiveFloat = 30.0
    probe_after_s: Intervals = field(default_factory=lambda: [3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0])
    restricted_probe_after_s: Intervals = field(default_factory=lambda: [86400.0, 7 * 86400.0])
    dead_after: PositiveInt = 3
    risk_free_rate: Annotated[float, Meta(ge=-0.1, le=1.0)] = 0.04


class CacherSettings(Section, frozen=True, kw_only=True):
    """`batch_events`: price events written in one transaction at most. `ack_wait_s`: of price and run events.

    `keep_runs_days`: how long the history of runs and their results is kept.
    """

    batch_events: PositiveInt = 64
    ack_wait_s: PositiveFloat = 30.0
    keep_runs_days: PositiveInt = 90


class TokenSettings(Section, frozen=True, kw_only=True):
    """Somebody who may use the gateway: the SHA-256 of their bearer token, in hex. Who may `operate` may also `read`."""

    sha256: Secret
    scopes: list[Literal["read", "operate"]] = field(default_factory=lambda: ["operate"])

    def __post_init__(self) -> None:
        super().__post_init__()
        digits = self.sha256.get_secret_value()
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise InvalidSettingsError([Fault(("sha256",), "give the 64 hex digits that `printf %s TOKEN | sha256sum` prints")])


class GatewaySettings(Section, frozen=True, kw_only=True):
    """HTTP: where it answers, who may do what, and how much of it.

    `trust_loopback`: no token is needed while `host` is a loopback address; `quotebus up` sets it. `refreshes_per_minute`: so many
    symbols at most are asked for because somebody read a stale price; 0: none. `streams`: event streams open at once.
    `slow_client_s`: a reader that takes nothing for so long is cut off.
    """

    host: str = "127.0.0.1"
    port: Port = 8088
    tokens: dict[str, TokenSettings] = {}
    read_without_token: bool = True
    trust_loopback: bool = False
    refreshes_per_minute: Limit = 60
    max_body_bytes: PositiveInt = 256 * 1024
    streams: PositiveInt = 100
    slow_client_s: PositiveFloat = 10.0


class HealthSettings(Section, frozen=True, kw_only=True):
    """HTTP server of a service for /livez, /readyz and /metrics. Port 0: any free one."""

    host: str = "127.0.0.1"
    port: Port = 8080


class LogSettings(Section, frozen=True, kw_only=True):
    """Level and format of the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class NotifySettings(Section, frozen=True, kw_only=True):
    """One receiver of notifications. `id` names it in logs and on the bus.

    `url`: http and https are our own signed webhook, anything else is apprise's. `secret`: what a webhook is signed with; during a
    change of secrets both, with a space between. `jobs`: of these alone, `-` for requests by hand; none means every job, and no
    request by hand. `on`: finished is the end of every run, failed of those with failed or expired symbols, missed slots without
    a run. `allow_private`: a webhook may go to addresses that are not public.
    """

    id: ReceiverId
    url: Secret
    secret: Secret | None = None
    jobs: list[str] = []
    on: Annotated[list[Occasion], Meta(min_length=1)] = field(default_factory=lambda: ["failed", "missed"])
    allow_private: bool = False

    @property
    def webhook(self) -> bool:
        """True if the notifier sends to this URL itself, as a webhook."""
        return self.url.get_secret_value().lower().startswith(("http://", "https://"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_address(self.url.get_secret_value(), with_host=self.webhook):
            fault = Fault(("url",), f"notify {self.id}: not an address such as https://host/path, slack://… or mailto://…")
            raise InvalidSettingsError([fault])
        if self.webhook and not (self.secret and self.secret.get_secret_value().split()):
            fault = Fault(("secret",), f"notify {self.id}: a webhook is signed; make one with `openssl rand -base64 32`")
            raise InvalidSettingsError([fault])


class Settings(Section, frozen=True, kw_only=True):
    """All settings of one process. Made by hand it holds what it is given and the defaults, and reads no file and no environment.

    `demo`: a made-up market while neither a provider nor a job is configured.
    `job`: the `[[job]]` tables, each with the fields of a `Job`; `jobs()` gives them as such, and settles `enabled = "auto"`.
    """

    demo: bool = False
    nats: NatsSettings = NatsSettings()
    postgres: PostgresSettings = PostgresSettings()
    redis: RedisSettings = RedisSettings()
    providers: dict[str, ProviderSettings] = {}
    universes: dict[NamedUniverse, UniverseSettings] = {}
    scheduler: SchedulerSettings = SchedulerSettings()
    fetcher: FetcherSettings = FetcherSettings()
    cacher: CacherSettings = CacherSettings()
    gateway: GatewaySettings = GatewaySettings()
    health: HealthSettings = HealthSettings()
    log: LogSettings = LogSettings()
    job: list[JobTable] = []
    notify: list[NotifySettings] = []

    def __post_init__(self) -> None:
        super().__post_init__()
        jobs = [str(table["id"]) for table in self.job]
        faults = [
            *(Fault(("job",), f"job {text}") for text in _repeated(jobs)),
            *(Fault(("notify",), f"notify {text}") for text in _repeated([receiver.id for receiver in self.notify])),
            *self._chain_faults(),
            *self._universe_faults(),
        ]
        if faults:
            raise InvalidSettingsError(faults)

    def jobs(self, elsewhere: Collection[str] = ()) -> list[Job]:
        """The `[[job]]` tables as jobs whose origin is the settings. `elsewhere`: providers that other processes have set up."""
        disabled = {name for name, given in self.providers.items() if given.enabled is False}
        ready = {name for name, given in self.providers.items() if given.is_set_up} | (set(elsewhere) - disabled)
        return [build_job(table, provider_ready=_is_ready(table.get("provider"), ready)) for table in self.job]

    def _chain_faults(self) -> Iterator[Fault]:
        after = {str(table["id"]): table.get("after") for table in self.job}
        # One that is not here may be a person's.
        here = {job: str(follows) if follows in after else None for job, follows in after.items()}
        for fault in filter(None, (check_chain(job, here) for job in here)):
            yield Fault(("job",), fault)
            return

    def _universe_faults(self) -> Iterator[Fault]:
        for place, table in enumerate(self.job):
            if fault := unknown_universe(table.get("universe"), self.universes):
                yield Fault(("job", str(place), "universe"), f"job {table['id']}: {fault}")


def _is_ready(provider: object, ready: Collection[str]) -> bool:
    """True if the provider is set up; if any is, without a name or for the provider that derives its series from others'."""
    return bool(ready) if provider in (None, DERIVED) else provider in ready


def _is_address(url: str, *, with_host: bool) -> bool:
    if "://" not in url:
        return False
    try:
        return bool(not with_host or urlsplit(url).hostname)
    except ValueError:
        return False


def _repeated(ids: Sequence[str]) -> Iterator[str]:
    for each in dict.fromkeys(ids):
        if ids.count(each) > 1:
            yield f"{each}: {ids.count(each)} tables have this id; give each its own"


def validate_job_table(table: Mapping[str, object]) -> JobTable:
    """The table, if a job can be made of it.

    Raises:
        ValueError: one line that names the field.
    """
    for key in table.keys() - set(Job.__struct_fields__):
        close = difflib.get_close_matches(key, Job.__struct_fields__, 1)
        raise ValueError(f"{key}: no such setting of a job" + (f"; did you mean {close[0]}?" if close else ""))
    build_job(table, provider_ready=True)
    return JobTable(table)


def build_job(table: Mapping[str, object], *, provider_ready: bool) -> Job:
    """The job of a `[[job]]` table. `provider_ready`: whether a provider that it waits for is set up."""
    life: dict[str, object] = {"origin": "settings"}
    if is_auto(table):
        life |= {"enabled": provider_ready, "paused_reason": None if provider_ready else WAITS_FOR_PROVIDER}
    return msgspec.convert({**table, **life}, Job)


def is_auto(table: Mapping[str, object]) -> bool:
    """True if the job is enabled automatically, once a provider is set up."""
    return table.get("enabled") == AUTO


def unknown_universe(name: object, defined: Iterable[str]) -> str | None:
    """Error message for an unknown universe; None if it is built in, one of `defined`, or absent."""
    known = sorted({*BUILT_IN, *defined})
    if name is None or name in known:
        return None
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)};"
    return f"universe {name} is not defined; {hint} A further one is a table [universes.{name}] with its sql"


def secrets_of(settings: Section) -> Iterator[str]:
    """Every secret text in these settings, also the passwords inside URLs, as they are written and as they are meant."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            if isinstance(each, Section):
                yield from secrets_of(each)
            elif isinstance(each, Secret):
                # A webhook's may be two.
                yield from {each.get_secret_value(), *each.get_secret_value().split()}
            text = each.get_secret_value() if isinstance(each, Secret) else each
            if isinstance(text, str) and "://" in text:
                # What is no address after all is for whoever connects to complain about.
                with suppress(ValueError):
                    password = urlsplit(text).password or ""
                    yield from {password, unquote(password)} - {""}
