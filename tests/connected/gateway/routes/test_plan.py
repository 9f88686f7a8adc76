"""What jobs cost over HTTP: a fetcher works it out, and without one a job is made all the same."""

from pathlib import Path

from tests.connected.deployment import until
from tests.connected.gateway.gateway_harness import Http, with_gateways

JOB = {"id": "eod", "symbols": ["A", "B"], "at": ["22:15"], "timeframe": "1d"}


async def test_the_plan_says_what_jobs_cost_and_a_job_that_is_made_what_it_costs_itself(tmp_path: Path) -> None:
    async with with_gateways(tmp_path) as (deployment, [http]):
        await until(lambda: _is_ready(http))
        alone = await http.get("/plan")
        assert (alone.status, alone.json["type"]) == (503, "urn:quotebus:no_fetcher")
        assert "no fetcher is running" in alone.json["detail"]
        made = await http.post("/scheduler/jobs", JOB)
        assert (made.status, made.json["cost"], made.json["too_small"]) == (201, None, [])
        limits = {"API_KEY": "k", "PER_HOUR": "3", "BASE_URL": "http://127.0.0.1:1"}
        more = {f"QUOTEBUS_PROVIDERS__TIINGO__{name}": value for name, value in limits.items()}
        await deployment.start("fetcher", "fetcher", **more)

        async def answered() -> bool:
            return (await http.get("/plan")).status == 200

        await until(answered)
        plan = (await http.get("/plan")).json
        assert [(job["job"], job["provider"], job["runs"], job["calls"]) for job in plan["jobs"]] == [("eod", "tiingo", 1, 2)]
        [hour] = [limit for limit in plan["limits"] if limit["window"] == "hour"]
        assert (hour["limit"], hour["wanted"], hour["fits"]) == (3, 2, True)
        again = await http.post("/scheduler/jobs", {**JOB, "id": "more", "at": ["22:45"]})
        assert (again.status, again.json["cost"]["calls"]) == (201, 2)
        assert ("hour", 4, False) in [(limit["window"], limit["wanted"], limit["fits"]) for limit in again.json["too_small"]]
        same = (await http.post("/scheduler/jobs", {**JOB, "id": "same"})).json["cost"]
        assert (same["calls"], same["merged"]) == (0, 2)
        changed = await http.ask("PUT", "/scheduler/jobs/more", {"symbols": ["A"], "at": ["09:00"], "timeframe": "1d"})
        assert (changed.status, changed.json["cost"]["calls"], changed.json["too_small"]) == (200, 1, [])


async def _is_ready(http: Http) -> bool:
    return (await http.get("/readyz")).status == 200
