"""Output of rows: a table for people; JSON, NDJSON or CSV for programs. The only place that writes data to stdout."""

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, TypeVar

import click

FORMATS = ("table", "json", "ndjson", "csv")
Row = Mapping[str, object]
F = TypeVar("F", bound=Callable[..., Any])


def output_option(default: str = "table", formats: Sequence[str] = FORMATS) -> Callable[[F], F]:
    """The option `-o`."""
    return click.option(
        "-o", "--output", type=click.Choice(formats), default=default, show_default=True, help="How to print what is found."
    )


class Output:
    """Prints rows of like keys in one form, as they come where the form allows it."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.count = 0
        self._held: list[Row] = []

    def add(self, row: Row) -> None:
        """Print one row, or keep it until the end if the form needs all of them."""
        self.count += 1
        if self.form == "table":
            self._held.append(row)
        elif self.form == "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            if self.count == 1:
                writer.writerow(row)
            writer.writerow([_plain(value) for value in row.values()])
        elif self.form == "ndjson":
            sys.stdout.write(_encoded(row) + "\n")
        else:
            sys.stdout.write(("[\n" if self.count == 1 else ",\n") + _encoded(row))

    def end(self, nothing: str = "") -> int:
        """Print what is left and give how many rows there were. `nothing`: told to a person if there were none."""
        if self.form == "json":
            sys.stdout.write("\n]\n" if self.count else "[]\n")
        elif self.form == "table":
            _print_table(self._held)
            if nothing and not self.count:
                click.echo(nothing, err=True)
        return self.count


def write(rows: Iterable[Row], form: str, nothing: str = "") -> int:
    """Print the rows and give how many; see `Output`."""
    output = Output(form)
    for row in rows:
        output.add(row)
    return output.end(nothing)


def text_of(value: object) -> str:
    """One value as a person reads it: UTC, a date where the time is midnight, at most four decimals."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4f}".rstrip("0").rstrip(".")
        case datetime():
            instant = value.astimezone(UTC)
            return f"{instant:%Y-%m-%d}" if instant.time() == time() else f"{instant:%Y-%m-%d %H:%M:%S}Z"
        case list() | tuple():
            return " ".join(map(text_of, value))
        case dict():
            return " ".join(f"{key}={text_of(each)}" for key, each in value.items())
        case _:
            # Text from elsewhere must not steer the terminal.
            return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def age_of(instant: datetime, now: datetime) -> str:
    """Format the age of an instant, in the largest unit that fits."""
    seconds = max(0.0, (now - instant).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _print_table(rows: Sequence[Row]) -> None:
    if not rows:
        return
    names = list(rows[0])
    cells = [[text_of(row.get(name)) for name in names] for row in rows]
    numbers = [all(_is_number(row.get(name)) for row in rows) for name in names]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in [names, *cells]:
        columns = zip(line, widths, numbers, strict=True)
        fields = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in columns)
        sys.stdout.write("  ".join(fields).rstrip() + "\n")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def _plain(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple | dict):
        return text_of(value)
    return value


def _encoded(row: Row) -> str:
    import msgspec

    return msgspec.json.encode(row).decode()
