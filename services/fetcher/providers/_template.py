"""Template: a complete adapter of an imaginary vendor, to copy to `providers/NAME.py`. Its underscore hides it from discovery.

Source: https://api.example.com/docs (here belongs the vendor's own documentation)
Limits: a free key has 60 calls a minute. A page of bars holds 1000 rows and names the next one.
Units: dollars per share, raw as traded; the volume counts shares. A bar is dated by its session, a quote by epoch seconds.
Quirks: an unknown symbol is a 404; the other refusals say in `error` what is wrong, some with status 200.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Bar, EventBuilder, Quote
from services.fetcher.adapter.fields import NEW_YORK, Unit, dashed_class, day_of, day_start, from_epoch, number, price
from services.fetcher.adapter.responses import decode_json, error_for_status, fetch_each, fetch_pages, retry_after, sanitize
from services.fetcher.provider import (
    Answer,
    Credentials,
    FetchCall,
    Http,
    Limits,
    Profile,
    ProviderError,
    Reply,
    Verdict,
    refuse_unoffered,
)

Document = Mapping[str, Any]

LATEST_DAYS = 740  # hold 500 sessions


class Template:
    """Adapter of the imaginary vendor."""

    profile = Profile(
        name="template",
        base_url="https://api.example.com",
        offers={"bars": ("1d",), "quote": ()},
        basis="raw",
        feed="eod",
        limits=Limits(per_minute=60, day_zone=NEW_YORK),
    )

    def __init__(self, credentials: Credentials) -> None:
        self._key = credentials.api_key
        # In a header, not in the path: paths are logged.
        self._headers = {"Authorization": f"Bearer {self._key}"}

    def to_vendor(self, symbol: str) -> str:
        """`BRK-B` for BRK.B."""
        return dashed_class(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`."""
        refuse_unoffered(self.profile, call)
        fetch = self._bars if call.dataset == "bars" else self._quote
        builder = partial(EventBuilder, self.profile, call, now=now, unit=Unit("USD"), zone=NEW_YORK)
        return await fetch_each(call.symbols, lambda symbol: fetch(builder(symbol), http))

    async def _bars(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        call, today = builder.call, builder.now.date()
        first, last = call.start or today - timedelta(days=LATEST_DAYS), call.end - timedelta(days=1) if call.end else today
        params = {"symbol": self.to_vendor(builder.symbol), "from": str(first), "to": str(last)}

        async def page(token: str) -> tuple[list[Bar], str]:
            reply = await http.get("/v1/bars", params | {"page": token}, self._headers)
            document = parse_document(reply, builder.now, self._key)
            return list(parse_bars(document)), str(document.get("next_page") or "")

        pages = await fetch_pages("template", page)
        return builder.bars(bar for bars in pages for bar in bars)

    async def _quote(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        params = {"symbol": self.to_vendor(builder.symbol)}
        quote = parse_quote(parse_document(await http.get("/v1/quote", params, self._headers), builder.now, self._key))
        if quote.price is None and quote.bid is None and quote.ask is None:
            raise ProviderError(Verdict.EMPTY, f"template: has no quote of {builder.symbol}")
        return [builder.quote(quote, quote.at)]


def parse_document(reply: Reply, now: datetime, key: str) -> Document:
    """Decode a response that holds `data`.

    Raises:
        ProviderError: the vendor refuses, or the response is not in the documented shape.
    """
    document = decode_json(reply)
    if isinstance(document, dict):
        if reply.status == 200 and isinstance(document.get("data"), (dict, list)):
            return document
        if isinstance(words := document.get("error"), str):
            raise _error(words, reply, now, key)
    raise error_for_status("template", reply, now)


def _error(words: str, reply: Reply, now: datetime, key: str) -> ProviderError:
    """Map the vendor's words to a verdict where they say more than the status."""
    message = f"template: {sanitize(words, key)}"
    if reply.status == 404:
        return ProviderError(Verdict.NOT_FOUND, message)
    if reply.status == 403 or "upgrade" in words.lower():
        return ProviderError(Verdict.PLAN_RESTRICTED, message)
    if reply.status in (200, 400):
        return ProviderError(Verdict.BAD_REQUEST, message, retry_after(reply, now))
    return error_for_status("template", reply, now)


def parse_bars(document: Document) -> Iterator[Bar]:
    """Parse the rows of a page; one without a readable date is left out. `EventBuilder.bars` leaves out those without prices."""
    rows = document["data"] if isinstance(document["data"], list) else []
    for row in rows:
        if isinstance(row, dict) and (day := day_of(row.get("date"))):
            opens, high, low, close = (price(row.get(name)) for name in ("open", "high", "low", "close"))
            yield Bar(day_start(day, NEW_YORK), opens, high, low, close, number(row.get("volume")))


def parse_quote(document: Document) -> Quote:
    """Parse a quote; what is missing or no price is unknown."""
    row = document["data"] if isinstance(document["data"], dict) else {}
    return Quote(
        at=from_epoch(row.get("time")),
        price=price(row.get("last")),
        bid=price(row.get("bid")),
        ask=price(row.get("ask")),
        previous_close=price(row.get("previous_close")),
        volume=number(row.get("volume")),
    )


PROVIDER = Template
