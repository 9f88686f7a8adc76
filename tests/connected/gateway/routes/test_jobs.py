"""Jobs and refreshes over HTTP: two gateways beside a clock, and all that may be wrong with what they are sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.js.errors import NotFoundError

from contracts import subjects
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from tests.connected.deployment import Deployment, until
from tests.connected.gateway.gateway_harness import READER, Answer, Http, with_gateways

SHORT = {"name": "Tech at five", "stock_ids": ["aapl", "BRK.B"], "schedule_time": "17:00"}


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, list[Http]]]:
    async with with_gateways(tmp_path_factory.mktemp("gateways"), ("scheduler",), 2) as running:
        yield running


@pytest.fixture
async def http(running: tuple[Deployment, list[Http]]) -> AsyncIterator[Http]:
    """The first gateway, whose jobs are gone afterwards."""
    asking = running[1][0]
    yield asking
    for job in (await asking.get("/scheduler/jobs")).json["jobs"]:
        await asking.ask("DELETE", f"/scheduler/jobs/{job['id']}")


@pytest.fixture
def other(running: tuple[Deployment, list[Http]]) -> Http:
    """The second gateway."""
    return running[1][1]


@pytest.fixture
def deployment(running: tuple[Deployment, list[Http]]) -> Deployment:
    return running[0]


async def asked(deployment: Deployment, subject: str) -> RefreshRequest | None:
    try:
        found = await deployment.bus.js.get_last_msg(subjects.REFRESH, subject)
    except NotFoundError:
        return None
    return decode(found.data or b"", RefreshRequest)


async def test_a_name_stocks_and_a_time_of_day_are_enough_for_a_job(http: Http, other: Http) -> None:
    made = await http.post("/scheduler/jobs", SHORT)
    assert (made.status, made.headers["Location"]) == (201, "/scheduler/jobs/tech-at-five")
    seen = await other.get(made.headers["Location"])
    assert (seen.status, seen.headers["ETag"], seen.json) == (200, made.headers["ETag"], made.json)
    job = seen.json
    assert (job["id"], job["symbols"], job["at"], job["enabled"]) == ("tech-at-five", ["AAPL", "BRK.B"], ["17:00"], True)
    assert job["next_at"].endswith("T17:00:00Z")
    assert [each["id"] for each in (await other.get("/scheduler/jobs")).json["jobs"]] == ["tech-at-five"]
    again = await other.post("/scheduler/jobs", SHORT)
    assert (again.status, again.json["type"]) == (409, "urn:quotebus:exists")


async def test_an_id_is_made_of_a_name_in_any_spelling(http: Http) -> None:
    made = [(await http.post("/scheduler/jobs", {**SHORT, "name": name})).json["id"] for name in ("Äpfel & Öl", "ﬁve  PM")]
    assert made == ["apfel-ol", "five-pm"]


async def test_a_job_that_has_not_changed_is_shown_anew_when_its_next_slot_has(http: Http) -> None:
    path = (await http.post("/scheduler/jobs", {"id": "often", "symbols": ["AAPL"], "every_s": 1})).headers["Location"]
    first = await http.get(path)

    async def moved() -> bool:
        return (await http.get(path, If_None_Match=first.headers["ETag"])).status == 200

    await until(moved)
    again = await http.get(path)
    assert (again.json["revision"], again.json["next_at"] > first.json["next_at"]) == (first.json["revision"], True)
    # To change it, any ETag of its revision will do, and the revision alone.
    changed = await http.ask("PUT", path, {"symbols": ["MSFT"], "every_s": 1}, {"If-Match": first.headers["ETag"]})
    assert changed.status == 200
    assert (await http.post(f"{path}/stop", If_Match=f'"{first.json["revision"]}"')).status == 412
    assert (await http.post(f"{path}/stop", If_Match=f'"{changed.json["revision"]}"')).status == 200


async def test_what_was_shown_can_be_sent_back_changed(http: Http) -> None:
    made = await http.post("/scheduler/jobs", {"id": "j", "symbols": ["AAPL"], "every_s": 3600, "lane": "backfill"})
    changed = await http.ask("PUT", "/scheduler/jobs/j", {**made.json, "symbols": ["MSFT"]}, {"If-Match": made.headers["ETag"]})
    assert changed.status == 200, changed.body
    assert (changed.json["symbols"], changed.json["lane"]) == (["MSFT"], "backfill")
    assert changed.json["enabled_at"] == made.json["enabled_at"]
    assert changed.headers["ETag"] != made.headers["ETag"]
    defined_anew = await http.ask("PUT", "/scheduler/jobs/j", {"stock_ids": ["IBM"], "schedule_time": "09:30"})
    assert defined_anew.json["lane"] == "live"
    assert (defined_anew.json["every_s"], defined_anew.json["at"]) == (None, ["09:30"])
    assert defined_anew.json["enabled_at"] > made.json["enabled_at"]


async def test_of_two_changes_of_one_revision_at_two_gateways_one_is_made(http: Http, other: Http) -> None:
    made = await http.post("/scheduler/jobs", SHORT)
    path, old = made.headers["Location"], {"If-Match": made.headers["ETag"]}
    change = {**SHORT, "name": "tech-at-five"}
    answers = await asyncio.gather(*(each.ask("PUT", path, change, old) for each in (http, other) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 412, 412, 412, 412, 412]
    for late in (await other.ask("DELETE", path, headers=old), await http.post(f"{path}/stop", If_Match=made.headers["ETag"])):
        assert (late.status, late.json["type"]) == (412, "urn:quotebus:conflict")
    assert (await http.ask("DELETE", path, headers={"If-Match": '"nonsense"'})).status == 412
    now = (await http.get(path)).headers["ETag"]
    assert (await http.ask("DELETE", path, headers={"If-Match": f"W/{now}"})).status == 204
    assert (await other.get(path)).status == 404


async def test_a_malformed_job_is_told_and_can_be_deleted(http: Http, deployment: Deployment) -> None:
    await (await deployment.bus.js.key_value(subjects.JOBS_BUCKET)).put("broken", b'{"id":"broken"}')
    answer = await http.get("/scheduler/jobs/broken")
    assert (answer.status, answer.json["type"]) == (409, "urn:quotebus:malformed")
    assert "delete it" in answer.json["detail"]
    assert (await http.ask("DELETE", "/scheduler/jobs/broken")).status == 204
    assert (await http.get("/scheduler/jobs/broken")).status == 404


async def test_a_job_is_stopped_with_a_reason_started_and_run(http: Http, deployment: Deployment) -> None:
    path = (await http.post("/scheduler/jobs", SHORT)).headers["Location"]
    stopped = await http.post(f"{path}/stop")
    assert (stopped.json["enabled"], stopped.json["paused_reason"], stopped.json["next_at"]) == (False, "stopped over HTTP", None)
    assert (await http.post(f"{path}/stop")).headers["ETag"] == stopped.headers["ETag"], "once is enough"
    paused = await http.post(f"{path}/pause", {"reason": "market holiday"})
    assert paused.json["paused_reason"] == "market holiday"

    async def told() -> bool:
        # A clock that has no time for half a second is not counted then.
        status = (await http.get("/scheduler/status")).json
        return (status["running"], status["clocks"], status["jobs"], status["paused"]) == (True, 1, 1, 1)

    await until(told)
    run = await http.post(f"{path}/run")
    assert (run.status, run.headers["Location"]) == (202, f"/runs/{run.json['run_id']}")
    wish = await asked(deployment, "refresh.request.manual.tech-at-five")
    assert wish is not None
    assert (wish.request_id, wish.symbols) == (run.json["request_id"], ["AAPL", "BRK.B"])
    started = await http.post(f"{path}/start")
    assert (started.json["enabled"], started.json["paused_reason"]) == (True, None)
    assert (await http.get("/scheduler/status")).json["next_job"] == "tech-at-five"
    assert (await http.post("/scheduler/jobs/nobody/start")).status == 404


async def test_a_job_by_the_sessions_of_an_exchange_shows_its_next_slot_and_one_that_follows_another_none(http: Http) -> None:
    job = {"id": "open", "symbols": ["AAPL"], "session": "open+5m", "calendar": "XNYS", "universe": "watchlist", "max_symbols": 5}
    made = await http.post("/scheduler/jobs", job)
    assert (made.status, made.json["session"], made.json["max_symbols"]) == (201, "open+5m", 5)

    async def known() -> bool:
        return str((await http.get("/scheduler/jobs/open")).json["next_at"]).endswith(":35:00Z")

    await until(known)
    assert (await http.get("/scheduler/status")).json["next_job"] == "open"
    follower = {"id": "then", "symbols": ["AAPL"], "after": "open"}
    assert (await http.post("/scheduler/jobs", follower)).json["next_at"] is None
    for body in ({**follower, "after": "opn"}, {**job, "session": None, "after": "then"}):
        refused = await http.ask("PUT", f"/scheduler/jobs/{body['id']}", {**body, "calendar": None})
        assert (refused.status, refused.fields) == (422, ["after"]), refused.body


async def test_a_running_clock_follows_what_is_changed_over_http(http: Http, deployment: Deployment) -> None:
    async def slot() -> int:
        wish = await asked(deployment, "refresh.request.live.ticking")
        return len(wish.symbols) if wish else 0

    job = {"id": "ticking", "symbols": ["A"], "every_s": 1}
    await http.post("/scheduler/jobs", job)
    await until(lambda: holds(slot, 1))
    await http.ask("PUT", "/scheduler/jobs/ticking", {**job, "symbols": ["A", "B"]})
    await until(lambda: holds(slot, 2))


async def holds(look: Any, wanted: int) -> bool:
    return await look() == wanted


async def test_a_refresh_is_on_the_bus_when_it_is_answered_and_once_for_a_key(
    http: Http, other: Http, deployment: Deployment
) -> None:
    body = {"symbols": ["aapl", "AAPL", "^GSPC"], "dataset": "quote", "max_age_s": 5}
    first = await http.post("/refresh", body, Idempotency_Key="k1")
    assert (first.status, first.headers["Location"]) == (202, first.json["run"])
    wish = await asked(deployment, "refresh.request.manual")
    assert wish is not None
    assert (wish.symbols, wish.dataset, wish.max_age_s) == (["AAPL", "^GSPC"], "quote", 5)
    assert (await other.post("/refresh", body, Idempotency_Key="k1")).json == first.json
    assert (await other.post("/refresh", body)).json["run_id"] != first.json["run_id"]
    another = await http.post("/refresh", {**body, "symbols": ["MSFT"]}, Idempotency_Key="k1")
    assert another.json["run_id"] != first.json["run_id"], "a key that is used again for something else loses nothing"
    wish = await asked(deployment, "refresh.request.manual")
    assert wish is not None
    assert wish.symbols == ["MSFT"]


async def test_the_admin_path_asks_for_symbols_or_runs_every_job(http: Http, deployment: Deployment) -> None:
    path = "/api/v1/admin/refresh-prices"
    nothing = await http.post(path)
    assert (nothing.status, nothing.json["type"]) == (409, "urn:quotebus:nothing_to_refresh")
    assert len((await http.post(path, {"stock_ids": ["AAPL"]})).json["requests"]) == 1
    await http.post("/scheduler/jobs", SHORT)
    [ran] = (await http.post(path)).json["requests"]
    assert ran["job"] == "tech-at-five"


async def test_a_backfill_goes_to_its_lane_with_its_days(http: Http, deployment: Deployment) -> None:
    days = {"start": "2024-01-02", "end": "2024-02-01"}
    assert (await http.post("/backfills", {**days, "symbols": ["AAPL"], "timeframe": "1d"})).status == 202
    wish = await asked(deployment, "refresh.request.backfill")
    assert wish is not None
    assert (str(wish.start), str(wish.end), wish.symbols) == ("2024-01-02", "2024-02-01", ["AAPL"])
    await http.post("/scheduler/jobs", SHORT)
    [accepted] = (await http.post("/backfills", {**days, "job": "tech-at-five"})).json["requests"]
    assert accepted["job"] == "tech-at-five"
    assert (await http.post("/backfills", {**days, "job": "nobody"})).status == 404


GOOD: dict[str, object] = {"id": "a", "symbols": ["A"], "every_s": 60}


@pytest.mark.parametrize(
    ("body", "status", "fields"),
    [
        (b"", 422, ["id"]),
        (b"{", 400, []),
        (b"nonsense", 400, []),
        (b"\xff\xfe", 400, []),
        (b"[1]", 400, [""]),
        (b'{"a":' * 20_000, 400, []),
        ({**GOOD, "symbls": ["A"]}, 422, ["symbls"]),
        ({**GOOD, "id": "A b"}, 422, ["id"]),
        ({**GOOD, "id": None}, 422, ["id"]),
        ({**GOOD, "symbols": "A"}, 422, ["symbols"]),
        ({**GOOD, "symbols": ["A", 7]}, 422, ["symbols[1]"]),
        ({**GOOD, "symbols": ["A", ""]}, 422, ["symbols[1]"]),
        ({**GOOD, "symbols": ["x" * 65]}, 422, ["symbols[0]"]),
        ({**GOOD, "symbols": ["A\u0000"]}, 422, ["symbols[0]"]),
        ({**GOOD, "symbols": []}, 422, ["symbols"]),
        ({**GOOD, "universe": "activ"}, 422, ["universe"]),
        ({**GOOD, "universe": ["active"]}, 422, ["universe"]),
        ({**GOOD, "every_s": 0}, 422, ["every_s"]),
        ({**GOOD, "every_s": 1e300}, 422, ["every_s"]),
        ({**GOOD, "expires_after_s": 1e300}, 422, ["expires_after_s"]),
        ({**GOOD, "max_age_s": 1e300}, 422, ["max_age_s"]),
        ({**GOOD, "cron": "* * * * *"}, 422, [""]),
        ({"id": "a", "symbols": ["A"], "cron": "* * *"}, 422, ["cron"]),
        ({"id": "a", "symbols": ["A"], "cron": "0 0 30 2 *"}, 422, ["cron"]),
        ({**GOOD, "timezone": "Mars/Base"}, 422, ["timezone"]),
        ({**GOOD, "dataset": "quote", "timeframe": "1d"}, 422, ["timeframe"]),
        ({**SHORT, "schedule_time": "25:00"}, 422, ["schedule_time"]),
        ({**SHORT, "stock_ids": [17]}, 422, ["stock_ids[0]"]),
        ({**SHORT, "stock_ids": "AAPL"}, 422, ["stock_ids"]),
        ({**SHORT, "name": "!!"}, 422, ["name"]),
        ({**SHORT, "id": "a"}, 422, ["name"]),
    ],
    ids=str,
)
async def test_a_body_that_is_no_job_is_a_problem_that_names_the_field(http: Http, body: object, status: int, fields: list[str]):
    answer = await http.post("/scheduler/jobs", body)
    assert (answer.status, answer.fields) == (status, fields), answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert (await http.get("/scheduler/jobs")).json["jobs"] == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/refresh", {}, "symbols"),
        ("/refresh", {"symbols": ["A"], "lane": "fast"}, "lane"),
        ("/refresh", {"symbols": ["A"], "start": "2024-02-01", "end": "2024-01-01"}, "end"),
        ("/refresh", {"symbols": ["A"], "start": "2024-02-01"}, "start, end"),
        ("/refresh", {"symbols": ["A"], "job": "a"}, "job"),
        ("/refresh", {"symbols": ["A"], "max_age": 1}, "max_age"),
        ("/refresh", {"universe": "activ"}, "universe"),
        ("/backfills", {"symbols": ["A"], "start": "2024-01-01"}, "end"),
        ("/backfills", {"start": "2024-01-01", "end": "2024-02-01"}, "symbols"),
        ("/backfills", {"symbols": ["A"], "start": "someday", "end": "2024-02-01"}, "start"),
        ("/scheduler/jobs/a/pause", {}, "reason"),
    ],
)
async def test_a_wish_that_cannot_be_is_a_problem_that_names_the_field(http: Http, path: str, body: object, field: str) -> None:
    answer = await http.post(path, body)
    assert (answer.status, answer.fields) == (422, [field]), answer.body


async def test_a_misspelt_field_is_told_the_near_one(http: Http) -> None:
    assert "did you mean symbols?" in (await http.post("/scheduler/jobs", {**GOOD, "symbls": 1})).json["detail"]
    assert "did you mean max_age_s?" in (await http.post("/refresh", {"symbols": ["A"], "max_age": 1})).json["detail"]


async def test_what_is_too_large_or_not_said_to_be_json_is_refused(http: Http) -> None:
    large = await http.post("/refresh", {"symbols": ["A" * 60] * 10_000})
    assert (large.status, large.json["type"]) == (413, "urn:quotebus:too_large")
    form = await http.ask("POST", "/refresh", b"symbols=A", {"Content-Type": "application/x-www-form-urlencoded"})
    assert (form.status, form.json["type"]) == (415, "urn:quotebus:not_json")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic dG9rZW4tb2YtYW5uOg=="}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": f"Bearer {READER}"}, 403),
    ],
)
async def test_changing_needs_a_token_of_its_scope_and_reading_none(
    http: Http, deployment: Deployment, headers: dict[str, str], status: int
) -> None:
    stranger = Http(http.session, http.url, None)
    for method, path in (
        ("POST", "/scheduler/jobs"),
        ("DELETE", "/scheduler/jobs/a"),
        ("POST", "/refresh"),
        ("POST", "/backfills"),
    ):
        answer = await stranger.ask(method, path, {}, headers)
        assert answer.status == status
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert (await stranger.get("/scheduler/jobs")).status == 200
    assert (await stranger.get("/livez")).body == b"ok\n"


async def test_every_change_made_or_refused_is_one_line_of_the_log_without_a_token(http: Http, deployment: Deployment) -> None:
    before = len(audits(deployment))
    await http.post("/scheduler/jobs", SHORT)
    await Http(http.session, http.url, "guessed-token").post("/refresh", {"symbols": ["A"]})
    lines = audits(deployment)[before:]
    assert [(line["action"], line["who"], line["status"]) for line in lines] == [
        ("create_job", "ann", 201),
        ("refresh", "nobody", 401),
    ]
    assert lines[0]["job"] == "tech-at-five"
    assert "guessed-token" not in deployment.log("gateway0")


def audits(deployment: Deployment) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in deployment.log("gateway0").splitlines()]
    return [line for line in lines if line["event"] == "audit"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PATCH", "/scheduler/jobs", 405), ("POST", "/prices/A", 405), ("GET", "/scheduler/jobs/%ff", 404)],
)
async def test_paths_and_methods_that_are_not_there_are_problems_too(http: Http, method: str, path: str, status: int) -> None:
    answer: Answer = await http.ask(method, path)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert ("Allow" in answer.headers) == (status == 405)


async def test_health_metrics_and_the_page_are_there(http: Http) -> None:
    assert (await http.get("/readyz")).json["ready"]
    assert b'quotebus_http_requests_total{route="readyz",status="200"}' in (await http.get("/metrics")).body
    page = await http.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert b"http://" not in page.body and b"https://" not in page.body
