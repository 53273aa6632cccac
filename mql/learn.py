"""Shapes from what people declare and from what events hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mql.errors import MqlError, did_you_mean
from mql.functions import common_type, is_number
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DECIMAL,
    DOUBLE,
    INTERVAL,
    JSON,
    NULL,
    TIMESTAMP,
    VARCHAR,
    DataType,
    Field,
    ListOf,
    Scalar,
    Shape,
    StructOf,
)

DEPTH_MAX = 8
FIELDS_MAX = 1000
EXAMPLE_MAX = 40
BIGINT_MIN, BIGINT_MAX = -(2**63), 2**63 - 1
DECIMAL_LIMIT = 10**28


def learn(events: Iterable[object], previous: Shape | None = None, open: bool = False) -> Shape:
    """The shape of parsed JSON events, widened by what `previous` knew; what is no object is passed over.

    Whole numbers are BIGINT, beyond it DECIMAL, beyond that DOUBLE; beside fractions DOUBLE. What has several types,
    was null only, lies deeper than 8 objects, has more than 1,000
    fields inside or names that differ in letter case alone is JSON. Presence is the share of
    events with a value that is not null. A field without presence was declared: it keeps its type. The version grows
    when a path or a type changes.
    """
    seen = {name: _Seen() for name in (field.name for field in previous.fields)} if previous else {}
    count = 0
    for event in events:
        if isinstance(event, Mapping):
            count += 1
            for name, value in event.items():
                if name in seen or len(seen) < FIELDS_MAX:
                    seen.setdefault(name, _Seen()).add(value)
    before = previous or Shape(version=0)
    total = count + (before.events or 0)
    fields = tuple(_merged(name, before, found, total) for name, found in seen.items())
    changed = [(one.name, one.type) for one in fields] != [(one.name, one.type) for one in before.fields]
    return Shape(fields, open or before.open, max(1, before.version + changed), total)


@dataclass(slots=True)
class _Seen:
    """What was seen of one property so far."""

    type: DataType = field(default_factory=lambda: NULL)
    count: int = 0
    example: str | None = None

    def add(self, value: object) -> None:
        if value is None:
            return
        self.count += 1
        self.type = wider(self.type, _type_of(value, 1))
        if self.example is None:
            self.example = _example(value)


def _merged(name: str, shape: Shape, seen: _Seen, total: int) -> Field:
    """A property as the shape knew it and as it was seen now."""
    before = shape.field(name) or Field(name, JSON, 0.0)
    if before.presence is None:
        return before
    known = NULL if before.presence == 0 and before.type == JSON else before.type
    present = seen.count + round(before.presence * (shape.events or 0))
    example = seen.example if before.example is None else before.example
    return Field(name, _settled(wider(known, seen.type)), present / total if total else 0.0, example)


def _type_of(value: object, depth: int) -> DataType:
    """The type of one value; NULL for null and as the item of an empty list."""
    match value:
        case None:
            return NULL
        case bool():
            return BOOLEAN
        case int():
            return BIGINT if BIGINT_MIN <= value <= BIGINT_MAX else DECIMAL if abs(value) < DECIMAL_LIMIT else DOUBLE
        case float():
            return DOUBLE
        case str():
            return VARCHAR
        case list() | tuple():
            found: DataType = NULL
            for item in value:
                found = wider(found, _type_of(item, depth))
            return ListOf(found)
        case Mapping() if depth <= DEPTH_MAX and len(value) <= FIELDS_MAX:
            return StructOf(tuple((str(name), _type_of(inner, depth + 1)) for name, inner in value.items()))
        case _:
            return JSON


def wider(one: DataType, other: DataType) -> DataType:
    """The narrowest type that holds values of both."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if is_number(one) and is_number(other):
        return common_type((one, other)) or JSON
    match one, other:
        case ListOf(item), ListOf(other_item):
            return ListOf(wider(item, other_item))
        case StructOf(fields), StructOf(other_fields):
            merged = dict(fields)
            for name, type in other_fields:
                merged[name] = wider(merged[name], type) if name in merged else type
            return StructOf(tuple(merged.items()))
        case _:
            return JSON


def _settled(type: DataType) -> DataType:
    """The type with what is still unknown, empty or too large as JSON."""
    match type:
        case ListOf(item):
            return ListOf(_settled(item))
        case StructOf(fields) if _size(type) <= FIELDS_MAX and _distinct(tuple(name for name, _ in fields)):
            return StructOf(tuple((name, _settled(inner)) for name, inner in fields))
        case StructOf():
            return JSON
        case _:
            return JSON if type == NULL else type


def _distinct(names: tuple[str, ...]) -> bool:
    """Whether names can be a struct's: some, none empty, none with NUL, none like another but for letter case."""
    return (
        bool(names) and all(name and "\0" not in name for name in names) and len({*map(str.lower, names)}) == len(names)
    )


def _size(type: DataType) -> int:
    match type:
        case ListOf(item):
            return _size(item)
        case StructOf(fields):
            return sum(_size(inner) for _, inner in fields)
        case _:
            return 1


def _example(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= EXAMPLE_MAX else text[: EXAMPLE_MAX - 1] + "…"


# --- types by name -----------------------------------------------------------------------------------------

_TYPE_NAMES: dict[str, DataType] = {
    "BOOLEAN": BOOLEAN,
    "BOOL": BOOLEAN,
    "LOGICAL": BOOLEAN,
    "BIGINT": BIGINT,
    "INT": BIGINT,
    "INTEGER": BIGINT,
    "SMALLINT": BIGINT,
    "TINYINT": BIGINT,
    "LONG": BIGINT,
    "INT8": BIGINT,
    "INT4": BIGINT,
    "INT2": BIGINT,
    "INT64": BIGINT,
    "INT32": BIGINT,
    "DOUBLE": DOUBLE,
    "FLOAT": DOUBLE,
    "REAL": DOUBLE,
    "FLOAT8": DOUBLE,
    "FLOAT4": DOUBLE,
    "NUMBER": DOUBLE,
    "DOUBLE PRECISION": DOUBLE,
    "DECIMAL": DECIMAL,
    "NUMERIC": DECIMAL,
    "VARCHAR": VARCHAR,
    "STRING": VARCHAR,
    "TEXT": VARCHAR,
    "CHAR": VARCHAR,
    "TIMESTAMP": TIMESTAMP,
    "DATETIME": TIMESTAMP,
    "TIMESTAMPTZ": TIMESTAMP,
    "TIMESTAMP WITH TIME ZONE": TIMESTAMP,
    "DATE": DATE,
    "INTERVAL": INTERVAL,
    "JSON": JSON,
    "ANY": JSON,
}
TYPE_DEPTH_MAX = 16
_TOKEN = re.compile(r'\s*("(?:[^"]|"")*"|[A-Za-z_][A-Za-z_0-9]*|\d+|\[\s*\]|[(),])')


def parse_type(text: str) -> DataType:
    """The type that a text names: `BIGINT`, `varchar[]`, `struct(id bigint, "a b" text)`, `int`, `string` …

    All integers are BIGINT and all binary floats DOUBLE. MqlError where the text names no type.
    """
    reader = _TypeReader(text)
    found = reader.type(0)
    if reader.at < len(reader.tokens):
        raise reader.error()
    return found


class _TypeReader:
    """Reads a type from its tokens, one after the other."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        self.at = 0
        position = 0
        while position < len(text.rstrip()):
            token = _TOKEN.match(text, position)
            if token is None:
                raise self.error()
            self.tokens.append(token[1])
            position = token.end()

    def type(self, depth: int) -> DataType:
        if depth > TYPE_DEPTH_MAX:
            raise self.error()
        found = self.base(depth)
        while self.peek().startswith("["):
            self.at += 1
            found = ListOf(found)
        return found

    def base(self, depth: int) -> DataType:
        name = self.take().upper()
        if name == "STRUCT":
            self.expect("(")
            fields = [self.field(depth)]
            while self.peek() == ",":
                self.at += 1
                fields.append(self.field(depth))
            self.expect(")")
            if not _distinct(tuple(field for field, _ in fields)):
                raise self.error()
            return StructOf(tuple(fields))
        if name in ("LIST", "ARRAY") and self.peek() == "(":
            self.expect("(")
            item = self.type(depth + 1)
            self.expect(")")
            return ListOf(item)
        while self.peek() and f"{name} {self.peek().upper()}" in _WORDS:
            name = f"{name} {self.take().upper()}"
        if name not in _TYPE_NAMES:
            raise self.error(name)
        found = _TYPE_NAMES[name]
        if self.peek() == "(" and (found in (DECIMAL, VARCHAR)):
            return self.sized(found)
        return found

    def sized(self, found: DataType) -> DataType:
        """`DECIMAL(10, 2)`, `VARCHAR(20)` (whose length binds nobody)."""
        self.expect("(")
        numbers = [self.number()]
        while self.peek() == ",":
            self.at += 1
            numbers.append(self.number())
        self.expect(")")
        if found == VARCHAR:
            return VARCHAR
        width, scale = (*numbers, 0)[:2]
        if not (1 <= width <= 38 and scale <= width and len(numbers) <= 2):
            raise self.error()
        return Scalar(f"DECIMAL({width},{scale})")

    def number(self) -> int:
        text = self.take()
        if not text.isdecimal() or len(text) > 4:
            raise self.error()
        return int(text)

    def field(self, depth: int) -> tuple[str, DataType]:
        name = self.take()
        if name.startswith('"'):
            name = name[1:-1].replace('""', '"')
        return name, self.type(depth + 1)

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        if self.at >= len(self.tokens):
            raise self.error()
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise self.error()

    def error(self, name: str | None = None) -> MqlError:
        near = did_you_mean(name, _TYPE_NAMES) if name else None
        known = (
            "Known are BOOLEAN, BIGINT, DOUBLE, DECIMAL(p,s), VARCHAR, TIMESTAMP, DATE, INTERVAL, JSON, T[], STRUCT(…)."
        )
        return MqlError(f'unknown type "{self.text[:80]}"', hint=near or known, code="unknown-type")


_WORDS = frozenset(" ".join(name.split()[:count]) for name in _TYPE_NAMES for count in range(2, len(name.split()) + 1))
