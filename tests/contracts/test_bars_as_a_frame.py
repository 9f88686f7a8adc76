"""The lines of docs/subscribing.md that make a DataFrame of a message, run on a published event."""

import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contracts.message import decode, encode
from contracts.price_events import PriceBars

PAGE = Path(__file__).parents[2] / "docs" / "subscribing.md"
DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in (5, 6, 7)]


def bars(**more: Any) -> PriceBars:
    values = {name: [1.0, 2.0, 3.0] for name in ("open", "high", "low", "close")}
    return PriceBars(
        symbol="ACME", provider="tiingo", feed="eod", timeframe="1d", basis="raw", observed_at=DAYS[-1], fetched_at=DAYS[-1],
        at=DAYS, volume=[5, 6, 7], final=[True, True, False], **values, **more,
    )  # fmt: skip


@pytest.fixture
def lines() -> str:
    [block] = re.findall(r"```python\n(import pandas.*?)```", PAGE.read_text(), re.DOTALL)
    return block


def test_the_lines_of_the_page_make_a_frame_of_an_event_as_it_is_published(lines: str):
    names: dict[str, Any] = {"message": SimpleNamespace(data=encode(bars()))}
    exec(lines, names)
    assert list(names["frame"]["close"]) == [1.0, 2.0, 3.0]
    assert list(names["frame"].index) == DAYS


@pytest.mark.parametrize("written", [b'"fallback_from":[],', b'"fallback_from":null,', b""])
def test_providers_in_whose_place_nobody_answered_are_read_as_older_versions_wrote_them(written: bytes):
    body = encode(bars()).replace(b'"symbol"', written + b'"symbol"')
    assert not decode(body, PriceBars).fallback_from


def test_an_event_of_the_first_choice_leaves_the_field_out():
    assert b"fallback_from" not in encode(bars())
