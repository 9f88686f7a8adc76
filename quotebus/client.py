"""Python client: subscribe, replay, refresh and read prices on the bus."""

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from importlib import import_module
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client as Nats
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServiceUnavailableError

from contracts import subjects
from contracts.datasets import DATASETS
from contracts.message import Dataset, Timeframe, decode, encode
from contracts.price_events import PriceActions, PriceBars, PriceChain, PriceCorrected, PriceIv, PriceQuarantined, PriceQuote
from contracts.refresh_ask import RefreshAnswer, RefreshAsk
from contracts.refresh_request import RefreshRequest
from services.runtime.follow import follow_stream

AnyPrice = PriceBars | PriceQuote | PriceChain | PriceActions | PriceIv | PriceCorrected | PriceQuarantined
KINDS: dict[str, type[AnyPrice]] = {
    **{name: each.event for name, each in DATASETS.items()},
    "corrected": PriceCorrected,
    "quarantined": PriceQuarantined,
}

_BY_TIMEFRAME = {"corrected", *(name for name, each in DATASETS.items() if each.timeframed)}

__all__ = ["AnyPrice", "Client", "ClientError", "connect", "to_df"]

_GRACE_S = 2.0

log = logging.getLogger("quotebus")


def price_subject(pattern: str) -> str:
    """The subject that is meant: `quote.*` and `bars.1d.BRK.B` as the stream writes them; a bare symbol means its quotes."""
    dataset, _, rest = pattern.removeprefix("price.").partition(".")
    if dataset in ("*", ">"):
        return f"price.{pattern.removeprefix('price.')}"
    if not rest or dataset not in KINDS:
        return subjects.price("quote", None, pattern)
    above, dot, symbol = rest.partition(".") if dataset in _BY_TIMEFRAME else ("", "", rest)
    if "." in symbol:
        symbol = subjects.symbol_token(symbol)
    return f"price.{dataset}.{above}{dot}{symbol}"


def event_of(subject: str, body: bytes) -> AnyPrice | None:
    """The event in the body; none when it is of no kind that we know, or not as agreed, which is logged."""
    kind = KINDS.get(subject.split(".")[1])
    try:
        return decode(body, kind) if kind else None
    except msgspec.MsgspecError as error:
        log.warning("%s: left out an event that is not as agreed: %s", subject, error)
        return None


def to_df(event: AnyPrice) -> Any:
    """The event as a pandas DataFrame, a row an entry; single values stand in every row. pandas must be installed."""
    values = {name: value for name, value in msgspec.structs.asdict(event).items() if name != "fallback_from"}
    single = isinstance(event, PriceQuote | PriceCorrected)
    return import_module("pandas").DataFrame([values] if single else values)


class ClientError(Exception):
    """The client could not serve the request; the text says what to do.

    `kind`: unreachable, not_provisioned, no_fetcher, timeout or refused.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Client:
    """A connection as subscribers use it. `nc` and `js` are nats-py's own, for all that is not here."""

    def __init__(self, nc: Nats) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream(timeout=5)

    async def prices(self, pattern: str = "quote.*", *, since: datetime | None = None) -> AsyncGenerator[AnyPrice, None]:
        """Give the last known event of every subject of the pattern, then each new one as it comes, without a gap.

        With `since` every event stored from that instant on instead of only the last. Dots of a symbol may be written as
        such (`quote.BRK.B`). A restart of the server is survived, and what came meanwhile is delivered.

        Raises:
            ClientError: the prices' stream does not exist, or the connection was closed.
        """
        subject = price_subject(pattern)
        with _translated("the prices"):
            start = since or DeliverPolicy.LAST_PER_SUBJECT
            async with aclosing(follow_stream(self.nc, subjects.PRICES, subject, start)) as batches:
                async for batch in batches:
                    for message in batch.messages:
                        if event := event_of(message.subject, message.data):
                            yield event

    async def last(self, symbol: str, timeframe: Timeframe | None = None, *, dataset: Dataset | None = None) -> AnyPrice | None:
        """The last event of a symbol: bars of the timeframe if given, else its quote or another `dataset`; None without one."""
        subject = subjects.price(dataset or ("bars" if timeframe else "quote"), timeframe, symbol)
        with _translated("the prices"):
            try:
                stored = await self.js.get_last_msg(subjects.PRICES, subject, direct=True)
            except NotFoundError:
                return None
        return event_of(subject, stored.data or b"")

    async def refresh(self, ask: RefreshAsk | Sequence[str]) -> RefreshAnswer:
        """Have symbols refreshed and wait for what becomes of each; of symbols alone the newest daily bars.

        Raises:
            ClientError: nobody is there to do it, no answer came, or the ask was refused.
        """
        ask = ask if isinstance(ask, RefreshAsk) else RefreshAsk(symbols=list(ask))
        with _translated("a refresh"):
            try:
                reply = await self.nc.request(subjects.REFRESH_ASK, encode(ask), timeout=ask.timeout_s + _GRACE_S)
            except nats.errors.NoRespondersError as error:
                where = f"no fetcher is listening on {subjects.REFRESH_ASK}"
                raise ClientError("no_fetcher", f"{where}: start it with `quotebus up` or `python -m services.fetcher`") from error
        answer = decode(reply.data, RefreshAnswer)
        if answer.error:
            raise ClientError("bad_request", answer.error)
        return answer

    async def request_refresh(self, request: RefreshRequest | Sequence[str]) -> str:
        """Put a wish for fresh data on the bus without waiting for it; give its request id once it is stored."""
        request = request if isinstance(request, RefreshRequest) else RefreshRequest(symbols=list(request))
        request_id = request.request_id or uuid.uuid4().hex
        body = encode(msgspec.structs.replace(request, request_id=request_id))
        with _translated("requests"):
            # The same id again after a timeout, so that it is not asked for twice.
            for wait_s in (2.0, 5.0):
                with suppress(nats.errors.TimeoutError):
                    subject = subjects.refresh_request("manual", request.job)
                    await self.js.publish(subject, body, timeout=wait_s, headers={"Nats-Msg-Id": request_id})
                    return request_id
        raise ClientError("timeout", "NATS did not say whether it stored the request; try again in a moment")


@asynccontextmanager
async def connect(url: str = "nats://127.0.0.1:4222", *, timeout_s: float = 5.0, **options: Any) -> AsyncIterator[Client]:
    """A client for as long as the block runs; once connected it reconnects by itself. `options`: nats-py's own, such as `user`.

    Raises:
        ClientError: no server of the `url` (commas between several) can be reached, or it refuses us.
    """
    nc = Nats()
    failures: list[Exception] = []
    refused = asyncio.Event()

    async def failed(error: Exception) -> None:
        failures.append(error)
        if len(failures) > url.count(","):
            refused.set()
        log.debug("nats: %s", error)

    terms = {"name": "quotebus-client", "max_reconnect_attempts": -1, "reconnect_time_wait": 0.5, "connect_timeout": 3, **options}
    connecting = asyncio.create_task(nc.connect(url.split(","), error_cb=failed, **terms))
    giving_up = asyncio.create_task(refused.wait())
    try:
        await asyncio.wait({connecting, giving_up}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not nc.is_connected:
            raise ClientError("unreachable", f"no NATS at {url}: {_reason(connecting, failures)}")
        yield Client(nc)
    finally:
        for task in (connecting, giving_up):
            task.cancel()
        await asyncio.gather(connecting, giving_up, return_exceptions=True)
        await nc.close()


def _reason(connecting: asyncio.Task[None], failures: Sequence[Exception]) -> str:
    own = connecting.exception() if connecting.done() else None
    last = own or (failures[-1] if failures else None)
    if isinstance(last, OSError) and last.errno:
        return os.strerror(last.errno)
    return str(last) or type(last).__name__ if last else "no answer"


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turns what nats-py raises into a `ClientError`."""
    try:
        yield
    except (NotFoundError, NoStreamResponseError, nats.errors.NoRespondersError) as error:
        raise ClientError("not_provisioned", f"the stream of {what} does not exist: run `quotebus migrate`") from error
    except (nats.errors.TimeoutError, ServiceUnavailableError) as error:
        raise ClientError("timeout", f"NATS gave no answer about {what}: is JetStream enabled on it?") from error
    except APIError as error:
        raise ClientError("refused", f"NATS refused {what}: {error.description}") from error
    except nats.errors.ConnectionClosedError as error:
        raise ClientError("unreachable", "the connection to NATS was closed") from error
