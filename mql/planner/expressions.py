"""Bound expressions: names looked up, types known, parameters replaced by their values.

Frozen data without callables: an expression prints, compares, hashes and travels. `mql.planner.sql` turns it into
DuckDB's SQL; nothing of a query's text gets there, only what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from mql.schema import BIGINT, TIMESTAMP, VARCHAR, DataType, Path


@dataclass(frozen=True, slots=True)
class Column:
    """A property of the event, by its path in the source's shape."""

    path: Path
    type: DataType


@dataclass(frozen=True, slots=True)
class EventMeta:
    """What is known of an event beside its properties. `kind`: event_time, arrival_time, split, offset, row_id."""

    kind: str

    @property
    def type(self) -> DataType:
        match self.kind:
            case "event_time" | "arrival_time":
                return TIMESTAMP
            case "row_id":
                return VARCHAR
            case _:
                return BIGINT


@dataclass(frozen=True, slots=True)
class Constant:
    """A value: str, int, Decimal, float, bool, None; a TIMESTAMP or INTERVAL as integer microseconds, a DATE as
    integer days; a list as a tuple of Constants."""

    value: str | int | Decimal | float | bool | tuple[Constant, ...] | None
    type: DataType


@dataclass(frozen=True, slots=True)
class Apply:
    """A scalar function or an operator applied to arguments; `name` is a row of mql.functions."""

    name: str
    args: tuple[Bound, ...]
    type: DataType


@dataclass(frozen=True, slots=True)
class Convert:
    """A cast; `lenient` gives null where a value does not cast, else the query would fail on it."""

    operand: Bound
    type: DataType
    lenient: bool = True


@dataclass(frozen=True, slots=True)
class Choose:
    """CASE: the first `when` that is true decides; `otherwise` may be a null constant."""

    whens: tuple[tuple[Bound, Bound], ...]
    otherwise: Bound
    type: DataType


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True where any element of the list `operand` makes `predicate` true; the element is `Element` inside it."""

    operand: Bound
    predicate: Bound
    type: DataType


@dataclass(frozen=True, slots=True)
class Element:
    """The list element that an AnyOf looks at."""

    type: DataType


@dataclass(frozen=True, slots=True)
class Output:
    """A column of the rows that the operator before gives: a group key `k0`, an aggregate's result `a0`,
    `window_start`, `window_end`, a select item `c0`."""

    name: str
    type: DataType


Bound = Column | EventMeta | Constant | Apply | Convert | Choose | AnyOf | Element | Output


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate call: `name` is a row of mql.aggregates, `args` per row, `filter` per row; `extra` holds the
    constant arguments (the q of a quantile)."""

    name: str
    args: tuple[Bound, ...]
    type: DataType
    distinct: bool = False
    filter: Bound | None = None
    extra: tuple[Constant, ...] = ()
