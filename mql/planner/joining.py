"""JOIN, and IN and EXISTS with a query: which rows of what is read meet, and for how long they wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mql import syntax
from mql.catalog import SourceInfo, TableInfo
from mql.errors import MqlError, Span
from mql.functions import common_type
from mql.planner.binding import Scope, bind_condition, bind_expression, constant_duration
from mql.planner.bounds import time_bounds
from mql.planner.calls import widen
from mql.planner.collecting import without_aggregates
from mql.planner.expressions import (
    TRUE,
    Apply,
    Bound,
    Column,
    Constant,
    Convert,
    conjunction,
    conjuncts,
    walk,
)
from mql.planner.logical import (
    Derived,
    Enriched,
    Group,
    Input,
    Joined,
    Key,
    Logical,
    Merge,
    Scan,
    find,
    has_events,
    has_times,
    input_of,
    with_input,
)
from mql.planner.physical import NO_WINDOW, Window
from mql.planner.reading import Names, Read, Reading, as_one
from mql.planner.showing import show_us
from mql.schema import BOOLEAN, DOUBLE, JSON, VARCHAR, Field, Path, Shape, StructOf

WITHIN_MAX_US = 366 * 86_400_000_000
ENDLESS_US = 2**60
TTL_US = 3_600_000_000
JOINS_MAX = 16
INNER_NAME = "inner query"
FLIPPED = {">=": "<=", "<=": ">=", ">": "<", "<": ">"}
Asking = syntax.InQuery | syntax.Exists
One = Callable[[syntax.From], Read]
"""Binds one thing that stands in FROM."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What is joined so far: the input, the names of its sides and what each is like; `name` of a single one.

    `nested`: properties stand under their side's name. Else there is one side, whose properties stand by themselves.
    `shared`: what properties are that USING named.
    """

    input: Input
    shape: Shape
    names: tuple[str, ...]
    infos: tuple[SourceInfo, ...]
    aliases: frozenset[str]
    name: str | None
    nested: bool
    calls: Mapping[str, Bound]
    shared: Mapping[str, Bound] = field(default_factory=dict)


def bind_joins(query: syntax.Query, read: Read, reading: Reading, one: One, window: Window, grouped: bool) -> Read:
    """What FROM reads with all that is joined to it. Properties are then called by their side first."""
    if not query.joins:
        return read
    if len(query.joins) > JOINS_MAX:
        raise MqlError(f"at most {JOINS_MAX} joins can stand in one query", query.joins[JOINS_MAX].span)
    name = read.info.name if len(query.sources) != 1 else _name_of(query.sources[0])
    shape = Shape((Field(name, _struct(read.info.shape)),), read.info.shape.open)
    sides = Sides(read.input, shape, (name,), (read.info,), frozenset(), name, True, {})
    for join in query.joins:
        last = join is query.joins[-1]
        sides = _with_join(sides, join, reading, one, window, plain=last and not grouped)
    told = " join ".join(sides.names)
    first_wins = any(join.mantis_seconds is not None for join in query.joins)
    info = replace(as_one(told, sides.shape, sides.infos), encoding="columns", envelope=())
    calls = {"source": Constant(told, VARCHAR)}
    return Read(sides.input, info, frozenset(), calls, sides.names, first_wins, sides.shared)


def _with_join(sides: Sides, join: syntax.Join, reading: Reading, one: One, window: Window, plain: bool) -> Sides:
    table = reading.names.table(join.right)
    if table is not None:
        _check_read(table, join.right.span)
    name = _name_of(join.right)
    if name in sides.names:
        raise MqlError(f'two sides of the join are called "{name}"', join.right.span, f"Name one: {name} AS other.")
    read = None if table is not None else one(join.right)
    shape_of_right = table.shape if read is None and table is not None else read.info.shape if read else Shape()
    shape = Shape((*sides.shape.fields, Field(name, _struct(shape_of_right))), sides.shape.open or shape_of_right.open)
    opened: set[Path] = set()
    scope = Scope(
        shape=shape,
        source_name=" join ".join((*sides.names, name)),
        params=reading.names.params,
        sides=(*sides.names, name),
        shared=sides.shared,
        opened=opened,
    )
    shared = [(using, *_shared(using, join, scope, sides, name)) for using in join.using]
    conditions = _conditions(join, scope, name, [condition for _, condition, _ in shared])
    reading.opened.update(dict.fromkeys(opened, scope.source_name))
    if table is not None:
        _check_table(join, table)
        joined: Input = _enriched(sides, table, name, join.kind, conditions, reading)
        infos = sides.infos
    else:
        assert read is not None
        how = _how(join, sides, read, reading, window, plain, conditions, name)
        joined = _meeting(sides, read, name, join.kind, conditions, how, reading)
        infos = (*sides.infos, read.info)
    told = {**sides.shared, **{using: bound for using, _, bound in shared}}
    return replace(sides, input=joined, shape=shape, names=(*sides.names, name), infos=infos, name=None, shared=told)


# --- IN (query), EXISTS (query) ------------------------------------------------------------------------------


def memberships(
    where: syntax.Expression | None,
) -> tuple[list[Asking], syntax.Expression | None]:
    """The conditions of WHERE that ask a query, and the others."""
    asking: list[Asking] = []
    others: list[syntax.Expression] = []
    for part in _and_parts(where):
        negated = isinstance(part, syntax.Unary) and part.op == "not"
        inner = part.operand if isinstance(part, syntax.Unary) and negated else part
        if isinstance(inner, syntax.InQuery | syntax.Exists):
            asking.append(replace(inner, negated=inner.negated != negated))
        else:
            others.append(part)
    rest = None
    for part in others:
        rest = part if rest is None else syntax.Binary("and", rest, part, part.span)
    return asking, rest


def bind_memberships(
    asking: Iterable[Asking], read: Read, scope: Scope, where: Bound, reading: Reading, one: One
) -> Read:
    """What is read, less the rows that have no partner (or have one) in the queries that conditions ask. `where`: what
    else must hold of the rows, which is judged before."""
    for node in asking:
        kind = "anti" if node.negated else "semi"
        read = replace(read, input=_membership(node, kind, read, scope, where, reading, one))
        where = TRUE
    return read


def _membership(
    node: Asking,
    kind: str,
    read: Read,
    scope: Scope,
    where: Bound,
    reading: Reading,
    one: One,
) -> Input:
    what = "IN" if isinstance(node, syntax.InQuery) else "EXISTS"
    inner = node.query
    simple = not (inner.group_by or inner.windows or inner.limit or inner.having or inner.union or inner.joins)
    table = reading.names.table(inner.sources[0]) if len(inner.sources) == 1 else None
    by_itself = isinstance(node, syntax.Exists) or table is not None
    if by_itself and (not simple or len(inner.sources) != 1 or inner.ctes or inner.order_by):
        hint = "Write EXISTS (SELECT 1 FROM b WHERE b.id = a.id), with one source or table and conditions alone."
        raise MqlError(f"this query is too much for {what}", inner.span, hint)
    if by_itself:
        ref = inner.sources[0]
        name = _name_of(ref)
        right = None if table is not None else one(ref)
    else:
        name = INNER_NAME
        right = one(syntax.SubqueryRef(replace(inner, order_by=()), name, inner.span))
    shape_of_right = table.shape if table is not None else right.info.shape if right is not None else Shape()
    if table is not None and table.trouble is not None:
        _check_read(table, inner.sources[0].span)
    if scope.shape.field(name) is not None:
        raise MqlError(f'"{name}" is a property and a source here', inner.span, f"Name the source: {name} AS other.")
    both = replace(
        without_aggregates(scope, what),
        shape=Shape(
            (*scope.shape.fields, Field(name, _struct(shape_of_right))), scope.shape.open or shape_of_right.open
        ),
        sides=(*scope.sides, name),
        sides_first=True,
        aliases=scope.aliases - {name},
    )
    conditions: list[Bound] = []
    if isinstance(node, syntax.InQuery):
        conditions.append(_equal(node, both, scope, name, by_itself, shape_of_right))
    if by_itself and inner.where is not None:
        conditions.extend(conjuncts(bind_condition(inner.where, both)))
    sides = Sides(read.input, scope.shape, (), (read.info,), scope.aliases, None, bool(scope.sides), read.calls)
    split = _split(conditions, name, kind)
    split = replace(split, left_where=conjunction([split.left_where, where]))
    if table is not None:
        if node.within is not None:
            raise MqlError("a table has no time", node.span, "Leave WITHIN out: its rows are as they are now.")
        return _enriched(sides, table, name, kind, split, reading)
    assert right is not None
    how = _how_long(node, right, read, reading, split, what)
    return _meeting(sides, right, name, kind, split, how, reading)


def _equal(node: syntax.InQuery, both: Scope, scope: Scope, name: str, by_itself: bool, shape: Shape) -> Bound:
    """`x IN (SELECT y …)`: x equals y."""
    select = node.query.select
    told = [field.name for field in shape.fields if by_itself or field.name not in ("window_start", "window_end")]
    if by_itself:
        if len(select) != 1 or isinstance(select[0].expression, syntax.Star):
            raise MqlError("a query in IN gives one column", node.query.span, "Name it: IN (SELECT id FROM …).")
        y = bind_expression(select[0].expression, both)
    else:
        if len(told) != 1:
            raise MqlError(f"a query in IN gives one column, and this gives {len(told)}", node.query.span)
        of = next(field.type for field in shape.fields if field.name == told[0])
        y = Column((name, told[0]), of)
    x = bind_expression(node.operand, without_aggregates(scope, "IN"))
    type = common_type((x.type, y.type))
    if type is None:
        raise MqlError(f"{x.type} and {y.type} can not be compared", node.span, code="type-mismatch")
    return Apply("=", (widen(x, type), widen(y, type)), BOOLEAN)


def _how_long(node: Asking, right: Read, left: Read, reading: Reading, split: Split, what: str) -> How:
    if node.within is not None:
        _check_times(left.input, right.input, node.span)
        before, after = _within(node.within, reading, node.span)
        return How("interval", before, after)
    if _alike(left.input, right.input):
        return How("interval", 0, 0)
    if reading.ends:
        return How("interval", ENDLESS_US, ENDLESS_US)
    hint = f"Say how far apart rows may be: {what} (…) WITHIN 5m, or WITHIN (5m, 0s) for what came before."
    raise MqlError(f"{what} over a stream without end needs a bound", node.span, hint, code="unbounded-join")


# --- how rows meet -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class How:
    """See `Joined`."""

    how: str
    before_us: int
    after_us: int
    strict: bool = False
    window: Window | None = None
    unbounded: bool = False
    retracts: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """What a condition says: keys, of one side alone, of both; for ASOF how times compare."""

    keys: tuple[Key, ...]
    left_where: Bound
    right_where: Bound
    rest: Bound
    times: tuple[Apply, ...] = ()


def _conditions(join: syntax.Join, scope: Scope, right: str, shared: Sequence[Bound]) -> Split:
    if join.mantis_seconds is not None:
        return _of_both(join, scope, right)
    if shared:
        return _split(shared, right, join.kind, join.asof)
    if join.on is None:
        return Split((), TRUE, TRUE, TRUE)
    bound = bind_condition(join.on, without_aggregates(scope, "ON"))
    return _split(conjuncts(bound), right, join.kind, join.asof)


def _shared(name: str, join: syntax.Join, scope: Scope, sides: Sides, right: str) -> tuple[Bound, Bound]:
    """`USING (name)`: that both sides are equal, and what the name means behind the join. Event times are compared as
    an ASOF join does."""
    known = [side for side in sides.names if scope.shape.type_of((side, name)) is not None]
    if name not in sides.shared and len(known) > 1:
        told = " or ".join(f'"{side}.{name}"' for side in known)
        raise MqlError(f'"{name}" is ambiguous', join.span, f"Write ON with {told}.", code="ambiguous-name")
    left = sides.shared.get(name)
    if left is None:
        left = bind_expression(_property(known[0] if known else sides.names[0], name, join.span), scope)
    other = bind_expression(_property(right, name, join.span), scope)
    type = common_type((left.type, other.type))
    if type is None:
        raise MqlError(
            f'"{name}" is {left.type} and {other.type}', join.span, "Write ON with a cast.", code="type-mismatch"
        )
    left, other = widen(left, type), widen(other, type)
    comparison = ">=" if join.asof and name in {info.time.path and info.time.path[-1] for info in sides.infos} else "="
    told_as = {"right": other, "full": Apply("coalesce", (left, other), type)}.get(join.kind, left)
    return Apply(comparison, (left, other), BOOLEAN), told_as


def _property(side: str, name: str, span: Span) -> syntax.Property:
    return syntax.Property((syntax.Key(side, "tick"), syntax.Key(name, "bracket")), span)


def _of_both(join: syntax.Join, scope: Scope, right: str) -> Split:
    """Mantis' `join b 5 seconds on e['node']`: a property that both sides have, and that may be missing in both."""
    if not isinstance(join.on, syntax.Property):
        hint = "Write ON a.node = b.node WITHIN 5s for any other condition."
        raise MqlError("a join of so many seconds is on one property", join.span, hint)
    values = [bind_expression(join.on, replace(scope, sides=(side,))) for side in _of_side(scope.sides, right)]
    type = common_type(value.type for value in values)
    if type is None:
        raise MqlError("the property has different types in the two sources", join.on.span, code="type-mismatch")
    left, other = (widen(value, type) for value in values)
    return Split((Key(left, other, nulls=True),), TRUE, TRUE, TRUE)


def _of_side(sides: tuple[str, ...], right: str) -> tuple[str, str]:
    """The side that a Mantis join compares with the new one: the first."""
    return sides[0], right


def _split(conditions: Iterable[Bound], right: str, kind: str, asof: bool = False) -> Split:
    """Puts each condition where it can be judged first without changing what comes out."""
    keys: list[Key] = []
    lefts: list[Bound] = []
    rights: list[Bound] = []
    rest: list[Bound] = []
    times: list[Apply] = []
    for condition in conditions:
        of_right = {path[0] == right for path in _paths(condition)}
        key = _key(condition, right)
        if key is not None:
            keys.append(key[0])
            rest.extend([condition] if key[1] else [])
        elif asof and isinstance(condition, Apply) and condition.name in FLIPPED and of_right == {True, False}:
            times.append(condition)
        elif of_right == {True} and kind in ("inner", "left", "semi", "anti"):
            rights.append(condition)
        elif of_right == {False} and kind in ("inner", "right", "semi"):
            lefts.append(condition)
        elif condition != TRUE:
            rest.append(condition)
    return Split(tuple(keys), conjunction(lefts), conjunction(rights), conjunction(rest), tuple(times))


def _key(condition: Bound, right: str) -> tuple[Key, bool] | None:
    """An equality of the two sides, and whether equal keys alone do not settle it."""
    if not isinstance(condition, Apply) or condition.name not in ("=", "=="):
        return None
    one, other = condition.args
    of = [{path[0] == right for path in _paths(side)} for side in (one, other)]
    if of not in ([{False}, {True}], [{True}, {False}]):
        return None
    mine, theirs = (one, other) if of[0] == {False} else (other, one)
    type = common_type((mine.type, theirs.type))
    if type is None:
        return None
    nulls = condition.name == "=="
    if type == JSON:
        return Key(_as_number_or_text(mine), _as_number_or_text(theirs), nulls), True
    return Key(widen(mine, type), widen(theirs, type), nulls), False


def _as_number_or_text(bound: Bound) -> Bound:
    """JSON values that are equal, as texts that are: numbers in one spelling."""
    number = Convert(Convert(bound, DOUBLE), VARCHAR)
    return Apply("coalesce", (number, Convert(bound, VARCHAR)), VARCHAR)


def _paths(bound: Bound) -> Iterator[Path]:
    return (part.path for part in walk(bound) if isinstance(part, Column) and part.path)


def _how(
    join: syntax.Join,
    sides: Sides,
    read: Read,
    reading: Reading,
    window: Window,
    plain: bool,
    split: Split,
    name: str,
) -> How:
    """How far apart rows may be: as the query says, by windows, or for as long as state is kept."""
    if join.asof:
        return _asof(join, sides, read, reading, split, name)
    if isinstance(sides.input, Joined) and sides.input.retracts:
        hint = "Add WITHIN to the first join."
        raise MqlError("rows that can be withdrawn can not be joined again", join.span, hint)
    if join.mantis_seconds is not None or join.within is not None:
        _check_times(sides.input, read.input, join.span)
        within = join.within if join.within is not None else (join.mantis_seconds, join.mantis_seconds)
        before, after = _within(within, reading, join.span)
        return How("interval", before, after)
    if _alike(sides.input, read.input):
        return How("interval", 0, 0)
    if window.kind != "none" and _are_windowed(sides.input, window) and has_events(read.input):
        if window.kind not in ("tumbling", "hopping", "cumulate"):
            what = {"count": "windows of events", "several": "several windows at once", "session": "sessions"}
            told = what.get(window.kind, f"{window.kind} windows")
            hint = "Say how far apart rows may be, as in WITHIN 5m; the windows are then those of the joined rows."
            raise MqlError(f"a join inside of {told} needs a WITHIN", join.span, hint)
        return How("window", window.size, window.size, window=window)
    return _unbounded(join, reading, plain, split)


def _are_windowed(node: Input, window: Window) -> bool:
    """Whether rows lie in windows of the query: events, and what met inside of these windows."""
    match node:
        case Joined(how="window"):
            return node.window == window
        case Enriched(left):
            return _are_windowed(left, window)
        case _:
            return has_events(node)


def met_in(node: Input, window: Window) -> Window:
    """The query's window over what it reads: rows that met in one of several windows count in that alone."""
    match node:
        case Joined(how="window") if window.kind in ("hopping", "cumulate"):
            return replace(window, single=True)
        case Enriched(left):
            return met_in(left, window)
        case Joined(left=left, kind="semi" | "anti"):
            return met_in(left, window)
        case _:
            return window


def _unbounded(join: syntax.Join, reading: Reading, plain: bool, split: Split) -> How:
    ttl = reading.state_ttl_us
    if reading.ends and ttl is None and not reading.as_live:
        return How("interval", ENDLESS_US, ENDLESS_US)
    bound = "Say how far apart rows may be: add WITHIN 5m behind the condition"
    if not split.keys:
        raise MqlError("a join of streams needs equal values or a bound", join.span, f"{bound}.", code="unbounded-join")
    outer = join.kind in ("left", "right", "full")
    if join.kind in ("semi", "anti") or (outer and not plain):
        said = "a row without a partner is never sure without a bound"
        raise MqlError(said, join.span, f"{bound}.", code="unbounded-join")
    kept = TTL_US if ttl is None else ttl
    reading.warnings.append(
        f"the join has no bound: rows wait {show_us(kept)} for partners (SETTINGS state_ttl); add WITHIN to bound it"
    )
    return How("interval", kept, kept, unbounded=True, retracts=outer)


def _asof(join: syntax.Join, sides: Sides, read: Read, reading: Reading, split: Split, name: str) -> How:
    if join.kind not in ("inner", "left"):
        hint = "Write ASOF JOIN or ASOF LEFT JOIN."
        raise MqlError(f"ASOF {join.kind.upper()} JOIN is not available", join.span, hint, code="not-supported")
    if split.rest != TRUE:
        hint = "ON takes equalities, one comparison of the times, and conditions on the right side alone."
        raise MqlError("an ASOF join takes no other condition on both sides", join.span, hint)
    _check_times(sides.input, read.input, join.span)
    strict = _is_strict(join, split, sides, read, name)
    if join.within is not None:
        before, after = _within(join.within, reading, join.span)
        if after and after != before:
            raise MqlError("an ASOF join looks back alone", join.span, "Write WITHIN 5m.")
        return How("asof", before, 0, strict)
    if reading.ends and reading.state_ttl_us is None and not reading.as_live:
        return How("asof", ENDLESS_US, 0, strict)
    kept = TTL_US if reading.state_ttl_us is None else reading.state_ttl_us
    reading.warnings.append(
        f"the join has no bound: a partner is at most {show_us(kept)} older (SETTINGS state_ttl); "
        "add WITHIN to say how old it may be"
    )
    return How("asof", kept, 0, strict, unbounded=True)


def _is_strict(join: syntax.Join, split: Split, sides: Sides, read: Read, name: str) -> bool:
    """Whether the partner must be older: what the comparison of the times says. Without one it need not."""
    if not split.times:
        return False
    hint = f"Compare the times of both sides, as in {_example(sides, read, name)}; or leave the comparison out."
    if len(split.times) > 1:
        raise MqlError("an ASOF join compares the times once", join.span, hint)
    comparison = split.times[0]
    left, right = comparison.args
    op = comparison.name
    if any(path[0] == name for path in _paths(left)):
        left, right, op = right, left, FLIPPED[op]
    if op not in (">=", ">"):
        raise MqlError("an ASOF join finds the newest row before, not the next one", join.span, hint)
    times = [_is_time(left, sides.infos, sides.names), _is_time(right, (read.info,), (name,))]
    if not all(times):
        raise MqlError("an ASOF join goes by the event times", join.span, hint)
    return op == ">"


def _is_time(bound: Bound, infos: tuple[SourceInfo, ...], names: tuple[str, ...]) -> bool:
    """Whether it is the property that holds a side's event time."""
    paths = set(_paths(bound))
    known = {(name, *info.time.path) for name, info in zip(names, infos, strict=False) if info.time.path is not None}
    return len(paths) == 1 and paths <= known


def _example(sides: Sides, read: Read, name: str) -> str:
    def told(side: str, info: SourceInfo) -> str:
        return ".".join((side, *(info.time.path or ("time",))))

    return f"{told(sides.names[0], sides.infos[0])} >= {told(name, read.info)}"


def _within(
    within: tuple[syntax.Expression | None, syntax.Expression | None], reading: Reading, span: Span
) -> tuple[int, int]:
    scope = Scope(params=reading.names.params)
    found = []
    for node in within:
        assert node is not None
        us = constant_duration(node, scope)
        if not 0 <= us <= WITHIN_MAX_US:
            raise MqlError("a join's bound is from 0s to 366 days", node.span)
        found.append(us)
    return found[0], found[1]


def _check_times(left: Input, right: Input, span: Span) -> None:
    if not (has_times(left) and has_times(right)):
        hint = "Give the inner query a WINDOW: its rows then lie at the ends of theirs."
        raise MqlError("groups without a window have no time to join them by", span, hint)


def _alike(left: Input, right: Input) -> bool:
    """Whether both sides are rows of the same windows, which then lie at the same times."""
    mine, theirs = window_of(left), window_of(right)
    aligned = mine is not None and mine.kind in ("tumbling", "hopping", "cumulate")
    return aligned and mine == theirs


def window_of(node: Input) -> Window | None:
    """The windows that rows are of."""
    match node:
        case Derived(query):
            group = find(query, Group)
            if isinstance(group, Group):
                return None if group.window == NO_WINDOW else group.window
            return window_of(input_of(query))
        case Joined() if node.before_us == node.after_us == 0 and node.how == "interval":
            return window_of(node.left)
        case Enriched(left):
            return window_of(left)
        case _:
            return None


# --- nodes -----------------------------------------------------------------------------------------------------


def _meeting(sides: Sides, read: Read, name: str, kind: str, split: Split, how: How, reading: Reading) -> Joined:
    kind = "inner" if kind == "cross" else kind
    left_where = conjunction([*_bounds(sides.input, reading), split.left_where])
    right_where = conjunction([*_bounds(read.input, reading), split.right_where])
    return Joined(
        left=sides.input,
        right=read.input,
        left_name=sides.name,
        right_name=name,
        kind=kind,
        how=how.how,
        keys=split.keys,
        rest=_unless_true(split.rest),
        left_where=_unless_true(left_where),
        right_where=_unless_true(right_where),
        before_us=how.before_us,
        after_us=how.after_us,
        strict=how.strict,
        window=how.window,
        unbounded=how.unbounded,
        retracts=how.retracts,
        bytes_max=reading.state_bytes_max,
        info=as_one(name, sides.shape, (*sides.infos, read.info)),
    )


def _enriched(sides: Sides, table: TableInfo, name: str, kind: str, split: Split, reading: Reading) -> Enriched:
    kind = "inner" if kind == "cross" else kind
    named = {key.right.path[1] for key in split.keys if isinstance(key.right, Column) and len(key.right.path) == 2}
    return Enriched(
        left=sides.input,
        table=replace(table, shape=Shape()),
        left_name=sides.name,
        right_name=name,
        kind=kind,
        keys=split.keys,
        rest=_unless_true(split.rest),
        left_where=_unless_true(conjunction([*_bounds(sides.input, reading), split.left_where])),
        right_where=_unless_true(split.right_where),
        single=bool(table.key) and set(table.key) <= named,
        info=as_one(name, sides.shape, sides.infos),
    )


def _bounds(node: Input, reading: Reading) -> list[Bound]:
    """What SINCE and UNTIL say of the events of a side."""
    return time_bounds(reading.since, reading.until) if isinstance(node, Scan | Merge) else []


def _check_table(join: syntax.Join, table: TableInfo) -> None:
    if join.within is not None or join.mantis_seconds is not None:
        raise MqlError("a table has no time", join.span, "Leave WITHIN out: its rows are as they are now.")
    if join.asof:
        raise MqlError("a table has no time to go by", join.span, "Write JOIN or LEFT JOIN.")
    if join.kind in ("right", "full"):
        hint = "Write LEFT JOIN to keep all rows of the stream."
        raise MqlError("which rows of a table never find a partner is never known", join.span, hint)


def _check_read(table: TableInfo, span: Span) -> None:
    if table.trouble is not None:
        hint = f"It could not be read so far: {table.trouble}."
        raise MqlError(f'table "{table.name}" is not ready', span, hint, code="table-not-ready")


def _name_of(ref: syntax.From) -> str:
    """What a side is called: its alias, else its own name; of a file that without directory and ending."""
    if ref.alias is not None:
        return ref.alias
    if isinstance(ref, syntax.SubqueryRef):
        raise MqlError("a query that is joined needs a name", ref.span, "Write (SELECT …) AS name.")
    if ref.path is not None:
        return ref.path.rsplit("/", 1)[-1].split(".", 1)[0] or "file"
    return ref.name or ref.param or "source"


def _struct(shape: Shape) -> StructOf:
    return StructOf(tuple((field.name, field.type) for field in shape.fields))


def _and_parts(where: syntax.Expression | None) -> list[syntax.Expression]:
    """The conditions that AND joins, left to right, without recursion."""
    found: list[syntax.Expression] = []
    waiting = [] if where is None else [where]
    while waiting:
        node = waiting.pop()
        if isinstance(node, syntax.Binary) and node.op == "and":
            waiting.extend((node.right, node.left))
        else:
            found.append(node)
    return found


def _unless_true(bound: Bound) -> Bound | None:
    return None if bound == TRUE else bound


def with_stream_first(query: syntax.Query, names: Names) -> syntax.Query:
    """`FROM table JOIN stream` as `FROM stream JOIN table`, which says the same."""
    if len(query.sources) != 1 or not query.joins or names.table(query.sources[0]) is None:
        return query
    (table,), (join, *others) = query.sources, query.joins
    if names.table(join.right) is not None or join.asof or join.kind in ("semi", "anti"):
        return query
    turned = {"left": "right", "right": "left"}.get(join.kind, join.kind)
    return replace(query, sources=(join.right,), joins=(replace(join, kind=turned, right=table), *others))


def with_source(plan: Logical, read: Input) -> Logical:
    """The nodes over another input."""
    return read if isinstance(plan, Input) else with_input(plan, with_source(plan.input, read))
