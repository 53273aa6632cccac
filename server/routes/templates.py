"""Templates over HTTP: kept with their versions, checked before they are kept, tried by their own examples."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import BaseModel

from mql.errors import MqlError
from server.guard import decoded, read_body
from server.keeping import KEEPER
from server.problems import Problem, Refusal, refuse
from server.routes.asking import number_in
from server.routes.queries import json_answer
from server.routes.route import JSON, TEXT, Answer, Parameter, Route
from server.shared import Shared, shared_of
from server.store import Store, StoredTemplate
from server.templates import Template, check_against, parse_template
from server.trying import Report, test_template
from sources.strict_yaml import ConfigError

YAML = "application/yaml"
BODY_TYPES = (JSON, YAML, TEXT)
VERSION_MAX = 1_000_000


class TemplateTold(BaseModel):
    """A template, whole. `text` is as it was put; `warnings`: why it would not run on this server as it is."""

    name: str
    version: int
    versions: list[int]
    created_us: int
    template: Template
    text: str
    warnings: list[str]


class TemplateListed(BaseModel):
    """One template in a listing."""

    name: str
    version: int
    description: str
    params: list[str]
    labels: dict[str, str]


class TemplateListing(BaseModel):
    """The newest version of each template."""

    templates: list[TemplateListed]


class TriedTold(BaseModel):
    """One example by one route."""

    example: int
    route: str
    problem: str | None


class ReportTold(BaseModel):
    """What came of a template's examples."""

    good: bool
    tried: list[TriedTold]


async def list_templates(request: web.Request) -> web.Response:
    """The newest version of each template."""
    found = await shared_of(request).call(lambda: store_of(request).templates())
    return json_answer({"templates": [listed(one) for one in found]})


async def get_template(request: web.Request) -> web.Response:
    """A template: the newest version, or `?version=`."""
    version = number_in(request, "version", 0, 1, VERSION_MAX) or None
    name = request.match_info["name"]
    shared = shared_of(request)
    return json_answer(await shared.call(lambda: told(shared, store_of(request), stored(request, name, version))))


async def put_template(request: web.Request) -> web.Response:
    """Checks and keeps a template. What says the same as the newest version makes no new one."""
    shared = shared_of(request)
    limit = shared.settings.server.limits.body
    raw = decoded(await read_body(request, limit), request.headers.get("Content-Encoding", ""), limit)
    name = request.match_info["name"]

    def keep() -> tuple[bool, dict[str, Any]]:
        template = parsed(raw)
        if template.name != name:
            raise refuse(422, "invalid-template", f'the template\'s name is "{template.name}", not "{name[:80]}"')
        store = store_of(request)
        is_new = store.template(name) is None
        kept = store.put_template(name, raw.decode("utf-8-sig"))
        return is_new, told(shared, store, kept)

    is_new, document = await shared.call(keep)
    return json_answer(document, 201 if is_new else 200, Location=f"/v1/templates/{name}")


async def delete_template(request: web.Request) -> web.Response:
    """Takes a template away; jobs that were made of it go on."""
    name = request.match_info["name"]

    def drop() -> None:
        stored(request, name, None)
        store_of(request).delete_template(name)

    await shared_of(request).call(drop)
    return web.Response(status=204)


async def test_stored_template(request: web.Request) -> web.Response:
    """Runs the template's examples by every route."""
    name = request.match_info["name"]

    def tried() -> Report:
        return test_template(parse_template(stored(request, name, None).text))

    report = await shared_of(request).call(tried)
    return json_answer(
        {
            "good": report.good,
            "tried": [{"example": one.example, "route": one.route, "problem": one.problem} for one in report.tried],
        }
    )


# --- what they share -----------------------------------------------------------------------------------------


def store_of(request: web.Request) -> Store:
    """Blocks: for threads."""
    return request.app[KEEPER].open()


def stored(request: web.Request, name: str, version: int | None) -> StoredTemplate:
    found = store_of(request).template(name, version)
    if found is None:
        which = "" if version is None else f" with version {version}"
        raise refuse(404, "unknown-template", f'no template "{name[:80]}"{which}', "GET /v1/templates lists them.")
    return found


def parsed(raw: bytes) -> Template:
    try:
        return parse_template(raw)
    except ConfigError as error:
        faults = [
            {"line": each.line, "column": each.column, "path": each.path, "message": each.message}
            for each in error.problems
        ]
        raise Refusal(Problem(422, "invalid-template", str(error), more={"errors": faults})) from None


def told(shared: Shared, store: Store, kept: StoredTemplate) -> dict[str, Any]:
    template = parse_template(kept.text)
    return {
        "name": kept.name,
        "version": kept.version,
        "versions": [one.version for one in store.template_versions(kept.name)],
        "created_us": kept.created_us,
        "template": template.model_dump(mode="json", exclude_unset=True),
        "text": kept.text,
        "warnings": warnings_of(shared, template),
    }


def warnings_of(shared: Shared, template: Template) -> list[str]:
    try:
        check_against(template, shared.engine.catalog())
    except MqlError as error:
        return [error.message]
    return []


def listed(kept: StoredTemplate) -> dict[str, Any]:
    template = parse_template(kept.text)
    return {
        "name": kept.name,
        "version": kept.version,
        "description": template.description,
        "params": list(template.params),
        "labels": dict(template.labels),
    }


NAME = {"name": "The template's name."}
VERSION = Parameter(
    "version", "That version instead of the newest.", {"type": "integer", "minimum": 1, "maximum": VERSION_MAX}
)

ROUTES = (
    Route(
        "GET",
        "/v1/templates",
        list_templates,
        "List templates",
        "template",
        (Answer(200, "The templates.", TemplateListing),),
    ),
    Route(
        "GET",
        "/v1/templates/{name}",
        get_template,
        "Show a template",
        "template",
        (Answer(200, "The template.", TemplateTold),),
        (VERSION,),
        problems=(404, 422),
        path_notes=NAME,
    ),
    Route(
        "PUT",
        "/v1/templates/{name}",
        put_template,
        "Keep a template",
        "template",
        (
            Answer(200, "It was there; this is its newest version.", TemplateTold, headers=("Location",)),
            Answer(201, "It is kept.", TemplateTold, headers=("Location",)),
        ),
        body=Template,
        body_types=BODY_TYPES,
        problems=(422,),
        path_notes=NAME,
    ),
    Route(
        "DELETE",
        "/v1/templates/{name}",
        delete_template,
        "Take a template away",
        "template",
        (Answer(204, "It is gone."),),
        problems=(404,),
        path_notes=NAME,
    ),
    Route(
        "POST",
        "/v1/templates/{name}:test",
        test_stored_template,
        "Try a template's examples",
        "template",
        (Answer(200, "What came of them.", ReportTold),),
        problems=(404,),
        path_notes=NAME,
    ),
)
