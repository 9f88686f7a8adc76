"""An option chain: the contracts of a parent, whose symbols tell all about them, and the best bid and ask of each."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from services.fetcher.adapter.events import Contract, Quote
from services.fetcher.adapter.fields import NEW_YORK
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.providers.databento.parsing import Answered, Record, top_of_book
from services.fetcher.providers.databento.requests import Requests, TimeRange

_NEW_YORK = ZoneInfo(NEW_YORK)
CLOSES = (time(16), time(13))  # of a day, of half a day
MINUTES = timedelta(minutes=5)  # every contract's every minute is billed
DAYS = 5

_CONTRACT = re.compile(r"([A-Z]{1,5}\d?) *(\d\d)(\d\d)(\d\d)([CP])(\d{8})")


async def contracts_of(requests: Requests) -> list[Contract]:
    """Fetch the contracts listed today or, when it has no quotes, on the last day that has, as of its close.

    Raises:
        ProviderError: they could not be had; not_found, when the underlying has none.
    """
    newest = TimeRange(requests.now - MINUTES, requests.now)
    answered, trouble = await _quoted(requests, newest, slide=True)
    for close in _closes(min(requests.now, requests.latest or requests.now)):
        if answered is not None and answered.records:
            break
        # A minute's state is stamped with its end.
        end = close + timedelta(minutes=1)
        older, trouble = await _quoted(requests, TimeRange(end - MINUTES, end), slide=False)
        answered = older or answered
    if answered is None:
        raise trouble
    return parse_contracts(answered)


async def _quoted(requests: Requests, builder: TimeRange, *, slide: bool) -> tuple[Answered | None, ProviderError]:
    try:
        answered, _ = await requests.one("cbbo-1m", builder, slide=slide)
    except ProviderError as error:
        # On a closed day nothing is listed: the parent means nothing either.
        if error.verdict not in (Verdict.NOT_FOUND, Verdict.EMPTY):
            raise
        return None, error
    return answered, ProviderError(Verdict.EMPTY, "databento: has no quotes of the last days")


def _closes(before: datetime) -> Iterator[datetime]:
    today = before.astimezone(_NEW_YORK).date()
    for back in range(DAYS):
        day = today - timedelta(days=back)
        instants = (datetime.combine(day, close, _NEW_YORK).astimezone(UTC) for close in CLOSES)
        yield from (instant for instant in instants if day.weekday() < 5 and instant < before)


def parse_contracts(answered: Answered) -> list[Contract]:
    """Parse the contracts named in an answer; one that had no quote in it is listed without.

    Raises:
        ProviderError: malformed, when quotes are not named by contract.
    """
    books: dict[str, list[Record]] = {name: [] for spans in answered.names.values() for _, _, name in spans}
    for record in answered.records:
        for name in answered.names_of(record, []):
            books.setdefault(name, []).append(record)
    found = [contract for name in sorted(books) if (contract := _contract(name, top_of_book(books[name]) or Quote()))]
    if answered.records and not found:
        raise ProviderError(Verdict.MALFORMED, "databento: does not say of which contracts its quotes are")
    return found


def _contract(name: str, quote: Quote) -> Contract | None:
    found = _CONTRACT.fullmatch(name)
    if found is None:
        return None
    _, year, month, day, right, thousandths = found.groups()
    try:
        expiry = date(2000 + int(year), int(month), int(day))
    except ValueError:
        return None
    return Contract(
        contract="".join(name.split()),
        expiry=expiry,
        strike=int(thousandths) / 1000,
        right="call" if right == "C" else "put",
        bid=quote.bid,
        ask=quote.ask,
        last=quote.price,
        at=quote.at,
    )
