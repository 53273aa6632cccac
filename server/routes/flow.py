"""A stream as an HTTP answer: its headers, its reader, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

from aiohttp import web

from server import encode
from server.problems import refuse
from server.routes.asking import CURSOR_LENGTH_MAX, FORMATS, flag_in, one_of
from server.routes.route import ARROW, CSV, EVENTS, LINES
from server.shared import Shared, shared_of
from server.stream import (
    OVER,
    SQUEEZES,
    ArrowPen,
    CsvPen,
    Cut,
    LinesPen,
    Named,
    Pen,
    Plain,
    Reader,
    Squeeze,
    SsePen,
    Tap,
    coding_of,
    pour,
)

log = logging.getLogger("server")

STREAM_TYPES = (LINES, EVENTS, CSV, ARROW)
SEND_BUFFER_BYTES = 128 * 1024  # what the kernel keeps for a reader; more would hide how slow it is
USER_TIMEOUT_MS = 90_000  # a reader whose machine is gone is noticed by then
NAMES = {kind: name for name, kind in FORMATS.items()}


def cursor_of(request: web.Request) -> str | None:
    """Where to go on: Last-Event-ID, as an EventSource sends it, or `?cursor=`."""
    cursor = request.headers.get("Last-Event-ID") or request.query.get("cursor")
    if cursor is not None and not (len(cursor) <= CURSOR_LENGTH_MAX and cursor.isascii() and cursor.isprintable()):
        raise refuse(422, "invalid-cursor", "this is no cursor", "Give back an id as it came, or leave it out.")
    return cursor


class HasColumns(Protocol):
    """What a pen needs to know of a query or a job."""

    @property
    def columns(self) -> Sequence[tuple[str, str]]: ...


def pen_of(request: web.Request, shared: Shared, kind: str, queries: Mapping[str | None, HasColumns]) -> Pen:
    """The pen that writes the format that was asked for. `queries` by the names that their frames will have."""
    int64_text = one_of(request, "int64", ("number", "string")) == "string"
    all_frames = one_of(request, "frames", ("rows", "all")) == "all"
    single = flag_in(request, "batch")
    looks = {name: encode.look_of(running.columns, int64_text) for name, running in queries.items()}
    several = None not in queries
    match kind:
        case "text/event-stream":
            return SsePen(shared.encoded, looks, single, several)
        case "application/x-ndjson":
            return LinesPen(shared.encoded, looks, all_frames or several)
        case "text/csv":
            return CsvPen(shared.encoded, looks[None], [name for name, _ in queries[None].columns])
        case _:
            return ArrowPen(queries[None].columns)


async def flow(
    request: web.Request, taps: Sequence[Tap], pen: Pen, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Answers with what the taps give until they end, the reader leaves, or the server stops."""
    shared = shared_of(request)
    reader = Reader(taps, shared.bell)
    kind = pen.content_type
    coding = coding_of(request.headers.get("Accept-Encoding", ""))
    response = response_of(kind, coding, headers or {})
    line = Line(request, response, SQUEEZES[coding]() if coding is not None else Plain(), shared)
    shared.readers.add(reader)
    shared.metrics.readers.labels(NAMES[kind]).inc()
    try:
        set_socket(request)
        await response.prepare(request)
        await pour(reader, Counting(pen, shared), line.send)
        await line.end()
    except ConnectionError:
        log.debug("the reader of %s has left", request.path)
    except Cut as cut:
        shared.metrics.cut.labels("short").inc()
        log.info("%s is cut off, for it would not be whole: %s", request.path, cut)
        close_connection(request)
    except Exception:
        shared.metrics.cut.labels("internal").inc()
        log.exception("%s is cut off", request.path)
        close_connection(request)
    finally:
        shared.readers.discard(reader)
        shared.metrics.readers.labels(NAMES[kind]).dec()
        reader.close()
        for tap in taps:
            shared.leave(tap.subscription.close)
    return response


def response_of(kind: str, coding: str | None, headers: dict[str, str]) -> web.StreamResponse:
    """The answer with the headers of a stream."""
    response = web.StreamResponse(headers=headers)
    charset = "; charset=utf-8" if kind != ARROW else ""
    response.headers["Content-Type"] = kind + charset
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Vary"] = "Accept, Accept-Encoding"
    if coding is not None:
        response.headers["Content-Encoding"] = coding
    return response


def set_socket(request: web.Request) -> None:
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


class Line:
    """The way to one reader: compressed, flushed each time, and given up after a time without any progress."""

    def __init__(self, request: web.Request, response: web.StreamResponse, squeeze: Squeeze, shared: Shared) -> None:
        self.request = request
        self.response = response
        self.squeeze = squeeze
        self.shared = shared

    async def send(self, data: bytes) -> None:
        if data:
            await self.write(self.squeeze.put(data))

    async def end(self) -> None:
        rest = self.squeeze.end()
        if rest:
            await self.write(rest)
        await self.response.write_eof()

    async def write(self, packed: bytes) -> None:
        try:
            async with asyncio.timeout(self.shared.settings.server.limits.write_timeout):
                await self.response.write(packed)
        except TimeoutError:
            self.shared.metrics.cut.labels("slow").inc()
            if self.request.transport is not None:
                self.request.transport.abort()
            raise ConnectionResetError("the reader takes nothing") from None
        self.shared.metrics.sent.inc(len(packed))


class Counting:
    """A pen that tells the metrics what it writes."""

    def __init__(self, pen: Pen, shared: Shared) -> None:
        self.pen = pen
        self.shared = shared
        self.content_type = pen.content_type
        self.head = pen.head
        self.beat = pen.beat
        self.tail = pen.tail

    def write(self, frames: Sequence[Named]) -> bytes:
        self.shared.metrics.count(frames)
        return self.pen.write(frames)


def close_connection(request: web.Request) -> None:
    """Closes without the final chunk, after what was written: the reader can tell that the answer is not whole."""
    if request.transport is not None:
        request.transport.close()


def is_over_cursor(cursor: str | None) -> bool:
    """Whether the cursor came with a stream's last frame."""
    return cursor is not None and cursor.startswith(OVER)
