"""Groups: GROUP BY, DISTINCT, HAVING, and what may be said of a group's row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mql import syntax
from mql.aggregates import OWN
from mql.errors import MqlError
from mql.planner.anomaly import (
    Grouped,
    bind_anomaly,
    columns_of,
    is_tracking,
    outputs_of,
    with_columns,
    zeros_of,
)
from mql.planner.binding import Scope, bind_condition, bind_expression, constant_int
from mql.planner.collecting import Collector, calls_aggregate, without_aggregates
from mql.planner.expressions import Aggregate, Bound, Column, Constant, EventMeta, Output, children, with_children
from mql.planner.extrapolating import extrapolation
from mql.planner.logical import Arrange, Filter, Group, Logical, Over, Project, Sample, SortKey, find
from mql.planner.overs import OVER_ANOMALY, Overs, bind_qualify, check_having, finished
from mql.planner.physical import Window
from mql.planner.selecting import name_of, select_items, sort_expression, with_window_columns
from mql.planner.windowing import bind_cuts, bind_fill, window_outputs
from mql.planner.windows import NUMBER
from mql.schema import BIGINT, DataType

_NUMBER = Output(NUMBER, BIGINT)


def is_grouped(query: syntax.Query) -> bool:
    """Whether rows are told of groups, not of events."""
    if query.group_by or query.having is not None or query.distinct:
        return True
    if query.anomaly is not None and not is_tracking(query):
        return True
    expressions = [item.expression for item in query.select] + [order.expression for order in query.order_by]
    if query.qualify is not None:
        expressions.append(query.qualify)
    return any(calls_aggregate(expression) for expression in expressions)


def bind_grouped(
    query: syntax.Query,
    plan: Logical,
    window: Window,
    scope: Scope,
    collector: Collector,
    overs: Overs,
    ttl_us: int,
) -> tuple[Logical, tuple[tuple[str, DataType], ...]]:
    """The nodes from the groups up to the select list, and the columns that come of them."""
    keys = _keys(query, scope)
    if window.kind == "several":
        window = replace(window, by=f"k{len(keys)}")
        keys = (*keys, _NUMBER)
        scope = replace(scope, outputs={**scope.outputs, **window_outputs(window)})
    spoken = {key: i for i, key in enumerate(keys)}

    def finish(bound: Bound) -> Bound:
        return _behind_group(bound, spoken, collector, OWN.name if window.kind == "sliding" else "first")

    judged = {} if query.anomaly is None else outputs_of(scope, columns_of(query.anomaly))
    inside = replace(scope, outputs={**scope.outputs, **judged}, aggregates=overs)
    items = tuple((name, finish(bound)) for name, bound in select_items(query.select, inside))
    if query.distinct:
        _check_distinct(query, keys, {bound for _, bound in items})
    shown = with_window_columns(items, window)
    named = _names(query, items)
    after = replace(scope, outputs={**scope.outputs, **named}, outputs_first=True)
    having = None if query.having is None else finish(bind_condition(query.having, after))
    check_having(having, query)
    judging = replace(after, outputs={**judged, **after.outputs}, aggregates=overs)
    qualify = bind_qualify(query, judging, overs, finish)
    order = tuple(
        SortKey(finish(sort_expression(item, items, judging)), item.descending, bool(item.nulls_first))
        for item in query.order_by
    )
    per = () if query.limit is None else tuple(finish(bind_expression(item, judging)) for item in query.limit.per)
    if window.kind == "several":
        per = (Output(window.by, BIGINT), *per)
    below = plan
    detect = None
    filled = bind_fill(query, window, scope)
    if query.anomaly is not None:
        plain = replace(without_aggregates(scope, "EXPLAIN BY"), outputs={})
        grouped = Grouped(keys, window, collector.calls, finish, collector.add, plain, filled)
        detect = bind_anomaly(query.anomaly, query.emit, below, after, grouped)
        shown = with_columns(shown, columns_of(query.anomaly))
    if overs.calls and query.anomaly is not None:
        raise MqlError("ANOMALY can not stand with window functions", query.anomaly.span, OVER_ANOMALY)
    calls = overs.over(finish)
    sample = find(below, Sample)
    estimates = extrapolation(query, sample, collector.calls, collector.add)
    if estimates is not None:
        shown = estimates.items(shown)
        having = None if having is None else estimates.scale(having)
        qualify = None if qualify is None else estimates.scale(qualify)
        order = tuple(replace(key, expression=estimates.scale(key.expression)) for key in order)
        per = tuple(map(estimates.scale, per))
        calls = tuple(finished(call, estimates.scale) for call in calls)
    begins, ends = bind_cuts(query, replace(without_aggregates(scope, "WINDOW"), outputs={}))
    plan = Group(plan, window, keys, tuple(collector.calls), begins, ends, filled)
    if having is not None:
        plan = Filter(plan, having)
    if detect is not None:
        plan = replace(detect, input=plan, zeros=zeros_of(collector.calls))
    if overs.calls:
        plan = Over(plan, calls, overs.remembered_us(ttl_us))
    if qualify is not None:
        plan = Filter(plan, qualify)
    if order or query.limit is not None:
        limit = None if query.limit is None else constant_int(query.limit.count, scope, 0)
        per_window = window.kind != "none" and (bool(keys or order or per) or not _told_once(query.emit))
        plan = Arrange(plan, order, limit, per, per_window)
    return Project(plan, shown), tuple((name, bound.type) for name, bound in shown)


def _told_once(emit: syntax.Emit | None) -> bool:
    """Whether each row is final when it is told, so that rows can be counted."""
    return emit is None or (emit.kind not in ("changes", "every") and emit.early is None and not emit.revisions)


def _check_distinct(query: syntax.Query, keys: tuple[Bound, ...], items: set[Bound]) -> None:
    """Rows that tell their group are distinct by themselves. Others would have to be grouped anew."""
    hidden = [key for i, key in enumerate(keys) if Output(f"k{i}", key.type) not in items and key != _NUMBER]
    if hidden:
        hint = "Group the rows again: SELECT DISTINCT n FROM (SELECT key, count(*) AS n … GROUP BY key) WINDOW …."
        raise MqlError("DISTINCT beside groups that the select list does not name", query.select[0].span, hint)


def _keys(query: syntax.Query, scope: Scope) -> tuple[Bound, ...]:
    """GROUP BY: expressions, ordinals of the select list, select aliases. DISTINCT groups by all that is selected."""
    plain = replace(without_aggregates(scope, "GROUP BY"), outputs={})
    found: list[Bound] = []
    aliases = {item.alias: item.expression for item in query.select if item.alias}
    for node in query.group_by:
        expression = node
        if isinstance(node, syntax.Literal) and isinstance(node.value, int) and not isinstance(node.value, bool):
            if not 1 <= node.value <= len(query.select):
                raise MqlError(
                    f"there is no column {node.value}", node.span, f"The select list has {len(query.select)}."
                )
            expression = query.select[node.value - 1].expression
        elif isinstance(node, syntax.Property) and len(node.steps) == 1:
            first = node.steps[0]
            assert isinstance(first, syntax.Key)
            if first.name in aliases and scope.shape.field(first.name) is None:
                expression = aliases[first.name]
            elif first.name in ("window_start", "window_end", "window_name") and first.name in scope.outputs:
                continue
        if calls_aggregate(expression):
            raise MqlError("GROUP BY can not take an aggregate", node.span)
        bound = bind_expression(expression, plain)
        if bound not in found and not isinstance(bound, Constant):
            found.append(bound)
    if query.distinct and not query.group_by and not any(calls_aggregate(item.expression) for item in query.select):
        outer = replace(plain, outputs=scope.outputs)
        for _, bound in select_items(query.select, outer):
            if bound not in found and not isinstance(bound, Constant | Output):
                found.append(bound)
    return tuple(found)


def _behind_group(bound: Bound, keys: Mapping[Bound, int], collector: Collector, single: str) -> Bound:
    """The expression over a group's row: keys by their column, of other properties a single value (their first)."""
    if bound in keys:
        return Output(f"k{keys[bound]}", bound.type)
    match bound:
        case Column() | EventMeta():
            return collector.add(Aggregate(single, (bound,), bound.type))
        case _:
            inside = children(bound)
            return (
                with_children(bound, tuple(_behind_group(part, keys, collector, single) for part in inside))
                if inside
                else bound
            )


def _names(query: syntax.Query, items: tuple[tuple[str, Bound], ...]) -> dict[str, Bound]:
    """The names under which HAVING and ORDER BY find a select item: its own, its text, Mantis' `COUNT(a)`."""
    found: dict[str, Bound] = {}
    by_name = dict(items)
    for item in query.select:
        name = item.alias or name_of(item) if not isinstance(item.expression, syntax.Star) else None
        if name is None or name not in by_name:
            continue
        for spelled in (item.text, _mantis_name(item.expression), name):
            if spelled:
                found[spelled] = by_name[name]
    return found


def _mantis_name(node: syntax.Expression) -> str | None:
    """`COUNT(a)`, `SUM(n.v)`: how the Mantis dialect calls an aggregate's column."""
    if not isinstance(node, syntax.Call) or len(node.args) > 1:
        return None
    if not node.args or isinstance(node.args[0], syntax.Star):
        return f"{node.name.upper()}(*)"
    argument = node.args[0]
    if not isinstance(argument, syntax.Property):
        return None
    return f"{node.name.upper()}({name_of(syntax.SelectItem(argument))})"
