"""KV `sessions`: when an exchange opens and closes."""

from datetime import date

from contracts.message import Message, Text, UtcInstant


class TradingSessions(Message, frozen=True, kw_only=True, tag="trading_sessions.v1"):
    """The sessions of one exchange from `first` to `last`, both included, in KV `sessions` under `calendar`.

    Written by the provisioner and renewed by schedulers; read by schedulers and the command line.
    Columns of equal length in order: `day` is the session's date at the exchange, `open` and `close` are its own, also where it
    opens late or closes early. `break_start`, `break_end`: a pause at noon, null where there is none. Dates that are not in
    `day` have no session. `timezone`: the exchange's.
    """

    calendar: Text
    timezone: Text
    first: date
    last: date
    day: list[date]
    open: list[UtcInstant]
    close: list[UtcInstant]
    break_start: list[UtcInstant | None]
    break_end: list[UtcInstant | None]
    source: Text
    made_at: UtcInstant

    def __post_init__(self) -> None:
        if {len(self.day)} != {len(column) for column in (self.open, self.close, self.break_start, self.break_end)}:
            raise ValueError(f"sessions of {self.calendar}: the columns differ in length")
