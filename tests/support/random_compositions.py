"""Random queries over the rows of queries, with the plain DuckDB statement that must give the same rows.

Every relation has the columns p (a text), q (a whole number) and r (a number), in the query's text and in the plain
statement; there it has the time, place and largest earlier time of `random_queries` too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from support.random_queries import MIN, Draw, ends_of


@dataclass(frozen=True)
class Relation:
    """What stands in FROM, and the same in SQL, where {late} stands for what a live query leaves out."""

    text: str
    sql: str


CONDITIONS = (
    ("q > 1", "q > 1"),
    ("q != 2", "q IS DISTINCT FROM 2"),
    ("p = 'a'", "p = 'a'"),
    ("r < 5 or p is null", "(r < 5 OR p IS NULL)"),
    ("p != null and q >= 0", "(p IS NOT NULL AND q >= 0)"),
)
AGGREGATES = (
    ("count(*)", "count(*)"),
    ("sum(q)", "coalesce(sum(q), 0)::BIGINT"),
    ("max(q)", "max(q)"),
    ("count(DISTINCT p)", "count(DISTINCT p)"),
    ("count(*) filter (where q > 1)", "count(*) FILTER (WHERE q > 1)"),
)
NUMBERS = (("max(r)", "max(r)"), ("avg(r)", "avg(r)"), ("median(q)", "median(q)"), ("min(r)", "min(r)"))
WINDOWS = ((5, 5), (10, 10), (10, 5), (12, 4), (30, 30), (60, 20))


def random_composition(rng: random.Random, lateness_us: int) -> Draw:
    """A query over two or three others, one upon the other or side by side."""
    read = _relation(rng, rng.choice((1, 1, 2, 2, 3)))
    prefix = ""
    if rng.random() < 0.3:
        prefix, read = f"with w1 as {read.text} ", Relation("w1", read.sql)
    where, condition = _where(rng)
    if rng.random() < 0.25:
        text, sql = (
            f"{prefix}select p, q, r from {read.text}{where}",
            f"SELECT p, q, r FROM {read.sql} WHERE {condition}",
        )
        return _draw(text, sql, lateness_us, True)
    (a, b), (c, d) = rng.choice(AGGREGATES), rng.choice(NUMBERS)
    key = rng.choice(("p", "p", "q % 2", ""))
    keyed, group = (f"{key} as k, ", f" group by {key}") if key else ("", "")
    named, names = (f"{key.replace('q % 2', '(q % 2)')} AS k, ", ", k") if key else ("", "")
    if rng.random() < 0.2:
        text = f"{prefix}select {keyed}{a} as a, {c} as b from {read.text}{where}{group}"
        grouped = f" GROUP BY {key}" if key else ""
        return _draw(text, f"SELECT {named}{b} AS a, {d} AS b FROM {read.sql} WHERE {condition}{grouped}", 0, False)
    window, ends = _window(rng)
    text = f"{prefix}select {keyed}{a} as a, {c} as b from {read.text}{where} {window}{group}"
    inside = f"SELECT *, {named}unnest({ends}) AS u FROM {read.sql} WHERE {condition}"
    sql = (
        f"SELECT make_timestamp(u.ws) AS window_start, make_timestamp(u.we) AS window_end{names}, {b} AS a, {d} AS b "
        f"FROM ({inside}) WHERE u.we > m - {{late}} GROUP BY u.ws, u.we{names}"
    )
    return _draw(text, sql, lateness_us, True)


def _draw(text: str, sql: str, lateness_us: int, live: bool) -> Draw:
    never = -MIN - 1
    return Draw(text, sql.format(late=never), sql.format(late=lateness_us), False, False, live)


def _relation(rng: random.Random, depth: int) -> Relation:
    if depth == 0:
        return _events(rng)
    match rng.randrange(4):
        case 0:
            one, other = _relation(rng, depth - 1), _relation(rng, depth - 1)
            parts = [f"select p, q, r from {each.text}{where}" for each, where in ((one, ""), (other, " where q > 0"))]
            place = "p, q, r, t, s, o, m"
            both = f"(SELECT {place} FROM {one.sql} UNION ALL SELECT {place} FROM {other.sql} WHERE q > 0)"
            return Relation(f"({' union all '.join(parts)})", both)
        case 1:
            below = _relation(rng, depth - 1)
            where, condition = _where(rng)
            text = f"(select p, q + 1 as q, r * 2 as r from {below.text}{where})"
            return Relation(text, f"(SELECT p, q + 1 AS q, r * 2 AS r, t, s, o, m FROM {below.sql} WHERE {condition})")
        case _:
            return _windowed(rng, _relation(rng, depth - 1))


def _events(rng: random.Random) -> Relation:
    where, condition = rng.choice((("", "true"), (" where ok", "ok"), (" where n > 1", "n > 1")))
    text = f"(select k as p, g as q, x as r from events{where})"
    return Relation(text, f"(SELECT k AS p, g AS q, x AS r, t, s, o, m FROM events WHERE {condition})")


def _windowed(rng: random.Random, below: Relation) -> Relation:
    window, ends = _window(rng)
    where, condition = _where(rng)
    (a, b), (c, d) = rng.choice(AGGREGATES), rng.choice(NUMBERS)
    having, only = rng.choice((("", "true"), (" having count(*) > 1", "n > 1")))
    text = f"(select p, {a} as q, {c} as r from {below.text}{where} {window} group by p{having})"
    inside = f"SELECT *, unnest({ends}) AS u FROM {below.sql} WHERE {condition}"
    grouped = (
        f"SELECT p, {b} AS q, {d} AS r, u.we - 1 AS t, 0 AS s, 0 AS o, {MIN} AS m, count(*) AS n "
        f"FROM ({inside}) WHERE u.we > m - {{late}} GROUP BY p, u.ws, u.we"
    )
    return Relation(text, f"(SELECT * FROM ({grouped}) WHERE {only})")


def _where(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        return "", "true"
    condition, sql = rng.choice(CONDITIONS)
    return f" where {condition}", sql


def _window(rng: random.Random) -> tuple[str, str]:
    size, slide = rng.choice(WINDOWS)
    text = f"window {size}" if size == slide else f"window hopping {size}s every {slide}s"
    return text, ends_of(size, slide).replace("{", "{{").replace("}", "}}")
