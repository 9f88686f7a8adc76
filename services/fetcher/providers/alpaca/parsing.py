"""Parses Alpaca's responses: pages of bars by symbol, snapshots, rates, corporate actions and errors."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from services.fetcher.adapter.events import Action, Bar, Contract, Quote
from services.fetcher.adapter.fields import EPOCH, Unit, day_of, instant_of, number, option_of, price, unit_of
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

Record = Mapping[str, object]

THROTTLED = ("too many requests", "rate limit")
RESTRICTED = ("subscription", "agreement", "not permit", "not entitled", "upgrade", "insufficient permission")
UNKNOWN = ("invalid symbol", "not found", "could not find", "unknown symbol")
BAD_KEY = ("forbidden", "unauthorized", "not authorized", "access key", "authentication")
A_SESSION = timedelta(hours=25)  # from a day's bar to the end of its day, even of the longest


def parse_document(reply: Reply, now: datetime, *secrets: str) -> Record:
    """Parse the object of an answer.

    Raises:
        ProviderError: it is a message instead, in JSON or as plain text, or cannot be read.
    """
    document = decode_json(reply)
    words = document.get("message") if isinstance(document, dict) else decode_text(reply) if document is None else None
    if isinstance(document, dict) and reply.status == 200 and not isinstance(words, str):
        return document
    if isinstance(words, str) and words and words[:1] != "<":
        raise _refused(words, reply, now, secrets)
    error = error_for_status("alpaca", reply, now)
    error.retry_at = error.retry_at or _window_end(reply, error.verdict)
    raise error


def _refused(words: str, reply: Reply, now: datetime, secrets: Iterable[str]) -> ProviderError:
    low, status = words.lower(), reply.status
    message = f"alpaca: {sanitize(words, *secrets)}"
    if status == 429 or any(sign in low for sign in THROTTLED):
        at = retry_after(reply, now) or _window_end(reply, Verdict.RATE_LIMITED)
        return ProviderError(Verdict.RATE_LIMITED, "alpaca: too many requests", at)
    if status >= 500:
        return error_for_status("alpaca", reply, now)
    # A feed the plan lacks and a wrong key both come as 403: only the words tell one from the other.
    if any(sign in low for sign in RESTRICTED):
        return ProviderError(Verdict.PLAN_RESTRICTED, f"{message}; choose another feed in options, or another plan")
    in_json = decode_json(reply) is not None  # by the vendor's program, not by a server on the way
    if any(sign in low for sign in UNKNOWN) or (status == 404 and in_json):
        return ProviderError(Verdict.NOT_FOUND, message)
    if any(sign in low for sign in BAD_KEY) or (status in (401, 403) and in_json):
        return ProviderError(Verdict.UNAUTHORIZED, "alpaca: the keys are not accepted; set api_key and api_secret")
    if status in (400, 422):
        return ProviderError(Verdict.BAD_REQUEST, message)
    return error_for_status("alpaca", reply, now)


def _window_end(reply: Reply, verdict: Verdict) -> datetime | None:
    """Parse when the minute of a throttled key is over, in seconds since 1970; there is no Retry-After."""
    at = number(reply.headers.get("x-ratelimit-reset"))
    return EPOCH + timedelta(seconds=at) if verdict is Verdict.RATE_LIMITED and at and 0 < at < 1e10 else None


def parse_bars(document: Record) -> dict[str, list[Bar]]:
    """Parse the bars of a page by the vendor's symbol: a list of each, or the latest one. No bars may be an empty object or null.

    Raises:
        ProviderError: malformed, when no bars are spoken of.
    """
    if "bars" not in document:
        raise ProviderError(Verdict.MALFORMED, "alpaca: answered something else instead of bars")
    found = {}
    for symbol, bars in _record(document["bars"]).items():
        records = bars if isinstance(bars, list) else [bars]
        found[symbol.upper()] = [row for record in records if (row := _row(_record(record)))]
    return found


def _row(bar: Record) -> Bar | None:
    at = _at(bar)
    o, h, low, c, volume, trades = (number(bar.get(name)) for name in "ohlcvn")
    return None if at is None else Bar(at, o, h, low, c, volume, trade_count=trades, vwap=number(bar.get("vw")))


def parse_unit(document: Record) -> Unit | None:
    """Parse the currency of the prices; it is named only where it is not the dollar."""
    currency = document.get("currency")
    return unit_of(currency) if isinstance(currency, str) and currency else None


def parse_snapshots(document: Record) -> dict[str, Record]:
    """Snapshots by the vendor's symbol: shares' stand at the top, others in a wrapper. Unknown symbols are null or absent.

    Raises:
        ProviderError: malformed, when there is something else.
    """
    wrapped = document.get("snapshots")
    snapshots = wrapped if isinstance(wrapped, dict) else document
    if not all(snapshot is None or isinstance(snapshot, dict) for snapshot in snapshots.values()):
        raise ProviderError(Verdict.MALFORMED, "alpaca: answered something else instead of snapshots")
    return {symbol.upper(): snapshot for symbol, snapshot in snapshots.items() if isinstance(snapshot, dict)}


def parse_chain(document: Record) -> Iterator[Contract]:
    """Parse the contracts of one page of a chain.

    Raises:
        ProviderError: malformed, when no snapshots are spoken of.
    """
    if "snapshots" not in document:
        raise ProviderError(Verdict.MALFORMED, "alpaca: answered something else instead of a chain")
    for symbol, snapshot in _record(document["snapshots"]).items():
        option = option_of(symbol)
        if option is not None and isinstance(snapshot, dict):
            quote, iv = parse_quote(snapshot), number(snapshot.get("impliedVolatility"))
            # Absent is not computed; a volatility of 0 says that the rest was not computed either.
            greeks = {} if iv is not None and iv <= 0 else _record(snapshot.get("greeks"))
            yield Contract(
                contract=symbol,
                expiry=option.expiry,
                strike=option.strike,
                right=option.right,
                bid=quote.bid,
                ask=quote.ask,
                last=price(_record(snapshot.get("latestTrade")).get("p")),
                volume=quote.volume,
                iv=iv if iv and iv > 0 else None,
                delta=number(greeks.get("delta")),
                gamma=number(greeks.get("gamma")),
                theta=number(greeks.get("theta")),
                vega=number(greeks.get("vega")),
                at=quote.at,
            )


def parse_quote(snapshot: Record) -> Quote:
    """Parse a quote. A newest daily bar of an earlier session is the one that closed last, and today has no volume yet."""
    trade, quote, minute, day, before = (
        _record(snapshot.get(name)) for name in ("latestTrade", "latestQuote", "minuteBar", "dailyBar", "prevDailyBar")
    )
    quoted, traded, session = _at(quote), _at(trade), _at(day)
    newest = max((at for at in (quoted, traded) if at), default=None)
    is_over = newest is not None and session is not None and newest >= session + A_SESSION
    closed = price(day.get("c"))
    return Quote(
        at=quoted or traded,
        price=price(trade.get("p")) or price(minute.get("c")) or closed,
        bid=price(quote.get("bp")),
        ask=price(quote.get("ap")),
        previous_close=closed if is_over else price(before.get("c")),
        volume=None if is_over or closed is None else number(day.get("v")),
    )


def parse_rates(document: Record) -> dict[str, Quote]:
    """Parse the rates of currency pairs: there are no trades, the price is the middle."""
    rates = {pair.upper(): _record(rate) for pair, rate in _record(document.get("rates")).items()}
    return {p: Quote(_at(r), price(r.get("mp")), price(r.get("bp")), price(r.get("ap"))) for p, r in rates.items()}


def parse_actions(document: Record) -> Iterator[tuple[str, Action]]:
    """Parse the vendor's symbols, and what happened to each on its ex-date; a dividend in shares splits them.

    Raises:
        ProviderError: malformed, when no corporate actions are spoken of.
    """
    if "corporate_actions" not in document:
        raise ProviderError(Verdict.MALFORMED, "alpaca: answered something else instead of corporate actions")
    for kind, records in _record(document["corporate_actions"]).items():
        for record in map(_record, records if isinstance(records, list) else ()):
            day, rate = day_of(record.get("ex_date")), number(record.get("rate"))
            new, old = number(record.get("new_rate")), number(record.get("old_rate"))
            symbol = str(record.get("symbol", "")).upper()
            if day and kind == "cash_dividends" and rate:
                yield symbol, Action(day, "dividend", rate)
            elif day and kind == "stock_dividends" and rate:
                yield symbol, Action(day, "split", 1.0 + rate)
            elif day and kind in ("forward_splits", "reverse_splits") and new and old:
                yield symbol, Action(day, "split", new / old)


def _at(record: Record) -> datetime | None:
    """Return the instant of a record; what never happened is dated to the year 1."""
    text = str(record.get("t", ""))
    at = None if text.startswith("0001-") else instant_of(text)
    return at.astimezone(UTC) if at and at > EPOCH else None


def _record(value: object) -> Record:
    return value if isinstance(value, dict) else {}
