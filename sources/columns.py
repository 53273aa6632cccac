"""Arrow columns of any origin, brought to the few types that queries know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import Rows
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
    Scalar,
    Shape,
    StructOf,
)

OFFSET_FIELD = pa.field("_offset", pa.int64())
SCALARS: tuple[tuple[Scalar, pa.DataType], ...] = (
    (BOOLEAN, pa.bool_()),
    (BIGINT, pa.int64()),
    (DOUBLE, pa.float64()),
    (DECIMAL, pa.decimal128(38, 10)),
    (VARCHAR, pa.string()),
    (TIMESTAMP, pa.timestamp("us")),
    (DATE, pa.date32()),
    (JSON, pa.string()),
)


def rows_of(split: int, batch: pa.RecordBatch, first: int, arrival_us: int) -> Rows:
    """A batch of plain columns as what a source gives: its rows numbered from `first`."""
    offsets = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
    table = pa.RecordBatch.from_arrays([*batch.columns, offsets], [*batch.schema.names, "_offset"])
    return Rows(split, table, arrival_us, first + batch.num_rows)


def shape_of(schema: pa.Schema) -> Shape:
    """The shape of columns; `_offset` and the other columns of the envelope are not part of it."""
    return Shape(tuple(Field(field.name, type_of(field.type)) for field in schema if field.name not in ENVELOPE))


ENVELOPE = ("_offset", "_time", "_split", "_arrival")


def type_of(arrow: pa.DataType) -> DataType:
    """The type that a query sees for an Arrow type. What has no near kin is text."""
    types = pa.types
    if types.is_boolean(arrow):
        return BOOLEAN
    if types.is_uint64(arrow):
        return DECIMAL
    if types.is_integer(arrow) or types.is_duration(arrow):
        return BIGINT
    if types.is_floating(arrow):
        return DOUBLE
    if types.is_decimal(arrow):
        return DECIMAL
    if types.is_timestamp(arrow):
        return TIMESTAMP
    if types.is_date(arrow):
        return DATE
    if types.is_dictionary(arrow):
        return type_of(arrow.value_type)
    if types.is_list(arrow) or types.is_large_list(arrow) or types.is_fixed_size_list(arrow):
        return ListOf(type_of(arrow.value_type))
    if types.is_struct(arrow):
        return StructOf(tuple((field.name, type_of(field.type)) for field in arrow))
    if types.is_map(arrow):
        return ListOf(StructOf((("key", type_of(arrow.key_type)), ("value", type_of(arrow.item_type)))))
    return VARCHAR


def arrow_of(type: DataType) -> pa.DataType:
    """The Arrow type that carries a type of the language."""
    match type:
        case ListOf(item):
            return pa.list_(arrow_of(item))
        case StructOf(fields):
            return pa.struct([pa.field(name, arrow_of(inner)) for name, inner in fields])
        case Scalar():
            return next((arrow for scalar, arrow in SCALARS if scalar == type), pa.string())


def conform(batch: pa.RecordBatch, fields: Sequence[Field]) -> pa.RecordBatch:
    """The batch with exactly these columns in these types: missing ones null, values that do not fit null."""
    columns = [column_as(batch, field) for field in fields]
    schema = pa.schema([pa.field(field.name, arrow_of(field.type)) for field in fields])
    if not columns:
        return batch.select([])
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def column_as(batch: pa.RecordBatch, field: Field) -> pa.Array:
    target = arrow_of(field.type)
    at = batch.schema.get_field_index(field.name)
    if at < 0:
        return pa.nulls(batch.num_rows, target)
    return cast_or_null(batch.column(at), target)


def cast_or_null(column: pa.Array, target: pa.DataType) -> pa.Array:
    """The column in another type; what can't be read as that type is null."""
    if column.type.equals(target):
        return column
    if pa.types.is_timestamp(column.type) and pa.types.is_timestamp(target):
        return pc.cast(column, target, safe=False)
    if pa.types.is_map(column.type):
        column = list_of_pairs(column)
    try:
        return pc.cast(column, target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return cast_one_by_one(column, target)


def list_of_pairs(column: pa.Array) -> pa.Array:
    """A map as a list of structs `{key, value}`."""
    pairs = pa.StructArray.from_arrays([column.keys, column.items], ["key", "value"])
    lists = pa.ListArray.from_arrays(column.offsets, pairs)
    return pc.if_else(column.is_valid(), lists, pa.scalar(None, lists.type)) if column.null_count else lists


def cast_one_by_one(column: pa.Array, target: pa.DataType) -> pa.Array:
    """The slow way, for the rare batch that holds a value which does not fit."""
    distinct = pc.dictionary_encode(column) if pa.types.is_string(column.type) else None
    if distinct is None:
        return pa.concat_arrays([cast_value(column[at : at + 1], target) for at in range(len(column))])
    values = distinct.dictionary
    fitting = pa.concat_arrays([cast_value(values[at : at + 1], target) for at in range(len(values))])
    return fitting.take(distinct.indices)


def cast_value(value: pa.Array, target: pa.DataType) -> pa.Array:
    try:
        return pc.cast(value, target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(1, target)
