"""Silences over HTTP: listed, made, taken away."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import BaseModel, Field

from mql.errors import MqlError
from server.jobs import JOBS
from server.keeping import SILENCES
from server.problems import Refusal, of_query
from server.routes.asking import STRING
from server.routes.jobs import body_of
from server.routes.queries import json_answer
from server.routes.route import JSON, Answer, Parameter, Route
from server.shared import shared_of
from server.silences import Silence, text_of


class SilenceTold(BaseModel):
    """A silence. `declared`: it is of the configuration; `holds`: it is on now; `for`: how many seconds each time."""

    name: str
    comment: str
    owner: str | None
    jobs: list[str]
    labels: dict[str, str]
    keys: dict[str, str]
    starts: str | None
    ends: str | None
    lasts: float | None = Field(alias="for")
    every: list[str]
    at: str | None
    timezone: str
    declared: bool
    holds: bool


class SilenceList(BaseModel):
    """Silences by name."""

    silences: list[SilenceTold]


async def list_silences(request: web.Request) -> web.Response:
    """All silences, or those about one job: `?job=errors`."""
    silences, job = request.app[SILENCES], request.query.get("job")
    jobs = {} if job is None else labels_of(request, job)

    def found() -> list[dict[str, Any]]:
        return [told(request, one) for one in silences.all() if job is None or one.is_about(job, jobs)]

    return json_answer({"silences": await shared_of(request).call(found)})


async def make_silence(request: web.Request) -> web.Response:
    """A silence, or a maintenance window that comes again. Without `starts` it begins now."""
    said = Silence.model_validate(await body_of(request))
    silences = request.app[SILENCES]
    made = await shared_of(request).call(lambda: refusing(lambda: silences.create(said)))
    return json_answer(told(request, made), 201, Location=f"/v1/silences/{made.name}")


async def get_silence(request: web.Request) -> web.Response:
    """A silence."""
    name, silences = request.match_info["name"], request.app[SILENCES]

    def found() -> dict[str, Any]:
        for one in silences.all():
            if one.name == name:
                return told(request, one)
        hint = "GET /v1/silences lists them."
        raise MqlError(f'no silence "{name[:80]}"', hint=hint, code="unknown-silence")

    return json_answer(await shared_of(request).call(lambda: refusing(found)))


async def delete_silence(request: web.Request) -> web.Response:
    """Takes a silence away: what comes from now on alerts again."""
    name, silences = request.match_info["name"], request.app[SILENCES]
    await shared_of(request).call(lambda: refusing(lambda: silences.delete(name)))
    return web.Response(status=204)


def labels_of(request: web.Request, job: str) -> dict[str, str]:
    known = {one.name: dict(one.spec.labels) for one in request.app[JOBS].all()}
    return known.get(job, {})


STATUS = {"unknown-silence": 404, "silence-exists": 409, "silence-declared": 409, "too-many-silences": 429}


def refusing(work: Any) -> Any:
    try:
        return work()
    except MqlError as error:
        raise Refusal(of_query(error, STATUS.get(error.code))) from None


def told(request: web.Request, one: Silence) -> dict[str, Any]:
    silences = request.app[SILENCES]
    now_us = silences.clock.now_us()
    found = one.told() | ({} if one.every else {"ends": text_of(one.bounds_us[1]), "for": None})
    return {**found, "declared": one.name in silences.declared, "holds": one.holds(now_us, now_us + 1)}


ONE = {"name": "The silence's name."}

ROUTES = (
    Route(
        "GET",
        "/v1/silences",
        list_silences,
        "List silences",
        "silence",
        (Answer(200, "The silences.", SilenceList),),
        (Parameter("job", "Only those about this job.", STRING),),
    ),
    Route(
        "POST",
        "/v1/silences",
        make_silence,
        "Silence alerts for a time, or every so often",
        "silence",
        (Answer(201, "It is made.", SilenceTold, headers=("Location",)),),
        body=Silence,
        body_types=(JSON,),
        problems=(409, 422),
    ),
    Route(
        "GET",
        "/v1/silences/{name}",
        get_silence,
        "Show a silence",
        "silence",
        (Answer(200, "The silence.", SilenceTold),),
        problems=(404,),
        path_notes=ONE,
    ),
    Route(
        "DELETE",
        "/v1/silences/{name}",
        delete_silence,
        "Take a silence away",
        "silence",
        (Answer(204, "It is gone."),),
        problems=(404, 409),
        path_notes=ONE,
    ),
)
