"""Parses Polygon's responses: aggregates, snapshots, option contracts, corporate actions and errors."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from services.fetcher.adapter.events import Action, Bar, Contract, Quote
from services.fetcher.adapter.fields import EPOCH, NEW_YORK, day_of, number, price
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, quota_window_end, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

Record = Mapping[str, object]

GOOD = ("OK", "DELAYED", "SUCCESS")
CONTENT = ("results", "ticker", "tickers")  # older answers have no status
THROTTLED = ("maximum requests", "too many requests", "rate limit")
BAD_KEY = ("api key", "apikey", "auth_failed")
RESTRICTED = ("not_authorized", "entitled", "upgrade", "your plan", "subscription")
SUNDAY = 6


def parse_document(reply: Reply, now: datetime, *secrets: str) -> Record:
    """Parse the envelope of an answer. A status of DELAYED is as good as OK.

    Raises:
        ProviderError: it tells of an error, or there is none.
    """
    document = decode_json(reply)
    if not isinstance(document, dict):
        if any(sign in decode_text(reply)[:300].lower() for sign in THROTTLED):
            raise _throttled(decode_text(reply), reply, now)
        raise error_for_status("polygon", reply, now)
    status = str(document.get("status") or "").upper()
    words = document.get("error") or document.get("message")
    is_good = status in GOOD or (not status and any(name in document for name in CONTENT))
    if reply.status == 200 and is_good and not document.get("error"):
        return document
    raise _refused(f"{status} {words}" if status and words else str(words or status), reply, now, *secrets)


def _refused(words: str, reply: Reply, now: datetime, *secrets: str) -> ProviderError:
    low, status = words.lower(), reply.status
    message = f"polygon: {sanitize(words, *secrets)}"
    if status == 429 or any(sign in low for sign in THROTTLED):
        return _throttled(low, reply, now)
    if status >= 500:
        return error_for_status("polygon", reply, now)
    # Before the plan's refusals: those of a key may also speak of authorization.
    if any(sign in low for sign in BAD_KEY):
        return ProviderError(Verdict.UNAUTHORIZED, "polygon: the key is not accepted; set api_key")
    if any(sign in low for sign in RESTRICTED) or status in (402, 403):
        return ProviderError(Verdict.PLAN_RESTRICTED, f"{message}; it wants another plan")
    if status == 401:
        return ProviderError(Verdict.UNAUTHORIZED, "polygon: the key is not accepted; set api_key")
    if status == 404 or "not_found" in low or "notfound" in low or "not found" in low:
        return ProviderError(Verdict.NOT_FOUND, message if words else "polygon: knows nothing of that name")
    if words and status in (200, 400, 409, 422):
        return ProviderError(Verdict.BAD_REQUEST, message)
    return error_for_status("polygon", reply, now)


def _throttled(words: str, reply: Reply, now: datetime) -> ProviderError:
    at = retry_after(reply, now) or quota_window_end(words, now, "UTC")
    return ProviderError(Verdict.RATE_LIMITED, "polygon: too many requests", at)


def parse_rows(records: Iterator[Record], timeframe: Timeframe, zone: str) -> Iterator[Bar]:
    """Aggregates. The vendor's week begins on Sunday, before the Monday which stands for it."""
    for record in records:
        at = from_any_epoch(record.get("t"))
        if at is None:
            continue
        if timeframe == "1wk" and at.astimezone(ZoneInfo(zone)).weekday() == SUNDAY:
            at += timedelta(hours=36)  # some time on Monday, whether that Sunday has 23, 24 or 25 hours
        o, h, low, c, volume, trades = (number(record.get(name)) for name in "ohlcvn")
        yield Bar(at, o, h, low, c, volume, trade_count=trades, vwap=number(record.get("vw")))


def parse_quote(snapshot: Record) -> Quote:
    """Parse the snapshot of a share, or of a pair. Lower case is the bid, upper case the ask, but a currency's are `b` and `a`.

    From early morning until the first trade the day is all zeros.
    """
    quote, trade, minute, day, before = (
        record_of(snapshot.get(name)) for name in ("lastQuote", "lastTrade", "min", "day", "prevDay")
    )
    closed = price(day.get("c"))
    return Quote(
        at=from_any_epoch(quote.get("t")) or from_any_epoch(trade.get("t")) or from_any_epoch(snapshot.get("updated")),
        price=price(trade.get("p")) or price(minute.get("c")) or closed,
        bid=price(quote.get("p")) or price(quote.get("b")),
        ask=price(quote.get("P")) or price(quote.get("a")),
        previous_close=price(before.get("c")),
        volume=None if closed is None else number(day.get("v")),
    )


def parse_quotes(document: Record, tickers: Sequence[str]) -> dict[str, Quote | None]:
    """Parse the snapshots by ticker: one is an object under the name it was asked for, several are a list."""
    several = document.get("tickers")
    if isinstance(several, list):
        return {str(record.get("ticker")): parse_quote(record) for record in map(record_of, several)}
    found = record_of(document.get("ticker"))
    return {tickers[0]: parse_quote(found) if found else None}


def parse_index(record: Record) -> Quote:
    """Parse the value of an index."""
    session = record_of(record.get("session"))
    return Quote(
        at=from_any_epoch(record.get("last_updated")),
        price=price(record.get("value")) or price(session.get("close")),
        previous_close=price(session.get("previous_close")),
    )


def errors_of(records: Iterator[Record]) -> dict[str, ProviderError]:
    """Return the tickers that have an error in place of a value: unknown, or not for this key."""
    found = {}
    for record in records:
        if error := record.get("error"):
            verdict = Verdict.NOT_FOUND if "NOT_FOUND" in str(error).upper() else Verdict.PLAN_RESTRICTED
            found[str(record.get("ticker"))] = ProviderError(verdict, f"polygon: {sanitize(record.get('message') or error)}")
    return found


def parse_contract(record: Record) -> Contract | None:
    """One option; None for what is neither call nor put, or has no date.

    The day's bar is the newest there was, maybe not of today: then today has no volume.
    """
    details, quote, trade, day = (record_of(record.get(name)) for name in ("details", "last_quote", "last_trade", "day"))
    expiry, kind = day_of(details.get("expiration_date")), str(details.get("contract_type")).lower()
    if expiry is None or kind not in ("call", "put"):
        return None
    quoted, traded = from_any_epoch(quote.get("last_updated")), from_any_epoch(trade.get("sip_timestamp"))
    iv = number(record.get("implied_volatility"))
    # An empty object is not computed; a volatility of 0 says that the rest was not computed either.
    greeks = {} if iv is not None and iv <= 0 else record_of(record.get("greeks"))
    return Contract(
        contract=str(details.get("ticker") or record.get("ticker") or ""),
        expiry=expiry,
        strike=number(details.get("strike_price")) or 0.0,
        right="call" if kind == "call" else "put",
        bid=price(quote.get("bid")),
        ask=price(quote.get("ask")),
        last=price(trade.get("price")) or price(day.get("close")),
        mark=price(quote.get("midpoint")),
        volume=number(day.get("volume")) if _same_day(day.get("last_updated"), quoted or traded) else None,
        open_interest=number(record.get("open_interest")),
        iv=iv if iv and iv > 0 else None,
        delta=number(greeks.get("delta")),
        gamma=number(greeks.get("gamma")),
        theta=number(greeks.get("theta")),
        vega=number(greeks.get("vega")),
        at=quoted or traded,
    )


def _same_day(updated: object, now: datetime | None) -> bool:
    """True if the day's bar is that of the quote; without either time it is taken for it."""
    at, zone = from_any_epoch(updated), ZoneInfo(NEW_YORK)
    return at is None or now is None or at.astimezone(zone).date() >= now.astimezone(zone).date()


def quote_of(record: Record) -> Quote | None:
    """Return the quote of the contract that `parse_contract` reads."""
    contract = parse_contract(record)
    if contract is None:
        return None
    closed = price(record_of(record.get("day")).get("previous_close"))
    return Quote(contract.at, contract.last, contract.bid, contract.ask, closed, contract.volume)


def parse_actions(records: Iterator[Record], ticker: str) -> Iterator[Action]:
    """Parse the splits of one answer, the dividends of another, of this ticker only."""
    for record in records:
        if str(record.get("ticker") or ticker) != ticker:
            continue
        new, old, cash = (number(record.get(name)) for name in ("split_to", "split_from", "cash_amount"))
        if new and old and (day := day_of(record.get("execution_date"))):
            yield Action(day, "split", new / old)
        if cash and (day := day_of(record.get("ex_dividend_date"))):
            yield Action(day, "dividend", cash)


def from_any_epoch(value: object) -> datetime | None:
    """Return the instant so many seconds, or thousandths, millionths, thousand-millionths of one, after 1970; 0 is unknown."""
    seconds = number(value)
    if not seconds or seconds < 0:
        return None
    while seconds > 1e11:
        seconds /= 1000
    return EPOCH + timedelta(seconds=seconds)


def results_of(documents: list[Record]) -> Iterator[Record]:
    """Return the records of all pages; without any there is no `results` at all."""
    for document in documents:
        results = document.get("results")
        yield from (record for record in (results if isinstance(results, list) else [results]) if isinstance(record, dict))


def record_of(value: object) -> Record:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
