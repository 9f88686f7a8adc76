"""Definition of a simulated vendor: its routes, the place of the API key in a request, and its error responses."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import TypeVar

import msgspec

from contracts.message import Timeframe
from quotebus.simulate.market import SimulatedMarket
from services.fetcher.adapter.fields import EPOCH
from services.fetcher.provider import Profile, Reply, providers

T = TypeVar("T")

# What every played vendor takes for a key; the names are those of the settings.
SECRETS = {"api_key": "simulated-key", "api_secret": "simulated-secret", "refresh_token": "simulated-login"}


class Reason(StrEnum):
    """Reason for which the vendor rejects a request."""

    UNKNOWN = "unknown"
    PAID = "paid"
    NO_KEY = "no_key"
    WRONG_KEY = "wrong_key"
    THROTTLED = "throttled"
    BAD_REQUEST = "bad_request"
    NO_SUCH_PATH = "no_such_path"


class RefusedError(Exception):
    """A request that brings no data. `about`: the symbol, or the window that is full; `again_at`: when that has room, UTC."""

    def __init__(self, why: Reason, about: str = "", again_at: datetime | None = None) -> None:
        super().__init__(f"{why}: {about}")
        self.why = why
        self.about = about
        self.again_at = again_at or EPOCH


@dataclass(frozen=True)
class VendorRequest:
    """One request. `fields`: those of its query and form, and the named parts of its path; header names in lower case."""

    path: str
    fields: Mapping[str, str]
    headers: Mapping[str, str]
    market: SimulatedMarket
    now: datetime

    def symbols(self, name: str) -> list[str]:
        """The symbols of a list with commas."""
        return [symbol for symbol in self.fields.get(name, "").split(",") if symbol]

    def day(self, name: str, otherwise: date) -> date:
        """The day a field begins with."""
        return date.fromisoformat(self.fields[name][:10]) if self.fields.get(name) else otherwise

    def epoch(self, name: str, otherwise: datetime, scale: int = 1) -> datetime:
        """The instant so many seconds (by `scale`: parts of one) after 1970."""
        given = self.fields.get(name)
        return EPOCH + timedelta(seconds=int(given) / scale) if given else otherwise

    def kind(self, symbol: str) -> str:
        """share, fx or crypto."""
        return self.market.instrument(symbol).kind

    def known(self, symbol: str) -> str:
        """The symbol, if it has prices for this key.

        Raises:
            RefusedError: it is unknown, or wants a larger plan.
        """
        if self.market.is_dead(symbol):
            raise RefusedError(Reason.UNKNOWN, symbol)
        if self.market.is_paid(symbol):
            raise RefusedError(Reason.PAID, symbol)
        return symbol


Handler = Callable[[VendorRequest], object]


def one(_ask: VendorRequest) -> int:
    """Weight of a request with most vendors: one call."""
    return 1


@dataclass(frozen=True)
class Vendor:
    """A vendor. `routes`: method and path, as in `GET /v1/{symbol}`, and what answers there: a `Reply`, or what is said as JSON.

    `key_in`: the key that a request carries, "" for none; None: there are no keys. `key`: the right one. `refused`: its way to say
    no. `open_routes`: those that want no key. `weight`: as how many calls its quota counts a request.
    """

    name: str
    routes: Mapping[str, Handler]
    refused: Callable[[RefusedError], Reply]
    key_in: Callable[[VendorRequest], str] | None = None
    key: str = SECRETS["api_key"]
    open_routes: frozenset[str] = frozenset()
    weight: Callable[[VendorRequest], int] = one

    @property
    def profile(self) -> Profile:
        """Profile of the vendor's adapter."""
        return providers()[self.name].profile


@cache
def vendors() -> dict[str, Vendor]:
    """Every vendor that can be played, by name: the modules of the folder `vendors` whose adapter is there."""
    folder = importlib.import_module("quotebus.simulate.vendors")
    found = [importlib.import_module(f"{folder.__name__}.{module.name}").VENDOR for module in pkgutil.iter_modules(folder.__path__)]
    return {vendor.name: vendor for vendor in found if vendor.name in providers()}


def reply(document: object, status: int = 200, kind: str = "application/json", **headers: str) -> Reply:
    """An answer: texts and bytes as they are, all else as JSON. Header names are written with `_`."""
    body = document if isinstance(document, bytes) else document.encode() if isinstance(document, str) else _json(document)
    return Reply(status, {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}, body)


def page(rows: list[T], first: int, most: int) -> tuple[list[T], int | None]:
    """The rows of a page that begins at `first`, and where the next one does, if there is one."""
    after = first + most
    return rows[first:after], after if after < len(rows) else None


def frame(words: Mapping[str, Timeframe], said: str) -> Timeframe:
    """The timeframe of a vendor's word for it."""
    if said not in words:
        raise RefusedError(Reason.BAD_REQUEST, said)
    return words[said]


def iso(at: datetime) -> str:
    """An instant as in 2024-03-15T13:30:00Z."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def seconds(at: datetime) -> int:
    """Seconds since 1970."""
    return int((at - EPOCH).total_seconds())


def _json(document: object) -> bytes:
    return msgspec.json.encode(document)
