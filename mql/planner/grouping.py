"""A GROUP BY in SQL, in the pieces that its streamed and its batch form are both put together from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mql.aggregates import DIRECT_OF_DISTINCT, OF_DISTINCT, AggregateRow, Bag, Fold, Partial, aggregate_row
from mql.planner import windows
from mql.planner.expressions import Aggregate
from mql.planner.logical import Group
from mql.planner.physical import NO_WINDOW, Kept, Window
from mql.planner.sql import constant_sql, expression_sql, type_sql
from mql.planner.withdrawing import SIGN, signed_form, signed_sql
from mql.schema import BIGINT

PLACE = 'row("__t", "__s", "__o")'
_VALUE, _PARTIAL = re.compile(r"\bx(\d+)\b"), re.compile(r"\bf(\d+)\b")
REVERSED_PLACE = 'row(-"__t", -"__s", -"__o")'


@dataclass(frozen=True, slots=True)
class ValueCounts:
    """A table of values with their counts that some aggregates share: which value, and how counts are kept."""

    value: str
    count: str
    merge: str
    type: str


@dataclass(frozen=True, slots=True)
class Grouping:
    """The pieces. `values` are the per-row expressions x0, x1, …; `steps`/`merges` give the partial columns f0, f1, …;
    `results` finish the aggregates: SQL over merged f…, or over a bag's v, n, c, t (`bag_of` tells which bag).
    `signed`: rows come with a sign, by which they can be withdrawn."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    steps: tuple[str, ...]
    merges: tuple[str, ...]
    bags: tuple[ValueCounts, ...]
    results: tuple[str, ...]
    direct: tuple[str, ...]
    bag_of: tuple[int | None, ...]
    empty: tuple[str, ...]
    signed: bool = False

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(f"k{i}" for i in range(len(self.keys)))


def grouping(group: Group, signed: bool = False) -> Grouping:
    """Cut every aggregate of a GROUP BY into its pieces, sharing arguments and value counts. `signed`: of rows that can
    be withdrawn."""
    values: list[str] = []
    steps: list[str] = []
    merges: list[str] = []
    bags: list[ValueCounts] = []
    results: list[str] = []
    direct: list[str] = []
    bag_of: list[int | None] = []
    empty: list[str] = []

    def value(sql: str) -> str:
        if sql not in values:
            values.append(sql)
        return f"x{values.index(sql)}"

    for call in group.aggregates:
        row = aggregate_row(call.name)
        assert row is not None, call.name
        args = tuple(value(sql) for sql in _argument_sql(row, call))
        constant = constant_sql(call.extra[0]) if call.extra else str(row.default)
        fill = _filler(args, constant, _error_of(row, call))
        form = _form(row, call, len(args), group.window)
        match signed_form(row, form) if signed else form:
            case Fold(partials, result):
                first = len(steps)
                names = [f"f{first + i}" for i in range(len(partials))]
                for i, partial in enumerate(partials):
                    steps.append(signed_sql(fill(partial.step)) if signed else fill(partial.step))
                    beside = names[i + 1] if i + 1 < len(names) else names[i]
                    merges.append(partial.merge.replace("{p}", names[i]).replace("{q}", beside))
                finished = result
                for i, name in enumerate(names):
                    finished = finished.replace(f"{{p{i}}}", name)
                results.append(_typed(fill(finished), call))
                bag_of.append(None)
                empty.append("NULL")
            case Bag(result, of, count, merge, of_none, type):
                bag = ValueCounts(fill(of), signed_sql(fill(count)) if signed else fill(count), merge, type)
                if bag not in bags:
                    bags.append(bag)
                results.append(_typed(fill(result), call))
                bag_of.append(bags.index(bag))
                empty.append(of_none)
            case None:
                raise AssertionError(f"{call.name} can not take rows back")
        template = _direct(row, call, len(args))
        direct.append(_typed(fill(template), call) if template else "")
    keys = tuple(expression_sql(key) for key in group.keys)
    return Grouping(
        keys,
        tuple(values),
        tuple(steps),
        tuple(merges),
        tuple(bags),
        tuple(results),
        tuple(direct),
        tuple(bag_of),
        tuple(empty),
        signed,
    )


def can_take_back(call: Aggregate) -> bool:
    """Whether an aggregate can do without rows that are withdrawn."""
    row = aggregate_row(call.name)
    assert row is not None, call.name
    return signed_form(row, _form(row, call, len(_argument_sql(row, call)), NO_WINDOW)) is not None


def kept_by(pieces: Grouping) -> Kept:
    """What the state of these pieces means, apart from how its columns are numbered."""

    def told(sql: str) -> str:
        return _VALUE.sub(lambda found: f"({pieces.values[int(found[1])]})", sql)

    steps = [told(step) for step in pieces.steps]
    columns = [
        f"{step} by {_PARTIAL.sub(lambda found: f'({steps[int(found[1])]})', merge)}"
        for step, merge in zip(steps, pieces.merges, strict=True)
    ]
    bags = [f"{told(bag.value)} times {told(bag.count)} by {bag.merge} as {bag.type}" for bag in pieces.bags]
    return Kept(pieces.keys, tuple(columns), tuple(bags))


def base_sql(pieces: Grouping, source: str, where: str | None, extra: Sequence[str]) -> str:
    """Keys and values of the rows that count, each computed once: `k0 … x0 … __t __s __o` and `extra` columns."""
    columns = [
        *extra,
        *(f"{sql} AS {name}" for sql, name in zip(pieces.keys, pieces.key_names, strict=True)),
        *(f"{sql} AS x{i}" for i, sql in enumerate(pieces.values)),
        '"__t"',
        '"__s"',
        '"__o"',
    ]
    condition = f" WHERE {where}" if where else ""
    return f"SELECT {', '.join(columns)} FROM {source}{condition}"


def partial_sql(pieces: Grouping, base: str, shared: bool) -> str:
    """The main partial table of a batch of rows: p, e, keys, `n` (rows), f…, and the hash an exchange goes by.

    `shared`: several windows share a pane, so a row may be late for some of them; else `e` is a constant.
    """
    keys = pieces.key_names
    columns = [
        *_pane_columns(shared),
        *keys,
        f"sum({SIGN})::BIGINT AS n" if pieces.signed else "count(*) AS n",
        *(f"{step} AS f{i}" for i, step in enumerate(pieces.steps)),
        f'{hash_sql(keys)} AS "__h"',
    ]
    return f"SELECT {', '.join(columns)} FROM ({base}) GROUP BY {', '.join([*_pane_group(shared), *keys])}"


def bag_sql(pieces: Grouping, bag: ValueCounts, base: str, shared: bool) -> str:
    """One table of values with their counts, of a batch of rows."""
    keys = pieces.key_names
    columns = [*_pane_columns(shared), *keys, f"{bag.value} AS v", f"{bag.count} AS n", f'{hash_sql(keys)} AS "__h"']
    inside = f"SELECT * FROM ({base}) WHERE {present_sql(bag.value)}"
    return f"SELECT {', '.join(columns)} FROM ({inside}) GROUP BY {', '.join([*_pane_group(shared), *keys, 'v'])}"


def _pane_columns(shared: bool) -> tuple[str, str]:
    return "p", "e" if shared else f"{windows.NEVER}::BIGINT AS e"


def _pane_group(shared: bool) -> tuple[str, ...]:
    return ("p", "e") if shared else ("p",)


def merge_sql(pieces: Grouping) -> str:
    """The table `state` with its partials put together."""
    group = ["p", "e", *pieces.key_names]
    columns = [*group, "sum(n)::BIGINT AS n", *(f"{merge} AS f{i}" for i, merge in enumerate(pieces.merges))]
    return f'SELECT {", ".join(columns)}, any_value("__h") AS "__h" FROM state GROUP BY {", ".join(group)}'


def merge_bag_sql(pieces: Grouping, bag: ValueCounts) -> str:
    group = ["p", "e", *pieces.key_names, "v"]
    return (
        f'SELECT {", ".join(group)}, {bag.merge}(n)::{bag.type} AS n, any_value("__h") AS "__h" '
        f"FROM state GROUP BY {', '.join(group)}"
    )


def finished_sql(pieces: Grouping, window: Window, grouped: bool, only: str) -> list[str]:
    """CTEs from the state's tables to `a`: one row per window and group, `ws we k0 … a0 …`.

    Reads the tables `state` and `bag0`, …; `only` says which windows, in terms of ws, we, e (and k…).
    """
    keys = pieces.key_names
    at = ["ws", "we", *keys]
    parts = [f"s AS ({expanded_sql(window, 'state', only)})"]
    whole = window.kind == "none" and not grouped
    place = ["0::BIGINT AS ws", "0::BIGINT AS we"] if whole else at
    merged = [*place, "sum(n) AS n", *(f"{merge} AS f{i}" for i, merge in enumerate(pieces.merges))]
    there = " HAVING sum(n) > 0" if pieces.signed and grouped else ""
    parts.append(f"m AS (SELECT {', '.join(merged)} FROM s{group_clause(at, window, grouped)}{there})")
    for number, bag in enumerate(pieces.bags):
        parts.append(f"s{number} AS ({expanded_sql(window, f'bag{number}', only)})")
        counted = (
            f"SELECT {', '.join(at)}, v, {bag.merge}(n)::{bag.type} AS n FROM s{number} GROUP BY {', '.join(at)}, v"
        )
        counted += " HAVING sum(n) > 0" if pieces.signed else ""
        parts.extend(bag_result_sql(pieces, number, counted, at))
    parts.append(f"a AS ({joined_sql(pieces, at, window, results_sql(pieces))})")
    return parts


def results_sql(pieces: Grouping) -> list[str]:
    """The finished aggregates a0, a1, … over `m` and the bags' results beside it."""
    return [
        f"{result} AS a{i}" if bag is None else or_none_sql(pieces, i, bag)
        for i, (result, bag) in enumerate(zip(pieces.results, pieces.bag_of, strict=True))
    ]


def bag_result_sql(pieces: Grouping, number: int, counted: str, at: Sequence[str]) -> list[str]:
    """CTEs b and r of one bag: running counts, then the results of the aggregates that live on it."""
    over = f"PARTITION BY {', '.join(at)}"
    running = (
        f"SELECT *, sum(n) OVER ({over} ORDER BY v ROWS UNBOUNDED PRECEDING) AS c, sum(n) OVER ({over}) AS t "
        f"FROM ({counted})"
    )
    found = [
        f"{sql} AS a{i}"
        for i, (sql, bag) in enumerate(zip(pieces.results, pieces.bag_of, strict=True))
        if bag == number
    ]
    return [
        f"b{number} AS ({running})",
        f"r{number} AS (SELECT {', '.join([*at, *found])} FROM b{number} GROUP BY {', '.join(at)})",
    ]


def expanded_sql(window: Window, table: str, only: str) -> str:
    """The rows of a state table once per window that they belong to."""
    inside = windows.expanded_sql(window, table)
    return inside if window.kind == "none" else f"SELECT * FROM ({inside}) WHERE {only}"


def group_clause(at: Sequence[str], window: Window, grouped: bool) -> str:
    """GROUP BY; nothing groups an aggregate over everything, so that no rows still give one row."""
    if window.kind == "none" and not grouped:
        return ""
    return f" GROUP BY {', '.join(at)}"


def joined_sql(
    pieces: Grouping, at: Sequence[str], window: Window, results: Sequence[str], bags: Iterable[int] | None = None
) -> str:
    """Rows of `m` with the results of the bags (all that are used, or these) that belong to them."""
    used = {bag for bag in pieces.bag_of if bag is not None} if bags is None else set(bags)
    columns = [f"m.{name}" for name in at]
    columns += [sql.replace("{seconds}", seconds_sql(window)) for sql in results]
    joins = [
        f"LEFT JOIN r{number} ON " + " AND ".join(f"m.{name} IS NOT DISTINCT FROM r{number}.{name}" for name in at)
        for number in sorted(used)
    ]
    return f"SELECT {', '.join(columns)} FROM m {' '.join(joins)}"


def aggregated_sql(
    pieces: Grouping, window: Window, grouped: bool, extra: Sequence[str] = (), at: Sequence[str] = ()
) -> list[str]:
    """CTEs from expanded rows `s` to `a`: every aggregate directly over the rows, or by value counts. `at`: what tells
    windows and groups apart, where it is not (ws, we, keys)."""
    at = at or ["ws", "we", *pieces.key_names]
    whole = window.kind == "none" and not grouped
    main = ["0::BIGINT AS ws", "0::BIGINT AS we"] if whole else at
    by = at
    if window.kind == "tumbling" and "we" in at:
        # Its start tells a window's end, and one key less is a tenth less to do.
        main = ["any_value(we) AS we" if name == "we" else name for name in at]
        by = [name for name in at if name != "we"]
    seconds = _row_seconds_sql(window)
    results, columns = [], [*main, "count(*) AS n", *extra]
    for i, (direct, bag) in enumerate(zip(pieces.direct, pieces.bag_of, strict=True)):
        if direct:
            columns.append(f"{direct.replace('{seconds}', seconds)} AS a{i}")
            results.append(f"m.a{i}")
        else:
            assert bag is not None
            results.append(or_none_sql(pieces, i, bag))
    parts = [f"m AS (SELECT {', '.join(columns)} FROM s{group_clause(by, window, grouped)})"]
    used = {of for of, direct in zip(pieces.bag_of, pieces.direct, strict=True) if of is not None and not direct}
    for number in sorted(used):
        counts = pieces.bags[number]
        present = f"SELECT * FROM s WHERE {present_sql(counts.value)}"
        group = ", ".join(at)
        counted = f"SELECT {group}, {counts.value} AS v, {counts.count} AS n FROM ({present}) GROUP BY {group}, v"
        parts.extend(bag_result_sql(pieces, number, counted, at))
    shown = [*results, *(f"m.{name.split(' AS ')[-1]}" for name in extra)]
    parts.append(f"a AS ({joined_sql(pieces, at, window, shown, used)})")
    return parts


def or_none_sql(pieces: Grouping, i: int, bag: int) -> str:
    """A bag's result; a group without any value has no row there."""
    empty = pieces.empty[i]
    return f"r{bag}.a{i} AS a{i}" if empty == "NULL" else f"coalesce(r{bag}.a{i}, {empty}) AS a{i}"


def seconds_sql(window: Window) -> str:
    if window.kind == "count":
        return "(greatest(m.tmax - m.tmin, 1) / 1e6)"
    if window.kind == "session":
        return "(greatest(m.we - m.ws, 1) / 1e6)"
    return "((m.we - m.ws) / 1e6)"


def _row_seconds_sql(window: Window) -> str:
    """The same over the rows of a window."""
    if window.kind == "none":
        return '(nullif(max("__t") - min("__t"), 0) / 1e6)'
    if window.kind == "count":
        return '(greatest(max("__t") - min("__t"), 1) / 1e6)'
    if window.kind == "session":
        return "(greatest(we - ws, 1) / 1e6)"
    return "((any_value(we) - ws) / 1e6)" if window.kind == "tumbling" else "((we - ws) / 1e6)"


def hash_sql(keys: Sequence[str]) -> str:
    """What a hash exchange goes by: 63 bits of the keys' hash."""
    return f"(hash({', '.join(keys)}) >> 1)::BIGINT" if keys else "0::BIGINT"


def present_sql(value: str) -> str:
    """A bag takes only rows that have a value."""
    return f"({value}) IS NOT NULL"


def _argument_sql(row: AggregateRow, call: Aggregate) -> list[str]:
    """The arguments per row. A FILTER makes those of other rows null, which no aggregate looks at."""
    if not call.args and row.name in ("count", "rate"):
        return [expression_sql(call.filter)] if call.filter is not None else []
    found = [expression_sql(arg) for arg in call.args]
    if call.filter is None:
        return found
    only = expression_sql(call.filter)
    return [f"CASE WHEN {only} THEN {sql} END" for sql in found]


def _form(row: AggregateRow, call: Aggregate, args: int, window: Window) -> Fold | Bag:
    """The row's own form, or what DISTINCT or an argument makes of it."""
    if call.distinct and call.args and row.name in OF_DISTINCT:
        return OF_DISTINCT[row.name]
    if row.name == "count" and args:
        return Fold((Partial(_counted(call), "sum({p})"),), "coalesce({p0}, 0)")
    if row.name == "rate":
        step = "sum({0})" if call.args else _counted(call) if args else "count(*)"
        number = Partial(step, "sum({p})")
        if window.kind == "none":
            times = (Partial('min("__t")', "min({p})"), Partial('max("__t")', "max({p})"))
            return Fold((number, *times), "(coalesce({p0}, 0) / (nullif({p2} - {p1}, 0) / 1e6))")
        return Fold((number,), "(coalesce({p0}, 0) / {seconds})")
    return row.how


def _counted(call: Aggregate) -> str:
    """How rows are counted: those in which the argument is not null, or for which the filter holds."""
    return "count({0})" if call.args else "count(*) FILTER (WHERE {0})"


def _direct(row: AggregateRow, call: Aggregate, args: int) -> str:
    """The batch form over rows; empty where value counts must do."""
    if call.distinct and call.args and row.name in OF_DISTINCT:
        return DIRECT_OF_DISTINCT.get(row.name, "")
    if row.name == "count" and args:
        return _counted(call)
    if row.name == "rate" and args:
        return f"(coalesce({'sum({0})' if call.args else _counted(call)}, 0) / {{seconds}})"
    return row.direct


def _error_of(row: AggregateRow, call: Aggregate) -> str:
    """How far an approximation may be off: as its last argument says, or as its row does."""
    if len(call.extra) > 1:
        return constant_sql(call.extra[1])
    return "" if row.errors is None else str(row.errors[0])


def _filler(args: Sequence[str], constant: str, error: str) -> Callable[[str], str]:
    def fill(template: str) -> str:
        text = template.replace("{x}", constant).replace("{order}", PLACE).replace("{reversed}", REVERSED_PLACE)
        text = text.replace("{error}", error)
        for i, arg in enumerate(args):
            text = text.replace(f"{{{i}}}", arg)
        return text

    return fill


def _typed(sql: str, call: Aggregate) -> str:
    """The result as its type; a sum that does not fit is null."""
    word = "TRY_CAST" if call.type == BIGINT and call.name == "sum" else "CAST"
    return f"{word}({sql} AS {type_sql(call.type)})"
