"""Every adapter against a vendor that fails, over real HTTP with the project's own client.

A new adapter is found by its folder. What a failing test says after "do:" is what to change in the adapter; the faults and the
verdicts that pass stand in `vendor_faults.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import web

from contracts.message import Dataset
from services.fetcher.http.client import MeteredHttp, no_permit_needed, open_session
from services.fetcher.provider import Answer, FetchCall, ProviderError, Verdict
from tests.fetcher.providers.adapter_contract import broken_promises
from tests.fetcher.providers.adapter_harness import ADAPTERS, ASKING, CASES, KEY, built, call_of, fixtures, records, some_call
from tests.fetcher.providers.vendor_faults import FAULTS, MOST_BYTES, NOW, REDIRECTED, SLOW_FAULTS, Fault, Handler, redirect

TELL = 12
BATCHING = [name for name in ASKING if max(ADAPTERS[name].profile.symbols_per_call.values(), default=1) > 1]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The origin of a local server whose every path is answered so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(origin: str, timeout_s: float = 5.0) -> AsyncIterator[MeteredHttp]:
    async with open_session() as session:
        yield MeteredHttp(session, origin, no_permit_needed, timeout_s, MOST_BYTES)


async def errors_of(name: str, dataset: Dataset, http: MeteredHttp) -> list[ProviderError]:
    """How a call fails: as a whole, or its symbol; none, if something passes for an answer."""
    provider = built(name)
    try:
        answer = await provider.fetch(some_call(provider, dataset), http, NOW)
    except ProviderError as error:
        return [error]
    return [] if records(answer) else list(answer.failed.values())


def wrongs(fault: Fault, errors: list[ProviderError]) -> Iterator[str]:
    """What an adapter made wrongly of a fault, and what to do."""
    if not errors:
        yield f"it passes for an answer; do: {fault.advice}"
    for error in errors:
        said = f"{error.verdict} ({error.message})"
        if error.verdict not in fault.verdicts:
            yield f"{said}; wanted: {' or '.join(sorted(fault.verdicts))}; do: {fault.advice}"
        if KEY in str(error) or "\n" in error.message or "://" in error.message:
            yield f"{said}; do: make the words fit to be shown: `responses.sanitize`"
        late = datetime.now(UTC) - NOW
        if fault.retry_at and not (error.retry_at and fault.retry_at <= error.retry_at <= fault.retry_at + late):
            yield f"{said}: retry_at is {error.retry_at}; do: {fault.advice}"
        if error.retry_at is not None and error.retry_at <= NOW:
            yield f"{said}: retry_at {error.retry_at} is past; do: leave it None"


@pytest.mark.parametrize("name", ASKING)
async def test_every_failure_over_http_has_its_verdict(name: str) -> None:
    current, found = FAULTS["hung up"].handler, []

    async def fail(request: web.Request) -> web.StreamResponse:
        return await current(request)

    async with serving(fail) as origin, client(origin) as http:
        for what, fault in FAULTS.items():
            current = fault.handler
            for dataset in ADAPTERS[name].profile.offers:
                found += [f"{dataset}, {what}: {wrong}" for wrong in wrongs(fault, await errors_of(name, dataset, http))]
    assert not found, f"{name} takes {len(found)} failures for something else:\n  " + "\n  ".join(found[:TELL])


@pytest.mark.parametrize("what", SLOW_FAULTS)
@pytest.mark.parametrize("name", ASKING)
async def test_time_and_size_of_an_answer_are_bounded(name: str, what: str) -> None:
    fault, dataset = SLOW_FAULTS[what], next(iter(ADAPTERS[name].profile.offers))
    # The others end by their size, however slow this machine is.
    timeout_s = 0.15 if fault.verdicts == {Verdict.TIMEOUT} else 30.0
    async with serving(fault.handler) as origin, client(origin, timeout_s) as http:
        assert list(wrongs(fault, await errors_of(name, dataset, http))) == []


@pytest.mark.parametrize("name", ASKING)
async def test_nobody_goes_where_a_redirect_points_and_no_key_is_sent_there(name: str) -> None:
    visitors: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        visitors.append(f"{request.path_qs} {dict(request.headers)}")
        return web.Response(text="[]")

    async with serving(elsewhere) as other:
        for handler in redirect(f"{other}/login").values():
            async with serving(handler) as origin, client(origin) as http:
                for dataset in ADAPTERS[name].profile.offers:
                    assert list(wrongs(REDIRECTED, await errors_of(name, dataset, http))) == []
    assert not visitors, f"{name} followed a redirect: {visitors[0]}"


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, case in CASES if fixtures(name)[case].get("replies")])
async def test_what_a_fixture_shows_comes_over_http_just_so_with_a_byte_order_mark_too(name: str, case: str) -> None:
    fixture = fixtures(name)[case]
    call, now = call_of(fixture["call"]), datetime.fromisoformat(fixture["now"])
    answers: list[Answer] = []
    for mark in (b"", b"\xef\xbb\xbf"):
        turns = iter(fixture["replies"])

        async def play(_request: web.Request, mark: bytes = mark, turns: object = turns) -> web.Response:
            turn = next(turns)  # type: ignore[call-overload]
            raw = turn["body"].encode() if isinstance(turn["body"], str) else web.json_response(turn["body"]).body
            return web.Response(status=turn.get("status", 200), body=mark + raw, headers=turn.get("headers", {}))

        async with serving(play) as origin, client(origin) as http:
            answers.append(await built(name).fetch(call, http, now))
    assert len(records(answers[0])) == fixture["expect"]["rows"]
    assert records(answers[0]) == records(answers[1]), "a byte order mark changed the rows"
    assert not list(broken_promises(name, call, answers[0], now))


@pytest.mark.parametrize("name", BATCHING)
async def test_a_failure_of_a_batch_names_every_symbol_or_the_call(name: str) -> None:
    profile = ADAPTERS[name].profile
    async with serving(FAULTS["500 with a page"].handler) as origin, client(origin) as http:
        for dataset, size in profile.symbols_per_call.items():
            symbols = ("AAPL", "MSFT")[:size]
            frame = ("1d" if "1d" in profile.offers[dataset] else profile.offers[dataset][0]) if dataset == "bars" else None
            try:
                answer = await built(name).fetch(FetchCall(dataset, symbols, frame), http, NOW)
            except ProviderError as error:
                assert error.verdict == "server_error"
            else:
                assert answer.failed.keys() == set(symbols)


async def test_calls_that_fail_side_by_side_leave_nothing_behind() -> None:
    """Sixty at once, some cancelled: the pool is bounded, and the next call works."""
    async with serving(FAULTS["200 with an error"].handler) as origin, client(origin) as http:
        tasks = [asyncio.create_task(errors_of(ASKING[i % len(ASKING)], "bars", http)) for i in range(60)]
        await asyncio.sleep(0)
        for task in tasks[::7]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) or not isinstance(end, BaseException) for end in ended)
        assert (await http.get("/a")).status == 200
