"""The command line. A command's module is imported when the command runs, not before: help answers at once."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from quotebus.cli.errors import exit_code_of, say, wants_json

# Command: its module in this package, and the one line that the listing shows.
COMMANDS = {
    "up": ("up", "Run everything here: servers, services, synthetic prices."),
    "refresh": ("refresh", "Have symbols refreshed, and say what became of each."),
    "fetch": ("fetch", "Ask one provider directly; records on stdout."),
    "simulate": ("simulate", "Play a vendor: answers, errors, quotas; no key."),
    "watch": ("watch", "Show prices as they come."),
    "price": ("prices", "Show the price of a symbol, and how old it is."),
    "history": ("prices", "Print the stored bars of a symbol."),
    "jobs": ("jobs", "List, add, change, pause and run jobs."),
    "plan": ("plan", "Show what the jobs will cost, and whether it fits."),
    "runs": ("runs", "Show what ran, and what became of it."),
    "dead": ("dead", "List, show, retry and drop dead letters."),
    "providers": ("providers", "Show what is used of each provider's limits."),
    "symbols": ("symbols", "List symbols that a provider does not have; reset them."),
    "doctor": ("doctor", "Check everything, and say what to do."),
    "status": ("doctor", "Show services, backlog and newest prices in short."),
    "config": ("config", "Show the settings in force, and where each comes from."),
    "migrate": ("migrate", "Bring database and streams up to date."),
    "healthcheck": ("healthcheck", "Exit 0 when the service of this host is ready."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports them when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"quotebus.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


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
