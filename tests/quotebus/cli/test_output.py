"""How rows are printed, in each of the forms."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from quotebus.cli.output import age_of, text_of, write

AT = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
ROWS = [
    {"symbol": "AAPL", "at": datetime(2024, 1, 2, tzinfo=UTC), "close": 185.64, "volume": None, "final": True},
    {"symbol": "BRK.B", "at": AT, "close": 1234.5, "volume": 3.0, "final": False},
]


def test_a_table_lines_up_and_names_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert write(ROWS, "table") == 2
    assert capsys.readouterr().out.splitlines() == [
        "symbol  at                     close  volume  final",
        "AAPL    2024-01-02            185.64       -  yes",
        "BRK.B   2024-01-02 14:30:00Z  1234.5       3  no",
    ]


def test_json_is_one_list_and_ndjson_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    write(ROWS, "json")
    whole = json.loads(capsys.readouterr().out)
    write(ROWS, "ndjson")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert whole == lines
    assert whole[1] == {"symbol": "BRK.B", "at": "2024-01-02T14:30:00Z", "close": 1234.5, "volume": 3.0, "final": False}
    assert whole[0]["volume"] is None


def test_csv_has_a_header_and_leaves_the_unknown_empty(capsys: pytest.CaptureFixture[str]) -> None:
    write(ROWS, "csv")
    assert capsys.readouterr().out.splitlines() == [
        "symbol,at,close,volume,final",
        "AAPL,2024-01-02T00:00:00Z,185.64,,true",
        "BRK.B,2024-01-02T14:30:00Z,1234.5,3.0,false",
    ]


def test_no_rows_are_valid_in_every_form_and_told_to_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    for form, printed in (("table", ""), ("json", "[]\n"), ("ndjson", ""), ("csv", "")):
        assert write([], form, "nothing there") == 0
        captured = capsys.readouterr()
        assert captured.out == printed
        assert captured.err == ("nothing there\n" if form == "table" else "")


def test_text_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert text_of("\x1b[31mred\r") == "?[31mred?"


def test_an_age_is_told_in_the_largest_unit_that_fits() -> None:
    ages = [age_of(AT, AT + timedelta(seconds=seconds)) for seconds in (-1, 5, 90, 5400, 172800)]
    assert ages == ["0.0 s", "5.0 s", "1.5 min", "1.5 h", "2.0 d"]
