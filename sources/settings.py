"""What may be said of any source, and how it becomes what the planner knows of it."""

from __future__ import annotations

from dataclasses import dataclass

from mql.catalog import SECOND_US, SourceInfo, TimeRule
from mql.schema import BIGINT, DATE, DOUBLE, TIMESTAMP, VARCHAR, DataType, Field, Shape

TIME_NAMES = ("event_time", "timestamp", "ts", "time", "@timestamp", "datetime", "_ts_", "at", "created_at")
DOUBTFUL_NAMES = ("time", "at")  # a number so named may be a duration or a count
EARLIEST_NUMBER = 10_000_000  # fewer seconds than that (April 1970) are no time


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of a source's declaration that all kinds share. Durations are in microseconds.

    `time` None: guessed from the shape. `shape`: declared fields, which win over what is learned. `open`: names
    that the shape does not know are null instead of an error.
    """

    time: TimeRule | None = None
    lateness_us: int = 5 * SECOND_US
    idle_timeout_us: int = 30 * SECOND_US
    max_ahead_us: int = 3600 * SECOND_US
    shape: Shape | None = None
    open: bool = False


DEFAULTS = Settings()


def describe(
    name: str,
    kind: str,
    shape: Shape,
    settings: Settings,
    *,
    encoding: str = "json",
    bounded: bool = False,
    history: bool = False,
    splits: int = 1,
) -> SourceInfo:
    """What the planner needs to know of a source of this shape and these settings."""
    seen = with_declared(shape, settings)
    return SourceInfo(
        name=name,
        shape=seen,
        kind=kind,
        encoding=encoding,
        time=settings.time or guess_time(seen),
        lateness_us=settings.lateness_us,
        idle_timeout_us=settings.idle_timeout_us,
        max_ahead_us=settings.max_ahead_us,
        bounded=bounded,
        history=history,
        splits=splits,
    )


def with_declared(learned: Shape, settings: Settings) -> Shape:
    """The learned shape with the declared fields in place of its own."""
    if settings.shape is None:
        return Shape(learned.fields, learned.open or settings.open, learned.version, learned.events)
    declared = {field.name: field for field in settings.shape.fields}
    others = tuple(field for field in learned.fields if field.name not in declared)
    known = tuple(declared.values())
    return Shape(known + others, settings.open or settings.shape.open, learned.version, learned.events)


def guess_time(shape: Shape) -> TimeRule:
    """The event time's property, by its usual names; arrival where no property looks like a time."""
    for name in TIME_NAMES:
        field = shape.field(name)
        if field is not None and looks_like_time(field):
            return TimeRule((name,))
    return TimeRule()


def looks_like_time(field: Field) -> bool:
    """Whether a property so named holds a time: by its type and, for numbers and text, by its example."""
    if field.type in (TIMESTAMP, DATE):
        return True
    if field.example is None:
        return field.type in TIME_TYPES
    if field.type in (BIGINT, DOUBLE):
        return field.name not in DOUBTFUL_NAMES or is_number_from(field.example, EARLIEST_NUMBER)
    return field.type == VARCHAR and starts_with_a_date(field.example.strip('"'))


TIME_TYPES: tuple[DataType, ...] = (BIGINT, DOUBLE, VARCHAR)


def is_number_from(text: str, least: float) -> bool:
    try:
        return float(text) >= least
    except ValueError:
        return False


def starts_with_a_date(text: str) -> bool:
    digits = text[:4] + text[5:7] + text[8:10]
    return len(text) >= 10 and text[4] == "-" and text[7] == "-" and digits.isdigit()
