"""An older reader lives with a newer writer: what may gain members is open in every message that a service receives."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from contracts.message import Message, encode
from contracts.run_events import RunFinished, RunResult
from services.cacher.decode_event import EventDecoder, MalformedEventError
from tests.cacher.events import actions, bars, chain
from tests.contracts.golden import FOLDER, messages

# People, settings and our own planner write these; what they hold is done or refused, never half understood.
CLOSED = {"job.v1", "plan_ask.v1", "refresh_request.v1", "refresh_ask.v1", "fetch_task.v1"}
RECEIVED = [pytest.param(tag, kind, id=tag) for tag, kind in messages().items() if tag not in CLOSED]
WORDS = ("dataset", "timeframe", "lane", "outcome", "state", "before", "basis", "delay", "reason", "by")


def _example(tag: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{tag}.example.json").read_bytes())


def _places(schema: object, path: str = "") -> Iterator[str]:
    """Where a schema allows only some words, its type tag apart."""
    if isinstance(schema, dict):
        if len(schema.get("enum", ())) > 1:
            yield path
        for name, part in schema.items():
            yield from _places(part, f"{path}/{name}")
    elif isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from _places(part, f"{path}/{number}")


@pytest.mark.parametrize(("tag", "kind"), RECEIVED)
def test_no_received_message_has_a_closed_set(tag: str, kind: type[Message]):
    assert list(_places(msgspec.json.schema(kind))) == []


@pytest.mark.parametrize(("tag", "kind"), RECEIVED)
def test_every_event_is_read_though_it_has_unknown_words_and_fields(tag: str, kind: type[Message]):
    example = _example(tag)
    newer = {name: "of_a_newer_version" for name in WORDS if isinstance(example.get(name), str)}
    event = msgspec.json.decode(json.dumps({**example, **newer, "added_later": {"n": 1}}).encode(), type=kind)
    again = json.loads(encode(event))
    assert {name: again.get(name) for name in newer} == newer


def test_a_run_that_ended_with_an_unknown_outcome_is_read_and_counted():
    finished = _example("run_finished.v1") | {"counts": {"refreshed": 1, "deferred": 2}, "reasons": {"deferred": {"later": 2}}}
    event = msgspec.json.decode(json.dumps(finished).encode(), type=RunFinished)
    assert event.counts["deferred"] == 2
    assert (event.failed, event.state) == (0, "complete")


def test_a_result_with_an_unknown_outcome_is_read():
    result = _example("run_result.v1") | {"outcome": "deferred"}
    assert msgspec.json.decode(json.dumps(result).encode(), type=RunResult).outcome == "deferred"


@pytest.mark.parametrize(
    ("subject", "event", "field"),
    [
        ("price.fundamentals.AAPL", bars(), "subject: this version knows no price.fundamentals"),
        ("price.bars.4h.AAPL", bars(timeframe="4h"), "timeframe: this version knows no '4h'"),
        ("price.bars.1d.AAPL", bars(basis="total_return"), "basis: this version knows no 'total_return'"),
        ("price.chain.AAPL", msgspec.structs.replace(chain(), right=["call", "cap"]), "right: this version knows no 'cap'"),
        ("price.actions.AAPL", msgspec.structs.replace(actions(), kind=["split", "dividend", "spin_off"]), "kind: this version"),
    ],
    ids=["dataset", "timeframe", "basis", "right", "kind"],
)
def test_prices_that_this_version_cannot_store_are_refused_by_name_and_with_advice(subject: str, event: Message, field: str):
    with pytest.raises(MalformedEventError) as refused:
        EventDecoder().decode(subject, encode(event))
    assert str(refused.value).startswith(field)
    assert "quotebus dead retry" in str(refused.value)
