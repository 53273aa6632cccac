"""Sessions in SQL: events of a group that follow each other within a gap.

    #  gap 5 s      0    5    10   15   20
    #  events       a a  a            a  a
    #  sessions    |---------)       |------)

The events of a group, in the order (event time, split, offset), are cut into sessions. An event begins a session

- where it comes the gap or more after the one before it, or is the first;
- START WHEN: where the condition is true of it;
- END WHEN: where the condition was true of the one before it;
- MAX: where it comes that long or longer after the first event of the session so far.

No event lies outside a session. `window_start` is the time of its first event. `window_end` is the time of its last
event and the gap; sooner where the next session begins sooner or MAX is over; the time of the event that END WHEN held
for.

When a session is told. Whether an event is late must not depend on sessions, which batches, tasks and other splits
would shape. So it is judged by the window that it would have by itself, [time, time + gap): it is late where that ends
at or before the largest event time earlier in its split less the lateness. Once the watermark W has come, then, only
events after W - gap are still in time, and a session whose last event lies at or before W - 2 gap can't grow any more:
then it is told. Cut by a condition or by MAX it is told as soon as nothing after W - gap can change it.

Without conditions and MAX, a batch is aggregated into short sessions first, which are put together where they meet: a
session is panes that merge (p its first event, z its last, partials; rows of values follow their p). What is cut needs
its events in order: rows are held until their session is told, and aggregated then, as over history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mql.planner import grouping as g
from mql.planner.logical import Group
from mql.planner.physical import Held, Sessions, Window
from mql.planner.sql import expression_sql
from mql.planner.windows import NEVER

TIME = '"__t"'
PLACE = '"__t", "__s", "__o"'
FIRST, FIRST_AT = ("fs", "fo"), ('"__s"', '"__o"')
BEGINS, ENDS = "cb", "ce"

Finish = Callable[[list[str]], str]
"""From the CTEs that give `a` to the statement that gives result rows."""


def late_sql(window: Window, lateness_us: int) -> str:
    """An event is late when the session that it would have by itself is over."""
    return f'{TIME} + {window.size} <= "__m" - {lateness_us}'


def is_cut(group: Group) -> bool:
    """Whether it takes the order of events, and not their times alone, to tell sessions apart."""
    return group.begins is not None or group.ends is not None or group.window.most > 0


def base_sql(group: Group, pieces: g.Grouping, source: str) -> str:
    """Keys and values of rows, and whether a session begins or ends with them."""
    cuts = [(group.begins, BEGINS), (group.ends, ENDS)]
    extra = [f"coalesce({expression_sql(cut)}, false) AS {name}" for cut, name in cuts if cut is not None]
    return g.base_sql(pieces, source, None, extra)


# --- over rows in order -----------------------------------------------------------------------------------


def assigned_sql(group: Group, pieces: g.Grouping, source: str, final: str) -> list[str]:
    """CTEs from rows (as `base_sql` gives them) to `s`: those of sessions for which `final` holds (in terms of ws, we,
    last, nx: when the next session begins, ended: by END WHEN), with ws, we and q, the session's number."""
    gap, most = group.window.size, group.window.most
    keys = pieces.key_names
    order = f"{_partition(keys)} ORDER BY {PLACE}".strip()
    joins = [f"{TIME} - lag({TIME}) OVER o < {gap}"]
    if group.begins is not None:
        joins.append(f"NOT {BEGINS}")
    if group.ends is not None:
        joins.append(f"NOT lag({ENDS}) OVER o")
    begun = f"SELECT *, CASE WHEN {' AND '.join(joins)} THEN 0 ELSE 1 END AS b FROM {source} WINDOW o AS ({order})"
    everywhere = f"ORDER BY {', '.join([*keys, PLACE])} ROWS UNBOUNDED PRECEDING"
    parts = [f"begun AS ({begun})", f"counted AS (SELECT *, sum(b) OVER ({everywhere}) AS q FROM begun)"]
    if most:
        first = f"SELECT q, min({TIME}) AS ws FROM counted GROUP BY q"
        later = f"counted.q = o.q AND counted.{TIME} >= o.ws + {most}"
        following = f"SELECT o.q, min(counted.{TIME}) FROM o JOIN counted ON {later} GROUP BY o.q, o.ws"
        at_or_after = f"counted.q = starts.q AND counted.{TIME} >= starts.ws"
        parts.append(f"starts AS (WITH RECURSIVE o AS ({first} UNION ALL {following}) SELECT * FROM o)")
        parts.append(f"placed AS (SELECT counted.*, starts.ws FROM counted ASOF JOIN starts ON {at_or_after})")
    else:
        parts.append(f"placed AS (SELECT *, min({TIME}) OVER (PARTITION BY q) AS ws FROM counted)")
    ended = f"arg_max({ENDS}, row({PLACE}))" if group.ends is not None else "false"
    shown = "".join(f"any_value({key}) AS {key}, " for key in keys)
    firsts = [f"arg_min({at}, row({PLACE})) AS {name}" for name, at in zip(FIRST, FIRST_AT, strict=True)]
    columns = ", ".join(["q", "ws", *(firsts if is_cut(group) else ())])
    spans = f"SELECT {columns}, {shown}max({TIME}) AS last, {ended} AS ended FROM placed GROUP BY q, ws"
    next_one = f"lead(ws) OVER ({_partition(keys)} ORDER BY q, ws)"
    parts.append(f"lasting AS (SELECT *, {next_one} AS nx FROM ({spans}))")
    ends = ", ".join(["nx", f"last + {gap}", *([f"ws + {most}"] if most else [])])
    parts.append(f"spans AS (SELECT *, CASE WHEN ended THEN last ELSE least({ends}) END AS we FROM lasting)")
    same = "placed.q = spans.q AND placed.ws = spans.ws"
    known = ", ".join(f"spans.{name}" for name in ["we", *(FIRST if is_cut(group) else ())])
    parts.append(f"s AS (SELECT placed.*, {known} FROM placed JOIN spans ON {same} WHERE {final})")
    return parts


def told_at(group: Group, pieces: g.Grouping) -> list[str]:
    """What tells the sessions of `s` apart."""
    return ["ws", "we", "q", *(FIRST if is_cut(group) else ()), *pieces.key_names]


def place(group: Group) -> list[str]:
    """What tells the sessions of a group apart for good. Cut ones may begin at the same time."""
    return ["ws", *(FIRST if is_cut(group) else ())]


def held(group: Group, pieces: g.Grouping, finish: Finish) -> Held:
    """Sessions that are cut: rows are held until their session can't change any more."""
    gap, most = group.window.size, group.window.most
    passed = f"$until - {gap}"
    final = [f"last + {2 * gap} <= $until", f"coalesce(nx <= {passed}, false)", f"(ended AND last <= {passed})"]
    if most:
        final.append(f"spans.ws + {most} <= {passed} + 1")
    over = f"({' OR '.join(final)})"
    names = [*pieces.key_names, *(f"x{i}" for i in range(len(pieces.values))), '"__t"', '"__s"', '"__o"', '"__h"']
    names += [name for cut, name in ((group.begins, BEGINS), (group.ends, ENDS)) if cut is not None]
    kept = assigned_sql(group, pieces, "held", f"NOT {over}")
    told = [
        *assigned_sql(group, pieces, "held", over),
        *g.aggregated_sql(pieces, group.window, bool(group.keys), at=told_at(group, pieces)),
    ]
    return Held(
        window=group.window,
        close=finish(told),
        keep=f"WITH {', '.join(kept)} SELECT {', '.join(names)} FROM s",
        ready_us=gap,
        pace_us=gap // 16,
    )


# --- as panes that merge ----------------------------------------------------------------------------------


def short_sql(group: Group, pieces: g.Grouping, source: str) -> str:
    """The rows of a batch, each with the first event p of the session that the batch makes of its group."""
    gap, keys = group.window.size, pieces.key_names
    order = f"{_partition(keys)} ORDER BY {PLACE}".strip()
    begun = (
        f"SELECT *, CASE WHEN {TIME} - lag({TIME}) OVER o < {gap} THEN NULL ELSE {TIME} END AS b "
        f"FROM ({base_sql(group, pieces, source)}) WINDOW o AS ({order})"
    )
    return f"SELECT *, max(b) OVER ({order} ROWS UNBOUNDED PRECEDING) AS p FROM ({begun})"


def lasting(partial: str) -> str:
    """The partials of sessions also keep when their last events happened."""
    return partial.replace("count(*) AS n,", f"count(*) AS n, max({TIME}) AS z,", 1)


def merging(group: Group, pieces: g.Grouping, finish: Finish) -> Sessions:
    """Sessions that are panes: put together where they meet, told when nothing in time can join them."""
    gap, keys = group.window.size, pieces.key_names
    listed = "".join(f"{key}, " for key in keys)
    over = f"last + {2 * gap} <= $until"
    before = f"max(z) OVER ({_partition(keys)} ORDER BY p ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    spans = (
        f'WITH d AS (SELECT {listed}any_value("__h") AS "__h", p, max(z) AS z FROM state GROUP BY {listed}p), '
        f"c AS (SELECT *, CASE WHEN p - {before} < {gap} THEN 0 ELSE 1 END AS b FROM d), "
        f"n AS (SELECT *, sum(b) OVER (ORDER BY {listed}p ROWS UNBOUNDED PRECEDING) AS q FROM c) "
        f'SELECT {listed}"__h", p, min(p) OVER (PARTITION BY q) AS ws, max(z) OVER (PARTITION BY q) AS last FROM n'
    )

    def joined(table: str, only: str) -> str:
        same = [
            't."__h" = spans."__h" AND t.p = spans.p',
            *(f"t.{key} IS NOT DISTINCT FROM spans.{key}" for key in keys),
        ]
        return f"SELECT t.*, spans.ws, spans.last FROM {table} t JOIN spans ON {' AND '.join(same)} WHERE {only}"

    at = ["ws", "we", *keys]
    merged = ["sum(n) AS n", *(f"{merge} AS f{i}" for i, merge in enumerate(pieces.merges))]
    ctes = [f"s AS (SELECT *, last + {gap} AS we FROM ({joined('state', over)}))"]
    ctes.append(f"m AS (SELECT {', '.join([*at, *merged])} FROM s GROUP BY {', '.join(at)})")
    for number, bag in enumerate(pieces.bags):
        ctes.append(f"s{number} AS (SELECT *, last + {gap} AS we FROM ({joined(f'bag{number}', over)}))")
        grouped = f"{', '.join(at)}, v"
        counted = f"SELECT {grouped}, {bag.merge}(n)::{bag.type} AS n FROM s{number} GROUP BY {grouped}"
        ctes.extend(g.bag_result_sql(pieces, number, counted, at))
    ctes.append(f"a AS ({g.joined_sql(pieces, at, group.window, g.results_sql(pieces))})")
    place = f'ws AS p, {NEVER}::BIGINT AS e, {listed}any_value("__h") AS "__h"'
    folded = ["sum(n)::BIGINT AS n", *merged[1:], "max(z) AS z"]
    return Sessions(
        window=group.window,
        bags=len(pieces.bags),
        spans=spans,
        close=finish(ctes),
        fold=f"SELECT {place}, {', '.join(folded)} FROM ({joined('state', f'NOT {over}')}) GROUP BY {listed}ws",
        fold_bags=tuple(
            f"SELECT {place}, v, {bag.merge}(n)::{bag.type} AS n FROM ({joined('state', f'NOT {over}')}) "
            f"GROUP BY {listed}ws, v"
            for bag in pieces.bags
        ),
        kept=g.kept_by(pieces),
    )


def _partition(keys: Sequence[str]) -> str:
    return f"PARTITION BY {', '.join(keys)}" if keys else ""
