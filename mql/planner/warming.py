"""WARMUP FROM HISTORY: a detector begins as if its query had been running for that long already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mql import syntax
from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.planner.binding import Scope, constant_duration
from mql.planner.grid import Grid
from mql.planner.logical import Detect, Filter, Group, Logical, Speak, chain, with_input
from mql.planner.physical import Start, Window
from mql.planner.windowing import bind_window


def warmed_since(
    query: syntax.Query, info: SourceInfo, scope: Scope, since: Start, now_us: int
) -> tuple[Start, int | None]:
    """Where reading begins, so that windows are whole from there on, and after which moment rows are told.

    Where reading begins with the earliest event anyway, there is nothing to be warmed by: None.
    """
    node = None if query.anomaly is None else dict(query.anomaly.options).get("warmup_from")
    if node is None or since.kind not in ("live", "time"):
        return since, None
    assert not isinstance(node, str | tuple)
    length_us = constant_duration(node, scope)
    if length_us <= 0:
        raise MqlError("WARMUP FROM HISTORY takes a length of time", node.span, "Write WARMUP FROM HISTORY 14d.")
    if not info.history:
        hint = "Declare the source with record: true to keep its events, or leave FROM HISTORY out."
        raise MqlError(f'source "{info.name}" keeps no history', node.span, hint)
    point_us = now_us if since.us is None else since.us
    return Start("time", _whole(bind_window(query, scope), point_us - length_us)), point_us


def _whole(window: Window, us: int) -> int:
    """The last start of a window up to a moment."""
    starts = [
        grid.start(grid.last_by(us + one.size))
        for one in window.of or (window,)
        if one.kind in ("tumbling", "hopping", "cumulate") and (grid := Grid(one))
    ]
    return min(starts, default=us)


def told_after(plan: Speak, us: int) -> Speak:
    """The plan, whose detector tells nothing of windows that end by then."""
    return _changed(plan, lambda detect: replace(detect, told_after_us=us))


def scaled(plan: Speak, scale: float) -> Speak:
    """The plan, whose detector has the threshold that its budget asks for."""
    return _changed(plan, lambda detect: replace(detect, scale=scale))


def bounded(plan: Speak, max_keys: int | None, ttl_us: int | None) -> Speak:
    """The plan, whose detector remembers at most so many groups, and each for so long after it was seen last."""
    if max_keys is None and ttl_us is None:
        return plan

    def change(detect: Detect) -> Detect:
        group = detect.input.input if isinstance(detect.input, Filter) else detect.input
        assert isinstance(group, Group)
        paces = detect.paces
        ttl = detect.ttl
        if ttl_us is not None:
            ttl = -(-ttl_us // group.window.slide)
            paces = tuple(replace(pace, ttl=-(-ttl_us // pace.window.slide)) for pace in paces)
        return replace(detect, ttl=ttl, paces=paces, max_keys=max_keys or detect.max_keys)

    return _changed(plan, change)


def _changed(plan: Speak, change: Callable[[Detect], Detect]) -> Speak:
    """The plan with another detector, where it has one."""
    nodes = list(chain(plan))
    for at, node in enumerate(nodes):
        if isinstance(node, Detect):
            found: Logical = change(node)
            for above in reversed(nodes[:at]):
                found = with_input(above, found)
            assert isinstance(found, Speak)
            return found
    return plan
