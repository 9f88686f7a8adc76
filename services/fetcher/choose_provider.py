"""Which provider a task goes to."""

import difflib
from collections.abc import Mapping

from contracts.fetch_task import FetchTask
from services.fetcher.accounts import Account


class NoProviderError(Exception):
    """No provider can do what the request asks; the text says why."""


def choose(accounts: Mapping[str, Account], task: FetchTask, asked: str | None) -> Account:
    """The provider for a task: the one asked for, else the best that offers it; a made-up market only when there is no real one.

    Raises:
        NoProviderError: none fits; the text names the nearest or what is offered.
    """
    what = f"{task.timeframe} bars" if task.dataset == "bars" else task.dataset
    if asked is not None:
        if asked not in accounts:
            near = difflib.get_close_matches(asked, accounts, 1)
            hint = f"did you mean {near[0]}?" if near else f"enabled are {', '.join(sorted(accounts)) or 'none'}"
            raise NoProviderError(f"provider: {asked!r} is not enabled; {hint}")
        if not accounts[asked].offers(task.dataset, task.timeframe):
            raise NoProviderError(f"provider: {asked} has no {what}")
        return accounts[asked]
    able = [a for a in accounts.values() if a.offers(task.dataset, task.timeframe) and a.name not in task.tried]
    if not able:
        raise NoProviderError(f"no enabled provider has {what}; enable one in [providers]")
    return min(able, key=lambda account: (not account.profile.real, account.settings.priority, account.name))
