"""Every stream and every subject: a pattern to subscribe to, a builder to publish on, a parser to read one back.

A symbol is one token: letters, digits and `-^=/:$+` stand for themselves, `.` becomes `_`, anything else (`_` and `%`
too) is percent-encoded by its UTF-8 bytes. So `BRK.B` is `BRK_B`, every symbol comes back as it went, and no two share a token.
"""

import re
from datetime import date
from typing import NamedTuple, cast
from urllib.parse import quote, unquote

from contracts.datasets import DATASETS
from contracts.fetch_task import FetchTask
from contracts.message import Dataset, Lane, Timeframe

REFRESH, TASKS, WAITING, PRICES, RUNS, DEAD = "REFRESH", "TASKS", "WAITING", "PRICES", "RUNS", "DEAD"
SYMBOLS = "SYMBOLS"
JOBS_BUCKET, SESSIONS_BUCKET, STATE_BUCKET, TOKENS_BUCKET = "jobs", "sessions", "state", "tokens"

STREAM_SUBJECTS: dict[str, list[str]] = {
    REFRESH: ["refresh.request.*", "refresh.request.*.*"],
    TASKS: ["task.>"],
    WAITING: ["waiting.>"],
    PRICES: [*(each.pattern for each in DATASETS.values()), "price.corrected.*.*", "price.quarantined.*"],
    RUNS: ["run.planned.*", "run.result.*", "run.finished.*", "run.missed.*"],
    DEAD: ["refresh.dead.*"],
    SYMBOLS: ["symbol.health.*.*.*.*"],
}
REFRESH_ASK = "refresh.ask"
PLAN_ASK = "plan.ask"
ALL_SYMBOL_HEALTH = "symbol.health.>"
NO_JOB = "-"
MAX_SYMBOL_BYTES = 64
_KEPT = "-^=/:$+"
_TOKEN = re.compile(r"(?:[A-Za-z0-9_^=/:$+-]|%[0-9A-F]{2})+")


def symbol_token(symbol: str) -> str:
    """The symbol as one subject token.

    Raises:
        ValueError: the symbol is empty, longer than 64 bytes, or not encodable.
    """
    try:
        size = len(symbol.encode())
    except UnicodeEncodeError:
        raise ValueError(f"symbol {symbol!r} is not valid text") from None
    if not 0 < size <= MAX_SYMBOL_BYTES:
        raise ValueError(f"symbol {symbol[:80]!r}: {size} bytes; give 1 to {MAX_SYMBOL_BYTES}")
    # quote() leaves `_.~` alone whatever it is told, so these three are written by hand.
    parts = (quote(part, safe=_KEPT).replace("_", "%5F").replace("~", "%7E") for part in symbol.split("."))
    return "_".join(parts)


def symbol_from_token(token: str) -> str:
    """The symbol that `symbol_token` made this token of.

    Raises:
        ValueError: no symbol gives this token.
    """
    symbol = unquote(token.replace("_", "."), errors="surrogateescape") if _TOKEN.fullmatch(token) else ""
    try:
        if symbol_token(symbol) == token:
            return symbol
    except ValueError:
        pass
    raise ValueError(f"{token!r} is no symbol's token")


def refresh_request(lane: Lane, job: str | None = None) -> str:
    """Subject of a refresh request; a job's requests have a subject under its own name."""
    return f"refresh.request.{lane}" if job is None else f"refresh.request.{lane}.{job}"


def job_requests(job: str) -> str:
    """Every request of one job, whatever its lane."""
    return f"refresh.request.*.{job}"


class RequestSubject(NamedTuple):
    lane: str
    job: str | None


def parse_refresh_request(subject: str) -> RequestSubject:
    """The lane and job of a request's subject; the lane is as it came, not checked."""
    _, _, lane, *job = subject.split(".")
    return RequestSubject(lane, job[0] if job else None)


def range_token(start: date | None, end: date | None) -> str:
    """`latest`, or `20240102-20240201` (end exclusive)."""
    return "latest" if start is None or end is None else f"{start:%Y%m%d}-{end:%Y%m%d}"


def fetch_task(task: FetchTask) -> str:
    """Subject of a task: tasks for the same data, provider and lane share it."""
    wanted = f"{task.dataset}.{task.timeframe or '-'}.{range_token(task.start, task.end)}"
    return f"task.{task.provider}.{task.lane}.{wanted}.{symbol_token(task.symbol)}"


def waiting_task(task: FetchTask) -> str:
    """Subject of a task that waits while TASKS holds two of its subject."""
    return f"waiting.{fetch_task(task).removeprefix('task.')}"


def lane_tasks(provider: str, lane: Lane) -> str:
    """Every task of one provider and lane."""
    return f"task.{provider}.{lane}.>"


def lane_consumer(provider: str, lane: Lane) -> str:
    """The durable consumer on TASKS of one provider and lane."""
    return f"fetcher-{provider}-{lane}"


def provider_of(tasks: str) -> str | None:
    """The provider whose tasks a filter subject of TASKS selects, if it selects one's."""
    match tasks.split("."):
        case ["task", provider, *_]:
            return provider
    return None


def price(dataset: str, timeframe: str | None, symbol: str) -> str:
    """Subject of the price events of a dataset and symbol; it names the timeframe where each timeframe is a series of its own."""
    token = symbol_token(symbol)
    return f"price.{dataset}.{timeframe}.{token}" if DATASETS[dataset].timeframed else f"price.{dataset}.{token}"


def price_corrected(timeframe: str, symbol: str) -> str:
    """Subject of the corrections of final bars."""
    return f"price.corrected.{timeframe}.{symbol_token(symbol)}"


def price_quarantined(symbol: str) -> str:
    """Subject of the rows that failed validation."""
    return f"price.quarantined.{symbol_token(symbol)}"


def run(kind: str, job: str | None) -> str:
    """Subject of a run's events of one kind: planned, result, finished or missed."""
    return f"run.{kind}.{job or NO_JOB}"


def symbol_health(provider: str, dataset: str, timeframe: str | None, symbol: str) -> str:
    """Subject of the health of a symbol with one provider; its last message is the current state."""
    return f"symbol.health.{provider}.{dataset}.{timeframe or '-'}.{symbol_token(symbol)}"


class SymbolSubject(NamedTuple):
    provider: str
    dataset: Dataset
    timeframe: Timeframe | None
    symbol: str


def parse_symbol_health(subject: str) -> SymbolSubject:
    """Parse a symbol-health subject; a token that decodes to no symbol stands for itself."""
    _, _, provider, dataset, timeframe, token = subject.split(".")
    try:
        symbol = symbol_from_token(token)
    except ValueError:
        symbol = token
    return SymbolSubject(provider, cast("Dataset", dataset), None if timeframe == "-" else cast("Timeframe", timeframe), symbol)


def dead(reason: str) -> str:
    """Subject of the dead letters with this reason."""
    return f"refresh.dead.{reason}"


def quota(provider: str, key: str, window: str, day: date | None = None, symbol: str | None = None) -> str:
    """Subject of the permits of one window; windows that reset on a date have one subject per date, or per date and symbol."""
    parts = ["quota", provider, key, window, *([f"{day:%Y%m%d}"] if day else []), *([symbol_token(symbol)] if symbol else [])]
    return ".".join(parts)


def key_state(provider: str, key: str) -> str:
    """Under which key of the bucket `state` the state of one provider key is kept."""
    return f"key.{provider}.{key}"
