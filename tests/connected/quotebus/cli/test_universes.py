"""What `quotebus doctor` says of universes."""

from typing import Any

import pytest


async def found(quotebus: Any) -> list[tuple[str, str]]:
    rows = (await quotebus("doctor", "-o", "ndjson")).rows
    return [(row["state"], row["found"]) for row in rows if row["what"] == "universe"]


async def test_an_empty_universe_that_a_job_asks_for_is_a_warning_and_a_broken_one_a_failure(
    servers: None, quotebus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await quotebus("migrate")).code == 0
    assert await found(quotebus) == []
    await quotebus("jobs", "add", "a", "--universe", "watchlist", "--every", "1h", "--timeframe", "1d")
    assert await found(quotebus) == [("warn", "watchlist: empty")]
    monkeypatch.setenv("QUOTEBUS_UNIVERSES__WATCHLIST__PRE_POPULATE", '["A", "B"]')
    assert await found(quotebus) == [("ok", "watchlist: 2 symbols")]
    monkeypatch.setenv("QUOTEBUS_UNIVERSES__WATCHLIST__SQL", "SELECT nothing")
    [(state, said)] = await found(quotebus)
    assert state == "fail"
    assert 'column "nothing" does not exist' in said
