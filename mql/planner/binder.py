"""From a syntax tree to a logical plan: every clause looked up in the catalog, checked, and put in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mql import syntax
from mql.aggregates import OF_DISTINCT, OWN, UNMOVED_BY_DISTINCT, AggregateRow, aggregate_row, result_type
from mql.catalog import Catalog, SourceInfo
from mql.errors import MqlError, Span, did_you_mean
from mql.planner.anomaly import Grouped, bind_anomaly, bind_tracking, is_tracking, outputs_of, with_columns, zeros_of
from mql.planner.binding import (
    Scope,
    bind_condition,
    bind_constant,
    bind_expression,
    constant_duration,
    constant_int,
    constant_number,
    constant_text,
    duration_us,
)
from mql.planner.expressions import (
    Aggregate,
    Apply,
    Bound,
    Column,
    Constant,
    Convert,
    EventMeta,
    Output,
    children,
    conjunction,
    with_children,
)
from mql.planner.logical import (
    Arrange,
    Filter,
    Group,
    Input,
    Logical,
    Project,
    Sample,
    Sampled,
    SortKey,
    Speak,
    Windowed,
)
from mql.planner.physical import LIVE, Start, Window
from mql.planner.reading import bind_from
from mql.planner.windowing import bind_cuts, bind_fill, bind_window, window_outputs
from mql.planner.windows import NUMBER
from mql.schema import BIGINT, BOOLEAN, DATE, DOUBLE, INTERVAL, JSON, NULL, TIMESTAMP, VARCHAR, DataType, Path

SECOND_US = 1_000_000
DEFAULT_EVERY_US = SECOND_US
SETTINGS = ("late", "revisions_for")
REVISIONS_FOR_US = 3_600 * SECOND_US


@dataclass(frozen=True, slots=True)
class Given:
    """What the asker brings beside the text: parameters, the time it is, whether early values are wanted."""

    params: Mapping[str, object] = field(default_factory=dict)
    now_us: int = 0
    early_us: int | None = None


@dataclass(frozen=True, slots=True)
class BoundQuery:
    """A logical plan with what readers are told beside it. `as_live`: a bounded input is judged as if it came live."""

    plan: Logical
    columns: tuple[tuple[str, DataType], ...]
    as_live: bool
    warnings: tuple[str, ...]


def bind(query: syntax.Query, catalog: Catalog, given: Given) -> BoundQuery:
    """Look up and check everything a query says. MqlError tells what can't be."""
    _refuse_what_is_missing(query)
    read = bind_from(query, catalog, given.params)
    info = read.info
    opened: set[Path] = set()
    scope = read.scope(given.params, opened)
    settings = _settings(query, scope)
    since, until = _bounds(query, info, scope, given)
    lateness = info.lateness_us if query.lateness is None else constant_duration(query.lateness, scope)
    _at_least(lateness, 0, "LATENESS", query.lateness)
    window = bind_window(query, scope)

    plan: Logical = read.input(since, until, lateness)
    if query.sample is not None:
        plan = Sample(plan, _sample(query.sample, scope))
    where = [] if query.where is None else [bind_condition(query.where, _without_aggregates(scope, "WHERE"))]
    between = conjunction([*_time_bounds(since, until), *where])
    if between != Constant(True, BOOLEAN):
        plan = Filter(plan, between)

    collector = _Collector(info)
    inner = replace(scope, aggregates=collector, outputs=window_outputs(window))
    if _is_grouped(query):
        plan, columns = _grouped(query, plan, window, inner, collector)
    else:
        plan, columns = _plain(query, plan, window, scope)
    emit = _speak(query, plan, window, _is_grouped(query), scope, given)
    if query.emit is not None and query.emit.revisions:
        _check_revisions(query, query.emit, window)
        emit = replace(emit, revise_us=settings.get("revisions_for", REVISIONS_FOR_US))
    elif "revisions_for" in settings:
        raise MqlError('"revisions_for" is for rows that are revised', query.span, "Add EMIT FINAL WITH REVISIONS.")
    _check_order(query, since, until, window)
    if emit.kind in ("changes", "every") and not _is_grouped(query):
        raise MqlError(
            f'"EMIT {emit.kind.upper()}" needs groups',
            query.emit.span if query.emit else None,
            "Rows without aggregates are told at once; leave EMIT out, or add an aggregate.",
        )
    warnings = tuple(f'"{".".join(path)}" has not been seen in "{info.name}" yet' for path in sorted(opened))
    return BoundQuery(emit, columns, settings.get("late") == "as_live", warnings)


# --- the clauses -----------------------------------------------------------------------------------------


def _refuse_what_is_missing(query: syntax.Query) -> None:
    """Clauses that the grammar knows and this version does not run."""
    refused: list[tuple[object, str, str]] = [
        (query.joins, "JOIN", "Ask each source in a query of its own."),
        (query.ctes, "WITH", "Write the query without it."),
        (query.union, "UNION ALL", "Ask the queries one by one."),
        (query.qualify, "QUALIFY", "Use LIMIT n PER key for the first rows of each group."),
        (query.replay_speed, "REPLAY SPEED", "Leave it out: SINCE with UNTIL answers at once."),
    ]
    for clause, name, hint in refused:
        if clause:
            raise MqlError(f'"{name}" is not supported yet', _span_of(clause), hint, code="not-supported")
    if query.anomaly is None and query.emit is not None and query.emit.kind in ("anomalies", "episodes", "all"):
        raise MqlError(f'"EMIT {query.emit.kind.upper()}" needs an ANOMALY clause', query.emit.span)


def _span_of(clause: object) -> Span | None:
    first = clause[0] if isinstance(clause, tuple) else clause
    if isinstance(first, tuple):
        first = first[1]
    return getattr(first, "span", None)


def _settings(query: syntax.Query, scope: Scope) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in query.settings:
        if name.lower() not in SETTINGS:
            hint = did_you_mean(name, SETTINGS) or f"There are: {', '.join(SETTINGS)}."
            raise MqlError(f'no setting "{name}"', value.span, hint)
        if name.lower() == "revisions_for":
            found[name.lower()] = constant_duration(value, scope)
            _at_least(constant_duration(value, scope), 1, name, value)
            continue
        text = constant_text(value, scope)
        if text not in ("as_live", "never"):
            raise MqlError(f'setting "late" can not be "{text}"', value.span, "Write 'as_live' or 'never'.")
        found[name.lower()] = text
    return found


def _bounds(query: syntax.Query, info: SourceInfo, scope: Scope, given: Given) -> tuple[Start, Start]:
    """Where reading begins and ends. A source with an end is read from its earliest event to its end."""
    since = None if query.since is None else _point(query.since, scope, given)
    until = None if query.until is None else _point(query.until, scope, given)
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
    if until is not None and until.kind == "time" and until.us is not None and until.us > given.now_us > 0:
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


def _point(point: syntax.Point, scope: Scope, given: Given) -> Start:
    if point.kind in ("earliest", "live"):
        return Start(point.kind)
    if point.kind == "now":
        return Start("time", given.now_us)
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
                return Start("time", given.now_us)
            length = duration_us(text.strip().removeprefix("+"))
            us = given.now_us + length if length is not None else instant_us(text)
        case int(value) if bound.type == TIMESTAMP:
            us = value
        case int(value) if bound.type == INTERVAL:
            us = given.now_us - abs(value)
        case int(value) if bound.type == DATE:
            us = value * 86_400 * SECOND_US
        case _:
            us = None
    if us is None:
        hint = "Write '-1h', TIMESTAMP '2026-01-31T12:00:00Z', EARLIEST, NOW or OFFSET 42."
        raise MqlError("a point in time must stand here", point.span, hint)
    return Start("time", us)


def _time_bounds(since: Start, until: Start) -> list[Bound]:
    found: list[Bound] = []
    if since.kind == "time":
        found.append(Apply(">=", (EventMeta("event_time"), Constant(since.us, TIMESTAMP)), BOOLEAN))
    if until.kind == "time":
        found.append(Apply("<", (EventMeta("event_time"), Constant(until.us, TIMESTAMP)), BOOLEAN))
    return found


def _sample(node: syntax.Sample, scope: Scope) -> Sampled:
    options = dict(node.options)
    if node.extrapolate or options.get("extrapolate") is True:
        raise MqlError('"EXTRAPOLATE" is not supported yet', node.span, code="not-supported")
    by = tuple(bind_expression(item, _without_aggregates(scope, "SAMPLE")) for item in node.by)
    match node.kind:
        case "percent":
            assert node.amount is not None
            share = constant_number(node.amount, scope) / 100
            if not 0 <= share <= 1:
                raise MqlError("a sample is from 0% to 100%", node.span)
            return Sampled(share, None, by, 0)
        case "rate":
            assert node.amount is not None
            return Sampled(None, constant_int(node.amount, scope, 1, 1_000_000), (), 0)
        case "json":
            return _mantis_sample(options, node, scope)
        case kind:
            raise AssertionError(kind)


def _mantis_sample(options: Mapping[str, object], node: syntax.Sample, scope: Scope) -> Sampled:
    """`{'strategy': 'RANDOM' | 'STICKY' | 'RPS', 'threshold': n, 'factor': 10000, 'keys': […], 'salt': n}`."""

    def whole(name: str, default: int) -> int:
        value = options.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise MqlError(f'"{name}" of a sample must be a whole number', node.span)
        return value

    strategy = str(options.get("strategy", "")).upper()
    factor = max(1, whole("factor", 10_000))
    threshold = whole("threshold", factor)
    seed = whole("salt", 0)
    match strategy:
        case "RANDOM":
            return Sampled(min(1.0, threshold / factor), None, (), seed)
        case "STICKY":
            names = options.get("keys", ())
            if not isinstance(names, tuple) or not names:
                raise MqlError("a sticky sample needs keys", node.span, "Add 'keys': ['user_id'].")
            keys = tuple(
                bind_expression(syntax.Property((syntax.Key(str(name), "tick"),), node.span), scope) for name in names
            )
            return Sampled(min(1.0, threshold / factor), None, keys, seed)
        case "RPS":
            return Sampled(None, max(1, threshold), (), seed)
        case _:
            raise MqlError(
                f'no sampling strategy "{options.get("strategy", "")}"', node.span, "There are RANDOM, STICKY and RPS."
            )


# --- rows without groups -------------------------------------------------------------------------------------


def _is_grouped(query: syntax.Query) -> bool:
    if query.group_by or query.having is not None or query.distinct:
        return True
    if query.anomaly is not None and not is_tracking(query):
        return True
    expressions = [item.expression for item in query.select] + [order.expression for order in query.order_by]
    return any(_calls_aggregate(expression) for expression in expressions)


def _calls_aggregate(node: object) -> bool:
    """Whether an aggregate is called anywhere inside; without recursion."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, syntax.Call) and found.over is None and aggregate_row(found.name) is not None:
            return True
        if isinstance(found, tuple):
            waiting.extend(found)
        elif hasattr(found, "__dataclass_fields__") and not isinstance(found, syntax.Query):
            waiting.extend(getattr(found, name) for name in found.__dataclass_fields__)
    return False


def _plain(
    query: syntax.Query, plan: Logical, window: Window, scope: Scope
) -> tuple[Logical, tuple[tuple[str, DataType], ...]]:
    if window.kind in ("count", "session", "sliding"):
        what = {"count": "window of events", "session": "session", "sliding": "sliding window"}[window.kind]
        raise MqlError(f"a {what} needs an aggregate", query.windows[0].span, "Add count(*) or another one.")
    if window.kind != "none":
        if query.windows[0].fill is not None:
            raise MqlError("FILL needs an aggregate", query.windows[0].fill.span, "Add count(*) or another one.")
        plan = Windowed(plan, window)
    if query.anomaly is not None:
        plan = bind_tracking(query, plan, _without_aggregates(scope, "ANOMALY"))
    scope = replace(_without_aggregates(scope, "SELECT"), outputs=window_outputs(window))
    items = _select_items(query.select, scope)
    items = _with_window_columns(items, window)
    ordering = replace(scope, outputs={**scope.outputs, **dict(items)}, outputs_first=False)
    plan = _arrange(query, plan, ordering, items, window)
    columns = tuple((name, bound.type) for name, bound in items)
    return Project(plan, items), columns if query.anomaly is None else (*columns, ("anomalous", BOOLEAN))


def _select_items(select: tuple[syntax.SelectItem, ...], scope: Scope) -> tuple[tuple[str, Bound], ...]:
    """Names and expressions; of two of one name the last one counts, as in the Mantis dialect."""
    found: dict[str, Bound] = {}
    for item in select:
        for name, bound in _expanded(item, scope):
            found[name] = _presentable(bound)
    return tuple(found.items())


def _expanded(item: syntax.SelectItem, scope: Scope) -> list[tuple[str, Bound]]:
    """`*` and `e[^'p']` are several columns, everything else is one."""
    expression = item.expression
    if isinstance(expression, syntax.Star):
        if not scope.shape.fields and scope.shape.open:
            return [(item.alias or "event", bind_expression(_whole(expression.span), scope))]
        return [(field.name, Column((field.name,), field.type)) for field in scope.shape.fields]
    if isinstance(expression, syntax.Property) and isinstance(expression.steps[-1], syntax.Prefix):
        return _by_prefix(expression, scope)
    return [(item.alias or _name_of(item), bind_expression(expression, scope))]


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


def _name_of(item: syntax.SelectItem) -> str:
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


def _with_window_columns(items: tuple[tuple[str, Bound], ...], window: Window) -> tuple[tuple[str, Bound], ...]:
    """Rows of windows say which, unless the select list does."""
    if window.kind == "none":
        return items
    outputs = window_outputs(window)
    told = {bound for _, bound in items}
    if told & {outputs["window_start"], outputs["window_end"]}:
        outputs = {name: bound for name, bound in outputs.items() if name == "window_name" and bound not in told}
    names = {name for name, _ in items}
    return (*((name, bound) for name, bound in outputs.items() if name not in names), *items)


# --- groups ----------------------------------------------------------------------------------------------


class _Collector:
    """Takes the aggregate calls of a query as they are bound; equal calls are computed once."""

    def __init__(self, info: SourceInfo) -> None:
        self.calls: list[Aggregate] = []
        self._info = info
        self._inside = False

    def claim(self, call: syntax.Call, scope: Scope) -> Bound | None:
        row = aggregate_row(call.name)
        if row is None or row is OWN:
            return None
        if call.over is not None:
            raise MqlError('"OVER" is not supported yet', call.span, code="not-supported")
        if self._inside:
            raise MqlError("an aggregate stands inside an aggregate", call.span)
        self._inside = True
        try:
            return self.add(self._bind(row, call, scope))
        finally:
            self._inside = False

    def add(self, call: Aggregate) -> Bound:
        if call not in self.calls:
            self.calls.append(call)
        return Output(f"a{self.calls.index(call)}", call.type)

    def _bind(self, row: AggregateRow, call: syntax.Call, scope: Scope) -> Aggregate:
        inner = replace(scope, outputs={})
        args = [arg for arg in call.args if not isinstance(arg, syntax.Star)]
        condition = None if call.filter is None else bind_condition(call.filter, inner)
        extra: tuple[Constant, ...] = ()
        if row.constant in ("number", "integer"):
            if len(args) > 1:
                extra = (_aggregate_constant(row, args.pop(), scope),)
            elif row.default is None:
                raise MqlError(f'"{row.name}" needs a second argument', call.span, f"Write {_example(row)}.")
        most = max(row.args, 1) if row.name in ("count", "rate") else row.args
        if not row.args <= len(args) <= most:
            raise MqlError(f'"{row.name}" takes {_counted(row)}', call.span, f"Write {_example(row)}.")
        if any(isinstance(arg, syntax.Star) for arg in call.args) and row.name not in ("count", "rate"):
            raise MqlError(f'"{row.name}" can not take "*"', call.span, f"Write {_example(row)}.")
        if call.distinct and not args:
            raise MqlError("DISTINCT needs a value", call.span, "Name a property: count(DISTINCT user_id).")
        bound = tuple(_aggregable(row, bind_expression(arg, inner), arg, first=i == 0) for i, arg in enumerate(args))
        type = result_type(row, bound[0].type if bound else None)
        if call.distinct and row.name not in OF_DISTINCT and row.name not in UNMOVED_BY_DISTINCT:
            raise MqlError(f'"{row.name}" does not take DISTINCT', call.span, f"Write {_example(row)}.")
        distinct = call.distinct and row.name in OF_DISTINCT
        return Aggregate(row.name, bound, type, distinct, condition, extra)


def _aggregable(row: AggregateRow, bound: Bound, node: syntax.Expression, first: bool) -> Bound:
    """The argument as the aggregate takes it: numbers out of mixed values, or an error."""
    if bound.type == NULL:
        bound = Constant(None, DOUBLE if row.takes == "number" else VARCHAR)
    text = str(bound.type)
    numeric = text in ("BIGINT", "DOUBLE") or text.startswith("DECIMAL")
    if row.takes == "number" or (row.name == "rate" and first):
        if bound.type == JSON:
            return Convert(bound, DOUBLE)
        if not numeric:
            hint = "Cast it: x::DOUBLE. Count conditions with count_if(…)."
            raise MqlError(f'"{row.name}" takes a number, and this is {text}', node.span, hint)
    if row.takes == "integer" and bound.type != BIGINT:
        raise MqlError(f'"{row.name}" takes a whole number, and this is {text}', node.span, "Cast it: x::BIGINT.")
    if row.takes == "boolean" and bound.type != BOOLEAN:
        if bound.type == JSON:
            return Convert(bound, BOOLEAN)
        raise MqlError(f'"{row.name}" takes a condition, and this is {text}', node.span, "Compare it with something.")
    if row.name in ("min", "max", "arg_min", "arg_max") and bound.type == JSON:
        return Convert(bound, VARCHAR)
    return bound


def _aggregate_constant(row: AggregateRow, node: syntax.Expression, scope: Scope) -> Constant:
    low, high = row.bounds or (None, None)
    if row.constant == "integer":
        return Constant(
            constant_int(node, scope, None if low is None else int(low), None if high is None else int(high)), BIGINT
        )
    value = constant_number(node, scope)
    if low is not None and high is not None and not low <= value <= high:
        raise MqlError(f"{value:g} is out of bounds", node.span, f"It may be from {low:g} to {high:g}.")
    return Constant(value, DOUBLE)


def _counted(row: AggregateRow) -> str:
    if row.name in ("count", "rate"):
        return "at most one argument"
    return {1: "one argument", 2: "two arguments"}[row.args]


def _example(row: AggregateRow) -> str:
    if row.constant == "number":
        return f"{row.name}(x, 0.99)"
    if row.constant == "integer":
        return f"{row.name}(x, 10)"
    return {0: f"{row.name}(*)", 1: f"{row.name}(x)", 2: f"{row.name}(x, y)"}[row.args]


def _grouped(
    query: syntax.Query, plan: Logical, window: Window, scope: Scope, collector: _Collector
) -> tuple[Logical, tuple[tuple[str, DataType], ...]]:
    keys = _keys(query, scope)
    if window.kind == "several":
        window = replace(window, by=f"k{len(keys)}")
        keys = (*keys, Output(NUMBER, BIGINT))
        scope = replace(scope, outputs={**scope.outputs, **window_outputs(window)})
    spoken = {key: i for i, key in enumerate(keys)}

    def finish(bound: Bound) -> Bound:
        return _behind_group(bound, spoken, collector, OWN.name if window.kind == "sliding" else "first")

    judged = outputs_of(scope) if query.anomaly is not None else {}
    inside = replace(scope, outputs={**scope.outputs, **judged})
    items = tuple((name, finish(bound)) for name, bound in _select_items(query.select, inside))
    shown = _with_window_columns(items, window)
    named = _names(query, items)
    after = replace(scope, outputs={**scope.outputs, **named}, outputs_first=True)
    having = None if query.having is None else finish(bind_condition(query.having, after))
    judging = replace(after, outputs={**judged, **after.outputs})
    order = tuple(
        SortKey(finish(_sort_expression(item, items, judging)), item.descending, bool(item.nulls_first))
        for item in query.order_by
    )
    per = () if query.limit is None else tuple(finish(bind_expression(item, judging)) for item in query.limit.per)
    if window.kind == "several":
        per = (Output(window.by, BIGINT), *per)
    below = plan
    detect = None
    if query.anomaly is not None:
        detect = bind_anomaly(query.anomaly, query.emit, below, after, Grouped(keys, window, collector.calls, finish))
        shown = with_columns(shown)
    begins, ends = bind_cuts(query, replace(_without_aggregates(scope, "WINDOW"), outputs={}))
    plan = Group(plan, window, keys, tuple(collector.calls), begins, ends, bind_fill(query, window, scope))
    if having is not None:
        plan = Filter(plan, having)
    if detect is not None:
        plan = replace(detect, input=plan, zeros=zeros_of(collector.calls))
    if order or query.limit is not None:
        limit = None if query.limit is None else constant_int(query.limit.count, scope, 0)
        plan = Arrange(plan, order, limit, per, window.kind not in ("none", "session", "sliding"))
    return Project(plan, shown), tuple((name, bound.type) for name, bound in shown)


def _keys(query: syntax.Query, scope: Scope) -> tuple[Bound, ...]:
    """GROUP BY: expressions, ordinals of the select list, select aliases. DISTINCT groups by all that is selected."""
    plain = replace(_without_aggregates(scope, "GROUP BY"), outputs={})
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
        if _calls_aggregate(expression):
            raise MqlError("GROUP BY can not take an aggregate", node.span)
        bound = bind_expression(expression, plain)
        if bound not in found and not isinstance(bound, Constant):
            found.append(bound)
    if query.distinct and not query.group_by and not any(_calls_aggregate(item.expression) for item in query.select):
        outer = replace(plain, outputs=scope.outputs)
        for _, bound in _select_items(query.select, outer):
            if bound not in found and not isinstance(bound, Constant | Output):
                found.append(bound)
    return tuple(found)


def _behind_group(bound: Bound, keys: Mapping[Bound, int], collector: _Collector, single: str) -> Bound:
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
        name = item.alias or _name_of(item) if not isinstance(item.expression, syntax.Star) else None
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
    return f"{node.name.upper()}({_name_of(syntax.SelectItem(argument))})"


def _sort_expression(order: syntax.Order, items: tuple[tuple[str, Bound], ...], scope: Scope) -> Bound:
    node = order.expression
    if isinstance(node, syntax.Literal) and isinstance(node.value, int) and not isinstance(node.value, bool):
        if not 1 <= node.value <= len(items):
            raise MqlError(f"there is no column {node.value}", node.span, f"The select list has {len(items)}.")
        return items[node.value - 1][1]
    return bind_expression(node, scope)


def _arrange(
    query: syntax.Query, plan: Logical, scope: Scope, items: tuple[tuple[str, Bound], ...], window: Window
) -> Logical:
    if not query.order_by and query.limit is None:
        return plan
    order = tuple(
        SortKey(_sort_expression(item, items, scope), item.descending, bool(item.nulls_first))
        for item in query.order_by
    )
    limit = None if query.limit is None else constant_int(query.limit.count, scope, 0)
    per = () if query.limit is None else tuple(bind_expression(item, scope) for item in query.limit.per)
    per_window = window.kind != "none" and bool(order or per)
    if per_window and window.kind == "several":
        per = (Output(window.by, BIGINT), *per)
    return Arrange(plan, order, limit, per, per_window)


# --- when it speaks --------------------------------------------------------------------------------------


def _speak(query: syntax.Query, plan: Logical, window: Window, grouped: bool, scope: Scope, given: Given) -> Speak:
    emit = query.emit
    every = early = None
    if emit is not None and emit.every is not None:
        every = _positive(emit.every, scope)
    if emit is not None and emit.early is not None:
        early = _positive(emit.early, scope)
    if not grouped:
        kind = "rows" if emit is None or emit.kind == "final" else emit.kind
        return Speak(plan, kind, every, None)
    kind = emit.kind if emit is not None else ("changes" if window.kind == "none" else "final")
    if query.anomaly is not None:
        if emit is not None and (kind in ("changes", "every") or early is not None):
            hint = "Write EMIT EPISODES, EMIT ANOMALIES or EMIT ALL."
            raise MqlError("ANOMALY judges windows that are final", emit.span, hint)
        return Speak(plan, "final", None, None)
    if kind == "final" and window.kind == "none" and not _ends(plan):
        hint = "Add a WINDOW, or write EMIT CHANGES EVERY 1s."
        raise MqlError("a stream without windows never has final groups", emit.span if emit else None, hint)
    if window.kind in ("count", "session", "sliding") and (kind != "final" or early is not None):
        what = {"count": "a window of events is told when it is full", "session": "a session is told when it is over"}
        told = what.get(window.kind, "a sliding window is told once, with its event")
        raise MqlError(told, emit.span if emit else None, "Leave EMIT out.")
    if kind in ("changes", "every"):
        every = every or DEFAULT_EVERY_US
    if (
        kind == "final"
        and early is None
        and emit is None
        and window.kind not in ("none", "count", "session", "sliding")
    ):
        early = None if query.windows[0].fill is not None else given.early_us
    return Speak(plan, kind, every, early if kind == "final" else None)


def _ends(plan: Logical) -> bool:
    node = plan
    while not isinstance(node, Input):
        node = node.input
    return node.until.kind != "live"


def _check_revisions(query: syntax.Query, emit: syntax.Emit, window: Window) -> None:
    """Rows are revised where each window has rows of its own that nothing else rests on."""
    if window.kind not in ("tumbling", "hopping", "cumulate", "several") or not _is_grouped(query):
        hint = "Add an aggregate and a window such as WINDOW TUMBLING 10s; without a window EMIT CHANGES tells them."
        raise MqlError("REVISIONS needs groups in windows of time", emit.span, hint)
    for clause, name in ((query.order_by, "ORDER BY"), (query.limit, "LIMIT"), (query.anomaly, "ANOMALY")):
        if clause:
            raise MqlError(f"{name} can not follow rows that are revised", emit.span, f"Leave {name} or REVISIONS out.")


def _positive(node: syntax.Expression, scope: Scope) -> int:
    us = constant_duration(node, scope)
    if us < 50_000:
        raise MqlError("rows are told at most every 50ms", node.span)
    return us


def _check_order(query: syntax.Query, since: Start, until: Start, window: Window) -> None:
    if query.order_by and query.limit is None and window.kind == "none" and until.kind == "live":
        hint = "Add LIMIT n for a list of the top that is kept up to date, or a WINDOW."
        raise MqlError("ORDER BY over a stream without end needs a LIMIT", query.order_by[0].expression.span, hint)
    if (query.order_by or query.limit) and window.kind in ("session", "sliding") and until.kind == "live":
        hint = "Ask a stretch of history for the first of them: SINCE '-1h' UNTIL NOW."
        raise MqlError(
            f"{window.kind} windows have no end in common to order or count them by", query.windows[0].span, hint
        )


def _at_least(value: int, least: int, name: str, node: syntax.Expression | None) -> None:
    if value < least:
        what = "can not be negative" if least == 0 else "must be more than nothing"
        raise MqlError(f'"{name}" {what}', None if node is None else node.span)


class _Refusing:
    """Stands where aggregates can not: tells so instead of "no such function"."""

    def __init__(self, clause: str) -> None:
        self._clause = clause

    def claim(self, call: syntax.Call, scope: Scope) -> Bound | None:
        if call.over is not None:
            raise MqlError('"OVER" is not supported yet', call.span, code="not-supported")
        if aggregate_row(call.name) is None:
            return None
        hint = "Conditions on aggregates go into HAVING." if self._clause == "WHERE" else None
        raise MqlError(f'"{call.name}" can not stand in {self._clause}', call.span, hint)


def _without_aggregates(scope: Scope, clause: str) -> Scope:
    return replace(scope, aggregates=_Refusing(clause))
