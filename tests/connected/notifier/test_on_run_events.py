"""Notifications on real servers, to real receivers, by a notifier that is killed in between."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunFinished, RunMissed
from services.notifier import on_run_events
from services.notifier.message import notification_of
from services.notifier.on_run_events import Notifications
from services.notifier.send_apprise import AppriseSender
from services.notifier.send_webhook import SendError
from services.runtime.bus import Bus, connect
from services.runtime.jetstream.provision import drift, provision
from services.runtime.jetstream.topology import topology
from services.runtime.service import StartRefusedError
from services.runtime.settings import NatsSettings, NotifySettings, Secret, Settings
from tests.connected.deployment import Deployment, deployed, until
from tests.connected.quotebus.up_process import quotebus, started
from tests.fake_webhook_receiver import SECRET, PlayedWebhook

NOW = datetime(2024, 3, 4, 21, tzinfo=UTC)
# apprise imports a module that Python drops some day.
OLD_MODULES = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
async def receiver() -> AsyncIterator[PlayedWebhook]:
    async with PlayedWebhook().serve() as played:
        yield played


def table(url: str, **terms: Any) -> dict[str, Any]:
    return {"id": "ops", "url": url, "secret": SECRET, "allow_private": True, **terms}


def told_to(*tables: dict[str, Any]) -> dict[str, str]:
    return {"QUOTEBUS_NOTIFY": json.dumps(tables)}


def finished(run_id: str, job: str | None = "eod", **counts: int) -> RunFinished:
    return RunFinished(
        run_id=run_id, request_id="r", job=job, planned=sum(counts.values()), counts=counts, calls={},  # type: ignore[arg-type]
        started_at=NOW, finished_at=NOW + timedelta(seconds=1),
    )  # fmt: skip


def missed(job: str = "eod") -> RunMissed:
    return RunMissed(job=job, reason="too_late", missed=1, slots=[NOW], at=NOW)


async def tell(bus: Bus, *events: RunFinished | RunMissed) -> None:
    for event in events:
        await bus.publish(subjects.run("missed" if isinstance(event, RunMissed) else "finished", event.job), event)


def told(receiver: PlayedWebhook) -> list[tuple[str, str | None]]:
    return sorted((body["type"], body["data"].get("run_id")) for _, body in receiver.got)


async def has_got(receiver: PlayedWebhook, count: int) -> bool:
    return len(receiver.got) >= count


async def has_tried(receiver: PlayedWebhook, count: int) -> bool:
    return len(receiver.tries) >= count


async def test_each_receiver_is_told_of_its_jobs_and_occasions_and_of_nothing_else(tmp_path: Path, receiver: PlayedWebhook):
    async with PlayedWebhook().serve() as other:
        tables = table(receiver.url), table(other.url, id="chat", jobs=["eod", "-"], on=["finished"])
        async with deployed(tmp_path, ("notifier",), told_to(*tables), redis=False) as deployment:
            await tell(deployment.bus, finished("1", refreshed=2), finished("2", refreshed=1, failed=1), missed())
            await tell(deployment.bus, finished("3", "other", expired=1), finished("4", None, failed=1))
            await tell(deployment.bus, finished("5", "last", failed=1), finished("6", refreshed=1))
            await until(partial(has_got, receiver, 4))
            await until(partial(has_got, other, 4))
    assert told(receiver) == [("run.failed", "2"), ("run.failed", "3"), ("run.failed", "5"), ("run.missed", None)]
    assert told(other) == [("run.failed", "2"), ("run.failed", "4"), ("run.finished", "1"), ("run.finished", "6")]


async def test_a_notifier_that_is_killed_while_it_sends_sends_again_with_the_same_id(tmp_path: Path, receiver: PlayedWebhook):
    runs = [finished(str(number), failed=1) for number in range(3)]
    async with deployed(tmp_path, ("notifier",), told_to(table(receiver.url)), redis=False) as deployment:
        receiver.open.clear()
        await tell(deployment.bus, *runs)
        await until(partial(has_tried, receiver, 1))
        await deployment.services["notifier"].kill()
        under_way = receiver.tries[0]
        receiver.tries.clear()
        receiver.open.set()
        await deployment.start("notifier")
        await until(partial(has_all, receiver, {notification_of(run).id for run in runs}))
    assert under_way in receiver.tries
    assert {identity for identity, _ in receiver.got} == {notification_of(run).id for run in runs}


async def has_all(receiver: PlayedWebhook, identities: set[str]) -> bool:
    return {identity for identity, _ in receiver.got} >= identities


async def test_what_ends_while_no_notifier_runs_and_while_nats_is_killed_is_told_afterwards(
    tmp_path: Path, receiver: PlayedWebhook
):
    async with deployed(tmp_path, (), told_to(table(receiver.url)), redis=False) as deployment:
        await tell(deployment.bus, finished("1", failed=1))
        await deployment.nats.kill()
        await deployment.nats.start()
        await deployment.start("notifier")
        await until(partial(has_got, receiver, 1))
        await deployment.nats.kill()
        await deployment.nats.start()
        await until(lambda: _published(deployment, finished("2", failed=1)))
        await until(partial(has_got, receiver, 2))
    assert {run for _, run in told(receiver)} == {"1", "2"}


async def _published(deployment: Deployment, event: RunFinished) -> bool:
    try:
        await tell(deployment.bus, event)
    except Exception:
        return False
    return True


async def test_a_run_of_the_whole_system_is_told_as_one_message(tmp_path: Path, receiver: PlayedWebhook):
    environment = told_to(table(receiver.url, on=["finished"], jobs=["eod"])) | {"QUOTEBUS_PROVIDERS__SYNTHETIC__ENABLED": "true"}
    async with deployed(tmp_path, ("fetcher", "cacher", "notifier"), environment, redis=False) as deployment:
        wish = RefreshRequest(symbols=["AAPL", "BRK.B", "MSFT"], dataset="quote", job="eod")
        await deployment.bus.publish(subjects.refresh_request("live", "eod"), wish)
        await until(partial(has_got, receiver, 1))
        assert SECRET.removeprefix("whsec_") not in deployment.log("notifier")
    [(_, body)] = receiver.got
    assert (body["type"], body["data"]["planned"], body["data"]["counts"]) == ("run.finished", 3, {"refreshed": 3})


async def test_a_job_whose_universe_cannot_be_read_has_failed_and_says_why(tmp_path: Path, receiver: PlayedWebhook):
    environment = told_to(table(receiver.url, on=["finished"])) | {"QUOTEBUS_PROVIDERS__SYNTHETIC__ENABLED": "true"}
    async with deployed(tmp_path, ("fetcher", "cacher", "notifier"), environment, redis=False) as deployment:
        await deployment.bus.publish(subjects.refresh_request("live", "eod"), RefreshRequest(universe="activ", job="eod"))
        await until(partial(has_got, receiver, 1))
        [slot] = await deployment.rows("SELECT state, reason, planned FROM run_slots")
    [(_, body)] = receiver.got
    assert (body["type"], body["data"]["planned"]) == ("run.failed", 0)
    assert (slot["state"], slot["planned"], slot["reason"]) == ("over", 0, body["data"]["refused"])
    assert "universe activ is not defined; did you mean active?" in slot["reason"]


async def test_one_command_notifies_when_there_is_somebody_to_notify(tmp_path: Path, receiver: PlayedWebhook):
    lines = [
        "[[notify]]",
        *(f"{name} = {json.dumps(value)}" for name, value in table(receiver.url, on=["finished"], jobs=["-"]).items()),
    ]
    (tmp_path / "quotebus.toml").write_text("\n".join(lines))
    async with started(tmp_path / "data"):
        code, said = await quotebus(tmp_path / "data", "refresh", "AAPL", "--wait", "-o", "ndjson")
        assert code == 0, said
        await until(partial(has_got, receiver, 1))
        code, said = await quotebus(tmp_path / "data", "status", "-o", "ndjson")
        states = {row["part"]: row["state"] for row in map(json.loads, said.splitlines())}
    assert (code, states["notifier"]) == (0, "ready")


async def test_a_receiver_whose_table_is_gone_leaves_no_consumer_behind(nats_server: Any):
    settings = Settings(nats=NatsSettings(url=nats_server.url))
    one = msgspec.structs.replace(settings, notify=[NotifySettings(**table("http://127.0.0.1:1/"))])
    async with connect(settings.nats, "test") as bus:
        await provision(bus.js, topology(one, {}))
        assert await drift(bus.js, topology(one, {})) == []
        assert await drift(bus.js, topology(settings, {})) == ["consumer notify-ops: its [[notify]] table is not there"]
        assert await provision(bus.js, topology(settings, {})) == [
            "removed consumer notify-ops: its [[notify]] table is no longer there"
        ]


class Refusing:
    """A receiver that takes nothing."""

    async def send(self, notice: object) -> None:
        raise SendError("it answered 500")


async def test_what_nobody_takes_for_too_long_becomes_a_dead_letter_with_its_reason(
    nats_server: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(on_run_events, "GIVE_UP_AFTER", timedelta(0))
    settings = Settings(nats=NatsSettings(url=nats_server.url), notify=[NotifySettings(**table("http://127.0.0.1:1/"))])
    async with connect(settings.nats, "test") as bus:
        await provision(bus.js, topology(settings, {}))
        await tell(bus, finished("7", failed=1))
        stop = asyncio.Event()
        running = asyncio.create_task(Notifications(bus, settings.notify[0], Refusing(), 5).run(stop))

        async def buried() -> bool:
            return (await bus.js.stream_info(subjects.DEAD)).state.messages > 0

        await until(buried)
        stop.set()
        await running
        letter = decode((await bus.js.get_last_msg(subjects.DEAD, "refresh.dead.*")).data or b"", DeadLetter)
    assert (letter.reason, letter.service) == ("undelivered", "notifier")
    assert "notify ops: not taken" in letter.message
    assert "it answered 500" in letter.message


@OLD_MODULES
async def test_apprise_sends_the_words_for_people(receiver: PlayedWebhook):
    got: list[dict[str, Any]] = []
    async with PlayedChat(got) as url:
        settings = NotifySettings(id="chat", url=Secret(url))
        await AppriseSender(settings).send(notification_of(finished("7", refreshed=1, failed=1)))
        assert (got[0]["title"], "`quotebus runs retry 7`" in got[0]["message"]) == ("eod: 1 of 2 symbols failed", True)
    with pytest.raises(SendError, match="apprise could not send it"):
        await AppriseSender(settings).send(notification_of(missed()))


@OLD_MODULES
def test_an_address_that_apprise_does_not_know_is_refused_without_showing_it():
    with pytest.raises(StartRefusedError, match="notify chat: url: apprise cannot read this address of canari;") as raised:
        AppriseSender(NotifySettings(id="chat", url=Secret("canari://canary")))
    assert "canary" not in str(raised.value)


class PlayedChat:
    """The simplest receiver that apprise knows: JSON by POST."""

    def __init__(self, got: list[dict[str, Any]]) -> None:
        self._got = got

    async def __aenter__(self) -> str:
        from aiohttp import web

        async def take(request: web.Request) -> web.Response:
            self._got.append(await request.json())
            return web.Response()

        app = web.Application()
        app.router.add_post("/", take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"json://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
