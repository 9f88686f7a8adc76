"""What Schwab answers about options: expirations, and chains of contracts by expiration and strike, with sentinels in them."""

from collections.abc import Iterator
from datetime import date
from typing import Literal, NamedTuple

from services.fetcher.adapter.events import Contract
from services.fetcher.adapter.fields import day_of, number
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.providers.schwab.answers import count_of, first_price, instant_in
from services.fetcher.providers.schwab.refusals import Document, TooMuchError, refuse_unknown

GREEKS = ("delta", "gamma", "theta", "vega")
LEAST_IV_PERCENT = 0.01
_SENTINELS = (-999.0, -999.99)
_SIDES: tuple[tuple[str, Literal["call", "put"]], ...] = (("callExpDateMap", "call"), ("putExpDateMap", "put"))


class Piece(NamedTuple):
    """A part of a chain: its expirations in order (none: all there are), and its side."""

    days: tuple[date, ...] = ()
    side: str = "ALL"

    @property
    def params(self) -> dict[str, str]:
        """What asks for it, beside the symbol."""
        span = {"fromDate": str(self.days[0]), "toDate": str(self.days[-1])} if self.days else {}
        return {"contractType": self.side, "strategy": "SINGLE", "includeUnderlyingQuote": "false", **span}


def halves(piece: Piece, days: tuple[date, ...], error: ProviderError) -> list[Piece]:
    """The piece in two that ask for less each.

    Raises:
        ProviderError: there is no less to ask for: the error that it was too much.
    """
    if len(days) > 1:
        middle = (len(days) + 1) // 2
        return [Piece(days[:middle], piece.side), Piece(days[middle:], piece.side)]
    if days and piece.side == "ALL":
        return [Piece(days, "CALL"), Piece(days, "PUT")]
    raise error


def parse_expirations(document: Document) -> list[date]:
    """The expirations an underlying has, in order.

    Raises:
        ProviderError: malformed, there is no list of them.
    """
    listed = document.get("expirationList")
    if not isinstance(listed, list):
        raise ProviderError(Verdict.MALFORMED, "schwab: the expiration chain has no list")
    days = (day_of(row.get("expirationDate") or row.get("expiration")) for row in listed if isinstance(row, dict))
    return sorted({day for day in days if day})


class Chain(NamedTuple):
    """The contracts of an answer; `delayed`: they are a quarter of an hour old."""

    contracts: list[Contract]
    delayed: bool


def parse_chain(document: Document) -> Chain:
    """The contracts of all expirations in the answer.

    Raises:
        TooMuchError: the vendor has cut the chain short.
        ProviderError: malformed, it is no chain.
    """
    refuse_unknown(document)
    maps = {name: document.get(name) for name, _ in _SIDES}
    if not any(isinstance(found, dict) for found in maps.values()):
        raise ProviderError(Verdict.MALFORMED, "schwab: the answer is no option chain")
    if document.get("isChainTruncated") is True:
        raise TooMuchError(Verdict.SERVER_ERROR, "schwab: gives this chain in part only")
    listed = [(key, strike, right, row) for name, right in _SIDES for key, strike, row in _contracts_in(maps[name])]
    # Until a series has its first published open interest, all its contracts say 0.
    published = {key for key, _, _, row in listed if number(row.get("openInterest"))}
    found = [_contract(key, strike, right, row, published=key in published) for key, strike, right, row in listed]
    return Chain([contract for contract in found if contract], document.get("isDelayed") is True)


def _contracts_in(expirations: object) -> Iterator[tuple[str, str, Document]]:
    """Each contract with the keys it stands under; several share a strike where deliverables were adjusted."""
    for key, strikes in expirations.items() if isinstance(expirations, dict) else ():
        for strike, rows in strikes.items() if isinstance(strikes, dict) else ():
            for row in rows if isinstance(rows, list) else [rows]:
                if isinstance(row, dict):
                    yield key, strike, row


def _contract(key: str, strike: str, right: Literal["call", "put"], row: Document, *, published: bool) -> Contract | None:
    name, expiry = str(row.get("symbol") or ""), day_of(key) or day_of(row.get("expirationDate"))
    if not name or expiry is None:
        return None
    iv, greeks = _volatility(row)
    return Contract(
        contract=name,
        expiry=expiry,
        strike=number(row.get("strikePrice")) or number(strike) or 0.0,
        right=right,
        bid=first_price(row.get("bid"), row.get("bidPrice")),
        ask=first_price(row.get("ask"), row.get("askPrice")),
        last=first_price(row.get("last"), row.get("lastPrice")),
        mark=first_price(row.get("mark"), row.get("markPrice")),
        volume=count_of(row.get("totalVolume")),
        open_interest=count_of(row.get("openInterest")) if published else None,
        iv=iv,
        **greeks,
        at=instant_in(row.get("quoteTimeInLong")) or instant_in(row.get("tradeTimeInLong")),
    )


def _volatility(row: Document) -> tuple[float | None, dict[str, float | None]]:
    """Implied volatility as a fraction, and the greeks. One sentinel among them, and none was computed."""
    given = {name: row.get(name) for name in ("volatility", *GREEKS, "rho")}
    known = {name: number(value) for name, value in given.items()}
    dead = any(value is not None and (known[name] is None or known[name] in _SENTINELS) for name, value in given.items())
    percent = known["volatility"]
    has_iv = percent is not None and percent > LEAST_IV_PERCENT
    if dead or not (has_iv or any(known[name] for name in GREEKS)):
        return None, dict.fromkeys(GREEKS)
    return percent / 100 if has_iv and percent else None, {name: known[name] for name in GREEKS}
