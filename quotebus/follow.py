"""Every message of a stream in order, without a gap, through reconnects and restarts of the server."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

# nats-py's ordered consumer needs 12 s to notice that its server was restarted; this one 3 heartbeats.
HEARTBEAT_S = 1.5
_RETRY_S = 0.5
NOT_READY = (nats.errors.TimeoutError, nats.errors.NoRespondersError, ServiceUnavailableError, NoStreamResponseError)

Start = DeliverPolicy | datetime


async def follow(nc: Client, stream: str, subject: str, start: Start) -> AsyncGenerator[Msg, None]:
    """Give what the stream holds of the subject from `start` on, then each new message. A datetime starts at that instant.

    Raises:
        nats.errors.Error: the stream does not exist, or the connection was closed; no answer when it is only beginning.
    """
    js = nc.jetstream(timeout=3)
    seen, begun = 0, False
    while True:
        # What is sent meanwhile is kept by nats-py, and through a long outage it would be kept again and again.
        if nc.is_reconnecting:
            await asyncio.sleep(_RETRY_S)
            continue
        inbox = nc.new_inbox()
        subscription = await nc.subscribe(inbox)
        try:
            await js.add_consumer(stream, _terms(inbox, subject, start, seen))
            begun = True
            async with aclosing(_until_lost(nc, subscription)) as messages:
                async for message in messages:
                    yield message
                    seen = message.metadata.sequence.stream
        except (*NOT_READY, APIError) as error:
            # A server that has just come back knows its streams a moment later.
            if not begun or (isinstance(error, APIError) and (error.code or 503) < 500):
                raise
            await asyncio.sleep(_RETRY_S)
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()


async def stored(nc: Client, stream: str, subject: str, start: Start = DeliverPolicy.ALL) -> AsyncGenerator[Msg, None]:
    """Give what the stream holds of the subject at this moment, from `start` on and in order, and end.

    Raises:
        nats.errors.Error: the stream does not exist, or the server fell silent before the end.
    """
    subscription = await nc.subscribe(inbox := nc.new_inbox())
    try:
        consumer = await nc.jetstream(timeout=3).add_consumer(stream, _terms(inbox, subject, start, 0))
        # Some may be on their way already, and then they are pending no more.
        if not consumer.num_pending and not (consumer.delivered and consumer.delivered.consumer_seq):
            return
        async with aclosing(_until_lost(nc, subscription)) as messages:
            async for message in messages:
                yield message
                if not message.metadata.num_pending:
                    return
        raise nats.errors.TimeoutError
    finally:
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()


def _terms(inbox: str, subject: str, start: Start, seen: int) -> ConsumerConfig:
    terms = ConsumerConfig(
        deliver_subject=inbox,
        filter_subject=subject,
        ack_policy=AckPolicy.NONE,
        max_deliver=1,
        mem_storage=True,
        num_replicas=1,
        flow_control=True,
        idle_heartbeat=HEARTBEAT_S,
        inactive_threshold=10 * HEARTBEAT_S,
    )
    if seen:
        return terms.evolve(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=seen + 1)
    if isinstance(start, datetime):
        return terms.evolve(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=start)
    return terms.evolve(deliver_policy=start)


async def _until_lost(nc: Client, subscription: Subscription) -> AsyncGenerator[Msg, None]:
    """Give messages until one is missing or the server falls silent."""
    received = 0
    while True:
        try:
            message = await subscription.next_msg(timeout=3 * HEARTBEAT_S)
        except nats.errors.TimeoutError:
            return
        headers = message.headers or {}
        if headers.get("Status") == "100":
            # A flow control request waits for its answer; a heartbeat says how far the consumer is.
            if answer := message.reply or headers.get("Nats-Consumer-Stalled"):
                await nc.publish(answer)
            elif int(headers.get("Nats-Last-Consumer", received)) != received:
                return
        elif "Status" in headers or message.metadata.sequence.consumer != received + 1:
            return
        else:
            received += 1
            yield message
