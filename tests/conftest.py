"""What holds for every test: a clean environment, and no task left behind on the loop they all share."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No QUOTEBUS_* variable of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("QUOTEBUS_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fails a test that leaves an asyncio task running: it would live on in the tests after it."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        # Closing a connection may take the loop a few turns more.
        _, left = await asyncio.wait(left, timeout=2.0)
    names = sorted(repr(task.get_coro()) for task in left)
    for task in left:
        task.cancel()
    assert not left, f"tasks left running: {names}"
