"""Each dataset is complete: what a new one still lacks is named here, in the words of the place where it belongs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import services.cacher
from contracts import subjects
from contracts.datasets import DATASET_NAMES, DATASETS, DOCUMENT_TTL_S, DatasetDescriptor, dataset_of
from contracts.message import TIMEFRAMES, encode
from contracts.price_events import PriceBars, PriceEvent
from quotebus.cli.records import RECORDS, records_of
from quotebus.cli.watch import row_of
from quotebus.client import event_of, price_subject
from services.cacher.decode_event import CHECKS, DecodedEvent, EventDecoder
from services.cacher.store_postgres.prices import WRITERS
from services.fetcher.calls.publish import EMPTY
from services.gateway.routes import all_routes
from services.runtime.prices.document import DOCUMENTS
from services.runtime.prices.read_postgres import DOCUMENT_READERS
from tests.contracts.golden import FOLDER, messages

SCHEMA = Path(services.cacher.__file__).parent / "schema"


def lacks(dataset: DatasetDescriptor) -> Iterator[str]:
    """What the rest of the house does not know of a dataset."""
    name, tag = dataset.name, str(dataset.event.__struct_config__.tag)
    if name not in DATASET_NAMES:
        yield "contracts/message.py: Dataset"
    if dataset.event not in get_args(PriceEvent):
        yield "contracts/price_events.py: PriceEvent"
    if tag not in messages() or not (FOLDER / f"{tag}.example.json").exists():
        yield f"contracts/golden: {tag}"
    if dataset.pattern not in subjects.STREAM_SUBJECTS[subjects.PRICES]:
        yield "contracts/subjects.py: a subject of PRICES"
    if name not in _datasets_of_the_schema():
        yield "services/cacher/schema: series.dataset"
    tables = {
        "cacher: CHECKS": CHECKS,
        "cacher: WRITERS": {*WRITERS, "bars"},
        "fetcher: EMPTY": EMPTY,
        "cli: RECORDS": RECORDS,
    }
    yield from (where for where, known in tables.items() if name not in known)
    if dataset.ttl_s:
        yield from _lacks_of_documents(dataset)


def _lacks_of_documents(dataset: DatasetDescriptor) -> Iterator[str]:
    document = DOCUMENTS.get(dataset.name)
    if document is None:
        yield "runtime: DOCUMENTS"
    if dataset.name not in {*DOCUMENT_READERS, "bars"}:
        yield "runtime: DOCUMENT_READERS"
    answers = {kind for route in all_routes() for kind in route.answers.values()} | {"QuoteDocument", "BarsDocument"}
    if document is None or document.__name__ not in answers:
        yield "gateway: a route"


def _datasets_of_the_schema() -> set[str]:
    """The datasets that the last word of the schema allows in `series`."""
    *_, last = re.findall(r"dataset IN \(([^)]*)\)", "\n".join(file.read_text() for file in sorted(SCHEMA.glob("*.sql"))))
    return set(re.findall(r"'(\w+)'", last))


def _example(dataset: DatasetDescriptor) -> PriceEvent:
    return msgspec.json.decode((FOLDER / f"{dataset.event.__struct_config__.tag}.example.json").read_bytes(), type=dataset.event)


def test_every_dataset_has_its_descriptor():
    assert tuple(DATASETS) == DATASET_NAMES
    assert {each.event for each in DATASETS.values()} == set(get_args(PriceEvent))


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_a_dataset_lacks_nothing(dataset: DatasetDescriptor):
    assert list(lacks(dataset)) == []


def test_of_a_new_dataset_all_that_it_lacks_is_named():
    class Fundamentals(PriceBars, tag="price_fundamentals.v1", frozen=True, kw_only=True):
        pass

    new = DatasetDescriptor("fundamentals", Fundamentals, "at", {"fundamentals": 60})  # type: ignore[arg-type]
    assert list(lacks(new)) == [
        "contracts/message.py: Dataset",
        "contracts/price_events.py: PriceEvent",
        "contracts/golden: price_fundamentals.v1",
        "contracts/subjects.py: a subject of PRICES",
        "services/cacher/schema: series.dataset",
        "cacher: CHECKS",
        "cacher: WRITERS",
        "fetcher: EMPTY",
        "cli: RECORDS",
        "runtime: DOCUMENTS",
        "runtime: DOCUMENT_READERS",
        "gateway: a route",
    ]


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_an_event_is_read_counted_and_shown_by_its_dataset(dataset: DatasetDescriptor):
    event = _example(dataset)
    timeframe = event.timeframe if isinstance(event, PriceBars) else None
    subject = subjects.price(dataset.name, timeframe, event.symbol)
    assert subject.split(".")[: 2 + dataset.timeframed] == dataset.pattern.split(".")[:2] + [timeframe] * dataset.timeframed
    assert price_subject(subject) == subject
    assert dataset_of(event) is dataset
    observed = EventDecoder().decode(subject, encode(event))
    assert isinstance(observed, DecodedEvent)
    assert observed.rows == dataset.rows(event) == len(list(records_of(event))) > 0
    assert event_of(subject, encode(event)) == event
    assert row_of(event)["symbol"] == event.symbol


def test_a_quote_without_any_price_is_no_row():
    quote = _example(DATASETS["quote"])
    nothing = msgspec.structs.replace(quote, price=None, bid=None, ask=None)
    assert [DATASETS["quote"].rows(event) for event in (quote, nothing)] == [1, 0]


def test_documents_are_known_by_timeframe_or_by_dataset():
    assert set(DOCUMENT_TTL_S) == {*TIMEFRAMES, *(name for name, each in DATASETS.items() if each.ttl_s and not each.timeframed)}
    assert all(ttl > 0 for ttl in DOCUMENT_TTL_S.values())
