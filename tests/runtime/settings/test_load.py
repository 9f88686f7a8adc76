"""Settings: which source wins, and what is said about whatever is wrong."""

import re
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import asdict

from services.runtime.schedules.build import schedule_of
from services.runtime.settings import (
    KeySettings,
    NatsSettings,
    NotifySettings,
    ProviderSettings,
    Secret,
    Section,
    Settings,
    SettingsError,
    load_settings,
    read_settings,
    secrets_of,
)
from services.runtime.settings.model import WAITS_FOR_PROVIDER
from tests.runtime.schedules.exchanges import new_york

NAME_A_KEY = "name a key by 1 to 32 of a-z, 0-9, _ and -; k1 is the key in the provider's own table"
SHIPPED = Path(__file__).parents[3] / "quotebus.toml"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    monkeypatch.setenv("QUOTEBUS_SECRETS_DIR", str(secrets))


def problems(*, known: list[str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(known_providers=known)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def test_without_any_source_the_defaults_hold() -> None:
    assert load_settings() == Settings()


def test_settings_made_by_hand_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUOTEBUS_NATS__URL", "nats://elsewhere:1")
    assert Settings().nats.url == NatsSettings().url
    assert Settings(nats=NatsSettings(url="nats://here:1")).nats.url == "nats://here:1"


def test_the_environment_wins_over_secret_files_and_those_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("quotebus.toml").write_text('[nats]\nurl = "nats://file:1"\nuser = "file"\nreplicas = 3\n[log]\nlevel = "debug"\n')
    (tmp_path / "secrets" / "quotebus_nats__user").write_text(" secret\n")
    (tmp_path / "secrets" / "QUOTEBUS_NATS__URL").write_text("nats://secret:1")
    monkeypatch.setenv("QUOTEBUS_NATS__URL", "nats://environment:1")
    loaded = read_settings()
    nats = loaded.settings.nats
    assert (nats.url, nats.user, nats.replicas) == ("nats://environment:1", "secret", 3)
    assert loaded.origin("nats", "url") == "environment QUOTEBUS_NATS__URL"
    assert loaded.origin("nats", "user") == f"secret file {tmp_path}/secrets/quotebus_nats__user"
    assert loaded.origin("log", "level") == "file quotebus.toml"
    assert loaded.origin("log", "format") == "default"


def test_the_file_may_be_named_by_the_caller_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f'[nats]\nurl = "nats://{name}:1"\n')
    monkeypatch.setenv("QUOTEBUS_CONFIG", "a")
    assert load_settings().nats.url == "nats://a:1"
    assert load_settings(Path("b")).nats.url == "nats://b:1"
    monkeypatch.setenv("QUOTEBUS_CONFIG", "c")
    assert problems() == ["c: cannot be read: No such file or directory; give another with --config or QUOTEBUS_CONFIG"]


def test_an_empty_value_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUOTEBUS_REDIS__URL", "")
    (tmp_path / "secrets" / "QUOTEBUS_NATS__PASSWORD").write_text("\n")
    assert load_settings() == Settings()


def test_lists_and_tables_are_given_as_json_or_by_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUOTEBUS_REDIS__TTL_S", '{"1m": 30}')
    monkeypatch.setenv("QUOTEBUS_REDIS__TTL_S__1D", "60")
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__OPTIONS__MARKET", "us")
    monkeypatch.setenv("QUOTEBUS_JOB", '[{"id": "a", "every_s": 5, "symbols": ["AAPL"]}]')
    settings = load_settings()
    assert settings.redis.ttl_s == {"1m": 30, "1d": 60}
    assert settings.providers["tiingo"].options == {"market": "us"}
    assert [(job.id, job.every_s, job.origin) for job in settings.jobs()] == [("a", 5.0, "settings")]


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("QUOTEBUS_NAT__URL", "no such setting; did you mean QUOTEBUS_NATS__URL?"),
        ("QUOTEBUS_NATS_URL", "no such setting; did you mean QUOTEBUS_NATS__URL?"),
        ("QUOTEBUS_POSTGRES__DNS", "no such setting; did you mean QUOTEBUS_POSTGRES__DSN?"),
        ("QUOTEBUS_PROVIDERS__TIINGO__APIKEY", "no such setting; did you mean QUOTEBUS_PROVIDERS__TIINGO__API_KEY?"),
        ("QUOTEBUS_PROVIDERS__TINGO__API_KEY", "no such setting; did you mean QUOTEBUS_PROVIDERS__TIINGO?"),
        ("QUOTEBUS_HEALTH__FROB", "no such setting; there are host, port"),
        ("QUOTEBUS_REDIS__TTL_S", "not JSON, which a list or a table has to be written in"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_names_the_right_one(
    monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    monkeypatch.setenv(variable, "x")
    assert problems(known=["tiingo", "yahoo"]) == [f"environment: {variable}: {said}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[nat]\nurl = "x"', "nat: no such setting; did you mean nats?"),
        ('[nats]\nurll = "x"', "nats.urll: no such setting; did you mean nats.url?"),
        ('[providers.yahu]\nenabled = true', "providers.yahu: no such setting; did you mean providers.yahoo?"),
        ("[providers.yahoo]\nper_dey = 1", "providers.yahoo.per_dey: no such setting; did you mean providers.yahoo.per_day?"),
        ('[[job]]\nid = "a"\nevry_s = 5', "job.0: evry_s: no such setting of a job; did you mean every_s?"),
        ('[[job]]\nid = "a"\nsymbols = ["A"]', "job.0: job a: give exactly one of cron, every_s, at, session and after"),
        ('[[job]]\nevery_s = 5\nsymbols = ["A"]', "job.0: Object missing required field `id`"),
        ('[nats]\nreplicas = "x"', "nats.replicas: give a whole number, 1 or more"),
        ("[nats", "not TOML: Expected ']' at the end of a table declaration (at end of document)"),
    ],
)  # fmt: skip
def test_a_fault_in_the_file_is_named_with_its_place(text: str, said: str) -> None:
    Path("quotebus.toml").write_text(text)
    assert problems(known=["yahoo"]) == [f"quotebus.toml: {said}"]


def test_a_misspelt_secret_file_is_an_error_and_other_programs_files_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    (folder / "postgres_password").write_text("x")
    (folder / "quotebus_folder").mkdir()
    (folder / "QUOTEBUS_NATS__PASWORD").write_text("hunter2")
    assert problems() == [f"secret file: {folder}/QUOTEBUS_NATS__PASWORD: no such setting; did you mean QUOTEBUS_NATS__PASSWORD?"]


def test_all_that_is_wrong_is_said_at_once_and_no_value_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("quotebus.toml").write_text('[health]\nport = "canary-1"\n[frob]\nx = 1\n')
    (tmp_path / "secrets" / "QUOTEBUS_PROVIDERS__TIINGO__PER_DAY").write_text("canary-2")
    monkeypatch.setenv("QUOTEBUS_LOG__LEVEL", "canary-3")
    said = problems()
    assert len(said) == 4
    assert "canary" not in "\n".join(said)


def test_further_keys_of_a_provider_come_from_the_file_secret_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("quotebus.toml").write_text('[providers.tiingo]\napi_key = "one"\n[providers.tiingo.keys.paid]\nper_day = 7\n')
    (tmp_path / "secrets" / "quotebus_providers__tiingo__keys__paid__api_key").write_text("canary-two\n")
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__KEYS__SECOND__API_KEY", "canary-three")
    settings = load_settings(known_providers=["tiingo"])
    keys = settings.providers["tiingo"].keys
    assert {name: key.api_key and key.api_key.get_secret_value() for name, key in keys.items()} == {
        "paid": "canary-two",
        "second": "canary-three",
    }
    assert keys["paid"].per_day == 7
    assert {"one", "canary-two", "canary-three"} <= set(secrets_of(settings))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[providers.x.keys.a]\napi_kee = 1", "keys.a.api_kee: no such setting; did you mean providers.x.keys.a.api_key?"),
        (
            "[providers.x.keys.k1]\nper_day = 1",
            "keys.k1: name a key by 1 to 32 of a-z, 0-9, _ and -; k1 is the key in the provider's own table",
        ),
        (
            '[providers.x.keys."a.b"]\nper_day = 1',
            "keys.a.b: name a key by 1 to 32 of a-z, 0-9, _ and -; k1 is the key in the provider's own table",
        ),
        ('[providers.x]\nwindows = { "5m" = 1 }', "windows.5m: give a window's length in seconds, as in 600s"),
        ("[providers.x]\nkept_for_live = 0.9", "kept_for_live: give a number from 0 to 0.5"),
    ],
)
def test_a_fault_in_a_key_or_a_limit_is_named_with_its_place(text: str, said: str) -> None:
    Path("quotebus.toml").write_text(text)
    assert problems(known=["x"]) == [f"quotebus.toml: providers.x.{said}"]


def test_two_jobs_of_one_id_are_an_error() -> None:
    Path("quotebus.toml").write_text('[[job]]\nid = "a"\nevery_s = 5\nsymbols = ["A"]\n' * 2)
    assert problems() == ["quotebus.toml: job: job a: 2 tables have this id; give each its own"]


def test_no_secret_shows_when_settings_are_printed_and_each_is_known_to_the_log() -> None:
    account = ProviderSettings(api_key=Secret("canary-key"), api_secret=Secret("canary-secret"))
    nats = NatsSettings(url="nats://me:canary%2Fpw@host:1", password=Secret("canary-password"))
    settings = Settings(nats=nats, providers={"tiingo": account})
    assert "canary-key" not in repr(settings.providers)
    assert "canary-password" not in repr(settings)
    assert {"canary-key", "canary-secret", "canary-password", "canary%2Fpw", "canary/pw"} <= set(secrets_of(settings))


def test_receivers_of_notifications_may_be_given_whole_so_that_no_file_holds_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    table = '{"id": "ops", "url": "https://hook.example/canary", "secret": "canary-old canary-new", "jobs": ["eod"]}'
    monkeypatch.setenv("QUOTEBUS_NOTIFY", f"[{table}]")
    settings = load_settings()
    assert [(each.id, each.jobs, each.on) for each in settings.notify] == [("ops", ["eod"], ["failed", "missed"])]
    assert "canary" not in repr(settings)
    assert {"https://hook.example/canary", "canary-old", "canary-new"} <= set(secrets_of(settings))
    monkeypatch.setenv("QUOTEBUS_NOTIFY", f"[{table}, {table}]")
    assert problems() == ["environment: QUOTEBUS_NOTIFY: notify ops: 2 tables have this id; give each its own"]


def test_the_receiver_the_shipped_file_shows_is_a_good_one() -> None:
    [table] = uncommented()["notify"]
    assert NotifySettings(**table).webhook
    assert table.keys() == set(NotifySettings.__struct_fields__)


def uncommented() -> dict[str, Any]:
    """The shipped file with every setting it shows switched on."""
    lines = [re.sub(r"^# (?=\[\[?[a-z_.]+\]|[a-z_]+ = )", "", line) for line in SHIPPED.read_text().splitlines()]
    return tomllib.loads("\n".join(lines))


def test_the_shipped_file_changes_nothing_until_somebody_edits_it() -> None:
    shipped = load_settings(SHIPPED, [])
    assert shipped == Settings(job=shipped.job)
    assert {job.paused_reason for job in shipped.jobs()} == {WAITS_FOR_PROVIDER}


def test_a_job_that_waits_begins_when_its_provider_is_set_up() -> None:
    def enabled(toml: str, **job: str) -> bool:
        more = "".join(f'{key} = "{value}"\n' for key, value in job.items())
        Path("quotebus.toml").write_text(f'{toml}\n[[job]]\nid = "a"\nevery_s = 60\nsymbols = ["A"]\nenabled = "auto"\n{more}')
        [found] = load_settings(Path("quotebus.toml")).jobs()
        return found.enabled

    assert not enabled("")
    assert not enabled("[providers.tiingo]\npriority = 1")
    assert enabled('[providers.tiingo]\napi_key = "k"')
    assert enabled('[providers.tiingo.keys.second]\napi_key = "k"')
    assert enabled("[providers.yahoo]\nenabled = true")
    assert not enabled('[providers.tiingo]\napi_key = "k"\nenabled = false')
    assert not enabled('[providers.tiingo]\napi_key = "k"', provider="fmp")
    assert enabled('[providers.tiingo]\napi_key = "k"', provider="tiingo")
    assert enabled('[providers.tiingo]\napi_key = "k"', provider="derived"), "it makes its own of what tiingo brings"
    assert not enabled("", provider="derived")


def test_the_jobs_the_shipped_file_shows_are_good_ones() -> None:
    tables = uncommented()["job"]
    jobs = Settings(job=tables).jobs()
    assert [job.id for job in jobs] == [
        "quotes", "prices_1m", "prices_5m", "hourly_bars", "options_refresh", "iv_metrics", "eod_sync", "daily_refresh",
        "weekly_bars", "historical_backfill",
    ]  # fmt: skip
    calendars = {"XNYS": new_york(date(2026, 1, 1), date(2026, 12, 31))}
    assert all(schedule_of(job, calendars).next_after(datetime(2026, 3, 4, tzinfo=UTC)) for job in jobs if job.after is None)
    assert [(job.id, job.after, job.dataset) for job in jobs if job.after] == [("iv_metrics", "options_refresh", "iv")]


def test_jobs_that_follow_one_another_in_a_circle_are_an_error() -> None:
    Path("quotebus.toml").write_text("".join(f'[[job]]\nid = "{a}"\nafter = "{b}"\nsymbols = ["A"]\n' for a, b in ("ab", "ba")))
    assert problems() == ["quotebus.toml: job: job a: after: a follows b follows a; one of them must go by the time"]


def test_the_shipped_file_shows_every_setting_with_its_default() -> None:
    shown = uncommented()
    assert shown.keys() == set(Settings.__struct_fields__)
    for name, section in {**asdict(Settings()), "providers": ProviderSettings()}.items():
        table = shown[name]
        if isinstance(section, Section) and isinstance(table, dict):
            table = table["tiingo"] if name == "providers" else table
            assert table.keys() == set(section.__struct_fields__), name
            for key, default in asdict(section).items():
                if key == "keys":
                    # A table that is there is a key: so none can be shown with its default.
                    assert set(table[key]["second"]) <= set(KeySettings.__struct_fields__)
                    continue
                plain = default.get_secret_value() if isinstance(default, Secret) else default
                # Where there is no default the file shows an example.
                assert plain is None or table[key] == plain, (name, key)


def test_every_line_of_the_shipped_file_that_shows_a_setting_explains_it() -> None:
    for line in SHIPPED.read_text().splitlines():
        if re.match(r"^# [a-z_]+ = ", line):
            assert re.search(r"\S  +# \S", line), line


def test_a_universe_that_no_job_could_name_and_a_query_without_end_are_refused() -> None:
    Path("quotebus.toml").write_text('[universes."Tech Stocks"]\nsql = "SELECT 1"\n[universes.a]\ntimeout_s = inf\ndns = "x"\n')
    named, unknown, endless = sorted(problems())[-3:]
    assert "name a universe by 1 to 64 of a-z, 0-9, _ and -" in named
    assert unknown == "quotebus.toml: universes.a.dns: no such setting; did you mean universes.a.dsn?"
    assert endless.startswith("quotebus.toml: universes.a.timeout_s: ")


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("GATEWAY__TOKENS__A__SCOPES", '["read"]', "sha256 is missing; give a text"),
        ("NATS", '{"url": 5}', "url: give a text"),
        ("NOTIFY", "[" * 100_000, "not JSON, which a list or a table has to be written in"),
        (
            "NOTIFY",
            '[{"id": "a", "url": "https://h"}]',
            "0.secret: notify a: a webhook is signed; make one with `openssl rand -base64 32`",
        ),
        ("LOG__LEVEL", "WARN", "give one of debug, info, warning, error"),
        ("HEALTH__PORT", "70000", "give a whole number from 0 to 65535"),
        ("REDIS__COMPRESS", "maybe", "give true or false"),
    ],
)
def test_a_fault_in_a_variable_says_which_one_and_what_to_give(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, said: str
) -> None:
    monkeypatch.setenv(f"QUOTEBUS_{variable}", text)
    assert problems() == [f"environment: QUOTEBUS_{variable}: {said}"]


def test_a_plain_text_given_for_a_secret_is_shown_by_nothing() -> None:
    account = ProviderSettings(api_key="canary")  # type: ignore[arg-type]
    assert "canary" not in f"{account} {account!r} {account.api_key}"
    assert account == ProviderSettings(api_key=Secret("canary"))
    with pytest.raises(TypeError):
        msgspec.json.encode(account)
