"""`quotebus dead`: list, show, retry and drop dead letters."""

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from quotebus.cli.context import CommandContext, config_options, nats_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Row, output_option, write
from quotebus.cli.progress import steps

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from contracts.dead_letter import DeadLetter
    from quotebus.client import Client

_CUT_BYTES = 64 * 1024
_MORE_TIME = timedelta(hours=1)
_choice = click.argument("letters", nargs=-1, type=click.IntRange(min=1), metavar="[LETTER]...")
_all = click.option("--all", "everything", is_flag=True, help="All of them, or all of --reason.")
_reason = click.option("--reason", help="Only those that were given up on for this reason, such as not_found.")


@click.group()
def dead() -> None:
    """List, show, retry and drop dead letters."""


@dead.command()
@_reason
@click.option("-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@output_option()
@config_options
def ls(place: CommandContext, *, reason: str | None, limit: int, output: str) -> None:
    """List dead letters, the newest last."""
    letters = run_async(_read(place, reason))
    rows: list[Row] = [
        {"letter": number, "at": letter.at, "reason": letter.reason, "symbol": letter.symbol, "provider": letter.provider,
         "subject": letter.subject, "message": letter.message}
        for number, letter in letters[-limit:]
    ]  # fmt: skip
    write(rows, output, "there are no dead letters")
    if len(letters) > limit:
        click.echo(f"and {len(letters) - limit} older ones: --limit shows more", err=True)


@dead.command()
@click.argument("letter", type=click.IntRange(min=1))
@output_option("json", ("json", "ndjson"))
@config_options
def show(place: CommandContext, letter: int, *, output: str) -> None:
    """Show one dead letter whole."""
    import msgspec

    (found,) = run_async(_chosen(place, [letter], None))
    write([{"letter": letter, **msgspec.structs.asdict(found[1])}], output)


@dead.command()
@_choice
@_all
@_reason
@output_option()
@config_options
def retry(place: CommandContext, letters: Sequence[int], *, everything: bool, reason: str | None, output: str) -> int:
    """Publish what the letters held again, where it was, and delete them. A task gets an hour more."""
    return _settle(place, _wanted(letters, everything), reason, output, again=True)


@dead.command()
@_choice
@_all
@_reason
@output_option()
@config_options
def drop(place: CommandContext, letters: Sequence[int], *, everything: bool, reason: str | None, output: str) -> int:
    """Delete dead letters for good."""
    return _settle(place, _wanted(letters, everything), reason, output, again=False)


def _wanted(letters: Sequence[int], everything: bool) -> Sequence[int]:
    if bool(letters) == everything:
        raise CommandError("usage", "name letters by their numbers, or give --all: `quotebus dead ls` lists them")
    return letters


def _settle(place: CommandContext, wanted: Sequence[int], reason: str | None, output: str, *, again: bool) -> int:
    rows = run_async(_settled(place, wanted, reason, again=again))
    write(rows, output, "there are no dead letters")
    good = sum(row["error"] is None for row in rows)
    return 0 if good == len(rows) else 1 if good else 2


async def _settled(place: CommandContext, wanted: Sequence[int], reason: str | None, *, again: bool) -> list[Row]:
    import nats.errors

    from contracts.subjects import DEAD

    rows: list[Row] = []
    letters = await _chosen(place, wanted, reason)
    async with nats_of(place.here()) as qb:
        for number, letter in steps(letters, "retrying" if again else "dropping"):
            error = None
            try:
                if again:
                    await _publish_again(qb, number, letter)
                await qb.js.delete_msg(DEAD, number)
            except (CommandError, nats.errors.Error) as fault:
                error = str(fault) or type(fault).__name__
            done = "retried" if again else "dropped"
            rows.append({"letter": number, "subject": letter.subject, "outcome": "kept" if error else done, "error": error})
    return rows


async def _publish_again(qb: "Client", number: int, letter: "DeadLetter") -> None:
    if len(letter.body.encode()) >= _CUT_BYTES:
        raise CommandError("refused", "its body was too long to be kept whole: ask for the prices anew instead")
    if letter.stream is None:
        raise CommandError("refused", f"{letter.subject} is kept by no stream, so whoever sent it waits no more: ask anew instead")
    # The same id if a first try was stored and its answer lost; and an id that the stream has not seen before.
    await qb.js.publish(letter.subject, _with_more_time(letter), timeout=5, headers={"Nats-Msg-Id": f"dead-letter-{number}"})


def _with_more_time(letter: "DeadLetter") -> bytes:
    import msgspec

    from contracts.fetch_task import FetchTask
    from contracts.message import decode, encode

    body = letter.body.encode()
    if not letter.subject.startswith("task."):
        return body
    try:
        task = decode(body, FetchTask)
    except msgspec.MsgspecError:
        return body
    return encode(msgspec.structs.replace(task, expires_at=max(task.expires_at, datetime.now(UTC) + _MORE_TIME), tried=[]))


async def _chosen(place: CommandContext, wanted: Sequence[int], reason: str | None) -> list[tuple[int, "DeadLetter"]]:
    letters = await _read(place, reason)
    if not wanted:
        return letters
    by_number = dict(letters)
    if missing := [number for number in wanted if number not in by_number]:
        raise CommandError("not_found", f"no dead letter {', '.join(map(str, missing))}: `quotebus dead ls` lists all")
    return [(number, by_number[number]) for number in wanted]


async def _read(place: CommandContext, reason: str | None) -> list[tuple[int, "DeadLetter"]]:
    from contracts import subjects
    from services.runtime.follow import read_stream

    async with nats_of(place.here()) as qb, aclosing(read_stream(qb.nc, subjects.DEAD, subjects.dead(reason or "*"))) as messages:
        return [(message.metadata.sequence.stream, _letter(message)) async for message in messages]


def _letter(message: "Msg") -> "DeadLetter":
    import msgspec

    from contracts.dead_letter import DeadLetter
    from contracts.message import decode

    try:
        return decode(message.data, DeadLetter)
    except msgspec.MsgspecError as error:
        text = message.data.decode(errors="replace")
        fault = f"not a dead letter as agreed: {error}"
        at = message.metadata.timestamp
        return DeadLetter(reason="malformed", message=fault, service="unknown", subject=message.subject, body=text, at=at)
