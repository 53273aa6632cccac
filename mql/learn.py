"""Shapes from what people declare and from what events hold."""

from __future__ import annotations

import re

from mql.errors import MqlError, did_you_mean
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DECIMAL,
    DOUBLE,
    INTERVAL,
    JSON,
    TIMESTAMP,
    VARCHAR,
    DataType,
    ListOf,
    Scalar,
    StructOf,
)

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
