"""Joins with declared tables in SQL: the same for a batch of a stream and for all of history."""

from __future__ import annotations

from mql.planner.joins import ALL, META, Side, behind, key_sql, pair_column, side_columns, sides_of, source_column
from mql.planner.logical import Enriched
from mql.planner.physical import Lookup
from mql.planner.sql import expression_sql, quote_identifier

NUMBER = '"__n"'
PLACED = (*META, "__m")


def lookup_of(node: Enriched) -> Lookup:
    """The operator that looks up rows as they come."""
    name = quote_identifier(table_name(node.table.name))
    repeats = node.kind in ("inner", "left") and not node.single
    return Lookup(node.kind, node.table.name, table_name(node.table.name), lookup_sql(node, "batch", name), repeats)


def lookup_sql(node: Enriched, source: str, table: str) -> str:
    """Decoded rows with what the table says of them. They stay decoded rows, as late or early as they were; of several
    that come of one, each has a place of its own."""
    left, right = sides_of(node)
    rows = side_sql(left, source, [*(quote_identifier(name) for name in PLACED), f'"__t" * 0 AS {ALL}'])
    known = side_sql(right, table, [NUMBER, f"{NUMBER} * 0 AS {ALL}"])
    equal = (
        f"l.j{i} IS NOT DISTINCT FROM r.j{i}" if key.nulls else f"l.j{i} = r.j{i}" for i, key in enumerate(node.keys)
    )
    rest = [] if node.rest is None else [f"({expression_sql(node.rest, pair_column(node.right_name))})"]
    condition = " AND ".join([f"l.{ALL} = r.{ALL}", *equal, *rest] if not node.keys else [*equal, *rest])
    if node.kind in ("semi", "anti"):
        told = [*side_columns(left, "l"), *(f'l."{name}"' for name in PLACED)]
        return f"SELECT {', '.join(told)} FROM ({rows}) l {node.kind.upper()} JOIN ({known}) r ON {condition}"
    place = 'l."__o"' if node.single else '(hash(l."__s", l."__o", r."__n") >> 2)::BIGINT AS "__o"'
    told = [*side_columns(left, "l"), *side_columns(right, "r"), 'l."__t"', 'l."__s"', place, 'l."__a"', 'l."__m"']
    word = "" if node.kind == "inner" else "LEFT "
    return f"SELECT {', '.join(told)} FROM ({rows}) l {word}JOIN ({known}) r ON {condition}"


def side_sql(side: Side, source: str, beside: list[str]) -> str:
    """One side as the join takes it."""
    spelled = source_column(side)
    columns = [f"{spelled(path)} AS {behind(path)}" for path, _ in side.columns]
    keys = [f"{key_sql(key, spelled)} AS j{i}" for i, key in enumerate(side.keys)]
    only = "" if side.predicate is None else f" WHERE {expression_sql(side.predicate, spelled)}"
    return f"SELECT {', '.join([*columns, *keys, *beside])} FROM {source}{only}"


def table_name(name: str) -> str:
    """What statements call a declared table."""
    return f"table {name}"
