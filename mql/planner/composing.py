"""Queries that other queries read: what may stand in them, and how the rows of several become those of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mql import syntax
from mql.errors import MqlError, Span
from mql.planner.calls import widen
from mql.planner.expressions import Apply, Bound, Constant
from mql.planner.logical import (
    Derived,
    Group,
    Input,
    Logical,
    Merge,
    Project,
    Scan,
    Union,
    find,
    has_events,
    has_times,
    inputs_of,
    with_input,
)
from mql.planner.reading import Reading, as_one, either_type
from mql.schema import JSON, NULL, VARCHAR, DataType, Field, Shape

OF_THE_WHOLE = ("order_by", "limit", "emit", "lateness", "since", "until", "replay_speed", "settings")
"""What a union says of all its rows together."""
OF_THE_TEXT = ("lateness", "since", "until", "replay_speed", "settings")
"""What can be said of all that is read, and so stands in the outermost query."""


def of_the_whole(query: syntax.Query) -> syntax.Query:
    """What a union asks of the rows of its queries together."""
    item = syntax.SelectItem(syntax.Star(None, query.span), None, "*", query.span)
    said = {name: getattr(query, name) for name in OF_THE_WHOLE}
    return syntax.Query((item,), span=query.span, explain=query.explain, **said)


def first_of_union(query: syntax.Query) -> syntax.Query:
    """The first of a union's queries, by itself."""
    blank = syntax.Query(())
    return replace(query, union=(), ctes=(), **{name: getattr(blank, name) for name in OF_THE_WHOLE})


def check_inner(query: syntax.Query, grouped: bool, reading: Reading) -> None:
    """Refuses what has no meaning in a query that another one reads: its rows come once, when they are final, and each
    has a time."""
    for name in OF_THE_TEXT:
        if getattr(query, name):
            word = name.replace("_", " ").upper()
            hint = f"Write {word} once, behind the outermost query: it is about everything that is read."
            raise MqlError(f"{word} can not stand in an inner query", _span_of(getattr(query, name), query), hint)
    emit = query.emit
    kinds = ("final",) if query.anomaly is None else ("final", "all", "anomalies", "episodes")
    if emit is not None and (emit.kind not in kinds or emit.early is not None or emit.revisions):
        hint = "What reads it gets each row once, when it is final. Write EMIT behind the outermost query."
        raise MqlError("the rows of an inner query are always final", emit.span, hint)
    if query.anomaly is not None:
        _check_judged(query.anomaly, grouped)
    window = query.windows[0] if query.windows else None
    if window is not None and not grouped:
        hint = "Write the WINDOW in the query around it."
        raise MqlError("a window without an aggregate can not stand in an inner query", window.span, hint)
    cuts = query.limit is not None and (query.group_by or query.distinct or query.order_by or query.limit.per)
    if query.limit is not None and (window is None or not cuts):
        hint = "Add a WINDOW, and GROUP BY or ORDER BY; or write LIMIT behind the outermost query."
        raise MqlError("LIMIT in an inner query cuts each of its windows", query.limit.span, hint)
    if grouped and window is None and not reading.ends:
        what = "DISTINCT" if query.distinct and not query.group_by else "an aggregate"
        hint = "Add a WINDOW to the inner query, or ask a stretch of history: SINCE '-1h' UNTIL NOW."
        raise MqlError(f"{what} over a stream without a window is never final", query.span, hint)
    if query.order_by and query.limit is None:
        reading.warnings.append("ORDER BY in an inner query changes nothing: write it behind the outermost query")


def _check_judged(node: syntax.Anomaly, grouped: bool) -> None:
    """Refuses what a detector can not have in an inner query: a history of its own, and rows that no window has."""
    if not grouped:
        hint = "Write it behind the outermost query; or add WINDOW and GROUP BY, and judge each window."
        raise MqlError("ANOMALY over plain rows can not stand in an inner query", node.span, hint)
    for option, name in (("warmup_from", "WARMUP FROM HISTORY"), ("budget", "ALERT BUDGET")):
        if option in dict(node.options):
            hint = "It changes what all queries of the text read: ask it of a detector in the outermost one."
            raise MqlError(f"{name} can not stand in an inner query", node.span, hint)


def check_times(query: syntax.Query, read: Input) -> None:
    """Refuses clauses that need more of the rows of a query than these have."""
    if isinstance(read, Scan | Merge) or not query.windows:
        return
    if not has_times(read):
        hint = "Give the inner query a WINDOW: its rows then lie at the ends of theirs."
        raise MqlError("groups without a window have no time to window them by", query.windows[0].span, hint)
    fill = query.windows[0].fill
    if fill is not None and (not has_events(read) or isinstance(read, Union) or query.sample is not None):
        hint = "Write it in an inner query, which reads events."
        raise MqlError("FILL can not stand over the rows of other queries", fill.span, hint)
    if has_events(read):
        return
    if query.emit is not None and query.emit.revisions:
        hint = "What comes too late for the inner query is lost to this one: raise LATENESS."
        raise MqlError("rows of windows are never late, so none is revised", query.emit.span, hint)


def check_as_live(top: Logical, span: Span) -> None:
    """Counted windows are cut short by the end alone, after windows over them have closed."""
    for node in _derived(top):
        group = find(node.query, Group)
        if isinstance(group, Group) and group.window.kind == "count":
            hint = "Leave SETTINGS late out: over history all rows are there."
            raise MqlError("windows of events can not be judged as live in an inner query", span, hint)


def united(queries: Sequence[Derived], parts: Sequence[syntax.Query]) -> Union:
    """The rows of several queries: columns by their place, with the names of the first, of types that hold all."""
    names = [field.name for field in queries[0].info.shape.fields]
    types = _types(queries[0])
    for query, part in zip(queries[1:], parts[1:], strict=True):
        fields = query.info.shape.fields
        if len(fields) != len(names):
            hint = f"The first gives {', '.join(names)}; this one gives {', '.join(field.name for field in fields)}."
            raise MqlError(f"rows of {len(names)} and of {len(fields)} columns can not be united", part.span, hint)
        types = [either_type(one, type) for one, type in zip(types, _types(query), strict=True)]
    known = (VARCHAR if type == NULL else type for type in types)
    shape = Shape(tuple(Field(name, type) for name, type in zip(names, known, strict=True)))
    info = as_one("union", shape, [query.info for query in queries])
    return Union(tuple(_giving(query, shape) for query in queries), info)


def _types(node: Derived) -> list[DataType]:
    """The types of a query's columns; of one that is null by its text none, so that it fits the others."""
    project = find(node.query, Project)
    assert isinstance(project, Project)
    return [NULL if isinstance(item, Constant) and item.value is None else item.type for _, item in project.items]


def _giving(node: Derived, shape: Shape) -> Derived:
    """The rows of a query with the columns of this shape."""

    def renamed(below: Logical) -> Logical:
        if isinstance(below, Project):
            pairs = zip(shape.fields, below.items, strict=True)
            return Project(below.input, tuple((field.name, _as(item, field.type)) for field, (_, item) in pairs))
        assert not isinstance(below, Input)
        return with_input(below, renamed(below.input))

    return replace(node, query=renamed(node.query), info=replace(node.info, shape=shape))


def _as(bound: Bound, type: DataType) -> Bound:
    """The value as the type that the column has in all queries."""
    if bound.type == type:
        return bound
    if type == JSON:
        return Constant(None, JSON) if isinstance(bound, Constant) and bound.value is None else _json(bound)
    return widen(bound, type)


def _json(bound: Bound) -> Bound:
    return Apply("to_json", (bound,), JSON)


def _derived(top: Logical) -> Sequence[Derived]:
    """The queries inside a query, at any depth."""
    found: list[Derived] = []
    waiting = [top]
    while waiting:
        node = waiting.pop()
        while not isinstance(node, Input):
            node = node.input
        if isinstance(node, Derived):
            found.append(node)
        waiting.extend(inputs_of(node))
    return found


def _span_of(clause: object, query: syntax.Query) -> Span:
    first = clause[0] if isinstance(clause, tuple) else clause
    if isinstance(first, tuple):
        first = first[1]
    span = getattr(first, "span", None)
    return span if isinstance(span, Span) else query.span
