"""Bound expressions: names looked up, types known, parameters replaced by their values.

Frozen data without callables: an expression prints, compares, hashes and travels. `mql.planner.sql` turns it into
DuckDB's SQL; nothing of a query's text gets there, only what stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import assert_never

from mql.schema import BIGINT, BOOLEAN, DOUBLE, TIMESTAMP, VARCHAR, DataType, Path


@dataclass(frozen=True, slots=True)
class Column:
    """A property of the event, by its path in the source's shape."""

    path: Path
    type: DataType


@dataclass(frozen=True, slots=True)
class EventMeta:
    """What is known of an event beside its properties. `kind`: event_time, arrival_time, split, offset, row_id;
    weight: how many events a sampled one stands for."""

    kind: str

    @property
    def type(self) -> DataType:
        match self.kind:
            case "event_time" | "arrival_time":
                return TIMESTAMP
            case "row_id":
                return VARCHAR
            case "weight":
                return DOUBLE
            case _:
                return BIGINT


@dataclass(frozen=True, slots=True)
class Constant:
    """A value: str, int, Decimal, float, bool, None; a TIMESTAMP or INTERVAL as integer microseconds, a DATE as
    integer days; a list as a tuple of Constants."""

    value: str | int | Decimal | float | bool | tuple[Constant, ...] | None
    type: DataType


@dataclass(frozen=True, slots=True)
class Apply:
    """A scalar function or an operator applied to arguments; `name` is a row of mql.functions."""

    name: str
    args: tuple[Bound, ...]
    type: DataType


@dataclass(frozen=True, slots=True)
class Convert:
    """A cast; `lenient` gives null where a value does not cast, else the query would fail on it."""

    operand: Bound
    type: DataType
    lenient: bool = True


@dataclass(frozen=True, slots=True)
class Choose:
    """CASE: the first `when` that is true decides; `otherwise` may be a null constant."""

    whens: tuple[tuple[Bound, Bound], ...]
    otherwise: Bound
    type: DataType


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True where any element of the list `operand` makes `predicate` true; the element is `Element` inside it."""

    operand: Bound
    predicate: Bound
    type: DataType


@dataclass(frozen=True, slots=True)
class Element:
    """The list element that an AnyOf looks at."""

    type: DataType


@dataclass(frozen=True, slots=True)
class Output:
    """A column of the rows that the operator before gives: a group key `k0`, an aggregate's result `a0`,
    `window_start`, `window_end`, a select item `c0`."""

    name: str
    type: DataType


Bound = Column | EventMeta | Constant | Apply | Convert | Choose | AnyOf | Element | Output


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate call: `name` is a row of mql.aggregates, `args` per row, `filter` per row; `extra` holds the
    constant arguments (the q of a quantile)."""

    name: str
    args: tuple[Bound, ...]
    type: DataType
    distinct: bool = False
    filter: Bound | None = None
    extra: tuple[Constant, ...] = ()


# --- looking into them and changing them --------------------------------------------------------------

FLIPPED = {"=": "=", "<>": "<>", "==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""The comparison that says the same with its sides exchanged."""

TRUE = Constant(True, BOOLEAN)
FALSE = Constant(False, BOOLEAN)


def type_of(bound: Bound) -> DataType:
    return bound.type


def children(bound: Bound) -> tuple[Bound, ...]:
    """The expressions directly inside, in the order in which `with_children` takes them."""
    match bound:
        case Apply(_, args):
            return args
        case Convert(operand):
            return (operand,)
        case Choose(whens, otherwise):
            return (*(part for when in whens for part in when), otherwise)
        case AnyOf(operand, predicate):
            return (operand, predicate)
        case Column() | EventMeta() | Constant() | Element() | Output():
            return ()
        case _:
            assert_never(bound)


def with_children(bound: Bound, parts: tuple[Bound, ...]) -> Bound:
    """The same expression over other parts."""
    match bound:
        case Apply():
            return replace(bound, args=parts)
        case Convert():
            return replace(bound, operand=parts[0])
        case Choose():
            return replace(bound, whens=tuple(zip(parts[:-1:2], parts[1:-1:2], strict=True)), otherwise=parts[-1])
        case AnyOf():
            return replace(bound, operand=parts[0], predicate=parts[1])
        case Column() | EventMeta() | Constant() | Element() | Output():
            return bound
        case _:
            assert_never(bound)


def walk(bound: Bound) -> Iterator[Bound]:
    """The expression and everything inside it, outermost first, without recursion."""
    waiting = [bound]
    while waiting:
        found = waiting.pop()
        yield found
        waiting.extend(reversed(children(found)))


def rewrite(bound: Bound, change: Callable[[Bound], Bound]) -> Bound:
    """The expression with every part changed, innermost first, without recursion."""
    waiting: list[tuple[Bound, bool]] = [(bound, False)]
    done: list[Bound] = []
    while waiting:
        found, parts_are_done = waiting.pop()
        inside = children(found)
        if inside and not parts_are_done:
            waiting.append((found, True))
            waiting.extend((part, False) for part in reversed(inside))
            continue
        if inside:
            parts = tuple(done[-len(inside) :])
            del done[-len(inside) :]
            if any(new is not old for new, old in zip(parts, inside, strict=True)):
                found = with_children(found, parts)
        done.append(change(found))
    return done.pop()


def columns_of(bound: Bound) -> frozenset[Path]:
    """The paths of every property that the expression reads."""
    return frozenset(part.path for part in walk(bound) if isinstance(part, Column))


def conjuncts(bound: Bound) -> tuple[Bound, ...]:
    """The conditions that must all be true for this one to be true."""
    return bound.args if isinstance(bound, Apply) and bound.name == "and" else (bound,)


def conjunction(parts: Iterable[Bound]) -> Bound:
    """All of the conditions as one, flat; TRUE where there is none."""
    return _joined("and", parts, TRUE)


def disjunction(parts: Iterable[Bound]) -> Bound:
    """Any of the conditions as one, flat; FALSE where there is none."""
    return _joined("or", parts, FALSE)


def normalise(bound: Bound) -> Bound:
    """The form in which expressions that say the same most often look the same: constants stand right of a
    comparison, the operands of AND, OR and IN in one order and each once."""
    return rewrite(bound, _normal)


def _normal(bound: Bound) -> Bound:
    match bound:
        case Apply("and" | "or" as name, args):
            parts = sorted(set(_flat(name, args)), key=repr)
            return parts[0] if len(parts) == 1 else Apply(name, tuple(parts), BOOLEAN)
        case Apply("in", (operand, *items)):
            return Apply("in", (operand, *sorted(set(items), key=repr)), BOOLEAN)
        case Apply(name, (left, right)) if name in FLIPPED and _turns(left, right):
            return Apply(FLIPPED[name], (right, left), bound.type)
        case _:
            return bound


def _turns(left: Bound, right: Bound) -> bool:
    """Whether a comparison of these two is written the other way round in its normal form."""
    if isinstance(left, Constant) != isinstance(right, Constant):
        return isinstance(left, Constant)
    return repr(right) < repr(left)


def _flat(name: str, parts: Iterable[Bound]) -> Iterator[Bound]:
    for part in parts:
        if isinstance(part, Apply) and part.name == name:
            yield from part.args
        else:
            yield part


def _joined(name: str, parts: Iterable[Bound], empty: Constant) -> Bound:
    found = tuple(part for part in _flat(name, parts) if part != empty)
    if len(found) < 2:
        return found[0] if found else empty
    return Apply(name, found, BOOLEAN)
