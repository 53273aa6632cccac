"""A query's text before it runs: whether it is right, how it would be answered, what may come next, and why one event
is among its rows or not."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from mql.errors import MqlError
from mql.planner.completing import Completion, complete
from server.guard import parse_json, read_body
from server.problems import drawing, refuse, span_of
from server.routes.asking import ASK_TYPES, QUERY_LENGTH_MAX, RUN_PARAMETERS, Ask, choice, one_of, read_ask
from server.routes.queries import json_answer
from server.routes.route import Answer, Route
from server.shared import shared_of

EXPLAIN_FORMS = ("plan", "logical", "physical", "sql", "estimate")
EVENT_BYTES_MAX = 1 << 20


class Place(BaseModel):
    """Where in a text, counted from 1."""

    line: int
    column: int
    end: int


class Fault(BaseModel):
    """One thing that is wrong with a text."""

    code: str
    message: str
    detail: str
    hint: str | None
    span: Place | None


class Validity(BaseModel):
    """Whether a query could run, and what is wrong with it if not."""

    valid: bool
    errors: list[Fault]


class Explained(BaseModel):
    """A query's plan in one of its forms, as text."""

    form: str
    text: str


class AskWhy(BaseModel):
    """A query, and one event as it would come: an object, or its JSON text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str = Field(min_length=1, max_length=QUERY_LENGTH_MAX)
    event: dict[str, Any] | str
    params: dict[str, Any] = Field(default_factory=dict)
    source: str | None = Field(default=None, min_length=1, max_length=200, description="which of its sources it is of")


class Step(BaseModel):
    """One piece of the query, and whether the event passes it: null where that can't be told from the event alone."""

    model_config = ConfigDict(extra="allow")

    step: str
    ok: bool | None
    detail: str


class Reason(BaseModel):
    """Whether the event is among those that the query answers with, the first thing that speaks against it, and all
    pieces in their order: decode, bounds, sample, where, window, lateness, group."""

    kept: bool | None
    reason: str
    steps: list[Step]


class AskNext(BaseModel):
    """A text that is being written, and where: a number of characters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str = Field(max_length=QUERY_LENGTH_MAX)
    offset: int | None = Field(default=None, ge=0, description="the end, if left out")
    source: str | None = Field(default=None, min_length=1, max_length=200)


class Item(BaseModel):
    """What may stand there. `kind`: keyword, source, property, function or aggregate."""

    text: str
    kind: str
    detail: str


class Next(BaseModel):
    """`start`: where the word begins that an item takes the place of."""

    start: int
    items: list[Item]


async def validate(request: web.Request) -> web.Response:
    """Whether the query could run; all that is wrong with it, with its place in the text."""
    shared = shared_of(request)
    said = await read_ask(request)
    try:
        await shared.call(shared.engine.validate, said.query, said.params, said.source)
    except MqlError as error:
        return json_answer({"valid": False, "errors": [fault(error.in_text(said.query))]})
    return json_answer({"valid": True, "errors": []})


async def explain(request: web.Request) -> web.Response:
    """The query's plan, without running it."""
    return await explained(request, one_of(request, "form", EXPLAIN_FORMS, "plan") or "plan")


async def estimate(request: web.Request) -> web.Response:
    """What the query would read and keep, with the arithmetic."""
    return await explained(request, "estimate")


async def explained(request: web.Request, form: str) -> web.Response:
    shared = shared_of(request)
    said = await read_ask(request)
    try:
        text = await shared.call(shared.engine.explain, said.query, said.params, form, said.source)
    except MqlError as error:
        raise error.in_text(said.query) from None
    return json_answer({"form": form, "text": text})


async def reason(request: web.Request) -> web.Response:
    """Why an event is among those that the query answers with, or why not."""
    shared = shared_of(request)
    raw = await read_body(request, shared.settings.server.limits.body)
    said = AskWhy.model_validate(parse_json(raw))
    event = said.event.encode() if isinstance(said.event, str) else orjson.dumps(said.event)
    if len(event) > EVENT_BYTES_MAX:
        raise refuse(413, "event-too-large", "the event is larger than 1 MiB")
    try:
        found = await shared.call(shared.engine.why, said.query, event, said.params, said.source)
    except MqlError as error:
        raise error.in_text(said.query) from None
    return json_answer(found)


async def following(request: web.Request) -> web.Response:
    """What may be written at a place in a text."""
    shared = shared_of(request)
    raw = await read_body(request, shared.settings.server.limits.body)
    said = AskNext.model_validate(parse_json(raw))

    def found() -> tuple[int, tuple[Completion, ...]]:
        offset = len(said.query) if said.offset is None else said.offset
        return complete(said.query, offset, shared.engine.catalog(said.source))

    start, items = await shared.call(found)
    listed = [{"text": one.text, "kind": one.kind, "detail": one.detail} for one in items]
    return json_answer({"start": start, "items": listed})


def fault(error: MqlError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "detail": drawing(error),
        "hint": error.hint,
        "span": span_of(error),
    }


ROUTES = (
    Route(
        "POST",
        "/v1/queries:validate",
        validate,
        "Check a query's text",
        "text",
        (Answer(200, "What is wrong with it, if anything.", Validity),),
        RUN_PARAMETERS,
        Ask,
        ASK_TYPES,
        (415, 422),
    ),
    Route(
        "POST",
        "/v1/queries:explain",
        explain,
        "Show a query's plan",
        "text",
        (Answer(200, "The plan.", Explained),),
        (choice("form", "Which form of the plan.", EXPLAIN_FORMS), *RUN_PARAMETERS),
        Ask,
        ASK_TYPES,
        (415, 422),
    ),
    Route(
        "POST",
        "/v1/queries:estimate",
        estimate,
        "Estimate what a query would cost",
        "text",
        (Answer(200, "The estimate.", Explained),),
        RUN_PARAMETERS,
        Ask,
        ASK_TYPES,
        (415, 422),
    ),
    Route(
        "POST",
        "/v1/queries:why",
        reason,
        "Tell why an event is among a query's, or why not",
        "text",
        (Answer(200, "Whether it is, and every piece that was asked of it.", Reason),),
        (),
        AskWhy,
        problems=(413, 415, 422),
    ),
    Route(
        "POST",
        "/v1/queries:complete",
        following,
        "Tell what may come next in a query's text",
        "text",
        (Answer(200, "What may stand there.", Next),),
        (),
        AskNext,
        problems=(415, 422),
    ),
)
