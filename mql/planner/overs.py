"""Window functions: what stands before OVER, over which rows, in which order, over which frame.

Rows are looked at in one of three ways. `run`: from row to row in event order, as they come, for as long as the stream
lasts. `window`: those of one window together, when it is over. `all`: all rows there are, which needs an end, or groups
whose changes are told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from mql import syntax
from mql.aggregates import aggregate_row
from mql.errors import MqlError, Span
from mql.overs import OverRow, over_row
from mql.planner.binding import (
    Scope,
    bind_condition,
    bind_constant,
    bind_expression,
    constant_duration,
    constant_int,
    constant_number,
)
from mql.planner.calls import widen
from mql.planner.collecting import BEHIND_GROUPS, Collector, bind_aggregate, without_aggregates
from mql.planner.expressions import Aggregate, Bound, Column, Constant, EventMeta, Output, walk
from mql.planner.logical import Frame, Group, Input, Over, OverCall, SortKey, Speak, find
from mql.planner.physical import Window
from mql.planner.scope import Aggregates
from mql.planner.showing import show_us
from mql.schema import BIGINT, NULL, TIMESTAMP

ROWS_MAX = 10_000
"""Rows of each partition that a frame may reach over, or lag and lead."""
CARRIED = frozenset(
    (
        *("count", "count_if", "sum", "min", "max", "avg", "stddev_samp", "stddev_pop", "var_samp", "var_pop"),
        *("bool_and", "bool_or", "bit_and", "bit_or", "bit_xor", "first", "last", "any_value", "arg_min", "arg_max"),
        *("corr", "covar_pop", "covar_samp", "regr_count", "regr_avgx", "regr_avgy", "regr_sxx", "regr_syy"),
        *("regr_sxy", "regr_slope", "regr_intercept", "regr_r2"),
    )
)
"""Aggregates that go on from what came before without its rows."""
OVER_ANOMALY = "Judge in one query what another in FROM computes."
_NAMED = re.compile(r"w\d+")
WINDOW_TIMES = ("window_start", "window_end")


@dataclass(frozen=True, slots=True)
class Around:
    """The rows that window functions look at: of a query over events or groups, in windows of this kind."""

    grouped: bool
    window: Window
    input: Input

    @property
    def ends(self) -> bool:
        return self.input.until.kind != "live"

    @property
    def in_windows(self) -> bool:
        return self.window.kind != "none"

    @property
    def shared(self) -> bool:
        """Whether windows have rows in common that are over together."""
        return self.window.kind in ("tumbling", "hopping", "cumulate", "several")

    def is_time(self, bound: Bound) -> bool:
        """Whether rows come in the order of this by themselves."""
        if self.grouped:
            names = WINDOW_TIMES if self.window.kind in ("tumbling", "hopping", "several") else ("window_end",)
            own = self.window.kind == "sliding" and bound == EventMeta("event_time")
            return self.in_windows and (own or (isinstance(bound, Output) and bound.name in names))
        if self.in_windows:
            return False
        path = self.input.info.time.path
        return bound == EventMeta("event_time") or (isinstance(bound, Column) and bound.path == path)

    def tells_window(self, bound: Bound) -> bool:
        return isinstance(bound, Output) and bound.name in WINDOW_TIMES


class Overs:
    """Takes the window functions of a query as they are bound; what else is called goes to `inner`."""

    def __init__(self, inner: Aggregates, around: Around) -> None:
        self.calls: list[OverCall] = []
        self._inner = inner
        self._around = around
        self._within = False

    def claim(self, call: syntax.Call, scope: Scope) -> Bound | None:
        if call.over is None:
            if over_row(call.name) is not None:
                hint = f"Write {call.name}(…) OVER (PARTITION BY … ORDER BY event_time())."
                raise MqlError(f'"{call.name}" needs OVER', call.span, hint)
            return self._inner.claim(call, scope)
        if self._within or (isinstance(self._inner, Collector) and self._inner.inside):
            raise _nested(call)
        self._within = True
        try:
            bound = _bind(call, call.over, scope, self._around)
        finally:
            self._within = False
        parts = [*bound.call.args, *bound.partition, *(key.expression for key in bound.order)]
        if any(_is_over(part) for part in (*parts, *((bound.call.filter,) if bound.call.filter is not None else ()))):
            raise _nested(call)
        if bound not in self.calls:
            self.calls.append(bound)
        return Output(f"w{self.calls.index(bound)}", bound.call.type)

    def remembered_us(self, ttl_us: int) -> int:
        """How long a partition that is silent is remembered: of rows of windows, ten windows at least."""
        around = self._around
        return max(ttl_us, 10 * around.window.size) if around.grouped and around.shared else ttl_us

    def over(self, finish: Callable[[Bound], Bound] = lambda bound: bound) -> tuple[OverCall, ...]:
        """The calls, with what they refer to as the rows below have it."""
        return tuple(finished(call, finish) for call in self.calls)


def calls_over(node: object) -> bool:
    """Whether a window function is called anywhere inside; without recursion."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, syntax.Call) and found.over is not None:
            return True
        if isinstance(found, tuple):
            waiting.extend(found)
        elif hasattr(found, "__dataclass_fields__") and not isinstance(found, syntax.Query):
            waiting.extend(getattr(found, name) for name in found.__dataclass_fields__)
    return False


def bind_qualify(
    query: syntax.Query, scope: Scope, overs: Overs, finish: Callable[[Bound], Bound] = lambda bound: bound
) -> Bound | None:
    """QUALIFY: a condition on window functions."""
    if query.qualify is None:
        return None
    bound = finish(bind_condition(query.qualify, scope))
    if not overs.calls:
        hint = "A condition on events stands in WHERE, one on groups in HAVING."
        raise MqlError("QUALIFY needs a window function", query.qualify.span, hint)
    return bound


def check_having(having: Bound | None, query: syntax.Query) -> None:
    """Refuses names of window functions in HAVING, which comes before them."""
    if having is not None and _is_over(having):
        assert query.having is not None
        raise MqlError("a window function can not stand in HAVING", query.having.span, BEHIND_GROUPS)


def bind_over_speak(query: syntax.Query, over: Over, emit: Speak) -> Speak:
    """What goes on from window to window, or is of all of them, needs rows that are final."""
    revised = query.emit is not None and query.emit.revisions
    if find(over, Group) is None or (emit.kind == "final" and emit.early_us is None and not revised):
        return emit
    if all(call.scope == "window" for call in over.calls) or find_window(over) == "none":
        return emit
    if query.emit is None:
        return replace(emit, early_us=None)
    raise MqlError("what goes on from window to window needs rows that are final", query.emit.span, "Leave EMIT out.")


def find_window(over: Over) -> str:
    """The kind of the windows below."""
    group = find(over, Group)
    return group.window.kind if isinstance(group, Group) else "none"


def told_of_forgetting(over: Over) -> tuple[str, ...]:
    """A warning, where the result depends on how long silent partitions are remembered."""
    if not any(call.forgets for call in over.calls):
        return ()
    return (
        f"a partition that is silent for more than {show_us(over.ttl_us)} begins anew; SETTINGS state_ttl = '2h' "
        "says how long it is remembered",
    )


def _is_over(bound: Bound) -> bool:
    """Whether it goes by what a window function gives, under the name that it has in the select list."""
    return any(isinstance(part, Output) and _NAMED.fullmatch(part.name) for part in walk(bound))


def _nested(call: syntax.Call) -> MqlError:
    hint = "Compute the inner one in a query in FROM."
    return MqlError("a window function stands inside another function of rows", call.span, hint)


# --- one call -----------------------------------------------------------------------------------------


def _bind(call: syntax.Call, over: syntax.Over, scope: Scope, around: Around) -> OverCall:
    plain = scope
    order_scope = replace(scope, outputs={"event_time": EventMeta("event_time"), **scope.outputs})
    partition = tuple(bind_expression(item, plain) for item in over.partition_by)
    order = tuple(
        SortKey(bind_expression(item.expression, order_scope), item.descending, bool(item.nulls_first))
        for item in over.order_by
    )
    row = over_row(call.name)
    bound = _function(row, call, scope) if row is not None else _aggregate(call, scope)
    frame = _frame(row, over, order, scope, around)
    if bound.name == "rate":
        _check_rate(frame, order, call, around)
    found = OverCall(bound, tuple(dict.fromkeys(partition)), order, frame, "run")
    return replace(found, scope=_scope(found, row, call, over, around))


def _function(row: OverRow, call: syntax.Call, scope: Scope) -> Aggregate:
    if call.distinct or call.filter is not None or call.order_by or call.named:
        hint = "Give the order behind OVER: OVER (ORDER BY …)."
        raise MqlError(f'"{row.name}" takes no DISTINCT, FILTER or ORDER BY', call.span, hint)
    args = list(call.args)
    if not row.least <= len(args) <= row.most:
        counts = f"{row.least}" if row.least == row.most else f"{row.least} to {row.most}"
        raise MqlError(
            f'"{row.name}" takes {counts} argument{"s" if row.most != 1 else ""}',
            call.span,
            f"Write {_example(row)}.",
            code="wrong-arguments",
        )
    extra: tuple[Constant, ...] = ()
    if row.constant is not None:
        number = row.default
        if len(args) > row.constant:
            number = constant_int(args.pop(row.constant), scope, 1, ROWS_MAX)
        extra = (Constant(number, BIGINT),)
    bound = [bind_expression(arg, scope) for arg in args]
    if bound and bound[0].type == NULL:
        raise MqlError(f'"{row.name}" needs a value', call.args[0].span, "Name a property.")
    type = bound[0].type if row.gives == "same" else row.gives
    assert not isinstance(type, str)
    if len(bound) == 2:
        bound[1] = _otherwise(bound[0], bound[1], args[1], scope)
    return Aggregate(row.name, tuple(bound), type, extra=extra)


def _otherwise(value: Bound, bound: Bound, node: syntax.Expression, scope: Scope) -> Bound:
    """What lag and lead give where there is no row: a constant of the value's type."""
    constant = bind_constant(node, scope)
    if constant.type not in (value.type, NULL, BIGINT):
        hint = "Give a constant of the same type."
        raise MqlError(f"{constant.type} can not stand for {value.type}", node.span, hint, code="type-mismatch")
    return widen(constant, value.type)


def _aggregate(call: syntax.Call, scope: Scope) -> Aggregate:
    call = _exact(call)
    row = aggregate_row(call.name)
    if row is None:
        raise MqlError(f'"{call.name}" is no window function', call.span, "OVER goes with aggregates, lag, row_number.")
    assert row.direct, row.name
    if call.order_by:
        raise MqlError(f'"{row.name}" takes its order from OVER', call.span, "Write OVER (ORDER BY …).")
    return bind_aggregate(row, call, scope)


def _check_rate(frame: Frame | None, order: tuple[SortKey, ...], call: syntax.Call, around: Around) -> None:
    """Refuses a rate over anything but a stretch of time."""
    of_time = bool(order) and (around.is_time(order[0].expression) or order[0].expression.type == TIMESTAMP)
    hint = "Give it one: rate(*) OVER (ORDER BY event_time() RANGE 5m PRECEDING)."
    if frame is None or not of_time or frame.unit != "range" or frame.start is None or frame.end is None:
        raise MqlError('"rate" before OVER needs a frame of time', call.span, hint)
    if frame.start == frame.end:
        raise MqlError("the frame has no length to divide by", call.span, hint)


def _exact(call: syntax.Call) -> syntax.Call:
    """What may be off by a little is computed exactly: the rows of a frame are there anyway."""
    match call.name.lower():
        case "approx_count_distinct":
            return replace(call, name="count", distinct=True)
        case "approx_quantile":
            return replace(call, name="quantile_cont", args=call.args[:2])
        case _:
            return call


def _frame(
    row: OverRow | None, over: syntax.Over, order: tuple[SortKey, ...], scope: Scope, around: Around
) -> Frame | None:
    """The frame: as written, or up to the row and its equals, or everything where nothing is ordered."""
    if row is not None and not row.framed:
        if over.frame is not None:
            hint = f'"{row.name}" looks at the whole partition.'
            raise MqlError(f'"{row.name}" has no frame', _span_of(over), f"{hint} Leave {over.frame.unit.upper()} out.")
        return None
    if over.frame is None:
        return Frame("range", None, 0) if order or row is not None else Frame("range", None, None)
    unit = over.frame.unit
    of_time = bool(order) and (around.is_time(order[0].expression) or order[0].expression.type == TIMESTAMP)
    if (
        unit == "range"
        and len(order) != 1
        and any(isinstance(one, tuple) for one in (over.frame.start, over.frame.end))
    ):
        raise MqlError(
            "RANGE needs one expression to order by", _span_of(over), "Write OVER (ORDER BY event_time() …)."
        )
    start = _bound(over.frame.start, unit, of_time, scope)
    end = _bound(over.frame.end, unit, of_time, scope)
    first = over.frame.start == "unbounded following" or over.frame.end == "unbounded preceding"
    if first or (start is not None and end is not None and start > end):
        raise MqlError("the frame ends before it begins", _span_of(over), "Write the earlier bound first.")
    return Frame(unit, start, end)


def _bound(bound: str | tuple[syntax.Expression, str], unit: str, of_time: bool, scope: Scope) -> int | float | None:
    if isinstance(bound, str):
        return 0 if bound == "current row" else None
    node, side = bound
    amount: int | float
    if unit == "rows":
        amount = constant_int(node, scope, 0, ROWS_MAX)
    elif of_time:
        amount = constant_duration(node, scope)
    else:
        amount = constant_number(node, scope)
        amount = int(amount) if amount == int(amount) else amount
    if amount < 0:
        raise MqlError("a frame's bound can not be negative", node.span, "Write PRECEDING or FOLLOWING.")
    return -amount if side == "preceding" else amount


def _scope(call: OverCall, row: OverRow | None, node: syntax.Call, over: syntax.Over, around: Around) -> str:
    """Which rows it is taken over. MqlError where that would need rows that never are all there."""
    in_order = len(call.order) == 1 and not call.order[0].descending and around.is_time(call.order[0].expression)
    of_rows = row is not None and not row.ranks and not call.order and not around.grouped and not around.in_windows
    if around.in_windows:
        in_window = not in_order or any(around.tells_window(item) for item in call.partition)
        if in_window and around.grouped and not around.shared:
            kind = {"session": "sessions", "sliding": "sliding windows"}.get(around.window.kind, "windows of events")
            if around.ends:
                return "all"
            hint = "Write OVER (… ORDER BY window_end), which goes on from row to row."
            raise MqlError(f"{kind} are never over together", node.span, hint)
        if in_window:
            return "window"
    elif around.grouped:
        return "all"
    why = _why_not_on(call, row) if in_order or of_rows else "without an order of time"
    if why is None and around.window.kind != "count":
        return "run"
    if around.ends:
        return "all"
    time = "window_end" if around.grouped else "event_time()"
    if why == "without an order of time":
        hint = f"Write OVER (… ORDER BY {time}), add a WINDOW, or ask a stretch of history: SINCE '-1h' UNTIL NOW."
        what = (
            "a descending order"
            if call.order and call.order[0].descending
            else "another order"
            if call.order
            else "no order"
        )
        raise MqlError(f"a stream without end has no last row, and this has {what}", node.span, hint)
    if why is None:
        raise MqlError("windows of events are not numbered together", node.span, "Put them into a query in FROM.")
    if row is not None and not row.framed:
        hint = "Add a WINDOW, or ask a stretch of history: SINCE '-1h' UNTIL NOW."
        raise MqlError(f'"{node.name}" can not go on {why}', node.span, hint)
    hint = "Give it a frame, such as ROWS 100 PRECEDING or RANGE 5m PRECEDING, or ask a stretch of history."
    raise MqlError(f'"{node.name}" can not go on {why}', node.span, hint)


def _why_not_on(call: OverCall, row: OverRow | None) -> str | None:
    """What keeps a call from going on from row to row, with state that is bounded."""
    if row is not None and not row.goes_on:
        return "before all rows are there"
    frame = call.frame
    if frame is None:
        return None
    if frame.end is None:
        return "up to a row that never comes"
    if frame.start is not None:
        return None
    if row is None and (call.call.name not in CARRIED or call.call.distinct):
        return "without keeping every row"
    return None


def finished(call: OverCall, finish: Callable[[Bound], Bound]) -> OverCall:
    """The call with each of its expressions changed."""
    inner = call.call
    made = replace(
        inner,
        args=tuple(finish(arg) for arg in inner.args),
        filter=None if inner.filter is None else finish(inner.filter),
    )
    order = tuple(replace(key, expression=finish(key.expression)) for key in call.order)
    return replace(call, call=made, partition=tuple(finish(item) for item in call.partition), order=order)


def _example(row: OverRow) -> str:
    inside = {"ntile": "4", "lag": "x", "lead": "x"}.get(row.name, "x" if row.least else "")
    return f"{row.name}({inside}) OVER (…)"


def _span_of(over: syntax.Over) -> Span | None:
    nodes = (*over.partition_by, *(order.expression for order in over.order_by))
    return nodes[-1].span if nodes else None


def plain_overs(scope: Scope, around: Around, clause: str) -> tuple[Scope, Overs]:
    """The scope for a clause of a query without groups in which window functions may stand."""
    refusing = without_aggregates(scope, clause).aggregates
    assert refusing is not None
    overs = Overs(refusing, around)
    return replace(scope, aggregates=overs), overs
