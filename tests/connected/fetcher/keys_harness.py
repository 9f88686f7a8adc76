"""Harness of tests with several API keys of one provider."""

from contracts.refresh_request import RefreshRequest
from services.runtime.settings import KeySettings, ProviderSettings, Secret
from tests.connected.fake_tiingo import PlayedTiingo


def account(tiingo: PlayedTiingo, *further: str, **limits: int) -> ProviderSettings:
    """Tiingo's account with the played one: the key `first`, and further ones called like what they are."""
    keys = {name: KeySettings(api_key=Secret(name)) for name in further}
    return ProviderSettings(
        base_url=tiingo.url, api_key=Secret("first"), keys=keys, kept_for_manual=0, kept_for_live=0, **{"per_hour": 0, **limits}
    )


def asked(count: int) -> RefreshRequest:
    return RefreshRequest(symbols=[f"S{i}" for i in range(count)])
