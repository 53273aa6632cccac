"""Random joins of a stream with itself, and the same as plain SQL, written apart from the planner."""

from __future__ import annotations

import random

from support.random_queries import Draw

SECOND = 1_000_000
_KEYS = (
    ("l.k = r.k", "l.k = r.k"),
    ("l.k == r.k", "l.k IS NOT DISTINCT FROM r.k"),
    ("l.g = r.n", "l.g = r.n"),
    ("l.g = r.x", "l.g = r.x"),
    ("r.d.id = l.d.id", "r.d_id = l.d_id"),
    ("l.n % 2 = r.g", "l.n % 2 = r.g"),
    ("upper(l.k) = upper(r.k)", "upper(l.k) = upper(r.k)"),
)
_RESTS = (
    ("l.n < r.n", "l.n < r.n"),
    ("l.ok", "l.ok"),
    ("r.x > 0", "r.x > 0"),
    ("l.g + r.g > 2", "l.g + r.g > 2"),
)
_WHERES = (
    ("l.g > 0", "l.g > 0"),
    ("r.g > 0", "r.g > 0"),
    ("r.n is null", "r.n IS NULL"),
    ("l.n <> r.n", "l.n <> r.n"),
    ("not l.ok", "NOT l.ok"),
)


def random_join(rng: random.Random, lateness_us: int) -> Draw:
    """A join, and what it comes to, as a bounded and as a live query."""
    roll = rng.random()
    if roll < 0.2:
        return _asof(rng, lateness_us)
    if roll < 0.4:
        return _membership(rng, lateness_us)
    return _join(rng, lateness_us)


def _join(rng: random.Random, lateness_us: int) -> Draw:
    keys = rng.sample(_KEYS, rng.choice((0, 1, 1, 1, 2)))
    rests = rng.sample(_RESTS, rng.choice((0, 0, 1, 2)))
    kind = rng.choice(("", "inner", "left", "left outer", "right", "full", "semi", "anti"))
    on = [*keys, *rests] or [("true", "true")]
    window = rng.choice((0, 0, 0, 10)) if keys else 0
    before, after = rng.choice((0, 1, 5)), rng.choice((0, 2, 30))
    hops = bool(window) and rng.random() < 0.5
    grouped = rng.random() < 0.4 or bool(window)
    alone = kind in ("semi", "anti")
    condition = "using (k)" if on == [_KEYS[0]] and rng.random() < 0.7 else f"on {' and '.join(mql for mql, _ in on)}"
    text = f"from events as l {kind} join events as r {condition}"
    near = f"r.t >= l.t - {before}000000 AND r.t <= l.t + {after}000000"
    if window:
        near = "l.ws = r.ws" if hops else "floor(l.t / 1e7) = floor(r.t / 1e7)"
    else:
        text += f" within ({before}s, {after}s)" if before != after or rng.random() < 0.5 else f" within {before}s"
    wheres = rng.sample(_WHERES, rng.choice((0, 0, 1, 2)))
    wheres = [pair for pair in wheres if not (alone and "r." in pair[0])]
    # Without an equality DuckDB's semi joins give texts of rows that are gone.
    condition = " AND ".join(["l.one = r.one", near, *(sql for _, sql in on)])
    only = f" WHERE {' AND '.join(sql for _, sql in wheres)}" if wheres else ""
    text += f" where {' and '.join(mql for mql, _ in wheres)}" if wheres else ""
    time = "l.t" if alone else "greatest(l.t, r.t)"
    word = kind.upper()
    if grouped:
        values = "count(*) as a, min(l.n) as b" if alone else "count(*) as a, min(r.n) as b, count(l.k) as c"
        text = f"select l.g as k0, {values} {text} window {'hopping 20s every 10s' if hops else '10s'} group by l.g"
        start = f"floor({time} / 1e7)::BIGINT * 10000000"
        if hops:
            start = "l.ws" if alone else "coalesce(l.ws, r.ws)"
        found = f"SELECT l.g AS k0, {values.replace(' as ', ' AS ')}, {start} AS ws"
        size = 20_000_000 if hops else 10_000_000
        first = "floor(t / 1e7)::BIGINT * 10000000"
        starts = f", unnest([{first} - 10000000, {first}]) AS ws" if hops else ""

        def statement(late: str) -> str:
            side = f"(SELECT *, t * 0 AS one{starts} FROM events WHERE {late})"
            rows = f"{found} FROM {side} l {word} JOIN {side} r ON {condition}{only} GROUP BY ALL"
            shown = "k0, a, b" if alone else "k0, a, b, c"
            return f"SELECT make_timestamp(ws), make_timestamp(ws + {size}), {shown} FROM ({rows})"

    else:
        items = "l.n as a, l.k as b" if alone else "l.n as a, r.n as b, l.k as c, r.x as d"
        text = f"select {items}, event_time() as t {text}"

        def statement(late: str) -> str:
            side = f"(SELECT *, t * 0 AS one FROM events WHERE {late})"
            told = f"SELECT {items.replace(' as ', ' AS ')}, make_timestamp({time}) AS t"
            return f"{told} FROM {side} l {word} JOIN {side} r ON {condition}{only}"

    return Draw(text, statement("true"), statement(f"t >= m - {lateness_us}"), grouped, False)


def _asof(rng: random.Random, lateness_us: int) -> Draw:
    keys = rng.sample(_KEYS, rng.choice((0, 1, 1, 2)))
    kind, strict = rng.choice(("", "left")), rng.random() < 0.5
    length = rng.choice((0, 1, 10, 1000))
    op = ">" if strict else ">="
    on = [mql for mql, _ in keys] + [f"l.ts {op} r.ts"]
    text = f"select l.n as a, r.n as b, r.x as c from events l asof {kind} join events r on {' and '.join(on)}"
    text += f" within {length}s"
    near = f"l.t {op} r.t AND r.t >= l.t - {length}000000"
    condition = " AND ".join([near, *(sql for _, sql in keys)])

    def statement(late: str) -> str:
        side = f"(SELECT *, t * 0 AS one FROM events WHERE {late})"
        return (
            f"SELECT l.n AS a, r.n AS b, r.x AS c FROM {side} l {kind.upper()} JOIN {side} r ON {condition} "
            "QUALIFY row_number() OVER (PARTITION BY l.s, l.o ORDER BY r.t DESC, r.s DESC, r.o DESC) = 1"
        )

    return Draw(text, statement("true"), statement(f"t >= m - {lateness_us}"), False, False)


def _membership(rng: random.Random, lateness_us: int) -> Draw:
    before, after = rng.choice((0, 1, 5)), rng.choice((0, 2, 30))
    negated = rng.random() < 0.5
    near = f"r.t >= l.t - {before}000000 AND r.t <= l.t + {after}000000"
    inner = rng.choice((("", "true"), (" where x > 0", "r.x > 0"), (" where g = 1", "r.g = 1")))
    word = "not " if negated else ""
    if rng.random() < 0.5:
        asked = f"k {word}in (select k from events{inner[0]})"
        condition = f"l.k = r.k AND {inner[1]}"
    else:
        own = inner[0].removeprefix(" where ")
        asked = f"{word}exists (select 1 from events as r where r.n = l.g{f' and r.{own}' if own else ''})"
        condition = f"r.n = l.g AND {inner[1]}"
    text = f"select n, k, g from events as l where {asked} within ({before}s, {after}s) and n > 0"

    def statement(late: str) -> str:
        side = f"(SELECT *, t * 0 AS one FROM events WHERE {late})"
        exists = f"EXISTS (SELECT 1 FROM {side} r WHERE {near} AND {condition})"
        return f"SELECT n, k, g FROM {side} l WHERE {'NOT ' if negated else ''}{exists} AND n > 0"

    return Draw(text, statement("true"), statement(f"t >= m - {lateness_us}"), False, False)
