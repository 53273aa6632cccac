"""What asking has in common, whether the answer is a stream, a document or a replay."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from mql.errors import MqlError
from mql.exec.engine import Options, Running
from server.guard import body_text, decoded, parse_json, read_body
from server.problems import refuse
from server.routes.route import ARROW, CSV, EVENTS, FORM, JSON, LINES, TEXT, Parameter
from server.settings import Limits, Seconds
from server.shared import Shared, shared_of
from server.tokens import ASKER, Token

log = logging.getLogger("server")

FORMATS: Mapping[str, str] = {"json": JSON, "ndjson": LINES, "sse": EVENTS, "csv": CSV, "arrow": ARROW}
QUERY_LENGTH_MAX = 65_536
TIMEOUT_MAX_S = 366 * 86_400.0


class Ask(BaseModel):
    """A query and how it is to be run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str = Field(min_length=1, max_length=QUERY_LENGTH_MAX, examples=["SELECT * FROM requests LIMIT 3"])
    params: dict[str, Any] = Field(default_factory=dict, description="values of the query's $names")
    source: str | None = Field(
        default=None, min_length=1, max_length=200, description="what is read where the query says no FROM"
    )
    mode: Literal["auto", "stream", "batch"] = Field(default="auto", description="how a bounded query is answered")
    on_lag: Literal["conflate", "drop", "disconnect"] | None = Field(
        default=None, description="for a reader that is slow"
    )
    max_rows: int | None = Field(default=None, ge=1, le=2**62, description="end after so many rows")
    timeout: Seconds | None = Field(
        default=None, gt=0, le=TIMEOUT_MAX_S, description="end after so long: 10s, 5m, or seconds"
    )
    early: Seconds | None = Field(default=None, ge=0.1, le=3600, description="early values of open windows: 1s")
    name: str | None = Field(default=None, max_length=200, description="what listings show")
    priority: Literal["low", "normal", "high"] = Field(
        default="low", description="who goes first, and loses last, where there is too much to do; jobs are normal"
    )


ASK_TYPES = (JSON, TEXT, FORM)
PARAMETER_PREFIX = "p."
SAID_BY_PARAMETER = ("source", "mode", "on_lag", "max_rows", "timeout", "early", "name", "priority")


async def read_ask(request: web.Request) -> Ask:
    """The query of a request: a JSON body, a body that is the query itself, or a form with `mql=`.

    What is said by the address (`?max_rows=3`, `?p.service=api`) wins over the body.
    """
    limits = shared_of(request).settings.server.limits
    raw = await read_body(request, limits.body)
    body = decoded(raw, request.headers.get("Content-Encoding", ""), limits.body)
    match request.content_type:
        case "application/json":
            said = parse_json(body)
        case "text/plain" | "application/octet-stream":
            said = {"query": body_text(body)}
        case "application/x-www-form-urlencoded":
            said = form_of(body_text(body))
        case other:
            hint = f"Send the query as {JSON}, {TEXT} or a form with mql=."
            raise refuse(415, "unknown-body", f'bodies of the type "{other[:60]}" are not taken', hint)
    if not isinstance(said, dict):
        raise refuse(422, "invalid-body", "the body is not an object", 'Send {"query": "SELECT …"}.')
    by_address = {name: request.query[name] for name in SAID_BY_PARAMETER if name in request.query}
    named = params_of(request)
    written = Ask.model_validate(said)
    if not by_address and not named:
        return written
    return Ask.model_validate(written.model_dump() | by_address | {"params": {**written.params, **named}})


def form_of(text: str) -> dict[str, Any]:
    """A form's fields. Text that is no form is taken for the query: `curl -d 'SELECT …'` says form, but means it."""
    fields = dict(parse_qsl(text, keep_blank_values=True))
    if "mql" in fields:
        fields["query"] = fields.pop("mql")
        return {**fields}
    return {"query": text}


def params_of(request: web.Request) -> dict[str, Any]:
    """Parameters in the address, `?p.threshold=5`: JSON values where they are JSON, else texts."""
    said = request.query.items()
    return {name[2:]: value_of(value) for name, value in said if name.startswith(PARAMETER_PREFIX)}


def value_of(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def options_of(ask: Ask, limits: Limits, linger_s: float) -> Options:
    bounds = [bound for bound in (ask.timeout, limits.query_timeout) if bound is not None]
    return Options(
        on_lag=ask.on_lag,
        max_rows=ask.max_rows,
        timeout_s=min(bounds) if bounds else None,
        name=ask.name,
        early_us=None if ask.early is None else round(ask.early * 1e6),
        linger_s=linger_s,
        route=ask.mode,
        source=ask.source,
        priority=ask.priority,
    )


async def begin(shared: Shared, ask: Ask, linger_s: float) -> Running:
    """Starts the query on a thread; if the caller leaves meanwhile, what was started is ended."""
    limits = shared.settings.server.limits
    if await shared.call(count_running, shared) + shared.starting >= limits.queries:
        hint = "Wait for one to end, or end one: DELETE /v1/queries/{id}."
        raise refuse(429, "too-many-queries", f"{limits.queries} queries run already", hint, retry_after="1")
    asker = ASKER.get()
    if asker is not None and ask.priority != "low" and not asker.may("write"):
        hint = "This takes a token with the scope write."
        raise refuse(403, "scope", "a query that is asked by a reader has a low priority", hint)
    if asker is not None:
        await shared.call(check_quota, shared, asker)
    options = options_of(ask, limits, linger_s)
    shared.starting += 1
    try:
        running = await shared.call_or_undo(end, shared.engine.start, ask.query, ask.params, options)
    except MqlError as error:
        raise error.in_text(ask.query) from None
    finally:
        shared.starting -= 1
    if asker is not None:
        shared.owners[running.id] = asker.name
    log.info("query %s: %s", running.id, ask.query)
    return running


def check_quota(shared: Shared, asker: Token) -> None:
    """So many queries may run at the same time of one token; and those that are gone are nobody's."""
    queries = {running.id: running for running in shared.engine.queries()}
    for id in [id for id in shared.owners if id not in queries]:
        shared.owners.pop(id, None)
    most = asker.quotas.queries
    own = sum(shared.owners.get(id) == asker.name and not is_over(running) for id, running in queries.items())
    if most is not None and own >= most:
        hint = "Wait for one to end, or end one: DELETE /v1/queries/{id}."
        raise refuse(429, "quota", f'{own} queries of token "{asker.name}" run already', hint, retry_after="1")


def end(running: Running) -> None:
    running.cancel("deleted")


def count_running(shared: Shared) -> int:
    return sum(not is_over(running) for running in shared.engine.queries())


def is_over(running: Running) -> bool:
    return running.status().get("ended_us") is not None


# --- which format -------------------------------------------------------------------------------------------


def format_of(request: web.Request, offered: Sequence[str], default: str) -> str:
    """The media type of the answer: `?format=` first, then Accept, by its qualities; 406 where none fits."""
    asked = request.query.get("format")
    if asked is not None:
        found = FORMATS.get(asked)
        if found is None or found not in offered:
            names = ", ".join(name for name, kind in FORMATS.items() if kind in offered)
            raise refuse(406, "unknown-format", f'no format "{asked[:40]}" here', f"There is {names}.")
        return found
    return accepted(request.headers.get("Accept", "*/*"), offered, default)


def accepted(accept: str, offered: Sequence[str], default: str) -> str:
    ranges = sorted((media_range(part) for part in accept.split(",") if part.strip()), key=lambda each: -each[1])
    for wanted, quality in ranges or [("*/*", 1.0)]:
        if quality <= 0:
            continue
        if wanted == "*/*":
            return default
        if wanted.endswith("/*"):
            kinds = [kind for kind in (default, *offered) if kind.startswith(wanted[:-1])]
            if kinds:
                return kinds[0]
        elif wanted in offered:
            return wanted
    hint = "Accept one of " + ", ".join(offered) + "."
    raise refuse(406, "not-acceptable", "none of the formats that are accepted is to be had here", hint)


def media_range(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0


# --- numbers and names in the address -------------------------------------------------------------------------


def number_in(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number in the address."""
    said = request.query.get(name)
    if said is None:
        return default
    if said.isascii() and said.isdigit() and len(said) < 20 and least <= int(said) <= most:
        return int(said)
    raise refuse(422, "invalid-parameter", f'"{name}" must be a whole number from {least} to {most}')


def one_of(request: web.Request, name: str, values: Sequence[str], default: str | None = None) -> str | None:
    """A word in the address out of a few."""
    said = request.query.get(name, default)
    if said is None or said in values:
        return said
    raise refuse(422, "invalid-parameter", f'"{name}" must be one of {", ".join(values)}')


def flag_in(request: web.Request, name: str) -> bool:
    return one_of(request, name, ("0", "1", "true", "false"), "0") in ("1", "true")


# --- parameters, as the document tells them -------------------------------------------------------------------

STRING = {"type": "string"}
TIMEOUT = {"type": "string", "pattern": r"^[1-9][0-9]{0,5}(ms|s|m)?$"}
CURSOR_LENGTH_MAX = 4096
EARLY = {"type": "string", "pattern": r"^[1-9][0-9]{0,2}s?$"}
FLAG = {"type": "string", "enum": ["0", "1", "true", "false"]}


def choice(name: str, description: str, values: Sequence[str]) -> Parameter:
    return Parameter(name, description, {"type": "string", "enum": list(values)})


def count(name: str, description: str, least: int, most: int) -> Parameter:
    return Parameter(name, description, {"type": "integer", "minimum": least, "maximum": most})


def format_parameter(*names: str) -> Parameter:
    return choice("format", "Wins over Accept.", names)


INT64 = choice(
    "int64", "`string`: 64-bit integers as texts, for readers whose numbers are doubles.", ("string", "number")
)
RUN_PARAMETERS = (
    Parameter("source", "What is read where the query says no FROM.", {"type": "string", "maxLength": 200}),
    choice("mode", "How a bounded query is answered.", ("auto", "stream", "batch")),
    choice("on_lag", "For a reader that is slow.", ("conflate", "drop", "disconnect")),
    count("max_rows", "End after so many rows.", 1, 2**62),
    Parameter("timeout", "End after so long: `10s`, `5m`, or seconds.", TIMEOUT),
    Parameter("early", "Early values of open windows, every so often: `1s`.", EARLY),
    Parameter("name", "What listings show.", {"type": "string", "maxLength": 200}),
)
STREAM_PARAMETERS = (
    INT64,
    Parameter("frames", "`all`: every frame, in NDJSON too.", {"type": "string", "enum": ["all", "rows"]}),
    Parameter("batch", "`1`: one unnamed event per row, in SSE.", FLAG),
)
