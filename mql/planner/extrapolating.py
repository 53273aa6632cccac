"""EXTRAPOLATE: what counts and sums over a sample say of all rows, and how far off that may be.

A sum T over a sample of the share p stands for T / p (Horvitz and Thompson, 1952). Its variance is estimated by
(1 - p) / p² · Q, Q being the sum of squares of what was sampled as one: rows, or all rows of a key of a sticky sample.
The bounds are those of a score interval (Wilson, 1927), z = 1.96, which stays honest where few were seen:

    T / p ± (z · sqrt(Q (1 - p) / p² + (z c / 2)²) + z² c / 2),  c = (1 - p) / p · the usual size, sqrt(Q / C)

of which a count takes its last part upward only, and never lies below what was counted.

A rate keeps the same number of rows of each second, so each row has a weight w of its own: how many rows its second had
for each that was kept. With the sums of w y, w (w - 1) y² and (w - 1)² y² in place of T / p, of the variance and of c's
square times C, the bounds are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mql import syntax
from mql.errors import NOWHERE, MqlError
from mql.planner.calls import apply, widen
from mql.planner.expressions import Aggregate, Apply, Bound, Choose, Constant, Convert, EventMeta, Output, rewrite
from mql.planner.logical import Logical, Sample, Sampled
from mql.schema import BIGINT, DOUBLE, VARCHAR

SCALED = ("count", "count_if", "sum", "rate")
WEIGHT = EventMeta("weight")
Z = 1.96
SHARES = 1_000_000
Items = tuple[tuple[str, Bound], ...]


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """How the aggregates of a query's rows become estimates; `add` takes the aggregates that bounds need."""

    share: float | None
    by: tuple[Bound, ...]
    calls: Sequence[Aggregate]
    add: Callable[[Aggregate], Bound]

    def scale(self, bound: Bound) -> Bound:
        """An expression over the rows of a sample as one over estimates."""
        return rewrite(bound, self._scaled)

    def items(self, items: Items) -> Items:
        """The select list with bounds behind each count and sum."""
        names = {name for name, _ in items}
        found: list[tuple[str, Bound]] = []
        for name, item in items:
            found.append((name, self.scale(item)))
            call = self._call(item)
            if call is None or call.name == "rate":
                continue
            for suffix, bound in zip(("_low", "_high"), self._bounds(item, call), strict=True):
                if name + suffix not in names:
                    found.append((name + suffix, bound))
        return tuple(found)

    def _call(self, bound: Bound) -> Aggregate | None:
        """The aggregate that a column is, if it is one that grows with the sample."""
        if not isinstance(bound, Output) or not bound.name[1:].isdecimal() or bound.name[0] != "a":
            return None
        call = self.calls[int(bound.name[1:])]
        return call if call.name in SCALED and not call.distinct else None

    def _scaled(self, bound: Bound) -> Bound:
        call = self._call(bound)
        if call is None:
            return bound
        estimate = self._weighed(call, WEIGHT) if self.share is None else _divided(bound, self.share)
        return _whole("round", estimate) if call.type == BIGINT else estimate

    def _weighed(self, call: Aggregate, weight: Bound) -> Bound:
        """The sum of what rows add, each times a weight."""
        name = "rate" if call.name == "rate" else "sum"
        return self.add(Aggregate(name, (_op("*", weight, _value(call)),), DOUBLE, filter=call.filter))

    def _bounds(self, item: Bound, call: Aggregate) -> tuple[Bound, Bound]:
        if self.share is None:
            total, estimate, variance, c = self._weighed_sizes(item, call)
        else:
            total, squares, units = self._sizes(item, call)
            p = self.share
            usual = _op("sqrt", _op("/", squares, _op("greatest", units, _number(1))))
            c = _op("*", usual, _number(Z * (1 - p) / p))
            variance = _op("*", squares, _number(Z * Z * (1 - p) / (p * p)))
            estimate = _divided(total, p)
        half = _op("sqrt", _op("+", variance, _op("*", _op("*", c, c), _number(Z * Z / 4))))
        shift = _op("*", c, _number(Z / 2))
        up = _op("+", estimate, _op("+", half, shift))
        if call.name == "sum":
            return _op("-", estimate, _op("+", half, shift)), up
        down = _op("greatest", _op("-", _op("+", estimate, shift), half), total)
        return _whole("floor", down), _whole("ceil", up)

    def _weighed_sizes(self, item: Bound, call: Aggregate) -> tuple[Bound, Bound, Bound, Bound]:
        """The aggregate itself, its estimate, z² times the variance, and z times c, where rows have weights."""
        value, more = _value(call), _op("-", WEIGHT, _number(1))
        square = _op("*", value, value)
        spread = self.add(Aggregate("sum", (_op("*", _op("*", WEIGHT, more), square),), DOUBLE, filter=call.filter))
        usual = self.add(Aggregate("sum", (_op("*", _op("*", more, more), square),), DOUBLE, filter=call.filter))
        counted = self.add(Aggregate("count", (value,), BIGINT, filter=call.filter))
        c = _op("sqrt", _op("/", usual, _op("greatest", widen(counted, DOUBLE), _number(1))))
        variance = _op("*", spread, _number(Z * Z))
        return widen(item, DOUBLE), self._weighed(call, WEIGHT), variance, _op("*", c, _number(Z))

    def _sizes(self, item: Bound, call: Aggregate) -> tuple[Bound, Bound, Bound]:
        """The aggregate itself, the sum of squares of what was sampled as one, and how many of these there were."""
        value = _value(call)
        total = widen(item, DOUBLE)
        if self.by:
            unit = _unit(self.by)
            squares = self.add(Aggregate("@squares", (unit, value), DOUBLE, filter=call.filter))
            units = self.add(Aggregate("count", (unit,), BIGINT, True, call.filter))
            return total, _or_none(squares), widen(units, DOUBLE)
        if call.name != "sum":
            return total, total, total
        squares = self.add(Aggregate("sum", (_op("*", value, value),), DOUBLE, filter=call.filter))
        units = self.add(Aggregate("count", call.args, BIGINT, filter=call.filter))
        return total, squares, widen(units, DOUBLE)


def extrapolation(
    node: syntax.Query, sample: Logical | None, calls: Sequence[Aggregate], add: Callable[[Aggregate], Bound]
) -> Extrapolation | None:
    """How a query's sample is extrapolated, if it is."""
    if not isinstance(sample, Sample) or not sample.sampled.extrapolate:
        return None
    assert node.sample is not None
    sampled = sample.sampled
    span = node.sample.span
    for clause, name in ((node.anomaly, "ANOMALY"), (_fill(node), "FILL")):
        if clause is not None:
            raise MqlError(f"{name} can not stand with EXTRAPOLATE", span, f"Leave EXTRAPOLATE or {name} out.")
    share = None if sampled.share is None else round(sampled.share * SHARES) / SHARES
    if not share and not sampled.per_second:
        raise MqlError("nothing can be told from an empty sample", span, "Sample more than 0%.")
    return Extrapolation(share, sampled.by, calls, add)


def check_extrapolated(node: syntax.Sample, sampled: Sampled, grouped: bool) -> None:
    """Refuses to extrapolate what has no counts and sums."""
    if sampled.extrapolate and not grouped:
        raise MqlError("EXTRAPOLATE needs an aggregate", node.span, "Add count(*) or sum(…).")


def _fill(node: syntax.Query) -> syntax.Expression | None:
    return node.windows[0].fill if node.windows else None


def _value(call: Aggregate) -> Bound:
    """What a row adds to a count or a sum."""
    one, none = _number(1), Constant(None, DOUBLE)
    if call.name == "sum" or (call.name == "rate" and call.args):
        return Convert(call.args[0], DOUBLE) if call.args[0].type != DOUBLE else call.args[0]
    if not call.args:
        return one
    if call.name == "count_if":
        return Choose(((call.args[0], one),), none, DOUBLE)
    return Choose(((apply("is_not_null", (call.args[0],), NOWHERE), one),), none, DOUBLE)


def _unit(by: tuple[Bound, ...]) -> Bound:
    """What a sticky sample takes as one, as a text that is never null."""
    named = (part for i, item in enumerate(by) for part in (Constant(f"k{i}", VARCHAR), item))
    return Convert(Apply("row", tuple(named), VARCHAR), VARCHAR)


def _or_none(bound: Bound) -> Bound:
    return apply("coalesce", (bound, _number(0)), NOWHERE)


def _divided(bound: Bound, share: float) -> Bound:
    return _op("/", widen(bound, DOUBLE), _number(share))


def _whole(name: str, bound: Bound) -> Bound:
    return Convert(_op(name, bound), BIGINT)


def _op(name: str, *args: Bound) -> Bound:
    return apply(name, args, NOWHERE)


def _number(value: float) -> Constant:
    return Constant(float(value), DOUBLE)
