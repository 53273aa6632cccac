"""Who may call, how much, and for how long: what is checked of every request before a handler sees it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import orjson
import zstandard
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from mql.errors import MqlError
from server import problems
from server.keeping import TOKENS
from server.problems import Problem, Refusal, refuse
from server.settings import Server
from server.shared import Shared, shared_of
from server.tokens import ASKER, WHO, Scope

log = logging.getLogger("server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
METHODS = CHANGING | {"GET", "HEAD", "OPTIONS"}
SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
REQUEST_ID = web.RequestKey("request_id", str)
SCOPES: web.AppKey[Mapping[tuple[str, str], Scope | None]] = web.AppKey("scopes")
"""By method and path: what a token must be good for; None where none is needed."""
DEPTH_MAX = 64
KEEPALIVE_S = 15.0
LINGERING_S = 2.0  # for the rest of a body that was refused, so that its sender gets to read why
ZSTD_WINDOW_BYTES = 8 << 20
ZSTD_STEP_BYTES = 1024  # cannot unpack to more than 32 MiB, between two looks at the bound
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request passes here: it gets an id, is checked, is counted, and whatever goes wrong becomes a problem."""
    shared = shared_of(request)
    began = time.monotonic()
    request[REQUEST_ID] = request_id(request.headers.get("X-Request-Id"))
    try:
        check_host(request, shared.settings.server)
        check_origin(request)
        if shared.stopping:
            raise refuse(503, "stopping", "the server is stopping", retry_after="5")
        await admit(request)
        response = await handler(request)
    except Exception as error:
        response = answer(request, problem_of(request, error))
    route = request.match_info.route.resource
    name = route.canonical if route is not None else "none"
    method = request.method if request.method in METHODS else "other"
    shared.metrics.requests.labels(method, name, response.status).inc()
    if not response.prepared:
        shared.metrics.seconds.labels(name).observe(time.monotonic() - began)
    return response


async def admit(request: web.Request) -> None:
    """Where tokens are needed: whose the request is, and whether that one may do this."""
    tokens = request.app[TOKENS]
    if tokens.is_stale:
        with suppress(SQLAlchemyError):  # while the store is away, those that were known are known
            await shared_of(request).call(tokens.load)
    WHO.set(None)
    ASKER.set(None)
    scope = request.app[SCOPES].get(scope_key(request), "read")
    if not tokens.needed or scope is None:
        return
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    token = tokens.find(text.strip()) if kind.lower() == "bearer" else None
    if token is None:
        hint = "Send a token of this server's: Authorization: Bearer mql_…"
        told = "this server takes no calls without a token"
        if text:
            told = "this server does not know that token: it was taken away, has expired, or is another server's"
        raise refuse(401, "no-token", told, hint, www_authenticate="Bearer")
    WHO.set(token.name)
    ASKER.set(token)
    if not token.may(scope):
        hint = f"This takes a token with the scope {scope}."
        raise refuse(403, "scope", f'token "{token.name}" has the scope {token.scope}', hint)
    wait_s = tokens.wait_s(token)
    if wait_s is not None:
        most = token.quotas.requests
        raise refuse(429, "quota", f'token "{token.name}" has {most} requests a minute', retry_after=str(wait_s))


def scope_key(request: web.Request) -> tuple[str, str]:
    resource = request.match_info.route.resource
    method = "GET" if request.method == "HEAD" else request.method
    return method, "" if resource is None else resource.canonical


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Headers that every answer has, streams too; a handler's own win."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("X-Request-Id", request.get(REQUEST_ID, ""))
    response.headers.pop("Server", None)


def request_id(given: str | None) -> str:
    """The caller's own id where it is short and harmless, else a new one."""
    return given if given is not None and SAFE_ID.fullmatch(given) else secrets.token_hex(8)


def actions_at(request: web.Request) -> list[str]:
    """What may be done with things of this path: `start` of `/v1/jobs/{name}:start`."""
    parent = request.path.rpartition("/")[0]
    ends = (path.rpartition("/") for _, path in request.app[SCOPES])
    return sorted({end.partition(":")[2] for above, _, end in ends if above == parent and ":" in end})


def problem_of(request: web.Request, error: Exception) -> Problem:
    match error:
        case Refusal():
            if error.problem.status in (401, 403, 421, 429, 503):
                shared_of(request).metrics.refused.labels(error.problem.code).inc()
            return error.problem
        case MqlError():
            return problems.of_query(error)
        case ValidationError():
            return problems.of_validation(error)
        case web.HTTPMethodNotAllowed() if ":" in request.path.rpartition("/")[2]:
            return problems.of_action(request.path, actions_at(request))
        case web.HTTPException():
            return problems.of_status(error.status, error.headers)
        case ConnectionError():
            return Problem(400, "connection-lost", "the connection was lost while the request was being read")
        case _:
            log.error("%s %s failed (%s)", request.method, request.path, request[REQUEST_ID], exc_info=error)
            hint = "This is a fault of the server's; its log tells more under the request's id."
            return Problem(500, "internal", "something went wrong inside the server", hint)


def answer(request: web.Request, problem: Problem) -> web.Response:
    body = problem.body(request[REQUEST_ID])
    headers = CIMultiDict(problem.headers)
    response = web.Response(status=problem.status, body=body, content_type=problems.CONTENT_TYPE, headers=headers)
    if headers.get("Connection") == "close":
        response.force_close()
    return response


# --- where a request comes from ----------------------------------------------------------------------------


def check_host(request: web.Request, server: Server) -> None:
    """A page that had its name rebound to this machine still says its own name as Host."""
    host = hostname(request.headers.get("Host", ""))
    if host in LOCAL_NAMES or host in server.hosts or host == server.host:
        return
    hint = "Call it by localhost or 127.0.0.1, or add the name to hosts: under server:."
    raise refuse(421, "unknown-host", "this server does not go by that name", hint)


def hostname(host: str) -> str:
    """A Host header without its port, in lower case."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else host.strip().lower()


def check_origin(request: web.Request) -> None:
    """A page from elsewhere may not change anything through the operator's browser."""
    if request.method not in CHANGING:
        return
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    same = origin is None or urlsplit_host(origin) == request.headers.get("Host", "").lower()
    if site not in ("none", "same-origin") or not same:
        raise refuse(403, "foreign-origin", "requests that change something are not taken from another site's page")


def urlsplit_host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


# --- bodies --------------------------------------------------------------------------------------------------


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """The body as it came over the wire, bounded in size and in time."""
    limits = shared_of(request).settings.server.limits
    if request.content_length is not None and request.content_length > bytes_max:
        raise too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limits.body_timeout) as deadline:
            async for part in request.content.iter_any():
                size += len(part)
                if size > bytes_max:
                    raise too_large(bytes_max)
                parts.append(part)
                allowed = (deadline.when() or loop.time()) + len(part) / 65_536
                deadline.reschedule(min(allowed, loop.time() + limits.body_timeout))
    except TimeoutError:
        raise refuse(408, "body-timeout", "the body came too slowly", connection="close") from None
    except Refusal:
        raise
    except Exception as error:
        raise refuse(400, "broken-body", f"the body could not be read: {error}", connection="close") from None
    return b"".join(parts)


def too_large(bytes_max: int) -> Refusal:
    return refuse(413, "body-too-large", f"the body is larger than {bytes_max:,} bytes", connection="close")


def decoded(body: bytes, coding: str, bytes_max: int) -> bytes:
    """The body after its Content-Encoding; never more than `bytes_max`, however small it came."""
    match coding.strip().lower():
        case "" | "identity":
            plain = body
        case "gzip" | "x-gzip":
            plain = unzipped(body, bytes_max)
        case "zstd":
            plain = unzstd(body, bytes_max)
        case other:
            hint = "Send it plain, or as gzip or zstd."
            raise refuse(415, "unknown-coding", f'bodies encoded as "{other[:40]}" are not taken', hint)
    if len(plain) > bytes_max:
        raise too_large(bytes_max)
    return plain


def unzipped(body: bytes, bytes_max: int) -> bytes:
    """All members of a gzip body."""
    parts: list[bytes] = []
    size = 0
    while body:
        state = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            part = state.decompress(body, bytes_max + 1 - size)
        except zlib.error:
            raise refuse(400, "broken-body", "the body is not gzip") from None
        size += len(part)
        if size > bytes_max:
            raise too_large(bytes_max)
        if not state.eof:
            raise refuse(400, "broken-body", "the gzip body is not whole")
        parts.append(part)
        body = state.unused_data
    return b"".join(parts)


def unzstd(body: bytes, bytes_max: int) -> bytes:
    """All frames of a zstd body."""
    parts: list[bytes] = []
    size = 0
    while body:
        state = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
        at = 0
        while at < len(body) and not state.eof:
            try:
                part = state.decompress(body[at : at + ZSTD_STEP_BYTES])
            except zstandard.ZstdError:
                raise refuse(400, "broken-body", "the body is not zstd") from None
            at += ZSTD_STEP_BYTES
            size += len(part)
            if size > bytes_max:
                raise too_large(bytes_max)
            parts.append(part)
        if not state.eof:
            raise refuse(400, "broken-body", "the zstd body is not whole")
        body = state.unused_data + body[at:]
    return b"".join(parts)


def body_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise refuse(400, "not-text", "the body is not UTF-8") from None


def parse_json(body: bytes) -> Any:
    """A JSON body; too deep or not JSON is the caller's fault."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise refuse(400, "not-json", f"the body is not JSON: {error}"[:300]) from None
    if too_deep(value):
        raise refuse(400, "not-json", f"the body is nested deeper than {DEPTH_MAX}")
    return value


def too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


# --- connections -----------------------------------------------------------------------------------------------


class Door(web.BaseSite):
    """Listens, and turns away connections beyond the limits before anything is read of them."""

    def __init__(self, runner: web.AppRunner, shared: Shared) -> None:
        super().__init__(runner)
        self.shared = shared
        self.runner = runner

    @property
    def name(self) -> str:
        server = self.shared.settings.server
        return f"http://{server.host}:{self.port}"

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]

    async def start(self) -> None:
        await super().start()
        server = self.shared.settings.server
        self._server = await asyncio.get_running_loop().create_server(
            self.enter, server.host, server.port, backlog=1024, reuse_address=True
        )

    def enter(self) -> asyncio.Protocol:
        assert self.runner.server is not None
        if len(self.runner.server.connections) < self.shared.settings.server.limits.connections:
            return Speaker(
                self.runner.server,
                loop=asyncio.get_running_loop(),
                keepalive_timeout=KEEPALIVE_S,
                lingering_time=LINGERING_S,
                auto_decompress=False,  # bodies are decompressed here, with a bound
                access_log=None,  # type: ignore[arg-type]
            )
        self.shared.metrics.refused.labels("too-many-connections").inc()
        return TurnAway()


class Speaker(RequestHandler):
    """aiohttp's HTTP, but what is not HTTP at all is answered with a problem too."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer is sent already")
        level = logging.ERROR if status >= 500 else logging.DEBUG
        log.log(level, "a request could not be handled", exc_info=exc if status >= 500 else None)
        broken = Problem(status, "broken-request", "the request is not HTTP that this server understands")
        body = problems.of_status(500, {}).body() if status >= 500 else broken.body()
        response = web.Response(status=status, body=body, content_type=problems.CONTENT_TYPE, headers=HEADERS)
        response.force_close()
        return response


class TurnAway(asyncio.Protocol):
    """Says 429 to whoever connects, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        body = Problem(429, "too-many-connections", "the server has as many connections as it takes").body()
        head = (
            "HTTP/1.1 429 Too Many Requests\r\n"
            f"Content-Type: {problems.CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
        )
        transport.write(head.encode() + body)
        transport.close()
