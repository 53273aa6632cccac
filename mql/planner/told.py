"""Rows as they are told, in SQL: projected, known by a key, put in order and cut."""

from __future__ import annotations

from mql.planner import sessions, windows
from mql.planner.logical import Arrange, Group, Scan, lie_at_ends
from mql.planner.parts import Parts
from mql.planner.physical import Arranging
from mql.planner.sql import expression_sql, quote_identifier, type_sql
from mql.schema import DOUBLE, DataType

TIME = '"__t"'
PLACE = (TIME, '"__s"', '"__o"')
CHANGES = ('"_key"', '"_revision"', '"_op"', '"final"')


def is_ordered(parts: Parts) -> bool:
    """Whether a row of a query without groups has a place among others, so that it can come too late for it."""
    return parts.windowed is not None or parts.arrange is not None or parts.over is not None


def rows_sql(parts: Parts, source: str, more: tuple[str, ...] = ()) -> str:
    """The select list over rows, with the place of each row, window columns and what ORDER BY needs; and `more` of the
    source's columns."""
    return projected_sql(parts, in_windows_sql(parts, source), more)


def in_windows_sql(parts: Parts, source: str) -> str:
    """The rows of a table, once for each window that they lie in."""
    if parts.windowed is None:
        return f"SELECT * FROM {source}"
    window = parts.windowed.window
    inside = f"SELECT *, {windows.pane_sql(window, TIME)} AS p FROM {windows.numbered_sql(window, source)}"
    inside = windows.expanded_sql(window, f"(SELECT * FROM ({inside}) WHERE p IS NOT NULL)")
    return f"SELECT *, make_timestamp(ws) AS window_start, make_timestamp(we) AS window_end FROM ({inside})"


def projected_sql(parts: Parts, inside: str, more: tuple[str, ...] = ()) -> str:
    """The select list over rows that lie in their windows."""
    items = [f"{expression_sql(item)} AS {quote_identifier(name)}" for name, item in parts.project.items]
    at = [] if parts.windowed is None else ['ws AS "__ws"', 'we AS "__we"']
    if parts.track is not None:
        at = [*at, f'CAST({expression_sql(parts.track.value)} AS {type_sql(DOUBLE)}) AS "__x"']
    keys = []
    if keeps_top(parts):
        number = [quote_identifier(name) for name, _ in beside(parts)[:1]]
        place = ['"__s"', '"__o"']
        keys = [f'{key_sql([*place, *number])} AS "_key"']
        keys += [f'{key_sql(place)} AS "__key"'] if number else []
    rest = ['"__a"', '"__m"'] if parts.inner else []
    columns = [*items, *at, *PLACE, *rest, *order_columns(parts), *keys, *more]
    return f"SELECT {', '.join(columns)} FROM ({inside})"


def beside(parts: Parts) -> tuple[tuple[str, DataType], ...]:
    """What comes with events where several queries share the plan: the query's number, and its literals."""
    return parts.scan.beside if isinstance(parts.scan, Scan) else ()


def keeps_top(parts: Parts) -> bool:
    """ORDER BY … LIMIT over rows without an end: a list of the top that is kept, and whose changes are told."""
    endless = parts.scan.until.kind == "live"
    return (
        endless
        and parts.group is None
        and parts.arrange is not None
        and bool(parts.arrange.order)
        and not parts.arrange.per_window
    )


def borders_sql(parts: Parts) -> list[str]:
    """The columns that tell a group's window. Where its borders are events that lie in the last microsecond of windows,
    these windows' ends stand for them."""
    assert parts.group is not None
    by_events = parts.group.window.kind in ("session", "sliding", "count")
    later = " + 1" if by_events and lie_at_ends(parts.scan) else ""
    return [f"make_timestamp(ws{later}) AS window_start", f"make_timestamp(we{later}) AS window_end"]


def window_place(group: Group) -> list[str]:
    """What tells the windows of a group apart."""
    window = group.window
    # Where a clock skips a day, two windows may end at once.
    fixed = ["we"] if window.zone is None else ["ws", "we"]
    return {"none": [], "count": ["wn"], "session": sessions.place(group), "sliding": list(PLACE)}.get(
        window.kind, fixed
    )


def key_sql(columns: list[str]) -> str:
    """What a result row is known by: a hash of its group and window."""
    return f"md5(to_json(row({', '.join(columns)}))::VARCHAR)" if columns else "md5('')"


def place_sql(columns: list[str]) -> str:
    """Where a group's row stands among those of the same time, as an event: by a hash of its group and window."""
    return f"(md5_number_lower(to_json(row({', '.join(columns)}))::VARCHAR) >> 1)::BIGINT" if columns else "0::BIGINT"


def order_columns(parts: Parts) -> list[str]:
    """What ORDER BY and LIMIT PER sort by, computed beside the rows: __o0 … and __p0 …; ties go by group or place."""
    if parts.arrange is None:
        return []
    found = [f'{expression_sql(key.expression)} AS "__o{i}"' for i, key in enumerate(parts.arrange.order)]
    found += [f'{expression_sql(item)} AS "__p{i}"' for i, item in enumerate(parts.arrange.per)]
    if parts.group is not None:
        found += [f'k{i} AS "__k{i}"' for i in range(len(parts.group.keys))]
    return found


def arranging_sql(parts: Parts, arrange: Arrange, table: str) -> str:
    """Sort and cut the table of result rows, all at once or in each window."""
    order = [
        f'"__o{i}" {"DESC" if key.descending else "ASC"} NULLS {"FIRST" if key.nulls_first else "LAST"}'
        for i, key in enumerate(arrange.order)
    ]
    ties = (
        ['"__t"', '"__s"', '"__o"', *(['"__we"'] if parts.windowed is not None else [])]
        if parts.group is None
        else [f'"__k{i}" NULLS LAST' for i in range(len(parts.group.keys))]
    )
    if parts.group is not None and parts.group.window.kind != "none":
        ties = ['"__we"', '"__ws"', *ties]
    if parts.group is not None and parts.group.window.kind == "sliding":
        ties = list(PLACE)
    window = []
    if arrange.per_window:
        session = parts.group is not None and parts.group.window.kind == "session"
        window = ['"__we"', '"__ws"'] if session else ['"__we"']
    everything = [*window, *order, *ties] or ["1"]
    sql = f"SELECT * FROM {table}"
    if arrange.limit is not None and (arrange.per or arrange.per_window):
        scope = ", ".join([*window, *(f'"__p{i}"' for i in range(len(arrange.per)))])
        ranked = ", ".join([*order, *ties]) or "1"
        sql += f" QUALIFY row_number() OVER (PARTITION BY {scope} ORDER BY {ranked}) <= {arrange.limit}"
    sql += f" ORDER BY {', '.join(everything)}"
    if arrange.limit is not None and not arrange.per and not arrange.per_window:
        sql += f" LIMIT {arrange.limit}"
    return sql


def arranging(parts: Parts, arrange: Arrange, rows: str | None) -> Arranging:
    """The operator for ORDER BY and LIMIT; `rows` gives what is arranged, where it is not the rows that come."""
    return Arranging(
        sql=arranging_sql(parts, arrange, "rows" if rows is None else f"({rows})"),
        per_window=arrange.per_window,
        kind=parts.speak.kind if parts.group is not None else "changes" if keeps_top(parts) else "rows",
        every_us=parts.speak.every_us or 1_000_000,
        early_us=parts.speak.early_us,
        revise_us=parts.speak.revise_us,
    )
