"""How a query with window functions runs: rows as they are below OVER, what goes on, and what is told in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mql.planner import grouping as g
from mql.planner import over_sql
from mql.planner.expressions import Aggregate, Bound, Constant, Output
from mql.planner.flow import Flow
from mql.planner.logical import Arrange, Frame, Group, Over, OverCall
from mql.planner.over_sql import added_sql, numbers_of
from mql.planner.parts import Parts
from mql.planner.physical import OperatorSpec, SelectRows
from mql.planner.sql import expression_sql, quote_identifier
from mql.planner.told import (
    PLACE,
    arranging,
    arranging_sql,
    borders_sql,
    in_windows_sql,
    key_sql,
    order_columns,
    place_sql,
    projected_sql,
    window_place,
)
from mql.schema import BIGINT

PLACED = ('"__place"',)
LAST = "last_value"
ZERO_OF_NOTHING = ("count", "count_if", "sum", "regr_count")
"""Aggregates that are 0 over no rows; the others are null."""


# --- of events ----------------------------------------------------------------------------------------


def raw_rows_sql(parts: Parts, source: str, late_matters: bool) -> str:
    """The rows that window functions look at, in their windows, with the hash that parts them."""
    shared = shared_partition(parts)
    inside = _in_open_windows_sql(parts, source, late_matters)
    if parts.windowed is not None:
        return f'SELECT *, ws AS "__ws", we AS "__we" FROM ({inside})'
    if not shared:
        return inside
    return f'SELECT *, {g.hash_sql([expression_sql(item) for item in shared])} AS "__h" FROM ({inside})'


def goes_on(parts: Parts) -> bool:
    """Whether all of a query's window functions are told from row to row."""
    assert parts.over is not None
    return all(call.scope == "run" for call in parts.over.calls)


def rows(parts: Parts, flow: Flow) -> Flow:
    """Events with their window functions: told at once where all go on, else once all of a window are there."""
    over = parts.over
    assert over is not None
    shared = shared_partition(parts)
    operators = list(_running(parts, parted=bool(shared)))
    if goes_on(parts):
        kept = f"(SELECT * FROM batch WHERE {qualified_sql(parts)})"
        predicate = None if parts.qualify is None else expression_sql(parts.qualify)
        operators.append(SelectRows(projected_sql(parts, f"SELECT * FROM {kept}"), None, predicate, None, 0, False))
    else:
        operators.append(arranging(parts, _arrange(parts), over_rows_sql(parts, "rows")))
    return flow.hashed(*operators) if shared else flow.gathered(*operators)


def over_rows_sql(parts: Parts, table: str) -> str:
    """The result rows of events that are all there; what goes on has been added before."""
    over = parts.over
    assert over is not None
    added = added_sql(over, numbers_of(over, "window", "all"), table, _within(parts), PLACE)
    return projected_sql(parts, f"SELECT * FROM ({added}) WHERE {qualified_sql(parts)}")


def batch_rows_sql(parts: Parts, source: str, late_matters: bool) -> str:
    """The result rows over history."""
    over = parts.over
    assert over is not None
    inside = _in_open_windows_sql(parts, source, late_matters)
    added = added_sql(over, range(len(over.calls)), f"({inside})", _within(parts), PLACE)
    return projected_sql(parts, f"SELECT * FROM ({added}) WHERE {qualified_sql(parts)}")


def _in_open_windows_sql(parts: Parts, source: str, late_matters: bool) -> str:
    """The rows in those of their windows that were not over when they came."""
    inside = in_windows_sql(parts, source)
    if parts.windowed is None or not late_matters:
        return inside
    return f'SELECT * FROM ({inside}) WHERE we > "__m" - {parts.scan.lateness_us}'


def shared_partition(parts: Parts) -> tuple[Bound, ...]:
    """What all window functions part events by, so that a task has whole partitions; nothing where they share none."""
    over = parts.over
    assert over is not None
    if parts.windowed is not None or not goes_on(parts):
        return ()
    first, *others = [call.partition for call in over.calls]
    return tuple(item for item in first if all(item in other for other in others))


# --- of groups ----------------------------------------------------------------------------------------


def raw_groups_sql(parts: Parts, group: Group) -> str:
    """The groups' rows over the CTE `a`, before window functions: keys, aggregates, windows, places, HAVING."""
    window = group.window
    keys = [f"k{i}" for i in range(len(group.keys))]
    place = [*keys, *window_place(group)]
    having = "true" if parts.having is None else f"coalesce({expression_sql(parts.having)}, false)"
    times = [] if window.kind == "none" else borders_sql(parts)
    if window.kind == "sliding":
        at = list(PLACE)
    else:
        at = ['we - 1 AS "__t"', '0::INTEGER AS "__s"', f'{place_sql(place)} AS "__o"']
    columns = [
        *keys,
        *(f"a{i}" for i in range(len(group.aggregates))),
        'ws AS "__ws"',
        'we AS "__we"',
        *times,
        *at,
        f'{key_sql(place)} AS "_key"',
        *([f'{place_sql(place)} AS "__place"'] if parts.inner else []),
        f'{having} AS "__keep"',
    ]
    number = ["wn"] if window.kind == "count" else []
    order = ", ".join(f"{name} NULLS LAST" for name in ["we", *number, *keys])
    return f"SELECT {', '.join(columns)} FROM a ORDER BY {order}"


def after_groups(parts: Parts) -> tuple[OperatorSpec, ...]:
    """What the rows of all groups go through: what goes on from window to window, then the rows of each together."""
    replaces = parts.speak.kind in ("changes", "every") or bool(parts.speak.early_us or parts.speak.revise_us)
    sql = over_groups_sql(parts, "rows", numbers_of(parts.over, "window", "all"), replaces)
    return (*_running(parts), arranging(parts, _arrange(parts), sql))


def batch_groups_sql(parts: Parts, table: str) -> str:
    """The same over history, in one statement."""
    assert parts.over is not None
    sql = over_groups_sql(parts, table, tuple(range(len(parts.over.calls))), True)
    return arranging_sql(parts, _arrange(parts), f"({sql})")


def over_groups_sql(parts: Parts, table: str, numbers: tuple[int, ...], keyed: bool) -> str:
    """The select list over groups' rows with the window functions of these numbers added."""
    over, group = parts.over, parts.group
    assert over is not None
    assert group is not None
    ties = [f"k{i} NULLS LAST" for i in range(len(group.keys))]
    if group.window.kind != "none":
        ties = ['"__we"', '"__ws"', *ties]
    added = added_sql(over, numbers, table, _within(parts), [*ties, '"__o"'])
    items = [f"{expression_sql(item)} AS {quote_identifier(name)}" for name, item in parts.project.items]
    at = ['"__ws"', '"__we"', *(PLACE if group.window.kind == "sliding" else ())]
    hidden = [*at, *(PLACED if parts.inner else ()), *(['"_key"'] if keyed else []), *order_columns(parts)]
    if parts.arrange is None:
        hidden += [f'k{i} AS "__k{i}"' for i in range(len(group.keys))]
    return f"SELECT {', '.join([*items, *hidden])} FROM ({added}) WHERE {qualified_sql(parts)}"


# --- both ---------------------------------------------------------------------------------------------


def qualified_sql(parts: Parts) -> str:
    """QUALIFY. Null is not true."""
    return "true" if parts.qualify is None else f"coalesce({expression_sql(parts.qualify)}, false)"


def _running(parts: Parts, parted: bool = False) -> tuple[OperatorSpec, ...]:
    """What goes on from row to row, and what waits for later ones."""
    over = parts.over
    assert over is not None
    numbers = numbers_of(over, "run")
    over, first = in_two_steps(over, numbers)
    later = tuple(i for i in numbers if over_sql.reaches_ahead(over.calls[i]))
    before = tuple(i for i in numbers if i not in later)
    behind = tuple(i for i in before if first and over.calls[i].call.name == LAST)
    steps = ((*(i for i in before if i not in behind), *first), behind)
    found: tuple[OperatorSpec, ...] = tuple(over_sql.running(over, step, parted) for step in steps if step)
    return (*found, over_sql.ahead(over, later)) if later else found


def in_two_steps(over: Over, numbers: Sequence[int]) -> tuple[Over, tuple[int, ...]]:
    """The same with each call over all rows up to another row than its own as two: over all up to the row itself, and
    what that says at the last row of the frame. And the numbers of those that come first, behind the others."""
    calls, first = list(over.calls), []
    for i in numbers:
        call = over.calls[i]
        if not reaches_elsewhere(call):
            continue
        first.append(len(calls))
        calls.append(replace(call, frame=Frame("rows", None, 0)))
        empty = (Constant(0, BIGINT),) if call.call.name in ZERO_OF_NOTHING else ()
        at_last = Aggregate(LAST, (Output(f"w{first[-1]}", call.call.type),), call.call.type, extra=empty)
        calls[i] = replace(call, call=at_last)
    return replace(over, calls=tuple(calls)), tuple(first)


def reaches_elsewhere(call: OverCall) -> bool:
    """Whether it is taken over all rows from the first on, but not up to its own."""
    frame = call.frame
    return frame is not None and frame.start is None and frame.end != 0 and call.call.name != LAST


def _arrange(parts: Parts) -> Arrange:
    """ORDER BY and LIMIT as they are asked for; else rows are told window by window."""
    over = parts.over
    assert over is not None
    if parts.arrange is not None:
        return parts.arrange
    whole = any(call.scope == "all" for call in over.calls)
    in_windows = parts.window is not None and parts.window.kind != "none"
    return Arrange(over, (), None, (), in_windows and not whole)


def _within(parts: Parts) -> tuple[str, ...]:
    """The columns that tell a window from others."""
    window = parts.window
    if window is None or window.kind == "none":
        return ()
    by = (quote_identifier(window.by),) if window.by else ()
    return ("ws", "we", *by) if parts.group is None else ('"__ws"', '"__we"', *by)
