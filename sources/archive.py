"""A source's events kept on disk: an append log of the open hour, Parquet of the hours that are closed.

    directory/000000000017.log                    frames, appended; each with its length and checksum
    directory/2024-05-01/13-000000000016.parquet  what a closed log became, by split, with offset and arrival

A log is closed when its hour is over or it is big; a thread makes Parquet of it, under another name first, and only
then is the log taken away: at every moment each event is there once. After a crash a half-written frame at a log's
end is cut off. Which offsets a file holds stands in its own metadata.
"""

from __future__ import annotations

import fcntl
import os
import queue
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader, Source
from mql.exec.items import MIN_US, Chunk, Raw, Rows
from sources.pieces import END, clip, first_of, lines_of
from sources.stored import StoredReader

HOUR_US = 3_600_000_000
LOG_BYTES = 256 << 20
GROUP_BYTES = 16 << 20
CATCH_UP_ROUNDS = 8
RECORDER_WAIT_S = 30.0
METADATA_KEY = b"mql.archive"

FRAME = struct.Struct("<4sIIiqqqQ")  # magic, kind, checksum, split, first, next, arrival, length
MAGIC = b"MQF1"
CHUNK_KIND, ROWS_KIND = 0, 1

Spans = Mapping[int, tuple[int, int]]
"""By split: the first offset and the next one after the last."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What may go: files whose newest arrival is older than `age_us`, and the oldest beyond `bytes`."""

    age_us: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the archive. A log's length is what has been written to it so far."""

    number: int
    path: Path
    is_log: bool
    spans: Spans
    first_us: int
    last_us: int
    length: int


class Archive:
    """The kept events of one source. Thread-safe; one process writes.

    `fsync`: an append has reached the disk itself when it returns, and survives a loss of power; else it survives the
    end of the process.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        fsync: bool = False,
        retention: Retention = Retention(),
        log_bytes: int = LOG_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.fsync = fsync
        self.retention = retention
        self.log_bytes = log_bytes
        self.clock = clock or SystemClock()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.holding = hold(self.directory)
        self.lock = threading.RLock()
        self.parts: dict[int, Part] = dict(found_parts(self.directory))
        self.closed_logs: queue.Queue[int | None] = queue.Queue()
        for number in sorted(self.parts):
            if self.parts[number].is_log:
                self.closed_logs.put(number)
        self.next_number = max(self.parts, default=0) + 1
        self.current: int | None = None
        self.fd: int | None = None
        self.failure: str | None = None
        self.failed: list[int] = []  # logs to try again when the next one is closed
        self.worker = threading.Thread(target=self.compact_all, name="archive", daemon=True)
        self.worker.start()

    @property
    def promise(self) -> str:
        """What an append that has returned means."""
        return "archive-synced" if self.fsync else "archive"

    def append(self, items: Sequence[Raw]) -> None:
        """Writes items, in the order of their offsets. OSError (a full disk) leaves the archive as it was."""
        if not items:
            return
        with self.lock:
            part = self.log_for(items[0].arrival_us // HOUR_US)
            assert self.fd is not None
            data = b"".join(frame_of(item) for item in items)
            try:
                write_all(self.fd, data)
                if self.fsync:
                    os.fsync(self.fd)
            except OSError:
                os.ftruncate(self.fd, part.length)
                raise
            spans = dict(part.spans)
            for item in items:
                first, _ = spans.get(item.split, (first_of(item), 0))
                spans[item.split] = (first, item.next_offset)
            self.parts[part.number] = replace(
                part,
                spans=spans,
                first_us=min(part.first_us, items[0].arrival_us),
                last_us=max(part.last_us, items[-1].arrival_us),
                length=part.length + len(data),
            )

    def log_for(self, hour: int) -> Part:
        """The log to write to: a new one where the hour has changed or the last one is big."""
        if self.current is not None:
            part = self.parts[self.current]
            if part.length < self.log_bytes and (not part.spans or part.first_us // HOUR_US == hour):
                return part
            self.close_log()
        number = self.next_number
        self.next_number += 1
        path = self.directory / f"{number:012d}.log"
        self.fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        self.current = number
        self.parts[number] = Part(number, path, True, {}, END, MIN_US, 0)
        return self.parts[number]

    def close_log(self) -> None:
        if self.current is None or self.fd is None:
            return
        os.close(self.fd)
        for number in (*self.failed, self.current):
            self.closed_logs.put(number)
        self.failed = []
        self.current = self.fd = None

    def end(self) -> dict[int, int]:
        """The offset after the newest stored event, by split."""
        with self.lock:
            found: dict[int, int] = {}
            for part in self.parts.values():
                for split, (_, following) in part.spans.items():
                    found[split] = max(found.get(split, 0), following)
            return found

    def files(self) -> tuple[Path, ...]:
        """The Parquet files there are, oldest first."""
        with self.lock:
            return tuple(self.parts[number].path for number in sorted(self.parts) if not self.parts[number].is_log)

    def history(
        self, since: From, until: Positions | None = None, part: int = 0, parts: int = 1, ahead_us: int = HOUR_US
    ) -> Iterator[Raw]:
        """Stored events; by time, those that arrived no earlier than `ahead_us` before it (clocks may be ahead)."""
        last = self.end() if until is None else until
        with self.lock:
            numbers = sorted(self.parts)
        for at, number in enumerate(numbers):
            if at % parts == part:
                yield from self.within(number, since, last, ahead_us)

    def within(self, number: int, since: From, until: Positions, ahead_us: int) -> Iterator[Raw]:
        """The items of one file that are in the range. Between our look and our reading a log may become Parquet."""
        for _ in range(2):
            with self.lock:
                part = self.parts.get(number)
            if part is None or not touches(part, since, until, ahead_us):
                return
            try:
                items = log_items(part.path, part.length) if part.is_log else parquet_items(part, since, until)
                for item in items:
                    piece = clip(item, (since.positions or {}).get(item.split, 0), until.get(item.split, 0))
                    if piece is not None:
                        yield piece
                return
            except FileNotFoundError:
                continue

    def compact_all(self) -> None:
        """The thread's work: a closed log after the other, until it is told to stop."""
        while (number := self.closed_logs.get()) is not None:
            try:
                self.compact(number)
                self.forget_old()
                self.failure = None
            except OSError as error:
                self.failure = f"a log could not be made Parquet: {error}"
                with self.lock:
                    self.failed.append(number)
            finally:
                self.closed_logs.task_done()
        self.closed_logs.task_done()

    def compact(self, number: int) -> None:
        with self.lock:
            log = self.parts[number]
        if log.spans:
            parquet = write_parquet(log, self.directory)
            with self.lock:
                self.parts[number] = parquet
        else:
            with self.lock:
                del self.parts[number]
        log.path.unlink()

    def forget_old(self) -> None:
        """Takes away what the retention does not cover."""
        with self.lock:
            kept = sorted((part for part in self.parts.values() if not part.is_log), key=lambda part: part.number)
            size = sum(part.length for part in self.parts.values())
            for part in kept:
                old = self.retention.age_us is not None and part.last_us < self.clock.now_us() - self.retention.age_us
                big = self.retention.bytes is not None and size > self.retention.bytes
                if not (old or big):
                    break
                size -= part.length
                del self.parts[part.number]
                part.path.unlink(missing_ok=True)

    def settle(self) -> None:
        """Closes the open log and waits until all logs are Parquet."""
        with self.lock:
            self.close_log()
        self.closed_logs.join()

    def close(self) -> None:
        """Leaves the open log as a log: the next start makes Parquet of it."""
        with self.lock:
            if self.fd is not None:
                os.close(self.fd)
            self.current = self.fd = None
        if self.holding.closed:
            return
        self.closed_logs.put(None)
        self.worker.join()
        self.holding.close()


def hold(directory: Path) -> BinaryIO:
    """Keeps other archives, of this process or another, out of the directory until it is closed."""
    held = (directory / "lock").open("ab")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.close()
        raise MqlError(
            f'the archive "{directory}" is in use',
            hint="Give each recorded source a directory of its own; a server that records it is asked by --server.",
        ) from error
    return held


# --- the log -----------------------------------------------------------------------------------------


def frame_of(item: Raw) -> bytes:
    match item:
        case Chunk():
            kind, payload = CHUNK_KIND, item.data
        case Rows():
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, item.table.schema) as writer:
                writer.write_batch(item.table)
            kind, payload = ROWS_KIND, sink.getvalue().to_pybytes()
    head = FRAME.pack(
        MAGIC, kind, zlib.crc32(payload), item.split, first_of(item), item.next_offset, item.arrival_us, len(payload)
    )
    return head + payload


def log_items(path: Path, length: int | None = None) -> Iterator[Raw]:
    """The items of a log, up to the first frame that is not whole or to `length`."""
    with path.open("rb") as file:
        limit = os.fstat(file.fileno()).st_size if length is None else length
        while file.tell() < limit:
            item = read_frame(file.read(FRAME.size), file.read)
            if item is None:
                return
            yield item


def read_frame(head: bytes, read: Callable[[int], bytes]) -> Raw | None:
    """The frame's item; None where it is torn."""
    if len(head) < FRAME.size:
        return None
    magic, kind, checksum, split, first, following, arrival, length = FRAME.unpack(head)
    if magic != MAGIC:
        return None
    payload = read(length)
    if len(payload) < length or zlib.crc32(payload) != checksum:
        return None
    if kind == CHUNK_KIND:
        return Chunk(split, payload, first, arrival)
    with pa.ipc.open_stream(payload) as stream:
        return Rows(split, stream.read_next_batch(), arrival, following)


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def repaired(path: Path, number: int) -> Part:
    """A log that was left behind, its torn end cut off."""
    length, spans, first_us, last_us = 0, dict[int, tuple[int, int]](), END, MIN_US
    for item in log_items(path):
        size = len(item.data) if isinstance(item, Chunk) else len(frame_of(item)) - FRAME.size
        length += FRAME.size + size
        spans[item.split] = (spans.get(item.split, (first_of(item), 0))[0], item.next_offset)
        first_us, last_us = min(first_us, item.arrival_us), max(last_us, item.arrival_us)
    os.truncate(path, length)
    return Part(number, path, True, spans, first_us, last_us, length)


# --- Parquet -----------------------------------------------------------------------------------------


def write_parquet(log: Part, directory: Path) -> Part:
    """A closed log as one Parquet file: split after split, each in the order of its offsets."""
    hour = datetime.fromtimestamp(log.first_us / 1e6, UTC)
    path = directory / hour.strftime("%Y-%m-%d") / f"{hour:%H}-{log.number:012d}.parquet"
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".new")
    schema = pa.unify_schemas([stored_table(item).schema for item in heads(log)], promote_options="permissive")
    noted = {
        "spans": {str(split): span for split, span in log.spans.items()},
        "first": log.first_us,
        "last": log.last_us,
    }
    with pq.ParquetWriter(
        draft, schema.with_metadata({METADATA_KEY: orjson.dumps(noted)}), compression="zstd"
    ) as writer:
        for split in sorted(log.spans):
            for table in groups(item for item in log_items(log.path, log.length) if item.split == split):
                writer.write_table(as_schema(table, schema))
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    return replace(log, path=path, is_log=False, length=path.stat().st_size)


def heads(log: Part) -> Iterator[Raw]:
    """One item for each distinct set of columns."""
    seen: set[str] = set()
    for item in log_items(log.path, log.length):
        key = "" if isinstance(item, Chunk) else str(item.table.schema)
        if key not in seen:
            seen.add(key)
            yield item


def groups(items: Iterator[Raw]) -> Iterator[pa.Table]:
    """Tables of about a row group's size."""
    waiting: list[pa.Table] = []
    size = 0
    for item in items:
        waiting.append(stored_table(item))
        size += waiting[-1].nbytes
        if size >= GROUP_BYTES:
            yield pa.concat_tables(waiting, promote_options="permissive")
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting, promote_options="permissive")


def stored_table(item: Raw) -> pa.Table:
    """An item as it is kept: the event (text or columns) with `_split`, `_offset`, `_time` and `_arrival`."""
    match item:
        case Chunk():
            texts, offsets = lines_of(item)
            trimmed = pc.ascii_rtrim_whitespace(texts).cast(pa.string())
            table = pa.table({"_raw": trimmed, "_offset": pa.array(offsets)})
        case Rows():
            table = pa.Table.from_batches([item.table])
    rows = table.num_rows
    if "_time" not in table.schema.names:
        table = table.append_column("_time", pa.nulls(rows, pa.int64()))
    arrival = pa.repeat(pa.scalar(item.arrival_us, pa.int64()), rows)
    split = pa.repeat(pa.scalar(item.split, pa.int32()), rows)
    return table.append_column("_arrival", arrival).append_column("_split", split)


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.schema.names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def parquet_items(part: Part, since: From, until: Positions) -> Iterator[Rows]:
    """A file's rows, group by group (a group is of one split). `_time` of events without one is their arrival."""
    with pq.ParquetFile(part.path) as file:
        for group in range(file.num_row_groups):
            if not group_touches(file.metadata.row_group(group), since, until):
                continue
            for batch in file.iter_batches(65_536, row_groups=[group]):
                yield rows_back(batch)


def rows_back(batch: pa.RecordBatch) -> Rows:
    arrivals = batch.column("_arrival")
    times = pc.coalesce(batch.column("_time"), arrivals)
    table = batch.drop_columns(["_arrival", "_split", "_time"]).append_column("_time", times)
    last = int(table.column("_offset")[-1].as_py())
    return Rows(int(batch.column("_split")[0].as_py()), table, int(pc.max(arrivals).as_py()), last + 1)


def group_touches(group: pq.RowGroupMetaData, since: From, until: Positions) -> bool:
    """Whether a row group may hold offsets of the range, as far as its statistics tell."""
    bounds = {}
    for at in range(group.num_columns):
        column = group.column(at)
        if column.path_in_schema in ("_offset", "_split") and column.statistics is not None:
            bounds[column.path_in_schema] = (column.statistics.min, column.statistics.max)
    if len(bounds) < 2:
        return True
    split = bounds["_split"][0]
    least, most = bounds["_offset"]
    return bool(most >= (since.positions or {}).get(split, 0) and least < until.get(split, 0))


def touches(part: Part, since: From, until: Positions, ahead_us: int) -> bool:
    """Whether a file may hold events of the range."""
    if since.positions is None and since.time_us is not None and part.last_us < since.time_us - ahead_us:
        return False
    return any(
        following > (since.positions or {}).get(split, 0) and first < until.get(split, 0)
        for split, (first, following) in part.spans.items()
    )


def found_parts(directory: Path) -> Iterator[tuple[int, Part]]:
    """The files of an archive as an earlier process left them."""
    for draft in directory.glob("*/*.new"):
        draft.unlink()
    done: set[int] = set()
    for path in sorted(directory.glob("*/*.parquet")):
        number = int(path.stem.split("-")[1])
        noted = orjson.loads(pq.read_schema(path).metadata[METADATA_KEY])
        spans = {int(split): (span[0], span[1]) for split, span in noted["spans"].items()}
        done.add(number)
        yield number, Part(number, path, False, spans, noted["first"], noted["last"], path.stat().st_size)
    for path in sorted(directory.glob("*.log")):
        number = int(path.stem)
        if number in done:
            path.unlink()
        else:
            yield number, repaired(path, number)


def began(directory: Path) -> dict[int, int] | None:
    """Where the recording began, by split; None before it has."""
    path = directory / "began.json"
    return {int(split): at for split, at in orjson.loads(path.read_bytes()).items()} if path.exists() else None


def note_began(directory: Path, positions: Positions) -> dict[int, int]:
    draft = directory / "began.new"
    draft.write_bytes(orjson.dumps({str(split): at for split, at in positions.items()}))
    draft.replace(directory / "began.json")
    return dict(positions)


# --- recording a source ------------------------------------------------------------------------------


class ArchiveReader:
    """Reads the archive until it has nearly caught up, then follows the live source from exactly there."""

    def __init__(
        self,
        archive: Archive,
        follow: Callable[[From, Sequence[int]], Reader],
        start: From,
        splits: Sequence[int],
        begin: Positions,
    ) -> None:
        self.archive = archive
        self.begin = {**begin, **(start.positions or {})}  # for splits of which nothing is stored
        self.follow = follow
        self.wanted = tuple(splits)
        self.rounds = 0
        self.live: Reader | None = None
        self.stored: Reader = self.round(start)

    def round(self, start: From) -> StoredReader:
        self.rounds += 1
        self.until = self.archive.end()
        items = (item for item in self.archive.history(start, self.until) if item.split in self.wanted)
        return StoredReader(items, self.wanted, start.positions or {})

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        if self.live is not None:
            return self.live.poll(timeout_s, max_bytes)
        found = self.stored.poll(0, max_bytes)
        if not self.stored.ended:
            return found
        reached = {split: offset for split, offset in {**self.begin, **self.until}.items() if split in self.wanted}
        if self.behind(reached) and self.rounds < CATCH_UP_ROUNDS:
            self.stored = self.round(From(reached))
            return found
        live = self.follow(From(reached), self.wanted)
        self.live = live
        return found or live.poll(timeout_s, max_bytes)

    def behind(self, reached: Positions) -> bool:
        """Whether more than a little has been stored meanwhile."""
        return any(following > reached.get(split, 0) for split, following in self.archive.end().items())

    @property
    def splits(self) -> tuple[int, ...]:
        return self.wanted

    @property
    def positions(self) -> Positions:
        return self.stored.positions if self.live is None else {**self.stored.positions, **self.live.positions}

    @property
    def ended(self) -> bool:
        return self.live is not None and self.live.ended

    @property
    def trouble(self) -> str | None:
        return self.live.trouble if self.live is not None else None

    def close(self) -> None:
        self.stored.close()
        if self.live is not None:
            self.live.close()


class RecordedSource:
    """A source whose events a thread of ours writes to an archive; live readers read the source itself.

    History is the archive's; asked for events that the recorder has yet to write, it waits for it.
    """

    def __init__(self, source: Source, archive: Archive) -> None:
        self.source = source
        self.archive = archive
        self.closed = threading.Event()
        self.progress = threading.Condition()
        self.failure: str | None = None
        self.begin = began(archive.directory)
        stored = archive.end()
        self.reader = source.open(From({**(self.begin or {}), **stored}) if stored or self.begin is not None else None)
        self.written = dict(self.reader.positions)
        if self.begin is None:
            self.begin = note_began(archive.directory, self.written)
        self.thread = threading.Thread(target=self.record, name=f"record-{source.info.name}", daemon=True)
        self.thread.start()

    @property
    def info(self) -> SourceInfo:
        return replace(self.source.info, history=True)

    def record(self) -> None:
        """Reads and writes until closed. A disk that is full makes it wait and try again: nothing is left out."""
        while not self.closed.is_set() and not self.reader.ended:
            items = self.reader.poll(0.25, GROUP_BYTES)
            while items and not self.closed.is_set():
                try:
                    self.archive.append(items)
                    self.failure = None
                    break
                except OSError as error:
                    self.failure = f"the archive cannot be written: {error}"
                    self.closed.wait(1.0)
            if self.failure is None:
                with self.progress:
                    self.written = dict(self.reader.positions)
                    self.progress.notify_all()

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        if start is None:
            return self.source.open(None, task, tasks, columns)
        splits = range(task, max(self.info.splits, 1), tasks)
        return ArchiveReader(
            self.archive,
            lambda since, _: self.source.open(since, task, tasks, columns),
            start,
            splits,
            self.begin or {},
        )

    def end(self) -> Positions:
        return self.source.end()

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        last = self.source.end() if until is None else until
        self.wait_for(last)
        yield from self.archive.history(since, last, part, parts, self.info.max_ahead_us)

    def wait_for(self, until: Positions) -> None:
        """Waits until the recorder has written what lies before these positions."""
        with self.progress:
            done = self.progress.wait_for(lambda: self.has(until), RECORDER_WAIT_S)
        if not done:
            raise MqlError(
                f'the archive of "{self.info.name}" is behind its source',
                hint=f"Try again in a while{f': {self.failure}' if self.failure else ''}.",
                code="archive-behind",
            )

    def has(self, until: Positions) -> bool:
        return all(self.written.get(split, 0) >= following for split, following in until.items())

    def sample(self, n: int) -> Sequence[bytes]:
        return self.source.sample(n)

    def close(self) -> None:
        self.closed.set()
        self.thread.join(timeout=5)
        self.reader.close()
        self.source.close()
        self.archive.close()
