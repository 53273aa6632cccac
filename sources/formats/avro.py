"""Avro: binary records of a schema that is known beside them, and object container files.

Most schemas are read by pyruhvro, which fills Arrow columns in Rust (about 3 M events/s); it has no bytes, fixed and
decimal, and no records inside of themselves: those schemas are read by fastavro, one event after the other (0.08 M/s).
"""

from __future__ import annotations

import base64
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, BinaryIO

import fastavro
import pyarrow as pa
import pyruhvro
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException

from mql.errors import MqlError
from mql.schema import Field
from sources.columns import cast_or_null
from sources.formats.nested import DEPTH_MAX, distinct, json_field, json_text, plain_batch, plain_field, shape_fields
from sources.formats.values import without_panic

VALUE = "value"  # the column of events that are no records
SCHEMA_BYTES_MAX = 1 << 20
SWIFT_SCALARS = ("null", "boolean", "int", "long", "float", "double", "string", "enum")
SWIFT_LOGICAL = (None, "date", "timestamp-millis", "timestamp-micros")
ARROW_SCALARS: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int64(),
    "long": pa.int64(),
    "float": pa.float64(),
    "double": pa.float64(),
    "string": pa.string(),
    "enum": pa.string(),
    "bytes": pa.string(),
    "fixed": pa.string(),
}
ARROW_LOGICAL: Mapping[str, pa.DataType] = {
    "date": pa.date32(),
    "timestamp-millis": pa.timestamp("us"),
    "timestamp-micros": pa.timestamp("us"),
    "local-timestamp-millis": pa.timestamp("us"),
    "local-timestamp-micros": pa.timestamp("us"),
    "time-millis": pa.string(),
    "time-micros": pa.string(),
    "decimal": pa.decimal128(38, 10),
}


class AvroReader:
    """Reads records of one schema. `references`: the schemas that it names, those that others name first."""

    def __init__(self, schema: str | Mapping[str, Any] | Sequence[Any], references: Sequence[str] = ()) -> None:
        named: dict[str, Any] = {}
        try:
            said: Any = json.loads(schema) if isinstance(schema, str) else schema
            for reference in references:
                fastavro.parse_schema(json.loads(reference), named_schemas=named)
            parsed: Any = fastavro.parse_schema(said, named_schemas=named, expand=False)
        except (SchemaParseException, ValueError, KeyError, TypeError, RecursionError) as error:
            raise unusable(error) from error
        self._is_record = isinstance(parsed, dict) and parsed.get("type") in ("record", "error")
        self.parsed: Any = parsed if self._is_record else wrapped(parsed)
        self._named = named
        check_bounded(self.parsed, named)
        own = (name_of(self.parsed),)
        self.columns = tuple(arrow_field(each["name"], each["type"], named, own) for each in self.parsed["fields"])
        self.fields: tuple[Field, ...] = shape_fields(self.columns)

    @property
    def is_swift(self) -> bool:
        """Whether columns are filled without a Python object an event."""
        return self._swift is not None

    @cached_property
    def _swift(self) -> str | None:
        if not self.columns or not is_swift(self.parsed, self._named, ()):
            return None
        return json.dumps(inlined(self.parsed, self._named, set()))

    def read(self, values: list[bytes]) -> pa.RecordBatch:
        if self._swift is None:
            return self._of_records([self._record(io.BytesIO(value)) for value in values])
        if not values:
            return self._empty()
        return self._conformed(plain_batch(without_panic(pyruhvro.deserialize_array, values, self._swift)))

    def check(self, values: list[bytes]) -> None:
        if self._swift is None:
            self._of_records([self._record(io.BytesIO(value)) for value in values])
        elif values:
            without_panic(pyruhvro.deserialize_array, values, self._swift).validate(full=True)

    @cached_property
    def _swift_list(self) -> str:
        assert self._swift is not None
        return json.dumps(list_of(json.loads(self._swift)))

    def read_blocks(self, blocks: Sequence[tuple[int, bytes]]) -> pa.RecordBatch:
        """Blocks of a file: so many records, one straight after the other. An array of records would look the same."""
        count, data = sum(number for number, _ in blocks), b"".join(body for _, body in blocks)
        if not count:
            return self._empty()
        if self._swift is None:
            stream = io.BytesIO(data)
            return self._of_records([self._record(stream) for _ in range(count)])
        array = varint(count) + data + b"\x00"
        found = without_panic(pyruhvro.deserialize_array, [array], self._swift_list)
        return self._conformed(plain_batch(pa.RecordBatch.from_struct_array(found.column(0).flatten())))

    def _record(self, stream: io.BytesIO) -> Any:
        try:
            return fastavro.schemaless_reader(stream, self.parsed, None)
        except (ValueError, EOFError, KeyError, IndexError, OverflowError, TypeError, RecursionError) as error:
            raise ValueError(f"not of its Avro schema: {error or type(error).__name__}") from error

    def _of_records(self, records: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        arrays = []
        for field, said in zip(self.columns, self.parsed["fields"], strict=True):
            values = [lowered(record[field.name], field, said["type"]) for record in records]
            try:
                arrays.append(pa.array(values, field.type))
            except pa.ArrowInvalid as error:
                raise ValueError(f'"{field.name}" does not fit: {error}') from error
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(self.columns))

    def _conformed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = [
            column if column.type.equals(field.type) else cast_or_null(column, field.type)
            for column, field in zip(batch.columns, self.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(self.columns))

    def _empty(self) -> pa.RecordBatch:
        schema = pa.schema(self.columns)
        return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def unusable(error: BaseException) -> MqlError:
    said = " ".join(str(error).split())[:200]
    return MqlError(f"the Avro schema cannot be used: {said}", hint="Check the schema.", code="invalid-schema")


def wrapped(schema: Any) -> dict[str, Any]:
    """A record with one property, whose bytes are those of the schema itself."""
    return {"type": "record", "name": "mql_value", "fields": [{"name": VALUE, "type": schema}]}


def list_of(schema: Any) -> dict[str, Any]:
    items = {"type": "array", "items": schema}
    return {"type": "record", "name": "mql_block", "fields": [{"name": "items", "type": items}]}


def varint(number: int) -> bytes:
    """A positive number as Avro writes it."""
    rest, found = number << 1, bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((*found, rest))


# --- schemas -----------------------------------------------------------------------------------------


def resolved(schema: Any, named: Mapping[str, Any]) -> Any:
    """The schema that a name stands for."""
    return named[schema] if isinstance(schema, str) and schema in named else schema


def kind_of(schema: Any) -> str:
    """`record`, `long`, `union` …"""
    if isinstance(schema, list):
        return "union"
    if isinstance(schema, str):
        return schema
    kind = schema["type"]
    return kind if isinstance(kind, str) else kind_of(kind)


def branches(schema: Sequence[Any]) -> list[Any]:
    """What a union may be, besides null."""
    return [one for one in schema if kind_of(one) != "null"]


def name_of(schema: Any) -> str:
    return str(schema.get("name", "")) if isinstance(schema, dict) else ""


def is_swift(schema: Any, named: Mapping[str, Any], inside: tuple[str, ...]) -> bool:
    """Whether pyruhvro reads the schema."""
    schema = resolved(schema, named)
    kind = kind_of(schema)
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    match kind:
        case "record" | "error":
            name = name_of(schema)
            fields = schema["fields"]
            return (
                bool(fields)
                and name not in inside
                and all(is_swift(each["type"], named, (*inside, name)) for each in fields)
            )
        case "array":
            return is_swift(schema["items"], named, inside)
        case "map":
            return is_swift(schema["values"], named, inside)
        case "union":
            return len(branches(schema)) > 0 and all(is_swift(each, named, inside) for each in schema)
        case "int" | "long" if logical not in SWIFT_LOGICAL:
            return False
        case _:
            return kind in SWIFT_SCALARS


def inlined(schema: Any, named: Mapping[str, Any], defined: set[str]) -> Any:
    """The schema with each named one written out where it stands first, without what does not tell how to read it."""
    if isinstance(schema, str) and schema in named:
        if schema in defined:
            return schema
        return inlined(named[schema], named, defined)
    if isinstance(schema, list):
        return [inlined(each, named, defined) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kind = kind_of(schema)
    match kind:
        case "record" | "error":
            defined.add(schema["name"])
            fields = [
                {"name": each["name"], "type": inlined(each["type"], named, defined)} for each in schema["fields"]
            ]
            return {"type": "record", "name": schema["name"], "fields": fields}
        case "enum":
            if schema["name"] in defined:
                return schema["name"]
            defined.add(schema["name"])
            return {"type": "enum", "name": schema["name"], "symbols": schema["symbols"]}
        case "array":
            return {"type": "array", "items": inlined(schema["items"], named, defined)}
        case "map":
            return {"type": "map", "values": inlined(schema["values"], named, defined)}
        case _:
            logical = schema.get("logicalType")
            return {"type": kind, "logicalType": logical} if logical in SWIFT_LOGICAL[1:] else kind


def check_bounded(schema: Any, named: Mapping[str, Any]) -> None:
    """A list of what takes no bytes could have any length in a message of ten bytes."""
    seen: set[str] = set()
    waiting = [schema]
    while waiting:
        one = resolved(waiting.pop(), named)
        match kind_of(one):
            case "record" | "error" if name_of(one) not in seen:
                seen.add(name_of(one))
                waiting += [each["type"] for each in one["fields"]]
            case "array" if is_empty(one["items"], named, ()):
                raise MqlError(
                    "the Avro schema cannot be used: an array of items without bytes has no bound",
                    hint="Give the items a field.",
                    code="invalid-schema",
                )
            case "array":
                waiting.append(one["items"])
            case "map":
                waiting.append(one["values"])
            case "union":
                waiting += list(one)


def is_empty(schema: Any, named: Mapping[str, Any], inside: tuple[str, ...]) -> bool:
    """Whether a value takes no bytes."""
    schema = resolved(schema, named)
    match kind_of(schema):
        case "null":
            return True
        case "fixed":
            return int(schema["size"]) == 0
        case "record" | "error":
            name = name_of(schema)
            return name in inside or all(is_empty(each["type"], named, (*inside, name)) for each in schema["fields"])
        case _:
            return False


def arrow_field(name: str, schema: Any, named: Mapping[str, Any], inside: tuple[str, ...] = ()) -> pa.Field:
    """What carries a property of this schema."""
    schema = resolved(schema, named)
    if len(inside) >= DEPTH_MAX:
        return json_field(name)
    match kind_of(schema):
        case "record" | "error":
            own, fields = name_of(schema), schema["fields"]
            if own in inside or not distinct([each["name"] for each in fields]):
                return json_field(name)
            inner = [arrow_field(each["name"], each["type"], named, (*inside, own)) for each in fields]
            return pa.field(name, pa.struct(inner))
        case "array":
            return pa.field(name, pa.list_(arrow_field("item", schema["items"], named, inside)))
        case "map":
            values = arrow_field("value", schema["values"], named, (*inside, ""))
            return pa.field(name, pa.map_(pa.string(), values))
        case "union":
            some = branches(schema)
            return arrow_field(name, some[0], named, inside) if len(some) == 1 else json_field(name)
        case "null":
            return json_field(name)
        case kind:
            logical = str(schema.get("logicalType")) if isinstance(schema, dict) else ""
            if logical in ARROW_LOGICAL:
                return pa.field(name, ARROW_LOGICAL[logical])
            return plain_field(pa.field(name, ARROW_SCALARS.get(kind, pa.string())))


def lowered(value: Any, field: pa.Field, schema: Any) -> Any:
    """A value of fastavro's as Arrow takes it."""
    if value is None:
        return None
    if field.metadata is not None:
        return json_text(value)
    types, type = pa.types, field.type
    if types.is_struct(type):
        return {child.name: lowered(value.get(child.name), child, None) for child in type}
    if types.is_list(type):
        return [lowered(item, type.value_field, None) for item in value]
    if types.is_map(type):
        return [(key, lowered(item, type.item_field, None)) for key, item in value.items()]
    if types.is_string(type):
        return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
    return value


# --- files -------------------------------------------------------------------------------------------

RECORDS_MAX = 65_536
BLOCK_BYTES_MAX = 16 << 20


def container_reader(stream: BinaryIO) -> tuple[AvroReader, Iterator[pa.RecordBatch]]:
    """The reader of an object container file's own schema, and its records. MqlError where it is none."""
    try:
        blocks = fastavro.block_reader(stream)
    except (ValueError, EOFError, KeyError, SchemaParseException) as error:
        raise MqlError(
            f"this is no Avro object container file: {error}", hint="It begins with Obj.", code="source-unreadable"
        ) from error
    reader = AvroReader(blocks.writer_schema)
    return reader, batches_of(reader, blocks)


def batches_of(reader: AvroReader, blocks: Any) -> Iterator[pa.RecordBatch]:
    """The records of several blocks at once. ValueError where one can't be read."""
    waiting: list[tuple[int, bytes]] = []
    records, size = 0, 0
    try:
        for block in blocks:
            waiting.append((block.num_records, block.bytes_.read()))
            records, size = records + waiting[-1][0], size + len(waiting[-1][1])
            if records >= RECORDS_MAX or size >= BLOCK_BYTES_MAX:
                yield reader.read_blocks(waiting)
                waiting, records, size = [], 0, 0
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"a block cannot be unpacked: {error}") from error
    if waiting:
        yield reader.read_blocks(waiting)


def values_of(container: bytes, schema: AvroReader) -> list[bytes]:
    """The records of a container file, each by itself and in another schema: Avro's own rules of resolution apply."""
    try:
        records = list(fastavro.reader(io.BytesIO(container), schema.parsed))
    except (ValueError, EOFError, KeyError, TypeError, SchemaParseException, SchemaResolutionError) as error:
        raise ValueError(f"this is no Avro object container file of that schema: {error}") from error
    found = []
    for record in records:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema.parsed, record)
        found.append(out.getvalue())
    return found
