from datetime import date

import pytest

from services.fetcher.adapter.fields import option_of


@pytest.mark.parametrize("symbol", ["O:AAPL251219C00202500", "AAPL251219C00202500", "AAPL  251219C00202500", "aapl251219c00202500"])
def test_an_option_is_the_same_in_every_spelling(symbol: str) -> None:
    option = option_of(symbol)
    assert option == ("AAPL", date(2025, 12, 19), "call", 202.5)
    assert option is not None
    assert option.symbol == "AAPL251219C00202500"


@pytest.mark.parametrize("symbol", ["AAPL", "AAPL251319C00202500", "BTC/USD", "", "AAPL251219X00202500"])
def test_other_symbols_are_no_options(symbol: str) -> None:
    assert option_of(symbol) is None
