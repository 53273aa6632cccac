"""What a query may read: the declared sources, as the planner sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mql.schema import Field, Path, PropertyMask, Shape

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class TimeRule:
    """How an event's time is read: the property that holds it and its unit.

    `unit`: s ms us ns for numbers, `iso` for text, `auto` to tell by the value (text is ISO 8601; numbers
    below 1e11 are seconds, 1e14 milliseconds, 1e17 microseconds, else nanoseconds). `path` None: the time that
    the source gives with the event (Kafka's timestamp), else its arrival.
    """

    path: Path | None = None
    unit: str = "auto"


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """All that the planner needs to know of a source. Times are in microseconds.

    `encoding`: `json` (each event is one JSON text in column `_raw`) or `columns` (events come as Arrow
    columns named as the shape's fields). `bounded`: the source ends by itself. `splits`: how many parts can be
    read side by side, as far as is known. `history`: SINCE can reach back. `envelope`: fields of the shape that
    are not in `_raw` but come as columns of their own beside it. `hidden`: paths that who asks may not read;
    `masks`: what comes in another form, whose type the shape tells.
    """

    name: str
    shape: Shape
    kind: str = "memory"
    encoding: str = "json"
    time: TimeRule = TimeRule()
    lateness_us: int = 5 * SECOND_US
    idle_timeout_us: int = 30 * SECOND_US
    max_ahead_us: int = 3600 * SECOND_US
    bounded: bool = False
    history: bool = False
    splits: int = 1
    envelope: tuple[Field, ...] = ()
    hidden: tuple[Path, ...] = ()
    masks: tuple[PropertyMask, ...] = ()


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table that streams are joined with: rows known by name, read whole and again from time to time.

    `key`: the columns of which no two rows have the same values; empty where that is not known. `trouble`: why it has
    never been read yet, in a sentence.
    """

    name: str
    shape: Shape
    kind: str = "rows"
    key: tuple[str, ...] = ()
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """Sources and tables by name. `default` is taken where a query has no FROM; `piped` for any undeclared name."""

    sources: Mapping[str, SourceInfo] = field(default_factory=dict)
    default: str | None = None
    piped: str | None = None
    tables: Mapping[str, TableInfo] = field(default_factory=dict)
