"""Jobs that change while they run: what they ask, what is said of them, and on how many workers they run."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from server.changing import Begin, change
from server.job import Job
from server.job_spec import Priority, Workers
from server.life import Expect, KeepLetters, Limits, Positive, Schedule
from server.problems import refuse
from server.routes.asking import choice
from server.routes.asking import one_of as word
from server.routes.jobs import ONE, JobTold, Restart, Said, body_of, job_of, refusing, told
from server.routes.queries import json_answer
from server.routes.route import JSON, Answer, Route
from server.seats import seats_of
from server.settings import Bytes, Seconds
from server.shared import shared_of
from server.sinks import AnySink
from server.templates import SINKS_MAX, Label, ParamName


class Changes(Said):
    """What may change while a job runs. With another query, other params, or another version of its template it goes on
    with what it knows where that serves (`state: keep`), else it is refused, unless it is told to begin without
    (`state: discard`): where its last checkpoint stands, now, or with the earliest event."""

    query: str | None = Field(default=None, min_length=1, max_length=65_536)
    params: dict[str, Any] | None = Field(default=None, description="all of them, instead of those before")
    version: int | None = Field(default=None, ge=1, le=1_000_000, strict=True, description="of its template")
    state: Literal["keep", "discard"] = "keep"
    begin: Begin | None = Field(default=None, description="from where it reads without its state [checkpoint]")
    workers: Workers | None = Field(default=None, description="null leaves it to the server")
    priority: Priority | None = None
    checkpoint_every: Annotated[Seconds, Field(ge=0.02, le=3_600)] | None = None
    labels: dict[ParamName, Label] | None = None
    owner: str | None = Field(default=None, max_length=200)
    restart: Restart | None = None
    attempts: int | None = Field(default=None, ge=0, le=1_000_000, strict=True)
    keep_age: Seconds | None = None
    keep_bytes: Bytes | None = None
    dead_letters: KeepLetters | None = None
    schedule: Schedule | None = Field(default=None, description="null takes it away")
    limits: Limits | None = None
    expect: Expect | None = None
    transient: Positive | None = Field(default=None, description="null takes it away")
    sinks: list[AnySink] | None = Field(
        default=None, max_length=SINKS_MAX, description="all of them; who writes to where it wrote keeps its place"
    )
    add_sinks: list[AnySink] = Field(default_factory=list, max_length=SINKS_MAX, description="besides those it has")
    drop_sinks: list[int] = Field(default_factory=list, max_length=SINKS_MAX, description="by their numbers")
    sinks_from: str = Field(
        default="now", max_length=200, description="where new sinks begin: now, earliest, or a cursor"
    )


class Scale(Said):
    """On how many of the server's workers a job is to run; null leaves that to the server."""

    workers: Workers | None


class FateTold(BaseModel):
    """What becomes of a job's state. `state`: whole, differs (what is otherwise from now on is in `differences`),
    cannot (why is in `reasons`), discarded, or none, where it keeps none. `sinks`: what becomes of each, where they
    change. `restarts`: it takes another run."""

    state: Literal["whole", "differs", "cannot", "discarded", "none"]
    differences: list[str]
    reasons: list[str]
    sinks: list[str]
    restarts: bool


class JobChanged(JobTold):
    """A job, and what has become of its state, or with `dry_run` would."""

    change: FateTold


NULLABLE = ("owner", "schedule", "transient", "workers")
HOW = ("state", "begin", "add_sinks", "drop_sinks", "sinks_from")


async def change_job(request: web.Request) -> web.Response:
    """Changes a job, which goes on with what it knows; `?dry_run=true` only tells whether it could."""
    said = Changes.model_validate(await body_of(request))
    if said.begin is not None and said.state != "discard":
        raise refuse(422, "invalid-body", "begin is said of a job that begins without its state", "Say state: discard.")
    job = await job_of(request)
    changes = said.model_dump(exclude_none=True, exclude=set(HOW))
    changes |= {name: None for name in NULLABLE if name in said.model_fields_set and getattr(said, name) is None}
    begin = (said.begin or "checkpoint") if said.state == "discard" else None
    rehearses = word(request, "dry_run", ("true", "false"), "false") == "true"

    def work() -> dict[str, Any]:
        if said.add_sinks or said.drop_sinks:
            changes["sinks"] = sinks_after(job, said)
        changing = partial(change, job, changes, begin, rehearses=rehearses, sinks_from=said.sinks_from)
        fate = refusing(changing, said.query)
        return {**told(job), "change": asdict(fate)}

    return json_answer(await shared_of(request).call(work))


def sinks_after(job: Job, said: Changes) -> list[Any]:
    """Those that it has, without some and with others."""
    if said.sinks is not None:
        hint = "Say all of them by sinks, or what is different by add_sinks and drop_sinks."
        raise refuse(422, "invalid-body", "sinks is said beside add_sinks or drop_sinks", hint)
    spec = job.spec
    numbered = {seat.number: sink for seat, sink in zip(seats_of(spec.sinks, spec.seats), spec.sinks, strict=True)}
    unknown = [number for number in said.drop_sinks if number not in numbered]
    leaving = {one.leave.seat.number for one in job.departures}
    if unknown and unknown[0] in leaving:
        raise refuse(409, "conflict", f"sink {unknown[0]} is leaving already")
    if unknown:
        hint = f"GET /v1/jobs/{job.name} lists its sinks with their numbers."
        raise refuse(422, "invalid-body", f"the job has no sink {unknown[0]}", hint)
    sinks = [*(sink for number, sink in numbered.items() if number not in said.drop_sinks), *said.add_sinks]
    if len(sinks) > SINKS_MAX:
        raise refuse(422, "invalid-body", f"a job has at most {SINKS_MAX} sinks")
    return [sink.model_dump() for sink in sinks]


async def scale_job(request: web.Request) -> web.Response:
    """Goes on with another number of tasks, from where it stands: what they know is dealt out anew."""
    said = Scale.model_validate(await body_of(request))
    job = await job_of(request)
    await shared_of(request).call(lambda: refusing(lambda: change(job, {"workers": said.workers}, action="scale")))
    return json_answer(await shared_of(request).call(told, job))


ROUTES = (
    Route(
        "PATCH",
        "/v1/jobs/{name}",
        change_job,
        "Change a job",
        "job",
        (Answer(200, "It is changed, or could be.", JobChanged),),
        (choice("dry_run", "`true`: only tell what would become of its state.", ("true", "false")),),
        body=Changes,
        body_types=(JSON,),
        problems=(404, 409, 422),
        path_notes=ONE,
    ),
    Route(
        "POST",
        "/v1/jobs/{name}:scale",
        scale_job,
        "Run a job on more workers or fewer",
        "job",
        (Answer(200, "It goes on with so many.", JobTold),),
        body=Scale,
        body_types=(JSON,),
        problems=(404, 409, 422),
        path_notes=ONE,
    ),
)
