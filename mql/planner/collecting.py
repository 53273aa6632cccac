"""Aggregate calls: where they may stand, what they take, and what stands for them behind the aggregation."""

from __future__ import annotations

from dataclasses import replace

from mql import syntax
from mql.aggregates import OF_DISTINCT, OWN, UNMOVED_BY_DISTINCT, AggregateRow, aggregate_row, result_type
from mql.errors import MqlError
from mql.overs import over_row
from mql.planner.binding import Scope, bind_condition, bind_expression, constant_int, constant_number
from mql.planner.expressions import Aggregate, Bound, Constant, Convert, Output
from mql.schema import BIGINT, BOOLEAN, DOUBLE, JSON, NULL, VARCHAR

BEHIND_GROUPS = "It stands in SELECT, QUALIFY and ORDER BY; conditions on it go into QUALIFY."


class Collector:
    """Takes the aggregate calls of a query as they are bound; equal calls are computed once."""

    def __init__(self) -> None:
        self.calls: list[Aggregate] = []
        self._inside = False

    def claim(self, call: syntax.Call, scope: Scope) -> Bound | None:
        if call.over is not None or over_row(call.name) is not None:
            raise MqlError("a window function can not stand here", call.span, BEHIND_GROUPS)
        row = aggregate_row(call.name)
        if row is None or row is OWN:
            return None
        if self._inside:
            raise MqlError("an aggregate stands inside an aggregate", call.span)
        inner = replace(scope, outputs={})
        of_distinct = row.name == "rate" and call.distinct and _has_values(call)
        self._inside = True
        try:
            bound = bind_aggregate(row, replace(call, distinct=call.distinct and not of_distinct), inner)
        finally:
            self._inside = False
        return bind_expression(rate_of_distinct(call), scope) if of_distinct else self.add(bound)

    @property
    def inside(self) -> bool:
        """Whether the arguments of an aggregate are being bound."""
        return self._inside

    def add(self, call: Aggregate) -> Bound:
        if call not in self.calls:
            self.calls.append(call)
        return Output(f"a{self.calls.index(call)}", call.type)


def _has_values(call: syntax.Call) -> bool:
    return bool(call.args) and not any(isinstance(arg, syntax.Star) for arg in call.args)


def rate_of_distinct(call: syntax.Call) -> syntax.Expression:
    """`rate(DISTINCT x)` in other words: the sum of the distinct values over the seconds in which the rows came."""
    everything = (syntax.Star(),)
    rate, count = (syntax.Call(name, everything, span=call.span) for name in ("rate", "count"))
    total = replace(call, name="sum")
    return syntax.Binary("/", total, syntax.Binary("/", count, rate, call.span), call.span)


def bind_aggregate(row: AggregateRow, call: syntax.Call, scope: Scope) -> Aggregate:
    """The call with its arguments, checked."""
    args = [arg for arg in call.args if not isinstance(arg, syntax.Star)]
    condition = None if call.filter is None else bind_condition(call.filter, scope)
    extra: tuple[Constant, ...] = ()
    if row.constant in ("number", "integer"):
        error = (_error(row, args.pop(), scope),) if row.errors is not None and len(args) == 3 else ()
        if len(args) > 1:
            extra = (_aggregate_constant(row, args.pop(), scope), *error)
        elif row.default is None:
            raise MqlError(f'"{row.name}" needs a second argument', call.span, f"Write {_example(row)}.")
    most = max(row.args, 1) if row.name in ("count", "rate") else row.args
    if not row.args <= len(args) <= most:
        raise MqlError(f'"{row.name}" takes {_counted(row)}', call.span, f"Write {_example(row)}.")
    if any(isinstance(arg, syntax.Star) for arg in call.args) and row.name not in ("count", "rate"):
        raise MqlError(f'"{row.name}" can not take "*"', call.span, f"Write {_example(row)}.")
    if call.distinct and not args:
        raise MqlError("DISTINCT needs a value", call.span, "Name a property: count(DISTINCT user_id).")
    bound = tuple(_aggregable(row, bind_expression(arg, scope), arg, first=i == 0) for i, arg in enumerate(args))
    type = result_type(row, bound[0].type if bound else None)
    if call.distinct and row.name not in OF_DISTINCT and row.name not in UNMOVED_BY_DISTINCT:
        hint = f"Write {_example(row)}, or GROUP BY the values in a query in FROM."
        raise MqlError(f'"{row.name}" does not take DISTINCT', call.span, hint)
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


def _error(row: AggregateRow, node: syntax.Expression, scope: Scope) -> Constant:
    """How far an approximation may be off."""
    assert row.errors is not None
    _, low, high = row.errors
    value = constant_number(node, scope)
    if not low <= value <= high:
        hint = f"A share of the value, from {low:g} to {high:g}."
        raise MqlError(f"an error of {value:g} is out of bounds", node.span, hint)
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


def calls_aggregate(node: object) -> bool:
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


class _Refusing:
    """Stands where aggregates can not: tells so instead of "no such function"."""

    def __init__(self, clause: str) -> None:
        self._clause = clause

    def claim(self, call: syntax.Call, scope: Scope) -> Bound | None:
        if call.over is not None or over_row(call.name) is not None:
            raise MqlError(f"a window function can not stand in {self._clause}", call.span, BEHIND_GROUPS)
        if aggregate_row(call.name) is None:
            return None
        hint = "Conditions on aggregates go into HAVING." if self._clause == "WHERE" else None
        raise MqlError(f'"{call.name}" can not stand in {self._clause}', call.span, hint)


def without_aggregates(scope: Scope, clause: str) -> Scope:
    """The scope for a clause in which no aggregate may stand."""
    return replace(scope, aggregates=_Refusing(clause))
