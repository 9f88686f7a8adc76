"""Parses Schwab's responses: bars, quotes, option chains and errors."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from services.fetcher.adapter.events import Bar, Contract, Quote
from services.fetcher.adapter.fields import LENGTHS, NEW_YORK, day_of, day_start, from_epoch, instant_of, number, price
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

VOLUMELESS = frozenset({"INDEX", "FOREX", "MUTUAL_FUND"})
_EVENING = timedelta(hours=7)
GREEKS = ("delta", "gamma", "theta", "vega")
MIN_IV_PERCENT = 0.01
_SENTINELS = (-999.0, -999.99)
_SIDES: tuple[tuple[str, Literal["call", "put"]], ...] = (("callExpDateMap", "call"), ("putExpDateMap", "put"))
Document = Mapping[str, Any]
_NO_SUCH_SYMBOL = re.compile(r"symbol.*(not found|invalid|unknown|not exist)|(invalid|unknown|no such|not found).*symbol")
_TOO_MUCH = ("buffer overflow", "toobigbody")
_THROTTLED = ("ratelimit", "rate limit", "quota", "spike arrest", "too many requests")


class ChainSlice(NamedTuple):
    """A part of a chain: its expirations in order (none: all there are), and its side."""

    days: tuple[date, ...] = ()
    side: str = "ALL"

    @property
    def params(self) -> dict[str, str]:
        """Query parameters that request it, beside the symbol."""
        span = {"fromDate": str(self.days[0]), "toDate": str(self.days[-1])} if self.days else {}
        return {"contractType": self.side, "strategy": "SINGLE", "includeUnderlyingQuote": "false", **span}


class Chain(NamedTuple):
    """The contracts of an answer; `delayed`: they are a quarter of an hour old."""

    contracts: list[Contract]
    delayed: bool


class TooMuchError(ProviderError):
    """The response would exceed what the vendor's gateway passes on: request less at a time."""


def parse_rows(document: Document, timeframe: Timeframe, *, has_volume: bool = True) -> Iterator[Bar]:
    """Parse the candles. A day is stamped with midnight in Chicago, or with the evening before where its session opens then.

    Raises:
        ProviderError: malformed, there are none and the answer does not say that it is empty.
    """
    refuse_unknown(document)
    candles = document.get("candles")
    if not isinstance(candles, list):
        if document.get("empty") is True:
            return
        raise ProviderError(Verdict.MALFORMED, "schwab: the price history has no candles")
    for candle in candles:
        if not isinstance(candle, dict):
            continue
        at = instant_in(candle.get("datetime")) or instant_of(candle.get("datetimeISO8601"))
        if at is None:
            continue
        volume = count_of(candle.get("volume"))
        o, h, low, c = (price(candle.get(name)) for name in ("open", "high", "low", "close"))
        yield Bar(at if timeframe in LENGTHS else _session_start(at), o, h, low, c, volume if volume or has_volume else None)


def _session_start(at: datetime) -> datetime:
    session = (at.astimezone(ZoneInfo(NEW_YORK)) + _EVENING).date()
    return day_start(session, NEW_YORK)


def quotes_in(document: Document) -> tuple[dict[str, Document], set[str]]:
    """Return the quotes by `plain` symbol, and the unknown symbols. `/ES` is answered as the contract that is active."""
    found: dict[str, Document] = {}
    for key, entry in document.items():
        if key == "errors" or not isinstance(entry, dict):
            continue
        reference = _block(entry, "reference")
        if product := reference.get("product"):
            found.setdefault(plain(product), entry)
        found |= {plain(name): entry for name in (entry.get("symbol"), key) if name}
    errors = _block(document, "errors")
    return found, {plain(symbol) for listed in errors.values() if isinstance(listed, list) for symbol in listed}


def plain(symbol: object) -> str:
    """Return a symbol as it is compared: the padding inside an option's does not count."""
    return "".join(str(symbol).split()).upper()


def parse_quote(entry: Document) -> Quote:
    """Parse the quote of any kind of asset. `closePrice` is the previous close; a fund has a net asset value, no last price."""
    quote = _block(entry, "quote") or entry  # older answers have no blocks
    regular = _block(entry, "regular")
    volume = count_of(quote.get("totalVolume"))
    times = [quote.get(name) for name in ("quoteTime", "quoteTimeInLong", "tradeTime", "tradeTimeInLong")]
    return Quote(
        at=next((at for time in (*times, regular.get("regularMarketTradeTime")) if (at := instant_in(time))), None),
        price=first_price(quote.get("lastPrice"), quote.get("nAV"), regular.get("regularMarketLastPrice")),
        bid=price(quote.get("bidPrice")),
        ask=price(quote.get("askPrice")),
        previous_close=price(quote.get("closePrice")),
        volume=volume if volume or kind_of(entry) not in VOLUMELESS else None,
    )


def kind_of(entry: Document) -> str:
    """EQUITY, INDEX, OPTION, FUTURE, FOREX, …"""
    return str(entry.get("assetMainType") or entry.get("assetType") or "")


def first_price(*values: object) -> float | None:
    """Return the first that is a price."""
    return next((found for value in values if (found := price(value)) is not None), None)


def count_of(value: object) -> float | None:
    """Return a volume or an open interest; less than 0 is unknown."""
    found = number(value)
    return None if found is not None and found < 0 else found


def instant_in(milliseconds: object) -> datetime | None:
    """Return the instant so many milliseconds after 1970; 0 and less are unknown."""
    found = number(milliseconds)
    return from_epoch(found / 1000) if found and found > 0 else None


def _block(entry: Document, name: str) -> Document:
    found = entry.get(name)
    return found if isinstance(found, dict) else {}


def split(piece: ChainSlice, days: tuple[date, ...], error: ProviderError) -> list[ChainSlice]:
    """Return the piece in two that ask for less each.

    Raises:
        ProviderError: there is no less to ask for: the error that it was too much.
    """
    if len(days) > 1:
        middle = (len(days) + 1) // 2
        return [ChainSlice(days[:middle], piece.side), ChainSlice(days[middle:], piece.side)]
    if days and piece.side == "ALL":
        return [ChainSlice(days, "CALL"), ChainSlice(days, "PUT")]
    raise error


def parse_expirations(document: Document) -> list[date]:
    """Parse the expirations an underlying has, in order.

    Raises:
        ProviderError: malformed, there is no list of them.
    """
    listed = document.get("expirationList")
    if not isinstance(listed, list):
        raise ProviderError(Verdict.MALFORMED, "schwab: the expiration chain has no list")
    days = (day_of(row.get("expirationDate") or row.get("expiration")) for row in listed if isinstance(row, dict))
    return sorted({day for day in days if day})


def parse_chain(document: Document) -> Chain:
    """Parse the contracts of all expirations in the answer.

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
    has_iv = percent is not None and percent > MIN_IV_PERCENT
    if dead or not (has_iv or any(known[name] for name in GREEKS)):
        return None, dict.fromkeys(GREEKS)
    return percent / 100 if has_iv and percent else None, {name: known[name] for name in GREEKS}


def document_in(reply: Reply, now: datetime, *secrets: str) -> Document:
    """Return the object of an answer with data.

    Raises:
        ProviderError: it is an error in any of its shapes, or no object.
    """
    document, text = decode_json(reply), decode_text(reply)
    if isinstance(document, dict):
        status, words = _complaint(document, reply)
        if words or status >= 400:
            raise _refused(status, words, reply, now, secrets)
        if status == 200:
            return document
    elif "too many requests" in text[:200].lower():
        raise ProviderError(Verdict.RATE_LIMITED, "schwab: too many requests", retry_after(reply, now))
    elif any(sign in text[:500].lower() for sign in _TOO_MUCH) or reply.status == 502:
        raise TooMuchError(Verdict.SERVER_ERROR, f"schwab: answered {reply.status}", retry_after(reply, now))
    elif "request timeout" in text[:200].lower():
        raise ProviderError(Verdict.TIMEOUT, "schwab: its own server did not answer in time", retry_after(reply, now))
    raise error_for_status("schwab", reply, now)


def refuses_token(reply: Reply) -> bool:
    """True if another access token could help. An edge server's 403 says nothing about the token."""
    if reply.status == 401:
        return True
    # Looked for before the body is parsed: nearly every answer is data.
    document = decode_json(reply) if b'"errors"' in reply.body[:100] else None
    return isinstance(document, dict) and bool(words := _complaint(document, reply)) and words[0] == 401


def _complaint(document: Document, reply: Reply) -> tuple[int, str]:
    """Return the status and the words of an error, the body's before the reply's; no words where there is none."""
    errors, fault = document.get("errors"), document.get("fault")
    if isinstance(errors, list):
        listed = [error for error in errors if isinstance(error, dict)]
        status = next((int(found) for error in listed if (found := number(error.get("status")))), reply.status)
        said_so = [str(error.get("detail") or error.get("title") or error.get("message") or "error") for error in listed]
        return max(status, 400), "; ".join(said_so) or "an error without words"
    if isinstance(fault, dict):
        detail = fault.get("detail")
        code = detail.get("errorcode") if isinstance(detail, dict) else detail
        return max(reply.status, 400), f"{fault.get('faultstring') or 'fault'} ({code})"
    words = next((document[key] for key in ("message", "error_description", "error") if isinstance(document.get(key), str)), "")
    return reply.status, words if reply.status != 200 or "error" in document or len(document) == 1 else ""


def _refused(status: int, words: str, reply: Reply, now: datetime, secrets: Iterable[str]) -> ProviderError:
    low, again = words.lower(), retry_after(reply, now)
    message = f"schwab: {sanitize(words, *secrets) or f'answered {status}'}"
    if any(sign in low for sign in _TOO_MUCH) or status == 502:
        return TooMuchError(Verdict.SERVER_ERROR, message, again)
    if status == 429 or any(sign in low for sign in _THROTTLED):
        return ProviderError(Verdict.RATE_LIMITED, message, again)
    if status >= 500 or status == 408:
        return ProviderError(Verdict.TIMEOUT if "timeout" in low or "timed out" in low else Verdict.SERVER_ERROR, message, again)
    if status == 401:
        problem = f"{message}; is the product Market Data part of the application?"
        return ProviderError(Verdict.UNAUTHORIZED, problem)
    if status in (402, 403):
        return ProviderError(Verdict.PLAN_RESTRICTED, message)
    if status == 404 or _NO_SUCH_SYMBOL.search(low):
        return ProviderError(Verdict.NOT_FOUND, message)
    return ProviderError(Verdict.BAD_REQUEST, message)


def refuse_unknown(document: Document) -> None:
    """Raise not_found where an answer holds nothing but symbols that are unknown."""
    if isinstance(document.get("errors"), dict):
        raise ProviderError(Verdict.NOT_FOUND, "schwab: does not know this symbol")
