"""JSON Schema: it tells the shape of events that are JSON. It is not held against them: JSON is read as it comes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from mql.errors import MqlError
from mql.schema import BIGINT, BOOLEAN, DOUBLE, JSON, NULL, VARCHAR, DataType, Field, ListOf, StructOf
from sources.formats.nested import DEPTH_MAX, distinct
from sources.formats.text import as_texts

TYPES: Mapping[str, DataType] = {
    "string": VARCHAR,
    "integer": BIGINT,
    "number": DOUBLE,
    "boolean": BOOLEAN,
    "null": NULL,
}


class JsonReader:
    """Hands JSON on, and knows the shape that a schema tells."""

    columns = (pa.field("_raw", pa.string()),)

    def __init__(self, schema: str | Mapping[str, Any], references: Mapping[str, str] | None = None) -> None:
        try:
            said = json.loads(schema) if isinstance(schema, str) else schema
            documents = {name: json.loads(text) for name, text in (references or {}).items()}
        except ValueError as error:
            raise MqlError(
                f"the JSON Schema is no JSON: {error}", hint="Check the schema.", code="invalid-schema"
            ) from error
        found = type_of(said, said, documents, 1)
        fields = found.fields if isinstance(found, StructOf) else ()
        self.fields = tuple(Field(name, type) for name, type in fields)

    def read(self, values: list[bytes]) -> pa.RecordBatch:
        texts, bad = as_texts(pa.array(values, pa.binary()))
        if bad:
            raise ValueError("not UTF-8")
        return pa.RecordBatch.from_arrays([texts], ["_raw"])

    def check(self, values: list[bytes]) -> None:
        self.read(values)


def type_of(schema: Any, document: Any, others: Mapping[str, Any], depth: int) -> DataType:
    """The type of what a schema allows; JSON where that is several, or not told."""
    if not isinstance(schema, Mapping) or depth > DEPTH_MAX:
        return JSON
    if "$ref" in schema:
        found, inside = referred(str(schema["$ref"]), document, others)
        return type_of(found, inside, others, depth + 1)
    for word in ("oneOf", "anyOf"):
        if isinstance(schema.get(word), list):
            return one_of([type_of(each, document, others, depth + 1) for each in schema[word]])
    if isinstance(schema.get("allOf"), list):
        parts = [type_of(each, document, others, depth + 1) for each in schema["allOf"]]
        if parts and all(isinstance(part, StructOf) for part in parts):
            return struct_of({name: type for part in parts if isinstance(part, StructOf) for name, type in part.fields})
        return one_of(parts)
    kind = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kind, list):
        return one_of([type_of({**schema, "type": each}, document, others, depth) for each in kind])
    match kind:
        case "object" if isinstance(schema.get("properties"), Mapping):
            inner = schema["properties"].items()
            return struct_of({str(name): type_of(each, document, others, depth + 1) for name, each in inner})
        case "array" if isinstance(schema.get("items"), Mapping):
            return ListOf(type_of(schema["items"], document, others, depth))
        case str() if kind in TYPES:
            return TYPES[kind]
        case _:
            return JSON


def referred(ref: str, document: Any, others: Mapping[str, Any]) -> tuple[Any, Any]:
    """The schema that a reference means, and the document it is in; None where there is none."""
    name, _, pointer = ref.partition("#")
    inside = others.get(name) if name else document
    found = inside
    for part in pointer.strip("/").split("/") if pointer.strip("/") else ():
        key = part.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found, inside


def one_of(types: Sequence[DataType]) -> DataType:
    """The one type that is left without null; numbers are DOUBLE together."""
    some = list(dict.fromkeys(type for type in types if type != NULL))
    if len(some) == 1:
        return some[0]
    return DOUBLE if some and all(type in (BIGINT, DOUBLE) for type in some) else JSON


def struct_of(fields: Mapping[str, DataType]) -> DataType:
    known = {name: JSON if type == NULL else type for name, type in fields.items()}
    return StructOf(tuple(known.items())) if distinct(list(known)) else JSON
