"""Files of records that are no lines: Avro object container files, Protobuf messages each behind its length,
MessagePack objects one after the other. A file is a split, its offsets are the numbers of its records. Files end.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.exec.feed import From, Positions, Reader
from mql.exec.items import Raw, Rows
from mql.exec.scan import TYPED
from mql.schema import Shape
from sources.file import matching
from sources.formats.framed import widened
from sources.formats.nested import json_rows
from sources.pieces import END, clip
from sources.settings import DEFAULTS, Settings, describe
from sources.stored import StoredReader
from sources.texts import decompressed

READ_BYTES = 4 << 20
SHAPE_FILES_MAX = 20
VALUES_MAX = 65_536

Batches = Callable[[BinaryIO], Iterator[pa.RecordBatch]]


class RecordFiles:
    """The files that match some patterns. `batches`: the records of a file, as columns or as the column `_raw`;
    `shape_of`: what a file tells of them by its head."""

    def __init__(
        self,
        name: str,
        patterns: Sequence[Path | str],
        batches: Batches,
        shape_of: Callable[[BinaryIO], Shape] | None = None,
        settings: Settings = DEFAULTS,
    ) -> None:
        self.name = name
        self.settings = settings
        self.paths = matching([str(pattern) for pattern in patterns])
        if not self.paths:
            said = ", ".join(str(pattern) for pattern in patterns)
            raise MqlError(f'no file matches "{said}"', hint="Check the path.", code="no-such-source")
        self._batches = batches
        self._shape = Shape()
        for path in self.paths[:SHAPE_FILES_MAX] if shape_of is not None else ():
            with decompressed(path) as stream:
                assert shape_of is not None
                self._shape = widened(self._shape, shape_of(stream).fields)
        self._lengths: dict[Path, tuple[tuple[int, int], int]] = {}

    @property
    def info(self) -> SourceInfo:
        return describe(
            self.name,
            "file",
            replace(self._shape, version=1),
            self.settings,
            encoding="columns",
            bounded=True,
            history=True,
            splits=len(self.paths),
        )

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        since = (From() if start is None else start).positions or {}
        splits = range(task, len(self.paths), tasks)
        return StoredReader((item for split in splits for item in self._items(split, since, None)), splits, since)

    def end(self) -> Positions:
        return {split: self._length(path) for split, path in enumerate(self.paths)}

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        for split in range(part, len(self.paths), parts):
            yield from self._items(split, since.positions or {}, until)

    def sample(self, n: int) -> Sequence[bytes]:
        found: list[bytes] = []
        for item in self.history(From()):
            assert isinstance(item, Rows)
            table = item.table.slice(0, n - len(found)).drop_columns(["_offset"])
            if table.schema.names == ["_raw"]:
                found += table.column(0).to_pylist()
            else:
                found += json_rows(table)
            if len(found) >= n:
                break
        return tuple(found)

    def close(self) -> None:
        return

    def _items(self, split: int, since: Positions, until: Positions | None) -> Iterator[Raw]:
        first, last = since.get(split, 0), END if until is None else until.get(split, 0)
        path = self.paths[split]
        at, arrived = 0, path.stat().st_mtime_ns // 1000
        with decompressed(path) as stream:
            for batch in self._read(path, stream):
                rows = numbered(split, batch, at, arrived)
                at = rows.next_offset
                if at <= first:
                    continue
                if at - batch.num_rows >= last:
                    return
                piece = clip(rows, first, last)
                if isinstance(piece, Rows):
                    yield whole(piece)

    def _read(self, path: Path, stream: BinaryIO) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches(stream):
                if batch.num_rows:
                    yield batch
        except (ValueError, EOFError) as error:
            raise MqlError(f'file "{path}" cannot be read to its end: {error}', code="source-unreadable") from error

    def _length(self, path: Path) -> int:
        """How many records; the file is read for it once, as long as it stays the same."""
        state = path.stat()
        key = (state.st_size, state.st_mtime_ns)
        known = self._lengths.get(path)
        if known is None or known[0] != key:
            with decompressed(path) as stream:
                known = (key, sum(batch.num_rows for batch in self._read(path, stream)))
            self._lengths[path] = known
        return known[1]


def numbered(split: int, batch: pa.RecordBatch, first: int, arrival_us: int) -> Rows:
    """A batch whose rows are numbered from `first`; what its fields say of themselves is kept."""
    offsets = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
    schema = batch.schema.append(pa.field("_offset", pa.int64())).with_metadata(TYPED)
    table = pa.RecordBatch.from_arrays([*batch.columns, offsets], schema=schema)
    return Rows(split, table, arrival_us, first + batch.num_rows)


def whole(rows: Rows) -> Rows:
    """Columns that begin where their memory does, which nested ones must."""
    if all(column.offset == 0 for column in rows.table.columns):
        return rows
    return replace(rows, table=rows.table.take(pa.array(np.arange(rows.table.num_rows))))


def avro_batches(stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    """The records of an object container file."""
    batches: Iterator[pa.RecordBatch] = importlib.import_module("sources.formats.avro").container_reader(stream)[1]
    return batches


def avro_shape(stream: BinaryIO) -> Shape:
    return Shape(importlib.import_module("sources.formats.avro").container_reader(stream)[0].fields)


def avro_files(name: str, patterns: Sequence[Path | str], settings: Settings = DEFAULTS) -> RecordFiles:
    """Object container files. MqlError where their reader is not installed."""
    try:
        return RecordFiles(name, patterns, avro_batches, avro_shape, settings)
    except ModuleNotFoundError as error:
        hint = "pip install 'mql-streams[avro]'"
        raise MqlError(f"{error.name} is not installed", hint=hint, code="not-installed") from error


def cut_batches(format: str) -> Batches:
    """The values of a stream, which the module of the format cuts into those that are whole, and a rest."""

    def batches(stream: BinaryIO) -> Iterator[pa.RecordBatch]:
        cut = importlib.import_module(f"sources.formats.{format}").cut
        rest = b""
        while data := stream.read(READ_BYTES):
            values, rest = cut(rest + data)
            for at in range(0, len(values), VALUES_MAX):
                some: list[Any] = values[at : at + VALUES_MAX]
                yield pa.RecordBatch.from_pydict({"_raw": pa.array(some, pa.binary())})
        if rest:
            raise ValueError(f"its last record is cut off after {len(rest)} bytes")

    return batches
