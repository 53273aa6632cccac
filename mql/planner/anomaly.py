"""The ANOMALY clause: from what is written to the node that says which number is watched, how, and what is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from mql import syntax
from mql.detectors import DAY_US, Method, Parameter, method_hint, method_named
from mql.errors import MqlError, Span, did_you_mean
from mql.formatter import format_expression
from mql.functions import is_number
from mql.planner.binding import (
    Scope,
    bind_condition,
    bind_constant,
    bind_expression,
    constant_duration,
    constant_int,
    constant_number,
)
from mql.planner.expressions import Aggregate, Apply, Bound, Convert, Output, conjunction, walk
from mql.planner.logical import Detect, Filled, Logical, Track
from mql.planner.physical import Budget, Explained, Pace, Window
from mql.schema import BIGINT, BOOLEAN, DOUBLE, JSON, TIMESTAMP, VARCHAR, DataType, ListOf, MapOf, StructOf
from mql.zones import ZONES

Columns = tuple[tuple[str, DataType], ...]
CONTRIBUTOR: Columns = (
    ("what", VARCHAR),
    ("share", DOUBLE),
    ("lift", DOUBLE),
    ("value", DOUBLE),
    ("expected", DOUBLE),
)
"""A sub-group, its share of the deviation, how many times what was expected it has, and both numbers."""

COLUMNS: Columns = (
    ("is_anomaly", BOOLEAN),
    ("score", DOUBLE),
    ("direction", VARCHAR),
    ("expected", DOUBLE),
    ("lower", DOUBLE),
    ("upper", DOUBLE),
    ("episode", VARCHAR),
    ("phase", VARCHAR),
    ("since", TIMESTAMP),
    ("duration", DOUBLE),
    ("method", VARCHAR),
    ("reason", VARCHAR),
    ("suppressed", BIGINT),
)
"""What the clause adds to every row; `duration` in seconds."""

CONTRIBUTORS: tuple[str, DataType] = ("contributors", ListOf(StructOf(CONTRIBUTOR)))
"""What EXPLAIN BY adds: the sub-groups that explain the deviation, the most telling first."""

COUNTS = frozenset(("count", "count_if", "approx_count_distinct"))
ZEROS = COUNTS | {"sum", "rate"}
"""Aggregates that are 0 in a window without events."""
REARM_WINDOWS = 50
TTL_WINDOWS = 1000
OF_MAX = 64
STEPS_MAX = 288
SIGMAS_MIN = 3
PEERS_NEEDED, PEERS_OF = 14, 20
BUDGET_PER_US = {"hour": DAY_US // 24, "day": DAY_US, "week": 7 * DAY_US}
BUDGET_OVER_US = 7 * DAY_US
DIMENSIONS_MAX = 5
TOP, TOP_MAX = 3, 20

Finish = Callable[[Bound], Bound]


@dataclass(frozen=True, slots=True)
class Grouped:
    """What the clause needs to know of the GROUP BY before it. `add` has one more aggregate computed; `plain` is what
    an expression over single events may refer to; `filled`: FILL gives rows to groups that are missing."""

    keys: tuple[Bound, ...]
    window: Window
    calls: Sequence[Aggregate]
    finish: Finish
    add: Callable[[Aggregate], Bound]
    plain: Scope
    filled: Filled | None = None


def columns_of(node: syntax.Anomaly) -> Columns:
    """The columns that the clause adds, as it is written."""
    return (*COLUMNS, CONTRIBUTORS) if "explain_by" in dict(node.options) else COLUMNS


def outputs_of(scope: Scope, columns: Columns) -> dict[str, Bound]:
    """The clause's columns, for SELECT and ORDER BY; a property of the same name comes first."""
    return {
        name: Output(name, type)
        for name, type in columns
        if scope.shape.field(name) is None and name not in scope.outputs
    }


def with_columns(items: tuple[tuple[str, Bound], ...], columns: Columns) -> tuple[tuple[str, Bound], ...]:
    """The select list with those of the clause's columns that it does not use; one whose name is taken gets
    "anomaly_" before it."""
    own = {part for _, bound in items for part in walk(bound)}
    taken = {name for name, _ in items}
    added = tuple(
        (f"anomaly_{name}" if name in taken else name, Output(name, type))
        for name, type in columns
        if Output(name, type) not in own
    )
    return (*items, *added)


def bind_anomaly(
    node: syntax.Anomaly, emit: syntax.Emit | None, below: Logical, scope: Scope, grouped: Grouped
) -> Detect:
    """The clause over the rows that `below` gives. MqlError tells what does not fit together."""
    options = dict(node.options)
    window = grouped.window
    for one in window.of or (window,):
        _check_window(one, node.span)
    value, of, relative = _measure(node, options, scope, grouped)
    method = _method(node, options, value, of, relative, grouped)
    paces = tuple(_pace(method, node, options, one, scope) for one in window.of or (window,))
    direction = str(options.get("direction", method.direction if not relative else "both"))
    needed, out_of = _for(method, options, scope)
    change, guards = _guards(options, scope, grouped)
    if change and options.get("transform") == "log":
        raise MqlError(
            "CHANGE and TRANSFORM log do not go together", node.span, "Put a condition on the number itself."
        )
    limit = None if "limit" not in options else constant_int(_expression(options["limit"]), scope, 1, 1_000_000)
    _check(method, paces[0].parameters, options, node, scope, limit, grouped)
    ratio = of is not None or relative
    alone = not ratio and method.takes != "siblings"
    missing = relative or (alone and _is_zero(value, grouped))
    if grouped.filled is not None and "skip" in options:
        raise MqlError("SKIP MISSING and FILL do not go together", node.span, "Leave one of them out.")
    fills = missing and "skip" not in options and _says_zero(grouped.filled)
    budget = _budget(options, scope)
    if budget is not None and window.of:
        raise MqlError("ALERT BUDGET needs one window", node.span, "Ask each window's in a query of its own.")
    first = paces[0]
    return Detect(
        input=below,
        method=method.name,
        parameters=first.parameters,
        value=value,
        of=of,
        relative=relative,
        among=tuple(grouped.finish(bind_expression(item, scope)) for item in _several(options.get("among", ()))),
        guards=guards,
        zeros=zeros_of(grouped.calls),
        fills=fills,
        log=options.get("transform") == "log",
        direction=direction,
        warmup=first.warmup,
        needed=needed,
        out_of=out_of,
        rearm=first.rearm,
        change=change,
        limit=limit,
        emit="all" if emit is None or emit.kind == "final" else emit.kind,
        max_gap=first.max_gap,
        ttl=first.ttl,
        explained=_explained(node, options, value, of, scope, grouped),
        budget=budget,
        paces=paces if window.of else (),
        adds_up=alone and _is_zero(value, grouped) and _adds_up(value, grouped),
    )


def _pace(method: Method, node: syntax.Anomaly, options: Mapping[str, object], window: Window, scope: Scope) -> Pace:
    """What the clause says of lengths of time, as numbers of these windows."""
    each, steps = _every(window), _every(window) // window.slide
    history, warmup = (_windows(options, name, each, scope) for name in ("history", "warmup"))
    rearm = _windows(options, "rearm", window.slide, scope)
    if history is not None and warmup is not None and history < warmup:
        raise MqlError("HISTORY is shorter than WARMUP", node.span, "What is watched in silence must be remembered.")
    silence = method.warmup if warmup is None else warmup
    return Pace(
        window=window,
        parameters=_parameters(method, node, options, window, scope),
        warmup=silence,
        rearm=REARM_WINDOWS if rearm is None else max(1, rearm),
        max_gap=max(silence, 1) * steps,
        ttl=TTL_WINDOWS * steps,
    )


def _check_window(window: Window, span: Span) -> None:
    """Refuses windows that make no series of values a step apart."""
    match window.kind:
        case "tumbling" | "hopping":
            return
        case "cumulate":
            steps = window.size // window.slide
            if window.zone is not None:
                hint = "Leave TIMEZONE out, or judge a tumbling window by that clock: WINDOW 1h TIMEZONE …."
                raise MqlError("a cumulating window by a clock has not the same steps each time", span, hint)
            if steps > STEPS_MAX:
                hint = f"Each step has a history of its own: choose a longer one, for at most {STEPS_MAX} of them."
                raise MqlError(f"ANOMALY over a cumulating window of {steps:,} steps", span, hint)
        case "none":
            raise MqlError("ANOMALY needs a WINDOW", span, "Add one, such as WINDOW 10s: each window is one value.")
        case kind:
            what = {"session": "sessions", "sliding": "sliding windows"}.get(kind, "windows of events")
            hint = "Put them into a query in FROM, and judge them by windows of time: WINDOW 1m ANOMALY ON avg(n)."
            raise MqlError(f"ANOMALY needs values a fixed time apart, and {what} are not", span, hint)


def _every(window: Window) -> int:
    """How far values that are compared with each other are apart: of cumulating windows the same steps of two."""
    return window.size if window.kind == "cumulate" else window.slide


def _says_zero(filled: Filled | None) -> bool:
    """Whether a group that is missing may count as 0: where FILL says something else, it is as FILL says."""
    return filled is None or filled.value.value == 0


def zeros_of(calls: Sequence[Aggregate]) -> tuple[int, ...]:
    """The aggregates that are 0 where a group has no events."""
    return tuple(i for i, call in enumerate(calls) if call.name in ZEROS)


# --- Mantis' rows ----------------------------------------------------------------------------------------


def is_tracking(query: syntax.Query) -> bool:
    """`select * … anomaly mad cpu 1.0 2.5`: Mantis' form, over rows that nothing groups."""
    assert query.anomaly is not None
    method = query.anomaly.method
    is_mantis = method is not None and method.name == "mad" and len(method.args) == 2 and not method.named
    return is_mantis and not (query.windows or query.group_by or query.anomaly.options)


def bind_tracking(query: syntax.Query, below: Logical, scope: Scope) -> Track:
    """Its step and its multiple; the rows come in their order, so ORDER BY has no place here."""
    node = query.anomaly
    assert node is not None
    assert node.method is not None
    if query.order_by or (query.limit is not None and query.limit.per):
        hint = "Leave ORDER BY and LIMIT PER out, or add WINDOW and GROUP BY."
        raise MqlError("ANOMALY over plain rows keeps their order", node.span, hint)
    value = bind_expression(node.on, scope)
    if value.type == JSON:
        value = Convert(value, DOUBLE)
    if not is_number(value.type):
        raise MqlError(f"ANOMALY needs a number, and this is {value.type}", node.on.span, "Cast it: x::DOUBLE.")
    step, times = (constant_number(number, scope) for number in node.method.args)
    return Track(below, value, step, times)


# --- which number ----------------------------------------------------------------------------------------


def _measure(
    node: syntax.Anomaly, options: Mapping[str, object], scope: Scope, grouped: Grouped
) -> tuple[Bound, Bound | None, bool]:
    """The value, or a ratio's two parts, and whether the value's share of its window's sum is meant."""
    bound = grouped.finish(bind_expression(node.on, scope))
    if not is_number(bound.type):
        raise MqlError(f"ANOMALY ON needs a number, and this is {bound.type}", node.on.span, "Cast it: x::DOUBLE.")
    if not any(isinstance(part, Output) and part.name.startswith("a") for part in walk(bound)):
        raise MqlError("ANOMALY ON needs an aggregate", node.on.span, "Name one: ANOMALY ON count(*).")
    if "relative_to" in options:
        _check_relative(_expression(options["relative_to"]), bound, scope, grouped)
        return bound, None, True
    match bound:
        case Apply("/", (above, below)) if _counts(above, grouped) and _counts(below, grouped):
            return _bare(above), _bare(below), False
        case _:
            return bound, None, False


def _check_relative(node: syntax.Expression, value: Bound, scope: Scope, grouped: Grouped) -> None:
    """RELATIVE TO knows one form: the sum of the same number over the whole window."""
    fits = isinstance(node, syntax.Call) and node.name == "sum" and node.over is not None and len(node.args) == 1
    if fits:
        assert isinstance(node, syntax.Call)
        assert node.over is not None
        inside = grouped.finish(bind_expression(node.args[0], scope))
        fits = inside == value and not node.over.partition_by and not node.over.order_by and _counts(value, grouped)
    if not fits:
        hint = "Write ANOMALY ON count(*) RELATIVE TO sum(count(*)) OVER (): the share of all groups' sum."
        raise MqlError("RELATIVE TO takes the sum of the same count", node.span, hint)


def _bare(bound: Bound) -> Bound:
    return _bare(bound.operand) if isinstance(bound, Convert) else bound


def _aggregate(bound: Bound, grouped: Grouped) -> Aggregate | None:
    bare = _bare(bound)
    if isinstance(bare, Output) and bare.name.startswith("a") and bare.name[1:].isdecimal():
        return grouped.calls[int(bare.name[1:])]
    return None


def _counts(bound: Bound, grouped: Grouped) -> bool:
    call = _aggregate(bound, grouped)
    return call is not None and call.name in COUNTS


def _is_zero(bound: Bound, grouped: Grouped) -> bool:
    """Whether the value is 0 where there are no events."""
    bare = _bare(bound)
    if isinstance(bare, Apply) and bare.name == "+":
        return all(_is_zero(part, grouped) for part in bare.args)
    call = _aggregate(bare, grouped)
    return call is not None and call.name in ZEROS


def _adds_up(bound: Bound, grouped: Grouped) -> bool:
    """Whether two windows together have the sum of both values: counts and sums, not rates or distinct values."""
    calls = [call for part in walk(bound) if (call := _aggregate(part, grouped)) is not None]
    return all(call.name in ("count", "count_if", "sum") and not call.distinct for call in calls)


# --- which method ----------------------------------------------------------------------------------------


def _method(
    node: syntax.Anomaly,
    options: Mapping[str, object],
    value: Bound,
    of: Bound | None,
    relative: bool,
    grouped: Grouped,
) -> Method:
    if node.method is not None:
        found = method_named(node.method.name)
        if found is None:
            name, span = node.method.name, node.method.span
            raise MqlError(f'no method "{name}"', span, method_hint(name), code="unknown-method")
    else:
        name = "ratio" if of is not None or relative else "peers" if "among" in options else "auto"
        found = method_named(name)
        assert found is not None
    span = node.on.span if node.method is None else node.method.span
    if found.takes == "ratio" and of is None and not relative:
        hint = 'Write ANOMALY ON errors / requests, both of them counts; or leave "USING ratio" out.'
        raise MqlError('method "ratio" needs a ratio of two counts', span, hint)
    if found.takes != "ratio" and relative:
        raise MqlError(f'RELATIVE TO goes with the method "ratio", not "{found.name}"', span, "Leave USING out.")
    if found.takes == "count" and not _counts(value, grouped):
        raise MqlError('method "count" needs a count', node.on.span, "Write ANOMALY ON count(*), or use auto.")
    if (found.takes == "siblings") != ("among" in options):
        hint = "Write ANOMALY ON cpu AMONG cluster: the siblings are the rows of the same cluster and window."
        raise MqlError("peers and AMONG go together", span, hint)
    return found


def _parameters(
    method: Method, node: syntax.Anomaly, options: Mapping[str, object], window: Window, scope: Scope
) -> tuple[tuple[str, float | int | str | None], ...]:
    """All parameters of the method, with what the query says of them."""
    found: dict[str, float | int | str | None] = {p.name: p.default for p in method.parameters}
    written: dict[str, Span] = {}
    if node.method is not None:
        names = [parameter.name for parameter in method.parameters]
        if node.method.args and method.name != "mad":
            hint = f"Write {method.name}({names[0]} => …)." if names else None
            raise MqlError("parameters of a method are named", node.method.args[0].span, hint)
        pairs = [*zip(names, node.method.args, strict=False), *node.method.named]
        for name, value in pairs:
            parameter = method.parameter(name.lower())
            if parameter is None:
                hint = did_you_mean(name, names) or f"There are: {', '.join(names)}."
                raise MqlError(f'method "{method.name}" has no parameter "{name}"', value.span, hint)
            found[parameter.name] = _value(parameter, value, scope)
            written[parameter.name] = value.span
    memory = _windows(options, "history", _every(window), scope)
    if memory is not None:
        if method.memory is None:
            hint = "Leave it out; set the method's parameters."
            raise MqlError(f'method "{method.name}" has no HISTORY', node.span, hint)
        parameter = method.parameter(method.memory)
        assert parameter is not None
        found[method.memory] = int(_within(parameter, memory, node.span, scale=f"{memory} windows"))
    if method.name == "seasonal":
        _seasonal(found, written, node.span, window)
    if "timezone" in found:
        if window.zone is not None and "timezone" not in written:
            found["timezone"] = window.zone
        _check_zone(str(found["timezone"]), written.get("timezone", node.span))
    return tuple(found.items())


def _seasonal(
    found: dict[str, float | int | str | None], written: Mapping[str, Span], span: Span, window: Window
) -> None:
    period = found["period"]
    assert isinstance(period, int)
    if period % _every(window):
        hint = "Choose a window that fits into the period a whole number of times."
        raise MqlError("the period is no multiple of the window", written.get("period", span), hint)
    if found["slots"] is None:
        found["slots"] = min(168 if period == 7 * DAY_US else 24, max(2, period // _every(window)))


def _check_zone(name: str, span: Span) -> None:
    if name not in ZONES:
        hint = did_you_mean(name, ZONES) or "Write a name such as 'UTC' or 'America/New_York'."
        raise MqlError(f'no time zone "{name}"', span, hint)


def _value(parameter: Parameter, node: syntax.Expression, scope: Scope) -> float | int | str:
    match parameter.kind:
        case "text":
            bound = bind_constant(node, scope)
            if not isinstance(bound.value, str):
                raise MqlError(f'"{parameter.name}" is a text', node.span, "Write it in quotes.")
            return bound.value
        case "length":
            return int(_within(parameter, constant_duration(node, scope), node.span))
        case "whole":
            low, high = parameter.low, parameter.high
            return constant_int(node, scope, None if low is None else int(low), None if high is None else int(high))
        case _:
            number = constant_number(node, scope)
            if parameter.name in ("percent", "up", "down", "min_spread_percent") and _is_percent(node):
                number *= 100
            return _within(parameter, number, node.span)


def _is_percent(node: syntax.Expression) -> bool:
    """`20%` where the parameter itself is in %: it means 20."""
    return isinstance(node, syntax.Literal) and isinstance(node.value, Decimal) and node.text.rstrip().endswith("%")


def _within(parameter: Parameter, value: float, span: Span, scale: str | None = None) -> float:
    low, high = parameter.low, parameter.high
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise MqlError(f'"{parameter.name}" can not be {scale or f"{value:g}"}', span, f"It may be {limits}.")
    return value


# --- what explains it ------------------------------------------------------------------------------------


def _explained(
    node: syntax.Anomaly,
    options: Mapping[str, object],
    value: Bound,
    of: Bound | None,
    scope: Scope,
    grouped: Grouped,
) -> Explained | None:
    """EXPLAIN BY: the parts of the measure are added up for each sub-group beside the groups themselves."""
    if "explain_by" not in options:
        return None
    items = _several(options["explain_by"])
    if len(items) > DIMENSIONS_MAX:
        hint = f"Name at most {DIMENSIONS_MAX}."
        raise MqlError(f"EXPLAIN BY names {len(items)} dimensions", items[DIMENSIONS_MAX].span, hint)
    top = constant_int(_expression(options["top"]), scope, 1, TOP_MAX) if "top" in options else TOP
    values = []
    for item in items:
        bound = bind_expression(item, grouped.plain)
        if bound in grouped.keys:
            hint = "Each group is explained by what is inside of it: name a property that is not in GROUP BY."
            raise MqlError("EXPLAIN BY names a key of the groups", item.span, hint)
        values.append(Convert(bound, VARCHAR))
    listed = Apply("list", tuple(values), ListOf(VARCHAR))
    cell = Convert(Apply("to_json", (listed,), JSON), VARCHAR)
    parts = _parts(value, grouped) if of is None else (_part(value, grouped), _part(of, grouped))
    found = [None if part is None else _split(part, cell) for part in parts]
    call = _aggregate(value, grouped)
    is_rate = call is not None and call.name == "rate"
    if is_rate and any(one.kind == "cumulate" for one in grouped.window.of or (grouped.window,)):
        hint = "A cumulating window's rates are of other lengths each time: watch a count or a sum."
        raise MqlError("EXPLAIN BY can not tell parts of this rate", node.on.span, hint)
    if found[0] is None or (len(found) > 1 and found[1] is None):
        hint = "Watch a count, a sum, a rate, an average, or a ratio of counts: count_if(ms > 500) / count(*)."
        raise MqlError("EXPLAIN BY needs a number whose parts add up", node.on.span, hint)
    numbers = [int(output.name[1:]) for call in found if call and isinstance(output := grouped.add(call), Output)]
    unit = grouped.window.size / 1e6 if is_rate else 1.0
    names = tuple(_called(item) for item in items)
    return Explained(names, top, numbers[0], numbers[1] if len(numbers) > 1 else None, unit)


def _part(bound: Bound, grouped: Grouped) -> Aggregate | None:
    return _aggregate(bound, grouped)


def _parts(value: Bound, grouped: Grouped) -> tuple[Aggregate | None, ...]:
    """The aggregates that the measure is made of; an average is a sum over a count."""
    call = _part(value, grouped)
    if call is not None and call.name == "avg" and not call.distinct:
        return replace(call, name="sum"), replace(call, name="count")
    return (call,)


def _split(call: Aggregate, cell: Bound) -> Aggregate | None:
    """The same amount for each sub-group; None where amounts of sub-groups do not add up to that of the group."""
    conditions = [] if call.filter is None else [call.filter]
    if call.distinct or call.name not in ("count", "count_if", "sum", "rate"):
        return None
    if call.name == "count_if":
        conditions.append(call.args[0])
    elif call.name == "count" and call.args:
        conditions.append(Apply("is_not_null", call.args, BOOLEAN))
    elif call.args:
        return Aggregate("@sums", (cell, *call.args), MapOf(VARCHAR, DOUBLE), filter=call.filter)
    only = conjunction(conditions) if conditions else None
    return Aggregate("histogram", (cell,), MapOf(VARCHAR, BIGINT), filter=only)


def _called(node: syntax.Expression) -> str:
    """What a dimension is called: by its path, or its text."""
    if isinstance(node, syntax.Property) and all(isinstance(step, syntax.Key) for step in node.steps):
        steps = [step.name for step in node.steps if isinstance(step, syntax.Key)]
        return ".".join(steps[1:] if steps[0] == "e" and len(steps) > 1 else steps)
    return format_expression(node)


# --- the other options -----------------------------------------------------------------------------------


def _check(
    method: Method,
    given: tuple[tuple[str, float | int | str | None], ...],
    options: Mapping[str, object],
    node: syntax.Anomaly,
    scope: Scope,
    limit: int | None,
    grouped: Grouped,
) -> None:
    threshold = dict(given).get("threshold")
    if method.sigmas and limit is None and isinstance(threshold, int | float) and threshold < SIGMAS_MIN:
        hint = "Below 3 standard deviations pure noise alarms all the time: add LIMIT 20 PER WINDOW, or raise it."
        span = node.span if node.method is None else node.method.span
        raise MqlError(f"a threshold of {threshold:g} needs a LIMIT", span, hint)
    transform = options.get("transform")
    if transform not in (None, "log"):
        raise MqlError(f'no transform "{transform}"', node.span, "There is: log.")
    if transform == "log" and method.takes not in ("value", "siblings"):
        raise MqlError(f'TRANSFORM does not go with "{method.name}"', node.span, "It judges the counts as they are.")
    by = options.get("by")
    if by is not None:
        _check_by(_several(by), scope, grouped)


def _check_by(items: Sequence[syntax.Expression], scope: Scope, grouped: Grouped) -> None:
    """BY says what GROUP BY says already: each group has a history of its own."""
    named = {grouped.finish(bind_expression(item, scope)) for item in items}
    hidden = grouped.window.by
    if named != {Output(f"k{i}", key.type) for i, key in enumerate(grouped.keys) if f"k{i}" != hidden}:
        raise MqlError("BY names other keys than GROUP BY", items[0].span, "Group by what should have its own history.")


def _for(method: Method, options: Mapping[str, object], scope: Scope) -> tuple[int, int]:
    if "for" not in options:
        return (PEERS_NEEDED, PEERS_OF) if method.takes == "siblings" else (1, 1)
    needed = constant_int(_expression(options["for"]), scope, 1, OF_MAX)
    out_of = constant_int(_expression(options["of"]), scope, 1, OF_MAX)
    if needed > out_of:
        span = _expression(options["for"]).span
        raise MqlError(f"{needed} of {out_of} windows can not be", span, f"Write FOR {out_of} OF {needed} WINDOWS.")
    return needed, out_of


def _budget(options: Mapping[str, object], scope: Scope) -> Budget | None:
    """ALERT BUDGET: judged by the history that WARMUP FROM HISTORY names, else by that of a week."""
    if "budget" not in options:
        return None
    alerts = constant_int(_expression(options["budget"]), scope, 1, 1_000_000)
    over = options.get("warmup_from")
    over_us = BUDGET_OVER_US if over is None else constant_duration(_expression(over), scope)
    return Budget(alerts, BUDGET_PER_US[str(options["budget_per"])], over_us)


def _guards(options: Mapping[str, object], scope: Scope, grouped: Grouped) -> tuple[float, tuple[Bound, ...]]:
    """MINIMUM: conditions over the row, and CHANGE, how far from the expected value at least."""
    change = 0.0
    guards: list[Bound] = []
    for item in _several(options.get("minimum", ())):
        least = _change(item, scope)
        if least is None:
            guards.append(grouped.finish(bind_condition(item, scope)))
        else:
            change = max(change, least)
    return change, tuple(guards)


def _change(node: syntax.Expression, scope: Scope) -> float | None:
    """`CHANGE >= x`, where the row has no column of that name."""
    if not isinstance(node, syntax.Binary) or not isinstance(node.left, syntax.Property) or len(node.left.steps) != 1:
        return None
    step = node.left.steps[0]
    if not isinstance(step, syntax.Key) or step.name.lower() != "change" or step.style != "bare":
        return None
    if step.name in scope.outputs or scope.shape.field(step.name) is not None:
        return None
    if node.op not in (">", ">="):
        raise MqlError("CHANGE is at least something", node.span, "Write MINIMUM CHANGE >= 0.02.")
    return abs(constant_number(node.right, scope))


def _windows(options: Mapping[str, object], name: str, every_us: int, scope: Scope) -> int | None:
    """A length of time as a number of windows so far apart; None where the clause does not say."""
    if f"{name}_windows" in options:
        return constant_int(_expression(options[f"{name}_windows"]), scope, 0, 1_000_000_000)
    if name not in options:
        return None
    node = _expression(options[name])
    us = constant_duration(node, scope)
    if us < 0:
        raise MqlError(f"{name.upper()} can not be negative", node.span)
    return -(-us // every_us)


def _expression(value: object) -> syntax.Expression:
    assert not isinstance(value, str | tuple)
    return value  # type: ignore[return-value]


def _several(value: object) -> Sequence[syntax.Expression]:
    assert isinstance(value, tuple)
    return value
