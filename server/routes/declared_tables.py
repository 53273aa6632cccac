"""Tables that streams are joined with: what there is, how fresh it is, and declaring more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from mql.errors import MqlError
from server.guard import parse_json, read_body
from server.problems import Problem, Refusal, refuse
from server.routes.queries import json_answer
from server.routes.route import JSON, Answer, Route
from server.shared import Shared, shared_of
from server.tokens import own_grant
from sources.declared_tables import declare_table
from sources.strict_yaml import ConfigError
from sources.tables import DeclaredTable


class TableColumn(BaseModel):
    name: str
    type: str


class TableTold(BaseModel):
    """A table. `refresh`: every so many seconds it is read again, 0 for never; `read_us`: when it was read last;
    `trouble`: why it could not be read again since then, or ever."""

    name: str
    kind: str
    key: list[str]
    refresh: float
    rows: int
    columns: list[TableColumn]
    read_us: int | None
    trouble: str | None


class TablesTold(BaseModel):
    """All tables."""

    tables: list[TableTold]


class TableDeclaration(BaseModel):
    """A table as mql.yaml would declare it: its kind, and that kind's settings."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"example": {"kind": "rows", "key": "id", "rows": [{"id": 1, "name": "ann"}]}},
    )

    kind: str = Field(min_length=1, max_length=100)


async def list_tables(request: web.Request) -> web.Response:
    """All tables that a query may join."""
    shared = shared_of(request)
    known = await shared.call(shared.engine.tables)
    seen = [one for one in known if isinstance(one, DeclaredTable) and own_grant().allows(one.name)]
    return json_answer({"tables": [described(one) for one in seen]})


async def get_table(request: web.Request) -> web.Response:
    """One table."""
    return json_answer(described(await table_of(request)))


async def put_table(request: web.Request) -> web.Response:
    """Declares a table until the server stops; mql.yaml declares those that stay."""
    shared = shared_of(request)
    name = request.match_info["name"]
    said = parse_json(await read_body(request, shared.settings.server.limits.body))
    mapping = TableDeclaration.model_validate(said).model_dump()
    if await shared.call(is_known, shared, name):
        raise refuse(409, "table-exists", f'there is a table or source "{name[:80]}" already', "DELETE it first.")
    try:
        table = await shared.call(lambda: declared(shared, name, mapping))
    except ConfigError as error:
        faults = [{"pointer": "/" + each.path.replace(".", "/"), "message": each.message} for each in error.problems]
        raise Refusal(Problem(422, "invalid-table", str(error), more={"errors": faults})) from None
    await shared.call(shared.engine.add_table, table)
    return json_answer(described(table), 201, Location=f"/v1/tables/{name}")


async def delete_table(request: web.Request) -> web.Response:
    """Takes a table away, unless a query looks rows up in it."""
    await table_of(request)
    shared = shared_of(request)
    await shared.call(shared.engine.drop_table, request.match_info["name"])
    return web.Response(status=204)


async def refresh_table(request: web.Request) -> web.Response:
    """Reads a table again now. 503 where that can not be done; it then stays as it was."""
    table = await table_of(request)
    if not await shared_of(request).call(table.refresh):
        raise refuse(503, "table-away", f'table "{table.name}" can not be read: {table.trouble}')
    return json_answer(described(table))


def declared(shared: Shared, name: str, mapping: Mapping[str, Any]) -> DeclaredTable:
    settings = shared.settings
    return declare_table(name, mapping, settings.base_dir, kinds=settings.server.declare_tables)


def is_known(shared: Shared, name: str) -> bool:
    catalog = shared.engine.catalog()
    return name in catalog.tables or name in catalog.sources


async def table_of(request: web.Request) -> DeclaredTable:
    shared = shared_of(request)
    name = request.match_info["name"]
    try:
        if not own_grant().allows(name):
            raise MqlError("hidden")
        found = await shared.call(shared.engine.table, name)
    except MqlError:
        raise refuse(404, "unknown-table", f'no table "{name[:80]}"', "GET /v1/tables lists them.") from None
    assert isinstance(found, DeclaredTable)
    return found


def described(table: DeclaredTable) -> dict[str, Any]:
    info = table.info
    return {
        "name": info.name,
        "kind": info.kind,
        "key": list(info.key),
        "refresh": table.settings.refresh_us / 1e6,
        "rows": table.count,
        "columns": [{"name": field.name, "type": str(field.type)} for field in info.shape.fields],
        "read_us": table.read_us,
        "trouble": table.trouble,
    }


NAME = {"name": "The table's name."}

ROUTES = (
    Route("GET", "/v1/tables", list_tables, "List tables", "table", (Answer(200, "All tables.", TablesTold),)),
    Route(
        "GET",
        "/v1/tables/{name}",
        get_table,
        "Show a table",
        "table",
        (Answer(200, "The table.", TableTold),),
        problems=(404,),
        path_notes=NAME,
    ),
    Route(
        "PUT",
        "/v1/tables/{name}",
        put_table,
        "Declare a table",
        "table",
        (Answer(201, "It is declared until the server stops.", TableTold, headers=("Location",)),),
        body=TableDeclaration,
        body_types=(JSON,),
        problems=(409, 422),
        path_notes=NAME,
    ),
    Route(
        "DELETE",
        "/v1/tables/{name}",
        delete_table,
        "Take a table away",
        "table",
        (Answer(204, "It is gone."),),
        problems=(404, 409),
        path_notes=NAME,
    ),
    Route(
        "POST",
        "/v1/tables/{name}/refresh",
        refresh_table,
        "Read a table again",
        "table",
        (Answer(200, "The table as it is now.", TableTold),),
        problems=(404, 503),
        path_notes=NAME,
    ),
)
