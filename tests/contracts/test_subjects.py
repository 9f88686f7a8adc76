"""Subjects: every symbol comes back, none shares a token, and what is published lands in its stream and no other."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts import subjects
from contracts.fetch_task import FetchTask

AT = datetime(2026, 1, 2, tzinfo=UTC)


def encodable(symbol: str) -> bool:
    try:
        return 0 < len(symbol.encode()) <= 64
    except UnicodeEncodeError:
        return False


@given(st.text(min_size=1, max_size=64).filter(encodable))
@example("BRK.B")
@example("_")
@example("A_.B")
@example("%5F")
@example("0700.HK")
@example("O:SPY251219C00650000")
@example("* >")
def test_every_symbol_comes_back_and_its_token_is_one_token(symbol: str):
    token = subjects.symbol_token(symbol)
    assert subjects.symbol_from_token(token) == symbol
    assert not set(token) & set(". *>\t\r\n")
    assert token.isascii()


@given(st.text(max_size=64).filter(encodable), st.text(max_size=64).filter(encodable))
@example("A_.B", "A._B")
@example("a.b", "a_b")
def test_no_two_symbols_share_a_token(one: str, other: str):
    assert (subjects.symbol_token(one) == subjects.symbol_token(other)) == (one == other)


@pytest.mark.parametrize("symbol", ["", "A" * 65, "é" * 33, "\ud800"])
def test_what_is_no_symbol_is_refused(symbol: str):
    with pytest.raises(ValueError, match="symbol"):
        subjects.symbol_token(symbol)


@given(st.text(max_size=40))
@example("BRK.B")
@example("%5f")
@example("%41")
def test_a_token_that_no_symbol_gives_is_refused(token: str):
    try:
        symbol = subjects.symbol_from_token(token)
    except ValueError:
        return
    assert subjects.symbol_token(symbol) == token


def test_known_symbols_look_as_people_type_them():
    assert [subjects.symbol_token(s) for s in ("BRK.B", "^GSPC", "EURUSD=X", "BTC-USD")] == [
        "BRK_B",
        "^GSPC",
        "EURUSD=X",
        "BTC-USD",
    ]


def matches(pattern: str, subject: str) -> bool:
    wanted, got = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(got) >= len(wanted) and matches(".".join(wanted[:-1]), ".".join(got[: len(wanted) - 1]))
    return len(wanted) == len(got) and all(w in ("*", g) for w, g in zip(wanted, got, strict=True))


def published() -> dict[str, str]:
    """A subject of every kind, and the stream it belongs to."""
    task = FetchTask(
        provider="p",
        lane="live",
        symbol="BRK.B",
        dataset="bars",
        timeframe="1d",
        wanted_at=AT,
        expires_at=AT,
        request_id="r",
        run_id="1",
    )
    return {
        subjects.refresh_request("live"): subjects.REFRESH,
        subjects.refresh_request("live", "eod"): subjects.REFRESH,
        subjects.fetch_task(task): subjects.TASKS,
        subjects.price("bars", "1d", "BRK.B"): subjects.PRICES,
        subjects.price("quote", None, "BRK.B"): subjects.PRICES,
        subjects.price("chain", None, "BRK.B"): subjects.PRICES,
        subjects.price("actions", None, "BRK.B"): subjects.PRICES,
        subjects.price_corrected("1d", "BRK.B"): subjects.PRICES,
        subjects.price_quarantined("BRK.B"): subjects.PRICES,
        subjects.run("planned", None): subjects.RUNS,
        subjects.run("result", "eod"): subjects.RUNS,
        subjects.run("finished", "eod"): subjects.RUNS,
        subjects.dead("not_found"): subjects.DEAD,
        subjects.symbol_health("p", "bars", "1d", "BRK.B"): subjects.SYMBOLS,
        subjects.symbol_health("p", "quote", None, "BRK.B"): subjects.SYMBOLS,
    }


def test_what_is_published_lands_in_its_stream_and_in_no_other():
    for subject, stream in published().items():
        homes = {name for name, patterns in subjects.STREAM_SUBJECTS.items() if any(matches(p, subject) for p in patterns)}
        assert homes == {stream}, subject


def test_what_answers_a_request_is_kept_by_no_stream():
    assert not any(matches(p, subjects.REFRESH_ASK) for patterns in subjects.STREAM_SUBJECTS.values() for p in patterns)


def test_a_task_says_its_range_in_its_subject():
    assert subjects.range_token(None, None) == "latest"
    assert subjects.range_token(date(2024, 1, 2), date(2024, 2, 1)) == "20240102-20240201"


def test_a_request_subject_is_read_back():
    assert subjects.parse_refresh_request("refresh.request.live.eod") == ("live", "eod")
    assert subjects.parse_refresh_request("refresh.request.manual") == ("manual", None)
