"""Sliding windows in SQL: for each event the aggregates over the stretch of time that ends with it.

The window of an event at time t is (t - size, t] of its group; events of the same time see each other. `window_start`
is t - size, `window_end` is t. Properties outside of aggregates are the event's own. An event is late as soon as its
split has passed it by more than the lateness, and rows come in the order (event time, split, offset) of their group.
"""

from __future__ import annotations

import re

from mql.planner import grouping as g
from mql.planner.physical import Held, Window
from mql.planner.sessions import Finish

PLACE = ('"__t"', '"__s"', '"__o"')
_CALL = re.compile(
    r"\b(count|sum|min|max|avg|stddev_samp|stddev_pop|var_samp|var_pop|bool_and|bool_or|bit_and|bit_or|bit_xor|list|"
    r"arg_min|arg_max|histogram|median|quantile_disc|quantile_cont|corr|covar_pop|covar_samp|regr_\w+)\("
)
_FILTER = " FILTER (WHERE "


def late_sql(lateness_us: int) -> str:
    return f'"__t" < "__m" - {lateness_us}'


def finished_sql(pieces: g.Grouping, window: Window, source: str, only: str) -> list[str]:
    """CTEs from rows (keys, values, place) to `a`: one row for each event for which `only` holds."""
    keys = pieces.key_names
    by_keys = f"PARTITION BY {', '.join(keys)} " if keys else ""
    frame = f'w AS ({by_keys}ORDER BY "__t" RANGE BETWEEN {window.size - 1} PRECEDING AND CURRENT ROW)'
    at = ["ws", "we", *keys]
    columns = [f'"__t" - {window.size} AS ws', '"__t" AS we', *keys, *PLACE]
    results = [f"m.{name}" for name in PLACE]
    used = set()
    for i, (direct, bag) in enumerate(zip(pieces.direct, pieces.bag_of, strict=True)):
        if direct:
            columns.append(f"{framed(direct.replace('{seconds}', str(window.size / 1e6)), 'w')} AS a{i}")
            results.append(f"m.a{i}")
        else:
            assert bag is not None
            used.add(bag)
            results.append(g.or_none_sql(pieces, i, bag))
    parts = [f"m AS (SELECT * FROM (SELECT {', '.join(columns)} FROM {source} WINDOW {frame}) WHERE {only})"]
    for number in sorted(used):
        counts = pieces.bags[number]
        same = "".join(f" AND r.{key} IS NOT DISTINCT FROM t.{key}" for key in keys)
        ends = f"SELECT DISTINCT {', '.join(at)} FROM m"
        values = [f"r.{name}" for name in (*PLACE, *(f"x{i}" for i in range(len(pieces.values))))]
        inside = (
            f"SELECT {', '.join([*(f't.{name}' for name in at), *values])} "
            f'FROM ({ends}) t JOIN {source} r ON r."__t" > t.ws AND r."__t" <= t.we{same}'
        )
        group = ", ".join(at)
        counted = f"SELECT {group}, {counts.value} AS v, {counts.count} AS n FROM ({inside}) "
        counted += f"WHERE {g.present_sql(counts.value)} GROUP BY {group}, v"
        parts.extend(g.bag_result_sql(pieces, number, counted, at))
    parts.append(f"a AS ({g.joined_sql(pieces, at, window, results, used)})")
    return parts


def held(pieces: g.Grouping, window: Window, finish: Finish) -> Held:
    """Rows are told when the watermark has passed them, and kept for as long as later windows reach back to them."""
    passed = '(SELECT * FROM held WHERE "__t" < $until)'
    return Held(
        window=window,
        close=finish(finished_sql(pieces, window, passed, "we >= $since")),
        keep=f'SELECT * FROM held WHERE "__t" > $until - {window.size}',
        ready_us=1,
        pace_us=0,
        by_end=True,
    )


def framed(sql: str, window: str) -> str:
    """The same expression with each of its aggregates taken over a window."""
    found = _CALL.search(sql)
    if found is None:
        return sql
    end = _closed(sql, found.end())
    if sql.startswith(_FILTER, end):
        end = _closed(sql, end + len(" FILTER ("))
    return f"{sql[:end]} OVER {window}{framed(sql[end:], window)}"


def _closed(sql: str, at: int) -> int:
    """Behind the bracket that closes the one before `at`."""
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(sql[at], 0)
        at += 1
    return at
