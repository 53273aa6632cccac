"""Nested data as columns: Arrow arrays of any library in the few types that queries know, at every depth.

Bytes are base64 text. A map keeps its names: it stays an Arrow map, and is JSON for a query. What may be of several
types, refers to itself or has no names of its own is JSON text; such fields carry the mark `JSON_MARK`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.scan import JSON_MARK
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DECIMAL,
    DOUBLE,
    JSON,
    TIMESTAMP,
    VARCHAR,
    DataType,
    Field,
    ListOf,
    StructOf,
)
from sources.columns import cast_or_null

DEPTH_MAX = 8
SCALARS: tuple[tuple[pa.DataType, DataType], ...] = (
    (pa.bool_(), BOOLEAN),
    (pa.int64(), BIGINT),
    (pa.float64(), DOUBLE),
    (pa.decimal128(38, 10), DECIMAL),
    (pa.string(), VARCHAR),
    (pa.timestamp("us"), TIMESTAMP),
    (pa.date32(), DATE),
)


def json_field(name: str) -> pa.Field:
    return pa.field(name, pa.string(), metadata=JSON_MARK)


def plain_field(field: pa.Field, depth: int = 1) -> pa.Field:
    """What carries such a field."""
    type, types = field.type, pa.types
    if types.is_boolean(type):
        found = pa.bool_()
    elif types.is_uint64(type) or types.is_decimal(type):
        found = pa.decimal128(38, 10)
    elif types.is_integer(type) or types.is_duration(type):
        found = pa.int64()
    elif types.is_floating(type):
        found = pa.float64()
    elif types.is_timestamp(type):
        found = pa.timestamp("us")
    elif types.is_date(type):
        found = pa.date32()
    elif types.is_dictionary(type):
        return plain_field(field.with_type(type.value_type), depth)
    elif depth > DEPTH_MAX or types.is_union(type) or types.is_null(type) or is_json(field):
        return json_field(field.name)
    elif types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        found = pa.list_(plain_field(type.value_field.with_name("item"), depth))
    elif types.is_struct(type):
        if not distinct([child.name for child in type]):
            return json_field(field.name)
        found = pa.struct([plain_field(child, depth + 1) for child in type])
    elif types.is_map(type):
        found = pa.map_(pa.string(), plain_field(type.item_field.with_name("value"), depth + 1))
    else:
        found = pa.string()
    return pa.field(field.name, found)


def distinct(names: list[str]) -> bool:
    """Whether names can be a struct's: some, none empty, none with NUL, none like another but for letter case."""
    return (
        bool(names) and all(name and "\0" not in name for name in names) and len({*map(str.lower, names)}) == len(names)
    )


def is_json(field: pa.Field) -> bool:
    return (field.metadata or {}).items() >= JSON_MARK.items()


def data_type(field: pa.Field) -> DataType:
    """The type that a query sees for a plain field."""
    type = field.type
    if is_json(field) or pa.types.is_map(type):
        return JSON
    if pa.types.is_list(type):
        return ListOf(data_type(type.value_field))
    if pa.types.is_struct(type):
        return StructOf(tuple((child.name, data_type(child)) for child in type))
    return next((told for arrow, told in SCALARS if arrow.equals(type)), VARCHAR)


def shape_fields(fields: Iterable[pa.Field]) -> tuple[Field, ...]:
    """The plain fields as a shape has them."""
    return tuple(Field(field.name, data_type(field)) for field in fields)


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with plain columns only. ValueError (pa.ArrowInvalid is one) where an array is not what it says."""
    batch.validate(full=True)
    fields = [plain_field(field) for field in batch.schema]
    columns = [plain(column, field) for column, field in zip(batch.columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def plain(array: pa.Array, field: pa.Field) -> pa.Array:
    """An array as its plain field carries it."""
    types, target = pa.types, field.type
    if array.type.equals(target) and not types.is_nested(target):
        return array
    if types.is_dictionary(array.type):
        return plain(array.dictionary_decode(), field)
    if is_json(field):
        return json_texts(array)
    if array.offset:
        array = array.take(pa.array(np.arange(len(array))))
    if types.is_struct(target):
        children = [plain(child, inner) for child, inner in zip(array.flatten(), target, strict=True)]
        return pa.StructArray.from_arrays(children, fields=list(target), mask=array.is_null())
    if types.is_list(target):
        return plain_list(array, target)
    if types.is_map(target):
        return plain_map(array, target)
    if types.is_string(target):
        return texts(array)
    return cast_or_null(array, target)


def plain_list(array: pa.Array, target: pa.DataType) -> pa.Array:
    if not pa.types.is_list(array.type):
        array = array.cast(pa.list_(array.type.value_field))
    values = plain(array.values, target.value_field)
    return pa.ListArray.from_arrays(array.offsets, values, type=target, mask=array.is_null())


def plain_map(array: pa.Array, target: pa.DataType) -> pa.Array:
    """With texts as keys, each once: the last one counts, as in JSON."""
    keys = cast_or_null(array.keys, pa.string())
    if repeats(array.offsets, keys):
        rows = [
            None if row is None else list({str(key): value for key, value in row}.items()) for row in array.to_pylist()
        ]
        array = pa.array(rows, pa.map_(pa.string(), array.type.item_type))
        keys = array.keys
    items = plain(array.items, target.item_field)
    return pa.MapArray.from_arrays(array.offsets, keys, items, type=target, mask=array.is_null())


def repeats(offsets: pa.Array, keys: pa.Array) -> bool:
    """Whether a map has a key twice."""
    bounds = offsets.to_numpy()
    if len(keys) == 0 or int(np.diff(bounds).max(initial=0)) < 2:
        return False
    codes = pc.fill_null(keys.dictionary_encode().indices, -1).to_numpy().astype(np.int64)[bounds[0] : bounds[-1]]
    rows = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    return len(np.unique(rows * (int(codes.max(initial=0)) + 2) + codes)) < len(codes)


def texts(array: pa.Array) -> pa.Array:
    """An array of something like text; bytes are base64."""
    if (
        pa.types.is_binary(array.type)
        or pa.types.is_large_binary(array.type)
        or pa.types.is_fixed_size_binary(array.type)
    ):
        encoded = [None if one is None else base64.b64encode(one).decode() for one in array.to_pylist()]
        return pa.array(encoded, pa.string())
    return cast_or_null(array, pa.string())


def json_texts(array: pa.Array) -> pa.Array:
    """The array's values as JSON, one by one: for what is rare, or has no type."""
    return pa.array([json_text(value) for value in array.to_pylist(maps_as_pydicts="lossy")], pa.string())


def json_text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, default=lowered, option=orjson.OPT_NON_STR_KEYS).decode()


def lowered(value: Any) -> Any:
    """What JSON has no form for: bytes are base64, all else its text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def json_rows(batch: pa.RecordBatch) -> list[bytes]:
    """Each row as a JSON object."""
    marked = {field.name for field in batch.schema if is_json(field)}
    return [
        orjson.dumps(
            {
                name: orjson.Fragment(value) if name in marked and isinstance(value, str) else value
                for name, value in row.items()
            },
            default=lowered,
            option=orjson.OPT_NON_STR_KEYS,
        )
        for row in batch.to_pylist(maps_as_pydicts="lossy")
    ]


def as_json(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """The table with these columns as JSON texts."""
    for name in names:
        at = table.schema.get_field_index(name)
        if at >= 0 and not is_json(table.schema.field(at)):
            column = table.column(at)
            chunks = [json_texts(chunk) for chunk in column.chunks]
            table = table.set_column(at, json_field(name), pa.chunked_array(chunks, pa.string()))
    return table
