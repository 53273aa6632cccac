"""Types and shapes: what is known of a source's events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type without parts; `name` is also its DuckDB name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ListOf:
    item: DataType

    def __str__(self) -> str:
        return f"{self.item}[]"


@dataclass(frozen=True, slots=True)
class StructOf:
    fields: tuple[tuple[str, DataType], ...]

    def __str__(self) -> str:
        inside = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}" {type}' for name, type in self.fields)
        return f"STRUCT({inside})"


@dataclass(frozen=True, slots=True)
class MapOf:
    """What `histogram` gives: values with their counts."""

    key: DataType
    value: DataType

    def __str__(self) -> str:
        return f"MAP({self.key}, {self.value})"


DataType = Scalar | ListOf | StructOf | MapOf

BOOLEAN = Scalar("BOOLEAN")
BIGINT = Scalar("BIGINT")
DOUBLE = Scalar("DOUBLE")
DECIMAL = Scalar("DECIMAL(38,10)")
VARCHAR = Scalar("VARCHAR")
TIMESTAMP = Scalar("TIMESTAMP")
DATE = Scalar("DATE")
INTERVAL = Scalar("INTERVAL")
JSON = Scalar("JSON")
NULL = Scalar("NULL")

Path = tuple[str, ...]
"""The names that lead to a property, outermost first: `("device", "id")`."""


@dataclass(frozen=True, slots=True)
class Field:
    """One top-level property: its type, the share of events that had it (None if declared), an example."""

    name: str
    type: DataType
    presence: float | None = None
    example: str | None = None


@dataclass(frozen=True, slots=True)
class PropertyMask:
    """A property in another form: `null`, `hash` (keyed, 16 hexadecimal digits), `partial` (the last characters)."""

    path: Path
    kind: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What the events of a source look like. `open` takes unknown names (null until they appear).

    `version` grows when the shape changes; `events` tells from how many events it was learned, None where it
    was declared or read from the data's own format.
    """

    fields: tuple[Field, ...] = ()
    open: bool = False
    version: int = 1
    events: int | None = None

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)

    def type_of(self, path: Path) -> DataType | None:
        """The type at a path, None where the shape has no such path."""
        top = self.field(path[0])
        found: DataType | None = top.type if top else None
        for name in path[1:]:
            if not isinstance(found, StructOf):
                return JSON if found == JSON else None
            found = dict(found.fields).get(name)
        return found
