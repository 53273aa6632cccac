"""A job's results on disk: records in segments, from which any number of readers go on wherever they stopped.

A record is a frame of rows (an Arrow stream) or a note (a seal, a gap, a warning, as JSON), with a checksum. A segment
is a file named by the number of its first record and the rows before that; it is closed by size or age, and deleted
whole once it is too old or too much is kept. What a crash left half-written at the end is cut off when the log is
opened.

Readers see records up to `committed`: for a job that tells everything exactly once that is where its last checkpoint
stands, so that nothing they were told is ever taken back.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import threading
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mql.exec.clock import Clock, SystemClock
from mql.exec.files import replace_file, sync_directory
from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, RowsFrame, Seal, Warn
from mql.exec.results import Cursor, cursor_of, rest_of

HEAD = struct.Struct(">4sBIIQQIQ")  # mark, kind, length, checksum, number, rows before, rows, stored at
MARK = b"MQLR"
ROWS, NOTE = 0, 1
TAKE_RECORDS = 32
CACHED_BYTES = 16 << 20
NOTES: Mapping[str, Callable[[Mapping[str, Any]], Frame]] = {"gap": Gap, "warn": Warn, "phase": Phase}


@dataclass(frozen=True, slots=True)
class Keep:
    """How long results are kept, and how big their files get."""

    age_s: float = 7 * 86_400.0
    bytes: int = 1 << 30
    segment_bytes: int = 16 << 20
    segment_age_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Length:
    """A place in the log: so many records, so many rows."""

    number: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `payload` is an Arrow stream or JSON."""

    kind: int
    number: int
    before: int
    rows: int
    at_us: int
    payload: bytes

    @property
    def size(self) -> int:
        return HEAD.size + len(self.payload)


@dataclass(frozen=True, slots=True)
class Segment:
    """One file: the number of its first record and how many rows come before it."""

    path: Path
    number: int
    rows: int


class ResultLog:
    """The log in one directory. One writer, many readers; thread-safe."""

    def __init__(self, directory: Path, keep: Keep | None = None, clock: Clock | None = None) -> None:
        self.directory = directory
        self.keep = keep or Keep()
        self.clock = clock or SystemClock()
        directory.mkdir(parents=True, exist_ok=True)
        self.id = self._identity()
        self.committed = Length()
        self._is_unsaved = False
        self._guard = threading.RLock()
        self._readers: tuple[LogReading, ...] = ()
        self._cache: OrderedDict[int, tuple[Frame, int, int]] = OrderedDict()
        self._cached_bytes = 0
        self._out: int | None = None
        self._out_bytes = 0
        self._out_since_us = 0
        self.segments = list(found_segments(directory))
        self.length = self._recover()
        self.committed = self.length

    def _identity(self) -> str:
        """What cursors of this log begin with: those of another job of the same name are of no use here."""
        path = self.directory / "id"
        if not path.exists():
            replace_file(path, secrets.token_hex(6).encode())
        return path.read_text()

    def _recover(self) -> Length:
        """Cuts off what is not whole at the end, and says how long the log is."""
        if not self.segments:
            return Length()
        last = self.segments[-1]
        at, length = 0, Length(last.number, last.rows)
        for record in records_in(last.path):
            at += record.size
            length = Length(record.number + 1, record.before + record.rows)
        if at < last.path.stat().st_size:
            with last.path.open("r+b") as file:
                file.truncate(at)
                os.fsync(file.fileno())
        return length

    # --- writing ---------------------------------------------------------------------------------------

    def append(self, table: pa.Table) -> Length:
        """Rows; gives the length after them."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return self._write(ROWS, table.num_rows, sink.getvalue().to_pybytes())

    def note(self, event: str, data: Mapping[str, Any]) -> Length:
        return self._write(NOTE, 0, json.dumps([event, dict(data)], default=str).encode())

    def _write(self, kind: int, rows: int, payload: bytes) -> Length:
        with self._guard:
            now_us = self.clock.now_us()
            out = self._segment(now_us)
            data = packed(Record(kind, self.length.number, self.length.rows, rows, now_us, payload))
            start = self._out_bytes
            try:
                write_all(out, data)
            except OSError:
                os.ftruncate(out, start)  # a full disk leaves no half record
                raise
            self._out_bytes += len(data)
            self._is_unsaved = True
            self.length = Length(self.length.number + 1, self.length.rows + rows)
            return self.length

    def _segment(self, now_us: int) -> int:
        """The file that is being written; a new one where the last is big or old enough."""
        is_big = self._out_bytes >= self.keep.segment_bytes
        is_old = self._out_bytes > 0 and now_us - self._out_since_us > self.keep.segment_age_s * 1e6
        if self._out is not None and (is_big or is_old):
            os.fsync(self._out)
            os.close(self._out)
            self._out = None
        if self._out is None:
            last = self.segments[-1] if self.segments else None
            if last is None or last.path.stat().st_size >= self.keep.segment_bytes or is_old:
                last = Segment(self.directory / name_of(self.length), self.length.number, self.length.rows)
                os.close(os.open(last.path, os.O_WRONLY | os.O_CREAT, 0o644))  # a full disk leaves no segment behind
                self.segments.append(last)
                self._out_since_us = now_us
                self._forget(now_us)
            self._out = os.open(last.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            sync_directory(self.directory)
            self._out_bytes = os.fstat(self._out).st_size
            self._out_since_us = self._out_since_us or now_us
        return self._out

    def _forget(self, now_us: int) -> None:
        """Deletes the oldest segments, whole, where too much or too long is kept. Never the one that is written."""
        sizes = [segment.path.stat().st_size if segment.path.exists() else 0 for segment in self.segments]
        while len(self.segments) > 1:
            oldest, following = self.segments[0], self.segments[1]
            if sum(sizes) <= self.keep.bytes and self._age_us(oldest, now_us) <= self.keep.age_s * 1e6:
                return
            if following.number > self.committed.number:
                return
            oldest.path.unlink(missing_ok=True)
            del self.segments[0], sizes[0]

    def expire(self) -> bool:
        """Deletes what is older than it is kept, though nothing new comes; whether that was all there is."""
        with self._guard:
            if not self.segments or self.committed != self.length:
                return False
            now_us, last = self.clock.now_us(), self.segments[-1]
            is_over = last.number < self.length.number and self._age_us(last, now_us) > self.keep.age_s * 1e6
            if is_over:
                if self._out is not None:
                    os.close(self._out)
                    self._out = None
                last = Segment(self.directory / name_of(self.length), self.length.number, self.length.rows)
                os.close(os.open(last.path, os.O_WRONLY | os.O_CREAT, 0o644))
                self.segments.append(last)
                self._out_since_us = now_us
            self._forget(now_us)
            return is_over

    def _age_us(self, segment: Segment, now_us: int) -> int:
        """How long ago something was written into it."""
        return now_us - int(segment.path.stat().st_mtime_ns // 1000) if segment.path.exists() else 0

    def sync(self) -> None:
        """What was written survives a loss of power."""
        with self._guard:
            if self._out is not None and self._is_unsaved:
                os.fdatasync(self._out)
                self._is_unsaved = False

    def commit(self, length: Length | None = None) -> None:
        """Readers may see so much (all of it where left out)."""
        with self._guard:
            self.committed = self.length if length is None else length
            readers = self._readers
        for reader in readers:
            reader.ring()

    def truncate(self, length: Length) -> None:
        """Takes back what is behind that length: what came after a job's last checkpoint comes again."""
        with self._guard:
            if self._out is not None:
                os.close(self._out)
                self._out = None
                self._out_bytes = 0
            while self.segments and self.segments[-1].number >= length.number:
                self.segments.pop().path.unlink(missing_ok=True)
            if self.segments:
                last = self.segments[-1]
                at = sum(record.size for record in records_in(last.path) if record.number < length.number)
                with last.path.open("r+b") as file:
                    file.truncate(at)
                    os.fsync(file.fileno())
            sync_directory(self.directory)
            self.length = length
            self.committed = length
            self._cache.clear()
            self._cached_bytes = 0

    def close(self) -> None:
        with self._guard:
            if self._out is not None:
                os.fsync(self._out)
                os.close(self._out)
                self._out = None

    def finish(self, frame: Ended | Failed) -> None:
        """The job is over, or stands still: its readers are told."""
        for reader in self._readers:
            reader.end(frame)

    # --- reading ---------------------------------------------------------------------------------------

    @property
    def oldest(self) -> Length:
        with self._guard:
            return Length(self.segments[0].number, self.segments[0].rows) if self.segments else self.committed

    def cursor(self, length: Length) -> str:
        return str(Cursor(self.id, length.number, length.rows))

    def at_row(self, row: int) -> Length:
        """The place of the record that holds a row, or will: the oldest where that is gone, else the end."""
        with self._guard:
            segments, until = list(self.segments), self.committed
        segment = next((one for one in reversed(segments) if one.rows <= row), None)
        if segment is None:
            return self.oldest
        for record in records_in(segment.path, payloads=False):
            if record.number >= until.number:
                break
            if record.before >= row or record.before + record.rows > row:
                return Length(record.number, record.before)
        following = next((one for one in segments if one.number > segment.number), None)
        return until if following is None else Length(following.number, following.rows)

    def row_before(self, us: int) -> int:
        """A row's number such that all rows that were stored at or after that moment come behind it."""
        with self._guard:
            segments = tuple(self.segments)
        found = segments[0].rows if segments else 0
        for segment in segments[1:]:
            first = next(records_in(segment.path, payloads=False), None)
            if first is None or first.at_us >= us:
                break
            found = segment.rows
        return found

    def read(self, number: int, records_max: int) -> list[tuple[int, Frame]]:
        """Frames from a record on, each with when it was stored, as far as they are committed and not damaged."""
        found: list[tuple[int, Frame]] = []
        with self._guard:
            until = self.committed.number
            while number < until and len(found) < records_max and number in self._cache:
                frame, _, at_us = self._cache[number]
                found.append((at_us, frame))
                number += 1
            segment = next((one for one in reversed(self.segments) if one.number <= number), None)
        if found or number >= until or segment is None:
            return found
        for record in records_in(segment.path, number):
            if record.number >= until or len(found) >= records_max:
                break
            found.append((record.at_us, self._remember(record)))
        return found

    def _remember(self, record: Record) -> Frame:
        """The record's frame, kept for a while: readers of the newest rows share it."""
        frame = frame_of(record, self.cursor(Length(record.number + 1, record.before + record.rows)))
        with self._guard:
            self._cache[record.number] = (frame, record.size, record.at_us)
            self._cached_bytes += record.size
            while self._cached_bytes > CACHED_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1][1]
        return frame

    def tables(self, rows: range, since_us: int, until_us: int, rows_max: int) -> tuple[list[pa.Table], int]:
        """Stored rows by their numbers and by when they were stored; and the number after the last of them."""
        found: list[pa.Table] = []
        count, after = 0, rows.start
        with self._guard:
            segments, until = list(self.segments), self.committed.number
        for at, segment in enumerate(segments):
            if at + 1 < len(segments) and segments[at + 1].rows <= rows.start:
                continue
            for record in records_in(segment.path):
                if record.number >= until or record.before >= rows.stop or record.at_us >= until_us:
                    return found, after
                end = record.before + record.rows
                if record.kind != ROWS or end <= rows.start or record.at_us < since_us:
                    continue
                first = max(rows.start, record.before)
                last = min(rows.stop, end, first + rows_max - count)
                found.append(table_of(record).slice(first - record.before, last - first))
                count, after = count + last - first, last
                if count >= rows_max:
                    return found, after
        return found, after

    def parts(self, rows: range) -> Iterator[tuple[int, pa.Table]]:
        """Stored rows by their numbers, record by record, each with the number of its first."""
        with self._guard:
            segments, until = list(self.segments), self.committed.number
        for at, segment in enumerate(segments):
            if at + 1 < len(segments) and segments[at + 1].rows <= rows.start:
                continue
            for record in records_in(segment.path):
                if record.number >= until or record.before >= rows.stop:
                    return
                first, last = max(rows.start, record.before), min(rows.stop, record.before + record.rows)
                if record.kind == ROWS and first < last:
                    yield first, table_of(record).slice(first - record.before, last - first)

    def reading(self, meta: Meta, cursor: str | None, *, live: bool) -> LogReading:
        """A reader: behind a cursor, else from the oldest record, or (`live`) only what comes from now on."""
        at, gap = self._place(cursor, live)
        reading = LogReading(self, meta, at)
        if gap is not None:
            reading.say(gap)
        with self._guard:
            self._readers = (*self._readers, reading)
        return reading

    def leave(self, reading: LogReading) -> None:
        with self._guard:
            self._readers = tuple(other for other in self._readers if other is not reading)

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        with self._guard:
            paths = [segment.path for segment in self.segments]
        return sum(path.stat().st_size for path in paths if path.exists())

    @property
    def readers(self) -> int:
        return len(self._readers)

    def _place(self, text: str | None, live: bool) -> tuple[Length, Gap | None]:
        if text is None:
            return (self.committed if live else self.oldest), None
        cursor, oldest = cursor_of(text), self.oldest
        if cursor is None or cursor.epoch != self.id or cursor.number > self.committed.number:
            why = "the cursor is not from these results"
            return oldest, Gap({"rows": None, "from": text, "to": self.cursor(oldest), "why": why})
        if cursor.number < oldest.number:
            missed = oldest.rows - cursor.rows
            why = "results are not kept that long"
            return oldest, Gap({"rows": missed, "from": text, "to": self.cursor(oldest), "why": why})
        return Length(cursor.number, cursor.rows), None


def rows_of(frame: Frame) -> int:
    return int(frame.table.num_rows) if isinstance(frame, RowsFrame) else 0


def rows_before(frame: Frame, otherwise: int) -> int:
    """How many rows of the log lie before the end of a frame of rows; of others it is not written."""
    cursor = cursor_of(frame.cursor) if isinstance(frame, RowsFrame) else None
    return otherwise if cursor is None else cursor.rows


class LogReading:
    """One reader's place in the log; a stream takes it for a subscription."""

    def __init__(self, log: ResultLog, meta: Meta, at: Length) -> None:
        self.at = at
        self.ended = False
        self._log = log
        self._own: deque[Frame] = deque([meta])
        self._last: Ended | Failed | None = None
        self._wake: Callable[[], None] | None = None
        self._rung = threading.Event()
        self._rung.set()

    def take(self, max_frames: int = 100) -> Sequence[Frame]:
        """What waits now. It reads at most a few records, and rings again where more wait."""
        self._rung.clear()
        found: list[Frame] = []
        while self._own:
            found.append(self._own.popleft())
        if self.ended:
            return found
        before = self.at
        for _, frame in self._log.read(self.at.number, min(max_frames, TAKE_RECORDS)):
            end = rows_before(frame, self.at.rows)
            rest = rest_of(frame, rows_of(frame) - (end - self.at.rows))
            self.at = Length(self.at.number + 1, end)
            if rest is not None:
                found.append(rest)
        behind = self.at.number < self._log.committed.number
        if behind and self.at == before:
            found.append(self._skip())
        if behind:
            self.ring()
        elif self._last is not None:
            self.ended = True
            found.append(self._last)
        return found

    def _skip(self) -> Gap:
        """Where a record is gone or damaged: on with the next segment, and say so."""
        here = self.at
        following = [Length(one.number, one.rows) for one in self._log.segments if one.number > here.number]
        self.at = following[0] if following else self._log.committed
        why = "these results are gone or damaged"
        rows = self.at.rows - here.rows
        return Gap({"rows": rows, "from": self._log.cursor(here), "to": self._log.cursor(self.at), "why": why})

    def say(self, frame: Frame) -> None:
        self._own.append(frame)
        self.ring()

    def end(self, frame: Ended | Failed) -> None:
        """After what waits, this is the last."""
        self._last = frame
        self.ring()

    def wait(self, timeout_s: float) -> bool:
        return self._rung.wait(timeout_s)

    def quiet(self) -> None:
        """The bell is off until something more comes: for those who read the log by themselves."""
        self._rung.clear()

    def on_ready(self, wake: Callable[[], None] | None) -> None:
        self._wake = wake
        if wake is not None:
            wake()

    def ring(self) -> None:
        self._rung.set()
        wake = self._wake
        if wake is not None:
            wake()

    def close(self) -> None:
        self._wake = None
        self._rung.set()
        self._log.leave(self)


# --- bytes ---------------------------------------------------------------------------------------------------


def name_of(length: Length) -> str:
    return f"{length.number:016d}-{length.rows:016d}.log"


def found_segments(directory: Path) -> Iterator[Segment]:
    for path in sorted(directory.glob("*-*.log")):
        number, _, rows = path.stem.partition("-")
        if number.isdecimal() and rows.isdecimal():
            yield Segment(path, int(number), int(rows))


def packed(record: Record) -> bytes:
    """The record as bytes; the checksum is over the rest of the head and the payload."""
    rest = (record.number, record.before, record.rows, record.at_us)
    plain = HEAD.pack(MARK, record.kind, len(record.payload), 0, *rest)
    return HEAD.pack(MARK, record.kind, len(record.payload), zlib.crc32(record.payload, zlib.crc32(plain)), *rest) + (
        record.payload
    )


def records_in(path: Path, number: int = 0, *, payloads: bool = True) -> Iterator[Record]:
    """The whole records of a segment, in order, from a number on; ends at the first that is not whole.

    Without `payloads` only what stands before them is read, and no checksum is looked at."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        expected: int | None = None
        while len(head := file.read(HEAD.size)) == HEAD.size:
            mark, kind, length, checksum, at, before, rows, at_us = HEAD.unpack(head)
            if mark != MARK or (expected is not None and at != expected):
                return
            expected = at + 1
            if at < number:
                file.seek(length, os.SEEK_CUR)
                continue
            if not payloads:
                file.seek(length, os.SEEK_CUR)
                yield Record(kind, at, before, rows, at_us, b"")
                continue
            payload = file.read(length)
            plain = HEAD.pack(mark, kind, length, 0, at, before, rows, at_us)
            if len(payload) < length or zlib.crc32(payload, zlib.crc32(plain)) != checksum:
                return
            yield Record(kind, at, before, rows, at_us, payload)


def frame_of(record: Record, cursor: str) -> Frame:
    if record.kind == ROWS:
        return RowsFrame(table_of(record), cursor)
    event, data = json.loads(record.payload)
    return Seal(data, cursor) if event == "seal" else NOTES[event](data)


def table_of(record: Record) -> pa.Table:
    with pa.ipc.open_stream(record.payload) as reader:
        return reader.read_all()


def write_all(out: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(out, rest) :]
