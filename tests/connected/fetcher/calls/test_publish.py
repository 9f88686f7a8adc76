"""What becomes of an answer on the bus, and what a cacher makes of it."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import decode
from contracts.price_events import PriceQuarantined, PriceQuote
from services.cacher.decode_event import EventDecoder
from services.fetcher.calls.publish import publish_answer
from services.fetcher.provider import ProviderError, Verdict, providers
from services.runtime.bus import Bus, connect
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import topology
from services.runtime.settings import NatsSettings, Settings

PROFILE = providers()["yahoo"].profile
NOW = datetime.now(UTC)
QUOTE = PriceQuote(symbol="ACME", provider="yahoo", feed="delayed", observed_at=NOW, fetched_at=NOW, at=NOW, price=20.0, bid=-3.0)


async def body_of(bus: Bus, subject: str) -> bytes:
    return (await bus.js.get_last_msg(subjects.PRICES, subject)).data or b""


async def test_a_quote_that_cannot_be_is_quarantined_and_does_not_replace_the_last_good_one(nats_url: str) -> None:
    task = FetchTask(
        provider="yahoo",
        lane="live",
        symbol="ACME",
        dataset="quote",
        wanted_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        request_id="r",
        run_id="1",
    )
    good = msgspec.structs.replace(QUOTE, bid=19.5)
    async with connect(NatsSettings(url=nats_url), "test") as bus:
        await provision(bus.js, topology(Settings(), {}))
        assert await publish_answer(bus, PROFILE, task, [good], NOW) == 1
        with pytest.raises(ProviderError, match="quarantine, it broke the rule price_not_positive") as caught:
            await publish_answer(bus, PROFILE, task, [QUOTE], NOW + timedelta(seconds=1))
        told, kept = await body_of(bus, "price.quote.ACME"), await body_of(bus, "price.quarantined.ACME")
    assert caught.value.verdict is Verdict.MALFORMED
    assert decode(told, PriceQuote).bid == 19.5
    quarantined = decode(kept, PriceQuarantined)
    assert (quarantined.dataset, quarantined.timeframe, quarantined.rule) == ("quote", None, ["price_not_positive"])
    assert '"bid":-3.0' in quarantined.row[0]
    # The cacher takes it as it takes a bar's.
    assert EventDecoder().decode("price.quarantined.ACME", kept) == quarantined
