"""Sources: what there is to ask of, what its events look like, and the way in for events over HTTP."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.exec.feed import Source
from mql.schema import DataType, ListOf, StructOf
from server import encode
from server.chaining import PREFIX
from server.guard import decoded, parse_json, read_body
from server.problems import Problem, Refusal, refuse
from server.routes.asking import STRING, count, number_in
from server.routes.hidden import check_nothing_hidden
from server.routes.queries import json_answer
from server.routes.route import FORM, JSON, LINES, TEXT, Answer, Parameter, Route
from server.shared import Shared, shared_of
from server.tokens import own_grant
from sources.declared import declare
from sources.formats.source import origin_of
from sources.http import Body, Full, HttpSource, Receipt
from sources.reach import Reach
from sources.strict_yaml import ConfigError

EVENT_TYPES = (LINES, JSON)
EVENT_TYPES_TAKEN = frozenset(
    {
        *EVENT_TYPES,
        TEXT,
        FORM,
        "application/octet-stream",
        "application/ndjson",
        "application/jsonl",
        "application/json-lines",
        "text/csv",
        "application/avro",
        "avro/binary",
        "application/vnd.apache.avro",
        "application/protobuf",
        "application/x-protobuf",
        "application/vnd.google.protobuf",
        "application/msgpack",
        "application/x-msgpack",
        "application/vnd.msgpack",
    }
)
KEY_LENGTH_MAX = 255
SAMPLE_MAX = 100
DEAD_LETTERS_MAX = 1_000


class Time(BaseModel):
    """Which property holds an event's time; `field` null: the time that comes with it, or its arrival."""

    field: list[str] | None
    unit: str


class Described(BaseModel):
    """A source. Durations are in seconds. `properties`: how many the shape knows at the top."""

    name: str
    kind: str
    encoding: str
    default: bool
    time: Time
    lateness: float
    idle_timeout: float
    max_ahead: float
    bounded: bool
    history: bool
    splits: int
    open: bool
    properties: int
    events_url: str | None


class Sources(BaseModel):
    """All sources."""

    sources: list[Described]


class Declaration(BaseModel):
    """A source as mql.yaml would declare it: its kind, and that kind's settings."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": {"kind": "http", "lateness": "10s"}})

    kind: str = Field(min_length=1, max_length=100)


class Property(BaseModel):
    """One path of the shape. `presence`: the share of events that had it, null where it was declared."""

    path: list[str]
    type: str
    presence: float | None
    example: str | None
    mask: str | None


class ShapeTold(BaseModel):
    """What the source's events look like; `events`: from how many it was learned."""

    version: int
    events: int | None
    open: bool
    properties: list[Property]


class Sample(BaseModel):
    """Recent events, as they came."""

    events: list[Any]


class DeadLetters(BaseModel):
    """The newest events that could not be read: why, where, and their first 4 KiB."""

    events: list[dict[str, Any]]


class Taken(BaseModel):
    """What became of a body of events.

    `stored`: `memory` (gone with the process), `archive` (on disk), `archive-synced` (survives a loss of power).
    `repeated`: the Idempotency-Key was known; nothing was stored again.
    """

    accepted: int
    stored: str
    positions: dict[str, int]
    repeated: bool


# --- declared sources --------------------------------------------------------------------------------------


async def list_sources(request: web.Request) -> web.Response:
    """All sources that a query may name."""
    shared = shared_of(request)
    catalog = await shared.call(shared.engine.catalog)
    told = [described(info, catalog.default) for info in catalog.sources.values()]
    return json_answer({"sources": told})


async def get_source(request: web.Request) -> web.Response:
    """One source."""
    shared = shared_of(request)
    source = await source_of(request)
    catalog = await shared.call(shared.engine.catalog)
    return json_answer(described(await shared.call(info_of, source), catalog.default))


async def put_source(request: web.Request) -> web.Response:
    """Declares a source until the server stops; mql.yaml declares those that stay."""
    shared = shared_of(request)
    name = request.match_info["name"]
    said = parse_json(await read_body(request, shared.settings.server.limits.body))
    mapping = Declaration.model_validate(said).model_dump()
    check_declaration(mapping)
    if await shared.call(has_source, shared, name):
        raise refuse(409, "source-exists", f'there is a source "{name[:80]}" already', "DELETE it first.")
    try:
        source = await shared.call(lambda: declared(shared, name, mapping))
    except ConfigError as error:
        raise Refusal(of_config(error)) from None
    await shared.call(shared.engine.add_source, source)
    info = await shared.call(info_of, source)
    return json_answer(described(info, None), 201, Location=f"/v1/sources/{name}")


async def delete_source(request: web.Request) -> web.Response:
    """Takes a source away."""
    await source_of(request)
    shared = shared_of(request)
    name = request.match_info["name"]
    if name.startswith(PREFIX):
        hint = "Delete the job, and it is gone."
        raise refuse(409, "source-of-a-job", f'source "{name[:80]}" is the results of a job', hint)
    if name == shared.settings.default:
        hint = "mql.yaml names it as the default; queries without FROM need it."
        raise refuse(409, "default-source", f'source "{name}" is the default', hint)
    await shared.call(shared.engine.drop_source, name)
    return web.Response(status=204)


def declared(shared: Shared, name: str, mapping: Mapping[str, Any]) -> Source:
    settings = shared.settings
    data_dir = settings.base_dir / settings.data_dir
    registries = settings.server.registries
    reach = Reach(registries.allowed, registries.plain)
    return declare(name, mapping, settings.base_dir, data_dir=data_dir, kinds=settings.server.declare, reach=reach)


def check_declaration(mapping: Mapping[str, Any]) -> None:
    """A server writes no directory that its operator did not name."""
    record = mapping.get("record")
    if isinstance(record, Mapping) and "directory" in record:
        hint = "Leave it out: records go to the server's own data directory."
        raise refuse(422, "invalid-source", "record.directory cannot be said over HTTP", hint)


def of_config(error: ConfigError) -> Problem:
    faults = [{"pointer": "/" + each.path.replace(".", "/"), "message": each.message} for each in error.problems]
    return Problem(422, "invalid-source", str(error), more={"errors": faults})


# --- what its events look like ------------------------------------------------------------------------------


async def shape(request: web.Request) -> web.Response:
    """The paths of the source's events: types, how often they are present, an example."""
    source = await source_of(request)
    shared = shared_of(request)
    info = (await shared.call(shared.engine.catalog)).sources.get(source.info.name, source.info)
    masks = {mask.path: mask.kind for mask in info.masks}
    properties = [
        {
            "path": list(path),
            "type": str(kind),
            "presence": top.presence,
            "example": example,
            "mask": masks.get(path),
        }
        for top in info.shape.fields
        for path, kind, example in paths_of((top.name,), top.type, top.example)
    ]
    known = info.shape
    return json_answer({"version": known.version, "events": known.events, "open": known.open, "properties": properties})


def paths_of(
    path: tuple[str, ...], kind: DataType, example: str | None
) -> Iterator[tuple[tuple[str, ...], DataType, str | None]]:
    """A property and all that is inside of it; what is in a list's items has `*` on its path."""
    yield path, kind, example
    match kind:
        case StructOf(fields):
            for name, inner in fields:
                yield from paths_of((*path, name), inner, None)
        case ListOf(StructOf() as item):
            for name, inner in item.fields:
                yield from paths_of((*path, "*", name), inner, None)
        case _:
            pass


async def sample(request: web.Request) -> web.Response:
    """Recent events of the source."""
    n = number_in(request, "n", 20, 1, SAMPLE_MAX)
    source = await source_of(request)
    check_nothing_hidden(source.info.name)
    texts = await shared_of(request).call(source.sample, n)
    return json_answer({"events": [encode.json_value(text.decode(errors="replace")) for text in texts]})


async def dead_letters(request: web.Request) -> web.Response:
    """The newest events that could not be read, with the reason."""
    n = number_in(request, "n", 100, 1, DEAD_LETTERS_MAX)
    shared = shared_of(request)
    check_nothing_hidden((await source_of(request)).info.name)
    letters = await shared.call(shared.engine.dead_letters, request.match_info["name"], n)
    return json_answer({"events": [dict(letter) for letter in letters]})


# --- the way in -----------------------------------------------------------------------------------------------


async def put_events(request: web.Request) -> web.Response:
    """Takes events in. 200: they are on disk; 202: they are in memory. The answer says which, and how many."""
    shared = shared_of(request)
    source = origin_of(await source_of(request))
    if not isinstance(source, HttpSource):
        hint = f"Only a source of the kind http takes events; this one is of the kind {source.info.kind}."
        raise refuse(409, "not-for-events", f'source "{source.info.name}" brings its own events', hint)
    if request.content_type not in EVENT_TYPES_TAKEN:
        hint = f"Send {LINES}, or {JSON} for an array or one object."
        raise refuse(415, "unknown-body", f'bodies of the type "{request.content_type[:60]}" are not taken', hint)
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (1 <= len(key) <= KEY_LENGTH_MAX and key.isprintable()):
        raise refuse(422, "invalid-key", f"an Idempotency-Key has 1 to {KEY_LENGTH_MAX} printable characters")
    limits = shared.settings.server.limits
    raw = await read_body(request, limits.events_body)
    coding = request.headers.get("Content-Encoding", "")
    receipt = await shared.call(lambda: store(shared, source, raw, coding, key, request.content_type))
    shared.metrics.events.labels(source.name).inc(0 if receipt.repeated else receipt.accepted)
    return json_answer(taken(receipt), 202 if receipt.stored == "memory" else 200)


def store(shared: Shared, source: HttpSource, raw: bytes, coding: str, key: str | None, kind: str) -> Receipt:
    """Decompresses, splits and puts a body; on a thread."""
    limits = shared.settings.server.limits
    try:
        body = source.split(decoded(raw, coding, limits.events_decoded), kind)
    except MqlError as error:
        raise Refusal(Problem(400, error.code, error.message, error.hint)) from None
    check_events(body, limits.event)
    try:
        return source.put(body, idempotency_key=key, content_type=kind)
    except Full as full:
        wait = str(max(1, math.ceil(full.retry_after_s)))
        hint = "Its readers are behind; send it again after a while, with the same Idempotency-Key."
        raise refuse(429, "source-full", f'source "{source.name}" is full', hint, retry_after=wait) from None
    except OSError as error:
        said = f'source "{source.name}" can\'t be stored now: {error.strerror or error}'
        raise refuse(507, "storage-full", said, "Nothing was taken. Free its disk, then send it again.") from None


def check_events(body: Body, bytes_max: int) -> None:
    if max(map(len, body.values), default=0) > bytes_max:
        raise refuse(413, "event-too-large", f"an event is larger than {bytes_max:,} bytes")
    if len(body.lines) <= bytes_max:
        return
    start = 0
    while (end := body.lines.find(b"\n", start)) >= 0:
        if end - start > bytes_max:
            raise refuse(413, "event-too-large", f"an event is larger than {bytes_max:,} bytes")
        start = end + 1


def taken(receipt: Receipt) -> dict[str, Any]:
    return {
        "accepted": receipt.accepted,
        "stored": receipt.stored,
        "positions": {str(split): offset for split, offset in receipt.positions.items()},
        "repeated": receipt.repeated,
    }


# --- what they share --------------------------------------------------------------------------------------------


async def source_of(request: web.Request) -> Source:
    shared = shared_of(request)
    name = request.match_info["name"]
    try:
        if not own_grant().allows(name):
            raise KeyError(name)
        return await shared.call(shared.engine.source, name)
    except (MqlError, KeyError):
        raise refuse(404, "unknown-source", f'no source "{name[:80]}"', "GET /v1/sources lists them.") from None


def has_source(shared: Shared, name: str) -> bool:
    return name in shared.engine.catalog().sources


def info_of(source: Source) -> SourceInfo:
    return source.info


def described(info: SourceInfo, default: str | None) -> dict[str, Any]:
    return {
        "name": info.name,
        "kind": info.kind,
        "encoding": info.encoding,
        "default": info.name == default,
        "time": {"field": None if info.time.path is None else list(info.time.path), "unit": info.time.unit},
        "lateness": info.lateness_us / 1e6,
        "idle_timeout": info.idle_timeout_us / 1e6,
        "max_ahead": info.max_ahead_us / 1e6,
        "bounded": info.bounded,
        "history": info.history,
        "splits": info.splits,
        "open": info.shape.open,
        "properties": len(info.shape.fields),
        "events_url": f"/v1/sources/{info.name}/events" if info.kind == "http" else None,
    }


NAME = {"name": "The source's name."}

ROUTES = (
    Route("GET", "/v1/sources", list_sources, "List sources", "source", (Answer(200, "All sources.", Sources),)),
    Route(
        "GET",
        "/v1/sources/{name}",
        get_source,
        "Show a source",
        "source",
        (Answer(200, "The source.", Described),),
        problems=(404,),
        path_notes=NAME,
    ),
    Route(
        "PUT",
        "/v1/sources/{name}",
        put_source,
        "Declare a source",
        "source",
        (Answer(201, "It is declared until the server stops.", Described, headers=("Location",)),),
        body=Declaration,
        body_types=(JSON,),
        problems=(409, 422),
        path_notes=NAME,
    ),
    Route(
        "DELETE",
        "/v1/sources/{name}",
        delete_source,
        "Take a source away",
        "source",
        (Answer(204, "It is gone."),),
        problems=(404, 409, 422),
        path_notes=NAME,
    ),
    Route(
        "GET",
        "/v1/sources/{name}/shape",
        shape,
        "Show what a source's events look like",
        "source",
        (Answer(200, "Its paths.", ShapeTold),),
        problems=(404,),
        path_notes=NAME,
    ),
    Route(
        "GET",
        "/v1/sources/{name}/sample",
        sample,
        "Show recent events",
        "source",
        (Answer(200, "The events.", Sample),),
        (count("n", "At most so many.", 1, SAMPLE_MAX),),
        problems=(404, 422),
        path_notes=NAME,
    ),
    Route(
        "GET",
        "/v1/sources/{name}/deadletters",
        dead_letters,
        "Show events that could not be read",
        "source",
        (Answer(200, "The events and the reasons.", DeadLetters),),
        (count("n", "At most so many.", 1, DEAD_LETTERS_MAX),),
        problems=(404, 422),
        path_notes=NAME,
    ),
    Route(
        "POST",
        "/v1/sources/{name}/events",
        put_events,
        "Take events in",
        "source",
        (Answer(200, "On disk.", Taken), Answer(202, "In memory.", Taken)),
        (
            Parameter("Idempotency-Key", "A body that comes again with the same key is stored once.", STRING, "header"),
            Parameter(
                "Content-Encoding", "How the body is compressed.", {"enum": ["identity", "gzip", "zstd"]}, "header"
            ),
        ),
        body_types=EVENT_TYPES,
        problems=(404, 409, 415, 422, 429, 507),
        path_notes=NAME,
    ),
)
