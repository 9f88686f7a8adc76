"""What the settings make of a provider: its keys, and the limits of each."""

import pytest

from services.fetcher.accounts import account_of, accounts, incomplete_keys
from services.runtime.settings import KeySettings, ProviderSettings, Secret, Settings


def limits(settings: ProviderSettings, key: str = "k1") -> dict[str, int]:
    [found] = [each for each in account_of("tiingo", settings).keys if each.name == key]
    return {window.token: window.limit for window in found.windows}


def test_a_key_has_the_limits_of_the_vendors_free_plan_and_the_shares_of_its_day() -> None:
    assert limits(ProviderSettings(api_key=Secret("x"))) == {
        "hour": 50, "day": 1000, "day-live": 800, "day-backfill": 500, "symbols": 500,
    }  # fmt: skip


def test_where_there_is_no_day_hour_and_month_are_shared() -> None:
    given = ProviderSettings(api_key=Secret("x"), per_day=0, per_month=20, symbols_per_month=0, kept_for_live=0)
    assert limits(given) == {"hour": 50, "hour-live": 40, "month": 20, "month-live": 16}


def test_nothing_is_kept_where_nothing_is_to_be_kept() -> None:
    given = ProviderSettings(api_key=Secret("x"), kept_for_manual=0, kept_for_live=0, symbols_per_month=0)
    assert limits(given) == {"hour": 50, "day": 1000}


def test_what_a_further_key_does_not_say_is_as_in_the_providers_table() -> None:
    paid = KeySettings(api_key=Secret("y"), per_day=0, windows={"600s": 9})
    given = ProviderSettings(api_key=Secret("x"), per_hour=60, symbols_per_month=0, kept_for_manual=0, keys={"paid": paid})
    assert limits(given, "paid") == {"600s": 9, "hour": 60, "hour-backfill": 42}
    assert limits(given) == {"hour": 60, "day": 1000, "day-backfill": 700}


def test_keys_without_their_secrets_are_left_out_and_named() -> None:
    some = ProviderSettings(keys={"a": KeySettings(api_key=Secret("y")), "b": KeySettings()})
    assert [key.name for key in accounts(Settings(providers={"tiingo": some}))["tiingo"].keys] == ["a"]
    assert incomplete_keys("tiingo", some) == {"b": ["QUOTEBUS_PROVIDERS__TIINGO__KEYS__B__API_KEY"]}
    none = ProviderSettings()
    assert list(accounts(Settings(providers={"tiingo": none}))) == ["derived"]
    assert incomplete_keys("tiingo", none) == {"k1": ["QUOTEBUS_PROVIDERS__TIINGO__API_KEY"]}


def test_a_provider_that_needs_no_key_has_no_use_for_several() -> None:
    with pytest.raises(ValueError, match=r"yahoo needs no key, .*: remove providers\.yahoo\.keys"):
        account_of("yahoo", ProviderSettings(keys={"second": KeySettings()}))
