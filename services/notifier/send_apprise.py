"""Slack, e-mail and what else apprise knows: the extra `notify`."""

import asyncio
from importlib import import_module
from typing import Any

from services.notifier.message import Notification
from services.notifier.send_webhook import SendError
from services.runtime.service import StartRefusedError
from services.runtime.settings import NotifySettings


class AppriseSender:
    """Sends notices as text to one address of apprise's."""

    def __init__(self, settings: NotifySettings) -> None:
        """Raises: StartRefusedError, if apprise is not installed or knows no such address."""
        scheme = settings.url.get_secret_value().partition("://")[0]
        try:
            apprise = import_module("apprise")
        except ImportError:
            raise StartRefusedError(
                f"notify {settings.id}: url: {scheme} needs apprise: `pip install 'quotebus[notify]'`"
            ) from None
        self._receiver: Any = apprise.Apprise()
        if not self._receiver.add(settings.url.get_secret_value()):
            raise StartRefusedError(
                f"notify {settings.id}: url: apprise cannot read this address of {scheme}; see its documentation"
            )

    async def send(self, notice: Notification) -> None:
        """Return when it was taken.

        Raises:
            SendError: it was not.
        """
        # apprise waits for the network in its thread.
        if not await asyncio.to_thread(self._receiver.notify, body=notice.text, title=notice.title):
            raise SendError("apprise could not send it")
