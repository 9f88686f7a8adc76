"""Which symbols a request means."""

from contracts.refresh_request import RefreshRequest
from services.fetcher.planning.universe import Universe


async def test_a_request_that_wants_no_more_than_so_many_gets_the_first_each_once() -> None:
    universe = Universe("postgresql://nobody@127.0.0.1:1/nothing", {})
    request = RefreshRequest(symbols=["aapl", "AAPL", "MSFT", "BRK.B"], max_symbols=2)
    assert list(await universe.symbols(request)) == ["AAPL", "MSFT"]
    assert len(await universe.symbols(RefreshRequest(symbols=["A", "B", "C"]))) == 3
