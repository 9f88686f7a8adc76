"""What a stream holds of a subject at this moment, once through and in order."""

from collections.abc import AsyncIterator
from datetime import datetime

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

_BATCH = 500


async def stored(js: JetStreamContext, stream: str, subject: str, start: int | datetime) -> AsyncIterator[Msg]:
    """The messages of the subject from this sequence or instant on.

    Raises:
        nats.errors.Error: the server did not answer, or the stream is missing.
    """
    terms = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=30.0)
    if isinstance(start, datetime):
        terms = terms.evolve(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=start)
    else:
        terms = terms.evolve(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start)
    sub = await js.pull_subscribe(subject, stream=stream, config=terms)
    try:
        left = (await sub.consumer_info()).num_pending or 0
        while left:
            for msg in await sub.fetch(min(left, _BATCH), timeout=5):
                left = msg.metadata.num_pending
                yield msg
    finally:
        await sub.unsubscribe()
