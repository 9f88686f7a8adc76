import pytest

from services.fetcher.adapter.responses import MAX_PAGES, fetch_in_groups, fetch_pages
from services.fetcher.provider import Answer, ProviderError, Verdict


async def test_pages_are_followed_to_the_last() -> None:
    following = {"": "b", "b": "c", "c": ""}

    async def ask(token: str) -> tuple[str, str]:
        return f"page {token}", following[token]

    assert await fetch_pages("acme", ask) == ["page ", "page b", "page c"]


async def test_a_token_that_comes_again_ends_the_pages() -> None:
    async def ask(token: str) -> tuple[str, str]:
        return token, "same"

    assert await fetch_pages("acme", ask) == ["", "same"]


async def test_pages_without_end_are_an_error_not_half_an_answer() -> None:
    async def ask(token: str) -> tuple[int, str]:
        return 0, f"{token}x"

    with pytest.raises(ProviderError) as caught:
        await fetch_pages("acme", ask)
    assert caught.value.verdict is Verdict.MALFORMED
    assert str(MAX_PAGES) in caught.value.message


async def test_a_group_that_fails_takes_no_other_with_it_unless_the_vendor_as_a_whole_does_not_answer() -> None:
    asked: list[list[str]] = []
    verdicts = {"B": Verdict.BAD_REQUEST, "C": Verdict.RATE_LIMITED}

    async def ask(group: list[str]) -> Answer:
        asked.append(group)
        if verdict := verdicts.get(group[0]):
            raise ProviderError(verdict, "no")
        return Answer()

    answer = await fetch_in_groups([["A"], ["B", "b"], ["C"], ["D"]], ask)
    assert asked == [["A"], ["B", "b"], ["C"]]
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == {
        "B": Verdict.BAD_REQUEST,
        "b": Verdict.BAD_REQUEST,
        "C": Verdict.RATE_LIMITED,
        "D": Verdict.RATE_LIMITED,
    }
