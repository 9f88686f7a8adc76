"""One run from the request to its end, as the cacher declares it."""

import asyncio
import time
from collections.abc import Sequence

from nats.aio.msg import Msg

from contracts import subjects
from contracts.message import Dataset, decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunFinished
from tests.connected.deployment import Deployment


async def whole_run(deployment: Deployment, symbols: Sequence[str], dataset: Dataset = "bars") -> tuple[float, RunFinished]:
    """Seconds from asking for these symbols until `run.finished`, and what that says."""
    over: asyncio.Queue[RunFinished] = asyncio.Queue()

    async def note(msg: Msg) -> None:
        over.put_nowait(decode(msg.data, RunFinished))

    subscription = await deployment.bus.nc.subscribe(subjects.run("finished", "*"), cb=note)
    await deployment.bus.nc.flush()
    began = time.perf_counter()
    request = RefreshRequest(symbols=list(symbols), dataset=dataset)
    await deployment.bus.publish(subjects.refresh_request("live"), request)
    finished = await asyncio.wait_for(over.get(), 600)
    took = time.perf_counter() - began
    await subscription.unsubscribe()
    return took, finished
