"""`quotebus fetch`: ask one provider directly; records on stdout."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from contracts.datasets import DATASET_NAMES, DATASETS
from contracts.message import TIMEFRAMES, Dataset, Timeframe
from contracts.subjects import symbol_token
from quotebus.cli.context import CommandContext, config_options
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Output, output_option
from quotebus.cli.progress import steps
from quotebus.cli.records import records_of
from services.fetcher.provider import Answer, Credentials, FetchCall, Provider, ProviderError, Verdict, providers, refuse_unoffered

if TYPE_CHECKING:
    from services.runtime.settings import KeySettings, ProviderSettings

_DAY = click.DateTime(["%Y-%m-%d"])
_KEYS = ("api_key", "api_secret", "refresh_token")
_SPREAD_S = {"second": 1.0, "minute": 60.0}
_HOUR_S = 3600.0


@click.command()
@click.argument("provider")
@click.argument("dataset", type=click.Choice(DATASET_NAMES))
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@click.option("--timeframe", type=click.Choice(TIMEFRAMES), help="Of bars; 1d if nothing is said.")
@click.option("--start", type=_DAY, metavar="DAY", help="First day, UTC; without it the newest data.")
@click.option("--end", type=_DAY, metavar="DAY", help="The day after the last; tomorrow if nothing is said.")
@output_option()
@config_options
def fetch(
    place: CommandContext,
    provider: str,
    dataset: Dataset,
    symbols: tuple[str, ...],
    *,
    timeframe: Timeframe | None,
    start: datetime | None,
    end: datetime | None,
    output: str,
) -> int:
    """Ask one provider directly, without the bus, and print its records as everything else here would see them.

    A symbol without data has a line on stderr. Exit code: 0 all symbols have data, 1 some, 2 none.
    """
    printed = Output(output)
    try:
        call = _call(dataset, symbols, timeframe, start, end)
        settings = _settings(place, provider)
        refuse_unoffered(providers()[provider].profile, call)
        adapter = _adapter(provider, settings)
        failed = asyncio.run(_ask(adapter, settings, call, printed))
    except ProviderError as error:
        raise CommandError(error.verdict, error.message) from None
    if printed.count:
        printed.end()
    _tell(failed, machine=output in ("json", "ndjson"))
    return (1 if printed.count else 2) if failed else 0


def _call(
    dataset: Dataset, symbols: Iterable[str], timeframe: Timeframe | None, start: datetime | None, end: datetime | None
) -> FetchCall:
    problem = ""
    if timeframe is not None and not DATASETS[dataset].timeframed:
        problem = f"--timeframe: {dataset} has none"
    elif (start or end) and not DATASETS[dataset].ranged:
        problem = f"--start, --end: {dataset} has no range"
    elif end is not None and start is None:
        problem = "--end: give --start too"
    first = start.date() if start else None
    after = end.date() if end else datetime.now(UTC).date() + timedelta(days=1)
    if first is not None and first >= after:
        problem = f"--end: {after} is not after {first}"
    for symbol in symbols:
        try:
            symbol_token(symbol)
        except ValueError as error:
            problem = str(error)
    if problem:
        raise ProviderError(Verdict.BAD_REQUEST, problem)
    frame = (timeframe or "1d") if DATASETS[dataset].timeframed else None
    return FetchCall(dataset, tuple(dict.fromkeys(symbols)), frame, first, after if first else None)


def _settings(place: CommandContext, name: str) -> "ProviderSettings":
    from services.runtime.settings import ProviderSettings

    known = providers()
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
        raise ProviderError(Verdict.BAD_REQUEST, f"no provider {name!r}; {hint}")
    return place.here().settings.providers.get(name) or ProviderSettings()


def _adapter(name: str, settings: "ProviderSettings") -> Provider:
    """The adapter, with the first key that has all it needs."""
    needed = providers()[name].profile.secrets
    tables: list[KeySettings] = [settings, *settings.keys.values()]
    given = [{key: secret.get_secret_value() for key in _KEYS if (secret := getattr(table, key))} for table in tables]
    keys = next((each for each in given if all(each.get(key) for key in needed)), None)
    if keys is None:
        variables = (f"QUOTEBUS_PROVIDERS__{name.upper()}__{key.upper()}" for key in needed if not given[0].get(key))
        raise ProviderError(Verdict.UNAUTHORIZED, f"{name} works with a key only: set {' and '.join(variables)}")
    try:
        return providers()[name](Credentials(**keys, dataset=settings.dataset or "", options=settings.options))
    except ValueError as error:
        raise ProviderError(Verdict.BAD_REQUEST, str(error)) from None


async def _ask(adapter: Provider, settings: "ProviderSettings", call: FetchCall, printed: Output) -> dict[str, ProviderError]:
    """Print what the provider has, a batch of symbols a call; give the symbols of which it has nothing, and why."""
    from services.fetcher.calls.safe_fetch import safe_fetch
    from services.fetcher.http.client import MeteredHttp, no_permit_needed, open_session
    from services.fetcher.http.egress_policy import policy_for
    from services.fetcher.retry_policy import RETRY_POLICIES, Scope

    policy = policy_for(adapter.profile, settings)
    failed: dict[str, ProviderError] = {}
    most = adapter.profile.symbols_per_call.get(call.dataset, 1)
    size = min(most, settings.symbols_per_call or most)
    batches = [call.symbols[i : i + size] for i in range(0, len(call.symbols), size)]
    async with open_session() as session:
        try:
            http = MeteredHttp(
                session,
                settings.base_url or adapter.profile.base_url,
                no_permit_needed,
                settings.timeout_s,
                settings.max_body_bytes,
                pace=_pace(adapter, settings),
                policy=policy,
            )
        except ValueError as error:
            raise ProviderError(Verdict.BAD_REQUEST, f"{adapter.profile.name}: {error}") from None
        for symbols in steps(batches, f"asking {adapter.profile.name}"):
            if stop := next((error for error in failed.values() if RETRY_POLICIES[error.verdict].scope is Scope.KEY), None):
                failed |= dict.fromkeys(symbols, stop)
                continue
            try:
                answer = await safe_fetch(adapter, replace(call, symbols=symbols), http, datetime.now(UTC), policy.redact)
            except ProviderError as error:
                failed |= dict.fromkeys(symbols, error)
            else:
                failed |= _print(answer, symbols, printed, adapter.profile.name)
    return failed


def _print(answer: Answer, symbols: Sequence[str], printed: Output, provider: str) -> dict[str, ProviderError]:
    empty = ProviderError(Verdict.EMPTY, f"{provider} has nothing there")
    unknown = ProviderError(Verdict.NOT_FOUND, f"{provider} left it out")
    named = {event.symbol for event in answer.events}
    failed = {symbol: answer.failed.get(symbol, empty if symbol in named else unknown) for symbol in symbols}
    for event in answer.events:
        for record in records_of(event):
            printed.add(record)
            failed.pop(event.symbol, None)
    return failed


def _pace(adapter: Provider, settings: "ProviderSettings") -> Callable[[int], Awaitable[None]]:
    """Spreads calls over the second and the minute, and counts the hour; the day is the vendor's to count."""
    from aiolimiter import AsyncLimiter

    limiters: list[AsyncLimiter] = []
    for window, length_s in (*_SPREAD_S.items(), ("hour", _HOUR_S)):
        given: int | None = getattr(settings, f"per_{window}")
        limit = getattr(adapter.profile.limits, f"per_{window}") if given is None else given
        if limit:
            limiters.append(AsyncLimiter(1, length_s / limit) if window in _SPREAD_S else AsyncLimiter(limit, length_s))

    async def permit(cost: int) -> None:
        for limiter in limiters:
            for _ in range(cost):
                await limiter.acquire()

    return permit


def _tell(failed: Mapping[str, ProviderError], *, machine: bool) -> None:
    """A line an error, naming the symbols that share it."""
    import msgspec

    sharing: dict[ProviderError, list[str]] = {}
    for symbol, error in failed.items():
        sharing.setdefault(error, []).append(symbol)
    for error, symbols in sharing.items():
        message = f"{' '.join(symbols)}: {error.message}"
        if machine:
            line: dict[str, object] = {"error": error.verdict, "message": message}
            if error.retry_at is not None:
                line["retry_at"] = error.retry_at
            click.echo(msgspec.json.encode(line), err=True)
        else:
            until = f"; come back at {error.retry_at:%Y-%m-%d %H:%M:%S}Z" if error.retry_at else ""
            click.echo(f"quotebus: {error.verdict}: {message}{until}", err=True)
