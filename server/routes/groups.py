"""Groups of readers over HTTP: take rows, say that they are done."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from mql.errors import MqlError
from server import encode
from server.problems import Refusal, of_query, refuse
from server.routes.jobs import body_of, job_of
from server.routes.queries import json_answer
from server.routes.route import JSON, Answer, Route
from server.settings import Seconds
from server.shared import shared_of
from server.templates import NAME

LOOK_S = 0.1
ROWS_MAX = 10_000
READER = r"^[A-Za-z0-9_.:-]{1,100}$"


class Take(BaseModel):
    """Who takes how many rows, and how long it may keep them. `wait`: for so long where there are none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reader: Annotated[str, Field(pattern=READER)]
    max_rows: int = Field(default=1_000, ge=1, le=ROWS_MAX)
    lease: Annotated[Seconds, Field(ge=1, le=3_600)] = 30.0
    wait: Annotated[Seconds, Field(le=30)] = 0.0
    begin: Literal["start", "live"] = Field(default="start", description="where a group begins that is not there yet")


class Ack(BaseModel):
    """What is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease: str = Field(min_length=1, max_length=100)


class Release(BaseModel):
    """Who leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reader: Annotated[str, Field(pattern=READER)]


class TakenRows(BaseModel):
    """Rows from number `first` up to (not with) `after`; `lease` null where there are none now."""

    lease: str | None
    first: int | None
    after: int | None
    rows: list[dict[str, Any]]


class GroupTold(BaseModel):
    """A group: all rows before `done` are done, `under_way` are with `readers`, `lost` were gone unread."""

    name: str
    done: int
    behind: int
    under_way: int
    lost: int
    readers: list[str]


class GroupList(BaseModel):
    """Groups by name."""

    groups: list[GroupTold]


async def list_groups(request: web.Request) -> web.Response:
    """The groups that read the job, and how far they are."""
    job = await job_of(request)
    return json_answer({"groups": list(await shared_of(request).call(job.groups.told))})


async def take_rows(request: web.Request) -> web.Response:
    """Rows that no other reader of the group has, for a while."""
    shared, job, group = shared_of(request), await job_of(request), group_of(request)
    said = Take.model_validate(await body_of(request))

    def take() -> dict[str, Any]:
        live = said.begin == "live"
        lease, tables = job.groups.take(group, said.reader, said.max_rows, said.lease, live=live)
        if lease is None:
            return {"lease": None, "first": None, "after": None, "rows": []}
        rows = [row for table in tables for row in encode.rows_of(table)]
        return {"lease": lease.id, "first": lease.first, "after": lease.after, "rows": rows}

    until_s = asyncio.get_running_loop().time() + said.wait
    found = await shared.call(lambda: refusing(take))
    while found["lease"] is None and asyncio.get_running_loop().time() < until_s and not shared.stopping:
        await asyncio.sleep(LOOK_S)
        found = await shared.call(lambda: refusing(take))
    return json_answer(found)


async def ack_rows(request: web.Request) -> web.Response:
    """These rows are done: nobody gets them again."""
    job, group = await job_of(request), group_of(request)
    said = Ack.model_validate(await body_of(request))
    await shared_of(request).call(lambda: refusing(lambda: job.groups.ack(group, said.lease)))
    return web.Response(status=204)


async def release_rows(request: web.Request) -> web.Response:
    """A reader leaves: what it has not done goes to the others at once."""
    job, group = await job_of(request), group_of(request)
    said = Release.model_validate(await body_of(request))
    await shared_of(request).call(lambda: refusing(lambda: job.groups.release(group, said.reader)))
    return web.Response(status=204)


async def delete_group(request: web.Request) -> web.Response:
    """Forgets a group, and how far it was."""
    job, group = await job_of(request), group_of(request)
    await shared_of(request).call(lambda: refusing(lambda: job.groups.delete(group)))
    return web.Response(status=204)


def group_of(request: web.Request) -> str:
    name = request.match_info["group"]
    if not re.fullmatch(NAME, name):
        raise refuse(422, "invalid-parameter", f'"{name[:60]}" is no name of a group', "Letters, digits, _ . and -.")
    return name


STATUS = {"unknown-group": 404, "no-lease": 409, "too-many-groups": 429, "too-many-leases": 429}


def refusing(work: Any) -> Any:
    try:
        return work()
    except MqlError as error:
        raise Refusal(of_query(error, STATUS.get(error.code))) from None
    except OSError as error:
        why = f"how far the group is cannot be written: {error.strerror or error}"
        raise refuse(507, "cannot-store", why, "Free the disk, then try again.") from None


ONE = {"name": "The job's name.", "group": "The group's name."}
PATH = "/v1/jobs/{name}/groups/{group}"


def moving(action: str, handler: Any, summary: str, answer: Answer, body: type[BaseModel]) -> Route:
    problems = (404, 409, 422, 507)
    path = f"{PATH}:{action}"
    return Route("POST", path, handler, summary, "group", (answer,), (), body, (JSON,), problems, ONE)


ROUTES = (
    Route(
        "GET",
        "/v1/jobs/{name}/groups",
        list_groups,
        "List the groups that read a job",
        "group",
        (Answer(200, "The groups.", GroupList),),
        problems=(404,),
        path_notes={"name": "The job's name."},
    ),
    moving("take", take_rows, "Take rows that no other reader of the group has", Answer(200, "Rows.", TakenRows), Take),
    moving("ack", ack_rows, "Say that rows are done", Answer(204, "Done."), Ack),
    moving("release", release_rows, "Leave a group", Answer(204, "Its rows go to the others."), Release),
    Route(
        "DELETE",
        PATH,
        delete_group,
        "Forget a group",
        "group",
        (Answer(204, "It is gone."),),
        problems=(404, 422),
        path_notes=ONE,
    ),
)
