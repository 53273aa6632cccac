"""Result rows as bytes: JSON objects, CSV lines, Arrow batches.

In JSON a timestamp is RFC 3339 with Z, a duration is written as MQL writes it (`90s`), a decimal is a number of all
its digits, NaN and the infinities are null, bytes are base64. A column of type JSON is a JSON value, not a text.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

ROWS_PER_PIECE = 500
OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC | orjson.OPT_NON_STR_KEYS
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Look:
    """How values are written. `json`: columns whose texts are JSON values. `int64_text`: 64-bit integers as strings,
    for readers whose numbers are doubles."""

    json: frozenset[str] = frozenset()
    int64_text: bool = False


PLAIN = Look()


def look_of(columns: Iterable[tuple[str, str]], int64_text: bool = False) -> Look:
    """The look of a result with these columns (name, type)."""
    return Look(frozenset(name for name, type in columns if str(type).upper() == "JSON"), int64_text)


# --- JSON ----------------------------------------------------------------------------------------------


def dumps(value: Any) -> bytes:
    """Any value that a frame or an answer holds, as JSON on one line."""
    return orjson.dumps(value, default=unusual, option=OPTIONS)


def rows_inner(table: pa.Table, look: Look = PLAIN) -> tuple[bytes, ...]:
    """The rows as JSON objects with commas between, in pieces of at most 500 rows: what goes inside `[…]`."""
    return tuple(dumps(piece)[1:-1] for piece in pieces(rows_of(table, look)))


def rows_lines(table: pa.Table, look: Look = PLAIN) -> bytes:
    """The rows as JSON objects, each ended by a newline."""
    option = OPTIONS | orjson.OPT_APPEND_NEWLINE
    return b"".join([orjson.dumps(row, default=unusual, option=option) for row in rows_of(table, look)])


def rows_of(table: pa.Table, look: Look = PLAIN) -> list[dict[str, Any]]:
    """The rows as dicts of values that `dumps` can write."""
    names = table.column_names
    columns = [values_of(table.column(at), name, look) for at, name in enumerate(names)]
    if not columns:
        return [{} for _ in range(table.num_rows)]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def pieces(rows: list[dict[str, Any]], size: int = ROWS_PER_PIECE) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def values_of(column: pa.ChunkedArray, name: str, look: Look) -> list[Any]:
    """One column's values. Whole columns at a time where numpy can, else value by value."""
    kind = column.type
    if name in look.json and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return [None if text is None else json_value(text) for text in column.to_pylist()]
    if look.int64_text and kind in (pa.int64(), pa.uint64()):
        return list(column.cast(pa.string()).to_pylist())
    if pa.types.is_timestamp(kind):
        return each_distinct(column, moments)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return numbers(column)
    if pa.types.is_nested(kind):
        if holds_moments(kind):
            return [plain(value) for value in column.to_pylist(maps_as_pydicts="lossy")]
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    return list(column.to_pylist())


def numbers(column: pa.ChunkedArray) -> list[Any]:
    if column.null_count:
        return list(column.to_pylist())
    return list(np.asarray(column).tolist())


def each_distinct(column: pa.ChunkedArray, convert: Callable[[pa.Array], list[Any]]) -> list[Any]:
    """The column with each different value converted once: a window's borders are the same in all of its rows."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    converted = convert(encoded.dictionary)
    converted.append(None)
    indices = pc.fill_null(encoded.indices, len(converted) - 1).to_numpy(zero_copy_only=False).tolist()
    return [converted[at] for at in indices]


def moments(values: pa.Array) -> list[Any]:
    """Timestamps as texts. Beyond the year 9999, as Arrow writes them."""
    texts: list[Any] = []
    for value in values.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist():
        texts.append(moment(value))
    return texts


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(us: int | None) -> str | None:
    """Microseconds since the epoch as RFC 3339 with Z; outside of the years 1 to 9999, as a number in a text."""
    if us is None:
        return None
    try:
        at = EPOCH + timedelta(microseconds=us)
    except OverflowError:
        return str(us)
    return at.isoformat().replace("+00:00", "Z")


def holds_moments(kind: pa.DataType) -> bool:
    """Whether a nested type has timestamps in it that orjson would have to be shown."""
    if pa.types.is_nested(kind):
        return any(holds_moments(kind.field(at).type) for at in range(kind.num_fields))
    return bool(pa.types.is_timestamp(kind) and kind.unit == "ns")


def plain(value: Any) -> Any:
    """A nested value without types that only pyarrow or pandas know."""
    match value:
        case dict():
            return {name: plain(inner) for name, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return value


def json_value(text: str) -> Any:
    """A JSON text as the value it is: unchanged where it is strict JSON on one line, else as a text."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if "\n" in text or "\r" in text else orjson.Fragment(text)


def unusual(value: Any) -> Any:
    """What orjson does not write by itself."""
    match value:
        case Decimal():
            return orjson.Fragment(str(value)) if value.is_finite() else None
        case timedelta():
            return duration(value // timedelta(microseconds=1))
        case pa.MonthDayNano():
            return interval(value)
        case bytes() | memoryview():
            return base64.b64encode(value).decode()
        case tuple() | set() | frozenset():
            return list(value)
        case Mapping():
            return dict(value)
        case pa.Scalar():
            return value.as_py()
        case _:
            return str(value)


UNITS = (
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
)


def duration(us: int) -> str:
    """A duration in the largest unit that holds it exactly: `90s`, `5m`, `250ms`."""
    if us == 0:
        return "0s"
    return next(f"{us // size}{unit}" for unit, size in UNITS if us % size == 0)


def interval(value: Any) -> str:
    """A calendar interval: months and days are not so many seconds, so each part is written: `1mo 2d 3h`."""
    parts = [f"{value.months}mo"] if value.months else []
    parts += [f"{value.days}d"] if value.days else []
    if value.nanoseconds or not parts:
        parts.append(duration(value.nanoseconds // 1000))
    return " ".join(parts)


# --- CSV -----------------------------------------------------------------------------------------------


def csv_header(names: Sequence[str]) -> bytes:
    return csv_lines([[guarded(name) for name in names]])


def csv_rows(table: pa.Table, look: Look = PLAIN) -> bytes:
    """The rows as CSV lines without a header."""
    names = table.column_names
    columns = [[csv_cell(value) for value in values_of(table.column(at), name, look)] for at, name in enumerate(names)]
    return csv_lines(zip(*columns, strict=True))


def csv_lines(rows: Iterable[Iterable[str | None]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def csv_cell(value: Any) -> str | None:
    """A cell. A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers do not."""
    match value:
        case None:
            return None
        case str():
            return guarded(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if np.isfinite(value) else None
        case Decimal():
            return str(value)
        case orjson.Fragment():
            inner = orjson.loads(orjson.dumps(value))
            return csv_cell(inner) if not isinstance(inner, (dict, list)) else orjson.dumps(value).decode()
        case datetime() | date() | time() | timedelta() | pa.MonthDayNano() | bytes():
            return dumps(value).decode().strip('"')
        case _:
            return guarded(dumps(value).decode())


def guarded(text: str) -> str:
    return "'" + text if text.startswith(FORMULA_STARTS) else text


# --- Arrow ---------------------------------------------------------------------------------------------


class ArrowStream:
    """An Arrow IPC stream, taken out piece by piece. The first table tells the schema; later ones are cast to it."""

    def __init__(self) -> None:
        self.sink = io.BytesIO()
        self.writer: pa.ipc.RecordBatchStreamWriter | None = None

    def begin(self, schema: pa.Schema) -> None:
        self.writer = pa.ipc.new_stream(self.sink, schema)
        self.schema = schema

    def add(self, tables: Sequence[pa.Table]) -> None:
        """Tables as one batch."""
        if self.writer is None:
            self.begin(tables[0].schema.remove_metadata())
        assert self.writer is not None
        table = pa.concat_tables([table.replace_schema_metadata().cast(self.schema) for table in tables])
        for batch in table.combine_chunks().to_batches():
            self.writer.write_batch(batch)

    def end(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def drain(self) -> bytes:
        """What was written since the last call."""
        data = self.sink.getvalue()
        self.sink.seek(0)
        self.sink.truncate()
        return data


ARROW_TYPES: Mapping[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "INTERVAL": pa.month_day_nano_interval(),
    "NULL": pa.null(),
}


TYPE_NAMES: Mapping[pa.DataType, str] = {kind: name for name, kind in ARROW_TYPES.items() if name != "JSON"}


def columns_of(table: pa.Table, known: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """The table's columns with their types: as known, else by their Arrow types. Known ones come even without rows."""
    types = dict(known)
    for each in table.schema:
        types.setdefault(each.name, TYPE_NAMES.get(each.type, str(each.type)))
    return list(types.items())


def schema_of(columns: Iterable[tuple[str, str]]) -> pa.Schema:
    """The Arrow schema of a result that had no rows; a nested type is told as text."""
    return pa.schema([(name, ARROW_TYPES.get(str(type), pa.string())) for name, type in columns])
