"""A vendor that answers from a list, in place of HTTP."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.fetcher.provider import Answer, FetchCall, Provider, ProviderError, Reply


@dataclass(frozen=True)
class Request:
    """What was asked; `params` holds a form's fields likewise."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    cost: int


def reply(body: object, status: int = 200, **headers: str) -> Reply:
    """A reply with this body: text and bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


class FakeVendor:
    """`provider.Http` that gives its answers in turn, the last one for ever, and remembers what was asked."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.asked: list[Request] = []

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None, cost: int = 1
    ) -> Reply:
        return self._answer(Request("GET", path, dict(params or {}), dict(headers or {}), cost))

    async def post_form(self, path: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None, cost: int = 1) -> Reply:
        return self._answer(Request("POST", path, dict(form), dict(headers or {}), cost))

    def _answer(self, request: Request) -> Reply:
        self.asked.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, ProviderError):
            raise answer
        return answer if isinstance(answer, Reply) else reply(answer)


@dataclass(frozen=True)
class Asking:
    """How a test file asks its provider: `provider` makes one (of these options), `now` is when it is asked."""

    provider: Callable[..., Provider]
    now: datetime

    async def answered(
        self, call: FetchCall, *answers: object, now: datetime | None = None, **options: str | float
    ) -> tuple[Answer, FakeVendor]:
        """What the provider makes of these answers, and the vendor that gave them."""
        vendor = FakeVendor(*answers)
        return await self.provider(**options).fetch(call, vendor, now or self.now), vendor

    async def fetched(
        self, call: FetchCall, *answers: object, now: datetime | None = None, **options: str | float
    ) -> tuple[list[Any], FakeVendor]:
        """The events, when no symbol failed."""
        answer, vendor = await self.answered(call, *answers, now=now, **options)
        assert not answer.failed
        return list(answer.events), vendor

    async def verdict_of(self, call: FetchCall, *answers: object) -> ProviderError:
        """Why there are no events."""
        try:
            answer, _ = await self.answered(call, *answers)
        except ProviderError as error:
            return error
        assert not answer.events
        return next(iter(answer.failed.values()))


def at(text: str) -> datetime:
    """An instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
