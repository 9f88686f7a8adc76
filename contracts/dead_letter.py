"""Dead letter: a message that a service gave up on, with its reason and where it came from."""

from contracts.message import Message, UtcInstant


class DeadLetter(Message, frozen=True, kw_only=True, tag="dead_letter.v1"):
    """A message that was given up on. Sent by whoever gave up, on `refresh.dead.<reason>`; received by operators.

    `reason`: a verdict, or `malformed`. `message` names the field or the fault and what to do. `subject`, `stream` and
    `sequence` say where it was; `body` is what it held, as text (undecodable bytes replaced), cut at 64 KiB.
    """

    reason: str
    message: str
    service: str
    subject: str
    stream: str | None = None
    sequence: int | None = None
    body: str
    symbol: str | None = None
    provider: str | None = None
    run_id: str | None = None
    request_id: str | None = None
    at: UtcInstant
