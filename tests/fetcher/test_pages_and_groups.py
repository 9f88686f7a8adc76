from datetime import date

import pytest

from services.fetcher.normalise import option_of
from services.fetcher.provider import Answer, ProviderError, Verdict
from services.fetcher.replies import MOST_PAGES, every_page, group_by_group


async def test_pages_are_followed_to_the_last() -> None:
    following = {"": "b", "b": "c", "c": ""}

    async def ask(token: str) -> tuple[str, str]:
        return f"page {token}", following[token]

    assert await every_page("acme", ask) == ["page ", "page b", "page c"]


async def test_a_token_that_comes_again_ends_the_pages() -> None:
    async def ask(token: str) -> tuple[str, str]:
        return token, "same"

    assert await every_page("acme", ask) == ["", "same"]


async def test_pages_without_end_are_an_error_not_half_an_answer() -> None:
    async def ask(token: str) -> tuple[int, str]:
        return 0, f"{token}x"

    with pytest.raises(ProviderError) as caught:
        await every_page("acme", ask)
    assert caught.value.verdict is Verdict.MALFORMED
    assert str(MOST_PAGES) in caught.value.message


async def test_a_group_that_fails_takes_no_other_with_it_unless_the_vendor_as_a_whole_does_not_answer() -> None:
    asked: list[list[str]] = []
    verdicts = {"B": Verdict.BAD_REQUEST, "C": Verdict.RATE_LIMITED}

    async def ask(group: list[str]) -> Answer:
        asked.append(group)
        if verdict := verdicts.get(group[0]):
            raise ProviderError(verdict, "no")
        return Answer()

    answer = await group_by_group([["A"], ["B", "b"], ["C"], ["D"]], ask)
    assert asked == [["A"], ["B", "b"], ["C"]]
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == {
        "B": Verdict.BAD_REQUEST,
        "b": Verdict.BAD_REQUEST,
        "C": Verdict.RATE_LIMITED,
        "D": Verdict.RATE_LIMITED,
    }


@pytest.mark.parametrize("symbol", ["O:AAPL251219C00202500", "AAPL251219C00202500", "AAPL  251219C00202500", "aapl251219c00202500"])
def test_an_option_is_the_same_in_every_spelling(symbol: str) -> None:
    option = option_of(symbol)
    assert option == ("AAPL", date(2025, 12, 19), "call", 202.5)
    assert option is not None
    assert option.symbol == "AAPL251219C00202500"


@pytest.mark.parametrize("symbol", ["AAPL", "AAPL251319C00202500", "BTC/USD", "", "AAPL251219X00202500"])
def test_other_symbols_are_no_options(symbol: str) -> None:
    assert option_of(symbol) is None
