"""The providers that work with these settings: adapter, limits and keys of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from contracts.message import Basis, Dataset, Timeframe
from services.fetcher.derived.provider import PROFILE as DERIVED
from services.fetcher.http.egress_policy import EgressPolicy, policy_for
from services.fetcher.provider import Credentials, Profile, Provider, TokenStore, providers
from services.runtime.quota import SYMBOLS, WINDOW_S, QuotaWindow, lane_reserves
from services.runtime.settings import FIRST_KEY, KeySettings, ProviderSettings, Secret, Settings


@dataclass(frozen=True)
class ApiKey:
    """One key of a provider: the adapter that asks with it, and its limits, the shortest window first."""

    name: str
    provider: Provider
    windows: tuple[QuotaWindow, ...]

    @property
    def symbols(self) -> QuotaWindow | None:
        """The limit of different symbols, if there is one."""
        return next((window for window in self.windows if window.window == SYMBOLS), None)


@dataclass(frozen=True)
class ProviderAccount:
    """One provider as the settings have it, with every key that is complete."""

    profile: Profile
    settings: ProviderSettings
    keys: tuple[ApiKey, ...]

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def base_url(self) -> str:
        return self.settings.base_url or self.profile.base_url

    @property
    def series_class(self) -> tuple[Basis, str]:
        """Basis and feed of the provider's series; only providers with equal ones substitute for each other."""
        return self.profile.basis, self.profile.feed

    @cached_property
    def egress_policy(self) -> EgressPolicy:
        """Egress policy for the provider's host and keys, as its settings allow."""
        return policy_for(self.profile, self.settings)

    def offers(self, dataset: Dataset, timeframe: Timeframe | None) -> bool:
        return self.profile.offers_series(dataset, timeframe)

    def symbols_per_call(self, dataset: Dataset) -> int:
        """Batch limit in symbols per call; the settings may lower the vendor's limit, never raise it."""
        allowed = self.profile.symbols_per_call.get(dataset, 1)
        return min(allowed, self.settings.symbols_per_call or allowed)

    def with_token_store(self, stores: Mapping[tuple[str, str], TokenStore]) -> "ProviderAccount":
        """The same account, whose keys keep their tokens in these stores, found by provider and key."""
        return replace(self, keys=tuple(self._with_tokens(key, stores.get((self.name, key.name))) for key in self.keys))

    def _with_tokens(self, key: ApiKey, tokens: TokenStore | None) -> ApiKey:
        if tokens is None:
            return key
        given = all_keys(self.settings)[key.name]
        return replace(key, provider=providers()[self.name](credentials(self.settings, given, tokens)))


def accounts(settings: Settings) -> dict[str, ProviderAccount]:
    """Every provider that works, by name: one that the settings name, do not disable, and give what keys it needs.

    What is derived is always there; whoever works with it has to give it a key.
    """
    known = providers()
    asked = {
        name: account_of(name, given)
        for name, given in settings.providers.items()
        if name in known and given.enabled is not False and complete_keys(name, given)
    }
    return asked | {DERIVED.name: ProviderAccount(DERIVED, ProviderSettings(), ())}


def account_of(name: str, settings: ProviderSettings) -> ProviderAccount:
    """The account of one provider; without its secrets it has no key.

    Raises:
        ValueError: the adapter cannot work with what the settings give it, or has no use for several keys.
    """
    kind = providers()[name]
    if settings.keys and not kind.profile.secrets:
        raise ValueError(f"{name} needs no key, so further keys would allow no further calls: remove providers.{name}.keys")
    keys = (
        ApiKey(key, kind(credentials(settings, given)), windows(kind.profile, settings, key))
        for key, given in complete_keys(name, settings).items()
    )
    return ProviderAccount(kind.profile, settings, tuple(keys))


def complete_keys(name: str, settings: ProviderSettings) -> dict[str, KeySettings]:
    """The keys, by name, that have every secret the provider cannot work without."""
    return {key: given for key, given in all_keys(settings).items() if not missing_secrets(name, given)}


def all_keys(settings: ProviderSettings) -> dict[str, KeySettings]:
    """The key in the provider's own table, and those with a table of their own."""
    return {FIRST_KEY: settings, **settings.keys}


def incomplete_keys(name: str, settings: ProviderSettings) -> dict[str, list[str]]:
    """The variables to set, by key, for each key that lacks a secret. A provider whose keys have tables needs none beside them."""
    found = {}
    for key, given in all_keys(settings).items():
        missing = missing_secrets(name, given)
        unused = key == FIRST_KEY and settings.keys and len(missing) == len(providers()[name].profile.secrets)
        if missing and not unused:
            found[key] = [variable_of(name, key, secret) for secret in missing]
    return found


def variable_of(provider: str, key: str, secret: str) -> str:
    """The environment variable that sets a secret of this provider's key."""
    table = "" if key == FIRST_KEY else f"keys__{key}__"
    return f"quotebus_providers__{provider}__{table}{secret}".upper()


def missing_secrets(name: str, settings: KeySettings) -> list[str]:
    """The settings a provider's key cannot work without and does not have."""
    return [secret for secret in providers()[name].profile.secrets if not _plain(getattr(settings, secret))]


def windows(profile: Profile, settings: ProviderSettings, key: str) -> tuple[QuotaWindow, ...]:
    """The limits of one key: its own where given (0: none), else the provider's, else the adapter's; with the lanes' shares."""
    zone = settings.day_zone or profile.limits.day_zone
    limits = {window: _limit(profile, settings, key, f"per_{window}") for window in WINDOW_S}
    limits |= all_keys(settings)[key].windows or settings.windows
    limits[SYMBOLS] = _limit(profile, settings, key, "symbols_per_month")
    own = [QuotaWindow(profile.name, key, window, limit, zone) for window, limit in limits.items() if limit]
    split = lane_reserves(own, settings.kept_for_manual, settings.kept_for_live)
    return tuple(sorted([*own, *split], key=lambda window: window.length_s))


def credentials(settings: ProviderSettings, key: KeySettings, tokens: TokenStore | None = None) -> Credentials:
    """Credentials that an adapter is built with, from the provider's settings and one API key."""
    return Credentials(
        api_key=_plain(key.api_key),
        api_secret=_plain(key.api_secret),
        refresh_token=_plain(key.refresh_token),
        dataset=settings.dataset or "",
        options=settings.options,
        tokens=tokens,
    )


def quotas(settings: Settings) -> Mapping[str, list[QuotaWindow]]:
    """The windows of every provider that works, all its keys', for the table of streams."""
    return {name: list(_windows(account)) for name, account in accounts(settings).items()}


def _windows(account: ProviderAccount) -> Iterator[QuotaWindow]:
    for key in account.keys:
        yield from key.windows


def _limit(profile: Profile, settings: ProviderSettings, key: str, name: str) -> int | None:
    default: int | None = getattr(profile.limits, name)
    for given in (all_keys(settings)[key], settings):
        limit: int | None = getattr(given, name)
        if limit is not None:
            return limit
    return default


def _plain(secret: Secret | None) -> str:
    return secret.get_secret_value() if secret else ""
