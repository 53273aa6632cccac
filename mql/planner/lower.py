"""From the logical plan to stages of operators: how a query runs as a stream."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import assert_never

from mql.detectors import method_named
from mql.planner import fill, over_flow, sessions, sliding, windows
from mql.planner import grouping as g
from mql.planner.expressions import TRUE, Apply, Bound, Constant, EventMeta, conjuncts
from mql.planner.flow import Flow, scanning, side_by_side
from mql.planner.joins import join_of, key_names, meeting_of, side_of
from mql.planner.logical import (
    Derived,
    Detect,
    Enriched,
    Group,
    Input,
    Joined,
    Logical,
    Merge,
    Sampled,
    Scan,
    Speak,
    Track,
    Union,
    first_number,
    has_events,
    inputs_of,
    numbered,
)
from mql.planner.lookups import lookup_of
from mql.planner.parts import Parts, parts_of
from mql.planner.physical import (
    SPLITS_MAX,
    Anomaly,
    AsEvents,
    CountWindows,
    Final,
    OperatorSpec,
    Partial,
    RateSample,
    Renumber,
    Retold,
    RunningMedian,
    SelectRows,
    Stage,
    TakeFirst,
    Window,
)
from mql.planner.showing import show_aggregate, show_line, show_window
from mql.planner.sql import column_name, expression_sql, quote_identifier, type_sql
from mql.planner.told import (
    CHANGES,
    PLACE,
    TIME,
    arranging,
    beside,
    borders_sql,
    is_ordered,
    key_sql,
    order_columns,
    place_sql,
    rows_sql,
    window_place,
)
from mql.planner.withdrawing import SIGN_SQL
from mql.schema import BIGINT, BOOLEAN, DOUBLE, TIMESTAMP, VARCHAR, DataType

LOOK_US = 1_000_000
"""How far the watermark goes, at most, until windows that may be revised are looked at."""


def stages_of(top: Logical, late_matters: bool) -> tuple[Stage, ...]:
    """Cut the plan into stages. `late_matters`: the input has no end, so a row can come too late."""
    return _query(top, late_matters, first_number(top)).as_one().stages


def _query(top: Logical, late_matters: bool, scan: int | None) -> Flow:
    """The rows that a query tells. `scan`: the number of the first of its scans, where the plan has several."""
    parts = parts_of(top)
    flow = _read(parts.scan, late_matters, scan)
    late_matters = late_matters and has_events(parts.scan)
    sampling = None if parts.sampled is None else sampling_sql(parts.sampled)
    if parts.sampled is not None and parts.sampled.per_second is not None:
        sampled, lateness_us = parts.sampled, parts.scan.lateness_us
        hashed = sample_hash_sql(sampled)
        flow = flow.gathered(
            RateSample(parts.sampled.per_second, hashed, lateness_us, late_matters, sampled.extrapolate)
        )
        sampling = None
    if parts.group is not None:
        return _grouped(parts, flow, sampling, late_matters)
    return _rows(parts, flow, sampling, late_matters)


def _read(node: Input, late_matters: bool, scan: int | None) -> Flow:
    """The rows that a query reads, as decoded batches."""
    match node:
        case Scan():
            return scanning(0) if scan is None else scanning(scan, Renumber(scan * SPLITS_MAX))
        case Merge() | Union():
            return side_by_side([_read(one, late_matters, number) for one, number in numbered(inputs_of(node), scan)])
        case Derived(query):
            flow = _query(query, late_matters, scan)
            group = parts_of(query).group
            if group is None:
                return flow
            return flow.then(AsEvents(event_time(group.window), (scan or 0) * SPLITS_MAX))
        case Joined():
            return _joined(node, late_matters, scan)
        case Enriched(left):
            return _read(left, late_matters, scan).then(lookup_of(node))
        case _:
            assert_never(node)


def _joined(node: Joined, late_matters: bool, scan: int | None) -> Flow:
    """Both sides to the tasks of their keys, where they meet."""
    meeting = meeting_of(node)
    lateness = node.lateness_us if late_matters else None
    sides = [
        _read(side, late_matters, number).then(side_of(meeting, port, lateness if has_events(side) else None))
        for port, (side, number) in zip(("left", "right"), numbered(inputs_of(node), scan), strict=True)
    ]
    flow = side_by_side(sides)
    return flow.hashed(join_of(meeting)) if key_names(meeting) else flow.gathered(join_of(meeting))


def event_time(window: Window) -> str:
    """Which time the rows of a window's groups have as events."""
    return {"none": "none", "count": "end", "sliding": "own"}.get(window.kind, "window")


# --- rows ---------------------------------------------------------------------------------------------


def _rows(parts: Parts, flow: Flow, sampling: str | None, late_matters: bool) -> Flow:
    predicate = None if parts.where is None else expression_sql(parts.where)
    late = row_late_sql(parts) if late_matters and is_ordered(parts) else None
    kept = _kept(sampling, predicate)
    told = CHANGES if parts.retracts else ()
    sql = rows_sql(parts, kept, told) if parts.over is None else over_flow.raw_rows_sql(parts, kept, late_matters)
    flow = flow.then(SelectRows(sql, sampling, predicate, late, parts.scan.lateness_us, parts.window is not None))
    if parts.over is not None:
        told_together = not over_flow.goes_on(parts)
        flow = over_flow.rows(parts if parts.limit is None else replace(parts, arrange=None), flow)
        if told_together and parts.limit is None:
            return flow
    arrange = parts.arrange
    if parts.track is not None:
        limit = () if arrange is None else (TakeFirst(arrange.limit or 0, parts.scan.until.kind != "live"),)
        return flow.gathered(_tracking(parts.track, parts), *limit)
    if arrange is None:
        return flow
    if parts.limit is not None:
        return flow.gathered(TakeFirst(parts.limit, parts.scan.until.kind != "live"))
    return flow.gathered(arranging(parts, arrange, None))


def _tracking(track: Track, parts: Parts) -> RunningMedian:
    return RunningMedian(track.step, track.times, parts.scan.until.kind != "live")


def after_batch(parts: Parts) -> tuple[OperatorSpec, ...]:
    """What the rows of the batch statement go through still."""
    if parts.track is not None:
        return (_tracking(parts.track, parts),)
    return after_groups(parts) if parts.detect is not None else ()


def _kept(sampling: str | None, predicate: str | None) -> str:
    """The rows of a batch that pass SAMPLE and WHERE, as a table."""
    conditions = [f"({condition})" for condition in (sampling, predicate) if condition]
    return f"(SELECT * FROM batch WHERE {' AND '.join(conditions)})" if conditions else "batch"


def row_late_sql(parts: Parts) -> str:
    """A row is late when the last window it lies in is over; without windows, when later rows may be out already."""
    over = f'"__m" - {parts.scan.lateness_us}'
    if parts.windowed is None:
        return f'"__t" < {over}'
    return f"{windows.row_end_sql(parts.windowed.window, TIME)} <= {over}"


# --- groups -------------------------------------------------------------------------------------------


def _grouped(parts: Parts, flow: Flow, sampling: str | None, late_matters: bool) -> Flow:
    group = parts.group
    assert group is not None
    pieces = g.grouping(group, parts.retracts)
    before: OperatorSpec
    after: OperatorSpec
    match group.window.kind:
        case "count":
            before, after = _counted(parts, group, pieces, sampling, late_matters)
        case "session" | "sliding":
            before, after = _by_events(parts, group, pieces, sampling, late_matters)
        case _:
            before = partial = _partial(parts, group, pieces, sampling, late_matters)
            after = _final(parts, group, pieces, partial)
    flow = flow.then(before)
    flow = flow.hashed(after) if group.keys else flow.gathered(after)
    at_the_end = (*_filling(parts, group, pieces), *after_groups(parts))
    return flow.gathered(*at_the_end) if at_the_end else flow


def _filling(parts: Parts, group: Group, pieces: g.Grouping) -> tuple[OperatorSpec, ...]:
    if group.filled is None:
        return ()
    return (fill.fill(group, pieces, group.filled, lambda ctes: _closing_sql(parts, group, ctes)),)


def after_groups(parts: Parts) -> tuple[OperatorSpec, ...]:
    """What the rows of all groups together go through: the detector, ORDER BY and LIMIT."""
    detect = () if parts.detect is None else (_anomaly(parts, parts.detect),)
    taken: tuple[OperatorSpec, ...] = ()
    if parts.limit is not None and parts.window is not None and parts.window.kind != "none":
        taken, parts = (TakeFirst(parts.limit, False),), replace(parts, arrange=None)
    if parts.over is not None:
        return (*detect, *over_flow.after_groups(parts), *taken)
    return (*detect, *taken) if parts.arrange is None else (*detect, arranging(parts, parts.arrange, None))


def _partial(parts: Parts, group: Group, pieces: g.Grouping, sampling: str | None, late_matters: bool) -> Partial:
    window = group.window
    predicate = None if parts.where is None else expression_sql(parts.where)
    shared = late_matters and window.kind in ("hopping", "cumulate", "several")
    pane = windows.pane_sql(window, TIME)
    extra = [f"{pane} AS p", *([SIGN_SQL] if pieces.signed else [])]
    late = None
    if late_matters and window.kind != "none":
        over = f'("__m" - {parts.patience_us})'
        late = f"{windows.row_end_sql(window, TIME)} <= {over}"
        if shared:
            over_end = windows.end_grid_sql(window, f"greatest({over}, {windows.NEVER // 2})")
            first_end = windows.first_end_sql(window, pane)
            extra.append(f"CASE WHEN {first_end} <= {over} THEN {over_end} ELSE {windows.NEVER} END AS e")
    base = g.base_sql(pieces, windows.numbered_sql(window, _kept(sampling, predicate)), None, extra)
    if windows.has_gaps(window):
        base = f"SELECT * FROM ({base}) WHERE p IS NOT NULL"
    return Partial(
        window,
        g.partial_sql(pieces, base, shared),
        tuple(g.bag_sql(pieces, bag, base, shared) for bag in pieces.bags),
        predicate,
        late,
        sampling,
        parts.scan.lateness_us,
    )


def _by_events(
    parts: Parts, group: Group, pieces: g.Grouping, sampling: str | None, late_matters: bool
) -> tuple[OperatorSpec, OperatorSpec]:
    """Windows that lie where events do: what is done before the exchange, and after it."""
    predicate = None if parts.where is None else expression_sql(parts.where)
    kept, lateness = _kept(sampling, predicate), parts.scan.lateness_us
    window, patience = group.window, parts.patience_us
    retold, slides = retold_of(parts.speak, window), window.kind == "sliding"
    late = (sliding.late_sql(patience) if slides else sessions.late_sql(window, patience)) if late_matters else None

    def finish(ctes: list[str]) -> str:
        return _closing_sql(parts, group, ctes)

    if window.kind == "session" and not sessions.is_cut(group):
        short = sessions.short_sql(group, pieces, kept)
        partial = sessions.lasting(g.partial_sql(pieces, short, False))
        bags = tuple(g.bag_sql(pieces, bag, short, False) for bag in pieces.bags)
        return (
            Partial(window, partial, bags, predicate, late, sampling, lateness),
            replace(sessions.merging(group, pieces, finish), retold=retold),
        )
    base = g.base_sql(pieces, kept, None, ()) if slides else sessions.base_sql(group, pieces, kept)
    held = sliding.held(pieces, window, finish) if slides else sessions.held(group, pieces, finish)
    with_hash = f'SELECT *, {g.hash_sql(pieces.key_names)} AS "__h" FROM ({base})'
    return (
        SelectRows(with_hash, sampling, predicate, late, lateness, False),
        replace(held, retold=retold),
    )


def retold_of(speak: Speak, window: Window) -> Retold | None:
    """What is told of windows that lie where events do before they are over, and after."""
    pace_us = speak.early_us if speak.kind == "final" else speak.every_us
    if pace_us is None and not speak.revise_us:
        return None
    look_us = LOOK_US if window.kind == "count" else min(LOOK_US, window.size // 16)
    return Retold(pace_us, speak.kind == "every", speak.revise_us, look_us)


def _final(parts: Parts, group: Group, pieces: g.Grouping, partial: Partial) -> Final:
    only = "we <= $until AND we > $since AND we > e AND ws >= $not_before"
    ctes = g.finished_sql(pieces, group.window, bool(group.keys), only)
    speak = parts.speak
    return Final(
        window=group.window,
        keys=len(group.keys),
        bags=len(pieces.bags),
        merge=g.merge_sql(pieces),
        merge_bags=tuple(g.merge_bag_sql(pieces, bag) for bag in pieces.bags),
        close=_closing_sql(parts, group, ctes)
        if group.filled is None
        else f"WITH {', '.join(ctes)} {fill.raw_sql(pieces)}",
        open=_open_sql(group.window),
        emit=speak.kind,
        every_us=speak.every_us,
        early_us=speak.early_us,
        revise_us=speak.revise_us,
        blanks=_blanks(parts, partial),
        hold_us=speak.hold_us,
        kept=g.kept_by(pieces),
    )


def _open_sql(window: Window) -> str:
    """What of a state table belongs to windows that end after $until."""
    if window.kind == "none":
        return ""
    return f"SELECT * FROM held WHERE {windows.last_end_sql(window, 'p', window.by)} > $until"


def _blanks(parts: Parts, partial: Partial) -> tuple[str, ...]:
    """The partial tables of a batch without rows."""
    types: list[tuple[str, DataType]] = [(name, BIGINT) for name in ("__t", "__s", "__o", "__a", "__m")]
    types += [(column_name(path), type) for path, type in parts.scan.columns]
    types += [*beside(parts), *([("_op", VARCHAR)] if parts.retracts else [])]
    if parts.sampled is not None and parts.sampled.per_second is not None and parts.sampled.extrapolate:
        types.append(("__weight", DOUBLE))
    columns = ", ".join(f"CAST(NULL AS {type_sql(type)}) AS {quote_identifier(name)}" for name, type in types)
    return tuple(f"WITH batch AS (SELECT {columns} WHERE false) {sql}" for sql in (partial.sql, *partial.bags))


def _counted(
    parts: Parts, group: Group, pieces: g.Grouping, sampling: str | None, late_matters: bool
) -> tuple[OperatorSpec, OperatorSpec]:
    """Windows of a number of events: rows go to their key's task first, for they are numbered in order there."""
    predicate = None if parts.where is None else expression_sql(parts.where)
    late = f'"__t" < "__m" - {parts.patience_us}' if late_matters else None
    base = g.base_sql(pieces, _kept(sampling, predicate), None, ())
    with_hash = f'SELECT *, {g.hash_sql(pieces.key_names)} AS "__h" FROM ({base})'
    select = SelectRows(with_hash, sampling, predicate, late, parts.scan.lateness_us, False)
    window = group.window
    by_keys = f"PARTITION BY {', '.join(pieces.key_names)} " if pieces.keys else ""
    number = f'(n0 + row_number() OVER ({by_keys}ORDER BY "__t", "__s", "__o") - 1)'
    numbered = f"SELECT released.*, coalesce(counts.n, 0) AS n0 FROM released LEFT JOIN counts ON {_same_keys(pieces)}"
    keys = "".join(f"{key}, " for key in pieces.key_names)
    values = "".join(f"x{i}, " for i in range(len(pieces.values)))
    paned = f'SELECT {keys}{values}"__t", "__s", "__o", {windows.floor_sql("i", window.pane)} AS p FROM numbered'
    both = f'SELECT {keys}"__h", n, done FROM counts UNION ALL SELECT {keys}"__h", 1, 0 FROM released'
    counts_of = f'SELECT {keys}any_value("__h") AS "__h", sum(n)::BIGINT AS n, max(done) AS done FROM ({both})'
    counts_of += f" GROUP BY {', '.join(pieces.key_names)}" if pieces.keys else ""
    counting = CountWindows(
        window=window,
        keys=len(group.keys),
        bags=len(pieces.bags),
        number=f"SELECT * EXCLUDE (n0), {number} AS i FROM ({numbered})",
        counts=counts_of,
        partial=_timed(g.partial_sql(pieces, paned, False)),
        partial_bags=tuple(g.bag_sql(pieces, bag, paned, False) for bag in pieces.bags),
        close=_closing_sql(parts, group, counted_sql(pieces, window)),
        done=f"SELECT * EXCLUDE (done), greatest(done, {full_end_sql('n', window)}) AS done FROM counts",
        keep=(
            f"SELECT held.* FROM held JOIN counts ON {_same_keys(pieces, 'held')} "
            f"WHERE held.p >= counts.done + {window.slide - window.size}"
        ),
        retold=retold_of(parts.speak, window),
        kept=g.kept_by(pieces),
    )
    return select, counting


def counted_sql(pieces: g.Grouping, window: Window) -> list[str]:
    """CTEs that finish windows of events: those full by `counts`, and under $ended a last, shorter one."""
    keys = pieces.key_names
    at = ["ws", "we", *keys]
    full = full_end_sql("counts.n", window)
    joined = f"JOIN counts ON {' AND '.join(f's.{key} IS NOT DISTINCT FROM counts.{key}' for key in keys) or 'true'}"
    only = (
        f"(we <= counts.n AND we > counts.done) OR "
        f"($ended AND {full} < counts.n "
        f"AND we = CASE WHEN counts.n < {window.size} THEN {window.size} ELSE {full} + {window.slide} END)"
    )

    def expanded(table: str) -> str:
        inside = windows.expanded_sql(_as_hopping(window), table)
        return f"SELECT s.* FROM ({inside}) s {joined} WHERE we >= {window.size} AND ({only})"

    parts = [f"s AS ({expanded('state')})"]
    merged = [
        *at,
        "sum(n) AS n",
        "min(tmin) AS tmin",
        "max(tmax) AS tmax",
        *(f"{merge} AS f{i}" for i, merge in enumerate(pieces.merges)),
    ]
    parts.append(f"m0 AS (SELECT {', '.join(merged)} FROM s GROUP BY {', '.join(at)})")
    parts.append("m AS (SELECT * FROM m0)")
    for number, bag in enumerate(pieces.bags):
        parts.append(f"s{number} AS ({expanded(f'bag{number}')})")
        values = (
            f"SELECT {', '.join(at)}, v, {bag.merge}(n)::{bag.type} AS n FROM s{number} GROUP BY {', '.join(at)}, v"
        )
        parts.extend(g.bag_result_sql(pieces, number, values, at))
    results = g.results_sql(pieces)
    parts.append(f"a0 AS ({g.joined_sql(pieces, at, window, [*results, 'm.tmin', 'm.tmax'])})")
    # Readers see when the window's first and last event happened, not their numbers.
    parts.append("a AS (SELECT * EXCLUDE (ws, we, tmin, tmax), tmin AS ws, tmax AS we, we AS wn FROM a0)")
    return parts


def full_end_sql(count: str, window: Window) -> str:
    """The end of the last full window of so many events; 0 where none is full."""
    last = f"{windows.floor_sql(f'({count} - {window.size})', window.slide)} + {window.size}"
    return f"CASE WHEN {count} < {window.size} THEN 0 ELSE {last} END"


def _as_hopping(window: Window) -> Window:
    return Window("hopping", window.size, window.slide, 0, window.pane)


def _timed(sql: str) -> str:
    """The partials of counted windows also keep when their first and last events happened."""
    return sql.replace("count(*) AS n,", 'count(*) AS n, min("__t") AS tmin, max("__t") AS tmax,', 1)


def _same_keys(pieces: g.Grouping, table: str = "released") -> str:
    return " AND ".join(f"{table}.{key} IS NOT DISTINCT FROM counts.{key}" for key in pieces.key_names) or "true"


# --- what both have -----------------------------------------------------------------------------------


def _closing_sql(parts: Parts, group: Group, ctes: list[str]) -> str:
    """The statement that gives result rows out of the state: select items, hidden columns, key, HAVING."""
    return f"WITH {', '.join(ctes)} {result_sql(parts, group)}"


def result_sql(parts: Parts, group: Group) -> str:
    """The select list over the CTE `a` (ws, we, k…, a…), in the order of windows and keys."""
    if parts.detect is not None:
        return _judged_sql(parts, parts.detect, group)
    window = group.window
    if parts.over is not None:
        return over_flow.raw_groups_sql(parts, group)
    items = [f"{expression_sql(item)} AS {quote_identifier(name)}" for name, item in parts.project.items]
    inside = "a" if window.kind == "none" else f"(SELECT *, {', '.join(borders_sql(parts))} FROM a)"
    keys = [f"k{i}" for i in range(len(group.keys))]
    place = window_place(group)
    at = ['ws AS "__ws"', 'we AS "__we"', *(PLACE if window.kind == "sliding" else ())]
    having = "true" if parts.having is None else f"coalesce({expression_sql(parts.having)}, false)"
    number = ["wn"] if window.kind == "count" else []
    own = keys[: len(keys) - group.hidden]
    columns = [
        *items,
        *at,
        f'{key_sql([*keys, *place])} AS "_key"',
        *([f'{key_sql([*own, *place])} AS "__key"'] if group.hidden else []),
        *([f'{place_sql([*keys, *place])} AS "__place"'] if parts.inner else []),
        f'{having} AS "__keep"',
        *order_columns(parts),
    ]
    order = ", ".join(f"{name} NULLS LAST" for name in ["we", *number, *keys])
    return f"SELECT {', '.join(columns)} FROM {inside} ORDER BY {order}"


def _judged_sql(parts: Parts, detect: Detect, group: Group) -> str:
    """The rows that a detector looks at, in the order of windows and keys."""
    keys = [f"k{i}" for i in range(len(group.keys))]
    double = type_sql(DOUBLE)
    names = f"to_json(row({', '.join(keys)}))::VARCHAR" if keys else "''"
    guard = " AND ".join(f"coalesce({expression_sql(item)}, false)" for item in detect.guards)
    among = ", ".join(expression_sql(item) for item in detect.among)
    having = "true" if parts.having is None else f"coalesce({expression_sql(parts.having)}, false)"
    columns = [
        *keys,
        *(f"a{i}" for i in range(len(group.aggregates))),
        'ws AS "__ws"',
        'we AS "__we"',
        f'{names} AS "__id"',
        f'CAST({expression_sql(detect.value)} AS {double}) AS "__x"',
        *([] if detect.of is None else [f'CAST({expression_sql(detect.of)} AS {double}) AS "__n"']),
        *([f'to_json(row({among}))::VARCHAR AS "__among"'] if among else []),
        *([f'({guard}) AS "__ok"'] if guard else []),
        f'{having} AS "__having"',
        "'' AS \"_key\"",
        'true AS "__keep"',
    ]
    inside = "(SELECT *, make_timestamp(ws) AS window_start, make_timestamp(we) AS window_end FROM a)"
    order = ", ".join(f"{name} NULLS LAST" for name in ["we", *keys])
    return f"SELECT {', '.join(columns)} FROM {inside} ORDER BY {order}"


def _anomaly(parts: Parts, detect: Detect) -> Anomaly:
    group, until = parts.group, parts.scan.until
    assert group is not None
    return Anomaly(
        window=group.window,
        method=detect.method,
        parameters=detect.parameters,
        keys=len(group.keys),
        project=_told_sql(parts, detect, group),
        zeros=tuple(f"a{i}" for i in detect.zeros),
        fills=detect.fills,
        relative=detect.relative,
        log=detect.log,
        direction=detect.direction,
        warmup=detect.warmup,
        needed=detect.needed,
        out_of=detect.out_of,
        rearm=detect.rearm,
        change=detect.change,
        limit=detect.limit,
        emit=detect.emit,
        max_gap=detect.max_gap,
        ttl=detect.ttl,
        endless=until.kind == "live",
        ends_us=until.us if until.kind == "time" else None,
        seed=_seed(parts, detect, group),
        explained=detect.explained,
        told_after_us=detect.told_after_us,
        budget=detect.budget,
        scale=detect.scale or 1.0,
        max_keys=detect.max_keys,
        adds_up=detect.adds_up,
        paces=detect.paces,
    )


def _seed(parts: Parts, detect: Detect, group: Group) -> str:
    """What the names of episodes begin with: the same as long as the query means the same, in history and live."""
    method = method_named(detect.method)
    assert method is not None
    usual = {parameter.name: parameter.default for parameter in method.parameters}
    by = detect.explained
    hidden = () if by is None else (by.amounts, by.sizes)
    told = [
        *_read_from(parts.scan),
        show_window(group.window),
        *(expression_sql(key) for key in group.keys),
        "|",
        *(show_aggregate(call) for i, call in enumerate(group.aggregates) if i not in hidden),
        "|",
        *(expression_sql(one) for one in (*_conditions(parts), parts.having or TRUE, detect.value, detect.of or TRUE)),
        f"{detect.method} {detect.direction} {detect.needed} {detect.out_of}",
        *(f"{name} {value}" for name, value in detect.parameters if value != usual[name]),
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def _conditions(parts: Parts) -> list[Bound]:
    """What WHERE says, without the bounds of the stretch of time that is read."""
    bounds = {
        Apply(op, (EventMeta("event_time"), Constant(start.us, TIMESTAMP)), BOOLEAN)
        for op, start in ((">=", parts.scan.since), ("<", parts.scan.until))
        if start.kind == "time"
    }
    return [] if parts.where is None else [one for one in conjuncts(parts.where) if one not in bounds]


def _read_from(node: Input) -> list[str]:
    """What is read, in words that stay the same as long as it means the same."""
    match node:
        case Scan() | Merge():
            return [node.info.name]
        case Union(queries):
            return [told for query in queries for told in _read_from(query)]
        case Derived(query):
            inner = parts_of(query)
            group = [] if inner.group is None else [show_line(inner.group)]
            conditions = (*_conditions(inner), inner.having or TRUE)
            return [
                *_read_from(inner.scan),
                *group,
                *([] if inner.detect is None else [show_line(inner.detect)]),
                *(expression_sql(one) for one in conditions),
                show_line(inner.project),
            ]
        case Joined() | Enriched():
            return [*(told for one in inputs_of(node) for told in _read_from(one)), show_line(node)]
        case _:
            assert_never(node)


def _told_sql(parts: Parts, detect: Detect, group: Group) -> str:
    """The select list over the table `rows`, in the order of windows; of alerts the worst first."""
    keys = [f"k{i} NULLS LAST" for i in range(len(group.keys))]
    each = ['"__we"', *([quote_identifier(group.window.by)] if group.window.kind == "several" else [])]
    order = [*each, *([] if detect.emit == "all" else ["score DESC NULLS LAST"]), *keys]
    first = f"row_number() OVER (PARTITION BY {', '.join(each)} ORDER BY {', '.join(order)}) = 1"
    inside = (
        f'SELECT *, make_timestamp("__ws") AS window_start, make_timestamp("__we") AS window_end, '
        f'make_timestamp("__since") AS since, CASE WHEN {first} THEN "__more" ELSE 0 END AS suppressed FROM rows'
    )
    items = [f"{expression_sql(item)} AS {quote_identifier(name)}" for name, item in parts.project.items]
    keyed = ['"__ws"', '"__we"', *(f"k{i}" for i in range(len(group.keys)))]
    place = [f'{place_sql(keyed)} AS "__place"'] if parts.inner else []
    columns = [*items, '"__ws"', '"__we"', *place, *order_columns(parts)]
    return f"SELECT {', '.join(columns)} FROM ({inside}) ORDER BY {', '.join(order)}"


def sampling_sql(sampled: Sampled) -> str | None:
    """True for the rows that stay: their hash, out of a million, lies below the share."""
    if sampled.share is None:
        return None
    return f"{sample_hash_sql(sampled)} % 1000000 < {round(sampled.share * 1_000_000)}"


def sample_hash_sql(sampled: Sampled) -> str:
    """A stable number for a row, or for its keys: 64 bits of MD5, the same in every version and language."""
    parts = [f"CAST({expression_sql(item)} AS VARCHAR)" for item in sampled.by] or ['"__s"', '"__o"']
    texts = ", ".join(f"coalesce(CAST({part} AS VARCHAR), chr(1))" for part in parts)
    return f"md5_number_lower(concat_ws(chr(0), '{sampled.seed}', {texts}))"
