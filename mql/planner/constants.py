"""Values that are known before any event comes: of literals, parameters and texts."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from mql.functions import common_type
from mql.planner.expressions import Constant
from mql.schema import BIGINT, BOOLEAN, DATE, DOUBLE, INTERVAL, JSON, NULL, TIMESTAMP, VARCHAR, DataType, ListOf

BIGINT_MIN, BIGINT_MAX = -(2**63), 2**63 - 1
SECOND_US = 1_000_000
_UNITS = {"us": 1, "ms": 1000, "s": SECOND_US, "m": 60 * SECOND_US, "h": 3600 * SECOND_US, "d": 86400 * SECOND_US}
_UNITS |= {"w": 7 * _UNITS["d"], "sec": SECOND_US, "min": _UNITS["m"], "second": SECOND_US, "seconds": SECOND_US}
_UNITS |= {"minute": _UNITS["m"], "minutes": _UNITS["m"], "hour": _UNITS["h"], "hours": _UNITS["h"]}
_UNITS |= {"day": _UNITS["d"], "days": _UNITS["d"]}


def constant_of(value: object) -> Constant | None:
    """A Python value as a constant, None where MQL has no such type. A datetime without a zone is UTC."""
    match value:
        case None:
            return Constant(None, NULL)
        case bool():
            return Constant(value, BOOLEAN)
        case int():
            return Constant(value, BIGINT) if BIGINT_MIN <= value <= BIGINT_MAX else Constant(float(value), DOUBLE)
        case float():
            return Constant(value, DOUBLE)
        case Decimal():
            return Constant(float(value), DOUBLE)
        case str():
            return Constant(value, VARCHAR)
        case timedelta():
            return Constant(value // timedelta(microseconds=1), INTERVAL)
        case datetime():
            aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
            return Constant((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1), TIMESTAMP)
        case date():
            return Constant((value - date(1970, 1, 1)).days, DATE)
        case list() | tuple():
            items = [constant_of(item) for item in value]
            return constant_list(tuple(item for item in items if item is not None)) if None not in items else None
        case _:
            return None


def constant_list(items: tuple[Constant, ...]) -> Constant | None:
    item = common_type(item.type for item in items)
    if item is None or item == JSON:
        return None
    if not items:
        return Constant((), ListOf(NULL))
    return Constant(tuple(constant_as(one, item) for one in items), ListOf(item))


def constant_as(constant: Constant, type: DataType) -> Constant:
    """The constant as a value of a wider type (BIGINT as DOUBLE)."""
    if constant.type == type or constant.value is None:
        return Constant(constant.value, type)
    value = constant.value
    if type == DOUBLE and isinstance(value, int | float | Decimal):
        return Constant(float(value), DOUBLE)
    if type == TIMESTAMP and constant.type == DATE and isinstance(value, int):
        return Constant(value * 86400 * SECOND_US, TIMESTAMP)
    return replace(constant, type=type)


def duration_us(text: str) -> int | None:
    """`10s`, `-1h`, `1h30m`, `1.5 hours` in microseconds; None where the text is no duration."""
    cleaned = text.strip().lower()
    sign, cleaned = (-1, cleaned[1:]) if cleaned.startswith("-") else (1, cleaned)
    parts = re.findall(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*([a-z]+)", cleaned, re.ASCII)
    if not parts or re.sub(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*([a-z]+)", "", cleaned, flags=re.ASCII).strip():
        return None
    if any(unit not in _UNITS for _, unit in parts):
        return None
    return sign * sum(round(Decimal(amount) * _UNITS[unit]) for amount, unit in parts)


def read_constant(text: str, type: DataType) -> Constant | None:
    """A text as a time, a date or an interval."""
    if type == INTERVAL:
        us = duration_us(text)
        return None if us is None else Constant(us, INTERVAL)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    found = constant_of(at)
    return found if type == TIMESTAMP or at.time() != time(0) else constant_of(at.date())
