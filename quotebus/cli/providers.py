"""`quotebus providers`: show what is used of each provider's limits."""

import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from quotebus.cli.context import CommandContext, config_options, nats_of, run_async
from quotebus.cli.output import Row, output_option, write

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.kv import KeyValue

    from quotebus.cli.local_settings import LocalSettings
    from services.fetcher.circuit.key_state import KeyState
    from services.runtime.quota import QuotaWindow


@click.command()
@output_option()
@config_options
def providers(place: CommandContext, *, output: str) -> int:
    """Show what each provider's keys may still ask for, whether they rest, and what is missing of those that do not work.

    A line for each limit: what is used of it, and in how many seconds it resets (of a sliding one, its oldest call leaves it).
    `day-live` is what live and backfill together may use of a day, `day-backfill` what backfill may. No fetcher need run.
    """
    write(run_async(_collected(place.here())), output)
    return 0


async def _collected(here: "LocalSettings") -> list[Row]:
    from contracts import subjects
    from services.fetcher.accounts import account_of, incomplete_keys
    from services.fetcher.derived.provider import PROFILE
    from services.fetcher.provider import providers as adapters
    from services.runtime.settings import FIRST_KEY

    rows: list[Row] = []
    async with nats_of(here) as qb:
        bucket = await qb.js.key_value(subjects.STATE_BUCKET)
        for name in sorted(adapters(), key=lambda each: (each not in here.settings.providers, each)):
            settings = here.settings.providers.get(name)
            if settings is None or settings.enabled is False:
                what = "it has no table [providers.{}]" if settings is None else "providers.{}.enabled is false"
                rows.append(_row(name, None, "off", detail=what.format(name)))
                continue
            for key, variables in incomplete_keys(name, settings).items():
                rows.append(_row(name, key, "no_key", detail=f"set {' and '.join(variables)}"))
            for own in account_of(name, settings).keys:
                state = await _state(bucket, name, own.name)
                rows += [row async for row in _windows(qb.js, state, own.windows)]
        # It rests like any other while PostgreSQL does not answer it.
        rows += [row async for row in _windows(qb.js, await _state(bucket, PROFILE.name, FIRST_KEY), ())]
    return rows


async def _state(bucket: "KeyValue", name: str, key: str) -> "KeyState":
    import msgspec
    from nats.js.errors import NotFoundError

    from contracts import subjects
    from services.fetcher.circuit.key_state import KeyState

    try:
        entry = await bucket.get(subjects.key_state(name, key))
        return msgspec.json.decode(entry.value or b"", type=KeyState)
    except (NotFoundError, msgspec.MsgspecError):
        return KeyState(provider=name, key=key)


async def _windows(js: "JetStreamContext", state: "KeyState", windows: tuple["QuotaWindow", ...]) -> AsyncIterator[Row]:
    now = datetime.now(UTC)
    resting = state.state != "ok" and state.until is not None and state.until > now
    shown = {
        "state": state.state if resting else "ok",
        "until": state.until if resting else None,
        "pace": round(state.pace_at(now), 2),
        "detail": state.reason if resting else None,
    }
    if not windows:
        yield _row(state.provider, state.key, **shown, window="none")
    for window in windows:
        use = await _use(js, window, now)
        # Why a key rests says more than that one of its windows is full.
        worst = {"state": state.state} if resting else {}
        yield _row(state.provider, state.key, **{**shown, **use, **worst}, window=window.token, limit=window.limit)


async def _use(js: "JetStreamContext", window: "QuotaWindow", now: datetime) -> dict[str, object]:
    """Usage of a quota window, and when it resets."""
    from nats.js.errors import NotFoundError

    from services.fetcher.quota.ledger import permits_used
    from services.runtime.quota import SYMBOLS

    try:
        used, _ = await permits_used(js, window)
        resets = window.resets_at(now)
        if resets is None and used:
            oldest = await js.get_msg(window.stream, seq=1, subject=window.subject(now), next=True)
            resets = (oldest.time or now) + timedelta(seconds=window.length_s + window.margin_s)
    except NotFoundError:
        return {"detail": "its ledger is missing: run `quotebus migrate`"}
    spent = {"state": "quota_spent"} if used >= window.limit and window.window != SYMBOLS else {}
    return {**spent, "used": used, "resets_in_s": max(0, math.ceil((resets - now).total_seconds())) if resets else None}


def _row(provider: str, key: str | None, state: object, **known: object) -> Row:
    columns = ("window", "used", "limit", "resets_in_s", "pace", "until", "detail")
    return {"provider": provider, "key": key, "state": state, **{column: known.get(column) for column in columns}}
