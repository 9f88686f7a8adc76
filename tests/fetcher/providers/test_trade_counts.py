"""What a vendor says of the trades of a bar, their number and average price, is in the event; what it does not say is null."""

from datetime import UTC, date, datetime

import pytest

from services.fetcher.provider import Credentials, FetchCall
from services.fetcher.providers.alpaca import Alpaca
from services.fetcher.providers.polygon import Polygon
from tests.fetcher.fake_vendor import Asking, at

NOW = datetime(2024, 3, 15, 18, 20, tzinfo=UTC)
DAYS = FetchCall("bars", ("ACME",), "1d", date(2024, 3, 12), date(2024, 3, 14))
BAR = {"o": 10.0, "h": 12.0, "l": 9.0, "c": 11.0, "v": 500}
STARTS = ("2024-03-12T04:00:00Z", "2024-03-13T04:00:00Z")


def _alpaca(*counts: dict[str, int]) -> object:
    bars = [{**BAR, "t": start, **count} for start, count in zip(STARTS, counts, strict=True)]
    return {"bars": {"ACME": bars}, "next_page_token": None}


def _polygon(*counts: dict[str, int]) -> object:
    bars = [{**BAR, "t": int(at(start).timestamp() * 1000), **count} for start, count in zip(STARTS, counts, strict=True)]
    return {"ticker": "ACME", "status": "OK", "adjusted": True, "resultsCount": len(bars), "results": bars}


VENDORS = [
    pytest.param(Asking(lambda: Alpaca(Credentials(api_key="k", api_secret="s")), NOW), _alpaca, id="alpaca"),
    pytest.param(Asking(lambda: Polygon(Credentials(api_key="k")), NOW), _polygon, id="polygon"),
]


@pytest.mark.parametrize(("asking", "page"), VENDORS)
async def test_the_trades_of_a_bar_are_whole_numbers_and_null_where_they_are_not_counted(asking, page) -> None:
    [event], _ = await asking.fetched(DAYS, page({"n": 48211}, {}))
    assert event.trade_count == [48211, None]
    assert type(event.trade_count[0]) is int


@pytest.mark.parametrize(("asking", "page"), VENDORS)
async def test_an_event_without_any_count_has_no_such_column(asking, page) -> None:
    [event], _ = await asking.fetched(DAYS, page({}, {}))
    assert event.trade_count is None


@pytest.mark.parametrize(("asking", "page"), VENDORS)
async def test_the_average_price_of_a_bar_is_null_where_the_vendor_has_none(asking, page) -> None:
    [event], _ = await asking.fetched(DAYS, page({"vw": 10.25}, {"vw": 0}))
    assert event.vwap == [10.25, None]
