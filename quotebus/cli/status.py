"""`quotebus status`: show services, backlog and newest prices in short."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from quotebus.cli.context import CommandContext, config_options, nats_of, run_async
from quotebus.cli.output import Row, age_of, output_option, text_of, write

if TYPE_CHECKING:
    from quotebus.cli.local_settings import LocalSettings
    from quotebus.client import Client

_SERVICES = ("scheduler", "fetcher", "cacher")
_ANSWER_S = 1.0


@click.command()
@output_option()
@config_options
def status(place: CommandContext, *, output: str) -> int:
    """Show in short which services run, what waits, what ran last, how new the prices are. Exit 1 if a service is not ready."""
    rows, ready = run_async(_status(place.here()))
    write(rows, output)
    return 0 if ready else 1


async def _status(here: "LocalSettings") -> tuple[list[Row], bool]:
    from quotebus.cli.checks import backlogs

    async with nats_of(here) as qb:
        services = await _services(qb)
        needed = (*_SERVICES, "notifier") if here.settings.notify else _SERVICES
        ready = all(services.get(name, {}).get("ready") for name in needed)
        rows = [_service_row(name, services.get(name)) for name in (*needed, *sorted(services.keys() - set(needed)))]
        waiting = {name: count for name, count in (await backlogs(here, qb)).items() if count}
        rows.append({"part": "backlog", "state": "waiting" if waiting else "none", "detail": text_of(waiting) if waiting else ""})
        rows += [await _last_run(qb), await _newest_price(qb)]
    return rows, ready


async def _services(qb: "Client") -> dict[str, dict[str, object]]:
    """Health that each service reports; of several replicas, that of one that is not ready, if any."""
    import nats.errors

    from services.runtime.health import STATUS_ASK

    inbox = qb.nc.new_inbox()
    subscription = await qb.nc.subscribe(inbox)
    await qb.nc.publish(STATUS_ASK, b"{}", reply=inbox)
    found: dict[str, dict[str, object]] = {}
    wait_s = _ANSWER_S
    while True:
        try:
            message = await subscription.next_msg(timeout=wait_s)
        except nats.errors.TimeoutError:
            return found
        if not message.data:
            # Nobody listens at all.
            return found
        report = json.loads(message.data)
        name = str(report["service"])
        if found.get(name, {}).get("ready", True):
            found[name] = report
        # Whoever else is there answers about as quickly.
        wait_s = _ANSWER_S if len(found) < len(_SERVICES) else 0.2


def _service_row(name: str, report: dict[str, object] | None) -> Row:
    if report is None:
        return {"part": name, "state": "no answer", "detail": "start it with `quotebus up`, or look at its logs"}
    parts = report["parts"]
    trouble = [f"{part}: {said}" for part, said in parts.items() if said != "ok"] if isinstance(parts, dict) else []
    return {"part": name, "state": "ready" if report["ready"] else "not ready", "detail": "; ".join(trouble)}


async def _last_run(qb: "Client") -> Row:
    from contracts import subjects
    from contracts.message import decode
    from contracts.run_events import RunFinished

    body, at = await _last(qb, subjects.RUNS, subjects.run("finished", "*"))
    if body is None or at is None:
        return {"part": "last run", "state": "none", "detail": ""}
    run = decode(body, RunFinished)
    detail = f"run {run.run_id} of {run.job or 'a person'}: {text_of(dict(run.counts))}"
    return {"part": "last run", "state": f"{age_of(at, datetime.now(UTC))} ago", "detail": detail}


async def _newest_price(qb: "Client") -> Row:
    from contracts import subjects

    found = {pattern: (await _last(qb, subjects.PRICES, pattern))[1] for pattern in ("price.quote.*", "price.bars.*.*")}
    known = {pattern: at for pattern, at in found.items() if at is not None}
    if not known:
        return {"part": "newest price", "state": "none", "detail": ""}
    newest = max(known, key=lambda pattern: known[pattern])
    return {"part": "newest price", "state": f"{age_of(known[newest], datetime.now(UTC))} ago", "detail": newest}


async def _last(qb: "Client", stream: str, pattern: str) -> tuple[bytes | None, datetime | None]:
    from nats.js.errors import NotFoundError

    try:
        message = await qb.js.get_last_msg(stream, pattern)
    except NotFoundError:
        return None, None
    return message.data, message.time
