"""What Databento says in place of data: a case with a message, or a message alone; some name the range it does have."""

import re
from collections.abc import Mapping
from datetime import datetime

from services.fetcher.adapter.fields import instant_of
from services.fetcher.adapter.responses import decode_json, error_for_status, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

_INSTANT = r"\W*(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)"
_FROM = re.compile(rf"(?:available start of dataset \S+|between|available from){_INSTANT}")
_UNTIL = re.compile(rf"(?:available end of dataset \S+|available up to|end time before|data after|between{_INSTANT} and){_INSTANT}")
_NO_DATA_YET = "data_start_after_available_end"
_HINTS = {
    Verdict.UNAUTHORIZED: "set api_key",
    Verdict.PLAN_RESTRICTED: "see the account's subscriptions and funds",
    Verdict.NOT_FOUND: "check the symbol and the setting dataset",
}


class RefusalError(ProviderError):
    """A refusal in the vendor's `words`. `earliest`, `latest`: the range (to exclusive) that it would have answered, if named."""

    words = ""
    earliest: datetime | None = None
    latest: datetime | None = None


def refused(reply: Reply, now: datetime, *secrets: str) -> ProviderError:
    """The error that a reply stands for which brings no data."""
    document = decode_json(reply)
    detail = document.get("detail") if isinstance(document, dict) else None
    case, words, payload = _told(detail)
    if not words:
        return error_for_status("databento", reply, now)
    verdict = _verdict(reply.status, case, words.lower())
    hint = _HINTS.get(verdict)
    message = f"databento: {sanitize(words, *secrets)}" + (f" ({hint})" if hint else "")
    error = RefusalError(verdict, message, retry_after(reply, now))
    error.words = words
    until = _UNTIL.search(words)
    start = _FROM.search(words)
    error.earliest = instant_of(payload.get("available_start")) or (instant_of(start[1]) if start else None)
    error.latest = instant_of(payload.get("available_end")) or (instant_of(until[2]) if until else None)
    if error.latest is not None:
        # The bound of a licence moves on by the second: whole minutes keep a last bar from being a part of one.
        error.latest = error.latest.replace(second=0, microsecond=0)
    return error


def _told(detail: object) -> tuple[str, str, Mapping[str, object]]:
    """Case, message and payload of a `detail`, which may be a text, an object, or a list of what is wrong with each field."""
    if isinstance(detail, list):
        fields = (f"{each.get('loc')}: {each.get('msg')}" if isinstance(each, dict) else str(each) for each in detail)
        return "", "; ".join(fields), {}
    if isinstance(detail, dict):
        payload = detail.get("payload")
        case = str(detail.get("case") or "")
        return case, str(detail.get("message") or case), payload if isinstance(payload, dict) else {}
    return "", detail if isinstance(detail, str) else "", {}


def _verdict(status: int, case: str, words: str) -> Verdict:
    if status == 429:
        return Verdict.RATE_LIMITED
    if status >= 500 or status == 408:
        return Verdict.SERVER_ERROR
    if status == 401 or case.startswith("auth_") or (status == 403 and ("authenticat" in words or "api key" in words)):
        return Verdict.UNAUTHORIZED
    # No funds is no dead key either: what a subscription covers still comes.
    if status in (402, 403) or case == "dataset_unavailable_range" or case.startswith(("license_", "account_", "subscription_")):
        return Verdict.PLAN_RESTRICTED
    if status == 404 or case.startswith("symbology_") or "could not resolve" in words or "could be resolved" in words:
        return Verdict.NOT_FOUND
    if case == _NO_DATA_YET:
        return Verdict.EMPTY
    return Verdict.BAD_REQUEST if 400 <= status < 500 else Verdict.MALFORMED
