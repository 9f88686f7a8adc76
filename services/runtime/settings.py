"""Every setting, with its default. Where the values come from is `load_settings.py`'s."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from contracts.job import Job
from services.runtime.gateway_settings import GatewaySettings
from services.runtime.job_chain import chain_fault
from services.runtime.job_tables import DERIVED, JobTable, is_set_up, job_of
from services.runtime.key_settings import KeyName, KeySettings, Section
from services.runtime.notify_settings import NotifySettings
from services.runtime.universe_settings import NamedUniverse, UniverseSettings, unknown_universe

Port = Annotated[int, Field(ge=0, le=65535)]
Share = Annotated[float, Field(ge=0, le=0.5)]
Intervals = Annotated[list[PositiveFloat], Field(min_length=1)]


class NatsSettings(Section):
    """The bus. `replicas`: copies of each stream (3 on a cluster of three).

    `price_mebibytes`: room for seven days of price events.
    """

    url: str = "nats://127.0.0.1:4222"
    user: str | None = None
    password: SecretStr | None = None
    credentials_file: str | None = None
    replicas: PositiveInt = 1
    price_mebibytes: PositiveInt = 2048


class PostgresSettings(Section):
    """The truth. `dsn` is a secret as it holds a password."""

    dsn: SecretStr = SecretStr("postgresql://quotebus@127.0.0.1:5432/quotebus")
    pool_size: PositiveInt = 4


class RedisSettings(Section):
    """The fast copy; without a `url` there is none. `lookback`: bars kept per series. `ttl_s`: by timeframe or dataset."""

    url: SecretStr | None = None
    prefix: str = "quotebus"
    lookback: PositiveInt = 500
    timeout_s: PositiveFloat = 0.2
    compress: bool = False
    ttl_s: dict[str, PositiveInt] = {}


class ProviderSettings(KeySettings):
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
    cost: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    timeout_s: PositiveFloat = 20.0
    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    options: dict[str, str | float] = {}


class SchedulerSettings(Section):
    """The clock. `enabled = false` stops every scheduler from asking; requests by hand still work."""

    enabled: bool = True


class FetcherSettings(Section):
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
    probe_after_s: Intervals = [3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0]
    restricted_probe_after_s: Intervals = [86400.0, 7 * 86400.0]
    dead_after: PositiveInt = 3
    risk_free_rate: Annotated[float, Field(ge=-0.1, le=1.0)] = 0.04


class CacherSettings(Section):
    """`batch_events`: price events written in one transaction at most. `ack_wait_s`: of price and run events.

    `keep_runs_days`: how long the history of runs and their results is kept.
    """

    batch_events: PositiveInt = 64
    ack_wait_s: PositiveFloat = 30.0
    keep_runs_days: PositiveInt = 90


class HealthSettings(Section):
    """Where a service answers /livez, /readyz and /metrics. Port 0: any free one."""

    host: str = "127.0.0.1"
    port: Port = 8080


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Settings(BaseSettings):
    """All settings of one process. Made by hand it holds what it is given and the defaults, and reads no file and no environment.

    `demo`: a made-up market while neither a provider nor a job is configured.
    `job`: the `[[job]]` tables, each with the fields of a `Job`; `jobs()` gives them as such, and settles `enabled = "auto"`.
    """

    model_config = SettingsConfigDict(
        env_prefix="QUOTEBUS_", env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True
    )

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

    @field_validator("job")
    @classmethod
    def _one_job_an_id(cls, tables: list[JobTable]) -> list[JobTable]:
        ids = [table["id"] for table in tables]
        for job in ids:
            if ids.count(job) > 1:
                raise ValueError(f"job {job}: {ids.count(job)} tables have this id; give each its own")
        after = {str(table["id"]): table.get("after") for table in tables}
        # One that is not here may be a person's.
        here = {job: follows if follows in after else None for job, follows in after.items()}
        for job in here:
            if fault := chain_fault(job, here):
                raise ValueError(fault)
        return tables

    @model_validator(mode="after")
    def _known_universes(self) -> "Settings":
        for table in self.job:
            if fault := unknown_universe(table.get("universe"), self.universes):
                raise ValueError(f"job {table['id']}: {fault}")
        return self

    @field_validator("notify")
    @classmethod
    def _one_receiver_an_id(cls, receivers: list[NotifySettings]) -> list[NotifySettings]:
        ids = [receiver.id for receiver in receivers]
        for each in ids:
            if ids.count(each) > 1:
                raise ValueError(f"notify {each}: {ids.count(each)} tables have this id; give each its own")
        return receivers

    @override
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is given: `load_settings` reads the sources, as it must say which one is wrong."""
        return (init_settings,)

    def jobs(self) -> list[Job]:
        """The `[[job]]` tables as jobs whose origin is the settings."""
        return [job_of(table, works=self._works(table.get("provider"))) for table in self.job]

    def _works(self, provider: object) -> bool:
        """Whether this provider is set up; without a name, or where it makes its own of what others bring, whether any is."""
        anybody = provider in (None, DERIVED)
        named = self.providers.items() if anybody else [(provider, self.providers.get(str(provider)))]
        return any(given is not None and is_set_up(given, given.keys, enabled=given.enabled) for _, given in named)
