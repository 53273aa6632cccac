"""Queries that differ in their literals only: one plan for all of them, and a table of their literals.

A literal in WHERE, HAVING, the select list or an aggregate's argument becomes a column `__v0 __v1 …`, a query becomes a
row of the *roster* with its number `__q`, and the filter becomes a join of events and roster. The number is one more
key of every group and a hidden column of every row. What else a query says, windows and names among it, stays as
it is: that is the *skeleton*, equal for all of the family.

    SELECT path, count(*) AS n FROM requests WHERE user = 'ann' WINDOW TUMBLING 10s GROUP BY path HAVING n > 5
    SELECT path, count(*) AS n FROM requests WHERE user = 'bob' WINDOW TUMBLING 10s GROUP BY path HAVING n > 9

    # roster   __q  __v0   __v1
    #            0  'ann'     5
    #            1  'bob'     9
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mql.planner import windows
from mql.planner.digest import digest
from mql.planner.expressions import (
    Aggregate,
    Apply,
    Bound,
    Constant,
    Output,
    children,
    conjuncts,
    disjunction,
    rewrite,
    walk,
)
from mql.planner.logical import (
    Arrange,
    Filter,
    Group,
    Logical,
    Project,
    Sample,
    Scan,
    Speak,
    Windowed,
    chain,
)
from mql.planner.lower import sampling_sql, stages_of
from mql.planner.physical import Expand, Final, Partial, Plan, SelectRows, Stage
from mql.planner.rules import read_only_what_is_used
from mql.planner.sql import column_name, expression_sql, quote_identifier, storable
from mql.schema import BIGINT, BOOLEAN, DOUBLE, TIMESTAMP, VARCHAR, DataType, ListOf

QUERY = "__q"
"""The column with the query's number, in the roster and in all rows."""
KEY = "__key"
"""The hidden column with a row's `_key` as its query has it alone."""
_NUMBER = Output(QUERY, BIGINT)
_VARYING = frozenset(("=", "<>", "==", "!=", "<", "<=", ">", ">=", "between", "like", "ilike", "contains_text"))
_VARYING |= frozenset(("starts_with", "prefix", "ends_with", "suffix", "contains", "+", "-", "*", "/"))
"""Beside what a literal may vary: functions to which it makes no difference whether it is a constant or a column."""
_TYPES = (BIGINT, DOUBLE, VARCHAR, TIMESTAMP)
_WINDOWS = ("none", "tumbling", "hopping", "cumulate", "several")

Value = str | int | float | tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What a family's queries have in common. `where` are conditions, the roster's columns among them as Output;
    `types` of the roster's columns; `above_where` are the numbers of those that are needed above WHERE, too."""

    scan: Scan
    sample: Sample | None
    where: tuple[Bound, ...]
    above: Logical
    types: tuple[DataType, ...]
    above_where: tuple[int, ...]
    plan: Plan

    @property
    def key(self) -> str:
        """Equal for the queries of one family."""
        scan = replace(self.plan.scan, needles=None)
        sampled = None if self.sample is None else self.sample.sampled
        told = repr((scan, sampled, self.where, _without_scan(self.above), self.types, self.plan.result))
        return digest(told)


@dataclass(frozen=True, slots=True)
class Sibling:
    """A query as one of a family: the skeleton, its own literals, and how many rows it wants in total."""

    key: str
    skeleton: Skeleton
    values: tuple[Value, ...]
    limit: int | None


def sibling_of(top: Logical, plan: Plan) -> Sibling | None:
    """The query as one of a family; None where its plan cannot be shared with others that have other literals."""
    scan: Scan | None = None
    sample: Sample | None = None
    where: list[Bound] = []
    above: list[Logical] = []
    for node in chain(top):
        match node:
            case Scan():
                scan = node
            case Sample():
                sample = node
            case Filter() if not any(isinstance(one, Group) for one in chain(node)):
                where.append(node.predicate)
            case Speak() | Arrange() | Project() | Filter() | Group() | Windowed():
                above.append(node)
            case _:
                return None
    if scan is None or not _can_share(scan, sample, above, plan):
        return None
    literals = _Literals()
    conditions = tuple(literals.lift(one) for condition in where for one in conjuncts(_ordered(condition)))
    first_above = len(literals.values)
    limit, told = _without_limit(above)
    shared = _lifted(told, scan, literals)
    if not literals.values:
        return None
    above_where = tuple(range(first_above, len(literals.values)))
    skeleton = Skeleton(scan, sample, conditions, shared, tuple(literals.types), above_where, plan)
    return Sibling(skeleton.key, skeleton, tuple(literals.values), limit)


def family_plan(skeleton: Skeleton) -> Plan:
    """The plan that the queries of a family share: its first operator joins events with the roster."""
    above = read_only_what_is_used(skeleton.above)
    first, *others = stages_of(above, True)
    select, *more = first.operators
    assert isinstance(select, SelectRows | Partial), select
    expand = _expand(skeleton, above, select)
    told = replace(first, operators=(expand, replace(select, late=None), *more))
    stages = tuple(_numbered(stage, above) for stage in (told, *others))
    scan = replace(skeleton.plan.scan, needles=None)
    return replace(
        skeleton.plan, hash=skeleton.key, scans=(scan,), stages=stages, batch="", after_batch=(), warnings=()
    )


def _numbered(stage: Stage, above: Logical) -> Stage:
    """Operators that keep groups know which key is the query's number."""
    group = next((node for node in chain(above) if isinstance(node, Group)), None)
    if group is None:
        return stage
    query = f"k{group.keys.index(_NUMBER)}"
    return replace(
        stage, operators=tuple(replace(one, query=query) if isinstance(one, Final) else one for one in stage.operators)
    )


# --- what can be shared -----------------------------------------------------------------------------------


def _can_share(scan: Scan, sample: Sample | None, above: list[Logical], plan: Plan) -> bool:
    """Live queries over one source, whose rows depend on no other rows than those of their own windows and keys."""
    if plan.explain is not None or len(plan.scans) > 1 or plan.lookups or plan.as_live:
        return False
    if scan.info.bounded or scan.since.kind != "live" or scan.until.kind != "live":
        return False
    if sample is not None and sample.sampled.per_second is not None:
        return False
    return all(_node_can_share(node) for node in above)


def _node_can_share(node: Logical) -> bool:
    match node:
        case Group(window=window, keys=keys):
            if window.kind not in _WINDOWS or windows.has_gaps(window) or node.filled is not None:
                return False
            # Over everything, there is a row even where there are no events.
            return window.kind != "none" or bool(keys)
        case Windowed(window=window):
            return window.kind in _WINDOWS and not windows.has_gaps(window)
        case _:
            return True


def _without_limit(above: list[Logical]) -> tuple[int | None, list[Logical]]:
    """LIMIT in total is counted where rows are given to their queries; it may differ among them."""
    for at, node in enumerate(above):
        if isinstance(node, Arrange) and not node.order and not node.per and not node.per_window:
            return node.limit, [*above[:at], *above[at + 1 :]]
    return None, above


# --- from literals to columns -------------------------------------------------------------------------------


class _Literals:
    """Takes literals out of expressions, in their order, and puts columns of the roster in their places."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.types: list[DataType] = []

    def lift(self, bound: Bound) -> Bound:
        return rewrite(bound, self._lifted)

    def column(self, value: Value, type: DataType) -> Output:
        self.values.append(value)
        self.types.append(type)
        return Output(f"__v{len(self.values) - 1}", type)

    def constant(self, bound: Bound) -> Bound:
        """A column for a constant that may vary; whatever else it is stays as it is."""
        return self.column(_value(bound), bound.type) if _may_vary(bound) else bound

    def _lifted(self, bound: Bound) -> Bound:
        match bound:
            case Apply("in", (operand, *items)) if _are_alike(items) and not isinstance(operand, Constant):
                values = tuple(sorted({_item(item) for item in items}, key=repr))
                listed = self.column(values, ListOf(items[0].type))
                return Apply("list_contains", (listed, operand), BOOLEAN)
            case Apply(name, args) if name in _VARYING and not all(isinstance(arg, Constant) for arg in args):
                return replace(bound, args=tuple(self.constant(arg) for arg in args))
            case _:
                return bound


def _may_vary(bound: Bound) -> bool:
    return isinstance(bound, Constant) and bound.type in _TYPES and isinstance(bound.value, str | int | float)


def _value(bound: Bound) -> Value:
    assert isinstance(bound, Constant)
    assert isinstance(bound.value, str | int | float)
    return storable(bound.value, nul=True) if isinstance(bound.value, str) else bound.value


def _item(bound: Bound) -> str | int | float:
    value = _value(bound)
    assert not isinstance(value, tuple)
    return value


def _are_alike(items: list[Bound]) -> bool:
    return all(_may_vary(item) and item.type == items[0].type for item in items)


def _ordered(predicate: Bound) -> Bound:
    """The operands of AND and OR in an order that does not depend on literals; equality with one of several is IN."""
    return rewrite(predicate, _in_order)


def _in_order(bound: Bound) -> Bound:
    match bound:
        case Apply("or", args):
            args = _as_in(args)
            return disjunction(sorted(args, key=_masked))
        case Apply("and", args):
            return replace(bound, args=tuple(sorted(args, key=_masked)))
        case _:
            return bound


def _as_in(args: tuple[Bound, ...]) -> tuple[Bound, ...]:
    operands = {arg.args[0] for arg in args if isinstance(arg, Apply) and arg.name == "="}
    if len(operands) != 1 or not all(isinstance(arg, Apply) and arg.name == "=" for arg in args):
        return args
    items = [part for arg in args for part in children(arg)[1:]]
    return (Apply("in", (operands.pop(), *items), BOOLEAN),) if _are_alike(items) else args


def _masked(bound: Bound) -> str:
    """The expression without its literals."""
    return repr(rewrite(bound, lambda part: Constant(None, part.type) if _may_vary(part) else part))


# --- the shared plan ------------------------------------------------------------------------------------------


def _lifted(above: list[Logical], scan: Scan, literals: _Literals) -> Logical:
    """The nodes above WHERE over rows that have their query's number and literals beside them."""
    found: Logical = scan
    hidden: list[Bound] = []
    group: Group | None = None
    for node in reversed(above):
        match node:
            case Group():
                aggregates = tuple(_lifted_call(call, literals) for call in node.aggregates)
                group = replace(node, input=found, aggregates=aggregates)
                found = group
            case Filter():
                found = Filter(found, _as_keys(literals.lift(_ordered(node.predicate)), group, hidden))
            case Project():
                items = tuple(
                    (name, _as_keys(literals.lift(literals.constant(item)), group, hidden)) for name, item in node.items
                )
                found = Project(found, (*items, (QUERY, _as_keys(_NUMBER, group, hidden))))
            case Arrange():
                number = _as_keys(_NUMBER, group, hidden)
                found = replace(node, input=found, per=(number, *node.per) if node.limit is not None else node.per)
            case Windowed() | Speak():
                found = replace(node, input=found)
            case _:
                raise AssertionError(node)
    return _finished(found, scan, tuple(hidden), tuple(literals.types))


def _lifted_call(call: Aggregate, literals: _Literals) -> Aggregate:
    only = None if call.filter is None else literals.lift(call.filter)
    return replace(call, args=tuple(literals.lift(arg) for arg in call.args), filter=only)


def _as_keys(bound: Bound, group: Group | None, hidden: list[Bound]) -> Bound:
    """Above a GROUP BY what belongs to a query is one more key: all rows of a query have the same."""
    if group is None:
        return bound

    def as_key(part: Bound) -> Bound:
        if not (isinstance(part, Output) and part.name.startswith(("__q", "__v"))):
            return part
        if part not in hidden:
            hidden.append(part)
        return Output(f"k{len(group.keys) + hidden.index(part)}", part.type)

    return rewrite(bound, as_key)


def _finished(node: Logical, scan: Scan, hidden: tuple[Bound, ...], types: tuple[DataType, ...]) -> Logical:
    """The scan and the group with what belongs to a query beside their own."""
    match node:
        case Scan():
            beside = ((QUERY, BIGINT), *((f"__v{i}", type) for i, type in enumerate(types)))
            return replace(node, beside=beside)
        case Group():
            below = _finished(node.input, scan, hidden, types)
            return replace(node, input=below, keys=(*node.keys, *hidden), hidden=len(hidden))
        case Speak() | Arrange() | Project() | Filter() | Windowed():
            return replace(node, input=_finished(node.input, scan, hidden, types))
        case _:
            raise AssertionError(node)


def _without_scan(node: Logical) -> tuple[object, ...]:
    """The nodes from the top, each without its input: what they say."""
    return tuple(
        replace(one, input=None)  # type: ignore[arg-type]
        for one in chain(node)
        if not isinstance(one, Scan)
    )


def _expand(skeleton: Skeleton, above: Logical, select: SelectRows | Partial) -> Expand:
    """The statement that gives each event once for each query that wants it."""
    sampling = None if skeleton.sample is None else sampling_sql(skeleton.sample.sampled)
    fixed = [] if sampling is None else [f"({sampling})"]
    joined: list[Bound] = []
    for condition in skeleton.where:
        if any(isinstance(part, Output) for part in walk(condition)):
            joined.append(condition)
        else:
            fixed.append(f"({expression_sql(condition)})")
    roster, on = _join(joined)
    beside = [quote_identifier(name) for name in (QUERY, *(f"__v{i}" for i in skeleton.above_where))]

    def statement(table: str, columns: str) -> str:
        events = f"(SELECT * FROM {table} WHERE {' AND '.join(fixed)})" if fixed else table
        return f"SELECT {columns} FROM {events} events JOIN {roster} ON {on}"

    place = [quote_identifier(name) for name in ("__t", "__s", "__o", "__a", "__m")]
    read = [quote_identifier(column_name(path)) for path, _ in _scan_of(above).columns]
    return Expand(
        sql=statement("batch", ", ".join((*place, *read, *beside))),
        late_sql=statement("batch", f"events.*, {quote_identifier(QUERY)}"),
        late=select.late,
        lateness_us=select.lateness_us,
        sampling=sampling,
    )


def _join(conditions: list[Bound]) -> tuple[str, str]:
    """The roster, and what joins an event to it. Where nothing in it is an equality, a list is taken apart, so that
    DuckDB can look events up by its items."""
    on = [expression_sql(one) for one in conditions]
    if not any(isinstance(one, Apply) and one.name in ("=", "==") for one in conditions):
        for at, one in enumerate(conditions):
            match one:
                case Apply("list_contains", (Output(name), operand)):
                    on[at] = f'({expression_sql(operand)} = "__item")'
                    listed = f'(SELECT *, unnest({quote_identifier(name)}) AS "__item" FROM roster) roster'
                    return listed, " AND ".join(on)
    return "roster", " AND ".join(on) or "true"


def _scan_of(top: Logical) -> Scan:
    return next(node for node in chain(top) if isinstance(node, Scan))
