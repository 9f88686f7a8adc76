"""Sessions and the fields of schedules, as an operator meets them."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from contracts.job import Job
from contracts.message import decode, encode
from contracts.subjects import JOBS_BUCKET, SESSIONS_BUCKET
from contracts.trading_sessions import TradingSessions
from quotebus.client import Client
from tests.runtime.schedules.exchanges import sessions

DAY = timedelta(days=1)


async def stored(qb: Client, job: str) -> Job:
    return decode((await (await qb.js.key_value(JOBS_BUCKET)).get(job)).value or b"", Job)


async def put_sessions(qb: Client, until: date) -> None:
    noon = datetime(2020, 1, 2, 12, tzinfo=UTC)
    known = sessions([noon.date()], [(noon, noon)], noon.date(), until)
    await (await qb.js.key_value(SESSIONS_BUCKET)).put("XNYS", encode(known))


async def test_migrate_makes_the_sessions_that_jobs_of_the_settings_and_of_people_need(
    quotebus: Any, qb: Client, tmp_path: Path
) -> None:
    await quotebus("jobs", "add", "london", "VOD", "--session", "close+15m", "--calendar", "XLON")
    job = '[[job]]\nid = "close"\nsession = "close+30m"\ncalendar = "XNYS"\nsymbols = ["AAPL"]\n'
    (tmp_path / "quotebus.toml").write_text(f"[providers.synthetic]\nenabled = true\n{job}")
    pending = await quotebus("migrate", "--check", "-o", "ndjson")
    assert [row["pending"] for row in pending.rows] == ["sessions of XLON: missing", "sessions of XNYS: missing"]
    ended = await quotebus("doctor", "-o", "ndjson")
    [row] = [row for row in ended.rows if row["what"] == "sessions"]
    assert (ended.code, row["state"], row["found"]) == (1, "fail", "XLON: not known, so london wait")
    made = await quotebus("migrate", "-o", "ndjson")
    assert [row["done"].split(":")[0] for row in made.rows] == ["sessions of XLON", "sessions of XNYS"]
    assert (await quotebus("migrate", "--check")).code == 0
    ended = await quotebus("doctor", "-o", "ndjson")
    assert [row["state"] for row in ended.rows if row["what"] == "sessions"] == ["ok"]
    known = decode((await (await qb.js.key_value(SESSIONS_BUCKET)).get("XLON")).value or b"", TradingSessions)
    assert known.timezone == "Europe/London"
    row_of = {line.split()[0]: line for line in (await quotebus("jobs")).out.splitlines()}
    assert "close+15m, XLON" in row_of["london"]
    assert "never" not in row_of["london"]


async def test_the_doctor_warns_before_sessions_end_and_when_they_have_ended(quotebus: Any, qb: Client) -> None:
    await quotebus("jobs", "add", "a", "AAPL", "--every", "60", "--calendar", "XNYS")
    today, seen = datetime.now(UTC).date(), []
    for days in (60, 12, -3):
        await put_sessions(qb, today + days * DAY)
        ended = await quotebus("doctor", "-o", "ndjson")
        [row] = [row for row in ended.rows if row["what"] == "sessions"]
        seen.append((row["state"], ended.code, row["found"].split(", ")[-1]))
    assert seen[0][:2] == ("ok", 0)
    assert seen[1] == ("warn", 0, "they end in 12 days")
    assert seen[2][:2] == ("warn", 0)
    assert "ended 3 days ago" in row["found"]


async def test_every_field_of_a_schedule_is_an_option_and_shows_in_the_list(quotebus: Any, qb: Client) -> None:
    await put_sessions(qb, datetime.now(UTC).date() + 60 * DAY)
    options = ("--at", "02:30", "--days", "mon-fri", "--days", "last", "--timezone", "America/New_York", "--dst-gap", "skip")
    options += ("--dst-fold", "both", "--jitter", "30s", "--catch-up", "all", "--max-symbols", "500", "--lookback-days", "30")
    ended = await quotebus("jobs", "add", "a", "AAPL", *options, "--calendar", "XNYS", "--lane", "backfill")
    assert ended.code == 0, ended.err
    job = await stored(qb, "a")
    assert (job.days, job.calendar, job.dst_gap, job.dst_fold, job.jitter_s) == (["mon-fri", "last"], "XNYS", "skip", "both", 30.0)
    assert (job.catch_up, job.max_symbols, job.lookback_days, job.lane) == ("all", 500, 30, "backfill")
    [_, line] = (await quotebus("jobs")).out.splitlines()
    for said in (
        "at 02:30, on mon-fri last, XNYS, America/New_York, up to 30 s later",
        "bars 30 days",
        "AAPL (at most 500)",
        "backfill",
    ):
        assert said in line
    assert (await quotebus("jobs", "edit", "a", "--clear", "calendar", "--clear", "max-symbols", "--clear", "days")).code == 0
    job = await stored(qb, "a")
    assert (job.calendar, job.max_symbols, job.days, job.lookback_days) == (None, None, [], 30)


async def test_another_kind_of_schedule_takes_with_it_what_belonged_to_the_old_one(quotebus: Any, qb: Client) -> None:
    await quotebus("jobs", "add", "first", "AAPL", "--at", "17:30", "--dst-gap", "skip", "--jitter", "10")
    await quotebus("jobs", "add", "a", "AAPL", "--every", "60")
    assert (await quotebus("jobs", "edit", "first", "--after", "a", "--at-least-every", "30m")).code == 0
    job = await stored(qb, "first")
    assert (job.at, job.after, job.at_least_every_s, job.dst_gap, job.jitter_s) == ([], "a", 1800.0, None, 0.0)
    [line] = [line for line in (await quotebus("jobs")).out.splitlines() if line.startswith("first")]
    assert "after a, at least every 30 min" in line
    assert (await quotebus("jobs", "edit", "first", "--every", "5m")).code == 0
    assert msgspec.structs.asdict(await stored(qb, "first")).items() >= {"after": None, "at_least_every_s": None}.items()


async def test_what_a_job_follows_must_be_there_and_lead_back_to_one_that_goes_by_the_time(quotebus: Any, qb: Client) -> None:
    await quotebus("jobs", "add", "options", "AAPL", "--every", "60")
    ended = await quotebus("jobs", "add", "iv", "AAPL", "--after", "option")
    assert (ended.code, ended.err) == (2, "quotebus: job iv: after: there is no job option; did you mean options?\n")
    assert (await quotebus("jobs", "add", "iv", "AAPL", "--after", "options")).code == 0
    ended = await quotebus("jobs", "edit", "options", "--after", "iv")
    assert ended.err == "quotebus: job options: after: options follows iv follows options; one of them must go by the time\n"
    ended = await quotebus("jobs", "add", "x", "AAPL", "--every", "60", "--calendar", "XLOM")
    assert ended.err.startswith("quotebus: job x: calendar: 'XLOM' is none that is known; did you mean XLON")
