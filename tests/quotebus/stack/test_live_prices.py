"""The lines that `quotebus up` shows."""

from datetime import UTC, datetime, timedelta

from contracts.price_events import PriceActions, PriceBars, PriceQuote
from contracts.run_events import RunFinished
from quotebus.stack.live_prices import LatestPrices, price_line, run_line

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
FROM = {
    "provider": "synthetic",
    "feed": "synthetic",
    "observed_at": NOW - timedelta(seconds=3),
    "fetched_at": NOW,
    "currency": "USD",
}


def quote(symbol: str, price: float | None, **provenance: object) -> PriceQuote:
    return PriceQuote(symbol=symbol, price=price, **{**FROM, **provenance})


def bars(symbol: str, *closes: float) -> PriceBars:
    at = [NOW + timedelta(days=day) for day in range(len(closes))]
    prices = {name: list(closes) for name in ("open", "high", "low", "close", "volume")}
    return PriceBars(symbol=symbol, timeframe="1d", basis="raw", at=at, final=[True] * len(closes), **prices, **FROM)


def test_a_line_holds_symbol_price_provider_and_age_and_says_when_it_is_made_up() -> None:
    line = price_line(quote("BRK.B", 1412.5), NOW)
    assert line.split() == ["BRK.B", "1,412.5000", "USD", "quote", "synthetic", "3", "s", "old", "(made", "up)"]
    real = price_line(quote("BRK.B", 1.0, provider="tiingo", feed="iex", observed_at=NOW - timedelta(hours=5)), NOW)
    assert real.split() == ["BRK.B", "1.0000", "USD", "quote", "tiingo", "5", "h", "old"]


def test_of_bars_the_last_close_is_shown() -> None:
    assert price_line(bars("SPY", 1.0, 2.0), NOW).split()[:5] == ["SPY", "2.0000", "USD", "1d", "bars"]


def test_of_each_series_only_the_latest_price_waits_and_the_newest_are_taken_first() -> None:
    latest = LatestPrices()
    for event in (quote("A", 1.0), quote("B", 2.0), bars("A", 3.0), quote("A", 4.0)):
        latest.add(event)
    events, more = latest.take(2)
    assert [(event.symbol, type(event)) for event in events] == [("A", PriceQuote), ("A", PriceBars)]
    assert more == 1
    assert latest.take(2) == ([], 0)


def test_what_holds_no_price_is_not_shown() -> None:
    latest = LatestPrices()
    for event in (quote("A", None), bars("A"), PriceActions(symbol="A", date=[], kind=[], ratio=[], amount=[], **FROM)):
        latest.add(event)
    assert latest.take(4) == ([], 0)


def test_a_run_says_its_outcomes_and_calls() -> None:
    run = RunFinished(
        run_id="7", request_id="r7", job="demo", planned=3, counts={"refreshed": 2, "failed": 1}, calls={"a": 1, "b": 2},
        started_at=NOW, finished_at=NOW,
    )  # fmt: skip
    assert run_line(run).strip() == "run 7 (demo) is done: 1 failed, 2 refreshed; 3 calls; `quotebus dead ls` says why"
