"""Replays: a query over a stretch of history, answered as one document once it is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from aiohttp import web
from pydantic import BaseModel

from mql.errors import MqlError
from mql.exec.engine import Running, Subscription
from mql.exec.frames import Ended, Failed, Gap, Meta, Progress, RowsFrame
from server import encode
from server.problems import Problem, Refusal, refuse
from server.routes.asking import (
    ASK_TYPES,
    FORMATS,
    INT64,
    RUN_PARAMETERS,
    Ask,
    begin,
    format_of,
    format_parameter,
    number_in,
    read_ask,
)
from server.routes.asking import count as count_parameter
from server.routes.queries import json_answer, may_see, subscribe
from server.routes.route import JSON, Answer, Route
from server.routes.tables import TABLE_TYPES, table_answer
from server.shared import Shared, shared_of
from server.stream import Reader, Tap, numbers

WAIT_MAX_S = 60


@dataclass(slots=True)
class Replay:
    """One replay and what it gave so far. `problem`: why it failed."""

    running: Running
    reader: Reader
    task: asyncio.Task[None] | None = None
    tables: list[pa.Table] = field(default_factory=list)
    bytes: int = 0
    rows: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)
    state: str = "running"
    reason: str | None = None
    problem: Mapping[str, Any] | None = None
    ended_s: float | None = None

    def table(self) -> pa.Table:
        if not self.tables:
            return encode.schema_of(self.running.columns).empty_table()
        return pa.concat_tables(self.tables, promote_options="permissive")


REPLAYS: web.AppKey[dict[str, Replay]] = web.AppKey("replays")


class ReplayTold(BaseModel):
    """How far a replay is. `state`: running, done or failed; `problem` says why it failed."""

    id: str
    state: str
    reason: str | None
    rows: int
    progress: dict[str, Any]
    problem: dict[str, Any] | None
    result_url: str


async def replay(request: web.Request) -> web.StreamResponse:
    """Runs a bounded query: 200 with its whole result where that is soon there, else 202 and where to look."""
    shared = shared_of(request)
    kind = format_of(request, TABLE_TYPES, JSON)
    wait = number_in(request, "wait", round(shared.settings.server.limits.replay_wait), 0, WAIT_MAX_S)
    said = await read_ask(request)
    replays = request.app[REPLAYS]
    forget_old(shared, replays)
    check_replays(shared, replays)
    made = await start_replay(request, said)
    assert made.task is not None
    try:
        await asyncio.wait({made.task}, timeout=wait)
    except asyncio.CancelledError:
        drop(shared, replays, made)
        raise
    if made.state == "running":
        location = f"/v1/replays/{made.running.id}"
        return json_answer(told(made), 202, Location=location, Retry_After="1")
    replays.pop(made.running.id, None)
    return await result_answer(request, made, kind)


async def start_replay(request: web.Request, said: Ask) -> Replay:
    shared = shared_of(request)
    running = await begin(shared, said, linger_s=0.0)
    subscription = await subscribe(shared, running, None, None)
    if not is_bounded(subscription):
        shared.leave(running.cancel, "deleted")
        hint = "Say from when to when: SINCE … UNTIL …. For a live query there is POST /v1/queries."
        raise refuse(422, "not-bounded", "this query would never end", hint)
    made = Replay(running, Reader([Tap(None, running, subscription)], shared.bell))
    request.app[REPLAYS][running.id] = made
    made.task = asyncio.create_task(collect(shared, made), name=f"replay {running.id}")
    return made


def is_bounded(subscription: Subscription) -> bool:
    """Whether the query ends by itself, as its first frame tells."""
    return any(bool(frame.data.get("bounded")) for frame in subscription.take(1) if isinstance(frame, Meta))


async def collect(shared: Shared, made: Replay) -> None:
    """Gathers a replay's rows until it ends; one that grows beyond its limit fails."""
    (tap,) = made.reader.taps
    try:
        while made.state == "running":
            for _, frame in made.reader.take():
                see(made, frame, shared.settings.server.limits.replay_result)
            if made.reader.stopped is not None:
                fail(made, {"code": "stopping", "detail": "the server is stopping", "retryable": True})
            if made.state == "running":
                await made.reader.sleep(60.0)
    finally:
        made.ended_s = time.monotonic()
        made.reader.close()
        shared.leave(tap.subscription.close)


def see(made: Replay, frame: Any, bytes_max: int) -> None:
    match frame:
        case RowsFrame(table):
            made.tables.append(table)
            made.bytes += table.nbytes
            made.rows += table.num_rows
            if made.bytes > bytes_max:
                hint = "Ask for fewer rows or columns, or read it as a stream: POST /v1/queries."
                fail(made, {"code": "result-too-large", "detail": f"more than {bytes_max:,} bytes", "hint": hint})
        case Progress(data):
            made.progress = numbers(data)
        case Gap(data):
            fail(made, {"code": "rows-missed", "detail": f"rows were missed: {data.get('why')}", "retryable": True})
        case Failed(data):
            fail(made, data)
        case Ended(reason):
            made.state = "done" if made.state == "running" else made.state
            made.reason = reason
        case _:
            pass


def fail(made: Replay, problem: Mapping[str, Any]) -> None:
    made.state = "failed"
    made.problem = problem
    made.tables.clear()


async def get_replay(request: web.Request) -> web.Response:
    """How far the replay is."""
    return json_answer(told(replay_of(request)))


async def replay_result(request: web.Request) -> web.StreamResponse:
    """The replay's result; 409 while it is not done."""
    kind = format_of(request, TABLE_TYPES, JSON)
    made = replay_of(request)
    if made.state == "running":
        hint = f"GET /v1/replays/{made.running.id} tells how far it is."
        raise refuse(409, "not-done", "the replay is not done yet", hint, retry_after="1")
    return await result_answer(request, made, kind)


async def delete_replay(request: web.Request) -> web.Response:
    """Ends a replay and forgets its result."""
    drop(shared_of(request), request.app[REPLAYS], replay_of(request))
    return web.Response(status=204)


async def result_answer(request: web.Request, made: Replay, kind: str) -> web.StreamResponse:
    if made.problem is not None:
        problem = made.problem
        more = {key: value for key, value in problem.items() if key not in ("code", "detail", "hint", "span")}
        detail = str(problem.get("detail"))
        raise Refusal(Problem(422, str(problem.get("code")), detail, problem.get("hint"), problem.get("span"), more))
    return await table_answer(request, made.table(), kind, made.running.columns)


def drop(shared: Shared, replays: dict[str, Replay], made: Replay) -> None:
    replays.pop(made.running.id, None)
    if made.task is not None:
        made.task.cancel()
    shared.leave(cancel_quietly, made.running)


def cancel_quietly(running: Running) -> None:
    try:
        running.cancel("deleted")
    except MqlError:
        return  # it has ended by itself meanwhile


def forget_old(shared: Shared, replays: dict[str, Replay]) -> None:
    """Lets go of results that nobody fetched in time."""
    now = time.monotonic()
    keep = shared.settings.server.limits.replay_keep
    for made in [each for each in replays.values() if each.ended_s is not None and now - each.ended_s > keep]:
        drop(shared, replays, made)


def check_replays(shared: Shared, replays: Mapping[str, Replay]) -> None:
    most = shared.settings.server.limits.replays
    if len(replays) >= most:
        hint = "Wait for one to end, or DELETE one whose result you have."
        raise refuse(429, "too-many-replays", f"{most} replays are kept already", hint, retry_after="5")


def replay_of(request: web.Request) -> Replay:
    id = request.match_info["id"]
    found = request.app[REPLAYS].get(id)
    if found is None or not may_see(shared_of(request), found.running):
        hint = "A result is kept for a while only, and not at all where POST answered with it at once."
        raise refuse(404, "unknown-replay", f'no replay "{id[:80]}"', hint)
    return found


def told(made: Replay) -> dict[str, Any]:
    return {
        "id": made.running.id,
        "state": made.state,
        "reason": made.reason,
        "rows": made.rows,
        "progress": dict(made.progress),
        "problem": None if made.problem is None else dict(made.problem),
        "result_url": f"/v1/replays/{made.running.id}/result",
    }


ID = {"id": "The replay's id."}
RESULT_FORMATS: Sequence[str] = [name for name, kind in FORMATS.items() if kind in TABLE_TYPES]

ROUTES = (
    Route(
        "POST",
        "/v1/replays",
        replay,
        "Answer a query over a stretch of history",
        "replay",
        (
            Answer(200, "The whole result.", types=TABLE_TYPES),
            Answer(202, "It is under way.", ReplayTold, headers=("Location", "Retry-After")),
        ),
        (
            count_parameter("wait", "Wait so many seconds for the result.", 0, WAIT_MAX_S),
            format_parameter(*RESULT_FORMATS),
            INT64,
            *RUN_PARAMETERS,
        ),
        Ask,
        ASK_TYPES,
        (415, 422),
    ),
    Route(
        "GET",
        "/v1/replays/{id}",
        get_replay,
        "Show how far a replay is",
        "replay",
        (Answer(200, "The replay.", ReplayTold),),
        problems=(404,),
        path_notes=ID,
    ),
    Route(
        "GET",
        "/v1/replays/{id}/result",
        replay_result,
        "Fetch a replay's result",
        "replay",
        (Answer(200, "The whole result.", types=TABLE_TYPES),),
        (format_parameter(*RESULT_FORMATS), INT64),
        problems=(404, 409, 422),
        path_notes=ID,
    ),
    Route(
        "DELETE",
        "/v1/replays/{id}",
        delete_replay,
        "End a replay",
        "replay",
        (Answer(204, "It is gone."),),
        problems=(404,),
        path_notes=ID,
    ),
)
