"""Asking: one query, its stream, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel, Field

from mql.errors import MqlError
from mql.exec.engine import Running, Subscription
from server import encode
from server.problems import refuse
from server.routes.asking import (
    ASK_TYPES,
    CURSOR_LENGTH_MAX,
    FORMATS,
    INT64,
    RUN_PARAMETERS,
    STREAM_PARAMETERS,
    STRING,
    Ask,
    begin,
    choice,
    count,
    format_of,
    format_parameter,
    number_in,
    one_of,
    read_ask,
)
from server.routes.flow import STREAM_TYPES, cursor_of, flow, is_over_cursor, pen_of
from server.routes.route import ARROW, CSV, EVENTS, JSON, LINES, Answer, Parameter, Route
from server.routes.tables import table_answer
from server.shared import Shared, shared_of
from server.stream import Tap, numbers, split_cursors
from server.tokens import ASKER, own_grant

STREAMS_MAX = 50
CURSOR_SCHEMA = {"type": "string", "maxLength": CURSOR_LENGTH_MAX, "pattern": "^[!-~]*$"}
IDS = {"type": "array", "items": STRING, "minItems": 1, "maxItems": STREAMS_MAX, "uniqueItems": True}
ON_LAG = ("conflate", "drop", "disconnect")


class Column(BaseModel):
    """One column of a result."""

    name: str
    type: str


class Started(BaseModel):
    """A query that runs now. `shared_with`: queries that it shares one execution with."""

    id: str
    name: str | None
    columns: list[Column] = Field(alias="schema")
    plan_hash: str
    shared_with: list[str]
    cost: str | None
    stream_url: str


class Listed(BaseModel):
    """One query in a listing. `status` has state, rate, lag_ms, readers, rows, dropped and more."""

    id: str
    name: str | None
    query: str
    status: dict[str, Any]
    stream_url: str


class Listing(BaseModel):
    """All queries that this server knows of."""

    queries: list[Listed]


class Whole(Listed):
    """All that is known of a query: also its columns, its plan and what became of each event."""

    columns: list[Column]
    plan_hash: str
    shared_with: list[str]
    ledger: dict[str, int]
    plan: str


# --- one query -----------------------------------------------------------------------------------------------


async def ask(request: web.Request) -> web.StreamResponse:
    """Runs a query: 201 and its address for JSON, else its rows at once, for as long as somebody reads them."""
    shared = shared_of(request)
    kind = format_of(request, (JSON, *STREAM_TYPES), LINES)
    said = await read_ask(request)
    if kind == JSON:
        return await started(shared, said)
    check_readers(shared)
    running = await begin(shared, said, linger_s=0.0)
    subscription = await subscribe(shared, running, None, said.on_lag)
    headers = {"Location": f"/v1/queries/{running.id}", "X-MQL-Query": running.id}
    return await flow(
        request, [Tap(None, running, subscription)], pen_of(request, shared, kind, {None: running}), headers
    )


async def started(shared: Shared, said: Ask) -> web.Response:
    running = await begin(shared, said, shared.settings.server.limits.linger)
    cost = await shared.call(cost_of, shared, said)
    document = {
        "id": running.id,
        "name": running.name,
        "schema": columns_of(running),
        "plan_hash": running.plan_hash,
        "shared_with": list(running.shared_with),
        "cost": cost,
        "stream_url": stream_url(running),
    }
    return json_answer(document, 201, Location=f"/v1/queries/{running.id}")


def cost_of(shared: Shared, said: Ask) -> str | None:
    """The estimate, where one can be made."""
    try:
        return shared.engine.explain(said.query, said.params, "estimate", said.source)
    except MqlError:
        return None


async def listing(request: web.Request) -> web.Response:
    """Who is asking what: state, rate, lag, readers, dropped."""
    shared = shared_of(request)

    def found() -> list[dict[str, Any]]:
        return [listed(each) for each in shared.engine.queries() if may_see(shared, each)]

    return json_answer({"queries": await shared.call(found)})


async def one(request: web.Request) -> web.Response:
    """Status, plan and ledger of a query."""
    shared = shared_of(request)
    running = await query_of(request)
    return json_answer(await shared.call(whole, running))


async def stream(request: web.Request) -> web.StreamResponse:
    """The query's rows from now, or from a cursor. 204 tells an EventSource that nothing will follow."""
    shared = shared_of(request)
    kind = format_of(request, STREAM_TYPES, LINES)
    running = await query_of(request)
    cursor = cursor_of(request)
    on_lag = one_of(request, "on_lag", ON_LAG)
    if is_over_cursor(cursor):
        return web.Response(status=204)
    check_readers(shared)
    pen = pen_of(request, shared, kind, {None: running})
    subscription = await subscribe(shared, running, cursor, on_lag)
    return await flow(request, [Tap(None, running, subscription)], pen)


async def streams(request: web.Request) -> web.StreamResponse:
    """Several queries in one stream; each frame tells its query."""
    shared = shared_of(request)
    kind = format_of(request, (EVENTS, LINES), EVENTS)
    ids = list(dict.fromkeys(request.query.getall("q", [])))
    if not 1 <= len(ids) <= STREAMS_MAX:
        raise refuse(422, "invalid-parameter", f'"q" must name 1 to {STREAMS_MAX} queries', "Say ?q=…&q=….")
    on_lag = one_of(request, "on_lag", ON_LAG)
    cursors = split_cursors(cursor_of(request) or "")
    wanted = [id for id in ids if not is_over_cursor(cursors.get(id))]
    if not wanted:
        return web.Response(status=204)
    check_readers(shared)
    found = [await known(shared, id) for id in wanted]
    pen = pen_of(request, shared, kind, {each.id: each for each in found})
    taps: list[Tap] = []
    try:
        for each in found:
            taps.append(Tap(each.id, each, await subscribe(shared, each, cursors.get(each.id), on_lag)))
    except BaseException:
        for tap in taps:
            shared.leave(tap.subscription.close)
        raise
    return await flow(request, taps, pen)


async def late(request: web.Request) -> web.StreamResponse:
    """The newest rows that came too late for their window."""
    shared = shared_of(request)
    n = number_in(request, "n", 100, 1, 10_000)
    kind = format_of(request, (JSON, LINES, CSV, ARROW), JSON)
    running = await query_of(request)
    table = await shared.call(running.late, n)
    return await table_answer(request, table, kind)


async def delete(request: web.Request) -> web.Response:
    """Ends a query; its readers are told."""
    running = await query_of(request)
    asker = ASKER.get()
    if asker is not None and not asker.may("write") and shared_of(request).owners.get(running.id) != asker.name:
        hint = "This takes a token with the scope write."
        raise refuse(403, "scope", "the query is somebody else's", hint)
    await shared_of(request).call(running.cancel, "deleted")
    return web.Response(status=204)


# --- what they share ---------------------------------------------------------------------------------------------


async def query_of(request: web.Request) -> Running:
    return await known(shared_of(request), request.match_info["id"])


async def known(shared: Shared, id: str) -> Running:
    try:
        running = await shared.call(shared.engine.query, id)
        if not may_see(shared, running):
            raise KeyError(id)
        return running
    except (MqlError, KeyError):
        hint = "GET /v1/queries lists those that run. A query ends some time after its last reader."
        raise refuse(404, "unknown-query", f'no query "{id[:80]}"', hint) from None


def may_see(shared: Shared, running: Running) -> bool:
    """Whether the asker may read what the query reads: its own, and those that it could have asked."""
    asker, grant = ASKER.get(), own_grant()
    if asker is None or grant.is_whole or shared.owners.get(running.id) == asker.name:
        return True
    return grant.may_read(running.execution.plan)


async def subscribe(shared: Shared, running: Running, cursor: str | None, on_lag: str | None) -> Subscription:
    if running.execution.private:
        hint = "Read the job's results: GET /v1/jobs/{name}/stream."
        raise refuse(409, "query-of-a-job", "this query has one reader, its job", hint)
    return await shared.call_or_undo(close, running.subscribe, cursor, on_lag)


def close(subscription: Subscription) -> None:
    subscription.close()


def check_readers(shared: Shared) -> None:
    most = shared.settings.server.limits.readers
    if len(shared.readers) >= most:
        raise refuse(429, "too-many-readers", f"{most} streams are being read already", retry_after="5")


def listed(running: Running) -> dict[str, Any]:
    return {
        "id": running.id,
        "name": running.name,
        "query": running.text,
        "status": dict(numbers(running.status())),
        "stream_url": stream_url(running),
    }


def whole(running: Running) -> dict[str, Any]:
    return {
        **listed(running),
        "columns": columns_of(running),
        "plan_hash": running.plan_hash,
        "shared_with": list(running.shared_with),
        "ledger": dict(running.ledger()),
        "plan": running.explain("plan"),
    }


def columns_of(running: Running) -> list[Mapping[str, str]]:
    return [{"name": name, "type": str(type)} for name, type in running.columns]


def stream_url(running: Running) -> str:
    return f"/v1/queries/{running.id}/stream"


def json_answer(document: Any, status: int = 200, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, body=encode.dumps(document), content_type=JSON, headers=named)


ID = {"id": "The query's id, as POST /v1/queries gave it."}
LAG = choice("on_lag", "For a reader that is slow.", ON_LAG)
CURSOR = Parameter("cursor", "Go on after it: the id of the last rows.", CURSOR_SCHEMA)
RESUME = Parameter("Last-Event-ID", "As cursor; an EventSource sends it.", CURSOR_SCHEMA, where="header")
STREAMED = "The rows, as they come."

ROUTES = (
    Route(
        "POST",
        "/v1/queries",
        ask,
        "Ask a query",
        "query",
        (
            Answer(200, STREAMED, types=STREAM_TYPES, headers=("Location", "X-MQL-Query")),
            Answer(201, "It runs; its rows are at stream_url.", Started, headers=("Location",)),
        ),
        (format_parameter(*FORMATS), *RUN_PARAMETERS, *STREAM_PARAMETERS),
        Ask,
        ASK_TYPES,
        (415, 422),
    ),
    Route("GET", "/v1/queries", listing, "List queries", "query", (Answer(200, "All queries.", Listing),)),
    Route(
        "GET",
        "/v1/queries/{id}",
        one,
        "Status, plan and ledger of a query",
        "query",
        (Answer(200, "The query.", Whole),),
        problems=(404,),
        path_notes=ID,
    ),
    Route(
        "GET",
        "/v1/queries/{id}/stream",
        stream,
        "Read a query's rows",
        "query",
        (Answer(200, STREAMED, types=STREAM_TYPES), Answer(204, "It is over, and all of it was read.")),
        (format_parameter("ndjson", "sse", "csv", "arrow"), CURSOR, RESUME, LAG, *STREAM_PARAMETERS),
        problems=(404, 409, 422),
        path_notes=ID,
    ),
    Route(
        "GET",
        "/v1/stream",
        streams,
        "Read several queries in one stream",
        "query",
        (Answer(200, STREAMED, types=(EVENTS, LINES)), Answer(204, "All are over, and all was read.")),
        (
            Parameter(
                "q",
                "The ids of the queries.",
                IDS,
                required=True,
            ),
            format_parameter("sse", "ndjson"),
            CURSOR,
            RESUME,
            LAG,
            *STREAM_PARAMETERS,
        ),
        problems=(404, 409, 422),
    ),
    Route(
        "GET",
        "/v1/queries/{id}/late",
        late,
        "Read what came too late",
        "query",
        (Answer(200, "The late rows.", types=(JSON, LINES, CSV, ARROW)),),
        (count("n", "At most so many.", 1, 10_000), format_parameter("json", "ndjson", "csv", "arrow"), INT64),
        problems=(404, 422),
        path_notes=ID,
    ),
    Route(
        "DELETE",
        "/v1/queries/{id}",
        delete,
        "End a query",
        "query",
        (Answer(204, "It has ended."),),
        problems=(404,),
        path_notes=ID,
    ),
)
