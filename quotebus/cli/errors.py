"""Errors of a command: one line on stderr that says what to do, and an exit code."""

import json
from collections.abc import Sequence

import click

NOTHING_DONE = 2


class CommandError(click.ClickException):
    """Nothing could be done. `kind` is for programs: a verdict, or a word such as `unreachable`."""

    exit_code = NOTHING_DONE

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def wants_json(arguments: Sequence[str]) -> bool:
    """True if the arguments select JSON output; scanned without the parser, as an error may precede parsing."""
    for index, argument in enumerate(arguments):
        if argument in ("-o", "--output") and arguments[index + 1 : index + 2]:
            return arguments[index + 1] in ("json", "ndjson")
        if argument in ("-ojson", "-ondjson", "--output=json", "--output=ndjson", "--json"):
            return True
    return False


def exit_code_of(error: click.ClickException) -> int:
    """2 for all that click itself finds wrong, else what the error says."""
    return error.exit_code if isinstance(error, CommandError) else NOTHING_DONE


def say(error: click.ClickException, *, machine: bool) -> None:
    """Print the error on stderr: as `{"error": …, "message": …}` for a `machine`, else as a line for people."""
    message = error.format_message()
    if machine:
        kind = error.kind if isinstance(error, CommandError) else "usage" if isinstance(error, click.UsageError) else "error"
        click.echo(json.dumps({"error": kind, "message": message}), err=True)
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f" (see `{error.ctx.command_path} --help`)"
    click.echo(f"quotebus: {message}", err=True)
