"""Jobs that change while they run: what is said of them, and on how many workers they run."""

from __future__ import annotations

from aiohttp import web
from pydantic import Field

from server.job import Job
from server.job_spec import Workers, check_workers
from server.life import Expect, Limits, Positive, Schedule
from server.routes.jobs import ONE, JobTold, Restart, Said, body_of, job_of, refusing, told
from server.routes.queries import json_answer
from server.routes.route import JSON, Answer, Route
from server.settings import Bytes, Seconds
from server.shared import shared_of
from server.templates import Label, ParamName


class Changes(Said):
    """What may change while a job runs."""

    labels: dict[ParamName, Label] | None = None
    owner: str | None = Field(default=None, max_length=200)
    restart: Restart | None = None
    attempts: int | None = Field(default=None, ge=0, le=1_000_000)
    keep_age: Seconds | None = None
    keep_bytes: Bytes | None = None
    schedule: Schedule | None = Field(default=None, description="null takes it away")
    limits: Limits | None = None
    expect: Expect | None = None
    transient: Positive | None = Field(default=None, description="null takes it away")


class Scale(Said):
    """On how many of the server's workers a job is to run; null leaves that to the server."""

    workers: Workers | None


NULLABLE = ("owner", "schedule", "transient")


async def change_job(request: web.Request) -> web.Response:
    """Changes labels, owner, restarts or how long results are kept, while it runs."""
    said = Changes.model_validate(await body_of(request))
    job = await job_of(request)
    changes = said.model_dump(exclude_none=True)
    changes |= {name: None for name in NULLABLE if name in said.model_fields_set and getattr(said, name) is None}
    await shared_of(request).call(lambda: refusing(lambda: job.change(changes)))
    return json_answer(await shared_of(request).call(told, job))


async def scale_job(request: web.Request) -> web.Response:
    """Goes on with another number of tasks, from where it stands."""
    said = Scale.model_validate(await body_of(request))
    job = await job_of(request)
    await shared_of(request).call(lambda: refusing(lambda: scale(job, said.workers)))
    return json_answer(await shared_of(request).call(told, job))


def scale(job: Job, workers: int | None) -> None:
    """What its tasks know is dealt out anew; nothing is lost and nothing told twice, as far as it promises that."""
    check_workers(workers, job.jobs.engine)
    on = "as many workers as the server thinks right" if workers is None else f"{workers} workers"
    job.become(job.spec.model_copy(update={"workers": workers}), "scale", f"goes on with {on}")


ROUTES = (
    Route(
        "PATCH",
        "/v1/jobs/{name}",
        change_job,
        "Change a job",
        "job",
        (Answer(200, "It is changed.", JobTold),),
        body=Changes,
        body_types=(JSON,),
        problems=(404, 422),
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
