"""Implied volatility: what was priced with a volatility must tell it again, and what tells nothing must not be made up."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lets_be_rational import black

from services.fetcher.adapter.events import Contract
from services.fetcher.derived.implied_volatility import MIN_HISTORY_DAYS, Smile, interpolate_30d, rank, smiles

AT = datetime(2026, 1, 5, 21, tzinfo=UTC)
EXPIRY = date(2026, 2, 20)
YEARS = 46 / 365  # from a close in New York to a close
RATE = 0.04


def priced(
    strike: float, right: str, iv: float = 0.25, *, forward: float = 100.0, spread: float = 0.01, **other: object
) -> Contract:
    """An option whose bid and ask lie evenly around what it is worth with this volatility."""
    sign = 1 if right == "call" else -1
    worth = black(forward, strike, iv, YEARS, sign) / (1 + RATE * YEARS + (RATE * YEARS) ** 2 / 2)
    row = Contract(f"X{right}{strike}", EXPIRY, strike, "call" if sign > 0 else "put", bid=worth - spread, ask=worth + spread)
    return row._replace(**other)  # type: ignore[arg-type]


def chain(strikes: range = range(70, 141, 2), iv: float = 0.25, **other: object) -> list[Contract]:
    return [priced(strike, right, iv, **other) for strike in strikes for right in ("call", "put")]  # type: ignore[arg-type]


def one(contracts: list[Contract]) -> Smile:
    [smile] = smiles(contracts, AT, RATE)
    return smile


@given(iv=st.floats(0.08, 1.5), forward=st.floats(80, 125))
def test_what_was_priced_with_a_volatility_tells_it_again(iv: float, forward: float) -> None:
    smile = one(chain(range(20, 400, 2), iv, forward=forward, spread=0.0001))
    assert smile.forward == pytest.approx(forward, rel=1e-4)
    assert smile.iv == pytest.approx(iv, rel=1e-3)
    assert smile.years == pytest.approx(YEARS, rel=1e-6)


def test_a_smile_has_another_volatility_for_puts_than_for_calls() -> None:
    skewed = [priced(k, right, 0.25 - (k - 100) / 500) for k in range(70, 141, 2) for right in ("call", "put")]
    smile = one(skewed)
    assert smile.put_25d is not None and smile.iv is not None and smile.call_25d is not None
    assert smile.put_25d > smile.iv > smile.call_25d
    assert smile.iv == pytest.approx(0.25, abs=0.002)


def test_an_option_in_the_money_is_left_to_its_twin_out_of_it() -> None:
    wrong = [
        row._replace(bid=row.bid * 1.2, ask=row.ask * 1.2) if row.right == "put" and row.strike > 102 else row for row in chain()
    ]  # type: ignore[operator]
    assert one(wrong).iv == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(
    "unknown", [{"bid": None, "ask": None}, {"bid": 0.0, "ask": 5.0}, {"bid": 5.0, "ask": 4.0}, {"bid": None, "ask": 5.0}]
)
def test_without_a_two_sided_quote_the_mark_counts_and_then_what_the_vendor_tells(unknown: dict[str, float | None]) -> None:
    marked = [row._replace(mark=(row.bid + row.ask) / 2, **unknown) for row in chain()]  # type: ignore[operator]
    assert one(marked).iv == pytest.approx(0.25, abs=1e-4)
    told = [row._replace(**unknown, iv=0.3, delta=0.5 if row.right == "call" else -0.5) for row in chain()]
    assert (one(told).iv, one(told).forward) == (0.3, None)
    nothing = one([row._replace(**unknown) for row in chain()])
    assert nothing[2:] == (None, None, None, None, 0)


def test_a_price_that_no_volatility_gives_tells_nothing() -> None:
    absurd = [row._replace(bid=150.0, ask=151.0) if row.strike == 110 and row.right == "call" else row for row in chain()]
    smile = one(absurd)
    assert smile.contracts == one(chain()).contracts - 1
    assert smile.iv == pytest.approx(0.25, abs=1e-4)


def test_what_nobody_quotes_near_the_money_is_not_told() -> None:
    far = one([row for row in chain(range(40, 200, 5)) if not 80 < row.strike < 130])
    assert far.iv is None
    assert one([priced(100, "call")]).iv is None


def test_of_two_classes_of_one_strike_the_one_that_people_hold_counts() -> None:
    adjusted = [row._replace(contract=f"{row.contract}1", bid=row.bid * 2, ask=row.ask * 2, open_interest=3.0) for row in chain()]  # type: ignore[operator]
    held = [row._replace(open_interest=5000.0) for row in chain()]
    assert one([*held, *adjusted]).iv == one([*adjusted, *held]).iv == pytest.approx(0.25, abs=1e-4)


def test_what_has_expired_is_left_out_and_what_expires_today_ends_with_the_session() -> None:
    assert smiles(chain(), datetime(2026, 2, 20, 21, 1, tzinfo=UTC), RATE) == []
    [smile] = smiles(chain(), datetime(2026, 2, 20, 20, tzinfo=UTC), RATE)
    assert smile.years == timedelta(hours=1) / timedelta(days=365)


def days(*points: tuple[float, float | None]) -> list[tuple[float, float | None]]:
    return [(day / 365, iv) for day, iv in points]


def test_between_two_expirations_the_variance_grows_evenly() -> None:
    assert interpolate_30d(days((20, 0.2), (40, 0.2))) == pytest.approx(0.2)
    variance = (0.2**2 * 20 + 0.3**2 * 40) / 2 / 30
    assert interpolate_30d(days((3, 0.9), (20, 0.2), (40, 0.3), (300, 0.1))) == pytest.approx(variance**0.5)
    assert interpolate_30d(days((20, 0.2), (29, None), (40, 0.2))) == pytest.approx(0.2)
    assert interpolate_30d(days((30, 0.22), (40, 0.3))) == pytest.approx(0.22)


def test_without_one_on_either_side_only_a_near_one_speaks() -> None:
    assert interpolate_30d(days((36, 0.2), (60, 0.3))) == 0.2
    assert interpolate_30d(days((5, 0.5), (24, 0.4))) == 0.4
    assert interpolate_30d(days((40, 0.2), (60, 0.3))) is None
    assert interpolate_30d(days((30, None))) is None
    assert interpolate_30d([]) is None


def test_rank_and_percentile_are_of_the_days_before() -> None:
    before = [0.10 + n / 100 for n in range(MIN_HISTORY_DAYS)]  # 0.10 to 0.29
    assert rank(0.195, before) == (pytest.approx(0.5), 0.5)
    assert rank(0.05, before) == (0.0, 0.0)
    assert rank(0.50, before) == (1.0, 1.0)
    assert rank(0.2, before[1:]) == (None, None), "too few days"
    assert rank(None, before) == (None, None)
    assert rank(0.2, [0.2] * 250) == (None, 0.0), "it never moved"
