"""Values in the registry's wire format: a zero byte, the schema's number in four bytes, and the value.

Each value is read with the schema that it was written with, so a new schema in mid-stream is no event of its own: its
columns join the shape when they are first seen, and older events have null there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.errors import MqlError
from mql.learn import wider
from mql.schema import Field, Shape
from sources.formats.registry import Registered, Registry, Unknown
from sources.formats.values import Reader, Unavailable, Values, isolated, merged, reason_of

HEAD_BYTES = 5
READERS_MAX = 200

Key = tuple[int, tuple[int, ...]]
"""A schema's number and, for Protobuf, which of its messages."""


class Framed:
    """The format of values that name their schema.

    `kind`: what schemas are taken (AVRO, PROTOBUF, JSON). `compiled`: makes a reader of one. `subject`: whose newest
    schema tells the shape before the first event came. `path_of`: which of a schema's messages a value is, and where
    it begins; `main_path`: which of them tells the shape.
    """

    def __init__(
        self,
        registry: Registry,
        kind: str,
        subject: str | None,
        compiled: Callable[[Registered, tuple[int, ...]], Reader],
        path_of: Callable[[bytes, int], tuple[tuple[int, ...], int]] | None = None,
        main_path: Callable[[Registered], tuple[int, ...]] = lambda schema: (),
        encoding: str = "columns",
    ) -> None:
        self.encoding = encoding
        self._registry = registry
        self._kind = kind
        self._subject = subject
        self._compiled = compiled
        self._path_of = path_of
        self._main_path = main_path
        self._readers: dict[Key, Reader | str] = {}
        self._shape = Shape(version=0)
        self._told: int | None = None
        self._guard = threading.RLock()

    @property
    def shape(self) -> Shape:
        """What the subject's newest schema tells, and those of the events that came."""
        if self._subject is not None:
            with contextlib.suppress(Unavailable, Unknown, MqlError):
                newest = self._registry.latest(self._subject)
                if newest != self._told:
                    self._told = newest
                    self._reader((newest, self._main_path(self._registry.schema(newest))))
        with self._guard:
            return replace(self._shape, version=max(1, self._shape.version))

    def read(self, values: pa.BinaryArray) -> Values:
        given = values.to_pylist()
        groups, bad = self._grouped(values, given)
        readers = {key: self._reader(key) for key in groups}  # all, or Unavailable before any value is read
        parts = []
        for key, (numbers, starts) in groups.items():
            reader = readers[key]
            if isinstance(reader, str):
                bad |= dict.fromkeys(numbers.tolist(), reader)
                continue
            bodies = [given[at][start:] for at, start in zip(numbers.tolist(), starts, strict=True)]
            parts.append((numbers, isolated(bodies, reader)))
        if not parts:
            none = {"_raw": pa.array([], pa.string())} if self.encoding == "json" else {}
            return Values(pa.RecordBatch.from_pydict(none), bad)
        found = merged(parts, len(given))
        return Values(found.columns, dict(sorted((bad | dict(found.bad)).items())))

    def _grouped(
        self, values: pa.BinaryArray, given: list[bytes]
    ) -> tuple[dict[Key, tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[int]]], dict[int, str]]:
        """The values by schema: their numbers, and where in each the value itself begins; and those without one."""
        bad: dict[int, str] = {}
        sizes = pc.binary_length(values).to_numpy(zero_copy_only=False)
        heads = pc.binary_slice(values, 0, HEAD_BYTES).to_pylist()
        joined = b"".join(head if len(head) == HEAD_BYTES else b"\xff" * HEAD_BYTES for head in heads)
        table = np.frombuffer(joined, np.uint8).reshape(-1, HEAD_BYTES)
        ids = table[:, 1:].copy().view(">u4").reshape(-1).astype(np.int64)
        framed = (table[:, 0] == 0) & (sizes >= HEAD_BYTES)
        for at in np.flatnonzero(~framed).tolist():
            bad[at] = "it names no schema: the first byte is not 0" if sizes[at] else "empty"
        groups: dict[Key, tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[int]]] = {}
        for id in dict.fromkeys(ids[framed].tolist()):
            numbers = np.flatnonzero(framed & (ids == id))
            if self._path_of is None:
                groups[id, ()] = (numbers, [HEAD_BYTES] * len(numbers))
                continue
            paths: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
            for at in numbers.tolist():
                try:
                    path, start = self._path_of(given[at], HEAD_BYTES)
                except ValueError as error:
                    bad[at] = f"it names no message: {error}"
                    continue
                found = paths.setdefault(path, ([], []))
                found[0].append(at)
                found[1].append(start)
            for path, (places, starts) in paths.items():
                groups[id, path] = (np.array(places, np.int64), starts)
        return groups, bad

    def _reader(self, key: Key) -> Reader | str:
        """The reader of a schema, or why there is none for it. What is known is never waited for."""
        found = self._readers.get(key)
        if found is not None:
            return found
        id, path = key
        try:
            registered = self._registry.schema(id)
        except Unknown as unknown:
            return reason_of(unknown)  # it may come: asked for again
        with self._guard:
            if key in self._readers:
                return self._readers[key]
            made: Reader | str
            if registered.kind != self._kind:
                made = f"schema {id} is {registered.kind}, not {self._kind}"
            else:
                try:
                    made = self._compiled(registered, path)
                    self._shape = widened(self._shape, made.fields)
                except (MqlError, ValueError) as error:
                    said = error.message if isinstance(error, MqlError) else str(error)
                    made = reason_of(ValueError(f"schema {id}: {said}"))
            if len(self._readers) >= READERS_MAX:
                self._readers.pop(next(iter(self._readers)))
            self._readers[key] = made
            return made


def widened(shape: Shape, fields: tuple[Field, ...]) -> Shape:
    """The shape with these fields too; where types are unlike, it is JSON."""
    known: dict[str, Field] = {field.name: field for field in shape.fields}
    for field in fields:
        before = known.get(field.name)
        known[field.name] = field if before is None else Field(field.name, wider(before.type, field.type))
    found = tuple(known.values())
    return shape if found == shape.fields else Shape(found, shape.open, shape.version + 1)
