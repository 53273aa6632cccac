"""The WINDOW clause: from what is written to the windows that it means."""

from __future__ import annotations

from dataclasses import replace

from mql import syntax
from mql.errors import MqlError, did_you_mean
from mql.planner import windows
from mql.planner.binding import Scope, bind_condition, bind_constant, constant_duration, constant_int, constant_text
from mql.planner.expressions import Apply, Bound, Choose, Constant, Output
from mql.planner.logical import Filled
from mql.planner.physical import NO_WINDOW, Window
from mql.schema import BIGINT, BOOLEAN, TIMESTAMP, VARCHAR
from mql.zones import ZONES, zone_named

LENGTH_MIN_US = 1000
LENGTH_MAX_US = 400 * windows.DAY_US
FILL_FOR_US = windows.HOUR_US
PANES_MAX = 100_000
"""Windows that one row may lie in, at most: size / slide."""


def bind_window(query: syntax.Query, scope: Scope) -> Window:
    """The window that a query asks for. MqlError tells what does not fit together."""
    if not query.windows:
        return NO_WINDOW
    node = query.windows[0]
    if node.name is not None:
        return _several(query.windows, scope)
    _check_options(node)
    if node.kind == "session":
        return windows.session(_length(node.size, scope), _most(node, scope))
    if node.kind == "sliding":
        return windows.sliding(_length(node.size, scope))
    if node.kind == "count":
        size = constant_int(node.size, scope, 1, 10_000_000)
        slide = size if node.slide is None else constant_int(node.slide, scope, 1, size)
        return windows.counted(size, slide)
    return _of_time(node, scope)


def bind_fill(query: syntax.Query, window: Window, scope: Scope) -> Filled | None:
    """FILL value [FOR 1h]."""
    if not query.windows or query.windows[0].fill is None:
        return None
    node = query.windows[0]
    assert node.fill is not None
    span = node.fill.span
    if window.kind not in ("tumbling", "hopping", "cumulate", "several"):
        hint = "Sessions, sliding windows and windows of events are there only where events are."
        raise MqlError("FILL needs windows at fixed times", span, hint)
    emit = query.emit
    changes = emit is not None and (emit.kind != "final" or emit.early is not None or emit.revisions)
    if emit is not None and changes and query.anomaly is None:
        raise MqlError("FILL needs rows that are final", emit.span, "Leave EMIT out.")
    for_us = FILL_FOR_US if node.fill_for is None else constant_duration(node.fill_for, scope)
    if for_us < window.slide or for_us // window.slide > PANES_MAX:
        hint = f"From one window to {PANES_MAX:,} windows."
        raise MqlError("FILL is for too short or too long", span, hint)
    return Filled(bind_constant(node.fill, scope), for_us)


def bind_cuts(query: syntax.Query, scope: Scope) -> tuple[Bound | None, Bound | None]:
    """START WHEN and END WHEN of a session."""
    if not query.windows:
        return None, None
    node = query.windows[0]
    begins = None if node.start_when is None else bind_condition(node.start_when, scope)
    ends = None if node.end_when is None else bind_condition(node.end_when, scope)
    return begins, ends


def _check_options(node: syntax.Window) -> None:
    """What a window does not take."""
    of_sessions = ((node.max_length, "MAX"), (node.start_when, "START WHEN"), (node.end_when, "END WHEN"))
    of_time = ((node.offset, "OFFSET"), (node.timezone, "TIMEZONE"))
    fixed = node.kind in ("tumbling", "hopping", "cumulate")
    refused = (*(() if node.kind == "session" else of_sessions), *(() if fixed else of_time))
    for option, name in refused:
        if option is not None:
            whose = (
                "a session" if (option, name) in of_sessions else "windows at fixed times, such as WINDOW TUMBLING 1d"
            )
            raise MqlError(f'{name} can not stand with "{node.kind.upper()}"', node.span, f"It belongs to {whose}.")


def _most(node: syntax.Window, scope: Scope) -> int:
    return 0 if node.max_length is None else _length(node.max_length, scope)


def _several(nodes: tuple[syntax.Window, ...], scope: Scope) -> Window:
    """WINDOWS (…): windows at fixed times, each with its name."""
    for node in nodes:
        _check_options(node)
        if node.kind not in ("tumbling", "hopping", "cumulate"):
            hint = "WINDOWS takes tumbling, hopping and cumulating windows; ask the others in queries of their own."
            raise MqlError(f'"{node.kind.upper()}" can not be one of several windows', node.span, hint)
    return windows.several(tuple(replace(_of_time(node, scope), name=node.name or "") for node in nodes))


def window_outputs(window: Window) -> dict[str, Bound]:
    """The columns that tell a row's window."""
    if window.kind == "none":
        return {}
    found: dict[str, Bound] = {name: Output(name, TIMESTAMP) for name in ("window_start", "window_end")}
    if window.kind == "several":
        *rest, last = window.of
        number = Output(window.by, BIGINT)
        whens = ((Apply("=", (number, Constant(at, BIGINT)), BOOLEAN), _name(one)) for at, one in enumerate(rest))
        found = {"window_name": Choose(tuple(whens), _name(last), VARCHAR) if rest else _name(last), **found}
    return found


def _name(window: Window) -> Constant:
    return Constant(window.name, VARCHAR)


def _of_time(node: syntax.Window, scope: Scope) -> Window:
    """Windows at fixed times: tumbling, hopping, cumulating."""
    size = _length(node.size, scope)
    offset = 0 if node.offset is None else constant_duration(node.offset, scope)
    zone = None if node.timezone is None else _zone(node.timezone, scope)
    slide = size if node.slide is None else _length(node.slide, scope)
    if node.slide is None and node.kind == "cumulate":
        raise MqlError("a cumulating window needs a step", node.span, "Write WINDOW CUMULATE 1d EVERY 1h.")
    if node.slide is not None and node.kind == "tumbling":
        raise MqlError("a tumbling window has no step", node.span, "Write WINDOW HOPPING 60s EVERY 10s.")
    if node.kind == "cumulate" and size % slide:
        raise MqlError(
            "the step does not divide the window", node.span, "Choose a step that fits a whole number of times."
        )
    if zone is not None:
        _check_clock(node, size, slide, offset)
    if size // slide > PANES_MAX:
        raise MqlError(
            f"each row would lie in {size // slide:,} windows",
            node.span,
            f"At most {PANES_MAX:,}: choose a longer step.",
        )
    if node.kind == "cumulate":
        return windows.cumulate(size, slide, offset, zone)
    return windows.hopping(size, slide, offset, zone)


def _length(node: syntax.Expression, scope: Scope) -> int:
    us = constant_duration(node, scope)
    if us < LENGTH_MIN_US or us > LENGTH_MAX_US:
        raise MqlError("a window is from 1ms to 400d long", node.span)
    return us


def _zone(node: syntax.Expression, scope: Scope) -> str | None:
    """The zone's name; None for UTC, which windows go by without one."""
    text = constant_text(node, scope)
    name = zone_named(text)
    if name is None:
        hint = did_you_mean(text, ZONES) or "Write a name of the IANA database, such as 'America/New_York'."
        raise MqlError(f'no time zone "{text}"', node.span, hint)
    return None if name in ("UTC", "Etc/UTC") else name


def _check_clock(node: syntax.Window, size: int, slide: int, offset: int) -> None:
    """Steps by a clock must fit its hours and days, and windows must be made of whole steps."""
    if not windows.fits_a_clock(slide):
        hint = "With TIMEZONE a step divides an hour, or is whole hours that divide a day, or whole days."
        raise MqlError("the step does not fit the hours of a day", node.span, hint)
    if size % slide or (node.kind == "cumulate" and not windows.fits_a_clock(size)):
        hint = "With TIMEZONE a window is a whole number of steps; a cumulating one fits a day, or is whole days."
        raise MqlError("the window does not fit the hours of a day", node.span, hint)
    if slide > windows.HOUR_US and offset % windows.HOUR_US:
        raise MqlError("the offset is not a whole hour", node.span, "With TIMEZONE longer steps begin at whole hours.")
