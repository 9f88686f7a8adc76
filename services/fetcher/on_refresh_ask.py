"""`refresh.ask`: a refresh by request and reply. The request goes the way of all others, the answer is its run's results."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import nats.errors
from nats.aio.msg import Msg

from contracts import subjects
from contracts.message import decode
from contracts.refresh_ask import RefreshAnswer, RefreshAsk, SymbolOutcome
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunResult
from services.runtime.bus import Bus


class RefreshAskHandler:
    """Answers asks. Any fetcher may answer, whichever plans and works."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    def open(self, bus: Bus) -> None:
        """Answer from now on; what was asked before waits for this."""
        self._bus = bus
        self._open.set()

    async def on_refresh_ask(self, body: bytes) -> RefreshAnswer:
        """The outcome per symbol by the ask's deadline; a refused ask says what was wrong with it."""
        try:
            ask = decode(body, RefreshAsk)
            request = _request(ask)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return RefreshAnswer(error=str(error))
        await self._open.wait()
        try:
            return await self._outcomes(ask, request)
        except nats.errors.Error as error:
            return RefreshAnswer(request_id=request.request_id, error=f"the request was not accepted: {error}")

    async def _outcomes(self, ask: RefreshAsk, request: RefreshRequest) -> RefreshAnswer:
        waiting = {symbol: SymbolOutcome(symbol=symbol, outcome="pending") for symbol in request.symbols}
        run_id = ""
        async with self._results() as results:
            # Listening comes first: a result may be out before the publish is acknowledged.
            ack = await self._bus.publish(subjects.refresh_request("manual"), request, message_id=request.request_id)
            run_id = str(ack.seq)
            try:
                async with asyncio.timeout(ask.timeout_s):
                    while any(outcome.outcome == "pending" for outcome in waiting.values()):
                        _note(await results.get(), run_id, waiting)
            except TimeoutError:
                pass
        return RefreshAnswer(request_id=request.request_id, run_id=run_id, outcomes=list(waiting.values()))

    @asynccontextmanager
    async def _results(self) -> AsyncIterator[asyncio.Queue[RunResult]]:
        queue: asyncio.Queue[RunResult] = asyncio.Queue()

        async def receive(msg: Msg) -> None:
            queue.put_nowait(decode(msg.data, RunResult))

        subscription = await self._bus.nc.subscribe(subjects.run("result", "*"), cb=receive)
        await self._bus.nc.flush()
        try:
            yield queue
        finally:
            await subscription.unsubscribe()


def _request(ask: RefreshAsk) -> RefreshRequest:
    symbols = list(dict.fromkeys(symbol.strip().upper() for symbol in ask.symbols))
    for symbol in symbols:
        subjects.symbol_token(symbol)
    return RefreshRequest(
        symbols=symbols,
        dataset=ask.dataset,
        timeframe=ask.timeframe,
        start=ask.start,
        end=ask.end,
        provider=ask.provider,
        max_age_s=ask.max_age_s,
        request_id=ask.request_id or f"ask-{uuid.uuid4().hex}",
    )


def _note(result: RunResult, run_id: str, waiting: dict[str, SymbolOutcome]) -> None:
    """Take in a result of our run."""
    if result.run_id == run_id and result.symbol in waiting:
        waiting[result.symbol] = SymbolOutcome(
            symbol=result.symbol,
            outcome=result.outcome,
            reason=result.message or result.reason,
            provider=result.provider,
            rows=result.rows,
        )
