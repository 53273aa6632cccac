"""The OpenAPI 3.1 document, made from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.problems import CONTENT_TYPE
from server.routes.route import EVENTS, JSON, Answer, Parameter, Route

REFERENCE = "#/components/schemas/{model}"
ALWAYS = (400, 401, 403, 406, 408, 413, 421, 422, 429, 431, 503)
"""Problems that any route may answer with: broken requests, foreign callers, limits, a server that is stopping."""

PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable, for programs."},
        "detail": {"type": "string", "description": "For people; draws the line where a text is at fault."},
        "hint": {"type": "string", "description": "What would mend it."},
        "span": {
            "type": "object",
            "description": "Where in the text, counted from 1.",
            "required": ["line", "column", "end"],
            "properties": {name: {"type": "integer", "minimum": 1} for name in ("line", "column", "end")},
        },
        "request_id": {"type": "string"},
    },
}

DESCRIPTION = """Ask questions of live event streams in MQL, and the same questions of yesterday.

Streams (`text/event-stream`) send the events `meta`, `rows`, `progress`, `seal`, `phase`, `gap`, `warn`, `error`
and `end`."""


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "MQL", "version": version, "description": DESCRIPTION, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": schemas(routes) | {"Problem": PROBLEM_SCHEMA},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def schemas(routes: Sequence[Route]) -> dict[str, Any]:
    """The JSON Schema of every model that a route names."""
    answers = [answer.model for route in routes for answer in route.answers if answer.model is not None]
    bodies = [route.body for route in routes if route.body is not None]
    named = [(model, "validation") for model in dict.fromkeys(bodies)]
    named += [(model, "validation") for model in dict.fromkeys(answers) if model not in bodies]
    _, definitions = models_json_schema(named, ref_template=REFERENCE)  # type: ignore[arg-type]
    return dict(definitions.get("$defs", {}))


def operation(route: Route) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [*path_parameters(route), *(parameter(each) for each in route.parameters)],
        "responses": responses(route),
    }
    if route.scope is not None:
        described["security"] = [{}, {"token": []}]
        described["x-scope"] = route.scope
    if route.body_types:
        described["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": body_schema(kind, route.body)} for kind in route.body_types},
        }
    return described


def path_parameters(route: Route) -> list[dict[str, Any]]:
    notes = route.path_notes or {}
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": notes.get(name, f"The {name} of the {route.tag}."),
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]


def parameter(each: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": each.name,
        "in": each.where,
        "description": each.description,
        "schema": dict(each.schema),
    }
    if each.required:
        described["required"] = True
    if each.example is not None:
        described["example"] = each.example
    return described


def body_schema(kind: str, model: type[BaseModel] | None) -> dict[str, Any]:
    if kind == JSON and model is not None:
        return reference(model)
    return {} if kind == JSON else {"type": "string"}


def responses(route: Route) -> dict[str, Any]:
    described = {str(answer.status): response(answer) for answer in route.answers}
    for status in sorted({*ALWAYS, *route.problems}):
        described.setdefault(str(status), problem(status))
    return described


def response(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.types and answer.status != 204:
        described["content"] = {kind: {"schema": answer_schema(kind, answer.model)} for kind in answer.types}
    if answer.headers:
        described["headers"] = {name: {"schema": {"type": "string"}} for name in answer.headers}
    return described


def answer_schema(kind: str, model: type[BaseModel] | None) -> dict[str, Any]:
    if kind == JSON:
        return reference(model) if model is not None else {}
    return {} if kind == EVENTS else {"type": "string"}


def problem(status: int) -> dict[str, Any]:
    return {
        "description": PROBLEM_NAMES.get(status, "A problem."),
        "content": {CONTENT_TYPE: {"schema": {"$ref": REFERENCE.format(model="Problem")}}},
    }


def reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


PROBLEM_NAMES: Mapping[int, str] = {
    400: "The request cannot be read.",
    401: "A token is needed, and this is none.",
    403: "A page from another site asked, or the token has not the scope.",
    404: "There is no such thing.",
    405: "Not with that method.",
    406: "None of the formats that are accepted.",
    408: "The body came too slowly.",
    409: "It does not fit with what is there.",
    413: "The body is too large.",
    415: "Not this kind of body.",
    421: "Not this server's name.",
    422: "The request can be read, but is wrong.",
    429: "A limit is reached; Retry-After says when to try again.",
    431: "The headers are too large.",
    503: "The server is not ready, or stopping.",
}
