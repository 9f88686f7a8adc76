"""The live stream over HTTP: in order and without a gap, through a killed NATS and a killed gateway; nobody's buffer grows."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from contracts import subjects
from tests.cacher.events import bars, quote, subject
from tests.connected.deployment import Deployment, until
from tests.connected.gateway.gateway_harness import Http, with_gateways


@dataclass
class Reader:
    """One event stream, and what came by it."""

    answer: aiohttp.ClientResponse
    ids: list[int] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)

    async def until(self, count: int) -> None:
        """Read on until so many events are there."""
        async with asyncio.timeout(30):
            while len(self.events) < count:
                await self._one()

    async def _one(self) -> None:
        lines = (await self.answer.content.readuntil(b"\n\n")).decode().splitlines()
        said = {name: text for name, _, text in (line.partition(": ") for line in lines if line)}
        if "data" in said:
            self.ids.append(int(said["id"]))
            self.events.append((said.get("event"), json.loads(said["data"])))

    @property
    def prices(self) -> list[float]:
        return [event["price"] for _, event in self.events]


@asynccontextmanager
async def reading(http: Http, query: str = "", **headers: str) -> AsyncIterator[Reader]:
    sent = http.headers({name.replace("_", "-"): value for name, value in headers.items()})
    async with http.session.get(f"{http.url}/stream{query}", headers=sent, timeout=aiohttp.ClientTimeout()) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        # The stream is there when something has been said.
        await answer.content.readuntil(b"\n\n")
        yield Reader(answer)
        answer.close()


async def publish(deployment: Deployment, *events: Any) -> list[int]:
    return [(await deployment.bus.publish(subject(event), event)).seq for event in events]


async def consumers(deployment: Deployment) -> int:
    found = await deployment.bus.js.consumers_info(subjects.PRICES)
    return sum(str(each.name).startswith("gateway-") for each in found)


async def test_events_of_a_pattern_come_in_order_with_their_numbers(tmp_path: Path) -> None:
    async with with_gateways(tmp_path) as (deployment, [http]):
        await publish(deployment, quote("AAPL", 1.0), quote("AAPL", 2.0), quote("MSFT", 3.0))
        async with reading(http, "?subject=quote.AAPL&from=last") as one, reading(http, "?subject=price.>") as every:
            await until(lambda: holds(deployment, 2))
            sent = await publish(deployment, quote("MSFT", 4.0), quote("AAPL", 5.0), bars("AAPL"))
            await one.until(2)
            await every.until(3)
        assert (one.prices, one.ids) == ([2.0, 5.0], [2, sent[1]])
        assert every.ids == sent
        assert [event["type"] for _, event in every.events] == ["price_quote.v1", "price_quote.v1", "price_bars.v1"]
        # Readers who have gone leave nothing behind.
        await until(lambda: holds(deployment, 0))


async def holds(deployment: Deployment, count: int) -> bool:
    return await consumers(deployment) == count


async def test_a_reader_goes_on_after_the_last_event_it_has_at_any_gateway(tmp_path: Path) -> None:
    async with with_gateways(tmp_path, count=2) as (deployment, [first, second]):
        async with reading(first) as reader:
            await publish(deployment, *(quote("AAPL", float(n)) for n in range(5)))
            await reader.until(5)
        await deployment.services["gateway0"].kill()
        await publish(deployment, *(quote("AAPL", float(n)) for n in range(5, 8)))
        async with reading(second, Last_Event_ID=str(reader.ids[2])) as again:
            await again.until(5)
        assert again.prices == [3.0, 4.0, 5.0, 6.0, 7.0]
        async with reading(second, f"?last_event_id={reader.ids[-1]}") as again:
            await again.until(3)
        assert again.prices == [5.0, 6.0, 7.0]


async def test_a_killed_nats_costs_a_reader_no_event_and_no_event_comes_twice(tmp_path: Path) -> None:
    async with with_gateways(tmp_path) as (deployment, [http]), reading(http) as reader:
        await until(lambda: holds(deployment, 1))
        await publish(deployment, *(quote("AAPL", float(n)) for n in range(10)))
        await reader.until(4)
        for round_ in (1, 2):
            await deployment.nats.kill()
            await asyncio.sleep(0.5)
            await deployment.nats.start()
            await publish(deployment, *(quote("AAPL", float(n)) for n in range(10 * round_, 10 * round_ + 10)))
        await reader.until(30)
        assert reader.prices == [float(n) for n in range(30)]
        assert reader.ids == sorted(set(reader.ids))


async def test_a_reader_is_told_of_events_that_are_no_longer_there(tmp_path: Path) -> None:
    async with with_gateways(tmp_path) as (deployment, [http]):
        await publish(deployment, *(quote("AAPL", float(n)) for n in range(6)))
        await deployment.bus.js.purge_stream(subjects.PRICES, seq=5)
        async with reading(http, Last_Event_ID="2") as reader:
            await reader.until(3)
        assert reader.events[0] == ("gap", {"first": 3, "last": 4})
        assert [event["price"] for kind, event in reader.events if kind is None] == [4.0, 5.0]
        async with reading(http, Last_Event_ID="900") as reader:
            await publish(deployment, quote("AAPL", 7.0))
            await reader.until(2)
        assert reader.events[0] == ("gap", {"first": 1, "last": 6}), "another stream than the one it knew"
        assert reader.events[1][1]["price"] == 7.0


async def test_a_reader_who_takes_nothing_is_cut_off_and_costs_the_others_nothing(tmp_path: Path) -> None:
    async with with_gateways(tmp_path, slow_client_s="0.5") as (deployment, [http]):
        where = urlsplit(http.url)
        _, slow = await asyncio.open_connection(where.hostname, where.port, limit=1024)
        slow.write(b"GET /stream?subject=%3E HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await until(lambda: holds(deployment, 1))
        async with reading(http, "?subject=%3E") as quick:
            await until(lambda: holds(deployment, 2))
            wide = bars("AAPL", tuple(100.0 + n for n in range(2000)))
            for _ in range(40):
                await publish(deployment, wide)
            await quick.until(40)
            await until(lambda: holds(deployment, 1))
        slow.close()
        with suppress(ConnectionError):
            await slow.wait_closed()


async def test_no_more_streams_are_open_than_the_settings_allow(tmp_path: Path) -> None:
    async with with_gateways(tmp_path, streams="2") as (_, [http]):
        async with reading(http), reading(http):
            refused = await http.get("/stream")
            assert (refused.status, refused.json["type"]) == (503, "urn:quotebus:too_many_streams")
            assert "Retry-After" in refused.headers

        async def free() -> bool:
            async with http.session.get(f"{http.url}/stream", headers=http.headers()) as answer:
                free = answer.status == 200
                answer.close()
                return free

        await until(free)


async def test_a_gateway_that_is_told_to_stop_ends_its_streams_and_stops(tmp_path: Path) -> None:
    async with with_gateways(tmp_path) as (deployment, [http]), reading(http) as reader:
        service = deployment.services["gateway0"]
        await service.stop(10)
        assert await service.ended() == 0
        with pytest.raises((aiohttp.ClientError, asyncio.IncompleteReadError)):
            await reader.until(1)
        assert "request_failed" not in deployment.log("gateway0")


async def test_with_nats_down_changes_are_refused_as_unsure_and_prices_are_read(tmp_path: Path) -> None:
    async with with_gateways(tmp_path, ("cacher",)) as (deployment, [http]):
        await publish(deployment, quote("AAPL", 1.0))

        async def stored() -> bool:
            return (await http.get("/prices/AAPL")).status == 200

        await until(stored)
        await deployment.nats.kill()
        for method, path, body in (
            ("POST", "/scheduler/jobs", {"id": "a", "symbols": ["A"], "every_s": 60}),
            ("POST", "/refresh", {"symbols": ["A"]}),
        ):
            answer = await http.ask(method, path, body)
            assert (answer.status, answer.json["type"]) == (503, "urn:quotebus:nats_unavailable")
            assert "look and repeat" in answer.json["detail"]
        assert (await http.get("/prices/AAPL")).status == 200
        await deployment.nats.start()

        async def made() -> bool:
            return (await http.post("/scheduler/jobs", {"id": "b", "symbols": ["A"], "every_s": 60})).status in (201, 409)

        await until(made)
