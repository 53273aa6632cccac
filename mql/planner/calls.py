"""Functions and operators applied: which overload fits, what is converted, what is refused."""

from __future__ import annotations

import re

from mql.errors import MqlError, Span
from mql.functions import (
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
from mql.planner.constants import constant_as, read_constant
from mql.planner.expressions import Apply, Bound, Column, Constant, Convert, Output, walk
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
    StructOf,
)

GROWTH_MAX = 1000
_GROWING = frozenset(("replace", "regexp_replace", "regexp_replace_all"))


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
            found.append(widen(arg, same))
        elif cost(kind, arg.type) and kind in TYPES:
            found.append(convert(arg, TYPES[kind], span))
        elif cost(kind, arg.type) and kind == "number":
            found.append(Convert(arg, DOUBLE))
        elif cost(kind, arg.type) and kind.endswith("[]"):
            found.append(Convert(arg, ListOf(TYPES.get(kind[:-2], DOUBLE))))
        elif cost(kind, arg.type):
            found.append(convert(arg, VARCHAR, span))
        else:
            found.append(arg)
    return tuple(found)


def _with_item(row: Function, args: tuple[Bound, ...], span: Span) -> tuple[Bound, ...]:
    """A list and what it may hold, brought to one type."""
    held, item = args
    type = common_type((item_type(held), item.type)) if isinstance(held.type, ListOf) else item.type
    if type is None:
        raise _different(row, args, span)
    return widen(held, ListOf(type)), widen(item, type)


def _different(row: Function, args: tuple[Bound, ...], span: Span) -> MqlError:
    given = ", ".join(dict.fromkeys(str(arg.type) for arg in args))
    hint = f"They are {given}: cast them to one."
    return MqlError(f'the arguments of "{row.name}" have different types', span, hint, code="type-mismatch")


def _misfit(name: str, args: tuple[Bound, ...], span: Span, spans: tuple[Span, ...]) -> MqlError:
    rows = OVERLOADS[name]
    given = ", ".join(str(arg.type) for arg in args)
    wanted = " or ".join(dict.fromkeys(_signature(row) for row in rows))
    if rows[0].operator:
        shown = {"negate": "-", "regex_full": "==~", "regex_part": "=~", "contains_text": "==+"}.get(name, name)
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
            shown = described(arg) or "x"
            hint = f"Write {shown}::{TYPES[kind]}." if kind in TYPES else f"Write {wanted}."
            return MqlError(
                f'"{name}" takes {kind} here, this is {arg.type}', spans[bad[0]], hint, code="type-mismatch"
            )
    return MqlError(f'"{name}" does not take ({given})', span, f"Write {wanted}.", code="type-mismatch")


def _operand_hint(args: tuple[Bound, ...]) -> str | None:
    for arg in args:
        name = described(arg)
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


def convert(bound: Bound, type: DataType, span: Span) -> Bound:
    """A cast; null where a value does not cast. An error where no value of the type ever could."""
    if bound.type == type:
        return bound
    if isinstance(bound, Constant) and bound.value is None:
        return Constant(None, type)
    if isinstance(bound, Constant) and bound.type == VARCHAR and type in (TIMESTAMP, DATE, INTERVAL):
        read = read_constant(str(bound.value), type)
        if read is not None and read.type == type:
            return read
    if isinstance(bound, Constant) and bound.type == BIGINT and type == DOUBLE:
        return constant_as(bound, type)
    if not _casts(bound.type, type):
        numbered = bound.type == BIGINT and type == TIMESTAMP
        hint = "Of milliseconds since 1970: make_timestamp_ms(x)." if numbered else None
        raise MqlError(f"{bound.type} can not be cast to {type}", span, hint, code="type-mismatch")
    return Convert(bound, type)


def widen(bound: Bound, type: DataType) -> Bound:
    if bound.type == type:
        return bound
    if isinstance(bound, Constant) and (bound.value is None or type in (DOUBLE, TIMESTAMP)):
        return constant_as(bound, type)
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


def item_type(bound: Bound) -> DataType:
    assert isinstance(bound.type, ListOf)
    return bound.type.item


def described(bound: Bound) -> str | None:
    return ".".join(bound.path) if isinstance(bound, Column) else bound.name if isinstance(bound, Output) else None
