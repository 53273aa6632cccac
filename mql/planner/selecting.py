"""The select list: names, expressions, `*`; and the rows of a query without groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from itertools import count
from string import ascii_lowercase, ascii_uppercase

from mql import syntax
from mql.errors import MqlError, Span, did_you_mean
from mql.planner.anomaly import bind_tracking
from mql.planner.binding import Scope, bind_expression, constant_int
from mql.planner.collecting import without_aggregates
from mql.planner.expressions import Bound, Column, Constant, Output
from mql.planner.logical import Arrange, Filter, Logical, Over, Project, SortKey, Windowed
from mql.planner.overs import OVER_ANOMALY, Around, bind_qualify, plain_overs
from mql.planner.physical import Window
from mql.planner.properties import first_known
from mql.planner.windowing import window_outputs
from mql.schema import BIGINT, BOOLEAN, NULL, VARCHAR, DataType, StructOf


def bind_plain(
    query: syntax.Query, plan: Logical, window: Window, scope: Scope, around: Around, ttl_us: int
) -> tuple[Logical, tuple[tuple[str, DataType], ...]]:
    """The nodes from the windows up to the select list of a query without groups, and the columns that come of them."""
    if window.kind in ("count", "session", "sliding"):
        what = {"count": "window of events", "session": "session", "sliding": "sliding window"}[window.kind]
        raise MqlError(f"a {what} needs an aggregate", query.windows[0].span, "Add count(*) or another one.")
    if window.kind != "none":
        if query.windows[0].fill is not None:
            raise MqlError("FILL needs an aggregate", query.windows[0].fill.span, "Add count(*) or another one.")
        plan = Windowed(plan, window)
    if query.anomaly is not None:
        plan = bind_tracking(query, plan, without_aggregates(scope, "ANOMALY"))
    scope, overs = plain_overs(replace(scope, outputs=window_outputs(window)), around, "SELECT")
    items = select_items(query.select, scope)
    items = with_window_columns(items, window)
    ordering = replace(scope, outputs={**scope.outputs, **dict(items)}, outputs_first=False)
    qualify = bind_qualify(query, ordering, overs)
    arranged = _arrange(query, plan, ordering, items, window)
    if overs.calls:
        if query.anomaly is not None:
            raise MqlError("ANOMALY can not stand with window functions", query.anomaly.span, OVER_ANOMALY)
        plan = Over(plan, overs.over(), overs.remembered_us(ttl_us))
    if qualify is not None:
        plan = Filter(plan, qualify)
    plan = plan if arranged is None else replace(arranged, input=plan)
    columns = tuple((name, bound.type) for name, bound in items)
    return Project(plan, items), columns if query.anomaly is None else (*columns, ("anomalous", BOOLEAN))


def select_items(select: tuple[syntax.SelectItem, ...], scope: Scope) -> tuple[tuple[str, Bound], ...]:
    """Names and expressions; of two of one name the last one counts, as in the Mantis dialect. What an earlier one is
    called may stand in a later one, where nothing that is read has that name."""
    found: dict[str, Bound] = {}
    spelled: dict[str, str] = {}
    named: dict[str, Bound] = {}
    for item in select:
        for name, bound in _expanded(item, replace(scope, outputs={**scope.outputs, **named}) if named else scope):
            plain = _in_any_case(name)
            other = spelled.setdefault(plain, name)
            if other != name or plain in scope.told or plain.startswith(HIDDEN):
                name = _apart(name, other, item, found)
            found[name] = _presentable(bound)
            if item.alias is not None and not _is_read(name, scope):
                named[name] = found[name]
    return tuple(found.items())


def _is_read(name: str, scope: Scope) -> bool:
    """Whether a name is that of something else: a property, or what an earlier step gave. Of events that are not known
    whole, any name may be."""
    sides = (scope.shape.type_of((side,)) for side in scope.sides)
    fields = {field for type in sides if isinstance(type, StructOf) for field, _ in type.fields}
    return scope.shape.open or scope.shape.field(name) is not None or name in scope.outputs or name in fields


def _apart(name: str, other: str, item: syntax.SelectItem, found: Collection[str]) -> str:
    """Another name for a column, where the engine would take it for an earlier one that differs in letter case alone or
    for what it tells beside columns. What stands by itself must be given one."""
    if not _is_several(item.expression):
        span, hint = item.expression.span, "Give it another name, as in AS other."
        if other != name:
            raise MqlError(f'columns "{other}" and "{name}" differ only in letter case', span, hint)
        raise MqlError(f'"{name}" is told beside the columns of rows', span, hint)
    known = {_in_any_case(one) for one in found}
    plain = name.lstrip("_") or "column"
    return next(told for number in count(1) if _in_any_case(told := f"{plain}_{number}") not in known)


def _in_any_case(name: str) -> str:
    """What the engine takes for the same name."""
    return name.translate(_LOWER)


TOLD = frozenset(("_key", "_revision", "_op", "final"))
"""What comes with rows that replace earlier ones."""
HIDDEN = "__"
"""What the names of columns begin with that the engine alone sees."""
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def _is_several(expression: syntax.Expression) -> bool:
    """Whether it stands for any number of columns: `*`, `e[^'prefix']`."""
    of_prefix = isinstance(expression, syntax.Property) and isinstance(expression.steps[-1], syntax.Prefix)
    return of_prefix or isinstance(expression, syntax.Star)


def _expanded(item: syntax.SelectItem, scope: Scope) -> list[tuple[str, Bound]]:
    """`*` and `e[^'p']` are several columns, everything else is one."""
    expression = item.expression
    if isinstance(expression, syntax.Star):
        if not scope.shape.fields and scope.shape.open:
            return [(item.alias or "event", bind_expression(_whole(expression.span), scope))]
        if scope.sides and not scope.sides_first:
            return _of_sides(expression, scope)
        return [(field.name, Column((field.name,), field.type)) for field in scope.shape.fields]
    if isinstance(expression, syntax.Property) and isinstance(expression.steps[-1], syntax.Prefix):
        return _by_prefix(expression, scope)
    return [(item.alias or name_of(item), bind_expression(expression, scope))]


def _of_sides(star: syntax.Star, scope: Scope) -> list[tuple[str, Bound]]:
    """`*` of a join: what one side alone has by its name, the others by that of their side too."""
    if star.alias is not None and star.alias not in scope.sides:
        hint = did_you_mean(star.alias, scope.sides) or f"The sides are {', '.join(scope.sides)}."
        raise MqlError(f'no side of the join is called "{star.alias}"', star.span, hint)
    found: list[tuple[str, str, Column]] = []
    for side in scope.sides:
        type = scope.shape.type_of((side,))
        assert isinstance(type, StructOf)
        found.extend((side, name, Column((side, name), of)) for name, of in type.fields)
    counts = Counter(name for _, name, _ in found)
    if star.alias is None and scope.shared:
        first = {name: next(side for side, of, _ in found if of == name) for name in scope.shared}
        return [
            (name if counts[name] == 1 or name in first else f"{side}.{name}", scope.shared.get(name, column))
            for side, name, column in found
            if first.get(name, side) == side
        ]
    if scope.first_side_wins:
        named: dict[str, list[Column]] = {}
        for _, name, column in found:
            named.setdefault(name, []).append(column)
        return [(name, first_known(columns)) for name, columns in named.items()]
    return [
        (name if counts[name] == 1 or name in scope.shared else f"{side}.{name}", column)
        for side, name, column in found
        if star.alias in (None, side)
    ]


def _whole(span: Span) -> syntax.Property:
    return syntax.Property((syntax.Key("e"),), span)


def _by_prefix(node: syntax.Property, scope: Scope) -> list[tuple[str, Bound]]:
    prefix = node.steps[-1]
    assert isinstance(prefix, syntax.Prefix)
    if len(node.steps) != 2:
        raise MqlError("a prefix stands only at the top of an event", node.span, "Write e[^'name'].")
    return [
        (field.name, Column((field.name,), field.type))
        for field in scope.shape.fields
        if field.name.startswith(prefix.text)
    ]


def name_of(item: syntax.SelectItem) -> str:
    """A column without an alias is called by its text; a property by its path, a literal by its value."""
    expression = item.expression
    match expression:
        case syntax.Property(steps):
            first, *rest = steps
            assert isinstance(first, syntax.Key)
            is_root = first.name == "e" and first.style == "bare" and bool(rest)
            is_root = (
                is_root and isinstance(rest[0], syntax.Key | syntax.Index) and getattr(rest[0], "style", "") != "dot"
            )
            shown = list(rest) if is_root else list(steps)
            if all(isinstance(step, syntax.Key) for step in shown):
                return ".".join(step.name for step in shown if isinstance(step, syntax.Key))
            return item.text
        case syntax.Literal(str(value)):
            return value
        case _:
            return item.text


def _presentable(bound: Bound) -> Bound:
    """A column of no type at all (null) is told as text."""
    return Constant(None, VARCHAR) if bound.type == NULL else bound


def with_window_columns(items: tuple[tuple[str, Bound], ...], window: Window) -> tuple[tuple[str, Bound], ...]:
    """Rows of windows say which, unless the select list does."""
    if window.kind == "none":
        return items
    outputs = window_outputs(window)
    told = {bound for _, bound in items}
    if told & {outputs["window_start"], outputs["window_end"]}:
        outputs = {name: bound for name, bound in outputs.items() if name == "window_name" and bound not in told}
    names = {_in_any_case(name) for name, _ in items}
    return (*((name, bound) for name, bound in outputs.items() if name not in names), *items)


def sort_expression(order: syntax.Order, items: tuple[tuple[str, Bound], ...], scope: Scope) -> Bound:
    """What ORDER BY goes by: an expression, or a column by its number."""
    node = order.expression
    if isinstance(node, syntax.Literal) and isinstance(node.value, int) and not isinstance(node.value, bool):
        if not 1 <= node.value <= len(items):
            raise MqlError(f"there is no column {node.value}", node.span, f"The select list has {len(items)}.")
        return items[node.value - 1][1]
    return bind_expression(node, scope)


def _arrange(
    query: syntax.Query, plan: Logical, scope: Scope, items: tuple[tuple[str, Bound], ...], window: Window
) -> Arrange | None:
    if not query.order_by and query.limit is None:
        return None
    order = tuple(
        SortKey(sort_expression(item, items, scope), item.descending, bool(item.nulls_first)) for item in query.order_by
    )
    limit = None if query.limit is None else constant_int(query.limit.count, scope, 0)
    per = () if query.limit is None else tuple(bind_expression(item, scope) for item in query.limit.per)
    per_window = window.kind != "none" and bool(order or per)
    if per_window and window.kind == "several":
        per = (Output(window.by, BIGINT), *per)
    return Arrange(plan, order, limit, per, per_window)
