"""`quotebus jobs` against a real bucket."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from contracts.job import Job
from contracts.message import decode, encode
from contracts.refresh_request import RefreshRequest
from contracts.subjects import JOBS_BUCKET, REFRESH
from quotebus.client import Client


async def stored(qb: Client, job: str) -> Job:
    entry = await (await qb.js.key_value(JOBS_BUCKET)).get(job)
    return decode(entry.value or b"", Job)


async def put(qb: Client, job: Job) -> None:
    await (await qb.js.key_value(JOBS_BUCKET)).put(job.id, encode(job))


async def test_a_job_is_added_changed_and_removed(quotebus: Any, qb: Client) -> None:
    ended = await quotebus("jobs", "add", "close", "AAPL", "BRK.B", "--at", "17:30", "--timezone", "America/New_York")
    assert (ended.code, ended.err) == (0, "close: 1 runs and 1 calls of synthetic on its fullest day, for 2 symbols\n")
    job = await stored(qb, "close")
    assert (job.at, job.timezone, job.symbols, job.origin) == (["17:30"], "America/New_York", ["AAPL", "BRK.B"], "person")
    assert job.enabled_at is not None

    ended = await quotebus("jobs", "edit", "close", "MSFT", "--every", "5m", "--dataset", "quote", "-o", "ndjson")
    assert ended.code == 0
    assert ended.rows[0]["every_s"] == 300
    changed = await stored(qb, "close")
    assert (changed.every_s, changed.at, changed.symbols, changed.dataset) == (300.0, [], ["MSFT"], "quote")

    assert (await quotebus("jobs", "rm", "close")).code == 0
    assert (await quotebus("jobs", "list", "-o", "json")).out == "[]\n"
    ended = await quotebus("jobs", "rm", "close")
    assert (ended.code, ended.err) == (2, "quotebus: there is no job close: `quotebus jobs` lists all\n")


async def test_the_list_says_when_what_and_why_not(quotebus: Any, qb: Client) -> None:
    await quotebus("jobs", "add", "b", "AAPL", "--every", "1h")
    await quotebus("jobs", "add", "a", "--universe", "watchlist", "--cron", "30 17 * * 1-5", "--timeframe", "1d")
    await quotebus("jobs", "pause", "b", "--reason", "exchange closed")
    lines = (await quotebus("jobs")).out.splitlines()
    assert lines[0].split() == ["job", "when", "next", "what", "symbols", "provider", "lane", "state", "from"]
    assert [line.split()[0] for line in lines[1:]] == ["a", "b"]
    assert "30 17 * * 1-5" in lines[1]
    assert "watchlist" in lines[1]
    assert "paused: exchange closed" in lines[2]


async def test_a_pause_has_its_reason_and_a_resumed_job_makes_up_for_nothing(quotebus: Any, qb: Client) -> None:
    await quotebus("jobs", "add", "a", "AAPL", "--every", "60")
    assert (await quotebus("jobs", "pause", "a", "--reason", "holiday")).code == 0
    paused = await stored(qb, "a")
    assert (paused.enabled, paused.paused_reason) == (False, "holiday")
    before = datetime.now(UTC)
    assert (await quotebus("jobs", "resume", "a")).code == 0
    resumed = await stored(qb, "a")
    assert (resumed.enabled, resumed.paused_reason) == (True, None)
    assert resumed.enabled_at is not None
    assert resumed.enabled_at >= before


async def test_a_job_of_the_settings_can_be_paused_and_nothing_else(quotebus: Any, qb: Client) -> None:
    await put(qb, Job(id="a", every_s=60, symbols=["AAPL"], origin="settings"))
    for command in (["edit", "a", "--every", "5"], ["rm", "a"]):
        ended = await quotebus("jobs", *command)
        assert ended.code == 2
        assert "job a comes from the settings" in ended.err
    assert (await quotebus("jobs", "pause", "a", "--reason", "x")).code == 0
    assert (await stored(qb, "a")).origin == "settings"


async def test_a_job_that_could_never_run_is_refused(quotebus: Any, qb: Client) -> None:
    for options, said in (
        (["A", "--cron", "61 * * * *"], "job a: cron: bad minute"),
        (["A"], "job a: give exactly one of cron, every_s, at, session and after"),
        (["--every", "5"], "job a: symbols: name at least one, or a universe"),
        (["A", "--every", "5", "--timezone", "Mars"], "job a: timezone: 'Mars' is none of the IANA time zones"),
    ):
        ended = await quotebus("jobs", "add", "a", *options)
        assert ended.code == 2
        assert ended.err.startswith(f"quotebus: {said}"), ended.err
    await quotebus("jobs", "add", "a", "A", "--every", "5")
    ended = await quotebus("jobs", "add", "a", "A", "--every", "5")
    assert ended.err == "quotebus: there is a job a already: change it with `quotebus jobs edit a`\n"


async def test_a_job_is_run_at_once_in_the_manual_lane_and_under_its_name(quotebus: Any, qb: Client) -> None:
    await put(qb, Job(id="a", every_s=60, symbols=["AAPL"], dataset="quote", provider="synthetic", enabled=False))
    ended = await quotebus("jobs", "run", "a", "-o", "ndjson")
    assert ended.code == 0
    message = await qb.js.get_last_msg(REFRESH, "refresh.request.manual.a")
    request = decode(message.data or b"", RefreshRequest)
    assert (request.job, request.symbols, request.dataset, request.provider) == ("a", ["AAPL"], "quote", "synthetic")
    assert request.request_id == ended.rows[0]["request_id"]
    assert request.slot_at is None


async def test_a_malformed_job_in_the_bucket_hides_no_other(quotebus: Any, qb: Client) -> None:
    await put(qb, Job(id="good", every_s=60, symbols=["AAPL"]))
    await (await qb.js.key_value(JOBS_BUCKET)).put("bad", msgspec.json.encode({"id": "bad"}))
    assert [row["id"] for row in (await quotebus("jobs", "list", "-o", "ndjson")).rows] == ["good"]
    ended = await quotebus("jobs", "run", "bad")
    assert (ended.code, ended.err.startswith("quotebus: job bad is malformed:")) == (2, True)
    assert (await quotebus("jobs", "rm", "bad")).code == 0
    assert "there is no job bad" in (await quotebus("jobs", "run", "bad")).err
