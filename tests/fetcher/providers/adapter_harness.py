"""Every adapter, the template among them, with its fixtures: what the tests that all of them share stand on."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from quotebus.cli.records import records_of
from services.fetcher.provider import Answer, Credentials, FetchCall, Provider, providers
from services.fetcher.providers._template import Template

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEY = "canary-7f3a"
# An author copies the template, so it has to hold to whatever the others do.
ADAPTERS: dict[str, type[Provider]] = {**providers(), Template.profile.name: Template}


@cache
def fixtures(name: str) -> dict[str, Any]:
    """The recorded calls and responses of an adapter, by case."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((FIXTURES / name).glob("*.json"))}


CASES = [(name, case) for name in ADAPTERS for case in fixtures(name)]
# A provider that makes its prices up asks nobody, so nobody can answer it oddly.
ASKING = [name for name, kind in ADAPTERS.items() if kind.profile.real]


def built(name: str) -> Provider:
    return ADAPTERS[name](Credentials(api_key=KEY, api_secret=KEY, refresh_token=KEY))


def call_of(given: dict[str, Any]) -> FetchCall:
    return msgspec.convert({**given, "symbols": tuple(given["symbols"])}, FetchCall)


def records(answer: Answer) -> list[dict[str, Any]]:
    rows = [record for event in answer.events for record in records_of(event)]
    return msgspec.to_builtins(rows)


def some_call(provider: Provider, dataset: Any) -> FetchCall:
    frames = provider.profile.offers[dataset]
    frame = ("1d" if "1d" in frames else frames[0]) if dataset == "bars" else None
    return FetchCall(dataset, ("AAPL",), frame)
