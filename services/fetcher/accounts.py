"""The providers that work with these settings: adapter, limits and keys of each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

from aiolimiter import AsyncLimiter
from pydantic import SecretStr

from contracts.message import Basis, Dataset, Timeframe
from services.fetcher.origin import Trust, trust_of
from services.fetcher.provider import Access, Profile, Provider, TokenStore, providers
from services.runtime.settings import ProviderSettings, Settings
from services.runtime.topology import WINDOW_S, QuotaWindow, Window

FIRST_KEY = "k1"


@dataclass(frozen=True)
class Account:
    """One provider as the settings have it."""

    profile: Profile
    settings: ProviderSettings
    provider: Provider

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def base_url(self) -> str:
        return self.settings.base_url or self.profile.base_url

    @property
    def series_class(self) -> tuple[Basis, str]:
        """What must be equal for one provider's rows to stand in for another's."""
        return self.profile.basis, self.profile.feed

    @cached_property
    def trust(self) -> Trust:
        """What its settings allow of the host that is asked, and its keys."""
        return trust_of(self.profile, self.settings)

    def offers(self, dataset: Dataset, timeframe: Timeframe | None) -> bool:
        return self.profile.offers_series(dataset, timeframe)

    def symbols_per_call(self, dataset: Dataset) -> int:
        """How many symbols one call may ask for; the settings may lower what the vendor allows, never raise it."""
        allowed = self.profile.symbols_per_call.get(dataset, 1)
        return min(allowed, self.settings.symbols_per_call or allowed)

    def windows(self) -> list[QuotaWindow]:
        """The limits of its key, shortest window first; the settings' where given (0: none), else the adapter's."""
        zone = self.settings.day_zone or self.profile.limits.day_zone
        limits = {window: self._limit(window) for window in get_args(Window)}
        return [QuotaWindow(self.name, FIRST_KEY, window, limit, zone) for window, limit in limits.items() if limit]

    def pace(self) -> AsyncLimiter | None:
        """A bucket that spreads calls evenly over the tightest of the windows up to a minute; it smooths, the ledger guarantees."""
        rates = [w.limit / WINDOW_S[w.window] for w in self.windows() if w.window in ("second", "minute")]
        if not rates:
            return None
        burst = self.settings.burst
        return AsyncLimiter(burst, burst / min(rates))

    def sharing(self, tokens: TokenStore) -> "Account":
        """The same account with its tokens kept there."""
        return replace(self, provider=providers()[self.name](access(self.settings, tokens)))

    def _limit(self, window: Window) -> int | None:
        given: int | None = getattr(self.settings, f"per_{window}")
        default: int | None = getattr(self.profile.limits, f"per_{window}")
        return default if given is None else given


def accounts(settings: Settings) -> dict[str, Account]:
    """Every provider that works, by name: one that the settings name, do not disable, and give what keys it needs."""
    known = providers()
    return {
        name: account_of(name, given)
        for name, given in settings.providers.items()
        if name in known and given.enabled is not False and not missing_secrets(name, given)
    }


def account_of(name: str, settings: ProviderSettings) -> Account:
    """The account of one provider, whether or not it has its keys."""
    kind = providers()[name]
    return Account(kind.profile, settings, kind(access(settings)))


def missing_secrets(name: str, settings: ProviderSettings) -> list[str]:
    """The settings a provider cannot work without and does not have."""
    return [secret for secret in providers()[name].profile.secrets if not _plain(getattr(settings, secret))]


def access(settings: ProviderSettings, tokens: TokenStore | None = None) -> Access:
    """What an adapter is built with."""
    return Access(
        api_key=_plain(settings.api_key),
        api_secret=_plain(settings.api_secret),
        refresh_token=_plain(settings.refresh_token),
        dataset=settings.dataset or "",
        options=settings.options,
        tokens=tokens,
    )


def quotas(settings: Settings) -> Mapping[str, list[QuotaWindow]]:
    """The windows of every provider that works, for the table of streams."""
    return {name: account.windows() for name, account in accounts(settings).items()}


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""
