"""The command line. A command's module is imported when the command runs, not before: help answers at once."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import click

from quotebus.cli.errors import exit_code_of, say, wants_json

_FOLDER = Path(__file__).parent
_FIRST_LINE = re.compile(r'"""`quotebus (\w+)`: (.+?)(?:""")?$')


@cache
def commands() -> Mapping[str, str]:
    """Every command by name, with the line of the listing: the files of this folder that begin by naming theirs.

    So `watch.py` begins with "`quotebus watch`: show prices as they come." and has a command of its name.
    """
    found = {}
    for file in sorted(_FOLDER.glob("*.py")):
        with file.open(encoding="utf-8") as lines:
            named = _FIRST_LINE.match(next(lines, "").rstrip())
        if named and named[1] == file.stem:
            found[file.stem] = named[2][0].upper() + named[2][1:]
    return found


class LazyGroup(click.Group):
    """A group that finds its commands by their files and imports each when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in commands():
            return None
        command: click.Command = getattr(import_module(f"quotebus.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(commands().items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="quotebus")
def root() -> None:
    """Market prices, refreshed on time, inside every provider's limits, on a message bus anyone can listen to."""


def main() -> None:
    """Run the command line of this process and exit: 0 all, 1 partly, 2 none or a wrong use."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors are one line on stderr."""
    try:
        code = root.main(args=list(arguments), prog_name="quotebus", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        say(error, machine=wants_json(arguments))
        return exit_code_of(error)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; Python must not complain about it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0
