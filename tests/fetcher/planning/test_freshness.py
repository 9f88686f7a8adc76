"""Whose hours count for a symbol, by its name alone."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.fetch_task import FetchTask
from services.fetcher.planning.freshness import calendar_code_of, is_never_closed

NOW = datetime(2026, 1, 5, tzinfo=UTC)
PAIRS = (
    "BTC-USD", "BTC/USD", "BTCUSD", "X:BTCUSD", "BINANCE:BTCUSDT", "ETH-BTC", "EUR/USD", "EURUSD", "EURUSD=X", "C:EURUSD",
    "OANDA:EUR_USD",
)  # fmt: skip
FUTURES = ("ES=F", "/ES", "/ESZ25")
LISTED = ("AAPL", "BRK.B", "BRK-B", "GOOGL", "VTSAX", "^GSPC", "I:SPX", "O:SPY251219C00650000", "VOD.L", "0700.HK", "NOVO-B.CO")


def wanted(dataset: Any = "bars", timeframe: Any = "1d") -> FetchTask:
    return FetchTask(
        provider="", lane="live", symbol="X", dataset=dataset, timeframe=timeframe if dataset == "bars" else None, wanted_at=NOW,
        expires_at=NOW, request_id="", run_id="",
    )  # fmt: skip


@pytest.mark.parametrize("symbol", [*PAIRS, *FUTURES])
def test_pairs_and_futures_are_never_closed_whatever_the_calendar_of_their_job(symbol: str) -> None:
    assert is_never_closed(symbol)
    assert calendar_code_of(symbol, wanted(), "XNYS", real=True) is None


@pytest.mark.parametrize("symbol", LISTED)
def test_what_is_listed_keeps_the_hours_of_its_jobs_calendar(symbol: str) -> None:
    assert calendar_code_of(symbol, wanted("quote"), "XLON", real=True) == "XLON"


def test_without_a_calendar_only_bars_of_days_of_plain_tickers_of_a_real_market_have_hours() -> None:
    assert [symbol for symbol in LISTED if calendar_code_of(symbol, wanted(), None, real=True)] == [
        "AAPL",
        "BRK.B",
        "GOOGL",
        "VTSAX",
    ]
    assert calendar_code_of("AAPL", wanted(), None, real=False) is None
    assert calendar_code_of("AAPL", wanted("quote"), None, real=True) is None
    assert calendar_code_of("AAPL", wanted(timeframe="5m"), None, real=True) is None
    assert calendar_code_of("AAPL", wanted(timeframe="1wk"), None, real=True) == "XNYS"


@given(st.text(max_size=64))
def test_any_text_has_the_jobs_calendar_or_is_never_closed(symbol: str) -> None:
    assert (calendar_code_of(symbol, wanted(), "XTKS", real=True) is None) == is_never_closed(symbol)
