"""Many questions, few answers."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from services.gateway.price_reader import MOST_AT_ONCE, BatchLoader


class Library:
    """Answers when it is let; knows how it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.open = asyncio.Event()
        self.burnt = False

    async def ask(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(list(keys))
        await self.open.wait()
        if self.burnt:
            raise OSError("burnt down")
        return {key: key.upper() for key in keys if key != "nothing"}


async def test_what_is_asked_while_an_answer_is_under_way_is_asked_together_and_once() -> None:
    library = Library()
    together = BatchLoader(library.ask)
    first = asyncio.create_task(together.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(together.get(key)) for key in ("b", "nothing", "b")]
    await asyncio.sleep(0)
    library.open.set()
    assert await first == "A"
    assert await asyncio.gather(*later) == ["B", None, "B"]
    assert library.asked == [["a"], ["b", "nothing"]]


async def test_one_who_goes_away_takes_the_answer_from_nobody_else() -> None:
    library = Library()
    together = BatchLoader(library.ask)
    impatient, patient = (asyncio.create_task(together.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    library.open.set()
    assert await patient == "A"


async def test_all_who_wait_are_told_of_a_failure_and_the_next_one_is_answered_again() -> None:
    library = Library()
    library.burnt = True
    library.open.set()
    together = BatchLoader(library.ask)
    assert [str(each) for each in await asyncio.gather(together.get("a"), together.get("b"), return_exceptions=True)] == [
        "burnt down",
        "burnt down",
    ]
    library.burnt = False
    assert await together.get("a") == "A"


async def test_no_question_is_larger_than_it_may_be() -> None:
    library = Library()
    library.open.set()
    together = BatchLoader(library.ask)
    keys = [str(number) for number in range(3 * MOST_AT_ONCE)]
    assert await asyncio.gather(*map(together.get, keys)) == keys
    assert max(map(len, library.asked)) == MOST_AT_ONCE


@pytest.mark.parametrize("key", ["a", "nothing"])
async def test_an_answer_is_not_kept(key: str) -> None:
    library = Library()
    library.open.set()
    together = BatchLoader(library.ask)
    await together.get(key)
    await together.get(key)
    assert library.asked == [[key], [key]]
