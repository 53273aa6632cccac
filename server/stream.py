"""One flush loop for all that is streamed: frames in, bytes out as SSE, NDJSON, CSV or Arrow.

Rows are flushed when 50 ms have passed since the last flush or 500 rows wait; after a quiet time a single row goes at
once. Each frame of rows is encoded once, whoever reads it.
"""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, assert_never

import pyarrow as pa
import zstandard

from mql.exec.engine import Running
from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, Progress, RowsFrame, Seal, Warn
from mql.exec.results import cursor_within
from server import encode
from server.encode import Look

FLUSH_S = 0.05
FLUSH_ROWS = 500
TAKE_FRAMES = 8  # a reader that stops holds no more than these
BEAT_S = 10.0
RETRY_MS = 2000
OVER = "end."  # a cursor that begins so was given with the last frame: nothing can follow

# --- from the engine's threads to the loop ---------------------------------------------------------------


class Bell:
    """Wakes readers from any thread: however many wakes come, the loop is called once for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.rung: deque[Reader] = deque()
        self.lock = threading.Lock()
        self.called = False

    def ring(self, reader: Reader) -> None:
        with self.lock:
            self.rung.append(reader)
            if self.called:
                return
            self.called = True
        try:
            self.loop.call_soon_threadsafe(self.answer)
        except RuntimeError:
            self.called = False  # the loop is closed: nobody is left to wake

    def answer(self) -> None:
        with self.lock:
            waiting, self.rung = self.rung, deque()
            self.called = False
        for reader in waiting:
            reader.wake()


class Frames(Protocol):
    """Where a stream's frames come from: a query's results, or a job's log."""

    def take(self, max_frames: int = 100) -> Sequence[Frame]: ...

    def on_ready(self, wake: Callable[[], None] | None) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tap:
    """One query as a stream has it: `name` is told with every frame where several queries share the stream."""

    name: str | None
    running: Running | None
    subscription: Frames


class Reader:
    """One stream's place to wait. `taps` it reads from in turn; `stop` ends it with a reason."""

    def __init__(self, taps: Sequence[Tap], bell: Bell) -> None:
        self.taps = list(taps)
        self.stopped: str | None = None
        self.awake = True
        self.sleeper: asyncio.Future[None] | None = None
        for tap in self.taps:
            tap.subscription.on_ready(lambda: bell.ring(self))

    def wake(self) -> None:
        self.awake = True
        if self.sleeper is not None and not self.sleeper.done():
            self.sleeper.set_result(None)

    def stop(self, reason: str) -> None:
        self.stopped = reason
        self.wake()

    async def sleep(self, timeout_s: float) -> None:
        """Until something new waits, or the time is over."""
        if self.awake:
            return
        loop = asyncio.get_running_loop()
        self.sleeper = loop.create_future()
        alarm = loop.call_later(timeout_s, set_if_pending, self.sleeper)
        try:
            await self.sleeper
        finally:
            alarm.cancel()
            self.sleeper = None

    def take(self) -> list[tuple[str | None, Frame]]:
        """What waits now, from each tap in turn; a tap that has ended is left out from then on."""
        self.awake = False
        taken: list[tuple[str | None, Frame]] = []
        for tap in tuple(self.taps):
            frames = tap.subscription.take(TAKE_FRAMES)
            taken += [(tap.name, frame) for frame in frames]
            if any(isinstance(frame, Ended | Failed) for frame in frames):
                self.taps.remove(tap)
            elif len(frames) >= TAKE_FRAMES:
                self.awake = True  # more may wait than one take gives
        return taken

    def close(self) -> None:
        for tap in self.taps:
            tap.subscription.on_ready(None)


def set_if_pending(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# --- the loop ----------------------------------------------------------------------------------------------


class Cut(Exception):
    """The stream must break off, for its format has no way to tell that it is not whole."""


Send = Callable[[bytes], Awaitable[None]]


async def pour(reader: Reader, pen: Pen, send: Send) -> None:
    """From the reader's taps through the pen, until all queries have ended or the reader is stopped.

    `send` waits while the other side is slow; then frames wait in the subscription, which has its own bound and policy.
    """
    await send(pen.head())
    beat_at = time.monotonic() + BEAT_S
    flushed_at = 0.0
    pending: list[tuple[str | None, Frame]] = []
    while True:
        pending += reader.take()
        if reader.stopped is not None:
            pending += [(tap.name, Ended(reader.stopped)) for tap in reader.taps]
            reader.taps.clear()
        now = time.monotonic()
        due_at = flushed_at + FLUSH_S if holds_only_rows(pending) and rows_in(pending) < FLUSH_ROWS else now
        if pending and now >= due_at:
            await send(pen.write(pending))
            pending = []
            flushed_at = time.monotonic()
        if not reader.taps and not pending:
            break
        if now >= beat_at:
            await send(pen.beat())
            beat_at = now + BEAT_S
        await reader.sleep(max(0.0, (due_at if pending else beat_at) - time.monotonic()))
    await send(pen.tail())


def holds_only_rows(pending: Sequence[tuple[str | None, Frame]]) -> bool:
    return all(isinstance(frame, RowsFrame) for _, frame in pending)


def rows_in(pending: Sequence[tuple[str | None, Frame]]) -> int:
    return sum(frame.table.num_rows for _, frame in pending if isinstance(frame, RowsFrame))


# --- encoded once for all readers --------------------------------------------------------------------------

T = TypeVar("T")


class Encoded:
    """What frames of rows look like as bytes; the newest are kept, since every reader of a query asks for the same."""

    def __init__(self, bytes_max: int = 32 << 20, frames_max: int = 1024) -> None:
        self.bytes_max = bytes_max
        self.frames_max = frames_max
        self.bytes = 0
        self.made: dict[tuple[int, str, Look], tuple[pa.Table, Sequence[bytes], int]] = {}

    def of(self, table: pa.Table, kind: str, look: Look, make: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
        """The pieces that `make` gives, or gave for the same table. The table is kept so that its id stays its own."""
        key = (id(table), kind, look)
        found = self.made.get(key)
        if found is not None:
            return found[1]
        pieces = make()
        size = sum(map(len, pieces)) + table.nbytes
        self.made[key] = (table, pieces, size)
        self.bytes += size
        while self.bytes > self.bytes_max or len(self.made) > self.frames_max:
            self.bytes -= self.made.pop(next(iter(self.made)))[2]
        return pieces

    def inner(self, table: pa.Table, look: Look) -> Sequence[bytes]:
        return self.of(table, "inner", look, lambda: encode.rows_inner(table, look))

    def lines(self, table: pa.Table, look: Look) -> bytes:
        return self.of(table, "lines", look, lambda: (encode.rows_lines(table, look),))[0]

    def csv(self, table: pa.Table, look: Look) -> bytes:
        return self.of(table, "csv", look, lambda: (encode.csv_rows(table, look),))[0]


# --- pens: frames to bytes, one a format -------------------------------------------------------------------

Named = tuple[str | None, Frame]


class Pen(Protocol):
    """Writes one stream in one format."""

    @property
    def content_type(self) -> str: ...

    def head(self) -> bytes:
        """What comes before all frames."""
        ...

    def write(self, frames: Sequence[Named]) -> bytes:
        """The frames of one flush. Raises Cut, after which the connection is to break off."""
        ...

    def beat(self) -> bytes:
        """A sign of life that readers ignore; empty where the format has none."""
        ...

    def tail(self) -> bytes:
        """What comes after all frames."""
        ...


@dataclass(slots=True)
class SsePen:
    """Server-sent events. `looks`: how each query's values are written, by the name that its frames have.

    `single`: one unnamed event per row. `several`: queries share the stream. `cursors`: after what was written.
    """

    encoded: Encoded
    looks: Mapping[str | None, Look]
    single: bool = False
    several: bool = False
    cursors: dict[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream"

    def head(self) -> bytes:
        return b"retry: %d\n\n" % RETRY_MS

    def write(self, frames: Sequence[Named]) -> bytes:
        return b"".join(part for run in runs_of_rows(frames) for part in self.run(run))

    def run(self, run: Sequence[Named]) -> Iterator[bytes]:
        name, frame = run[0]
        if isinstance(frame, RowsFrame):
            yield from self.rows(name, [frame for _, frame in run if isinstance(frame, RowsFrame)])
            return
        event, data = told(frame)
        cursor = frame.cursor if isinstance(frame, Seal) else None
        yield b"".join((self.id_line(name, cursor, isinstance(frame, Ended | Failed)), b"event: ", event.encode()))
        yield b"".join((b"\ndata: ", self.enveloped(name, encode.dumps(data)), b"\n\n"))

    def rows(self, name: str | None, frames: Sequence[RowsFrame]) -> Iterator[bytes]:
        look = self.looks[name]
        if self.single:
            lines = (line for frame in frames for line in self.encoded.lines(frame.table, look).splitlines())
            events = [(line, 1) for line in lines]
            head = b"data: "
        else:
            inners = [(self.encoded.inner(frame.table, look), frame.table.num_rows) for frame in frames]
            events = [(b"[" + inner + b"]", rows) for inner, rows in grouped(inners)]
            head = b"event: rows\ndata: "
        cursors = cursors_behind(frames, [rows for _, rows in events])
        for (data, _), cursor in zip(events, cursors, strict=True):
            yield b"".join((self.id_line(name, cursor), head, self.enveloped(name, data), b"\n\n"))

    def enveloped(self, name: str | None, data: bytes) -> bytes:
        return data if name is None else b'{"query":"' + name.encode() + b'","data":' + data + b"}"

    def id_line(self, name: str | None, cursor: str | None, over: bool = False) -> bytes:
        """The `id:` line. Where several queries share a stream it holds all their cursors."""
        if not self.several:
            if over:
                return f"id: {OVER}{self.cursors.get('', '')}\n".encode()
            if cursor is None:
                return b""
            self.cursors[""] = cursor
            return f"id: {cursor}\n".encode()
        assert name is not None
        if over:
            self.cursors[name] = OVER + self.cursors.get(name, "")
        elif cursor is not None:
            self.cursors[name] = cursor
        else:
            return b""
        return f"id: {joined_cursors(self.cursors)}\n".encode()

    def beat(self) -> bytes:
        return b": hb\n\n"

    def tail(self) -> bytes:
        return b""


@dataclass(slots=True)
class LinesPen:
    """One JSON object a line: rows alone, or every frame as `{"event", "data"}` where `all` is asked for.

    Rows alone still tell of a gap and of an error, as such a line: a result that is short must not look whole.
    """

    encoded: Encoded
    looks: Mapping[str | None, Look]
    all: bool = False
    content_type: str = "application/x-ndjson"

    def head(self) -> bytes:
        return b""

    def write(self, frames: Sequence[Named]) -> bytes:
        return b"".join(self.line(name, frame) for name, frame in frames)

    def line(self, name: str | None, frame: Frame) -> bytes:
        match frame:
            case RowsFrame() if not self.all:
                return self.encoded.lines(frame.table, self.looks[name])
            case RowsFrame():
                inners = self.encoded.inner(frame.table, self.looks[name])
                return envelope(name, "rows", b"[" + b",".join(inners) + b"]", frame.cursor)
            case Seal() if self.all:
                return envelope(name, "seal", encode.dumps(frame.data), frame.cursor)
            case Gap() | Failed():
                event, data = told(frame)
                return envelope(name, event, encode.dumps(data))
            case _ if self.all:
                event, data = told(frame)
                return envelope(name, event, encode.dumps(data))
            case _:
                return b""

    def beat(self) -> bytes:
        return b""

    def tail(self) -> bytes:
        return b""


@dataclass(slots=True)
class CsvPen:
    """A header and rows. The first rows tell the header, for a keyed result has more columns than its query names.

    CSV has no place for a gap or an error: they break the stream off.
    """

    encoded: Encoded
    look: Look
    columns: Sequence[str]
    begun: bool = False
    content_type: str = "text/csv"

    def head(self) -> bytes:
        return b""

    def write(self, frames: Sequence[Named]) -> bytes:
        cut_if_short(frames)
        tables = [frame.table for _, frame in frames if isinstance(frame, RowsFrame)]
        header = self.header(tables[0].column_names) if tables else b""
        return header + b"".join(self.encoded.csv(table, self.look) for table in tables)

    def header(self, names: Sequence[str]) -> bytes:
        """The header, once."""
        if self.begun:
            return b""
        self.begun = True
        return encode.csv_header(names)

    def beat(self) -> bytes:
        return b""

    def tail(self) -> bytes:
        return self.header(self.columns)


@dataclass(slots=True)
class ArrowPen:
    """An Arrow IPC stream, one batch a flush. A gap or an error breaks it off, as in CSV."""

    columns: Sequence[tuple[str, str]]
    stream: encode.ArrowStream = field(default_factory=encode.ArrowStream)
    content_type: str = "application/vnd.apache.arrow.stream"

    def head(self) -> bytes:
        return b""

    def write(self, frames: Sequence[Named]) -> bytes:
        cut_if_short(frames)
        tables = [frame.table for _, frame in frames if isinstance(frame, RowsFrame)]
        if tables:
            self.stream.add(tables)
        return self.stream.drain()

    def beat(self) -> bytes:
        return b""

    def tail(self) -> bytes:
        if self.stream.writer is None:
            self.stream.begin(encode.schema_of(self.columns))
        self.stream.end()
        return self.stream.drain()


def cut_if_short(frames: Sequence[Named]) -> None:
    for _, frame in frames:
        if isinstance(frame, Gap | Failed):
            raise Cut(str(told(frame)[1]))


def runs_of_rows(frames: Sequence[Named]) -> Iterator[Sequence[Named]]:
    """The frames one by one, but neighbouring frames of rows of one query together."""
    start = 0
    for at in range(1, len(frames) + 1):
        if at == len(frames) or not (
            isinstance(frames[start][1], RowsFrame)
            and isinstance(frames[at][1], RowsFrame)
            and frames[start][0] == frames[at][0]
        ):
            yield frames[start:at]
            start = at


def grouped(inners: Sequence[tuple[Sequence[bytes], int]]) -> Iterator[tuple[bytes, int]]:
    """Frames' pieces, each with its frame's number of rows, as events of at most 500 rows: small frames together.
    With each event the number of its rows."""
    waiting: list[bytes] = []
    rows = 0
    for pieces, count in inners:
        if waiting and rows + count > FLUSH_ROWS:
            yield b",".join(waiting), rows
            waiting, rows = [], 0
        if len(pieces) == 1:
            waiting.append(pieces[0])
            rows += count
        else:
            for at, piece in enumerate(pieces):
                yield piece, min(encode.ROWS_PER_PIECE, count - at * encode.ROWS_PER_PIECE)
    if waiting:
        yield b",".join(waiting), rows


def cursors_behind(frames: Sequence[RowsFrame], counts: Sequence[int]) -> Iterator[str | None]:
    """Where a reader goes on that has had the events to there, which hold so many rows each of these frames."""
    at, taken = 0, 0
    for count in counts:
        taken += count
        while taken > frames[at].table.num_rows:
            taken -= frames[at].table.num_rows
            at += 1
        yield cursor_within(frames[at], taken)


def told(frame: Frame) -> tuple[str, Mapping[str, Any]]:
    """A frame that is not rows as its event's name and data."""
    match frame:
        case Meta(data):
            return "meta", data
        case Progress(data):
            return "progress", numbers(data)
        case Seal(data):
            return "seal", data
        case Phase(data):
            return "phase", data
        case Gap(data):
            return "gap", data
        case Warn(data):
            return "warn", data
        case Failed(data):
            return "error", data
        case Ended(reason, data):
            return "end", {"reason": reason, **data}
        case RowsFrame():
            raise AssertionError("rows have pens of their own")
        case _:
            assert_never(frame)


def numbers(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A query's numbers as people read them: its watermark as a time."""
    us = data.get("watermark")
    return {**data, "watermark": encode.moment(us)} if isinstance(us, int) else data


def envelope(name: str | None, event: str, data: bytes, cursor: str | None = None) -> bytes:
    query = b"" if name is None else b'"query":"' + name.encode() + b'",'
    place = b"" if cursor is None else b',"id":' + encode.dumps(cursor)
    return b"{" + query + b'"event":"' + event.encode() + b'","data":' + data + place + b"}\n"


def joined_cursors(cursors: Mapping[str, str]) -> str:
    """Several queries' cursors as one: `q1=…&q2=…`."""
    return "&".join(f"{name}={cursor}" for name, cursor in cursors.items())


def split_cursors(joined: str) -> Mapping[str, str]:
    pairs = (part.partition("=") for part in joined.split("&"))
    return {name: cursor for name, _, cursor in pairs if cursor}


# --- compression ---------------------------------------------------------------------------------------------


class Squeeze(Protocol):
    """Compresses a stream so that whatever was put in can be read on the other side at once."""

    def put(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class Plain:
    def put(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class Gzip:
    """A small window (8 KiB): rows repeat their names within it, and a thousand readers have one each."""

    def __init__(self) -> None:
        self.state = zlib.compressobj(5, zlib.DEFLATED, 16 + 13, 6)

    def put(self, data: bytes) -> bytes:
        return self.state.compress(data) + self.state.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self.state.flush()


class Zstd:
    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=16)
        self.state = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def put(self, data: bytes) -> bytes:
        return self.state.compress(data) + self.state.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self.state.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


SQUEEZES: Mapping[str, Callable[[], Squeeze]] = {"zstd": Zstd, "gzip": Gzip}
"""In the order of our liking, by the name that Accept-Encoding uses."""


def coding_of(accept: str) -> str | None:
    """The coding that a reader who accepts these gets; None for none. Only what is named, not `*`."""
    wanted: dict[str, float] = {}
    for part in accept.split(","):
        name, _, parameter = part.strip().partition(";")
        wanted[name.strip().lower()] = quality(parameter)
    return next((name for name in SQUEEZES if wanted.get(name, 0.0) > 0), None)


def quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
