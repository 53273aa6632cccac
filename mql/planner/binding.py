"""From written expressions to bound ones: names looked up, types checked, parameters put in.

`bind_expression` is the door. What a clause may see is its `Scope`; what it can not see is an error that says what
it was most likely meant to be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Protocol, assert_never

from mql import syntax
from mql.errors import MqlError, Span, did_you_mean, nearest
from mql.functions import (
    CALLABLE,
    CONSTANT_KINDS,
    OVERLOADS,
    TYPES,
    Function,
    check_constant,
    choose,
    common_type,
    cost,
    groups_of,
    is_number,
    result_type,
)
from mql.learn import parse_type
from mql.planner.expressions import (
    FALSE,
    TRUE,
    AnyOf,
    Apply,
    Bound,
    Choose,
    Column,
    Constant,
    Convert,
    Element,
    EventMeta,
    Output,
    conjunction,
    disjunction,
    walk,
)
from mql.planner.sql import json_pointer
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTERVAL,
    JSON,
    NULL,
    TIMESTAMP,
    VARCHAR,
    DataType,
    ListOf,
    MapOf,
    Path,
    Shape,
    StructOf,
)

SIZE_MAX = 20_000
GROWTH_MAX = 1000
BIGINT_MIN, BIGINT_MAX = -(2**63), 2**63 - 1
SECOND_US = 1_000_000

_COMPARISONS = frozenset(("=", "<>", "==", "!=", "<", "<=", ">", ">="))
_GROWING = frozenset(("replace", "regexp_replace", "regexp_replace_all"))
_TEXT_TESTS = {"==~": "regex_full", "=~": "regex_part", "==+": "contains_text"}
_META_CALLS: Mapping[str, Bound] = {
    "row_id": EventMeta("row_id"),
    "event_time": EventMeta("event_time"),
    "arrival_time": EventMeta("arrival_time"),
    "split": EventMeta("split"),
    "offset": EventMeta("offset"),
    "tick": Apply("epoch_ms", (EventMeta("arrival_time"),), BIGINT),
}


class Aggregates(Protocol):
    """Who takes aggregate and window calls: gives what stands for the call in the rows behind the aggregation, or
    None where the call is an ordinary function."""

    def claim(self, call: syntax.Call, scope: Scope) -> Bound | None: ...


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression may refer to.

    `aliases`: names that mean the source itself (`r.status`). `outputs`: names that an earlier step gave (select
    aliases, group keys, columns of a subquery), looked up before the shape if `outputs_first`, else after it.
    `sides`: names of fields of the shape (the sides of a join) under which a bare name is looked up too. `calls`:
    calls without arguments by name (`window_start`, `source` of merged sources). `opened` collects the names that an
    open shape did not know yet.
    """

    shape: Shape = field(default_factory=Shape)
    source_name: str = "source"
    params: Mapping[str, object] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()
    outputs: Mapping[str, Bound] = field(default_factory=dict)
    outputs_first: bool = True
    sides: tuple[str, ...] = ()
    calls: Mapping[str, Bound] = field(default_factory=dict)
    aggregates: Aggregates | None = None
    opened: set[Path] | None = None


def bind_expression(node: syntax.Expression, scope: Scope) -> Bound:
    """The expression with every name looked up and every type known. MqlError where that can not be."""
    match node:
        case syntax.Literal(value):
            return _literal(value)
        case syntax.Duration(us):
            return Constant(us, INTERVAL)
        case syntax.Instant(us):
            return Constant(us, TIMESTAMP)
        case syntax.DateLiteral(days):
            return Constant(days, DATE)
        case syntax.Param(name):
            return _parameter(name, node.span, scope)
        case syntax.Property():
            return _property(node, scope)
        case syntax.Unary():
            return _unary(node, scope)
        case syntax.Binary():
            return _binary(node, scope)
        case syntax.Like(operand, pattern):
            name = "ilike" if node.ignore_case else "like"
            return _negated(node.negated, _predicate((operand, pattern), _call_of(name, node.span), scope))
        case syntax.Between(operand, low, high):
            return _negated(node.negated, _predicate((operand, low, high), _between(node.span), scope))
        case syntax.InList():
            return _in_list(node, scope)
        case syntax.IsNull(operand):
            name = "is_not_null" if node.negated else "is_null"
            return _predicate((operand,), _call_of(name, node.span), scope)
        case syntax.IsDistinct(left, right):
            op = "==" if node.negated else "!="
            return _predicate((left, right), lambda args: _compare(op, args[0], args[1], node.span), scope)
        case syntax.Case():
            return _case(node, scope)
        case syntax.Cast(operand, type):
            return _convert(bind_expression(operand, scope), _type_named(type), node.span)
        case syntax.ListLiteral(items):
            return _list(tuple(bind_expression(item, scope) for item in items), node.span)
        case syntax.Call():
            return _call(node, scope)
        case syntax.Regex():
            raise MqlError("a regular expression stands only right of ==~ and =~", node.span)
        case syntax.Star():
            raise MqlError('"*" is no value here', node.span, "Name a property, or use count(*).")
        case syntax.InQuery() | syntax.Exists():
            raise MqlError("a subquery can not stand here", node.span, "Use it as a condition of WHERE, joined by AND.")
        case _:
            assert_never(node)


def bind_condition(node: syntax.Expression, scope: Scope) -> Bound:
    """An expression that decides about rows: BOOLEAN, or an error."""
    return _boolean(bind_expression(node, scope), node.span)


def bind_constant(node: syntax.Expression, scope: Scope) -> Constant:
    """A value that the query's text and its parameters settle."""
    bound = bind_expression(node, replace(scope, shape=Shape(), outputs={}, aggregates=None, opened=None))
    if not isinstance(bound, Constant):
        raise MqlError("a constant must stand here", node.span, "Write a literal or a $parameter.")
    return bound


def constant_int(node: syntax.Expression, scope: Scope, low: int | None = None, high: int | None = None) -> int:
    """A whole number, within bounds."""
    bound = bind_constant(node, scope)
    value = bound.value
    if isinstance(value, bool) or not isinstance(value, int) or bound.type != BIGINT:
        raise MqlError("a whole number must stand here", node.span)
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
        raise MqlError(f"{value} is out of bounds", node.span, f"It may be {limits}.")
    return value


def constant_number(node: syntax.Expression, scope: Scope) -> float:
    """A number, whole or not."""
    bound = bind_constant(node, scope)
    if isinstance(bound.value, bool) or not isinstance(bound.value, int | float | Decimal) or not is_number(bound.type):
        raise MqlError("a number must stand here", node.span)
    return float(bound.value)


def constant_text(node: syntax.Expression, scope: Scope) -> str:
    bound = bind_constant(node, scope)
    if not isinstance(bound.value, str):
        raise MqlError("a text must stand here", node.span, "Write it in quotes.")
    return bound.value


def constant_duration(node: syntax.Expression, scope: Scope) -> int:
    """A length of time in microseconds: a duration, a bare number of seconds, or a text such as '10s'."""
    bound = bind_constant(node, scope)
    match bound.value:
        case bool() | None | tuple():
            found = None
        case int() if bound.type == INTERVAL:
            found = bound.value
        case int() | float() if is_number(bound.type) and abs(bound.value) < 1e12:
            found = round(bound.value * SECOND_US)
        case str():
            found = duration_us(bound.value)
        case _:
            found = None
    if found is None:
        raise MqlError("a duration must stand here", node.span, "Write it as 250ms, 10s, 5m, 1h or 7d.")
    return found


_UNITS = {"us": 1, "ms": 1000, "s": SECOND_US, "m": 60 * SECOND_US, "h": 3600 * SECOND_US, "d": 86400 * SECOND_US}
_UNITS |= {"w": 7 * _UNITS["d"], "sec": SECOND_US, "min": _UNITS["m"], "second": SECOND_US, "seconds": SECOND_US}
_UNITS |= {"minute": _UNITS["m"], "minutes": _UNITS["m"], "hour": _UNITS["h"], "hours": _UNITS["h"]}
_UNITS |= {"day": _UNITS["d"], "days": _UNITS["d"]}


def duration_us(text: str) -> int | None:
    """`10s`, `-1h`, `1h30m`, `1.5 hours` in microseconds; None where the text is no duration."""
    cleaned = text.strip().lower()
    sign, cleaned = (-1, cleaned[1:]) if cleaned.startswith("-") else (1, cleaned)
    parts = re.findall(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*([a-z]+)", cleaned, re.ASCII)
    if not parts or re.sub(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*([a-z]+)", "", cleaned, flags=re.ASCII).strip():
        return None
    if any(unit not in _UNITS for _, unit in parts):
        return None
    return sign * sum(round(Decimal(amount) * _UNITS[unit]) for amount, unit in parts)


# --- values ------------------------------------------------------------------------------------------------


def constant_of(value: object) -> Constant | None:
    """A Python value as a constant, None where MQL has no such type. A datetime without a zone is UTC."""
    match value:
        case None:
            return Constant(None, NULL)
        case bool():
            return Constant(value, BOOLEAN)
        case int():
            return Constant(value, BIGINT) if BIGINT_MIN <= value <= BIGINT_MAX else Constant(float(value), DOUBLE)
        case float():
            return Constant(value, DOUBLE)
        case Decimal():
            return Constant(float(value), DOUBLE)
        case str():
            return Constant(value, VARCHAR)
        case timedelta():
            return Constant(value // timedelta(microseconds=1), INTERVAL)
        case datetime():
            aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
            return Constant((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1), TIMESTAMP)
        case date():
            return Constant((value - date(1970, 1, 1)).days, DATE)
        case list() | tuple():
            items = [constant_of(item) for item in value]
            return _constant_list(tuple(item for item in items if item is not None)) if None not in items else None
        case _:
            return None


def _literal(value: str | int | Decimal | float | bool | None) -> Constant:
    found = constant_of(value)
    assert found is not None, value
    return found


def _constant_list(items: tuple[Constant, ...]) -> Constant | None:
    item = common_type(item.type for item in items)
    if item is None or item == JSON:
        return None
    if not items:
        return Constant((), ListOf(NULL))
    return Constant(tuple(_constant_as(one, item) for one in items), ListOf(item))


def _constant_as(constant: Constant, type: DataType) -> Constant:
    """The constant as a value of a wider type (BIGINT as DOUBLE)."""
    if constant.type == type or constant.value is None:
        return Constant(constant.value, type)
    value = constant.value
    if type == DOUBLE and isinstance(value, int | float | Decimal):
        return Constant(float(value), DOUBLE)
    if type == TIMESTAMP and constant.type == DATE and isinstance(value, int):
        return Constant(value * 86400 * SECOND_US, TIMESTAMP)
    return replace(constant, type=type)


def _parameter(name: str, span: Span, scope: Scope) -> Constant:
    if name not in scope.params:
        hint = did_you_mean(name, scope.params) or f'Give the parameter "{name}" a value with the query.'
        raise MqlError(f'no value for parameter "{name}"', span, hint, code="unknown-parameter")
    found = constant_of(scope.params[name])
    if found is None:
        hint = "A parameter may be a text, a number, true, false, null, a time, a duration or a list of one of these."
        raise MqlError(f'parameter "{name}" has a value of no known type', span, hint)
    return found


def _type_named(name: syntax.TypeName) -> DataType:
    try:
        return parse_type(name.text)
    except MqlError as error:
        error.span = name.span
        raise


# --- properties --------------------------------------------------------------------------------------------


def _property(node: syntax.Property, scope: Scope) -> Bound:
    found, steps = _lookup(node, scope)
    return _descend(found, steps, node, scope)


def _lookup(node: syntax.Property, scope: Scope) -> tuple[Bound, tuple[syntax.Step, ...]]:
    """What the first steps of a property lead to, and the steps that are left."""
    try:
        return _looked_up(node, scope)
    except MqlError as error:
        error.span = error.span or node.span
        raise


def _looked_up(node: syntax.Property, scope: Scope) -> tuple[Bound, tuple[syntax.Step, ...]]:
    steps = node.steps
    first = steps[0]
    assert isinstance(first, syntax.Key)
    if _is_root(first, steps, scope):
        if len(steps) == 1:
            return Column((), JSON), ()
        inner = _named(steps[1:], scope)
        if inner is not None:
            return inner
        if scope.shape.field(first.name) is None:
            return _unknown(steps[1:], node, scope)
    if first.name in scope.aliases and len(steps) > 1:
        inner = _named(steps[1:], scope)
        if inner is not None:
            return inner
    found = _named(steps, scope)
    if found is not None:
        return found
    if first.name in scope.aliases:
        return (Column((), JSON), ()) if len(steps) == 1 else _unknown(steps[1:], node, scope)
    return _unknown(steps, node, scope)


def _is_root(first: syntax.Key, steps: tuple[syntax.Step, ...], scope: Scope) -> bool:
    """Whether `e` means the whole event here: always before brackets, else where nothing has that name."""
    if first.name != "e" or first.style != "bare":
        return False
    bracket = len(steps) > 1 and not (isinstance(steps[1], syntax.Key) and steps[1].style == "dot")
    return bracket or (scope.shape.field("e") is None and "e" not in scope.outputs and "e" not in scope.sides)


def _named(steps: tuple[syntax.Step, ...], scope: Scope) -> tuple[Bound, tuple[syntax.Step, ...]] | None:
    """A property, an output or a side's property whose name the steps begin with: of dotted names the longest."""
    first = steps[0]
    if not isinstance(first, syntax.Key):
        return None
    run = 1
    while run < len(steps) and isinstance(step := steps[run], syntax.Key) and step.style == "dot":
        run += 1
    if first.style == "bracket":
        run = 1
    ways = (_output, _field) if scope.outputs_first else (_field, _output)
    for length in range(run, 0, -1):
        name = ".".join(step.name for step in steps[:length] if isinstance(step, syntax.Key))
        for way in ways:
            found = way(name, scope)
            if found is not None:
                return found, steps[length:]
    return None


def _output(name: str, scope: Scope) -> Bound | None:
    """An output by its name, or by its name but for letter case and spaces (`e['COUNT(a)']` of `count( a )`)."""
    if name in scope.outputs:
        return scope.outputs[name]
    if not scope.outputs:
        return None
    plain = "".join(name.split()).lower()
    return next((bound for key, bound in scope.outputs.items() if "".join(key.split()).lower() == plain), None)


def _field(name: str, scope: Scope) -> Bound | None:
    top = scope.shape.field(name)
    if top is not None:
        return Column((name,), top.type)
    held = {side: scope.shape.type_of((side, name)) for side in scope.sides}
    found = [Column((side, name), type) for side, type in held.items() if type is not None]
    if len(found) > 1:
        sides = " or ".join(f'"{column.path[0]}.{name}"' for column in found)
        raise MqlError(f'"{name}" is ambiguous', None, f"Write {sides}.", code="ambiguous-name")
    return found[0] if found else None


def _unknown(
    steps: tuple[syntax.Step, ...], node: syntax.Property, scope: Scope
) -> tuple[Bound, tuple[syntax.Step, ...]]:
    """A name that nothing has: null until it appears if the source is open, else the user's mistake."""
    first = steps[0]
    if isinstance(first, syntax.Prefix):
        raise MqlError(f"[^'{first.text}'] stands for several properties", node.span, "Use it in SELECT alone.")
    if isinstance(first, syntax.Index) and scope.shape.open:
        return Constant(None, NULL), ()
    if not isinstance(first, syntax.Key):
        raise MqlError("the event is no list", node.span, "Name the property that holds the list first.")
    if scope.shape.open:
        if scope.opened is not None:
            scope.opened.add((first.name,))
        return Column((first.name,), JSON), steps[1:]
    name = first.name
    if len(steps) > 1 and isinstance(steps[1], syntax.Key) and steps[1].style == "dot":
        name = f"{first.name}.{steps[1].name}"
    raise MqlError(
        f'no property "{name}" in source "{scope.source_name}"',
        node.span,
        did_you_mean(name, _known(scope)) or did_you_mean(first.name, _known(scope)) or _listed(_known(scope)),
        code="unknown-property",
    )


def _known(scope: Scope) -> list[str]:
    """Every name that could have been meant, paths dotted."""
    found = list(scope.outputs)
    for top in scope.shape.fields:
        found.append(top.name)
        if isinstance(top.type, StructOf):
            found.extend(name if top.name in scope.sides else f"{top.name}.{name}" for name, _ in top.type.fields)
    return found


def _listed(names: list[str]) -> str | None:
    if not names:
        return None
    shown = ", ".join(names[:8])
    return f"Known are {shown}{', …' if len(names) > 8 else ''}."


def _descend(bound: Bound, steps: tuple[syntax.Step, ...], node: syntax.Property, scope: Scope) -> Bound:
    """Further steps into a value: fields of structs, elements of lists, paths in JSON."""
    for at, step in enumerate(steps):
        type = bound.type
        match step:
            case syntax.Prefix(text):
                raise MqlError(f"[^'{text}'] stands for several properties", node.span, "Use it in SELECT alone.")
            case syntax.AnyElement():
                rest = steps[at + 1 :]
                return _every(_items(bound, node), rest, node, scope)
            case syntax.Key(name) if isinstance(type, StructOf):
                bound = _struct_field(bound, name, node, scope)
            case syntax.Key(name) if type == JSON:
                bound = _json_step(bound, json_pointer((name,)))
            case syntax.Index(value) if type == JSON:
                bound = _json_step(bound, f"$[{value}]" if value >= 0 else f"$[#{value}]")
            case syntax.Index(value) if isinstance(type, ListOf):
                bound = Apply("element", (bound, Constant(value, BIGINT)), type.item)
            case syntax.Key(name):
                what = "a list" if isinstance(type, ListOf) else str(type)
                hint = f"Write [0].{name} for its first element, [*].{name} for any." if what == "a list" else None
                raise MqlError(f'"{_spelled(node, at, steps)}" is {what}: it has no "{name}"', node.span, hint)
            case syntax.Index():
                raise MqlError(f'"{_spelled(node, at, steps)}" is {type}, no list', node.span)
            case _:
                assert_never(step)
    return bound


def _spelled(node: syntax.Property, at: int, steps: tuple[syntax.Step, ...]) -> str:
    """The property as far as it was followed, dotted."""
    taken = node.steps[: len(node.steps) - len(steps) + at]
    keys = [step.name for step in taken if isinstance(step, syntax.Key)]
    return ".".join(keys[1:] if len(keys) > 1 and keys[0] == "e" else keys)


def _struct_field(bound: Bound, name: str, node: syntax.Property, scope: Scope) -> Bound:
    assert isinstance(bound.type, StructOf)
    fields = dict(bound.type.fields)
    if name in fields:
        if isinstance(bound, Column):
            return Column((*bound.path, name), fields[name])
        return Apply("field", (bound, Constant(name, VARCHAR)), fields[name])
    dotted = ".".join((*bound.path, name)) if isinstance(bound, Column) else name
    if scope.shape.open and isinstance(bound, Column):
        if scope.opened is not None:
            scope.opened.add((*bound.path, name))
        return Column((*bound.path, name), JSON)
    if scope.shape.open:
        return Constant(None, NULL)
    near = nearest(name, fields)
    before = dotted[: len(dotted) - len(name)]
    hint = f'Did you mean "{before}{near}"?' if near else _listed(list(fields))
    raise MqlError(f'no property "{dotted}" in source "{scope.source_name}"', node.span, hint, code="unknown-property")


def _json_step(bound: Bound, pointer: str) -> Bound:
    """One step down in JSON; steps by name, one after the other, are one look-up."""
    match bound:
        case Apply("json_get", (operand, Constant(str(before)))) if before.startswith("/") and pointer.startswith("/"):
            return Apply("json_get", (operand, Constant(before + pointer, VARCHAR)), JSON)
        case _:
            return Apply("json_get", (bound, Constant(pointer, VARCHAR)), JSON)


def _items(bound: Bound, node: syntax.Property) -> Bound:
    """What [*] goes through: a list, or the values of an object."""
    if isinstance(bound.type, ListOf):
        return bound
    if bound.type == JSON or isinstance(bound.type, StructOf):
        return Apply("json_items", (bound if bound.type == JSON else Convert(bound, JSON),), ListOf(JSON))
    raise MqlError(f"[*] needs a list, this is {bound.type}", node.span)


def _every(items: Bound, steps: tuple[syntax.Step, ...], node: syntax.Property, scope: Scope) -> Bound:
    """`list[*].field` as a value: the list of that field."""
    for step in steps:
        assert isinstance(items.type, ListOf)
        item = items.type.item
        match step:
            case syntax.Key(name) if isinstance(item, StructOf):
                inner = _struct_field(Element(item), name, node, scope)
                items = Apply("each_field", (items, Constant(name, VARCHAR)), ListOf(inner.type))
            case syntax.Key(name) if item == JSON:
                items = Apply("each_json", (items, Constant(json_pointer((name,)), VARCHAR)), ListOf(JSON))
            case _:
                raise MqlError("after [*] a value takes names of fields alone", node.span)
    return items


# --- predicates and [*] ------------------------------------------------------------------------------------


def _predicate(
    nodes: tuple[syntax.Expression, ...], build: Callable[[tuple[Bound, ...]], Bound], scope: Scope
) -> Bound:
    """A condition over operands; an operand with `[*]` in it makes it a condition that any element may meet."""
    wide = [at for at, node in enumerate(nodes) if isinstance(node, syntax.Property) and _has_any(node)]
    if not wide:
        return build(tuple(bind_expression(node, scope) for node in nodes))
    if len(wide) > 1:
        raise MqlError("only one side of a condition may have [*]", nodes[wide[1]].span)
    at = wide[0]
    node = nodes[at]
    assert isinstance(node, syntax.Property)
    others = {other: bind_expression(part, scope) for other, part in enumerate(nodes) if other != at}

    def inside(value: Bound) -> Bound:
        return build(tuple(others.get(position, value) for position in range(len(nodes))))

    found, steps = _lookup(node, scope)
    return _any_of(found, steps, node, scope, inside)


def _has_any(node: syntax.Property) -> bool:
    return any(isinstance(step, syntax.AnyElement) for step in node.steps)


def _any_of(
    bound: Bound,
    steps: tuple[syntax.Step, ...],
    node: syntax.Property,
    scope: Scope,
    build: Callable[[Bound], Bound],
) -> Bound:
    cut = next((at for at, step in enumerate(steps) if isinstance(step, syntax.AnyElement)), None)
    if cut is None:
        return build(_descend(bound, steps, node, scope))
    items = _items(_descend(bound, steps[:cut], node, scope), node)
    assert isinstance(items.type, ListOf)
    predicate = _any_of(Element(items.type.item), steps[cut + 1 :], node, scope, build)
    return AnyOf(items, predicate, BOOLEAN)


def _negated(negated: bool, bound: Bound) -> Bound:
    return Apply("not", (bound,), BOOLEAN) if negated else bound


def _boolean(bound: Bound, span: Span) -> Bound:
    if bound.type == BOOLEAN:
        return bound
    if bound.type == NULL:
        return Constant(None, BOOLEAN)
    if bound.type == JSON:
        return Convert(bound, BOOLEAN)
    what = _described(bound)
    hint = f"Compare it with something, as in {what or 'x'} != 0." if is_number(bound.type) else None
    raise MqlError(f"a condition must stand here, this is {bound.type}", span, hint, code="type-mismatch")


def _described(bound: Bound) -> str | None:
    return ".".join(bound.path) if isinstance(bound, Column) else bound.name if isinstance(bound, Output) else None


# --- operators ---------------------------------------------------------------------------------------------


def _unary(node: syntax.Unary, scope: Scope) -> Bound:
    operand = bind_expression(node.operand, scope)
    if node.op == "not":
        return Apply("not", (_boolean(operand, node.operand.span),), BOOLEAN)
    if isinstance(node.operand, syntax.Literal) and node.op == "-" and isinstance(node.operand.value, int | Decimal):
        return _literal(-node.operand.value)
    if node.op == "+":
        if not is_number(operand.type) and operand.type not in (NULL, JSON):
            raise MqlError(f"+ needs a number, this is {operand.type}", node.operand.span, code="type-mismatch")
        return operand
    if isinstance(operand, Constant) and isinstance(operand.value, int) and operand.type == INTERVAL:
        return Constant(-operand.value, INTERVAL)
    return apply("negate", (operand,), node.span)


def _binary(node: syntax.Binary, scope: Scope) -> Bound:
    if node.op in ("and", "or"):
        parts = [bind_condition(part, scope) for part in _chain(node, (node.op,))]
        return conjunction(parts) if node.op == "and" else disjunction(parts)
    if node.op in _COMPARISONS:
        return _predicate((node.left, node.right), lambda args: _compare(node.op, args[0], args[1], node.span), scope)
    if node.op in _TEXT_TESTS:
        return _predicate((node.left,), lambda args: _text_test(node, args[0], scope), scope)
    return _arithmetic(node, scope)


def _chain(node: syntax.Expression, ops: tuple[str, ...]) -> list[syntax.Expression]:
    """The operands of a chain of one operator, left to right, without recursion."""
    found: list[syntax.Expression] = []
    waiting: list[syntax.Expression] = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, syntax.Binary) and part.op in ops:
            waiting.extend((part.right, part.left))
        else:
            found.append(part)
    return found


def _arithmetic(node: syntax.Binary, scope: Scope) -> Bound:
    """Operators that associate to the left, followed along their left side without recursion."""
    spine: list[syntax.Binary] = []
    at: syntax.Expression = node
    while isinstance(at, syntax.Binary) and at.op in ("+", "-", "*", "/", "//", "%", "||"):
        spine.append(at)
        at = at.left
    found = bind_expression(at, scope)
    for part in reversed(spine):
        right = bind_expression(part.right, scope)
        span = node.left.span.to(part.span) if part.span else node.span
        found = _concat(found, right, span) if part.op == "||" else apply(part.op, (found, right), span)
    return found


def _concat(left: Bound, right: Bound, span: Span) -> Bound:
    if isinstance(left.type, ListOf) or isinstance(right.type, ListOf):
        return apply("||", (left, right), span)
    parts = [_as_text(part, span) for part in (left, right)]
    if isinstance(left, Apply) and left.name == "||":
        return Apply("||", (*left.args, parts[1]), VARCHAR)
    return Apply("||", tuple(parts), VARCHAR)


def _as_text(bound: Bound, span: Span) -> Bound:
    return bound if bound.type == VARCHAR else _convert(bound, VARCHAR, span)


def _compare(op: str, left: Bound, right: Bound, span: Span) -> Bound:
    """A comparison of two values, by the rules that hold for their types."""
    if op in ("==", "!=") and NULL in (left.type, right.type):
        operand = left if right.type == NULL else right
        if operand.type == NULL:
            return TRUE if op == "==" else FALSE
        return Apply("is_null" if op == "==" else "is_not_null", (operand,), BOOLEAN)
    pair = _alike(left, right)
    if pair is not None:
        return Apply(op, pair, BOOLEAN)
    if op in ("==", "!="):
        return _unlike(op, left, right)
    raise MqlError(
        f"{left.type} and {right.type} can not be compared", span, _compare_hint(left, right), code="type-mismatch"
    )


def _alike(left: Bound, right: Bound) -> tuple[Bound, Bound] | None:
    """The two made comparable; None where their types have nothing in common."""
    one, other = left.type, right.type
    if one == other or NULL in (one, other) or (is_number(one) and is_number(other)):
        return left, right
    if JSON in (one, other):
        if isinstance(one, ListOf | StructOf | MapOf) or isinstance(other, ListOf | StructOf | MapOf):
            return None
        return (Convert(left, _json_as(other)), right) if one == JSON else (left, Convert(right, _json_as(one)))
    for text, typed, swapped in ((left, right, False), (right, left, True)):
        if isinstance(text, Constant) and text.type == VARCHAR and typed.type in (TIMESTAMP, DATE, INTERVAL):
            read = _read_constant(str(text.value), typed.type)
            if read is not None:
                return (typed, read) if swapped else (read, typed)
    joined = common_type((one, other))
    if joined is None:
        return None
    return left if one == joined else _widen(left, joined), right if other == joined else _widen(right, joined)


def _json_as(type: DataType) -> DataType:
    """The type that JSON is read as beside a value: of numbers the one that loses nothing."""
    return DOUBLE if is_number(type) else type


def _widen(bound: Bound, type: DataType) -> Bound:
    if bound.type == type:
        return bound
    if isinstance(bound, Constant) and (bound.value is None or type in (DOUBLE, TIMESTAMP)):
        return _constant_as(bound, type)
    return Convert(bound, type)


def _read_constant(text: str, type: DataType) -> Constant | None:
    """A text as a time, a date or an interval."""
    if type == INTERVAL:
        us = duration_us(text)
        return None if us is None else Constant(us, INTERVAL)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    found = constant_of(at)
    return found if type == TIMESTAMP or at.time() != time(0) else constant_of(at.date())


def _unlike(op: str, left: Bound, right: Bound) -> Bound:
    """`==` of types that have nothing in common: equal only where both are null."""
    nulls = [Apply("is_null", (part,), BOOLEAN) for part in (left, right) if not isinstance(part, Constant)]
    if len(nulls) < 2:
        return FALSE if op == "==" else TRUE
    return _negated(op == "!=", conjunction(nulls))


def _compare_hint(left: Bound, right: Bound) -> str:
    for bound, other in ((left, right), (right, left)):
        name = _described(bound)
        if name is None:
            continue
        if bound.type == VARCHAR and isinstance(other, Constant) and is_number(other.type):
            return f"\"{name}\" is VARCHAR; write '{other.value}' or {name}::{other.type}."
        if isinstance(other, Constant) and other.type == VARCHAR and is_number(bound.type):
            return f'"{name}" is {bound.type}; write the number without quotes, or {name}::VARCHAR.'
        if not isinstance(bound, Constant):
            return f'"{name}" is {bound.type}; cast one side, as in {name}::{other.type}.'
    return f"Cast one side, as in x::{right.type}."


def _between(span: Span) -> Callable[[tuple[Bound, ...]], Bound]:
    def build(args: tuple[Bound, ...]) -> Bound:
        operand, low, high = args
        parts = (_compare(">=", operand, low, span), _compare("<=", operand, high, span))
        if isinstance(operand, Column | Constant | Element | Output | EventMeta):
            return conjunction(parts)
        _check_size((*parts,), span)
        return conjunction(parts)

    return build


def _in_list(node: syntax.InList, scope: Scope) -> Bound:
    items = tuple(bind_expression(item, scope) for item in node.items)
    if len(items) == 1 and isinstance(items[0].type, ListOf):
        held = items[0]
        if not isinstance(held, Constant):
            return _negated(node.negated, _predicate((node.operand,), _held_in(held, node.span), scope))
        assert isinstance(held.value, tuple)
        items = held.value
    spans = [item.span for item in node.items] if len(node.items) == len(items) else [node.span] * len(items)

    def build(args: tuple[Bound, ...]) -> Bound:
        if not items:
            return FALSE
        compared = [_compare("=", args[0], item, span) for item, span in zip(items, spans, strict=True)]
        return _membership(compared)

    return _negated(node.negated, _predicate((node.operand,), build, scope))


def _membership(compared: list[Bound]) -> Bound:
    """Equalities with one left side, as one IN."""
    pairs = [part.args for part in compared if isinstance(part, Apply) and part.name == "="]
    if len(pairs) < len(compared) or any(pair[0] != pairs[0][0] for pair in pairs):
        return disjunction(compared)
    if len(pairs) == 1:
        return compared[0]
    return Apply("in", (pairs[0][0], *(pair[1] for pair in pairs)), BOOLEAN)


def _held_in(held: Bound, span: Span) -> Callable[[tuple[Bound, ...]], Bound]:
    def build(args: tuple[Bound, ...]) -> Bound:
        element = _compare("=", args[0], Element(_item_type(held)), span)
        return AnyOf(held, element, BOOLEAN)

    return build


def _item_type(bound: Bound) -> DataType:
    assert isinstance(bound.type, ListOf)
    return bound.type.item


def _text_test(node: syntax.Binary, operand: Bound, scope: Scope) -> Bound:
    """`==~`, `=~` with a regular expression, `==+` with a text."""
    name = _TEXT_TESTS[node.op]
    if isinstance(node.right, syntax.Regex):
        right: Bound = Constant(node.right.pattern, VARCHAR)
    else:
        right = bind_expression(node.right, scope)
    return apply(name, (operand, right), node.span, (node.left.span, node.right.span))


def _case(node: syntax.Case, scope: Scope) -> Bound:
    if node.operand is None:
        whens = [bind_condition(when, scope) for when, _ in node.whens]
    else:
        operand = bind_expression(node.operand, scope)
        whens = [_compare("=", operand, bind_expression(when, scope), when.span) for when, _ in node.whens]
    otherwise: Bound = Constant(None, NULL) if node.otherwise is None else bind_expression(node.otherwise, scope)
    thens = [bind_expression(then, scope) for _, then in node.whens]
    type = common_type(part.type for part in (*thens, otherwise))
    if type is None:
        raise MqlError(
            "the branches of CASE have different types",
            node.span,
            f"They are {', '.join(sorted({str(part.type) for part in (*thens, otherwise)}))}: cast them to one.",
            code="type-mismatch",
        )
    _check_size((*whens, *thens), node.span)
    pairs = tuple((when, _widen(then, type)) for when, then in zip(whens, thens, strict=True))
    return Choose(pairs, _widen(otherwise, type), type)


def _list(items: tuple[Bound, ...], span: Span) -> Bound:
    if all(isinstance(item, Constant) for item in items):
        found = _constant_list(tuple(item for item in items if isinstance(item, Constant)))
        if found is not None:
            return found
    return apply("list", items, span)


def _check_size(parts: Iterable[Bound], span: Span) -> None:
    """Refuses what grows without bound because one written operand stands in several bound ones."""
    seen = 0
    for part in parts:
        for _ in walk(part):
            seen += 1
            if seen > SIZE_MAX:
                raise MqlError("the expression is too large", span, "Compute its inner part in a subquery first.")


# --- calls -------------------------------------------------------------------------------------------------


def _call(node: syntax.Call, scope: Scope) -> Bound:
    if scope.aggregates is not None:
        claimed = scope.aggregates.claim(node, scope)
        if claimed is not None:
            return claimed
    if not node.args:
        found = _bare_call(node.name, scope)
        if found is not None:
            return found
    if node.over is not None or node.distinct or node.filter is not None or node.order_by or node.named:
        raise MqlError(f'"{node.name}" is no aggregate', node.span, "DISTINCT, FILTER and OVER go with aggregates.")
    if node.name not in CALLABLE:
        names = (*CALLABLE, *_META_CALLS, "source", *scope.calls)
        hint = did_you_mean(node.name, names)
        raise MqlError(f'no function "{node.name}"', node.span, hint, code="unknown-function")
    args = tuple(bind_expression(arg, scope) for arg in node.args)
    return apply(node.name, args, node.span, tuple(arg.span for arg in node.args))


def _bare_call(name: str, scope: Scope) -> Bound | None:
    if name in scope.calls:
        return scope.calls[name]
    if name == "source":
        return Constant(scope.source_name, VARCHAR)
    return _META_CALLS.get(name)


def _call_of(name: str, span: Span) -> Callable[[tuple[Bound, ...]], Bound]:
    return lambda args: apply(name, args, span)


def apply(name: str, args: tuple[Bound, ...], span: Span, spans: tuple[Span, ...] = ()) -> Bound:
    """A function or an operator applied to arguments of any types: the overload that fits, its conversions done."""
    types = tuple(arg.type for arg in args)
    row = choose(name, types)
    if row is None:
        raise _misfit(name, args, span, spans)
    for at in range(len(args)):
        _check_argument(row, at, args, spans[at] if spans else span)
    if row.strict and any(isinstance(arg, Constant) and arg.value is None for arg in args):
        return Constant(None, result_type(row, types))
    fitted = _fitted(row, args, span)
    _check_growth(name, fitted, span)
    return Apply(name, fitted, result_type(row, tuple(arg.type for arg in fitted)))


def _fitted(row: Function, args: tuple[Bound, ...], span: Span) -> tuple[Bound, ...]:
    """The arguments, each converted to what its place takes."""
    kinds = [row.kind_of(at).rstrip("!") for at in range(len(args))]
    if "item" in kinds:
        return _with_item(row, args, span)
    same = common_type(arg.type for kind, arg in zip(kinds, args, strict=True) if kind in ("same", "lists"))
    if same is None:
        raise _different(row, args, span)
    found = []
    for kind, arg in zip(kinds, args, strict=True):
        if kind in ("same", "lists"):
            found.append(_widen(arg, same))
        elif cost(kind, arg.type) and kind in TYPES:
            found.append(_convert(arg, TYPES[kind], span))
        elif cost(kind, arg.type) and kind == "number":
            found.append(Convert(arg, DOUBLE))
        elif cost(kind, arg.type) and kind.endswith("[]"):
            found.append(Convert(arg, ListOf(TYPES.get(kind[:-2], DOUBLE))))
        elif cost(kind, arg.type):
            found.append(_convert(arg, VARCHAR, span))
        else:
            found.append(arg)
    return tuple(found)


def _with_item(row: Function, args: tuple[Bound, ...], span: Span) -> tuple[Bound, ...]:
    """A list and what it may hold, brought to one type."""
    held, item = args
    type = common_type((_item_type(held), item.type)) if isinstance(held.type, ListOf) else item.type
    if type is None:
        raise _different(row, args, span)
    return _widen(held, ListOf(type)), _widen(item, type)


def _different(row: Function, args: tuple[Bound, ...], span: Span) -> MqlError:
    given = ", ".join(dict.fromkeys(str(arg.type) for arg in args))
    hint = f"They are {given}: cast them to one."
    return MqlError(f'the arguments of "{row.name}" have different types', span, hint, code="type-mismatch")


def _misfit(name: str, args: tuple[Bound, ...], span: Span, spans: tuple[Span, ...]) -> MqlError:
    rows = OVERLOADS[name]
    given = ", ".join(str(arg.type) for arg in args)
    wanted = " or ".join(dict.fromkeys(_signature(row) for row in rows))
    if rows[0].operator:
        shown = "-" if name == "negate" else name
        return MqlError(
            f'"{shown}" does not take {given.replace(", ", " and ")}', span, _operand_hint(args), code="type-mismatch"
        )
    if not any(row.takes_count(len(args)) for row in rows):
        return MqlError(
            f'"{name}" does not take {len(args)} arguments', span, f"Write {wanted}.", code="wrong-arguments"
        )
    for row in rows:
        bad = [
            at for at, arg in enumerate(args) if row.takes_count(len(args)) and cost(row.kind_of(at), arg.type) is None
        ]
        if len(bad) == 1 and spans:
            arg, kind = args[bad[0]], row.kind_of(bad[0])
            shown = _described(arg) or "x"
            hint = f"Write {shown}::{TYPES[kind]}." if kind in TYPES else f"Write {wanted}."
            return MqlError(
                f'"{name}" takes {kind} here, this is {arg.type}', spans[bad[0]], hint, code="type-mismatch"
            )
    return MqlError(f'"{name}" does not take ({given})', span, f"Write {wanted}.", code="type-mismatch")


def _operand_hint(args: tuple[Bound, ...]) -> str | None:
    for arg in args:
        name = _described(arg)
        if name is not None and arg.type == VARCHAR:
            return f'"{name}" is VARCHAR; write {name}::BIGINT or {name}::DOUBLE.'
    return None


def _signature(row: Function) -> str:
    return f"{row.name}({', '.join(row.takes.split())})"


def _check_argument(row: Function, at: int, args: tuple[Bound, ...], span: Span) -> None:
    """Constants where only constants may stand, and of the form that is wanted."""
    kind, arg = row.kind_of(at), args[at]
    if not kind.endswith("!") and kind not in CONSTANT_KINDS:
        return
    if not isinstance(arg, Constant):
        raise MqlError(f'this argument of "{row.name}" must be a constant', span, "Write a literal or a $parameter.")
    if arg.value is None:
        return
    check_constant(kind, arg.value, span)
    if kind == "text!" and row.name.startswith("regexp_replace"):
        pattern = args[1]
        groups = groups_of(str(pattern.value)) if isinstance(pattern, Constant) else 0
        wanted = re.findall(r"\\(.?)", str(arg.value), re.DOTALL)
        if any(not (one == "\\" or (one.isdecimal() and int(one) <= groups)) for one in wanted):
            hint = f"Write \\1 to \\{groups} for its groups, \\0 for the match, \\\\ for a backslash."
            raise MqlError("the replacement names a group that is not there", span, hint)
    if kind == "group":
        pattern = args[at - 1]
        groups = groups_of(str(pattern.value)) if isinstance(pattern, Constant) else 0
        if not isinstance(arg.value, int) or not 0 <= arg.value <= groups:
            raise MqlError(
                f"the regular expression has no group {arg.value}", span, f"It has {groups}, counted from 1."
            )


def _check_growth(name: str, args: tuple[Bound, ...], span: Span) -> None:
    """Refuses replacements within replacements that could make a text longer without bound."""
    if name not in _GROWING:
        return
    growth = 1
    for part in walk(Apply(name, args, VARCHAR)):
        if isinstance(part, Apply) and part.name in _GROWING and isinstance(part.args[2], Constant):
            old, new = part.args[1], len(str(part.args[2].value))
            known = part.name == "replace" and isinstance(old, Constant) and old.value
            growth *= max(1, -(-new // len(str(old.value)))) if known and isinstance(old, Constant) else new + 1
    if growth > GROWTH_MAX:
        raise MqlError("these replacements could make a text too long", span, "Use fewer or shorter ones.")


def _convert(bound: Bound, type: DataType, span: Span) -> Bound:
    """A cast; null where a value does not cast. An error where no value of the type ever could."""
    if bound.type == type:
        return bound
    if isinstance(bound, Constant) and bound.value is None:
        return Constant(None, type)
    if isinstance(bound, Constant) and bound.type == VARCHAR and type in (TIMESTAMP, DATE, INTERVAL):
        read = _read_constant(str(bound.value), type)
        if read is not None and read.type == type:
            return read
    if isinstance(bound, Constant) and bound.type == BIGINT and type == DOUBLE:
        return _constant_as(bound, type)
    if not _casts(bound.type, type):
        raise MqlError(f"{bound.type} can not be cast to {type}", span, code="type-mismatch")
    return Convert(bound, type)


def _casts(source: DataType, target: DataType) -> bool:
    if NULL in (source, target) or JSON in (source, target) or VARCHAR in (source, target) or source == target:
        return True
    if is_number(source) or source == BOOLEAN:
        return is_number(target) or target == BOOLEAN
    if source in (TIMESTAMP, DATE):
        return target in (TIMESTAMP, DATE)
    if isinstance(source, ListOf) and isinstance(target, ListOf):
        return _casts(source.item, target.item)
    if isinstance(source, StructOf) and isinstance(target, StructOf):
        wanted = dict(target.fields)
        return dict(source.fields).keys() == wanted.keys() and all(
            _casts(of, wanted[name]) for name, of in source.fields
        )
    return False
