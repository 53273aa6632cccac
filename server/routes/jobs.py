"""Jobs over HTTP: made of a template or a query, started and stopped, and their results read from anywhere."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

import pyarrow as pa
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from mql.errors import MqlError
from mql.exec.engine import Running
from mql.formatter import format_query
from mql.parser import parse
from mql.syntax import SourceRef
from server import encode
from server.chaining import PREFIX
from server.guard import Handler, decoded, parse_json, read_body
from server.job import Job
from server.job_spec import STATES, TRANSITIONS, Priority, Spec, Workers
from server.jobs import JOBS, Jobs, unknown_job
from server.life import Expect, KeepLetters, Limits, Positive, Schedule
from server.problems import Problem, Refusal, of_query, refuse
from server.routes.asking import FORMATS, INT64, STRING, choice, count, format_of, format_parameter, number_in
from server.routes.asking import one_of as word
from server.routes.flow import STREAM_TYPES, cursor_of, flow, is_over_cursor, pen_of
from server.routes.hidden import check_nothing_hidden
from server.routes.queries import CURSOR, RESUME, STREAMED, check_readers, json_answer, known
from server.routes.route import ARROW, CSV, JSON, LINES, Answer, Parameter, Route
from server.routes.tables import NEXT, table_answer
from server.settings import Bytes, Seconds
from server.shared import shared_of
from server.sinks import AnySink
from server.stream import Tap, numbers
from server.templates import NAME as NAME_PATTERN
from server.templates import SINKS_MAX, BadParams, Label, ParamName, Template, kept_template
from server.tokens import own_grant

ROWS_MAX = 100_000
MANY_MAX = 1_000
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Guarantee = Literal["at_most_once", "at_least_once", "exactly_once"]
Restart = Literal["on_failure", "never"]


SAID = (
    "guarantee",
    "checkpoint_every",
    "restart",
    "attempts",
    "keep_age",
    "keep_bytes",
    "dead_letters",
    "owner",
    "sinks",
    "schedule",
    "limits",
    "expect",
    "transient",
    "workers",
    "priority",
)


class Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HowToRun(Said):
    """What may be said of any new job."""

    guarantee: Guarantee | None = None
    checkpoint_every: Annotated[Seconds, Field(ge=0.02, le=3_600)] | None = None
    restart: Restart | None = None
    attempts: int | None = Field(default=None, ge=0, le=1_000_000, strict=True)
    keep_age: Seconds | None = None
    keep_bytes: Bytes | None = None
    dead_letters: KeepLetters | None = None
    sinks: list[AnySink] | None = Field(default=None, max_length=SINKS_MAX)
    labels: dict[ParamName, Label] = Field(default_factory=dict)
    owner: str | None = Field(default=None, max_length=200)
    schedule: Schedule | None = Field(default=None, description="when it is started, again and again")
    limits: Limits | None = None
    expect: Expect | None = None
    transient: Positive | None = Field(default=None, description="it ends so long after its last reader has left")
    workers: Workers | None = Field(default=None, description="on how many of the server's workers it runs")
    priority: Priority | None = Field(
        default=None, description="who goes first, and loses last, where there is too much to do: normal where left out"
    )
    start: bool | None = Field(
        default=None, strict=True, description="at once; where there is a schedule, when its time comes"
    )

    def told(self) -> dict[str, Any]:
        return {name: value for name in SAID if (value := getattr(self, name)) is not None}

    def starts(self, schedule: Schedule | None) -> bool:
        return schedule is None if self.start is None else self.start


class NewJob(HowToRun):
    """A job of a query of its own. `if_exists`: whether one of that name is an error, or is taken as it is."""

    name: Name
    if_exists: Literal["refuse", "connect"] = "refuse"
    query: str = Field(min_length=1, max_length=65_536)
    params: dict[str, Any] = Field(default_factory=dict)


class NewJobs(HowToRun):
    """Several jobs where `params` is a list. Without a name each gets one."""

    name: Name | None = None
    params: dict[str, Any] | list[dict[str, Any]] = Field(default_factory=dict)


class NewJobOfTemplate(NewJobs):
    """A job of a template, of its newest version where none is said."""

    version: int | None = Field(default=None, ge=1, le=1_000_000)


class Promotion(Said):
    """What a running query is to be called as a job."""

    name: Name
    labels: dict[ParamName, Label] = Field(default_factory=dict)
    owner: str | None = Field(default=None, max_length=200)


class JobTold(BaseModel):
    """A job. `since_us`: since when it is in that state. `results`: how many rows its log has had in all, and from
    which on it keeps them. `freshness_s`: how long ago is the moment up to which it knows all."""

    name: str
    state: str
    since_us: int
    reason: str | None
    guarantee: str
    template: str | None
    version: int | None
    artifact: str | None
    artifact_version: str | None
    query: str | None
    params: dict[str, Any]
    labels: dict[str, str]
    owner: str | None
    restart: str
    schedule: dict[str, Any] | None
    next_run_us: int | None
    limits: dict[str, Any]
    expect: dict[str, Any]
    transient: float | None
    workers: int | None
    priority: str
    trouble: str | None
    created_us: int
    attempts: int
    freshness_s: float | None
    results: dict[str, int]
    checkpoint: dict[str, Any] | None
    sinks: list[dict[str, Any]]
    status: dict[str, Any] | None
    stream_url: str


class JobList(BaseModel):
    """Jobs by name."""

    jobs: list[JobTold]


class RunTold(BaseModel):
    """One run. `outcome`: stopped, paused, completed, failed, left, lost; None while it runs."""

    id: int
    started_us: int
    ended_us: int | None
    outcome: str | None
    reason: str | None


class RunList(BaseModel):
    """The newest first."""

    runs: list[RunTold]


class LogLine(BaseModel):
    at_us: int
    level: str
    text: str


class LogLines(BaseModel):
    """The newest last."""

    lines: list[LogLine]


# --- making and finding -----------------------------------------------------------------------------------------


async def list_jobs(request: web.Request) -> web.Response:
    """All jobs, or those with a label: `?label=team=playback`, `?state=running`, `?template=error-rate`."""
    wanted = [pair.partition("=") for pair in request.query.getall("label", [])]
    if not all(sign for _, sign, _ in wanted):
        raise refuse(422, "invalid-parameter", "a label is asked for by name and value", "Write ?label=team=playback.")
    state = word(request, "state", STATES)
    template, owner = (request.query.get(name) for name in ("template", "owner"))
    jobs = request.app[JOBS]

    def found() -> list[dict[str, Any]]:
        grant = own_grant()
        return [
            told(job)
            for job in jobs.all()
            if grant.allows(PREFIX + job.name)
            and state in (None, job.state)
            and template in (None, job.spec.template)
            and owner in (None, job.spec.owner)
            and all(job.spec.labels.get(name) == value for name, _, value in wanted)
        ]

    return json_answer({"jobs": await shared_of(request).call(found)})


async def make_job(request: web.Request) -> web.StreamResponse:
    """A job of a query; and its rows at once where a stream is accepted."""
    kind = format_of(request, (JSON, *STREAM_TYPES), JSON)
    said = NewJob.model_validate(await body_of(request))
    spec = Spec.model_validate({**said.told(), "query": said.query, "params": said.params, "labels": said.labels})
    status = 201
    try:
        job = await create(request, said.name, spec, said.starts(spec.schedule))
    except Refusal as refusal:
        if refusal.problem.code != "job-exists" or said.if_exists == "refuse":
            raise
        status, job = 200, request.app[JOBS].job(said.name)
        check_same(job, spec)
    if kind != JSON:
        return await streamed(request, job, kind, None, live=False)
    return json_answer(await shared_of(request).call(told, job), status, Location=f"/v1/jobs/{said.name}")


def check_same(job: Job, spec: Spec) -> None:
    """Who connects to a job by its name means one with this query."""
    if (job.spec.query, dict(job.spec.params)) != (spec.query, dict(spec.params)):
        hint = "Take another name, or ask for what it asks."
        raise refuse(409, "job-exists", f'there is a job "{job.name}" already, and it asks something else', hint)


async def make_jobs(request: web.Request) -> web.Response:
    """A job of a template, or several: one for each of a list of params. All or none of them are made."""
    shared, jobs = shared_of(request), request.app[JOBS]
    said = NewJobOfTemplate.model_validate(await body_of(request))
    name = request.match_info["name"]
    check_many(said)

    def make() -> list[dict[str, Any]]:
        kept = jobs.store.template(name, said.version)
        if kept is None:
            raise refuse(404, "unknown-template", f'no template "{name[:80]}"', "GET /v1/templates lists them.")
        template = kept_template(kept.text)
        return make_all(jobs, said, template, {"template": name, "version": kept.version})

    return json_answer({"jobs": await shared.call(lambda: refusing(make))}, 201)


def check_many(said: NewJobs) -> None:
    if isinstance(said.params, list) and not 1 <= len(said.params) <= MANY_MAX:
        raise refuse(422, "invalid-body", f"params may be a list of 1 to {MANY_MAX}")


def make_all(jobs: Jobs, said: NewJobs, template: Template, of: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A job for each of the params, or none where one cannot be. `of`: what names the template in a spec."""
    many = said.params if isinstance(said.params, list) else [said.params]
    defaults = {"guarantee": template.guarantee, "owner": template.owner, "sinks": template.sinks}
    defaults |= {name: getattr(template, name) for name in ("schedule", "limits", "expect", "transient")}
    common = {**defaults, **said.told(), "labels": {**template.labels, **said.labels}, **of}
    made: list[Job] = []
    try:
        for at, params in enumerate(many):
            spec = Spec.model_validate({**common, "params": params})
            name = name_for(template.name, said.name, at, len(many))
            try:
                made.append(jobs.create(name, spec, start=said.starts(spec.schedule)))
            except BadParams as error:
                raise (error.at(at) if isinstance(said.params, list) else error) from None
    except BaseException:
        for job in made:
            jobs.delete(job.name)
        raise
    return [told(job) for job in made]


def name_for(template: str, asked: str | None, at: int, many: int) -> str:
    if asked is not None:
        return asked if many == 1 else f"{asked}-{at + 1}"
    return f"{template[:80]}-{secrets.token_hex(4)}"


async def promote(request: web.Request) -> web.Response:
    """Makes a job of a query that runs: it goes on as it is, and its rows are kept from its first on."""
    said = Promotion.model_validate(await body_of(request))
    running: Running = await known(shared_of(request), request.match_info["id"])
    text = from_source(running.text, running.source)
    spec = Spec(query=text, params=dict(running.params), labels=said.labels, owner=said.owner)
    job = await create(request, said.name, spec, True, running)
    return json_answer(await shared_of(request).call(told, job), 201, Location=f"/v1/jobs/{said.name}")


def from_source(text: str, source: str | None) -> str:
    """The query with the FROM that its asker said beside it."""
    tree = parse(text)
    if source is None or tree.sources:
        return text
    return format_query(replace(tree, sources=(SourceRef(name=source),)))


async def create(request: web.Request, name: str, spec: Spec, start: bool, adopted: Running | None = None) -> Job:
    jobs = request.app[JOBS]
    return await shared_of(request).call(
        lambda: refusing(lambda: jobs.create(name, spec, start=start, adopted=adopted), spec.query)
    )


async def get_job(request: web.Request) -> web.Response:
    """A job, how it goes, and its last checkpoint."""
    return json_answer(await shared_of(request).call(told, await job_of(request)))


async def delete_job(request: web.Request) -> web.Response:
    """Stops it and takes it away, with its results."""
    job = await job_of(request)
    await shared_of(request).call(request.app[JOBS].delete, job.name)
    return web.Response(status=204)


def acting(action: str, summary: str) -> Handler:
    async def act(request: web.Request) -> web.Response:
        job = await job_of(request)
        await shared_of(request).call(lambda: refusing(lambda: job.act(action)))
        return json_answer(await shared_of(request).call(told, job))

    act.__name__ = f"{action}_job"
    act.__doc__ = summary
    return act


# --- what came of it ----------------------------------------------------------------------------------------------


async def stream_job(request: web.Request) -> web.StreamResponse:
    """Its results: behind a cursor, else from the oldest that is kept, or (`?from=live`) from now on."""
    kind = format_of(request, STREAM_TYPES, LINES)
    cursor = cursor_of(request)
    live = word(request, "from", ("start", "live"), "start") == "live"
    if is_over_cursor(cursor):
        return web.Response(status=204)
    return await streamed(request, await job_of(request), kind, cursor, live=live)


async def streamed(request: web.Request, job: Job, kind: str, cursor: str | None, *, live: bool) -> web.StreamResponse:
    shared = shared_of(request)
    check_readers(shared)
    columns = await shared.call(lambda: refusing(job.columns))
    pen = pen_of(request, shared, kind, {None: Columns(job.name, columns)})
    reading = await shared.call_or_undo(lambda one: one.close(), lambda: job.read(cursor, live=live))
    return await flow(request, [Tap(None, None, reading)], pen)


class Columns:
    """What a pen needs to know of a job's results."""

    def __init__(self, id: str, columns: Any) -> None:
        self.id = id
        self.columns = columns


async def job_results(request: web.Request) -> web.StreamResponse:
    """Stored rows, by their numbers (`from=0&to=100`) or by when they were stored (`from=2026-01-31T12:00:00Z`). Where
    there are more than `limit`, `next` and the header `MQL-Next` have the number of the next one."""
    shared = shared_of(request)
    kind = format_of(request, (JSON, LINES, CSV, ARROW), JSON)
    most = number_in(request, "limit", 10_000, 1, ROWS_MAX)
    first, since_us = point(request, "from", 0, 0)
    last, until_us = point(request, "to", 2**62, 2**62)
    job = await job_of(request)

    def read() -> tuple[Any, Any, int | None]:
        columns = refusing(job.columns)
        tables, after = job.log.tables(range(first, last), since_us, until_us, most)
        empty = encode.schema_of(columns).empty_table()
        is_cut = sum(table.num_rows for table in tables) == most and after < min(last, job.log.length.rows)
        return joined(tables) if tables else empty, columns, after if is_cut else None

    table, columns, next_row = await shared.call(read)
    return await table_answer(request, table, kind, columns, next_row)


def joined(tables: list[pa.Table]) -> pa.Table:
    """Rows of one type, or, where what is known of the source has changed the types between runs, of texts."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowTypeError:
        rows = [row for table in tables for row in encode.rows_of(table)]
        names = dict.fromkeys(name for row in rows for name in row)
        return pa.table({name: pa.array([as_text(row.get(name)) for row in rows], pa.string()) for name in names})


def as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else encode.dumps(value).decode()


def point(request: web.Request, name: str, row: int, us: int) -> tuple[int, int]:
    """A row's number, or a moment; the other of both is left as it is."""
    said = request.query.get(name)
    if said is None:
        return row, us
    if said.isascii() and said.isdigit() and len(said) < 19:
        return int(said), us
    try:
        at = datetime.fromisoformat(said)
    except ValueError:
        raise refuse(422, "invalid-parameter", f'"{name}" must be a row\'s number or a moment') from None
    if at.tzinfo is None:
        raise refuse(422, "invalid-parameter", f'"{name}" has no time zone', "Write Z behind it for UTC.")
    return row, round(at.timestamp() * 1e6)


async def job_runs(request: web.Request) -> web.Response:
    """Its runs, the newest first."""
    n = number_in(request, "n", 20, 1, 200)
    job = await job_of(request)
    runs = await shared_of(request).call(request.app[JOBS].store.runs, job.name, n)
    names = ("id", "started_us", "ended_us", "outcome", "reason")
    return json_answer({"runs": [{name: run[name] for name in names} for run in runs]})


async def job_logs(request: web.Request) -> web.Response:
    """What happened to it, the newest last."""
    n = number_in(request, "n", 100, 1, 1_000)
    job = await job_of(request)
    return json_answer({"lines": list(await shared_of(request).call(request.app[JOBS].store.logs, job.name, n))})


# --- what they share -----------------------------------------------------------------------------------------------


async def body_of(request: web.Request) -> Mapping[str, Any]:
    limit = shared_of(request).settings.server.limits.body
    raw = decoded(await read_body(request, limit), request.headers.get("Content-Encoding", ""), limit)
    said = parse_json(raw)
    if not isinstance(said, dict):
        raise refuse(422, "invalid-body", "the body is not an object")
    return said


async def job_of(request: web.Request) -> Job:
    name = request.match_info["name"]
    grant = own_grant()
    try:
        if not grant.allows(PREFIX + name):
            raise unknown_job(name)
        check_nothing_hidden(PREFIX + name)
        return request.app[JOBS].job(name)
    except MqlError as error:
        raise Refusal(of_query(error, 404)) from None


STATUS = {
    "unknown-job": 404,
    "unknown-template": 404,
    "unknown-artifact": 404,
    "artifact-exists": 409,
    "artifact-in-use": 409,
    "job-exists": 409,
    "wrong-state": 409,
    "conflict": 409,
    "too-few-workers": 409,
    "state-not-dealt": 409,
    "state-not-carried": 409,
    "results-in-use": 409,
}


def refusing(work: Any, text: str | None = None) -> Any:
    """Calls it; the user's mistakes become problems."""
    try:
        return work()
    except BadParams as error:
        faults = [{"pointer": f"/params/{name}", "message": said} for name, said in error.faults.items()]
        raise Refusal(Problem(422, error.code, error.message, more={"errors": faults})) from None
    except MqlError as error:
        shown = error.in_text(text) if text is not None and error.span is not None else error
        raise Refusal(of_query(shown, STATUS.get(error.code))) from None


def told(job: Job) -> dict[str, Any]:
    spec, running = job.spec, job.running
    status = None if running is None else running.status()
    return {
        "name": job.name,
        "state": job.state,
        "since_us": job.since_us,
        "reason": job.reason,
        "guarantee": spec.guarantee,
        "template": spec.template,
        "version": spec.version,
        "artifact": spec.artifact,
        "artifact_version": spec.artifact_version,
        "query": spec.query,
        "params": dict(spec.params),
        "labels": dict(spec.labels),
        "owner": spec.owner,
        "restart": spec.restart,
        "schedule": None if spec.schedule is None else spec.schedule.model_dump(),
        "next_run_us": job.next_us,
        "limits": spec.limits.model_dump(exclude_none=True),
        "expect": spec.expect.model_dump(exclude_none=True),
        "transient": spec.transient,
        "workers": spec.workers,
        "priority": spec.priority,
        "trouble": job.trouble,
        "created_us": job.created_us,
        "attempts": job.attempts,
        "freshness_s": None if status is None else freshness_s(status, job),
        "results": {"rows": job.log.committed.rows, "oldest": job.log.oldest.rows, "readers": job.log.readers},
        "checkpoint": None if job.checkpointed is None else dict(job.checkpointed),
        "sinks": sinks_told(job),
        "status": None if status is None else dict(numbers(status)),
        "stream_url": f"/v1/jobs/{job.name}/stream",
    }


def freshness_s(status: Mapping[str, Any], job: Job) -> float | None:
    """How long ago the moment is up to which all events are known; None where none has come yet."""
    watermark = status.get("watermark")
    return None if watermark is None else max(0.0, (job.jobs.clock.now_us() - watermark) / 1e6)


def sinks_told(job: Job) -> list[dict[str, Any]]:
    """Its sinks, and behind them those that were taken away and are leaving."""
    stay = [{"number": sink.seat.number, **sink.told(), "leaving": False} for sink in job.sinks]
    return [*stay, *({"number": one.leave.seat.number, **one.told()} for one in job.departures)]


ONE = {"name": "The job's name."}
OF_QUERY = {"id": "The query's id, as POST /v1/queries gave it."}
MOMENT = {"type": "string", "maxLength": 40}

SUMMARIES = {
    "start": "Start a job",
    "stop": "Stop a job",
    "pause": "Pause a job",
    "resume": "Go on with a paused job",
    "restart": "Stop a job and start it again",
}

ROUTES = (
    Route(
        "GET",
        "/v1/jobs",
        list_jobs,
        "List jobs",
        "job",
        (Answer(200, "The jobs.", JobList),),
        (
            Parameter("label", "Only jobs with this label: `team=playback`.", STRING),
            choice("state", "Only jobs in this state.", STATES),
            Parameter("owner", "Only jobs of this owner.", STRING),
            Parameter("template", "Only jobs of this template.", STRING),
        ),
    ),
    Route(
        "POST",
        "/v1/jobs",
        make_job,
        "Make a job of a query",
        "job",
        (
            Answer(200, "It was there already (`if_exists: connect`), or its rows.", JobTold, (JSON, *STREAM_TYPES)),
            Answer(201, "It is made.", JobTold, headers=("Location",)),
        ),
        (format_parameter(*FORMATS), INT64),
        body=NewJob,
        body_types=(JSON,),
        problems=(404, 409, 422),
    ),
    Route(
        "POST",
        "/v1/templates/{name}/jobs",
        make_jobs,
        "Make jobs of a template",
        "job",
        (Answer(201, "They are made.", JobList),),
        body=NewJobOfTemplate,
        body_types=(JSON,),
        problems=(404, 409, 422),
        path_notes={"name": "The template's name."},
    ),
    Route(
        "POST",
        "/v1/queries/{id}:promote",
        promote,
        "Make a job of a running query",
        "job",
        (Answer(201, "It goes on as a job.", JobTold, headers=("Location",)),),
        body=Promotion,
        body_types=(JSON,),
        problems=(404, 409, 422),
        path_notes=OF_QUERY,
    ),
    Route(
        "GET",
        "/v1/jobs/{name}",
        get_job,
        "Show a job",
        "job",
        (Answer(200, "The job.", JobTold),),
        problems=(404,),
        path_notes=ONE,
    ),
    Route(
        "DELETE",
        "/v1/jobs/{name}",
        delete_job,
        "Delete a job and its results",
        "job",
        (Answer(204, "It is gone."),),
        problems=(404,),
        path_notes=ONE,
    ),
    *(
        Route(
            "POST",
            f"/v1/jobs/{{name}}:{action}",
            acting(action, SUMMARIES[action]),
            SUMMARIES[action],
            "job",
            (Answer(200, "Done.", JobTold),),
            problems=(404, 409, 422),
            path_notes=ONE,
        )
        for action in TRANSITIONS
    ),
    Route(
        "GET",
        "/v1/jobs/{name}/stream",
        stream_job,
        "Read a job's results as they come",
        "job",
        (Answer(200, STREAMED, types=STREAM_TYPES), Answer(204, "It is over, and all of it was read.")),
        (
            format_parameter("ndjson", "sse", "csv", "arrow"),
            choice("from", "Where to begin without a cursor.", ("start", "live")),
            CURSOR,
            RESUME,
            INT64,
            Parameter("frames", "`all`: every frame, in NDJSON too.", {"type": "string", "enum": ["all", "rows"]}),
            Parameter(
                "batch",
                "`1`: one unnamed event per row, in SSE.",
                {"type": "string", "enum": ["0", "1", "true", "false"]},
            ),
        ),
        problems=(404, 422),
        path_notes=ONE,
    ),
    Route(
        "GET",
        "/v1/jobs/{name}/results",
        job_results,
        "Read a job's stored results",
        "job",
        (Answer(200, "The rows.", types=(JSON, LINES, CSV, ARROW), headers=(NEXT,)),),
        (
            Parameter("from", "The first row's number, or a moment.", MOMENT),
            Parameter("to", "The number behind the last row's, or a moment.", MOMENT),
            count("limit", "At most so many rows [10,000].", 1, ROWS_MAX),
            format_parameter("json", "ndjson", "csv", "arrow"),
            INT64,
        ),
        problems=(404, 422),
        path_notes=ONE,
    ),
    Route(
        "GET",
        "/v1/jobs/{name}/runs",
        job_runs,
        "List a job's runs",
        "job",
        (Answer(200, "The runs.", RunList),),
        (count("n", "At most so many.", 1, 200),),
        problems=(404, 422),
        path_notes=ONE,
    ),
    Route(
        "GET",
        "/v1/jobs/{name}/logs",
        job_logs,
        "Read what happened to a job",
        "job",
        (Answer(200, "The lines.", LogLines),),
        (count("n", "At most so many.", 1, 1_000),),
        problems=(404, 422),
        path_notes=ONE,
    ),
)
