"""`quotebus config`: show the settings in force, and where each comes from."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from quotebus.cli.context import CommandContext, config_options, without_password
from quotebus.cli.output import Row, output_option, write

if TYPE_CHECKING:
    from quotebus.cli.local_settings import LocalSettings
    from services.runtime.settings import Section

HIDDEN = "***"


@click.group()
def config() -> None:
    """Show the settings in force, and where each comes from."""


@config.command()
@click.option("--origin", is_flag=True, help="Also where each value comes from: default, a file, or a variable.")
@output_option()
@config_options
def show(place: CommandContext, *, origin: bool, output: str) -> None:
    """Print every setting with its value; of secrets only that they are set."""
    here = place.here()
    write(_rows(here, origin=origin), output)


def _rows(here: "LocalSettings", *, origin: bool) -> Iterator[Row]:
    for key, value in _leaves(here.settings, ()):
        row = {"setting": ".".join(key), "value": shown(value)}
        yield {**row, "origin": here.origin(*key)} if origin else row


def _leaves(node: "Section", above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    from services.runtime.settings import Section

    for name in node.__struct_fields__:
        value = getattr(node, name)
        key = (*above, name)
        if isinstance(value, Section):
            yield from _leaves(value, key)
        elif name in ("providers", "keys", "universes"):
            for named, table in value.items():
                yield from _leaves(table, (*key, named))
        elif name == "notify":
            # An address of Slack's, say, is a secret from its first letter to its last.
            yield key, [{"id": each.id, "url": HIDDEN, "jobs": each.jobs, "on": each.on} for each in value]
        else:
            yield key, value


def shown(value: object) -> object:
    """The value as it may be shown: no secret, and no password within an address."""
    from services.runtime.settings import Secret

    if isinstance(value, Secret):
        text = value.get_secret_value()
        return without_password(text) if "://" in text else HIDDEN
    if isinstance(value, str) and "://" in value:
        return ",".join(map(without_password, value.split(",")))
    if isinstance(value, Mapping):
        return {key: shown(each) for key, each in value.items()}
    return [shown(each) for each in value] if isinstance(value, list) else value
