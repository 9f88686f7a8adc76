"""What holds for every test: a clean environment, and no task left behind on the loop they all share.

`make test` runs them in several processes at once. Each has its own servers, folders and ports.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from quotebus.embedded import ports


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than there are processors, as many a test waits for a server or for a time to come.

    Never many: a container may see far more processors than it may use.
    """
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4) + 1


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Whoever starts the tests in the background has them ignore Ctrl-C; what they start must not inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def ports_of_its_own(request: pytest.FixtureRequest) -> None:
    """No port of the other processes that run tests now, be it that of a server which is down for a moment."""
    worker = getattr(request.config, "workerinput", {"workerid": "gw0", "workercount": 1})
    share = len(ports.OURS) // worker["workercount"]
    first = ports.OURS.start + int(worker["workerid"].removeprefix("gw")) * share
    ports._turns = ports.in_any_order(range(first, first + share))


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
