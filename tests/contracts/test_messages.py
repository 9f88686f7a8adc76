"""What a message refuses, field by field."""

import msgspec
import pytest

from contracts.job import Job
from contracts.message import Message, decode
from contracts.price_events import PriceBars
from contracts.refresh_request import RefreshRequest
from tests.contracts.golden import FOLDER


@pytest.mark.parametrize(
    ("kind", "body", "named"),
    [
        (RefreshRequest, b'{"symbols":[]}', "symbols"),
        (RefreshRequest, b'{"symbols":["A"],"start":"2026-01-01"}', "start, end"),
        (RefreshRequest, b'{"symbols":["A"],"dataset":"quote","timeframe":"1d"}', "timeframe"),
        (RefreshRequest, b'{"symbols":["A"],"max_age_s":-1}', "max_age_s"),
        (RefreshRequest, b'{"symbols":["A"],"wanted_at":"2026-01-01T00:00:00"}', "wanted_at"),
        (Job, b'{"id":"a","symbols":["A"]}', "exactly one of cron, every_s, at, session and after"),
        (Job, b'{"id":"a","symbols":["A"],"every_s":5,"cron":"* * * * *"}', "exactly one of cron, every_s, at, session and after"),
        (Job, b'{"id":"a","symbols":["A"],"every_s":5,"timezone":"Mars/Olympus"}', "timezone"),
        (Job, b'{"id":"A b","symbols":["A"],"every_s":5}', "id"),
        (Job, b'{"id":"a","symbols":["A"],"at":["25:00"]}', "at"),
    ],
)
def test_bad_input_is_refused_by_the_name_of_its_field(kind: type[Message], body: bytes, named: str):
    with pytest.raises(msgspec.ValidationError, match=named):
        decode(body, kind)


def bars(**changes: object) -> PriceBars:
    example = msgspec.json.decode((FOLDER / "price_bars.v1.example.json").read_bytes())
    return msgspec.convert(example | changes, PriceBars)


def test_bars_with_columns_of_different_lengths_are_no_bars():
    with pytest.raises(msgspec.ValidationError, match="close: 1 values for 2 rows"):
        bars(close=[1.0])


def test_bars_out_of_order_or_twice_are_no_bars():
    with pytest.raises(msgspec.ValidationError, match="rise"):
        bars(at=["2026-01-05T00:00:00Z", "2026-01-05T00:00:00Z"])
    with pytest.raises(msgspec.ValidationError, match="rise"):
        bars(at=["2026-01-05T00:00:00Z", "2026-01-02T00:00:00Z"])


def test_a_price_that_is_no_number_never_enters():
    body = (FOLDER / "price_bars.v1.example.json").read_bytes()
    for bad in (b"NaN", b"Infinity", b"null", b'"500"'):
        with pytest.raises(msgspec.MsgspecError):
            decode(body.replace(b"500.25", bad, 1), PriceBars)


def test_json_nested_deeper_than_the_stack_is_an_error_of_decoding():
    with pytest.raises(msgspec.DecodeError, match="nested too deeply"):
        decode(b'{"type":' + b"[" * 3000 + b"]" * 3000 + b"}", RefreshRequest)
