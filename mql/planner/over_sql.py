"""Window functions in SQL: beside rows that are all there, or going on from row to row.

What goes on is computed of the rows that are new, those before that a frame still reaches, and for each partition what
was carried from all that came before: when it was seen last, how many rows it had, its partials. A partition that was
silent for longer than it is remembered begins anew: its rows lie in stretches, of which a row in a frame or a partial
sees its own only.

    #  remembered for 10 s      0    5    10   15   20   25
    #  rows of a partition      a    b                 c d
    #  its stretches            |-0--|                 |1|
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mql.overs import over_row
from mql.planner import grouping as g
from mql.planner.expressions import Bound
from mql.planner.logical import Frame, Group, Input, Over, OverCall, SortKey
from mql.planner.physical import NO_WINDOW, Ahead, Running
from mql.planner.sliding import framed
from mql.planner.sql import constant_sql, expression_sql
from mql.schema import TIMESTAMP

TIME = '"__t"'
HASH = '"__h"'
PLACE = ('"__t"', '"__s"', '"__o"')
_PLACE = ", ".join(PLACE)
_PLACED = f"row({_PLACE})"
_MERGED = re.compile(r"\b(sum|min|max|bool_and|bool_or|bit_and|bit_or|bit_xor)\((f\d+)\)")
_REDUCED = re.compile(r"list_reduce\(list\((f\d+)\)")
_PICKED = re.compile(r"\b(arg_min|arg_max)\((f\d+), (f\d+)\)")


@dataclass(frozen=True, slots=True)
class Lane:
    """One of the ways in which the rows are parted: the numbers of its expressions, and whether silence ends them."""

    number: int
    items: tuple[Bound, ...]
    forgets: bool

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"q{self.number}_{i}" for i in range(len(self.items)))

    @property
    def selected(self) -> list[str]:
        return [f"{expression_sql(item)} AS {key}" for key, item in zip(self.keys, self.items, strict=True)]

    @property
    def by_keys(self) -> str:
        return f"PARTITION BY {', '.join(self.keys)} " if self.keys else ""

    def by(self, forgets: bool) -> str:
        names = (*self.keys, f"z{self.number}") if forgets else self.keys
        return f"PARTITION BY {', '.join(names)} " if names else ""

    def same(self, left: str, right: str) -> str:
        return " AND ".join(f"{left}.{key} IS NOT DISTINCT FROM {right}.{key}" for key in self.keys) or "true"


def lanes_of(over: Over, numbers: Sequence[int]) -> tuple[Lane, ...]:
    """The ways in which these calls part rows, in the order in which they are first named."""
    calls = [over.calls[number] for number in numbers]
    found = dict.fromkeys(call.partition for call in calls)
    return tuple(
        Lane(i, items, any(call.forgets and call.partition == items for call in calls)) for i, items in enumerate(found)
    )


def numbers_of(over: Over | None, *scopes: str) -> tuple[int, ...]:
    """Which of the calls look at rows in one of these ways."""
    return () if over is None else tuple(i for i, call in enumerate(over.calls) if call.scope in scopes)


def added_sql(over: Over, numbers: Sequence[int], source: str, within: Sequence[str], ties: Sequence[str]) -> str:
    """The rows of a table that are all there, with the window functions of these numbers. `within`: the columns that
    tell windows apart; `ties`: what orders rows that are equal otherwise."""
    if not numbers:
        return f"SELECT * FROM {source}"
    pieces = _pieces(over)
    lanes = lanes_of(over, numbers)
    values = [f"{sql} AS x{i}" for i, sql in enumerate(pieces.values)]
    keys = [
        f"{expression_sql(item)} AS {key}" for lane in lanes for key, item in zip(lane.keys, lane.items, strict=True)
    ]
    rows = f"SELECT {', '.join(['*', *values, *keys])} FROM {source}"
    for lane in lanes:
        if lane.forgets:
            broken = f"coalesce({TIME} - lag({TIME}) OVER ({lane.by_keys}ORDER BY {_PLACE}) > {over.ttl_us}, false)"
            rows = f"SELECT *, {broken} AS b{lane.number} FROM ({rows})"
            z = f"sum(b{lane.number}::BIGINT) OVER ({lane.by_keys}ORDER BY {_PLACE} ROWS UNBOUNDED PRECEDING)"
            rows = f"SELECT *, {z} AS z{lane.number} FROM ({rows})"
    columns = [f"{_plain_sql(over, pieces, i, lanes, within, ties)} AS w{i}" for i in numbers]
    return f"SELECT {', '.join(['*', *columns])} FROM ({rows})"


def _pieces(over: Over) -> g.Grouping:
    """The aggregates among the calls in their pieces; other calls count as nothing."""
    calls = tuple(call.call for call in over.calls if over_row(call.call.name) is None)
    return g.grouping(Group(_input_of(over), NO_WINDOW, (), calls))


def _input_of(over: Over) -> Input:
    node = over.input
    while not isinstance(node, Input):
        node = node.input
    return node


def _piece(over: Over, number: int) -> int:
    """The number of a call among the aggregates."""
    return sum(over_row(call.call.name) is None for call in over.calls[:number])


def _lane(lanes: Sequence[Lane], call: OverCall) -> Lane:
    return next(lane for lane in lanes if lane.items == call.partition)


def _plain_sql(
    over: Over, pieces: g.Grouping, number: int, lanes: Sequence[Lane], within: Sequence[str], ties: Sequence[str]
) -> str:
    call = over.calls[number]
    lane = _lane(lanes, call)
    names = [*lane.keys, *([f"z{lane.number}"] if call.forgets else []), *(within if call.scope == "window" else ())]
    partition = f"PARTITION BY {', '.join(names)} " if names else ""
    row = over_row(call.call.name)
    if row is None:
        direct = pieces.direct[_piece(over, number)].replace("{seconds}", str(_seconds(call.frame)))
        return framed(direct, _window(call, partition, ties))
    if call.frame is None:
        args = [expression_sql(arg) for arg in call.call.args]
        order = _order(call, () if row.ranks else ties)
        return f"{_filled(call, args)} OVER ({partition}{order})"
    return _edge_sql(call, expression_sql(call.call.args[0]), partition, ties)


def _seconds(frame: Frame | None) -> float:
    """The length of a frame of time; of others nothing asks for it."""
    return 0 if frame is None else ((frame.end or 0) - (frame.start or 0)) / 1e6


def _filled(call: OverCall, args: Sequence[str]) -> str:
    row = over_row(call.call.name)
    assert row is not None
    sql = row.sql.replace("{x}", constant_sql(call.call.extra[0]) if call.call.extra else "")
    for i, arg in enumerate(args):
        sql = sql.replace(f"{{{i}}}", arg)
    return f"{sql[:-1]}, {args[1]})" if len(args) == 2 else sql


def _edge_sql(call: OverCall, value: str, partition: str, ties: Sequence[str]) -> str:
    """first_value or last_value. Rows that are equal in what RANGE orders by are told apart by their place."""
    assert call.frame is not None
    placed = "" if call.frame.unit == "rows" else f" ORDER BY {', '.join([*_keys_sql(call.order), *ties])}"
    found = f"{call.call.name}({value}{placed}) OVER {_window(call, partition, ties)}"
    return f"coalesce({found}, {constant_sql(call.call.extra[0])})" if call.call.extra else found


def _window(call: OverCall, partition: str, ties: Sequence[str]) -> str:
    """What stands behind OVER for a call with a frame."""
    assert call.frame is not None
    if call.frame.start is None and call.frame.end is None and call.frame.unit == "range" and not call.order:
        return f"({partition.rstrip()})"
    order = _order(call, ties if call.frame.unit == "rows" else ())
    return f"({partition}{order} {frame_sql(call.frame, _unit(call))})"


def _unit(call: OverCall) -> str:
    """How bounds of a RANGE are written: what goes on is ordered by the microseconds of its time."""
    if call.scope == "run" or not call.order:
        return "{}"
    return "to_microseconds({})" if call.order[0].expression.type == TIMESTAMP else "{}"


def frame_sql(frame: Frame, unit: str = "{}") -> str:
    def bound(value: int | float | None, side: str) -> str:
        if value is None:
            return f"UNBOUNDED {side}"
        if value == 0:
            return "CURRENT ROW"
        size = str(abs(value))
        return f"{size if frame.unit == 'rows' else unit.format(size)} {'PRECEDING' if value < 0 else 'FOLLOWING'}"

    return f"{frame.unit.upper()} BETWEEN {bound(frame.start, 'PRECEDING')} AND {bound(frame.end, 'FOLLOWING')}"


def _order(call: OverCall, ties: Sequence[str]) -> str:
    if call.scope == "run":
        return f"ORDER BY {_PLACE if ties else TIME}"
    keys = [*_keys_sql(call.order), *ties]
    return f"ORDER BY {', '.join(keys)}" if keys else ""


def _keys_sql(order: Sequence[SortKey]) -> list[str]:
    return [
        f"{expression_sql(key.expression)} {'DESC' if key.descending else 'ASC'} "
        f"NULLS {'FIRST' if key.nulls_first else 'LAST'}"
        for key in order
    ]


# --- going on -----------------------------------------------------------------------------------------


def reaches_ahead(call: OverCall) -> bool:
    """Whether it needs rows that come later."""
    return call.call.name == "lead" or (call.frame is not None and call.frame.end is not None and call.frame.end > 0)


def running(over: Over, numbers: Sequence[int], parted: bool = False) -> Running:
    """The specification of the operator that goes on with these calls; they look back only. `parted`: its rows are
    those of a task, with the hash that parts them, and what is carried has that hash, too."""
    pieces, lanes = _pieces(over), lanes_of(over, numbers)
    calls = [over.calls[i] for i in numbers]
    carrying = [lane for lane in lanes if lane.forgets or any(_carried(c) and _lane(lanes, c) == lane for c in calls)]
    chain = _chain(over, pieces, lanes, carrying)
    last = f"s{len(chain) - 1}"
    bounded = [i for i in numbers if not _carried(over.calls[i])]
    behind = ", ".join(["*", *(f"{_plain_sql(over, pieces, i, lanes, (), PLACE)} AS w{i}" for i in bounded)])
    chain.append(f"h AS (SELECT {behind} FROM {last})")
    chain.append("fresh AS (SELECT * FROM h WHERE is_new)")
    carried = [i for i in numbers if _carried(over.calls[i])]
    told = _told_sql(over, pieces, lanes, carried)
    helpers = _helpers(pieces, lanes, carrying, carried, over)
    return Running(
        close=f"WITH {', '.join(chain)} SELECT * EXCLUDE ({', '.join(helpers)}) FROM ({told}) ORDER BY {_PLACE}",
        carry=tuple(_carry_sql(over, pieces, lane, carried, chain, parted) for lane in carrying),
        begin=tuple(_begin_sql(over, pieces, lane, carried, parted) for lane in carrying),
        carries=tuple(f"carry{lane.number}" for lane in carrying),
        keep=_keep_sql(over, calls, lanes, chain[:-2], last),
    )


def _carried(call: OverCall) -> bool:
    """Whether it goes on from a partial; else from rows that are kept."""
    if call.frame is None:
        return call.call.name != "lag"
    return call.frame.start is None and call.call.name != "last_value"


def _chain(over: Over, pieces: g.Grouping, lanes: Sequence[Lane], carrying: Sequence[Lane]) -> list[str]:
    """CTEs s0, s1, … from the rows that are held to those rows with their values, partitions and stretches, and with
    what was carried to them."""
    values = [f"{sql} AS x{i}" for i, sql in enumerate(pieces.values)]
    keys = [
        f"{expression_sql(item)} AS {key}" for lane in lanes for key, item in zip(lane.keys, lane.items, strict=True)
    ]
    columns = ", ".join(["*", *values, *keys, f"{TIME} >= $since AS is_new"])
    found = [f"s0 AS (SELECT {columns} FROM held WHERE {TIME} < $until)"]
    for lane in carrying:
        before, j = f"s{len(found) - 1}", lane.number
        carried = ", ".join(f"c.{name} AS c{j}_{name}" for name in _carry_columns(over, pieces, lane))
        ordered = f"({lane.by_keys}ORDER BY {_PLACE})"
        found.append(
            f"s{len(found)} AS (SELECT r.*, {carried} FROM {before} r LEFT JOIN carry{j} c ON {lane.same('r', 'c')})"
        )
        broken = "false"
        if lane.forgets:
            before_it = f"coalesce(lag({TIME}) OVER {ordered}, c{j}_seen)"
            broken = f"coalesce({TIME} - {before_it} > {over.ttl_us}, false)"
        found.append(f"s{len(found)} AS (SELECT *, {broken} AS b{j} FROM s{len(found) - 1})")
        z = (
            f"sum(b{j}::BIGINT) OVER ({lane.by_keys}ORDER BY {_PLACE} ROWS UNBOUNDED PRECEDING) "
            f"- sum((b{j} AND NOT is_new)::BIGINT) OVER ({lane.by_keys.rstrip()})"
        )
        found.append(f"s{len(found)} AS (SELECT *, {z} AS z{j} FROM s{len(found) - 1})")
    return found


def _carry_columns(over: Over, pieces: g.Grouping, lane: Lane) -> list[str]:
    """What is carried beside the partition: when it was seen last, rows, different times, partials, first values."""
    mine = [i for i, call in enumerate(over.calls) if call.scope == "run" and call.partition == lane.items]
    partials = sorted({name for i in mine if _is_fold(over, i) for name in _partials(over, pieces, i)}, key=_number)
    firsts = [f"v{i}" for i in mine if over.calls[i].call.name == "first_value" and _carried(over.calls[i])]
    return ["seen", "n", "d", *partials, *firsts]


def _is_fold(over: Over, number: int) -> bool:
    call = over.calls[number]
    return over_row(call.call.name) is None and _carried(call)


def _partials(over: Over, pieces: g.Grouping, number: int) -> list[str]:
    """The partial columns of a call, with those that they are merged by."""
    result = pieces.results[_piece(over, number)]
    found = set(re.findall(r"\bf\d+\b", result))
    for name in sorted(found):
        found.update(re.findall(r"\bf\d+\b", pieces.merges[_number(name)]))
    return sorted(found, key=_number)


def _number(name: str) -> int:
    return int(name[1:])


def _own(lane: Lane) -> str:
    """Whether what was carried is of the stretch that a row lies in."""
    return f"(z{lane.number} = 0 AND c{lane.number}_seen IS NOT NULL)"


def _told_sql(over: Over, pieces: g.Grouping, lanes: Sequence[Lane], carried: Sequence[int]) -> str:
    """The new rows with the calls that go on from what was carried."""
    steps, merged, results = [], [], []
    for i in carried:
        call = over.calls[i]
        lane = _lane(lanes, call)
        j, own, by = lane.number, _own(lane), lane.by(forgets=True)
        match call.call.name:
            case "row_number":
                row = f"row_number() OVER ({by}ORDER BY {_PLACE})"
                results.append(f"(CASE WHEN {own} THEN c{j}_n ELSE 0 END + {row})::BIGINT AS w{i}")
            case "rank":
                row = f"rank() OVER ({by}ORDER BY {TIME})"
                results.append(f"(CASE WHEN {own} THEN c{j}_n ELSE 0 END + {row})::BIGINT AS w{i}")
            case "dense_rank":
                row = f"dense_rank() OVER ({by}ORDER BY {TIME})"
                results.append(f"(CASE WHEN {own} THEN c{j}_d ELSE 0 END + {row})::BIGINT AS w{i}")
            case "first_value":
                value = expression_sql(call.call.args[0])
                first = f"first_value({value}) OVER ({by}ORDER BY {_PLACE} ROWS UNBOUNDED PRECEDING)"
                results.append(f"CASE WHEN {own} THEN c{j}_v{i} ELSE {first} END AS w{i}")
            case _:
                assert call.frame is not None
                order = _PLACE if call.frame.unit == "rows" else TIME
                window = f"({by}ORDER BY {order} {frame_sql(call.frame)})"
                for name in _partials(over, pieces, i):
                    steps.append(f"{framed(pieces.steps[_number(name)], window)} AS g{name}")
                    before = f"CASE WHEN {own} THEN c{j}_{name} END"
                    merged.append(f"{before} AS h{name}")
                results.append(f"{_merged_result(over, pieces, i)} AS w{i}")
    stepped = f"SELECT {', '.join(['*', *steps, *merged])} FROM fresh"
    return f"SELECT {', '.join(['*', *results])} FROM ({stepped})"


def _merged_result(over: Over, pieces: g.Grouping, number: int) -> str:
    """A call's result, of partials that were carried (hf…) and those of the new rows (gf…)."""
    result = pieces.results[_piece(over, number)]
    merges = {name: merged_sql(pieces.merges[_number(name)], "h", "g") for name in _partials(over, pieces, number)}
    return re.sub(r"\bf\d+\b", lambda found: f"({merges[found[0]]})", result)


def merged_sql(merge: str, left: str, right: str) -> str:
    """A merge of partials (an aggregate) as an expression over two of them, whose names have these prefixes."""
    picked = _PICKED.fullmatch(merge)
    if picked:
        name, value, by = picked.groups()
        first = "<=" if name == "arg_min" else ">="
        return (
            f"CASE WHEN {right}{by} IS NULL OR {left}{by} {first} {right}{by} "
            f"THEN {left}{value} ELSE {right}{value} END"
        )
    reduced = _REDUCED.match(merge)
    if reduced:
        both = f"list_filter([{left}{reduced[1]}, {right}{reduced[1]}], lambda p: p IS NOT NULL)"
        return f"list_reduce({both}{merge[reduced.end() :]}"
    simple = _MERGED.fullmatch(merge)
    assert simple is not None, merge
    name, value = simple.groups()
    return f"list_aggregate([{left}{value}, {right}{value}], '{name}')"


def _helpers(
    pieces: g.Grouping, lanes: Sequence[Lane], carrying: Sequence[Lane], carried: Sequence[int], over: Over
) -> list[str]:
    """The columns that are computed on the way and not told."""
    found = ["is_new", *(f"x{i}" for i in range(len(pieces.values))), *(key for lane in lanes for key in lane.keys)]
    for lane in carrying:
        j = lane.number
        found += [f"c{j}_{name}" for name in _carry_columns(over, pieces, lane)]
        found += [f"b{j}", f"z{j}"]
    for i in carried:
        if _is_fold(over, i):
            found += [f"{prefix}{name}" for name in _partials(over, pieces, i) for prefix in ("g", "h")]
    return found


def _partial_columns(over: Over, pieces: g.Grouping, lane: Lane, carried: Sequence[int]) -> list[str]:
    """What the new rows of a partition add to what is carried."""
    found = [f"max({TIME}) AS seen", "count(*) AS n", f"count(DISTINCT {TIME}) AS d"]
    names = _carry_columns(over, pieces, lane)[3:]
    for name in names:
        if name.startswith("f"):
            found.append(f"{pieces.steps[_number(name)]} AS {name}")
        else:
            value = expression_sql(over.calls[_number(name)].call.args[0])
            found.append(f"arg_min_null({value}, {_PLACED}) AS {name}")
    return found


def _begin_sql(over: Over, pieces: g.Grouping, lane: Lane, carried: Sequence[int], parted: bool) -> str:
    """The table of what is carried, of nothing yet."""
    values = [f"{sql} AS x{i}" for i, sql in enumerate(pieces.values)]
    keys = lane.selected
    hashed = [f"any_value({HASH}) AS {HASH}"] if parted else []
    columns = [*lane.keys, *hashed, *_partial_columns(over, pieces, lane, carried)]
    rows = f"SELECT {', '.join(['*', *values, *keys])} FROM held WHERE false"
    return f"SELECT {', '.join(columns)} FROM ({rows}){_grouped(lane)}"


def _grouped(lane: Lane) -> str:
    return f" GROUP BY {', '.join(lane.keys)}" if lane.keys else " HAVING count(*) > 0"


def _carry_sql(
    over: Over, pieces: g.Grouping, lane: Lane, carried: Sequence[int], chain: Sequence[str], parted: bool
) -> str:
    """What is carried once the new rows have been told: of each partition its last stretch."""
    j = lane.number
    names = _carry_columns(over, pieces, lane)
    latest = f"SELECT * FROM fresh QUALIFY z{j} = max(z{j}) OVER ({lane.by_keys.rstrip()})"
    before = [f"any_value(c{j}_{name}) AS h{name}" for name in names]
    hashed = [HASH] if parted else []
    hash = [f"any_value({HASH}) AS {HASH}" for _ in hashed]
    columns = [*lane.keys, *hash, f"max(z{j}) AS z", *_partial_columns(over, pieces, lane, carried), *before]
    added = f"SELECT {', '.join(columns)} FROM ({latest}){_grouped(lane)}"
    own = "z = 0 AND hseen IS NOT NULL"
    both = [
        *lane.keys,
        *hashed,
        "seen",
        f"CASE WHEN {own} THEN hn + n ELSE n END AS n",
        f"CASE WHEN {own} THEN hd + d ELSE d END AS d",
    ]
    for name in names[3:]:
        merge = f"h{name}" if name.startswith("v") else merged_sql(pieces.merges[_number(name)], "h", "")
        both.append(f"CASE WHEN {own} THEN {merge} ELSE {name} END AS {name}")
    others = ", ".join(f"c.{name}" for name in (*lane.keys, *hashed, *names))
    remembered = f" AND c.seen + {over.ttl_us} >= $until" if lane.forgets else ""
    gone = f"NOT EXISTS (SELECT 1 FROM added a WHERE {lane.same('a', 'c')})"
    return (
        f"WITH {', '.join(chain)}, added AS ({added}) SELECT {', '.join(both)} FROM added "
        f"UNION ALL SELECT {others} FROM carry{j} c WHERE {gone}{remembered}"
    )


def _keep_sql(over: Over, calls: Sequence[OverCall], lanes: Sequence[Lane], chain: Sequence[str], last: str) -> str:
    """What of the rows that were told later frames still reach."""
    needed = []
    for call in calls:
        if _carried(call):
            continue
        lane = _lane(lanes, call)
        rows = rows_back(call)
        if rows is None:
            needed.append(_since_sql(over, call, lane))
        elif rows:
            number = f"row_number() OVER ({lane.by_keys}ORDER BY {', '.join(f'{name} DESC' for name in PLACE)})"
            one = f"{number} <= {rows}"
            needed.append(one + _remembered_sql(over, call, lane))
    later = f"SELECT * FROM held WHERE {TIME} >= $until"
    if not needed:
        return later
    reached = " OR ".join(f"({one})" for one in dict.fromkeys(needed))
    told = f"SELECT {_PLACE} FROM (SELECT {_PLACE}, {reached} AS reached FROM {last}) WHERE reached"
    earlier = f"SELECT h.* FROM held h SEMI JOIN told USING ({_PLACE})"
    return f"WITH {', '.join(chain)}, told AS ({told}) {later} UNION ALL {earlier}"


def _since_sql(over: Over, call: OverCall, lane: Lane) -> str:
    """The rows that a frame of time still reaches; and where it begins with the first row, the last before them."""
    frame = call.frame
    assert frame is not None
    if frame.start is not None:
        return f"{TIME} >= $until + {min(0, frame.start)}"
    assert frame.end is not None
    since = f"{TIME} >= $until + {frame.end}"
    by = ", ".join([*lane.keys, since])
    last = f"row_number() OVER (PARTITION BY {by} ORDER BY {', '.join(f'{name} DESC' for name in PLACE)}) = 1"
    return f"{since} OR ({last}{_remembered_sql(over, call, lane)})"


def _remembered_sql(over: Over, call: OverCall, lane: Lane) -> str:
    """Only rows of partitions that are remembered, where silence ends them."""
    if not call.forgets:
        return ""
    j, by = lane.number, lane.by_keys.rstrip()
    return f" AND z{j} = max(z{j}) OVER ({by}) AND max({TIME}) OVER ({by}) + {over.ttl_us} >= $until"


def ahead(over: Over, numbers: Sequence[int]) -> Ahead:
    """The specification of the operator that waits for the later rows that these calls look at."""
    calls = [over.calls[i] for i in numbers]
    lanes = lanes_of(over, numbers)
    added = added_sql(over, numbers, f"(SELECT * FROM held WHERE {TIME} < $until)", (), PLACE)
    ready = " AND ".join(dict.fromkeys(_ready_sql(over, call, _lane(lanes, call)) for call in calls))
    judged = f'SELECT *, ({ready}) OR $ended AS "__ready" FROM ({added})'
    marked = f'SELECT *, "__told" OR "__ready" AS is_told FROM ({judged})'
    needed = " OR ".join(dict.fromkeys(_needed_sql(over, call, _lane(lanes, call)) for call in calls))
    helpers = ["is_told", *(f"x{i}" for i in range(len(_pieces(over).values)))]
    for lane in lanes:
        helpers += [*lane.keys, *([f"b{lane.number}", f"z{lane.number}"] if lane.forgets else [])]
    everything = f'SELECT *, NOT is_told OR {needed} AS "__needed" FROM ({marked})'
    return Ahead(f"SELECT * EXCLUDE ({', '.join(helpers)}) FROM ({everything}) ORDER BY {_PLACE}")


def _ready_sql(over: Over, call: OverCall, lane: Lane) -> str:
    """Whether the later rows that a call looks at are there, or come too late for its stretch."""
    after = rows_after(call)
    if after is None:
        assert call.frame is not None
        assert call.frame.end is not None
        return f"{TIME} + {call.frame.end} < $until"
    following = f"ROWS BETWEEN 1 FOLLOWING AND {after} FOLLOWING"
    enough = f"count(*) OVER ({lane.by(call.forgets)}ORDER BY {_PLACE} {following}) >= {after}"
    if not call.forgets:
        return enough
    by, z = lane.by_keys.rstrip(), f"z{lane.number}"
    return f"({enough} OR {z} < max({z}) OVER ({by}) OR max({TIME}) OVER ({by}) + {over.ttl_us} < $until)"


def _needed_sql(over: Over, call: OverCall, lane: Lane) -> str:
    """Whether a row that has been told is looked at by rows that have not."""
    back, after = rows_back(call), rows_after(call)
    if back is None or after is None:
        assert call.frame is not None
        assert call.frame.end is not None
        first = f"least($until - {call.frame.end}, coalesce(min({TIME}) FILTER (WHERE NOT is_told) OVER (), $until))"
        return f"{TIME} >= {first} + {min(0, call.frame.start or 0)}"
    near = f"ROWS BETWEEN {after} PRECEDING AND {back} FOLLOWING"
    needed = f"bool_or(NOT is_told) OVER ({lane.by_keys}ORDER BY {_PLACE} {near})"
    if not back:
        return needed
    newest = f"row_number() OVER ({lane.by_keys}ORDER BY {', '.join(f'{name} DESC' for name in PLACE)}) <= {back}"
    remembered = f" AND max({TIME}) OVER ({lane.by_keys.rstrip()}) + {over.ttl_us} >= $until" if call.forgets else ""
    return f"{needed} OR ({newest}{remembered})"


def rows_after(call: OverCall) -> int | None:
    """How many rows of its partition behind a row a call looks at; None where it goes by time."""
    if call.frame is None:
        return int(str(call.call.extra[0].value)) if call.call.name == "lead" else 0
    assert call.frame.end is not None
    return max(0, int(call.frame.end)) if call.frame.unit == "rows" else None


def rows_back(call: OverCall) -> int | None:
    """How many rows of its partition before a row a call looks at; None where it goes by time."""
    if call.frame is None:
        return int(str(call.call.extra[0].value)) if call.call.name == "lag" else 0
    reach = min(0, call.frame.end or 0) if call.frame.start is None else call.frame.start
    if call.frame.start is None and not reach:
        return 0
    return max(0, int(-reach)) if call.frame.unit == "rows" else None
