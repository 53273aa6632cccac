"""What a format is: it reads the bytes of many events at once, and says which of them it could not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from mql.schema import Field, Shape

T = TypeVar("T")

REASON_BYTES_MAX = 200


class Unavailable(ConnectionError):
    """What is needed to read a value can't be had just now (a schema registry is away); the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Values:
    """The events that could be read, in their order, as columns; and why the others could not, by their number.

    For the encoding `json` the one column is `_raw`, the event as a JSON text.
    """

    columns: pa.RecordBatch
    bad: Mapping[int, str] = field(default_factory=dict)


class Format(Protocol):
    """Reads values. Thread-safe.

    `encoding`: `columns`, or `json` for formats that describe themselves. `shape` is what is known without an event,
    and may grow; it is empty where only events tell.
    """

    encoding: str

    @property
    def shape(self) -> Shape: ...

    def read(self, values: pa.BinaryArray) -> Values:
        """Unavailable where it can't be told now; then nothing has been read."""
        ...


class Reader(Protocol):
    """Reads values that were all written with one schema."""

    @property
    def fields(self) -> tuple[Field, ...]: ...

    def read(self, values: list[bytes]) -> pa.RecordBatch:
        """All of them; ValueError where one can't be read."""
        ...

    def check(self, values: list[bytes]) -> None:
        """The same ValueError, as cheap as it can be had."""
        ...


class Single:
    """The format of values that were all written with the one schema that was declared."""

    def __init__(self, reader: Reader, encoding: str = "columns") -> None:
        self.encoding = encoding
        self.shape = Shape(reader.fields)
        self.reader = reader

    def read(self, values: pa.BinaryArray) -> Values:
        return isolated(values.to_pylist(), self.reader)


def isolated(values: list[bytes], reader: Reader) -> Values:
    """What can be read of the values: where all of them at once fail, halves are tried, down to the bad ones."""
    try:
        return Values(reader.read(values))
    except ValueError as error:
        if len(values) == 1:
            return Values(reader.read([]), {0: reason_of(error)})
    bad: dict[int, str] = {}
    spans = [(0, len(values) // 2), (len(values) // 2, len(values))]
    while spans:
        start, end = spans.pop()
        try:
            reader.check(values[start:end])
        except ValueError as error:
            if end - start == 1:
                bad[start] = reason_of(error)
            else:
                middle = (start + end) // 2
                spans += [(start, middle), (middle, end)]
    return Values(reader.read([value for at, value in enumerate(values) if at not in bad]), dict(sorted(bad.items())))


def without_panic(call: Callable[..., T], *given: Any) -> T:
    """What a library in Rust gives; its panic is no end of the process, but a value that can't be read."""
    try:
        return call(*given)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"its decoder gave up: {error}") from error


def reason_of(error: BaseException) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= REASON_BYTES_MAX else said[: REASON_BYTES_MAX - 1] + "…"


def merged(parts: Sequence[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Values]], count: int) -> Values:
    """Values that were read in groups, in the order of all: each group with the numbers of its events."""
    if len(parts) == 1 and len(parts[0][0]) == count:
        return parts[0][1]
    bad: dict[int, str] = {}
    places: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for numbers, values in parts:
        bad |= {int(numbers[at]): reason for at, reason in values.bad.items()}
        places.append(np.delete(numbers, list(values.bad)))
    table = united([values.columns for _, values in parts])
    order = np.argsort(np.concatenate(places), kind="stable")
    return Values(batch_of(table.take(pa.array(order))), dict(sorted(bad.items())))


def united(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """Batches one after the other; a column that has unlike types in them becomes JSON, missing ones are null."""
    from sources.formats.nested import as_json

    tables = [pa.Table.from_batches([batch]) for batch in batches]
    types: dict[str, set[str]] = {}
    for table in tables:
        for each in table.schema:
            types.setdefault(each.name, set()).add(f"{each.type} {each.metadata}")
    unlike = [name for name, found in types.items() if len(found) > 1]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        return pa.concat_tables([as_json(table, unlike) for table in tables], promote_options="default")


def batch_of(table: pa.Table) -> pa.RecordBatch:
    """The table as one batch without offsets inside (which not all that read batches understand)."""
    columns = [column.combine_chunks() for column in table.columns]
    arrays = [one.chunk(0) if isinstance(one, pa.ChunkedArray) and one.num_chunks else one for one in columns]
    arrays = [
        pa.array([], each.type) if isinstance(one, pa.ChunkedArray) else one
        for one, each in zip(arrays, table.schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)
