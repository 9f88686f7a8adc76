"""Alpaca's kinds of symbols: path, feed and delay of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote as quoted

from contracts.message import Timeframe
from services.fetcher.adapter.events import EventBuilder
from services.fetcher.adapter.fields import LENGTHS, NEW_YORK, Unit, day_start, option_of, pair_of, period_end, period_start

BARS = {"share": "/v2/stocks/bars", "option": "/v1beta1/options/bars", "crypto": "/v1beta3/crypto/us/bars"}
NEWEST = {"share": "/v2/stocks/bars/latest", "crypto": "/v1beta3/crypto/us/latest/bars"}
SNAPSHOTS = {"share": "/v2/stocks/snapshots", "option": "/v1beta1/options/snapshots", "crypto": "/v1beta3/crypto/us/snapshots"}
RATES = "/v1beta1/forex/latest/rates"
# So many days hold 500 bars of regular sessions.
LATEST_DAYS: dict[Timeframe, int] = {"1m": 4, "5m": 11, "15m": 30, "30m": 59, "1h": 107, "1d": 740, "1wk": 3530, "1mo": 15300}
LONGEST_LIST = 1700  # characters of symbols, so that an address stays below 2000
LATE = timedelta(minutes=15)
CLOCKS = timedelta(minutes=1)  # what our clock and the vendor's may differ
SECOND = timedelta(seconds=1)  # the vendor's ranges hold their end


class Feed(NamedTuple):
    """Feed of shares: the source of bars, for the newest minutes and for quotes, and how late its bars are."""

    bars: str = "sip"
    newest: str = "delayed_sip"
    quotes: str = "iex"
    late: timedelta = LATE


FEEDS = {
    "": Feed(),
    "sip": Feed("sip", "sip", "sip", timedelta()),
    "iex": Feed("iex", "iex", "iex", timedelta()),
    "delayed_sip": Feed(quotes="delayed_sip"),
}
OPTION_FEEDS = {"indicative": LATE, "opra": timedelta()}
# What events call a source, where that is not the vendor's own word.
LABELS = {"delayed_sip": "delayed", "indicative": "delayed", "opra": "consolidated", "": "consolidated"}


class Source(NamedTuple):
    """The feeds of one account."""

    shares: Feed
    options: str

    @classmethod
    def of(cls, options: Mapping[str, str | float]) -> "Source":
        """Return the feeds that the settings name.

        Raises:
            ValueError: there is none of that name.
        """
        feed, option_feed = str(options.get("feed") or ""), str(options.get("option_feed") or "indicative")
        if feed not in FEEDS or option_feed not in OPTION_FEEDS:
            raise ValueError("options: feed is sip, iex or delayed_sip, and option_feed is indicative or opra")
        return cls(FEEDS[feed], option_feed)

    def quotes(self, kind: str) -> str:
        """Return the feed asked for quotes; "" where there is but one."""
        return {"share": self.shares.quotes, "option": self.options}.get(kind, "")

    def placed(self, builder: EventBuilder) -> EventBuilder:
        """Return the builder with the currency, zone, feed and delay of the symbol's kind."""
        kind, pair = kind_of(builder.symbol), pair_of(builder.symbol)
        late = {"share": self.shares.late, "option": OPTION_FEEDS[self.options]}.get(kind, timedelta())
        if builder.call.dataset == "chain":
            late = OPTION_FEEDS[self.options]
        profile = replace(builder.profile, delay_s=late.total_seconds())
        if kind == "share":
            return replace(builder, profile=profile, unit=Unit("USD"), zone=NEW_YORK, feed=self.shares.bars)
        unit, zone = (Unit(pair.quote), "UTC") if pair else (Unit("USD"), NEW_YORK)
        return replace(builder, profile=profile, unit=unit, zone=zone, feed="consolidated")


def kind_of(symbol: str) -> str:
    """share, option, crypto or fx."""
    if option_of(symbol):
        return "option"
    pair = pair_of(symbol)
    return "share" if pair is None else "fx" if pair.fx else "crypto"


def vendor_symbol(symbol: str) -> str:
    """Return a canonical symbol in the vendor's spelling."""
    if option := option_of(symbol):
        return option.symbol
    pair = pair_of(symbol)
    return symbol.upper() if pair is None else f"{pair.base}{'' if pair.fx else '/'}{pair.quote}"


def groups(symbols: Sequence[str]) -> Iterator[list[str]]:
    """Symbols of one kind, as many as an address holds."""
    for kind in dict.fromkeys(map(kind_of, symbols)):
        group: list[str] = []
        length = 0
        for symbol in (s for s in symbols if kind_of(s) == kind):
            size = len(quoted(vendor_symbol(symbol), safe="")) + len("%2C")
            if group and length + size > LONGEST_LIST:
                yield group
                group, length = [], 0
            group.append(symbol)
            length += size
        yield group


def span(builder: EventBuilder) -> tuple[datetime, datetime]:
    """Return the first and last instant to request bars of, both inclusive: whole periods, without what is still embargoed."""
    call, timeframe = builder.call, builder.call.timeframe or "1d"
    late = timedelta(seconds=builder.profile.delay_s)
    newest = builder.now - late - (CLOCKS if late else late)
    if call.start is None or call.end is None:
        first = period_start((newest - timedelta(days=LATEST_DAYS[timeframe])).date(), timeframe)
        return day_start(first, builder.zone), newest
    if timeframe in LENGTHS:
        return day_start(call.start), min(day_start(call.end) - SECOND, newest)
    first = period_start(call.start, timeframe)
    after = period_end(period_start(call.end - timedelta(days=1), timeframe), timeframe)
    return day_start(first, builder.zone), min(day_start(after, builder.zone) - SECOND, newest)
