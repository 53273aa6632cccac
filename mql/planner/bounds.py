"""SINCE and UNTIL: where reading begins and where it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mql import syntax
from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.planner.binding import Scope, bind_constant, constant_int, duration_us
from mql.planner.expressions import Apply, Bound, Constant, EventMeta
from mql.planner.physical import LIVE, Start
from mql.schema import BOOLEAN, DATE, INTERVAL, TIMESTAMP

SECOND_US = 1_000_000


def bind_bounds(query: syntax.Query, info: SourceInfo, scope: Scope, now_us: int) -> tuple[Start, Start]:
    """Where reading begins and ends. A source with an end is read from its earliest event to its end."""
    since = None if query.since is None else _point(query.since, scope, now_us)
    until = None if query.until is None else _point(query.until, scope, now_us)
    if info.bounded:
        if until is not None and until.kind == "live":
            until = None
        return since or Start("earliest"), until or Start("end")
    if since is None or since.kind in ("live", "now"):
        if until is not None and until.kind != "live":
            hint = "Add SINCE to ask for a stretch of history, such as SINCE '-1h'."
            raise MqlError("UNTIL stands without SINCE", query.until.span if query.until else None, hint)
        return LIVE, LIVE
    if not info.history:
        hint = "Declare the source with record: true to keep its events."
        raise MqlError(f'source "{info.name}" keeps no history', query.since.span if query.since else None, hint)
    if until is not None and until.kind == "time" and until.us is not None and until.us > now_us > 0:
        raise MqlError(
            "UNTIL lies in the future", query.until.span if query.until else None, "Leave it out to go live."
        )
    if since.kind == "time" and until is not None and until.kind == "time":
        assert since.us is not None
        assert until.us is not None
        if since.us >= until.us:
            raise MqlError("SINCE lies at or after UNTIL", query.since.span if query.since else None)
    return since, until or LIVE


def instant_us(text: str) -> int | None:
    """An ISO 8601 date or time in microseconds since the epoch; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _point(point: syntax.Point, scope: Scope, now_us: int) -> Start:
    if point.kind in ("earliest", "live"):
        return Start(point.kind)
    if point.kind == "now":
        return Start("time", now_us)
    assert point.value is not None
    if point.kind == "offset":
        return Start("offset", offset=constant_int(point.value, scope, 0))
    bound = bind_constant(point.value, scope)
    match bound.value:
        case str(text):
            named = text.strip().lower()
            if named in ("earliest", "live"):
                return Start(named)
            if named == "now":
                return Start("time", now_us)
            length = duration_us(text.strip().removeprefix("+"))
            us = now_us + length if length is not None else instant_us(text)
        case int(value) if bound.type == TIMESTAMP:
            us = value
        case int(value) if bound.type == INTERVAL:
            us = now_us - abs(value)
        case int(value) if bound.type == DATE:
            us = value * 86_400 * SECOND_US
        case _:
            us = None
    if us is None:
        hint = "Write '-1h', TIMESTAMP '2026-01-31T12:00:00Z', EARLIEST, NOW or OFFSET 42."
        raise MqlError("a point in time must stand here", point.span, hint)
    return Start("time", us)


def time_bounds(since: Start, until: Start) -> list[Bound]:
    """What of the bounds is a condition on the time of events."""
    found: list[Bound] = []
    if since.kind == "time":
        found.append(Apply(">=", (EventMeta("event_time"), Constant(since.us, TIMESTAMP)), BOOLEAN))
    if until.kind == "time":
        found.append(Apply("<", (EventMeta("event_time"), Constant(until.us, TIMESTAMP)), BOOLEAN))
    return found
