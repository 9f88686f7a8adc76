"""Webhooks to real receivers."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.notifier import send_webhook as webhook
from services.notifier.message import Notification
from services.notifier.send_webhook import ATTEMPTS, SendError, WebhookSender, open_session, signature, signing_key
from services.runtime.settings import InvalidSettingsError, NotifySettings, Secret
from services.runtime.settings.build import build_settings
from tests.fake_webhook_receiver import SECRET, PlayedWebhook

NOTICE = Notification("msg_1", "eod", "failed", "eod: 1 of 1 symbols failed", "…", b'{"type":"run.failed"}')


@pytest.fixture
async def receiver() -> AsyncIterator[PlayedWebhook]:
    async with PlayedWebhook().serve() as played:
        yield played


@asynccontextmanager
async def sender(url: str, *, allow_private: bool = True, secret: str = SECRET) -> AsyncIterator[WebhookSender]:
    settings = NotifySettings(id="ops", url=Secret(url), secret=Secret(secret), allow_private=allow_private)
    async with open_session(allow_private=allow_private) as session:
        yield WebhookSender(session, settings)


def test_a_signature_is_as_the_standard_has_it() -> None:
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_notice_arrives_signed_and_whole(receiver: PlayedWebhook) -> None:
    async with sender(receiver.url) as hook:
        await hook.send(NOTICE)
    assert receiver.got == [("msg_1", {"type": "run.failed"})]


async def test_while_a_secret_changes_both_are_signed_with(receiver: PlayedWebhook) -> None:
    async with sender(receiver.url, secret=f"whsec_b3RoZXI= {SECRET}") as hook:
        await hook.send(NOTICE)
    assert len(receiver.got) == 1


async def test_a_receiver_that_stumbles_gets_the_same_id_again(receiver: PlayedWebhook) -> None:
    receiver.statuses = [503, 429]
    async with sender(receiver.url) as hook:
        await hook.send(NOTICE)
    assert receiver.tries == ["msg_1"] * 3
    assert len(receiver.got) == 1


async def test_a_receiver_that_refuses_is_left_alone_after_a_few_tries(receiver: PlayedWebhook) -> None:
    async with sender(receiver.url, secret="whsec_b3RoZXI=") as hook:
        with pytest.raises(SendError, match="it answered 401"):
            await hook.send(NOTICE)
    assert len(receiver.tries) == ATTEMPTS


async def test_a_redirect_is_not_followed(receiver: PlayedWebhook) -> None:
    receiver.statuses = [307] * ATTEMPTS
    async with sender(receiver.url) as hook:
        with pytest.raises(SendError, match="it answered 307, and redirects are not followed"):
            await hook.send(NOTICE)
    assert receiver.got == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"])
async def test_a_private_address_is_not_reached_unless_allowed_whatever_it_is_called(receiver: PlayedWebhook, host: str) -> None:
    async with sender(receiver.url.replace("127.0.0.1", host), allow_private=False) as hook:
        with pytest.raises(SendError):
            await hook.send(NOTICE)
    assert receiver.tries == []


async def test_the_error_says_how_to_allow_a_private_address(receiver: PlayedWebhook) -> None:
    async with sender(receiver.url, allow_private=False) as hook:
        with pytest.raises(SendError, match=re.escape("127.0.0.1 is no public address: set allow_private if that is meant")):
            await hook.send(NOTICE)


async def test_a_name_that_means_another_address_by_the_time_of_the_call_is_checked_as_it_is_connected_to(
    receiver: PlayedWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look-up is public, the second is not: what counts is the address of the connection."""
    asked, loop = [], asyncio.get_running_loop()
    port = int(receiver.url.split(":")[2].split("/")[0])

    async def look_up(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    async with sender(f"http://hook.example:{port}/hook", allow_private=False) as hook:
        with pytest.raises(SendError, match="no public address"):
            await hook.send(NOTICE)
    assert asked == ["hook.example"] * ATTEMPTS
    assert receiver.tries == []


async def test_no_error_holds_the_address_or_the_secret(receiver: PlayedWebhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "ATTEMPTS", 1)
    for url in (receiver.url + "?token=canary", "http://canary:canary@127.0.0.1:1/canary", "http://127.0.0.1:1/canary"):
        receiver.statuses = [500]
        async with sender(url, secret="canary") as hook:
            with pytest.raises(SendError) as raised:
                await hook.send(NOTICE)
        assert "canary" not in f"{raised.value!r} {raised.value.__cause__!r}"


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"url": "example.com"}, "url: notify ops: not an address such as"),
        ({"url": "https://example.com"}, "secret: notify ops: a webhook is signed"),
        ({"url": "slack://a/b/c", "on": []}, "on"),
        ({"url": "slack://a/b/c", "on": ["sometimes"]}, "on"),
        ({"url": "slack://a/b/c", "job": ["eod"]}, "job"),
    ],
)
def test_a_receiver_that_is_not_set_up_right_is_refused(terms: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSettingsError, match=said):
        build_settings({"notify": [{"id": "ops", **terms}]})
