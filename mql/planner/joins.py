"""Joins in SQL: what a stream's join operators run, and what the statement over history says at once.

Behind a join a property is called by its side first, `/a/x`. A joined row has the time of the later of its two, and a
place that is a hash of theirs; of rows of one moment the one with the older partner comes first. A row of one side
alone, or of the left side with what is looked up for it, keeps its own time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mql.planner import windows
from mql.planner.expressions import Bound, Column, walk
from mql.planner.grouping import hash_sql
from mql.planner.logical import Enriched, Joined, has_events
from mql.planner.physical import JOINED_ROWS_MAX, AsofJoin, Join, JoinSide, Window
from mql.planner.sql import column_name, expression_sql, quote_identifier, type_sql
from mql.schema import JSON, VARCHAR, DataType, ListOf, MapOf, Path, Scalar, StructOf

DAY_US = 86_400_000_000
NEVER_LATE = -(2**62)
TIME = '"__t"'
ALL = '"__all"'
"""A column in which all rows are equal, where no key is."""
META = ("__t", "__s", "__o", "__a")


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a join: its properties as they are called behind it, the keys to be equal, which rows take part.

    `name`: what its properties are called by first, behind the join alone; None where they have such names before.
    `placed`: its rows met in windows already, and lie in the last microsecond of theirs.
    """

    columns: tuple[tuple[Path, DataType], ...]
    keys: tuple[Bound, ...]
    name: str | None
    predicate: Bound | None = None
    placed: bool = False


@dataclass(frozen=True, slots=True)
class Meeting:
    """Which rows of two sides meet. `how`: interval, window, asof. `nulls[i]`: null keys i are equal.

    Partners lie from `before_us` before a row of the left side to `after_us` after it (asof: `before_us` alone, and
    not at the same time where `strict`), or in the same of the `window`s. `rest`: what else must hold.
    """

    kind: str
    how: str
    left: Side
    right: Side
    nulls: tuple[bool, ...]
    rest: Bound | None
    before_us: int
    after_us: int
    strict: bool = False
    window: Window | None = None
    retracts: bool = False
    bytes_max: int = 0


def meeting_of(node: Joined) -> Meeting:
    """The same with what is read of each side."""
    left, right = sides_of(node)
    if node.how == "window":
        left = replace(left, placed=not has_events(node.left))
    return Meeting(
        kind=node.kind,
        how=node.how,
        left=left,
        right=right,
        nulls=tuple(key.nulls for key in node.keys),
        rest=node.rest,
        before_us=node.before_us,
        after_us=node.after_us,
        strict=node.strict,
        window=node.window,
        retracts=node.retracts,
        bytes_max=node.bytes_max,
    )


def sides_of(node: Joined | Enriched) -> tuple[Side, Side]:
    """Both sides, with the properties that are told behind the join or that must hold of both."""
    told = dict(node.columns)
    if node.rest is not None:
        told.update({part.path: part.type for part in walk(node.rest) if isinstance(part, Column)})
    columns = sorted(told.items(), key=lambda column: column[0])
    mine = tuple(column for column in columns if column[0][0] != node.right_name)
    theirs = tuple(column for column in columns if column[0][0] == node.right_name)
    return (
        Side(mine, tuple(key.left for key in node.keys), node.left_name, node.left_where),
        Side(theirs, tuple(key.right for key in node.keys), node.right_name, node.right_where),
    )


# --- as a stream ---------------------------------------------------------------------------------------------


def side_of(meeting: Meeting, port: str, lateness_us: int | None) -> JoinSide:
    """The operator before the exchange. `lateness_us`: rows further behind their split are late; None: none is."""
    side = meeting.left if port == "left" else meeting.right
    return JoinSide(
        port,
        side_sql(meeting, port, "batch"),
        None if side.predicate is None else expression_sql(side.predicate, source_column(side)),
        None if lateness_us is None else late_sql(lateness_us),
        lateness_us or 0,
        repeats=overlap(meeting),
    )


def join_of(meeting: Meeting) -> Join | AsofJoin:
    """The operator behind the exchange."""
    kind = meeting.kind
    blanks = blank_sql(meeting, meeting.left), blank_sql(meeting, meeting.right)
    if meeting.how == "asof":
        joined, newest = walked_sql(meeting), newest_sql(meeting)
        return AsofJoin(kind, joined, newest, *blanks, meeting.before_us, meeting.bytes_max)
    left_counts, right_counts = kind in ("left", "full"), kind in ("right", "full")
    pairs = f"{joined_sql(meeting, 'inner', 'l', 'r')} LIMIT {JOINED_ROWS_MAX + 1}"
    return Join(
        kind=kind,
        pairs=pairs if kind in ("inner", "left", "right", "full") else None,
        alone_left=alone_sql(meeting, "left") if left_counts or kind == "anti" else None,
        alone_right=alone_sql(meeting, "right") if right_counts else None,
        met_left=met_sql(meeting, "left") if kind == "semi" or (meeting.retracts and left_counts) else None,
        met_right=met_sql(meeting, "right") if meeting.retracts and right_counts else None,
        blank_left=blanks[0],
        blank_right=blanks[1],
        before_us=reach_us(meeting)[0],
        after_us=reach_us(meeting)[1],
        hold_us=hold_us(meeting),
        floor=meeting.window if is_on_grid(meeting.window) and not overlap(meeting) else None,
        retracts=meeting.retracts,
        bytes_max=meeting.bytes_max,
    )


def late_sql(lateness_us: int) -> str:
    return f'"__t" < "__m" - {lateness_us}'


def side_sql(meeting: Meeting, port: str, source: str, only: str = "true") -> str:
    """The rows of one side as the join takes them, out of a table of decoded events."""
    side = meeting.left if port == "left" else meeting.right
    spelled = source_column(side)
    columns = [f"{spelled(path)} AS {behind(path)}" for path, _ in side.columns]
    keys = [f"{key_sql(key, spelled)} AS j{i}" for i, key in enumerate(side.keys)]
    conditions = [only] if side.predicate is None else [only, f"({expression_sql(side.predicate, spelled)})"]
    if meeting.how == "window" and not overlap(meeting):
        assert meeting.window is not None
        keys.append(f"{windows.pane_sql(meeting.window, TIME)} AS j{len(keys)}")
    alike = [] if key_names(meeting) else [f"{TIME} * 0 AS {ALL}"]
    inside = [*columns, *keys, *alike, *(quote_identifier(name) for name in META)]
    rows = f"SELECT {', '.join(inside)} FROM {source} WHERE {' AND '.join(conditions)}"
    if overlap(meeting):
        assert meeting.window is not None
        names = [*(behind(path) for path, _ in side.columns), *(f"j{i}" for i in range(len(keys)))]
        rows = _once_per_window_sql(replace(meeting.window, single=side.placed), rows, names, f"j{len(keys)}")
    decided, over = waits_sql(meeting, port)
    names = key_names(meeting)
    return f'SELECT *, {decided} AS "__u", {over} AS "__v", {hash_sql(names)} AS "__h" FROM ({rows})'


def _once_per_window_sql(window: Window, rows: str, names: list[str], key: str) -> str:
    """Rows with these columns once for each window that holds them: `key` tells which, and they lie in its last
    microsecond. When they happened is kept as __e."""
    paned = f"SELECT *, {windows.pane_sql(window, TIME)} AS p FROM ({rows})"
    spread = windows.expanded_sql(window, f"(SELECT * FROM ({paned}) WHERE p IS NOT NULL)")
    place = ['we - 1 AS "__t"', *(quote_identifier(name) for name in META[1:]), f'{TIME} AS "__e"']
    return f"SELECT {', '.join([*names, f'we AS {key}', *place])} FROM ({spread})"


def overlap(meeting: Meeting) -> bool:
    """Whether rows meet in windows of which several can hold one."""
    return meeting.how == "window" and meeting.window is not None and meeting.window.kind != "tumbling"


def waits_sql(meeting: Meeting, port: str) -> tuple[str, str]:
    """The watermarks at which no partner of a row can come any more, and at which nobody asks for it any more."""
    if meeting.how == "asof" or overlap(meeting):
        return '"__t" + 1', '"__t" + 1'
    if meeting.how == "window":
        assert meeting.window is not None
        end = windows.row_end_sql(meeting.window, TIME)
        return end, end
    after, before = meeting.after_us, meeting.before_us
    decided = after if port == "left" else before
    others_count = {"left": ("right", "full"), "right": ("left", "full", "semi", "anti")}[port]
    over = after + before if meeting.kind in others_count else decided
    return f'"__t" + {decided + 1}', f'"__t" + {over + 1}'


def blank_sql(meeting: Meeting, side: Side) -> str:
    """The rows of a side of which nothing has come yet."""
    keys = [f"CAST(NULL AS {type_sql(stored(key.type))}) AS j{i}" for i, key in enumerate(side.keys)]
    if meeting.how == "window":
        keys.append(f"CAST(NULL AS BIGINT) AS j{len(keys)}")
    if not key_names(meeting):
        keys.append(f"CAST(NULL AS BIGINT) AS {ALL}")
    columns = [f"CAST(NULL AS {type_sql(stored(type))}) AS {behind(path)}" for path, type in side.columns]
    happened = (("__e", "BIGINT"),) if overlap(meeting) else ()
    meta = (*BLANK_META[: len(META)], *happened, *BLANK_META[len(META) :])
    numbers = [f'CAST(NULL AS {type}) AS "{name}"' for name, type in meta]
    return f"SELECT {', '.join([*columns, *keys, *numbers])} WHERE false"


BLANK_META = (
    ("__t", "BIGINT"),
    ("__s", "INTEGER"),
    ("__o", "BIGINT"),
    ("__a", "BIGINT"),
    ("__u", "BIGINT"),
    ("__v", "BIGINT"),
    ("__h", "BIGINT"),
)


def stored(type: DataType) -> DataType:
    """The type in which Arrow holds a value: it has no JSON, which is text there."""
    match type:
        case Scalar():
            return VARCHAR if type == JSON else type
        case ListOf(item):
            return ListOf(stored(item))
        case StructOf(fields):
            return StructOf(tuple((name, stored(of)) for name, of in fields))
        case MapOf(key, value):
            return MapOf(stored(key), stored(value))


def reach_us(meeting: Meeting) -> tuple[int, int]:
    """How far before and after a row of the left side partners can lie."""
    if meeting.how != "window":
        return meeting.before_us, meeting.after_us
    if overlap(meeting):
        return 0, 0
    assert meeting.window is not None
    longest = meeting.window.size + (0 if meeting.window.zone is None else DAY_US)
    return longest, longest


def hold_us(meeting: Meeting) -> int:
    """How far behind the watermark rows can still be told."""
    before, after = reach_us(meeting)
    if meeting.retracts or overlap(meeting):
        return 0
    if is_on_grid(meeting.window):
        return 0
    return {"left": after, "semi": after, "anti": after, "right": before, "full": max(before, after)}.get(
        meeting.kind, 0
    )


def is_on_grid(window: Window | None) -> bool:
    """Whether the start of the window of a time can be told without a calendar."""
    return window is not None and window.zone is None


# --- what meets ----------------------------------------------------------------------------------------------


def joined_sql(meeting: Meeting, kind: str, left: str, right: str) -> str:
    """Decoded batches of joined rows, and of those without partners where the kind tells them."""
    if kind in ("semi", "anti"):
        told = alone_columns(meeting, "l")
        return f"SELECT {', '.join(told)} FROM {left} l {kind.upper()} JOIN {right} r ON {single_sql(meeting)}"
    columns = [*side_columns(meeting.left, "l"), *side_columns(meeting.right, "r"), *both_meta(meeting)]
    columns += key_of(meeting, place_sql("l", "r"))
    word = "" if kind == "inner" else f"{kind.upper()} "
    return f"SELECT {', '.join(columns)} FROM {left} l {word}JOIN {right} r ON {condition_sql(meeting)}"


def alone_sql(meeting: Meeting, port: str) -> str:
    """The rows of one side without partners, with nulls for these."""
    mine, others = ("l", "r") if port == "left" else ("r", "l")
    lonely = f"SELECT {mine}.* FROM {mine} ANTI JOIN {others} ON {single_sql(meeting)}"
    return with_nulls(meeting, port, lonely)


def met_sql(meeting: Meeting, port: str) -> str:
    """The rows of one side that have a partner, and had none in the table `seen`; as they are told when alone."""
    mine, others = ("l", "r") if port == "left" else ("r", "l")
    met = f"SELECT {mine}.* FROM {mine} SEMI JOIN {others} ON {single_sql(meeting)}"
    fresh = f"SELECT {mine}.* FROM ({met}) {mine} ANTI JOIN seen {others} ON {single_sql(meeting)}"
    return with_nulls(meeting, port, fresh)


def with_nulls(meeting: Meeting, port: str, rows: str) -> str:
    """Rows of one side as the join gives them."""
    if meeting.kind in ("semi", "anti"):
        return f"SELECT {', '.join(alone_columns(meeting, 'l'))} FROM ({rows}) l"
    columns = [*side_columns(meeting.left, "l"), *side_columns(meeting.right, "r"), *both_meta(meeting)]
    columns += key_of(meeting, place_sql("l", "r"))
    left, right = (f"({rows}) l", "r") if port == "left" else ("l", f"({rows}) r")
    return f"SELECT {', '.join(columns)} FROM {left} {port.upper()} JOIN {right} ON false"


def single_sql(meeting: Meeting) -> str:
    """The same for joins that give rows of one side. Without an equality DuckDB gives texts of rows that are gone."""
    return condition_sql(meeting) if key_names(meeting) else f"l.{ALL} = r.{ALL} AND {condition_sql(meeting)}"


def condition_sql(meeting: Meeting) -> str:
    """Which rows of `l` and `r` are partners."""
    found = [
        f"l.j{i} IS NOT DISTINCT FROM r.j{i}" if nulls else f"l.j{i} = r.j{i}" for i, nulls in enumerate(meeting.nulls)
    ]
    match meeting.how:
        case "window":
            found.append(f"l.j{len(found)} = r.j{len(found)}")
        case "asof":
            found.append(f'l."__t" {">" if meeting.strict else ">="} r."__t"')
        case _:
            found.append(f'r."__t" >= l."__t" - {meeting.before_us} AND r."__t" <= l."__t" + {meeting.after_us}')
    if meeting.rest is not None:
        found.append(f"({expression_sql(meeting.rest, pair_column(meeting.right.name))})")
    return " AND ".join(found)


def asof_sql(meeting: Meeting, left: str, right: str) -> str:
    """Each row of the left side with its newest partner. Of partners of one moment the last by place counts."""
    outer = meeting.kind == "left"
    newest = ", ".join([*(f"j{i}" for i in range(len(meeting.nulls))), '"__t"'])
    single = (
        f'(SELECT * FROM {right} QUALIFY row_number() OVER (PARTITION BY {newest} ORDER BY "__s" DESC, "__o" DESC) = 1)'
    )
    near = f'r."__t" >= l."__t" - {meeting.before_us}'
    theirs = (f"CASE WHEN {near} THEN r.{behind(path)} END AS {behind(path)}" for path, _ in meeting.right.columns)
    columns = [*side_columns(meeting.left, "l"), *theirs, *own_meta("l")]
    only = "" if outer else f" WHERE {near}"
    kind = "LEFT " if outer else ""
    return f"SELECT {', '.join(columns)} FROM {left} l ASOF {kind}JOIN {single} r ON {condition_sql(meeting)}{only}"


def walked_sql(meeting: Meeting) -> str:
    """The same of the tables `l` and `r`, by going through the rows of both in the order of time: DuckDB's own ASOF
    plans a loop for tables of unknown size, and fails in statements that are prepared."""
    keys = [f"j{i}" for i in range(len(meeting.nulls))]
    columns = ", ".join([*keys, *(quote_identifier(name) for name in META[:3])])
    both = f"SELECT {columns}, 1 AS mine FROM l UNION ALL SELECT {columns}, 0 AS mine FROM r"
    by_keys = f"PARTITION BY {', '.join(keys)} " if keys else ""
    first = "mine DESC" if meeting.strict else "mine"
    partner = 'CASE WHEN mine = 0 THEN struct_pack(s := "__s", o := "__o") END'
    walked = (
        f'SELECT *, last_value({partner} IGNORE NULLS) OVER ({by_keys}ORDER BY {TIME}, {first}, "__s", "__o" '
        f"ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS p FROM ({both})"
    )
    near = [f'r."__t" >= l."__t" - {meeting.before_us}']
    near += [f"l.{key} IS NOT NULL" for key, nulls in zip(keys, meeting.nulls, strict=True) if not nulls]
    condition = " AND ".join([*near, 'r."__s" = x.p.s', 'r."__o" = x.p.o'])
    told = [*side_columns(meeting.left, "l"), *side_columns(meeting.right, "r"), *own_meta("l")]
    kind = "LEFT " if meeting.kind == "left" else ""
    return (
        f"SELECT {', '.join(told)} FROM l JOIN (SELECT * FROM ({walked}) WHERE mine = 1) x "
        f'ON l."__s" = x."__s" AND l."__o" = x."__o" {kind}JOIN r ON {condition}'
    )


def newest_sql(meeting: Meeting) -> str:
    keys = ", ".join([*(f"j{i}" for i in range(len(meeting.nulls))), '"__t" >= $until'])
    return (
        f'SELECT * FROM r WHERE "__t" >= $until - {meeting.before_us} QUALIFY "__t" >= $until OR '
        f'row_number() OVER (PARTITION BY {keys} ORDER BY "__t" DESC, "__s" DESC, "__o" DESC) = 1'
    )


# --- over history --------------------------------------------------------------------------------------------


def batch_ctes(
    meeting: Meeting, left: str, right: str, name: str, lateness_us: tuple[int | None, int | None]
) -> list[str]:
    """CTEs that give the joined rows of two tables of decoded events. `lateness_us`: of each side, as of `side_of`."""
    sides = {port: f"{name}{port[0]}" for port in ("left", "right")}
    found = []
    for port, source, lateness in zip(("left", "right"), (left, right), lateness_us, strict=True):
        only = "true" if lateness is None else f"NOT ({late_sql(lateness)})"
        found.append(f"{sides[port]} AS ({side_sql(meeting, port, source, only)})")
    if meeting.how == "asof":
        joined = asof_sql(meeting, sides["left"], sides["right"])
    else:
        joined = joined_sql(meeting, meeting.kind, sides["left"], sides["right"])
    return [*found, f"{name} AS ({joined})"]


# --- names, keys, places ---------------------------------------------------------------------------------------


def behind(path: Path) -> str:
    """What a property is called behind the join."""
    return quote_identifier(column_name(path))


def source_column(side: Side) -> Callable[[Path], str]:
    """What a property is called before it."""
    return lambda path: quote_identifier(column_name(path if side.name is None else path[1:]))


def pair_column(right: str | None) -> Callable[[Path], str]:
    """Properties of `l` and `r` beside each other."""
    return lambda path: f"{'r' if path[0] == right else 'l'}.{behind(path)}"


def side_columns(side: Side, table: str) -> list[str]:
    return [f"{table}.{behind(path)}" for path, _ in side.columns]


def key_names(meeting: Meeting) -> list[str]:
    count = len(meeting.nulls) + (meeting.how == "window")
    return [f"j{i}" for i in range(count)]


def key_sql(key: Bound, spelled: Callable[[Path], str]) -> str:
    """A key as a value that equal ones on the other side have, too."""
    sql = expression_sql(key, spelled)
    return sql if isinstance(key, Column) and key.type != JSON else f"CAST({sql} AS {type_sql(stored(key.type))})"


def alone_columns(meeting: Meeting, table: str) -> list[str]:
    """Rows of the left side by themselves: they keep their place."""
    meta = window_meta(meeting, table) if overlap(meeting) else own_meta(table)
    return [*side_columns(meeting.left, table), *meta]


def both_meta(meeting: Meeting) -> list[str]:
    return window_meta(meeting, "l", "r") if overlap(meeting) else met_meta("l", "r")


def own_meta(table: str) -> list[str]:
    return [*(f'{table}."{name}"' for name in META), f'{NEVER_LATE} AS "__m"']


def window_meta(meeting: Meeting, *tables: str) -> list[str]:
    """The same of rows that lie at the ends of the windows that they met in: their place there goes by the time when
    they happened, in 45 bits, and what tells them apart."""
    assert meeting.window is not None
    size = meeting.window.size + (0 if meeting.window.zone is None else DAY_US)
    end, happened, arrived = (
        f"greatest({', '.join(f'{table}.{quote_identifier(name)}' for table in tables)})"
        for name in ("__t", "__e", "__a")
    )
    since = f"({happened} - {end} + {size - 1})"
    places = ", ".join(f'{table}."__s", {table}."__o"' for table in tables)
    return [
        f'{end} AS "__t"',
        f'({since} // 16384)::INTEGER AS "__s"',
        f'({since} % 16384 * 281474976710656 + (hash({places}) >> 16)::BIGINT) AS "__o"',
        f'{arrived} AS "__a"',
        f'{NEVER_LATE} AS "__m"',
    ]


def met_meta(left: str, right: str) -> list[str]:
    """Time, place and arrival of a joined row."""
    apart = f'least(abs(coalesce({left}."__t" - {right}."__t", 0)) // 1000, 2147483647)'
    return [
        f'greatest({left}."__t", {right}."__t") AS "__t"',
        f'(2147483647 - {apart})::INTEGER AS "__s"',
        f'{place_sql(left, right)} AS "__o"',
        f'greatest({left}."__a", {right}."__a") AS "__a"',
        f'{NEVER_LATE} AS "__m"',
    ]


def place_sql(left: str, right: str) -> str:
    return f'(hash({left}."__s", {left}."__o", {right}."__s", {right}."__o") >> 2)::BIGINT'


def key_of(meeting: Meeting, place: str) -> list[str]:
    """What a row that can be withdrawn is known by."""
    return [f'md5({place}::VARCHAR) AS "_key"'] if meeting.retracts else []
