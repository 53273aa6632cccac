"""From written expressions to bound ones: names looked up, types checked, parameters put in.

`bind_expression` is the door. What a clause may see is its `Scope`; what it can not see is an error that says what
it was most likely meant to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import assert_never

from mql import syntax
from mql.aggregates import aggregate_names
from mql.errors import MqlError, Span, did_you_mean
from mql.functions import CALLABLE, common_type, is_number
from mql.learn import parse_type
from mql.planner.calls import apply, convert, described, item_type, widen
from mql.planner.constants import SECOND_US, constant_list, constant_of, duration_us, read_constant
from mql.planner.expressions import (
    FALSE,
    TRUE,
    AnyOf,
    Apply,
    Bound,
    Choose,
    Constant,
    Convert,
    Element,
    EventMeta,
    conjunction,
    disjunction,
    walk,
)
from mql.planner.properties import descend, items_of, lookup
from mql.planner.scope import Aggregates, Scope
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
    Shape,
    StructOf,
)

__all__ = [
    "Aggregates",
    "Scope",
    "apply",
    "bind_condition",
    "bind_constant",
    "bind_expression",
    "constant_duration",
    "constant_int",
    "constant_number",
    "constant_of",
    "constant_text",
    "duration_us",
]

SIZE_MAX = 20_000

_COMPARISONS = frozenset(("=", "<>", "==", "!=", "<", "<=", ">", ">="))
_TEXT_TESTS = {"==~": "regex_full", "=~": "regex_part", "==+": "contains_text"}
_META_CALLS: Mapping[str, Bound] = {
    "row_id": EventMeta("row_id"),
    "event_time": EventMeta("event_time"),
    "arrival_time": EventMeta("arrival_time"),
    "split": EventMeta("split"),
    "offset": EventMeta("offset"),
    "tick": Apply("epoch_ms", (EventMeta("arrival_time"),), BIGINT),
}


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
            return convert(bind_expression(operand, scope), _type_named(type), node.span)
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
    if any(isinstance(part, syntax.Property) for part in _parts(node)):
        raise MqlError("a constant must stand here", node.span, "Write a literal or a $parameter.")
    bound = bind_expression(node, replace(scope, shape=Shape(), outputs={}, aggregates=None, opened=None))
    if not isinstance(bound, Constant):
        raise MqlError("a constant must stand here", node.span, "Write a literal or a $parameter.")
    return bound


def _parts(node: object) -> Iterator[object]:
    """Everything inside a piece of the tree, itself first."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        if isinstance(found, tuple):
            waiting.extend(found)
        elif hasattr(found, "__dataclass_fields__"):
            waiting.extend(getattr(found, name) for name in found.__dataclass_fields__)


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


# --- values ------------------------------------------------------------------------------------------------


def _literal(value: str | int | Decimal | float | bool | None) -> Constant:
    found = constant_of(value)
    assert found is not None, value
    return found


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


# --- properties, predicates and [*] ------------------------------------------------------------------------


def _property(node: syntax.Property, scope: Scope) -> Bound:
    found, steps = lookup(node, scope)
    return descend(found, steps, node, scope)


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

    found, steps = lookup(node, scope)
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
        return build(descend(bound, steps, node, scope))
    items = items_of(descend(bound, steps[:cut], node, scope), node)
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
    what = described(bound)
    hint = f"Compare it with something, as in {what or 'x'} != 0." if is_number(bound.type) else None
    raise MqlError(f"a condition must stand here, this is {bound.type}", span, hint, code="type-mismatch")


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
    return bound if bound.type == VARCHAR else convert(bound, VARCHAR, span)


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
            read = read_constant(str(text.value), typed.type)
            if read is not None:
                return (typed, read) if swapped else (read, typed)
    joined = common_type((one, other))
    if joined is None:
        return None
    return left if one == joined else widen(left, joined), right if other == joined else widen(right, joined)


def _json_as(type: DataType) -> DataType:
    """The type that JSON is read as beside a value: of numbers the one that loses nothing."""
    return DOUBLE if is_number(type) else type


def _unlike(op: str, left: Bound, right: Bound) -> Bound:
    """`==` of types that have nothing in common: equal only where both are null."""
    nulls = [Apply("is_null", (part,), BOOLEAN) for part in (left, right) if not isinstance(part, Constant)]
    if len(nulls) < 2:
        return FALSE if op == "==" else TRUE
    return _negated(op == "!=", conjunction(nulls))


def _compare_hint(left: Bound, right: Bound) -> str:
    for bound, other in ((left, right), (right, left)):
        name = described(bound)
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
        _check_size(parts, span)
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
        element = _compare("=", args[0], Element(item_type(held)), span)
        return AnyOf(held, element, BOOLEAN)

    return build


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
    pairs = tuple((when, widen(then, type)) for when, then in zip(whens, thens, strict=True))
    return Choose(pairs, widen(otherwise, type), type)


def _list(items: tuple[Bound, ...], span: Span) -> Bound:
    if all(isinstance(item, Constant) for item in items):
        found = constant_list(tuple(item for item in items if isinstance(item, Constant)))
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
        found = _bare_call(node.name, node.span, scope)
        if found is not None:
            return found
    if node.over is not None or node.distinct or node.filter is not None or node.order_by or node.named:
        raise MqlError(f'"{node.name}" is no aggregate', node.span, "DISTINCT, FILTER and OVER go with aggregates.")
    if node.name in _META_CALLS or node.name in scope.calls or node.name == "source":
        raise MqlError(f'"{node.name}" takes no arguments', node.span, f"Write {node.name}().", code="wrong-arguments")
    if node.name not in CALLABLE:
        aggregates = () if scope.aggregates is None else aggregate_names()
        names = (*CALLABLE, *_META_CALLS, "source", *scope.calls, *aggregates)
        hint = did_you_mean(node.name, names)
        raise MqlError(f'no function "{node.name}"', node.span, hint, code="unknown-function")
    args = tuple(bind_expression(arg, scope) for arg in node.args)
    return apply(node.name, args, node.span, tuple(arg.span for arg in node.args))


def _bare_call(name: str, span: Span, scope: Scope) -> Bound | None:
    if name in ("split", "offset") and scope.sides:
        raise MqlError(f'"{name}" is of one event, and a joined row has several', span, "row_id() tells rows apart.")
    if name in scope.calls:
        return scope.calls[name]
    if name == "source":
        return Constant(scope.source_name, VARCHAR)
    return _META_CALLS.get(name)


def _call_of(name: str, span: Span) -> Callable[[tuple[Bound, ...]], Bound]:
    return lambda args: apply(name, args, span)
