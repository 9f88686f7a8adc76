"""A server that keeps REFRESH in memory, as several clocks see it: it compares and sets, is away at times, and loses answers."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import nats.errors
from nats.js.api import PubAck, RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from contracts.message import Message, decode, encode
from contracts.refresh_request import RefreshRequest
from services.scheduler.publish_request import EXPECTED_SEQUENCE, EXPECTED_SUBJECT
from tests.scheduler.virtual_time import virtual_now


@dataclass
class PlayedServer:
    """`loses`: the share of publishes that are stored and not answered. An answer takes up to `slow_s`."""

    random: Random
    loses: float = 0.0
    slow_s: float = 0.005
    up: bool = True
    stored: dict[str, list[RawStreamMsg]] = field(default_factory=dict)
    count: int = 0

    def asked(self, job: str) -> list[RefreshRequest]:
        """Every request of a job."""
        return [decode(message.data or b"", RefreshRequest) for message in self.stored.get(job, [])]

    def newest(self, job: str) -> RawStreamMsg | None:
        messages = self.stored.get(job)
        return messages[-1] if messages else None

    def store(self, job: str, body: bytes, expected: int) -> int:
        there = self.newest(job)
        if (there.seq if there and there.seq else 0) != expected:
            raise APIError(code=400, err_code=10071, description="wrong last sequence")
        self.count += 1
        self.stored.setdefault(job, []).append(RawStreamMsg(data=body, seq=self.count, time=virtual_now()))
        return self.count


class PlayedBus:
    """One clock's connection: what a clock uses of a bus, and no more."""

    def __init__(self, server: PlayedServer) -> None:
        self._server = server
        self.on_reconnect: list[Callable[[], None]] = []
        self.nc = self.js = self

    @property
    def is_connected(self) -> bool:
        return self._server.up

    async def get_last_msg(self, _stream: str, subject: str) -> RawStreamMsg:
        await self._answered()
        found = self._server.newest(subject.rsplit(".", 1)[1])
        await self._answered()
        if found is None:
            raise NotFoundError
        return found

    async def publish(
        self, subject: str, message: Message, *, message_id: str | None, headers: Mapping[str, str], timeout_s: float
    ) -> PubAck:
        job = subject.rsplit(".", 1)[1]
        assert headers[EXPECTED_SUBJECT] == f"refresh.request.*.{job}"
        await self._answered()
        sequence = self._server.store(job, encode(message), int(headers[EXPECTED_SEQUENCE]))
        if self._server.random.random() < self._server.loses:
            await asyncio.sleep(timeout_s)
            raise nats.errors.TimeoutError
        await self._answered()
        return PubAck(stream="REFRESH", seq=sequence)

    async def _answered(self) -> None:
        await asyncio.sleep(self._server.random.random() * self._server.slow_s)
        if not self._server.up:
            raise nats.errors.TimeoutError

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a clock should not need {name}")
