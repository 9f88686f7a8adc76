from datetime import UTC, date, datetime

from contracts.price_events import MAX_ROWS
from services.fetcher.adapter.events import Bar, EventBuilder
from services.fetcher.adapter.fields import NEW_YORK, unit_of
from services.fetcher.provider import FetchCall, Profile, providers
from services.fetcher.providers._template import Template

NOW = datetime(2024, 3, 15, 21, 30, tzinfo=UTC)
PROFILE = Profile(name="acme", base_url="https://acme.example", offers={"bars": ("1d",)}, basis="raw", feed="eod")


def builder(unit: str = "USD", start: date | None = None, end: date | None = None, timeframe: str = "1d") -> EventBuilder:
    call = FetchCall("bars", ("ACME",), timeframe, start, end)
    return EventBuilder(PROFILE, call, "ACME", NOW, unit_of(unit), NEW_YORK)


def bar(day: int, close: float | None = 10.0, adjusted: float | None = None) -> Bar:
    return Bar(datetime(2024, 3, day, 14, tzinfo=UTC), 9.0, 11.0, 8.0, close, 100.0, adjusted)


def test_bars_come_in_order_of_time_and_of_two_for_one_day_the_later_counts() -> None:
    [event] = builder().bars([bar(13), bar(12), bar(13, 10.5)])
    assert event.at == [datetime(2024, 3, 12, tzinfo=UTC), datetime(2024, 3, 13, tzinfo=UTC)]
    assert event.close == [10.0, 10.5]


def test_an_optional_column_is_absent_when_no_bar_knows_it_and_has_gaps_when_some_do() -> None:
    [nothing] = builder().bars([bar(12), bar(13, adjusted=0.0)])
    [something] = builder().bars([bar(12), bar(13, adjusted=9.5)])
    assert nothing.adjusted_close is None
    assert something.adjusted_close == [None, 9.5]


def test_prices_of_a_minor_unit_become_the_major_one_in_every_price_column() -> None:
    [event] = builder("GBp").bars([bar(12, adjusted=950.0)])
    assert (event.currency, event.quoted_in) == ("GBP", "GBp")
    assert (event.open, event.high, event.low, event.close) == ([0.09], [0.11], [0.08], [0.1])
    assert (event.adjusted_close, event.volume) == ([9.5], [100.0])


def test_a_bar_without_a_close_is_left_out_and_no_bars_give_one_empty_event() -> None:
    [event] = builder(start=date(2024, 3, 1), end=date(2024, 3, 15)).bars([bar(12, None), bar(13, 0.0)])
    assert event.at == event.close == event.volume == event.final == []
    assert event.adjusted_close is None


def test_events_of_a_long_range_share_it_out_without_a_gap() -> None:
    minutes = [Bar(datetime.fromtimestamp(1709251200 + 60 * n, UTC), 9.0, 11.0, 8.0, 10.0) for n in range(MAX_ROWS + 1)]
    first, second = builder(start=date(2024, 3, 1), end=date(2024, 3, 12), timeframe="1m").bars(minutes)
    assert (len(first.at), len(second.at)) == (MAX_ROWS, 1)
    assert first.asked_to == second.asked_from == second.at[0]
    assert second.volume == [None]


def test_the_last_bar_is_final_only_once_its_day_is_over_in_the_exchanges_zone() -> None:
    [event] = builder().bars([bar(14), bar(15)])
    assert event.final == [True, False]


def test_a_module_with_an_underscore_is_no_provider() -> None:
    assert Template.profile.name not in providers()
    assert Template not in providers().values()
