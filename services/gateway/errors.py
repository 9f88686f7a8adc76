"""Errors as RFC 9457 has them: a kind for programs, a line for people, and the field where there is one."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus

import msgspec
import nats.errors
from aiohttp import web
from nats.js.errors import APIError

from contracts.job import Job
from services.runtime.jobs.store import JobError

PROBLEM_TYPE = "application/problem+json"
RETRY_S = "5"
NATS_TROUBLE = (nats.errors.Error, APIError)

_STATUS_OF_JOB_ERROR = {
    "not_found": 404,
    "exists": 409,
    "refused": 409,
    "conflict": 412,
    "bad_request": 422,
    "not_provisioned": 503,
}
# msgspec ends what it says with the place; a contract's own checks begin with it, after the job's name.
_PLACE = re.compile(r"(?s)^(?P<said>.*) - at `\$\.?(?P<field>[^`]*)`$")
_NAMED = re.compile(r"(?s)^Object (?P<said>contains unknown field|missing required field) `(?P<field>[^`]*)`")
_BEGINS = re.compile(r"(?s)^(?:job [a-z0-9_-]+: )?(?P<field>[a-z_]+(?:, [a-z_]+)*): (?P<said>.*)$")


class FieldError(msgspec.Struct, frozen=True):
    """Validation error of one field of a body or a query. `field`: its path, such as `symbols[2]`; empty for the whole."""

    field: str
    message: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every answer that is an error. `type`: `urn:quotebus:` and the kind, which programs go by."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class Problem(Exception):  # noqa: N818  (the name that RFC 9457 gives it)
    """Ends a request with an error. `closes`: and the connection, as nobody knows where the next request would begin."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.document = ProblemDocument(
            type=f"urn:quotebus:{kind}", title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors)
        )
        self._headers = dict(headers or {})
        self._closes = closes
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self._headers.setdefault("Retry-After", RETRY_S)

    def response(self) -> web.Response:
        """The answer."""
        headers = {**self._headers, "Content-Type": PROBLEM_TYPE, "Cache-Control": "no-store"}
        answer = web.Response(status=self.status, body=msgspec.json.encode(self.document), headers=headers)
        if self._closes:
            answer.force_close()
        return answer


def field_problem(status: int, field: str, message: str) -> Problem:
    """One field is wrong."""
    detail = f"{field}: {message}" if field else message
    return Problem(status, "bad_request", detail, errors=[FieldError(field, message)])


def invalid(status: int, text: str, known: Sequence[str] = ()) -> Problem:
    """Convert a validation error of a contract or msgspec to a `Problem` of its field. `known`: field names, to suggest one."""
    for pattern in (_NAMED, _PLACE, _BEGINS):
        if found := pattern.match(text):
            field, said = found["field"], found["said"]
            if pattern is _NAMED:
                near = get_close_matches(field, known, 1) if said.startswith("contains") else []
                said = ("no such field" if said.startswith("contains") else "missing") + (
                    f"; did you mean {near[0]}?" if near else ""
                )
            return field_problem(status, field.replace("[...]", "").strip("."), said)
    return field_problem(status, "", text)


def problem_for(error: Exception) -> Problem | None:
    """Map an exception to its HTTP problem; None for a fault of the gateway's own."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, JobError):
        status = _STATUS_OF_JOB_ERROR.get(error.kind, 409)
        return (
            invalid(status, str(error), Job.__struct_fields__)
            if error.kind == "bad_request"
            else Problem(status, error.kind, str(error))
        )
    if isinstance(error, NATS_TROUBLE):
        said = str(error) or type(error).__name__
        what = f"NATS does not take it: {said}; whether anything was changed is not known, look and repeat"
        return Problem(503, "nats_unavailable", what)
    if isinstance(error, web.HTTPException):
        return _of_aiohttp(error)
    return None


def _of_aiohttp(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem(413, "too_large", f"{error.text}; `max_body_bytes` of [gateway] says how much", closes=True)
    return Problem(error.status, "refused", error.text or error.reason)
