"""A source whose values are in a format of their own, before it: the same events, as columns.

The source under it gives bytes (`_raw`, binary) or lines, and what it archives is those. So live reading, history and
the archive are decoded by the same code, each event with the schema that it names itself.

    broker -> KafkaSource -> RecordedSource (bytes on disk) -> FormattedSource -> the hub
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader, Source
from mql.exec.items import Chunk, Raw, Rows
from mql.exec.scan import JSON_MARK, TYPED
from mql.schema import JSON, Field, Shape, StructOf
from sources.archive import RecordedSource
from sources.formats.framed import Framed
from sources.formats.nested import json_rows
from sources.formats.values import Format, Unavailable, Values
from sources.learning import LEARN_PER_CHUNK, Learner
from sources.pieces import first_of, lines_of
from sources.settings import DEFAULTS, Settings, describe

LEARN_EVENTS = 1_000
LEARN_AGAIN_S = 5.0
LOOK_PAUSE = 20.0  # while nothing is found, so many times as long as a look took until the next one
AWAY_MAX_S = 30.0
RETRY_S = 0.25
OWN = ("_raw", "_offset", "_time", "_split", "_arrival", "_reason", "_unread")
"""Names of ours: a property that is called so is left out."""
KEY = "_kafka_key"


class FormattedSource:
    """`source` in `format`. `key_format`: of the messages' keys, where the source gives them."""

    def __init__(
        self,
        source: Source,
        format: Format,
        settings: Settings = DEFAULTS,
        *,
        key_format: Format | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.source = source
        self.format = format
        self.key_format = key_format
        self.settings = settings
        self.clock = clock or SystemClock()
        self._learner = Learner(open=settings.open)
        self._look_again_s = -math.inf
        self._seen = False
        self._looking = threading.Lock()

    @property
    def info(self) -> SourceInfo:
        inner = self.source.info
        shape = self._known()
        told = describe(inner.name, inner.kind, shape, self.settings, encoding=self.format.encoding)
        envelope = tuple(self._envelope(one) for one in inner.envelope)
        beside = tuple(one for one in envelope if told.shape.field(one.name) is None)
        return replace(
            told,
            shape=replace(told.shape, fields=(*told.shape.fields, *beside)),
            bounded=inner.bounded,
            history=inner.history,
            splits=inner.splits,
            envelope=envelope,
        )

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        return FormattedReader(self, self.source.open(start, task, tasks))

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
        """Unavailable where what is needed to read stays away for longer than `AWAY_MAX_S`."""
        for raw in self.source.history(since, until, part, parts):
            yield self._patiently(raw)

    def sample(self, n: int) -> Sequence[bytes]:
        values = self.source.sample(n)
        if not values:
            return ()
        try:
            found = self.format.read(pa.array(values, pa.binary())).columns
        except Unavailable:
            return ()
        if self.format.encoding == "json":
            return tuple(text.encode() for text in found.column("_raw").to_pylist())
        return tuple(json_rows(found))

    def close(self) -> None:
        self.source.close()

    def read(self, raw: Raw) -> Rows:
        """What the source gave, in columns. Unavailable leaves it to be read later."""
        rows = as_values(raw)
        found = self.format.read(rows.table.column("_raw"))
        if self._learns:
            self._learn(found.columns.column("_raw").slice(0, LEARN_PER_CHUNK).to_pylist())
        keys = None
        at = rows.table.schema.get_field_index(KEY)
        if self.key_format is not None and at >= 0:
            keys = keys_of(self.key_format, rows.table.column(at))
        return put_together(rows, found, keys, self.format.encoding)

    def _patiently(self, raw: Raw) -> Rows:
        """For a reading that nobody can tell to wait: tries again for a while."""
        began_s = self.clock.monotonic_s()
        pause = threading.Event()
        while True:
            try:
                return self.read(raw)
            except Unavailable:
                if self.clock.monotonic_s() - began_s > AWAY_MAX_S:
                    raise
                pause.wait(RETRY_S)

    def _envelope(self, field: Field) -> Field:
        if field.name != KEY or self.key_format is None:
            return field
        return key_field(self.key_format.shape)

    def _known(self) -> Shape:
        """The format's shape, or what the newest events tell, where only they can."""
        shape = self.format.shape
        if self._learns:
            self._looked(bool(self._learner.shape.fields))
            shape = self._learner.shape
        elif isinstance(self.format, Framed):
            self._looked(self._seen)
            shape = self.format.shape
        fields = tuple(field for field in shape.fields if field.name not in OWN)
        empty = not fields and self.settings.shape is None
        return replace(shape, fields=fields, open=shape.open or empty)

    @property
    def _learns(self) -> bool:
        """Only events tell what the shape is."""
        return self.format.encoding == "json" and not self.format.shape.fields

    def _looked(self, known: bool) -> None:
        """A look at the newest events, while their shapes, or schemas that nobody told of, are not `known`."""
        with self._looking:
            now = self.clock.monotonic_s()
            if known or now < self._look_again_s:
                return
            with contextlib.suppress(OSError, MqlError):
                texts = self.sample(LEARN_EVENTS)
                self._seen = bool(texts)
                if self._learns:
                    self._learn([text.decode() for text in texts])
            self._look_again_s = now + min(LEARN_AGAIN_S, LOOK_PAUSE * (self.clock.monotonic_s() - now))

    def _learn(self, texts: Sequence[str]) -> None:
        if texts:
            self._learner.see(Chunk(0, "".join(f"{text}\n" for text in texts).encode(), 0, 0))


def origin_of(source: Source) -> Source:
    """The source itself, without what stands before it: its format, its recorder."""
    while isinstance(source, FormattedSource | RecordedSource):
        source = source.source
    return source


class FormattedReader:
    """Reads the source under it, and holds what can't be decoded while its schema can't be had: then it gives nothing,
    and says why."""

    def __init__(self, source: FormattedSource, reader: Reader) -> None:
        self._source = source
        self._reader = reader
        self._held: list[Raw] = []
        self._done: list[Rows] = []
        self._away: str | None = None
        self._positions = dict(reader.positions)
        self._pause = threading.Event()

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        if not self._held:
            self._held = list(self._reader.poll(timeout_s, max_bytes))
        while self._held:
            try:
                self._done.append(self._source.read(self._held[0]))
            except Unavailable as away:
                self._away = str(away)
                if not self._done:
                    self._pause.wait(timeout_s)
                break
            self._away = None
            self._held.pop(0)
        given, self._done = self._done, []
        self._positions = dict(self._reader.positions) | {raw.split: first_of(raw) for raw in reversed(self._held)}
        return given

    @property
    def splits(self) -> tuple[int, ...]:
        return self._reader.splits

    @property
    def positions(self) -> Positions:
        return self._positions

    @property
    def ended(self) -> bool:
        return self._reader.ended and not self._held

    @property
    def trouble(self) -> str | None:
        return self._away or self._reader.trouble

    def close(self) -> None:
        self._pause.set()
        self._reader.close()


# --- putting together --------------------------------------------------------------------------------


def as_values(raw: Raw) -> Rows:
    """Events as a binary column `_raw`."""
    match raw:
        case Chunk():
            lines, offsets = lines_of(raw)
            bare = pc.ascii_rtrim(lines, "\r\n").cast(pa.large_binary())
            table = pa.RecordBatch.from_pydict({"_raw": bare, "_offset": pa.array(offsets)})
            return as_values(Rows(raw.split, table, raw.arrival_us, raw.next_offset))
        case Rows():
            at = raw.table.schema.get_field_index("_raw")
            column = raw.table.column(at)
            if column.type.equals(pa.binary()):
                return raw
            return replace(raw, table=raw.table.set_column(at, "_raw", column.cast(pa.binary())))


def keys_of(format: Format, keys: pa.Array) -> Values:
    """The keys as one column; of a message without a key it is null."""
    some = np.flatnonzero(keys.is_valid().to_numpy(zero_copy_only=False))
    found = format.read(keys.drop_null())
    columns = found.columns
    if columns.num_columns == 1:
        field, column = columns.schema.field(0).with_name(KEY), columns.column(0)
    else:
        field = pa.field(KEY, pa.struct(list(columns.schema)))
        column = pa.StructArray.from_arrays(columns.columns, fields=list(columns.schema))
    bad = {int(some[at]): f"its key: {reason}" for at, reason in found.bad.items()}
    good = np.delete(some, list(found.bad))
    spread = column.take(places(good, len(keys)))
    return Values(pa.RecordBatch.from_arrays([spread], schema=pa.schema([field])), bad)


def key_field(shape: Shape) -> Field:
    """The property that the keys are: the one that they consist of, or an object of theirs."""
    if not shape.fields:
        return Field(KEY, JSON)
    if len(shape.fields) == 1:
        return replace(shape.fields[0], name=KEY)
    return Field(KEY, StructOf(tuple((field.name, field.type) for field in shape.fields)))


def places(good: np.ndarray[Any, np.dtype[Any]], count: int) -> pa.Array:
    """For each of `count` rows which of the readable ones it is; null for the others."""
    numbers = np.zeros(count, np.int64)
    numbers[good] = np.arange(len(good))
    missing = np.ones(count, np.bool_)
    missing[good] = False
    return pa.array(numbers, mask=missing)


def put_together(rows: Rows, found: Values, keys: Values | None, encoding: str) -> Rows:
    """The decoded columns beside what came with the events; where some could not be read, with the reasons."""
    count = rows.table.num_rows
    reasons = dict(found.bad) | ({} if keys is None else dict(keys.bad))
    good = np.delete(np.arange(count), list(found.bad))
    columns: dict[str, tuple[pa.Field, pa.Array]] = {}
    for field, column in zip(found.columns.schema, found.columns.columns, strict=True):
        if field.name not in OWN or encoding == "json":
            whole = column if not found.bad else column.take(places(good, count))
            columns[field.name] = (field, whole)
    for field, column in zip(rows.table.schema, rows.table.columns, strict=True):
        if field.name != "_raw" and field.name not in columns:
            marked = field.with_metadata(JSON_MARK) if field.name == "_kafka_headers" else field
            columns[field.name] = (marked, column)
    if keys is not None:
        columns[KEY] = (keys.columns.schema.field(0), keys.columns.column(0))
    if reasons:
        columns |= unread(reasons, rows.table.column("_raw"))
    schema = pa.schema([field for field, _ in columns.values()], metadata=TYPED)
    table = pa.RecordBatch.from_arrays([column for _, column in columns.values()], schema=schema)
    return replace(rows, table=table)


def unread(reasons: Mapping[int, str], values: pa.Array) -> dict[str, tuple[pa.Field, pa.Array]]:
    count = len(values)
    bad = np.fromiter(reasons, np.int64, len(reasons))
    why = pa.array(list(reasons.values()), pa.string()).take(places(bad, count))
    bytes_ = values.take(pa.array(np.arange(count), mask=~np.isin(np.arange(count), bad)))
    return {
        "_reason": (pa.field("_reason", pa.string()), why),
        "_unread": (pa.field("_unread", pa.binary()), bytes_),
    }
