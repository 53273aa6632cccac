"""What may be known of one job: what became of its events, its checkpoints, its tasks, its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from aiohttp import web
from pydantic import BaseModel

from mql.errors import MqlError
from mql.exec.graph import Graph
from mql.planner.physical import Plan
from server.books import CLASSES
from server.job import Job
from server.problems import Refusal, of_query
from server.routes.asking import INT64, count, format_of, format_parameter, number_in
from server.routes.hidden import check_may_read_all
from server.routes.jobs import freshness_s, job_of
from server.routes.queries import json_answer
from server.routes.route import ARROW, CSV, JSON, LINES, Answer, Route
from server.routes.tables import table_answer
from server.shared import shared_of


class LetterCounts(BaseModel):
    """The letters of one kind, or of one sink. `total`: all there ever were, those that were only counted among them;
    `open`: those that are kept, and neither sent again (`sent`) nor `discarded`; `bytes`: what they take on disk."""

    total: int
    open: int
    sent: int
    discarded: int
    bytes: int


class LedgerTold(BaseModel):
    """What became of events: `run` in the run under way, `total` in all runs. `events` are all classes together.

    Events that come again after a crash count again in `total`. `dead_letters`: those of unreadable and of late events,
    and of rows that sinks refused, where there are any."""

    run: dict[str, int] | None
    total: dict[str, int]
    dead_letters: dict[str, LetterCounts]


class CheckpointTold(BaseModel):
    """One checkpoint. `positions`: the next offset of each split; `rows`: how many rows the log had."""

    number: int
    at_us: int
    bytes: int
    positions: dict[str, int]
    rows: int
    done: bool


class CheckpointList(BaseModel):
    """Those that are kept, the newest first."""

    checkpoints: list[CheckpointTold]


class TaskTold(BaseModel):
    """One task. `in_state`: events that it holds back; `waiting`: batches in the lines into it."""

    name: str
    in_state: int
    waiting: int


class StageTold(BaseModel):
    """One stage: how rows come to it, its operators in order, its tasks (none while the job stands still)."""

    number: int
    input: str
    operators: list[str]
    tasks: list[TaskTold]


class Topology(BaseModel):
    """The job's stages, from its sources to its results. `others`: how many queries share them, each with literals of
    its own."""

    sources: list[str]
    stages: list[StageTold]
    others: int


class Numbers(BaseModel):
    """A job's numbers. `freshness_s`: how old the newest event time is up to which its rows are whole; `silent`: what
    was expected of it and does not come; `trouble`: why less comes than was to be expected; `dead_letters`: those that
    are open; `behind`: rows that its sinks have still to take."""

    state: str
    rate: float | None
    lag_ms: float | None
    freshness_s: float | None
    silent: str | None
    trouble: str | None
    rows: int
    rows_kept: int
    log_bytes: int
    dead_letters: int
    behind: int
    readers: int
    attempts: int
    checkpoint_bytes: int | None
    next_run_us: int | None


async def job_ledger(request: web.Request) -> web.Response:
    """What became of the job's events, in this run and in all."""
    job = await job_of(request)

    def ledger() -> dict[str, Any]:
        running = job.running
        run = None if running is None else {kind: running.ledger()[kind] for kind in ("events", *CLASSES)}
        letters = job.dead.numbers()
        return {"run": run, "total": job.books.total(run), "dead_letters": letters}

    return json_answer(await shared_of(request).call(ledger))


async def job_late(request: web.Request) -> web.StreamResponse:
    """The newest rows that came too late, of this run and of those before."""
    n = number_in(request, "n", 100, 1, 1_000)
    kind = format_of(request, (JSON, LINES, CSV, ARROW), JSON)
    job = await job_of(request)
    check_may_read_all(job.outline.sources)

    def late() -> pa.Table:
        running = job.running
        return job.books.late(pa.table({}) if running is None else running.late(n), n)

    return await table_answer(request, await shared_of(request).call(late), kind)


async def job_checkpoints(request: web.Request) -> web.Response:
    """The job's checkpoints that are kept."""
    job = await job_of(request)

    def checkpoints() -> list[dict[str, Any]]:
        return [
            {
                "number": one.number,
                "at_us": one.notes["at_us"],
                "bytes": size,
                "positions": {str(split): at for split, at in one.snapshot.positions.items()},
                "rows": one.notes["log"][1],
                "done": bool(one.notes.get("done")),
            }
            for one, size in job.checkpoints.whole()
        ]

    return json_answer({"checkpoints": await shared_of(request).call(checkpoints)})


async def job_topology(request: web.Request) -> web.Response:
    """The job's stages and tasks, and what waits where."""
    job = await job_of(request)

    def topology() -> dict[str, Any]:
        running = job.running
        if running is None:
            return topology_of(plan_of(job), None, 0)
        plan, graph = running.runs_by()
        return topology_of(plan, graph, running.execution.sharing - 1)

    try:
        return json_answer(await shared_of(request).call(topology))
    except MqlError as error:
        raise Refusal(of_query(error, 409)) from None


async def job_metrics(request: web.Request) -> web.Response:
    """The job's numbers: rate, lag, freshness, what it keeps."""
    job = await job_of(request)
    return json_answer(await shared_of(request).call(numbers_of, job))


def plan_of(job: Job) -> Plan:
    """What it runs, or would run now."""
    running = job.running
    if running is not None:
        return running.execution.plan
    bound = job.jobs.bound(job.spec)
    return job.jobs.engine.plan(bound.query, bound.values)


def topology_of(plan: Plan, graph: Graph | None, others: int) -> dict[str, Any]:
    tasks = [()] * len(plan.stages) if graph is None else graph.stages
    stages = [
        {
            "number": stage.number,
            "input": stage.input,
            "operators": [type(spec).__name__ for spec in stage.operators],
            "tasks": [
                {"name": task.name, "in_state": task.in_state, "waiting": sum(line.batches for line in task.channels)}
                for task in its_tasks
            ],
        }
        for stage, its_tasks in zip(plan.stages, tasks, strict=True)
    ]
    return {"sources": [scan.source for scan in plan.scans], "stages": stages, "others": others}


def numbers_of(job: Job) -> dict[str, Any]:
    running = job.running
    status: Mapping[str, Any] = {} if running is None else running.status()
    return {
        "state": job.state,
        "rate": status.get("rate"),
        "lag_ms": status.get("lag_ms"),
        "freshness_s": freshness_s(status, job),
        "silent": job.silence,
        "trouble": job.trouble,
        "rows": job.log.committed.rows,
        "rows_kept": job.log.committed.rows - job.log.oldest.rows,
        "log_bytes": job.log.bytes,
        "dead_letters": sum(log["open"] for log in job.dead.numbers().values()),
        "behind": sum(sink.behind for sink in job.sinks),
        "readers": job.readers,
        "attempts": job.attempts,
        "checkpoint_bytes": None if job.checkpointed is None else job.checkpointed["bytes"],
        "next_run_us": job.next_us,
    }


ONE = {"name": "The job's name."}


def view(path: str, handler: Any, summary: str, answer: Answer, *parameters: Any) -> Route:
    return Route(
        "GET",
        f"/v1/jobs/{{name}}/{path}",
        handler,
        summary,
        "job",
        (answer,),
        parameters,
        problems=(404, 409, 422),
        path_notes=ONE,
    )


ROUTES = (
    view("ledger", job_ledger, "What became of a job's events", Answer(200, "The ledger.", LedgerTold)),
    view(
        "late",
        job_late,
        "Read what came too late for a job",
        Answer(200, "The late rows.", types=(JSON, LINES, CSV, ARROW)),
        count("n", "At most so many.", 1, 1_000),
        format_parameter("json", "ndjson", "csv", "arrow"),
        INT64,
    ),
    view("checkpoints", job_checkpoints, "List a job's checkpoints", Answer(200, "Those kept.", CheckpointList)),
    view("topology", job_topology, "Show a job's stages and tasks", Answer(200, "The stages.", Topology)),
    view("metrics", job_metrics, "A job's numbers", Answer(200, "The numbers.", Numbers)),
)
