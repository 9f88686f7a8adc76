from datetime import UTC, date, datetime, timedelta
from math import inf, nan
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.price_events import PriceActions, PriceChain, PriceQuote
from services.fetcher.calls.validation import validate_facts

NOW = datetime(2024, 3, 15, 21, 30, tzinfo=UTC)
SOURCE: dict[str, Any] = {"symbol": "ACME", "provider": "anybody", "feed": "delayed", "observed_at": NOW, "fetched_at": NOW}
QUOTE = PriceQuote(**SOURCE, at=NOW, price=20.5, bid=20.0, ask=21.0, previous_close=20.0, volume=10.0)


def chain(**changed: Any) -> PriceChain:
    """Two contracts; `changed` is of the first."""
    row = {
        "contract": "ACME240322C00020000", "expiry": date(2024, 3, 22), "strike": 20.0, "right": "call", "bid": 1.0, "ask": 1.2,
        "last": 1.1, "mark": 1.1, "volume": 5.0, "open_interest": 7.0, "iv": 0.3, "delta": 0.5, "gamma": 0.1, "theta": -1.0,
        "vega": 0.1, "at": NOW,
    }  # fmt: skip
    other = row | {"contract": "ACME240322P00020000", "right": "put"}
    return PriceChain(**SOURCE, **{name: [changed.get(name, value), other[name]] for name, value in row.items()})


def test_what_is_sound_is_given_back_as_it_is() -> None:
    actions = PriceActions(**SOURCE, date=[date(2024, 1, 2)], kind=["split"], ratio=[4.0], amount=[None])
    for event in (QUOTE, chain(), actions, chain(bid=None, iv=None, delta=None, at=None, expiry=date(2024, 3, 15))):
        assert validate_facts(event, NOW) == (event, [])


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"price": -5.0}, "price_not_positive"),
        ({"bid": 0.0}, "price_not_positive"),
        ({"ask": inf}, "not_finite"),
        ({"previous_close": nan}, "not_finite"),
        ({"price": 9223372036854775807.0}, "price_absurd"),
        ({"volume": -1.0}, "negative_volume"),
        ({"volume": 1.8e19}, "volume_absurd"),
        ({"at": NOW + timedelta(days=2)}, "in_the_future"),
    ],
)
def test_a_quote_that_breaks_a_rule_is_kept_back_whole(changed: dict[str, Any], rule: str) -> None:
    event = msgspec.structs.replace(QUOTE, **changed)
    sound, [(at, name, row)] = validate_facts(event, NOW)
    assert (at, name) == (event.at, rule)
    assert msgspec.json.decode(row).keys() == {"at", "price", "bid", "ask", "previous_close", "volume"}
    nothing = {"at": None, "price": None, "bid": None, "ask": None, "previous_close": None, "volume": None}
    assert sound == msgspec.structs.replace(QUOTE, **nothing)


def test_a_future_may_be_quoted_below_zero() -> None:
    quote = msgspec.structs.replace(QUOTE, symbol="CL=F", price=-37.6, bid=-38.0)
    assert validate_facts(quote, NOW) == (quote, [])


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"contract": ""}, "contract_without_name"),
        ({"contract": "A\0"}, "contract_without_name"),
        ({"contract": "x" * 65}, "contract_without_name"),
        ({"expiry": date(1970, 1, 1)}, "expiry_out_of_range"),
        ({"strike": inf}, "not_finite"),
        ({"last": -0.5}, "price_not_positive"),
        ({"open_interest": -1.0}, "negative_volume"),
        ({"iv": -999.0}, "iv_out_of_range"),
        ({"iv": nan}, "iv_out_of_range"),
        ({"delta": -999.0}, "greek_out_of_range"),
        ({"vega": nan}, "greek_out_of_range"),
        ({"at": NOW + timedelta(days=2)}, "in_the_future"),
    ],
)
def test_a_contract_that_breaks_a_rule_is_kept_back_and_the_others_stay(changed: dict[str, Any], rule: str) -> None:
    sound, [(_, name, row)] = validate_facts(chain(**changed), NOW)
    assert name == rule
    assert isinstance(sound, PriceChain)
    assert sound.contract == ["ACME240322P00020000"]
    assert "right" in msgspec.json.decode(row)


def test_an_action_that_cannot_be_is_kept_back() -> None:
    days = [date(2024, 1, day) for day in range(2, 7)]
    amounts, ratios = [None, None, -1.0, inf, 0.5], [9.2e18, 4.0, None, None, None]
    event = PriceActions(**SOURCE, date=days, kind=["split", "split", *["dividend"] * 3], ratio=ratios, amount=amounts)
    sound, broken = validate_facts(event, NOW)
    assert [rule for _, rule, _ in broken] == ["ratio_out_of_range", "price_not_positive", "not_finite"]
    assert isinstance(sound, PriceActions)
    assert (sound.date, sound.amount) == ([days[1], days[4]], [None, 0.5])


number = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@given(number, number, number, number)
def test_what_is_published_of_a_quote_can_always_be_stored(
    last: float | None, bid: float | None, ask: float | None, volume: float | None
) -> None:
    sound, _ = validate_facts(msgspec.structs.replace(QUOTE, price=last, bid=bid, ask=ask, volume=volume), NOW)
    assert msgspec.json.decode(msgspec.json.encode(sound), type=PriceQuote) == sound
