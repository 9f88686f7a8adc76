"""`quotebus healthcheck`: exit 0 when the service of this host is ready."""

import os
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import click

from quotebus.cli.errors import CommandError

_DEFAULT_PORT = 8080


@click.command()
@click.option("--url", help="Ask this address instead of the port of the settings.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="Seconds.")
def healthcheck(url: str | None, timeout_s: float) -> int:
    """Exit 0 when the service of this host is ready, 1 when it is not."""
    asked = url or f"http://127.0.0.1:{_port()}/readyz"
    if not asked.startswith(("http://", "https://")):
        raise CommandError("usage", f"--url {asked}: give an http:// address")
    # Never through a proxy: the service is on this very host.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=timeout_s) as answer:
            answer.read()
            return 0
    except urllib.error.HTTPError as error:
        click.echo(f"quotebus: not ready: {error.read(2000).decode(errors='replace')}", err=True)
    except OSError as error:
        click.echo(f"quotebus: no answer from {asked}: {getattr(error, 'reason', error)}", err=True)
    return 1


def _port() -> str:
    """The port as the settings have it, without the price of importing them."""
    if port := os.environ.get("QUOTEBUS_HEALTH__PORT"):
        return port
    file = Path(os.environ.get("QUOTEBUS_CONFIG") or "quotebus.toml")
    try:
        health = tomllib.loads(file.read_text(encoding="utf-8")).get("health", {})
    except (OSError, ValueError):
        return str(_DEFAULT_PORT)
    return str(health.get("port", _DEFAULT_PORT)) if isinstance(health, dict) else str(_DEFAULT_PORT)
