"""What goes wrong over HTTP, as problem documents (RFC 9457)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import ValidationError

from mql.errors import MqlError, did_you_mean, place_of, render
from server.complaints import complaint, model_called

_TYPE = re.compile(r"(dict|list|tuple|union|nullable|constrained-\w+)\[.*\]|constrained-\w+|str|int|float|bool")
CONTENT_TYPE = "application/problem+json"

STATUS_OF_CODE: Mapping[str, int] = {
    "unknown-query": 404,
    "no-such-query": 404,
    "too-many-queries": 429,
    "quota": 429,
    "source-in-use": 409,
    "stopping": 503,
}
"""The user's errors that are not about a text: what they are in HTTP. All others are 422."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document. `code` is stable and meant for programs; `more` holds further members."""

    status: int
    code: str
    detail: str
    hint: str | None = None
    span: Mapping[str, int] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.hint is not None:
            document["hint"] = self.hint
        if self.span is not None:
            document["span"] = dict(self.span)
        if request_id is not None:
            document["request_id"] = request_id
        return document | dict(self.more)

    def body(self, request_id: str | None = None) -> bytes:
        return orjson.dumps(self.document(request_id), default=str)


class Refusal(Exception):
    """Raised by a handler to answer with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refuse(status: int, code: str, detail: str, hint: str | None = None, **headers: str) -> Refusal:
    """The refusal to raise; a header's underscores are dashes: `retry_after="1"`."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Refusal(Problem(status, code, detail, hint, headers=named))


def of_query(error: MqlError, status: int | None = None) -> Problem:
    """The problem that a mistake of the user's is: its detail draws the line with carets under the span."""
    status = status or STATUS_OF_CODE.get(error.code, 422)
    more = {} if error.text is None else {"message": error.message}
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    return Problem(status, error.code, drawing(error), error.hint, span_of(error), more, headers)


def drawing(error: MqlError) -> str:
    """The error as `render` draws it, without the hint, which has a member of its own."""
    return render(MqlError(error.message, error.span, text=error.text))


def span_of(error: MqlError) -> Mapping[str, int] | None:
    """Where in the text it is, counted from 1; None where no text is at fault."""
    if error.text is None or error.span is None:
        return None
    at = place_of(error.text, error.span)
    return {"line": at.line, "column": at.column, "end": at.end}


def of_validation(error: ValidationError) -> Problem:
    """All that is wrong with a body, each with a pointer to it."""
    model = model_called(error.title)
    errors = [
        {"pointer": "/" + "/".join(str(part) for part in said_of(each["loc"])), "message": complaint(each, model)}
        for each in error.errors(include_url=False)
    ]
    first = errors[0]
    detail = f"{first['pointer']}: {first['message']}" if first["pointer"] != "/" else first["message"]
    if len(errors) > 1:
        detail += f" (and {len(errors) - 1} more)"
    return Problem(422, "invalid-body", detail, more={"errors": errors})


def said_of(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A place as it is in the body: behind a sink's number stands its kind, and where there are several types the one
    that was tried; these are no parts of the way."""
    at = next((at for at, part in enumerate(location) if part in ("sinks", "add_sinks")), len(location))
    said = (*location[: at + 2], *location[at + 3 :])
    return tuple(part for part in said if not (isinstance(part, str) and _TYPE.fullmatch(part)))


def of_action(path: str, known: Sequence[str]) -> Problem:
    """An action that there is not, or that is asked for by another method than POST."""
    asked = path.rpartition(":")[2]
    if asked in known:
        return Problem(405, "method-not-allowed", f'":{asked}" is asked for by POST', headers={"Allow": "POST"})
    hint = did_you_mean(asked, known) or f"There are {', '.join(known)}."
    return Problem(404, "no-such-action", f'there is no action "{asked[:80]}"', hint if known else None)


def of_status(status: int, headers: Mapping[str, str]) -> Problem:
    """What the framework itself refuses: no such path, no such method, a body too large."""
    match status:
        case 404:
            hint = "The paths are listed at /docs and in /openapi.json."
            return Problem(404, "no-such-path", "there is nothing at this path", hint)
        case 405:
            allowed = headers.get("Allow", "")
            detail = f"this path does not take that method, but {allowed}"
            return Problem(405, "method-not-allowed", detail, headers={"Allow": allowed})
        case 413:
            return Problem(413, "body-too-large", "the body is larger than this server takes")
        case _:
            phrase = HTTPStatus(status).phrase.lower()
            return Problem(status, phrase.replace(" ", "-"), phrase)
