"""What Schwab says in place of data: errors of the API, faults of its gateway, pages and sentences of what stands before both."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from services.fetcher.adapter.fields import number
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

Document = Mapping[str, Any]

_NO_SUCH_SYMBOL = re.compile(r"symbol.*(not found|invalid|unknown|not exist)|(invalid|unknown|no such|not found).*symbol")
_TOO_MUCH = ("buffer overflow", "toobigbody")
_THROTTLED = ("ratelimit", "rate limit", "quota", "spike arrest", "too many requests")


class TooMuchError(ProviderError):
    """The answer would be larger than the vendor's gateway passes on: ask for less at a time."""


def document_in(reply: Reply, now: datetime, *secrets: str) -> Document:
    """The object of an answer with data.

    Raises:
        ProviderError: it is an error in any of its shapes, or no object.
    """
    document, text = decode_json(reply), decode_text(reply)
    if isinstance(document, dict):
        status, words = _complaint(document, reply)
        if words or status >= 400:
            raise _refused(status, words, reply, now, secrets)
        if status == 200:
            return document
    elif "too many requests" in text[:200].lower():
        raise ProviderError(Verdict.RATE_LIMITED, "schwab: too many requests", retry_after(reply, now))
    elif any(sign in text[:500].lower() for sign in _TOO_MUCH) or reply.status == 502:
        raise TooMuchError(Verdict.SERVER_ERROR, f"schwab: answered {reply.status}", retry_after(reply, now))
    elif "request timeout" in text[:200].lower():
        raise ProviderError(Verdict.TIMEOUT, "schwab: its own server did not answer in time", retry_after(reply, now))
    raise error_for_status("schwab", reply, now)


def refuses_token(reply: Reply) -> bool:
    """Whether another access token could help. An edge server's 403 says nothing about the token."""
    if reply.status == 401:
        return True
    # Looked for before the body is parsed: nearly every answer is data.
    document = decode_json(reply) if b'"errors"' in reply.body[:100] else None
    return isinstance(document, dict) and bool(words := _complaint(document, reply)) and words[0] == 401


def _complaint(document: Document, reply: Reply) -> tuple[int, str]:
    """The status and the words of an error, the body's before the reply's; no words where there is none."""
    errors, fault = document.get("errors"), document.get("fault")
    if isinstance(errors, list):
        listed = [error for error in errors if isinstance(error, dict)]
        status = next((int(found) for error in listed if (found := number(error.get("status")))), reply.status)
        said_so = [str(error.get("detail") or error.get("title") or error.get("message") or "error") for error in listed]
        return max(status, 400), "; ".join(said_so) or "an error without words"
    if isinstance(fault, dict):
        detail = fault.get("detail")
        code = detail.get("errorcode") if isinstance(detail, dict) else detail
        return max(reply.status, 400), f"{fault.get('faultstring') or 'fault'} ({code})"
    words = next((document[key] for key in ("message", "error_description", "error") if isinstance(document.get(key), str)), "")
    return reply.status, words if reply.status != 200 or "error" in document or len(document) == 1 else ""


def _refused(status: int, words: str, reply: Reply, now: datetime, secrets: Iterable[str]) -> ProviderError:
    low, again = words.lower(), retry_after(reply, now)
    message = f"schwab: {sanitize(words, *secrets) or f'answered {status}'}"
    if any(sign in low for sign in _TOO_MUCH) or status == 502:
        return TooMuchError(Verdict.SERVER_ERROR, message, again)
    if status == 429 or any(sign in low for sign in _THROTTLED):
        return ProviderError(Verdict.RATE_LIMITED, message, again)
    if status >= 500 or status == 408:
        return ProviderError(Verdict.TIMEOUT if "timeout" in low or "timed out" in low else Verdict.SERVER_ERROR, message, again)
    if status == 401:
        told = f"{message}; is the product Market Data part of the application?"
        return ProviderError(Verdict.UNAUTHORIZED, told)
    if status in (402, 403):
        return ProviderError(Verdict.PLAN_RESTRICTED, message)
    if status == 404 or _NO_SUCH_SYMBOL.search(low):
        return ProviderError(Verdict.NOT_FOUND, message)
    return ProviderError(Verdict.BAD_REQUEST, message)


def refuse_unknown(document: Document) -> None:
    """Raise not_found where an answer holds nothing but symbols that are unknown."""
    if isinstance(document.get("errors"), dict):
        raise ProviderError(Verdict.NOT_FOUND, "schwab: does not know this symbol")
