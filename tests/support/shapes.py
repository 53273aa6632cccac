"""Expressions as one line each, every bracket told: what a test of the parser compares."""

from __future__ import annotations

from mql.syntax import (
    AnyElement,
    Between,
    Binary,
    Call,
    Case,
    Cast,
    Duration,
    Exists,
    Expression,
    Index,
    InList,
    InQuery,
    IsDistinct,
    IsNull,
    Key,
    Like,
    ListLiteral,
    Literal,
    Param,
    Prefix,
    Property,
    Regex,
    Star,
    Unary,
)


def shape(node: Expression) -> str:
    """`a + b * 2` as `(+ a (* b 2))`."""
    match node:
        case Literal(value):
            return repr(value) if isinstance(value, str) else str(value)
        case Duration(us):
            return f"{us}us"
        case Param(name):
            return f"${name}"
        case Star(alias):
            return f"{alias}.*" if alias else "*"
        case Property(steps):
            return "".join(_step(step) for step in steps)
        case Unary(op, operand):
            return _form(op, operand)
        case Binary(op, left, right):
            return _form(op, left, right)
        case Regex(pattern):
            return f"/{pattern}/"
        case Like(operand, pattern, negated, ignore_case):
            return _form(_not(negated) + ("ilike" if ignore_case else "like"), operand, pattern)
        case Between(operand, low, high, negated):
            return _form(_not(negated) + "between", operand, low, high)
        case InList(operand, items, negated):
            return _form(_not(negated) + "in", operand, *items)
        case InQuery(operand, query, negated):
            return f"({_not(negated)}in {shape(operand)} {len(query.select)} columns)"
        case Exists():
            return "(exists)"
        case IsNull(operand, negated):
            return _form(_not(negated) + "null", operand)
        case IsDistinct(left, right, negated):
            return _form(_not(negated) + "distinct", left, right)
        case Case(operand, whens, otherwise):
            parts = [f"{shape(when)} -> {shape(then)}" for when, then in whens]
            head = "case" if operand is None else f"case {shape(operand)}:"
            return f"({head} {', '.join(parts)}{'' if otherwise is None else f' else {shape(otherwise)}'})"
        case Cast(operand, type_name, lenient):
            return f"({'try_' if lenient else ''}cast {shape(operand)} {type_name.text})"
        case ListLiteral(items):
            return f"[{' '.join(shape(item) for item in items)}]"
        case Call(name, args, named):
            given = [shape(arg) for arg in args] + [f"{key}=>{shape(value)}" for key, value in named]
            distinct = "distinct " if node.distinct else ""
            more = f" filter {shape(node.filter)}" if node.filter is not None else ""
            return f"{name}({distinct}{' '.join(given)}){more}{' over' if node.over else ''}"
        case other:
            return repr(other)


def _form(op: str, *operands: Expression) -> str:
    return f"({op} {' '.join(shape(operand) for operand in operands)})"


def _not(negated: bool) -> str:
    return "not-" if negated else ""


def _step(step: object) -> str:
    match step:
        case Key(name, "bare"):
            return name
        case Key(name, "dot"):
            return f".{name}"
        case Key(name, "tick"):
            return f"`{name}`"
        case Key(name):
            return f"['{name}']"
        case Index(value):
            return f"[{value}]"
        case AnyElement():
            return "[*]"
        case Prefix(text):
            return f"[^{text}]"
        case _:
            return repr(step)
