"""From the logical plan to one SQL statement over stored events: how a query is answered over history.

No statement says what a detector does: what one tells in an inner query is a table that is made before.

The statement reads the table `events`: decoded columns with __t, __s, __o (and __m, where lateness is judged as if
the events came live); where there are several scans, a table for each. What a query reads of another query is a
statement in the statement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from mql.planner import fill, over_flow, sessions, sliding, windows
from mql.planner import grouping as g
from mql.planner.expressions import conjunction
from mql.planner.joins import batch_ctes, meeting_of
from mql.planner.logical import (
    Derived,
    Detect,
    Enriched,
    Filled,
    Group,
    Input,
    Joined,
    Logical,
    Merge,
    Scan,
    Union,
    find,
    first_number,
    has_events,
    input_of,
    inputs_of,
    numbered,
)
from mql.planner.lookups import lookup_sql, table_name
from mql.planner.lower import after_batch, event_time, result_sql, row_late_sql, sample_hash_sql, sampling_sql
from mql.planner.parts import Parts, parts_of
from mql.planner.physical import SPLITS_MAX, Judged
from mql.planner.sql import column_name, expression_sql, quote_identifier, type_sql
from mql.planner.told import arranging_sql, is_ordered, rows_sql

ARRIVED = "arrived"
PLACED = ('"__t"', '"__s"', '"__o"', '"__a"', '"__m"')


def batch_sql(top: Logical, as_live: bool) -> str:
    """The one statement. `as_live`: rows that a live query would have called late are left out."""
    return _query(top, as_live, first_number(top))


def judged_tables(top: Logical, as_live: bool) -> tuple[Judged, ...]:
    """What the detectors of inner queries tell, in the order in which they read each other."""
    return tuple(_judged(input_of(top), as_live, first_number(top)))


def _judged(node: Input, as_live: bool, scan: int | None) -> Iterator[Judged]:
    for one, number in numbered(inputs_of(node), scan):
        yield from _judged(one, as_live, number)
    if not isinstance(node, Derived):
        return
    parts = parts_of(node.query)
    if parts.detect is not None:
        columns = [
            f"CAST(NULL AS {type_sql(type)}) AS {quote_identifier(column_name(path))}" for path, type in node.columns
        ]
        hidden = [f'CAST(NULL AS BIGINT) AS "{name}"' for name in ("__ws", "__we", "__place")]
        yield Judged(
            _judged_table(node.query, scan),
            _query(node.query, as_live, scan),
            after_batch(parts),
            f"SELECT {', '.join([*columns, *hidden])} WHERE false",
        )


def _judged_table(query: Logical, scan: int | None) -> str:
    """The table of what a query's detector tells: by its first scan, and how many queries are inside."""
    depth, read = 0, input_of(query)
    while inputs_of(read):
        depth, read = depth + 1, inputs_of(read)[0]
    return f"judged{scan or 0}_{depth}"


def _query(top: Logical, as_live: bool, scan: int | None) -> str:
    """The statement for one query. `scan`: the number of the first of its scans, where the plan has several."""
    parts = parts_of(top)
    read = read_sql(parts.scan, as_live, scan)
    as_live = as_live and has_events(parts.scan)
    kept = _events(parts, as_live, read.table)
    head = f"WITH {', '.join([*read.ctes, *kept])}"
    if parts.group is None:
        return f"{head} {_rows(parts, as_live)}"
    group = parts.group
    pieces = g.grouping(group)
    match group.window.kind:
        case "count":
            ctes = _counted(parts, group, pieces, as_live)
        case "session":
            ctes = _sessions(parts, group, pieces, as_live)
        case "sliding":
            ctes = _sliding(parts, group, pieces, as_live)
        case _:
            ctes = _windowed(parts, group, pieces, as_live)
    final = f'SELECT * FROM ({result_sql(parts, group)}) WHERE "__keep"'
    if parts.detect is not None:
        final = result_sql(parts, group)
    elif parts.over is not None:
        final = over_flow.batch_groups_sql(parts, f"({final})")
    elif parts.arrange is not None:
        final = arranging_sql(parts, parts.arrange, f"({final})")
    return f"{head}, {', '.join(ctes)} {final}"


def _rows(parts: Parts, as_live: bool) -> str:
    late = None
    if as_live and is_ordered(parts):
        late = f"NOT ({row_late_sql(parts)})"
    source = f"(SELECT * FROM kept WHERE {late})" if late else "kept"
    told = ('"_key"',) if parts.retracts else ()
    rows = rows_sql(parts, source, told) if parts.over is None else over_flow.batch_rows_sql(parts, source, as_live)
    if parts.arrange is not None:
        return arranging_sql(parts, parts.arrange, f"({rows})")
    if parts.inner:
        return rows
    order = '"__t", "__s", "__o"' + (', "__we"' if parts.windowed is not None else "")
    return f"SELECT * FROM ({rows}) ORDER BY {order}"


@dataclass(frozen=True, slots=True)
class Source:
    """A table of what a query reads, decoded, with the CTEs that make it."""

    ctes: tuple[str, ...]
    table: str


def read_sql(node: Input, as_live: bool, scan: int | None) -> Source:
    """What a query reads, as a table."""
    match node:
        case Scan():
            if scan is None:
                return Source((), "events")
            numbered_events = f'SELECT * REPLACE (("__s" + {scan * SPLITS_MAX})::INTEGER AS "__s") FROM events{scan}'
            return Source((f"scan{scan} AS ({numbered_events})",), f"scan{scan}")
        case Merge() | Union():
            return _together(node, as_live, scan)
        case Derived(query):
            table = f"rows{scan or 0}"
            return Source((f"{table} AS ({_as_events(node, query, as_live, scan)})",), table)
        case Joined():
            return _joined(node, as_live, scan)
        case Enriched(left):
            source = read_sql(left, as_live, scan)
            # A number for each table that is looked up, one over the other.
            table = f"looked{scan or 0}_{len(source.ctes)}"
            sql = lookup_sql(node, source.table, quote_identifier(table_name(node.table.name)))
            return Source((*source.ctes, f"{table} AS ({sql})"), table)
        case _:
            assert_never(node)


def _together(node: Merge | Union, as_live: bool, scan: int | None) -> Source:
    """The rows of several tables that have the same columns."""
    sources = [read_sql(one, as_live, number) for one, number in numbered(inputs_of(node), scan)]
    columns = ", ".join([*_names(node), *PLACED])
    rows = " UNION ALL ".join(f"SELECT {columns} FROM {source.table}" for source in sources)
    table = f"all{scan or 0}"
    return Source((*(cte for source in sources for cte in source.ctes), f"{table} AS ({rows})"), table)


def _joined(node: Joined, as_live: bool, scan: int | None) -> Source:
    (left, right), ports = inputs_of(node), numbered(inputs_of(node), scan)
    sources = [read_sql(side, as_live, number) for side, number in ports]
    lateness = [node.lateness_us if as_live and has_events(side) else None for side in (left, right)]
    table = f"joined{scan or 0}_{sum(len(source.ctes) for source in sources)}"
    ctes = batch_ctes(meeting_of(node), sources[0].table, sources[1].table, table, (lateness[0], lateness[1]))
    return Source((*(cte for source in sources for cte in source.ctes), *ctes), table)


def _as_events(node: Derived, query: Logical, as_live: bool, scan: int | None) -> str:
    """The rows of a query as events, as the operator for that makes them."""
    rows = _query(query, as_live, scan)
    group = parts_of(query).group
    if find(query, Detect) is not None:
        rows = f"SELECT * FROM {_judged_table(query, scan)}"
    if group is None:
        return rows
    time = {"window": '"__we" - 1', "end": '"__we"', "own": '"__t"', "none": "0::BIGINT"}[event_time(group.window)]
    place = [f'{time} AS "__t"', f'{(scan or 0) * SPLITS_MAX}::INTEGER AS "__s"', '"__place" AS "__o"']
    beside = [f'{time} AS "__a"', f'{windows.NEVER} AS "__m"']
    return f"SELECT {', '.join([*_names(node), *place, *beside])} FROM ({rows})"


def _names(node: Input) -> list[str]:
    return [quote_identifier(column_name(path)) for path, _ in node.columns]


def _events(parts: Parts, as_live: bool, source: str) -> list[str]:
    """The CTE `kept`: the events that pass SAMPLE and WHERE; before it all of them, where they are asked for twice."""
    sampled, where = parts.sampled, parts.where
    conditions = []
    found = []
    if as_live and parts.group is not None and parts.group.filled is not None:
        # Events can be read once only, and FILL asks for their times beside the rows.
        found, source = [f"{ARRIVED} AS MATERIALIZED (SELECT * FROM {source})"], ARRIVED
    if sampled is not None and sampled.per_second is not None:
        second = windows.floor_sql('"__t"', 1_000_000)
        rank = f'row_number() OVER (PARTITION BY {second} ORDER BY {sample_hash_sql(sampled)}, "__s", "__o")'
        if as_live:
            source = f'(SELECT * FROM {source} WHERE {second} + 1000000 > "__m" - {parts.scan.lateness_us})'
        kept = f"least(count(*) OVER (PARTITION BY {second}), {sampled.per_second})"
        weight = f', count(*) OVER (PARTITION BY {second})::DOUBLE / {kept} AS "__weight"'
        columns = f"*{weight if sampled.extrapolate else ''}"
        source = f"(SELECT {columns} FROM {source} QUALIFY {rank} <= {sampled.per_second})"
    elif sampled is not None:
        condition = sampling_sql(sampled)
        assert condition is not None
        conditions.append(condition)
    if where is not None:
        conditions.append(expression_sql(conjunction([where])))
    only = f" WHERE {' AND '.join(f'({condition})' for condition in conditions)}" if conditions else ""
    return [*found, f"kept AS (SELECT * FROM {source}{only})"]


def _windowed(parts: Parts, group: Group, pieces: g.Grouping, as_live: bool) -> list[str]:
    window = group.window
    pane = windows.pane_sql(window, '"__t"')
    source = windows.numbered_sql(window, "kept")
    base = g.base_sql(pieces, source, None, [f"{pane} AS p", *(['"__m"'] if as_live else [])])
    only = "true"
    if as_live and window.kind != "none":
        only = f'we > "__m" - {parts.patience_us}'
    if windows.has_gaps(window):
        only = f"p IS NOT NULL AND {only}"
    found = [f"base AS ({base})", f"s AS ({g.expanded_sql(window, 'base', only)})"]
    ctes = [*found, *g.aggregated_sql(pieces, window, bool(group.keys))]
    if group.filled is None:
        return ctes
    return [*ctes[:-1], *_filled(parts, group, pieces, group.filled, ctes[-1], as_live)]


def _filled(
    parts: Parts, group: Group, pieces: g.Grouping, filled: Filled, aggregated: str, as_live: bool
) -> list[str]:
    """The same with FILL: up to the last window that has a row, or that the watermark would have closed."""
    columns = "".join(f"{key}, " for key in pieces.key_names)
    last = "(SELECT max(we) FROM seen_in)"
    if as_live:
        reached = f'SELECT min(t) FROM (SELECT max("__t") AS t FROM {ARRIVED} GROUP BY "__s")'
        last = f"greatest({last}, ({reached}) - {parts.scan.lateness_us + parts.speak.hold_us})"
    return [
        aggregated.replace("a AS (", "seen_in AS (", 1),
        f"seen AS (SELECT {columns}we FROM seen_in WHERE false)",
        f"lasts AS (SELECT {last} AS reached)",
        *(
            cte.replace("$since", str(windows.NEVER))
            for cte in fill.filled_sql(group, pieces, filled, "seen_in", "(SELECT reached FROM lasts)")
        ),
    ]


def _sessions(parts: Parts, group: Group, pieces: g.Grouping, as_live: bool) -> list[str]:
    late = f"WHERE NOT ({sessions.late_sql(group.window, parts.patience_us)})" if as_live else ""
    base = f"base AS ({sessions.base_sql(group, pieces, f'(SELECT * FROM kept {late})')})"
    assigned = sessions.assigned_sql(group, pieces, "base", "true")
    return [
        base,
        *assigned,
        *g.aggregated_sql(pieces, group.window, bool(group.keys), at=sessions.told_at(group, pieces)),
    ]


def _sliding(parts: Parts, group: Group, pieces: g.Grouping, as_live: bool) -> list[str]:
    late = f"WHERE NOT ({sliding.late_sql(parts.patience_us)})" if as_live else ""
    base = f"base AS ({g.base_sql(pieces, f'(SELECT * FROM kept {late})', None, ())})"
    return [base, *sliding.finished_sql(pieces, group.window, "base", "true")]


def _counted(parts: Parts, group: Group, pieces: g.Grouping, as_live: bool) -> list[str]:
    window = group.window
    keys = pieces.key_names
    late = f'WHERE NOT ("__t" < "__m" - {parts.patience_us})' if as_live else ""
    base = g.base_sql(pieces, f"(SELECT * FROM kept {late})", None, [])
    over = f"PARTITION BY {', '.join(keys)} " if keys else ""
    numbered = f'SELECT *, row_number() OVER ({over}ORDER BY "__t", "__s", "__o") - 1 AS i FROM ({base})'
    totals = f"SELECT *, count(*) OVER ({over.strip()}) AS total FROM ({numbered})"
    # A window is told when it is full; what no full window holds comes in one last, shorter one.
    full = f"(total - {window.size}) // {window.slide} * {window.slide} + {window.size}"
    size, slide = window.size, window.slide
    last = f"CASE WHEN total < {size} THEN {size} WHEN {full} < total THEN {full} + {slide} ELSE {full} END"
    first = f"CASE WHEN i < {size} THEN {size} ELSE (i - {size} + {slide}) // {slide} * {slide} + {size} END"
    most = f"i // {slide} * {slide} + {size}"
    ends = f"SELECT *, unnest(range({first}, least({most}, {last}) + 1, {window.slide})) AS we FROM ({totals})"
    found = [f"base AS ({ends})", f"s AS (SELECT *, we - {window.size} AS ws FROM base)"]
    extra = ['min("__t") AS tmin', 'max("__t") AS tmax']
    found += g.aggregated_sql(pieces, window, bool(group.keys), extra)
    found[-1] = found[-1].replace("a AS (", "a0 AS (", 1)
    found.append("a AS (SELECT * EXCLUDE (ws, we, tmin, tmax), tmin AS ws, tmax AS we, we AS wn FROM a0)")
    return found
