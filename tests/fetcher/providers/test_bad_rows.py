"""Every adapter's own fixtures gone wrong, value by value: whatever a vendor sends, no exception and no made-up price comes of it.

The bodies go through the adapter without HTTP, thousands of them; `test_failure_contract.py` does what concerns HTTP.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.fetcher.provider import Answer, ProviderError, Reply
from tests.fetcher.fake_vendor import FakeVendor, reply
from tests.fetcher.providers.adapter_contract import broken_promises
from tests.fetcher.providers.adapter_harness import CASES, KEY, built, call_of, fixtures, records
from tests.fetcher.providers.mutated import Document, document_of, harmless, mutations, paths, replaced, spelt

pytestmark = pytest.mark.slow  # together they take more than a minute

MOST_REQUESTS = 300
TELL = 8
# Each fixture with an answer, and which of its answers goes wrong.
TURNS = [(name, case, turn) for name, case in CASES for turn, _ in enumerate(fixtures(name)[case].get("replies", []))]


class EndlessError(AssertionError):
    """The adapter asks and asks."""


class PatientVendor(FakeVendor):
    """Gives its answers in turn, the last one for ever, or nearly."""

    def _answer(self, request: Any) -> Reply:
        if len(self.asked) > MOST_REQUESTS:
            raise EndlessError(f"more than {MOST_REQUESTS} requests for one call: follow pages to an end of your own")
        return super()._answer(request)


def the_turn(name: str, case: str, turn: int) -> Document | None:
    return document_of(fixtures(name)[case]["replies"][turn]["body"])


async def answered(name: str, case: str, turn: int, body: bytes) -> Answer | ProviderError:
    """What the adapter makes of the fixture with this body in place of that turn's."""
    fixture = fixtures(name)[case]
    given_replies: list[Mapping[str, Any]] = fixture["replies"]
    replies = [reply(r["body"], r.get("status", 200), **r.get("headers", {})) for r in given_replies]
    replies[turn] = Reply(replies[turn].status, replies[turn].headers, body)
    try:
        return await built(name).fetch(call_of(fixture["call"]), PatientVendor(*replies), datetime.fromisoformat(fixture["now"]))
    except ProviderError as error:
        return error


async def faults_of(name: str, case: str, turn: int, body: bytes) -> Iterator[str]:
    """What the adapter does wrong with a body; nothing, if it does all it must."""
    fixture = fixtures(name)[case]
    try:
        answer = await answered(name, case, turn, body)
        if isinstance(answer, ProviderError):
            return _faults_of_words(answer)
        wrong = [fault for error in answer.failed.values() for fault in _faults_of_words(error)]
        return iter([*wrong, *broken_promises(name, call_of(fixture["call"]), answer, datetime.fromisoformat(fixture["now"]))])
    except Exception as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = f"{last.tb_frame.f_code.co_filename.rsplit('/', 2)[-2:]}:{last.tb_lineno}" if last else ""
        return iter([f"{type(error).__name__}: {str(error)[:120]} at {where}; an adapter raises ProviderError only"])


def _faults_of_words(error: ProviderError) -> Iterator[str]:
    message = error.message
    if KEY in message or "\n" in message or "://" in message or len(message) > 300 or not message.isprintable():
        yield f"the message {message[:200]!r} is not fit to be shown; pass a vendor's words through `replies.said`"


@pytest.mark.parametrize(("name", "case", "turn"), TURNS)
async def test_nothing_but_a_verdict_or_sound_rows_comes_of_a_body_gone_wrong(name: str, case: str, turn: int) -> None:
    document = the_turn(name, case, turn)
    faults = []
    for what, body in mutations(document) if document else ():
        faults += [f"{what}: {fault}" for fault in await faults_of(name, case, turn, body)]
    told = "\n  ".join(faults[:TELL])
    assert not faults, f"{len(faults)} bad bodies made of fixtures/{name}/{case}.json, answer {turn}, do harm:\n  {told}"


@pytest.mark.parametrize(("name", "case", "turn"), TURNS)
async def test_the_order_of_rows_and_names_nobody_knows_yet_change_nothing(name: str, case: str, turn: int) -> None:
    document = the_turn(name, case, turn)
    if document is None or not fixtures(name)[case]["expect"]["rows"]:
        return
    whole = await answered(name, case, turn, document.write(document.tree))
    for what, body in harmless(document):
        changed = await answered(name, case, turn, body)
        assert _rows(changed) == _rows(whole), f"{what}: other rows came of it; sort by time and look values up by name"


def _rows(answer: Answer | ProviderError) -> list[str]:
    assert isinstance(answer, Answer), answer
    return sorted(map(str, records(answer)))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=12), inside, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in TURNS}))
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_several_things_gone_wrong_at_once_do_no_harm_either(name: str, data: st.DataObject) -> None:
    _, case, turn = data.draw(st.sampled_from([turn for turn in TURNS if turn[0] == name and the_turn(*turn)]))
    document = the_turn(name, case, turn)
    assert document is not None
    tree, done = document.tree, []
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(list(paths(tree))))
        tree = replaced(tree, path, data.draw(ANYTHING))
        done.append(spelt(path))
    faults = list(await faults_of(name, case, turn, document.write(tree)))
    assert not faults, f"fixtures/{name}/{case}.json, answer {turn}, changed at {', '.join(done)}: {faults}"
