"""Standard input: a file on it is read like a file, with its history; a pipe or a terminal is live until it ends."""

from __future__ import annotations

import io
import os
import select
import stat
import threading
from collections.abc import Iterator, Sequence

import orjson
import pyarrow.parquet as pq

from mql.catalog import SourceInfo
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader
from mql.exec.items import Chunk, Raw, Rows
from mql.schema import Shape
from sources.columns import conform, rows_of, shape_of
from sources.delimited import PLAIN_CSV, SNIFF_BYTES, CsvForm, batches_of, plan_csv
from sources.file import FileSource, format_of_head
from sources.learning import Learner
from sources.ring import Ring
from sources.settings import DEFAULTS, Settings, describe

READ_BYTES = 1 << 20
BUFFER_BYTES = 64 << 20
LOOK_S = 0.1
FIRST_WAIT_S = 1.0  # how long `info` waits for something to learn from


def stdin_source(
    name: str = "stdin",
    *,
    fd: int = 0,
    format: str = "auto",
    csv: CsvForm = PLAIN_CSV,
    settings: Settings = DEFAULTS,
    clock: Clock | None = None,
) -> FileSource | PipeSource:
    """What stands at standard input: bounded where it is a regular file, else live."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return FileSource(name, f"/dev/fd/{fd}", format=format, csv=csv, settings=settings, clock=clock)
    return PipeSource(name, fd=fd, format=format, csv=csv, settings=settings, clock=clock)


class PipeSource:
    """A pipe, read by a thread of its own into a bounded buffer; the first reader gets everything from the start.

    When the buffer is full the pipe is left alone until a reader catches up: the writer waits.
    """

    def __init__(
        self,
        name: str = "stdin",
        *,
        fd: int = 0,
        format: str = "auto",
        csv: CsvForm = PLAIN_CSV,
        settings: Settings = DEFAULTS,
        clock: Clock | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self.name = name
        self.fd = fd
        self.format = format
        self.csv = csv
        self.settings = settings
        self.clock = clock or SystemClock()
        self.ring = Ring(buffer_bytes)
        self.ring.next = {0: 0}
        self.holder = self.ring.reader(From())  # keeps what comes until the first reader takes its place
        self.learner = Learner(open=settings.open)
        self.columns: Shape | None = None
        self.known = threading.Event()
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self.run, name=f"source-{name}", daemon=True)
        self.thread.start()

    @property
    def info(self) -> SourceInfo:
        """Waits a moment for the first events, so that there is a shape."""
        self.known.wait(FIRST_WAIT_S)
        shape = self.columns or self.learner.shape
        if not shape.fields:
            shape = Shape(open=True, version=shape.version, events=0)
        encoding = "json" if self.columns is None else "columns"
        return describe(self.name, "stdin", shape, self.settings, encoding=encoding)

    def run(self) -> None:
        try:
            self.read()
        finally:
            self.ring.finish()
            self.known.set()

    def read(self) -> None:
        pieces = self.pieces()
        head = next(pieces, b"")
        if self.format == "auto":
            self.format = format_of_head(head)
        match self.format:
            case "parquet":
                self.take_parquet(head + b"".join(pieces))
            case "csv":
                self.take_csv(head, pieces)
            case "array":
                self.take_array(head + b"".join(pieces))
            case _:
                self.take_lines(head, pieces)

    def pieces(self) -> Iterator[bytes]:
        """What comes, as it comes, until the writer ends or we are closed."""
        while not self.closed.is_set():
            ready, _, _ = select.select([self.fd], [], [], LOOK_S)
            if ready:
                data = os.read(self.fd, READ_BYTES)
                if not data:
                    return
                yield data

    def take_lines(self, head: bytes, pieces: Iterator[bytes]) -> None:
        at = 3 if head.startswith(b"\xef\xbb\xbf") else 0
        for data in whole_lines(head[at:], pieces):
            chunk = Chunk(0, data, at, self.clock.now_us())
            self.learner.see(chunk)
            self.put(chunk)
            at = chunk.next_offset
            self.known.set()

    def take_array(self, text: bytes) -> None:
        elements = orjson.loads(text)
        lines = b"".join(orjson.dumps(element, option=orjson.OPT_APPEND_NEWLINE) for element in elements)
        self.take_lines(lines, iter(()))

    def take_csv(self, head: bytes, pieces: Iterator[bytes]) -> None:
        """Types are told from the first megabyte, or from what comes before the writer pauses."""
        while len(head) < SNIFF_BYTES and select.select([self.fd], [], [], LOOK_S)[0]:
            more = next(pieces, b"")
            if not more:
                break
            head += more
        lines = whole_lines(head.removeprefix(b"\xef\xbb\xbf"), pieces)
        first = next(lines, b"")
        plan = plan_csv([first] if first else [], self.csv)
        self.columns = shape_of(plan.schema)
        self.known.set()
        blocks = (block for part in ((first,), lines) for block in part)
        at = 0
        for batch in batches_of(plan, blocks, self.columns.fields):
            rows = rows_of(0, batch, at, self.clock.now_us())
            self.put(rows)
            at = rows.next_offset

    def take_parquet(self, data: bytes) -> None:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            self.columns = shape_of(file.schema_arrow)
            self.known.set()
            at = 0
            for batch in file.iter_batches():
                rows = rows_of(0, conform(batch, self.columns.fields), at, self.clock.now_us())
                self.put(rows)
                at = rows.next_offset

    def put(self, item: Raw) -> None:
        self.ring.append_when_free(item, lambda: not self.closed.is_set())

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        """What has come and not yet been let go is for every reader; there is no other now to begin with."""
        self.ring.merge = self.info.time.path is not None
        reader = self.ring.reader(start or From(), range(task, 1, tasks))
        if task == 0:
            self.holder.close()
        return reader

    def end(self) -> Positions:
        return self.ring.end()

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        if part == 0:
            yield from self.ring.stored(since.positions or {}, until)

    def sample(self, n: int) -> Sequence[bytes]:
        if self.columns is None:
            return self.learner.newest(n)
        newest = next((item for item in reversed(tuple(self.ring.items)) if isinstance(item, Rows)), None)
        rows = [] if newest is None else newest.table.drop_columns(["_offset"]).to_pylist()[-n:]
        return tuple(orjson.dumps(row, default=str) for row in rows)

    def close(self) -> None:
        self.closed.set()
        self.holder.close()
        self.thread.join(timeout=2)


def whole_lines(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of text, cut anew where lines end; the last line gets its end if it has none."""
    rest = bytearray()
    for piece in (one for part in ((head,), pieces) for one in part):
        cut = piece.rfind(b"\n") + 1
        if not cut:
            rest += piece
            continue
        rest += piece[:cut]
        yield bytes(rest)
        rest = bytearray(piece[cut:])
    if rest:
        yield bytes(rest) + b"\n"
