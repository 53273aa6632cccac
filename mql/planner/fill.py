"""FILL in SQL: rows of groups for windows in which they were not seen.

    #  window   1    2    3    4    5    6    7
    #  seen     a         a                   a
    #  FILL 0 FOR 2 windows
    #  told     a    0    a    0    0         a

A group that was seen in a window has a row in each one that ends after it, until it is seen again or FOR is over. Over
history the last window that any group was seen in is the last one filled; live, windows are filled as the watermark
closes them. HAVING judges rows that are filled like any other.
"""

from __future__ import annotations

from collections.abc import Callable

from mql.planner import windows
from mql.planner.expressions import Constant
from mql.planner.grouping import Grouping
from mql.planner.logical import Filled, Group
from mql.planner.physical import Fill
from mql.planner.sql import constant_sql, type_sql
from mql.schema import BOOLEAN, NULL, VARCHAR, DataType


def raw_sql(pieces: Grouping) -> str:
    """The rows that Final gives for this: groups and aggregates as they are."""
    columns = ["ws", "we", *pieces.key_names, *_results(pieces)]
    return f'SELECT {", ".join(columns)}, \'\' AS "_key", true AS "__keep" FROM a'


def filled_sql(group: Group, pieces: Grouping, filled: Filled, rows: str, limit: str) -> list[str]:
    """CTEs from the rows of windows (and the table `seen`: when each group was seen last) to `a`, up to `limit`."""
    keys = pieces.key_names
    listed = "".join(f"{key}, " for key in keys)
    by_keys = f"PARTITION BY {', '.join(keys)} " if keys else ""
    next_one = f"coalesce(lead(we) OVER ({by_keys}ORDER BY we) - 1, {limit})"
    spans = (
        f"SELECT {listed}we AS d, least({next_one}, we + {filled.for_us}, {limit}) AS z "
        f"FROM (SELECT DISTINCT {listed}we FROM (SELECT {listed}we FROM {rows} UNION ALL SELECT {listed}we FROM seen))"
    )
    ends = windows.ends_after_sql(group.window, "d", "z", group.window.by)
    values = [
        f"CAST({constant_sql(filled.value)} AS {type_sql(call.type)}) AS a{i}"
        if fits(filled.value, call.type)
        else f"CAST(NULL AS {type_sql(call.type)}) AS a{i}"
        for i, call in enumerate(group.aggregates)
    ]
    start = windows.start_sql(group.window, "we", group.window.by)
    columns = ", ".join(["ws", "we", *keys, *_results(pieces)])
    gone = ", ".join([f"{start} AS ws", "we", *keys, *values])
    return [
        f"spans AS ({spans})",
        f"gaps AS (SELECT {listed}unnest({ends}) AS we FROM spans WHERE z > d)",
        f"a AS (SELECT {columns} FROM {rows} UNION ALL SELECT {gone} FROM gaps WHERE we > $since)",
    ]


def fill(group: Group, pieces: Grouping, filled: Filled, finish: Callable[[list[str]], str]) -> Fill:
    """The operator that fills what Final gives."""
    keys = pieces.key_names
    listed = "".join(f"{key}, " for key in keys)
    both = f"SELECT {listed}we FROM rows UNION ALL SELECT {listed}we FROM seen"
    grouped = f" GROUP BY {', '.join(keys)}" if keys else ""
    return Fill(
        window=group.window,
        keys=len(keys),
        close=finish(filled_sql(group, pieces, filled, "rows", "$limit")),
        seen=f"SELECT {listed}max(we) AS we FROM ({both}){grouped} HAVING max(we) + {filled.for_us} > $until",
    )


def fits(value: Constant, type: DataType) -> bool:
    """Whether a value can stand for an aggregate of this type; where it can't, null does."""
    return _family(value.type) == _family(type) != "other"


def _family(type: DataType) -> str:
    text = str(type)
    if text in ("BIGINT", "DOUBLE") or text.startswith("DECIMAL"):
        return "number"
    return {str(VARCHAR): "text", str(BOOLEAN): "boolean", str(NULL): "other"}.get(text, "other")


def _results(pieces: Grouping) -> list[str]:
    return [f"a{i}" for i in range(len(pieces.results))]
