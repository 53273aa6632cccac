"""Random queries with the plain DuckDB statement that must give the same rows, and random streams to ask them of.

The statement is written from the query's own draw, never from the planner: window by window with `unnest`, DuckDB's own
aggregates, event order spelled out. It reads the table `events`: the properties below, `t` (event time, microseconds),
`s`, `o` (split and offset) and `m`, the largest event time earlier in the row's split.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from mql.schema import BIGINT, BOOLEAN, DOUBLE, VARCHAR, Field, Shape, StructOf

SHAPE = Shape(
    (
        Field("ts", BIGINT),
        Field("k", VARCHAR),
        Field("g", BIGINT),
        Field("n", BIGINT),
        Field("x", DOUBLE),
        Field("ok", BOOLEAN),
        Field("d", StructOf((("id", VARCHAR), ("v", BIGINT)))),
    )
)
SECOND = 1_000_000
MIN = -(2**62)
KEYS = ("a", "b", "B", "ü", "", "a b", "日本", "x'y")


@dataclass(frozen=True)
class Event:
    split: int
    offset: int
    us: int
    values: dict[str, object]

    @property
    def text(self) -> str:
        return json.dumps({"ts": self.us // 1000, **self.values}, ensure_ascii=self.offset % 2 == 0)


@dataclass(frozen=True)
class Stream:
    """Events in the order in which they come, with the lateness that the source allows."""

    events: tuple[Event, ...]
    lateness_us: int
    splits: int

    def table(self) -> pa.Table:
        """The events as the plain statement reads them."""
        latest: dict[int, int] = {}
        rows = []
        for event in self.events:
            v = event.values
            inner = v.get("d")
            rows.append(
                {
                    "t": event.us,
                    "s": event.split,
                    "o": event.offset,
                    "m": latest.get(event.split, MIN),
                    "ts": event.us // 1000,
                    "k": v.get("k"),
                    "g": v.get("g"),
                    "n": v.get("n"),
                    "x": v.get("x"),
                    "ok": v.get("ok"),
                    "d_id": inner.get("id") if isinstance(inner, dict) else None,
                    "d_v": inner.get("v") if isinstance(inner, dict) else None,
                }
            )
            latest[event.split] = max(latest.get(event.split, MIN), event.us)
        types = {"k": pa.string(), "x": pa.float64(), "ok": pa.bool_(), "d_id": pa.string()}
        names = ("t", "s", "o", "m", "ts", "k", "g", "n", "x", "ok", "d_id", "d_v")
        return pa.table({name: pa.array([row[name] for row in rows], types.get(name, pa.int64())) for name in names})


def random_stream(rng: random.Random, size: int) -> Stream:
    """Events of one to three splits: disorder, stragglers, skew between splits, nulls, missing properties."""
    splits = rng.choice((1, 1, 2, 3))
    skew = [rng.randint(0, 20) * SECOND for _ in range(splits)]
    clock = [rng.randint(-5, 100) * SECOND for _ in range(1)] * splits
    offsets = [0] * splits
    events = []
    for _ in range(size):
        split = rng.randrange(splits)
        clock[split] += rng.choice((0, 1, 10, 100, 900, 3000)) * 1000
        us = clock[split] + skew[split]
        if rng.random() < 0.3:
            us -= rng.randint(0, 4000) * 1000
        if rng.random() < 0.05:
            us -= rng.randint(5_000, 40_000) * 1000
        values: dict[str, object] = {}
        draws = {
            "k": lambda: rng.choice(KEYS),
            "g": lambda: rng.randint(0, 3),
            "n": lambda: rng.choice((0, 1, 2, 3, 7, -5, 100, 2**40)),
            "x": lambda: rng.choice((0.0, 1.5, -2.25, 0.1, 1e6, 12345.678)),
            "ok": lambda: rng.random() < 0.5,
            "d": lambda: {"id": rng.choice(("p", "q")), "v": rng.randint(0, 9)} if rng.random() < 0.8 else {},
        }
        for name, draw in draws.items():
            roll = rng.random()
            if roll < 0.85:
                values[name] = draw()
            elif roll < 0.92:
                values[name] = None
        events.append(Event(split, offsets[split], us, values))
        offsets[split] += rng.choice((1, 1, 1, 7))
    return Stream(tuple(events), rng.choice((0, 1, 5)) * SECOND, splits)


@dataclass(frozen=True)
class Draw:
    """One random query: its text, the plain statement, and what its rows are sorted by when compared."""

    text: str
    sql_bounded: str
    sql_live: str
    windowed: bool
    total: bool
    live: bool = True


@dataclass
class _Parts:
    items: list[tuple[str, str, str]] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)


def random_query(rng: random.Random, lateness_us: int) -> Draw:
    """A query over the source `events`, and the same as plain SQL, as a bounded and as a live query."""
    roll = rng.random()
    if roll < 0.04:
        return _filled(rng, lateness_us)
    return _grouped(rng, lateness_us) if roll < 0.75 else _plain(rng)


# --- expressions: (MQL, SQL) pairs ---------------------------------------------------------------------

_NUMBERS = (("n", "n"), ("g", "g"), ("x", "x"), ("d.v", "d_v"), ("e['n']", "n"), ("n + g", "(n + g)"))
_NUMBERS += (("n * 2", "(n * 2)"), ("x / g", "(x / nullif(g, 0))"), ("abs(n)", "abs(n)"), ("n % 3", "(n % 3)"))
_INTEGERS = (("n", "n"), ("g", "g"), ("d.v", "d_v"))
_TEXTS = (("k", "k"), ("d.id", "d_id"), ("upper(k)", "upper(k)"), ("e['d']['id']", "d_id"), ("`k`", "k"))
_KEYS = (*_TEXTS, ("g", "g"), ("ok", "ok"), ("n % 2", "(n % 2)"), ("length(k)", "length(k)"))


def random_condition(rng: random.Random, depth: int = 2) -> tuple[str, str]:
    roll = rng.random()
    if depth and roll < 0.2:
        (a, b), (c, d) = random_condition(rng, depth - 1), random_condition(rng, depth - 1)
        word = rng.choice(("and", "or", "AND", "OR", "&&"))
        return f"({a} {word} {c})", f"({b} {'OR' if word.lower() == 'or' else 'AND'} {d})"
    if depth and roll < 0.27:
        a, b = random_condition(rng, depth - 1)
        return f"not ({a})", f"(NOT ({b}))"
    match rng.randrange(10):
        case 0 | 1:
            (a, b), op = rng.choice(_NUMBERS), rng.choice(("<", "<=", ">", ">=", "=", "<>"))
            value = rng.choice(("0", "1", "2", "1.5", "-5"))
            return f"{a} {op} {value}", f"({b} {op} {value})"
        case 2:
            (a, b), value = rng.choice(_TEXTS), rng.choice(KEYS)
            quoted = value.replace("'", "''")
            return f"{a} = '{quoted}'", f"({b} = '{quoted}')"
        case 3:
            a, b = rng.choice((*_TEXTS, *_NUMBERS))
            return rng.choice(
                (
                    (f"{a} == null", f"({b} IS NULL)"),
                    (f"{a} != null", f"({b} IS NOT NULL)"),
                    (f"{a} is null", f"({b} IS NULL)"),
                    (f"{a} IS NOT NULL", f"({b} IS NOT NULL)"),
                )
            )
        case 4:
            a, b = rng.choice(_INTEGERS)
            return f"{a} != 1", f"({b} IS DISTINCT FROM 1)"
        case 5:
            a, b = rng.choice(_INTEGERS)
            return f"{a} in (1, 2, 7)", f"({b} IN (1, 2, 7))"
        case 6:
            a, b = rng.choice(_NUMBERS)
            return f"{a} between 0 and 3", f"({b} BETWEEN 0 AND 3)"
        case 7:
            a, b = rng.choice(_TEXTS)
            return rng.choice(
                (
                    (f"{a} like 'a%'", f"({b} LIKE 'a%')"),
                    (f"{a} ==~ /[ab].*/", f"regexp_full_match({b}, '[ab].*')"),
                    (f"{a} =~ /b/", f"regexp_matches({b}, 'b')"),
                    (f"{a} ==+ 'a'", f"contains({b}, 'a')"),
                )
            )
        case 8:
            return rng.choice((("ok", "ok"), ("ok = true", "(ok = true)"), ("not ok", "(NOT ok)")))
        case _:
            (a, b), (c, d) = rng.choice(_NUMBERS), rng.choice(_NUMBERS)
            return f"{a} < {c}", f"({b} < {d})"


def _aggregate(rng: random.Random, windowed: bool) -> tuple[str, str]:
    """An aggregate in MQL and over DuckDB rows; {only} stands for a filter of the rows."""
    place = "ORDER BY t, s, o"
    (a, b), (c, d) = rng.choice(_NUMBERS), rng.choice(_TEXTS)
    i, j = rng.choice(_INTEGERS)
    v, w = rng.choice((*_TEXTS, *_INTEGERS))
    mantis = (
        "list_sort(list({0}) FILTER (WHERE {0} IS NOT NULL))[least(ceil({1} * count({0})), count({0}) - 1)::BIGINT + 1]"
    )
    choices = [
        ("count(*)", "count(*)"),
        (f"count({v})", f"count({w})"),
        (f"count(DISTINCT {v})", f"count(DISTINCT {w})"),
        (f"sum({a})", f"coalesce(sum({b}), 0)"),
        (f"min({v})", f"min({w})"),
        (f"max({a})", f"max({b})"),
        (f"avg({a})", f"avg({b})"),
        (f"stddev({a})", f"stddev_samp({b})"),
        (f"var_pop({a})", f"var_pop({b})"),
        (f"median({a})", f"median({b})"),
        (f"quantile({i}, 0.9)", f"quantile_disc({j}, 0.9)"),
        (f"quantile_cont({a}, 0.25)", f"quantile_cont({b}, 0.25)"),
        (f"p90({i})", mantis.format(j, 0.9)),
        (f"p50({i})", mantis.format(j, 0.5)),
        (f"first({v})", f"first({w} {place}) FILTER (WHERE {w} IS NOT NULL)"),
        (f"last({v})", f"last({w} {place}) FILTER (WHERE {w} IS NOT NULL)"),
        (f"list({v})", f"list({w} {place}) FILTER (WHERE {w} IS NOT NULL)"),
        (f"sum(DISTINCT {i})", f"coalesce(sum(DISTINCT {j}), 0)"),
        ("bool_or(ok)", "bool_or(ok)"),
        ("bool_and(ok)", "bool_and(ok)"),
        (f"bit_xor({i})", f"bit_xor({j})"),
        ("count_if(n > 1)", "count(*) FILTER (WHERE n > 1)"),
        (f"arg_min({c}, n)", f"first({d} ORDER BY n, t, s, o) FILTER (WHERE {d} IS NOT NULL AND n IS NOT NULL)"),
        (f"arg_max({c}, n)", f"first({d} ORDER BY n DESC, t, s, o) FILTER (WHERE {d} IS NOT NULL AND n IS NOT NULL)"),
        (f"histogram({c})", f"histogram({d})"),
        (f"sum({a}) filter (where g > 0)", f"coalesce(sum({b}) FILTER (WHERE g > 0), 0)"),
        ("count(*) filter (where ok)", "count(*) FILTER (WHERE ok)"),
        (f"sum({a}) / count(*)", f"(coalesce(sum({b}), 0)::DOUBLE / nullif(count(*), 0))"),
        ("regr_count(n, x)", "regr_count(n, x)"),
        ("covar_pop(g, d.v)", "covar_pop(g, d_v)"),
    ]
    if windowed:
        choices.append(("rate(*)", "count(*) / (greatest(we - ws, 1) / 1e6)"))
        distinct = f"coalesce(sum(DISTINCT {j}), 0) / (greatest(we - ws, 1) / 1e6)"
        choices.append((f"rate(DISTINCT {i})", distinct))
    return rng.choice(choices)


# --- queries ---------------------------------------------------------------------------------------------


def _plain(rng: random.Random) -> Draw:
    parts = [rng.choice((*_NUMBERS, *_TEXTS)) for _ in range(rng.randint(1, 3))]
    items = ", ".join(f"{mql} as c{i}" for i, (mql, _) in enumerate(parts))
    columns = ", ".join(f"{sql} AS c{i}" for i, (_, sql) in enumerate(parts))
    where, condition = random_condition(rng) if rng.random() < 0.8 else ("", "true")
    text = f"select {items} from events" + (f" where {where}" if where else "")
    tail = ""
    live = True
    roll = rng.random()
    if roll < 0.25:
        text += f" limit {(n := rng.randint(0, 30))}"
        tail, live = f" ORDER BY t, s, o LIMIT {n}", False
    elif roll < 0.5:
        down = rng.random() < 0.5
        text += f" order by c0{' desc' if down else ''}, c0 limit {(n := rng.randint(1, 30))}"
        tail, live = f" ORDER BY c0 {'DESC' if down else 'ASC'} NULLS LAST, t, s, o LIMIT {n}", False
    sql = f"SELECT {columns} FROM events WHERE {condition}{tail}"
    return Draw(text, sql, sql, False, False, live)


def _window(rng: random.Random) -> tuple[str, str, str]:
    """MQL, and SQL lists of (start, end) of the windows of time t; kind."""
    size, slide = rng.choice(((5, 5), (10, 10), (10, 5), (12, 4), (10, 4), (3, 5), (7, 3)))
    kind = rng.choice(
        ("tumbling", "hopping", "cumulate", "none", "none", "count", "zoned", "several", "session", "sliding")
    )
    match kind:
        case "tumbling":
            text = rng.choice((f"window tumbling {size}s", f"window {size}", f"WINDOW TUMBLING {size} SECONDS"))
            return text, ends_of(size, size), kind
        case "hopping":
            text = rng.choice(
                (
                    f"window hopping {size}s every {slide}s",
                    f"window {size} {slide}",
                    f"window size {size}s slide {slide}s",
                )
            )
            return text, ends_of(size, slide), kind
        case "cumulate":
            step = rng.choice((2, 5))
            day = step * rng.choice((2, 4))
            floor = f"(t - ((t % {day}000000) + {day}000000) % {day}000000)"
            return (
                f"window cumulate {day}s every {step}s",
                f"list_transform(list_filter(range(1, {day // step} + 1), lambda i: {floor} + i * {step}000000 > t), "
                f"lambda i: {{'ws': {floor}, 'we': {floor} + i * {step}000000}})",
                kind,
            )
        case "zoned":
            return _zoned(rng)
        case "session":
            return _session(rng)
        case "sliding":
            return f"window sliding {(n := rng.choice((1, 3, 20)))}s", f"{n}000000", kind
        case "several":
            of = [(rng.choice(("tumbling", "hopping")), *rng.choice(((10, 5), (12, 4), (3, 1), (2, 10)))) for _ in "ab"]
            shapes = [
                (f"tumbling {slide}s", ends_of(slide, slide))
                if shape == "tumbling"
                else (f"hopping {size}s every {slide}s", ends_of(size, slide))
                for shape, size, slide in of
            ]
            lists = (
                f"list_transform({ends}, lambda w: {{'ws': w.ws, 'we': w.we, 'w': '{name}'}})"
                for name, (_, ends) in zip(("fast", "slow 1"), shapes, strict=True)
            )
            text = f"windows (fast as {shapes[0][0]}, `slow 1` as {shapes[1][0]})"
            return text, f"list_concat({', '.join(lists)})", kind
        case "count":
            return f"window {(n := rng.randint(1, 9))} events", str(n), kind
        case _:
            return "", "", kind


def _session(rng: random.Random) -> tuple[str, str, str]:
    """MQL, and when an event begins a session: by gap, by conditions, by the session's length."""
    gap, most = rng.choice((1, 2, 5, 30)), rng.choice((0, 0, 1, 4, 20))
    begins, ends = rng.choice((("", ""), ("", ""), ("n > 2", ""), ("", "ok"), ("g = 1", "k = 'a'")))
    text = f"window session {gap}s" + (f" max {most}s" if most else "")
    text += (f" start when {begins}" if begins else "") + (f" end when {ends}" if ends else "")
    return text, f"{gap}000000|{most}000000|{begins or 'false'}|{ends or 'false'}", "session"


def _sessions(base: str, keys: Sequence[str], rule: str) -> str:
    """The rows of `base` with their session, found one event after the other: which of its group (q), ws and we."""
    gap, most, begins, ends = rule.split("|")
    by = f"PARTITION BY {', '.join(keys)} " if keys else ""
    whose = f"dense_rank() OVER (ORDER BY {', '.join(keys)})" if keys else "1"
    numbered = (
        f"SELECT *, row_number() OVER ({by}ORDER BY t, s, o) AS rn, {whose} AS kid, "
        f"coalesce({begins}, false) AS cb, coalesce({ends}, false) AS ce FROM ({base})"
    )
    is_long = "false" if most == "0000000" else f"n.t - r.ws >= {most}"
    cut = f"(n.t - r.t >= {gap} OR n.cb OR r.ce OR {is_long})"
    walked = (
        "SELECT kid, rn, t, ce, t AS ws, 1 AS q FROM numbered WHERE rn = 1 UNION ALL "
        f"SELECT n.kid, n.rn, n.t, n.ce, CASE WHEN {cut} THEN n.t ELSE r.ws END, r.q + {cut}::BIGINT "
        "FROM walked r JOIN numbered n ON n.kid = r.kid AND n.rn = r.rn + 1"
    )
    spans = "SELECT kid, q, min(ws) AS ws, max(t) AS z, arg_max(ce, rn) AS over FROM walked GROUP BY kid, q"
    ends_at = ["z + " + gap, "lead(ws) OVER (PARTITION BY kid ORDER BY q)"]
    ends_at += [] if most == "0000000" else ["ws + " + most]
    spans = f"SELECT *, CASE WHEN over THEN z ELSE least({', '.join(ends_at)}) END AS we FROM ({spans})"
    return (
        f"(WITH RECURSIVE numbered AS ({numbered}), walked AS ({walked}) "
        f"SELECT n.*, w.q, p.ws, p.we FROM numbered n JOIN walked w ON n.kid = w.kid AND n.rn = w.rn "
        f"JOIN ({spans}) p ON p.kid = w.kid AND p.q = w.q)"
    )


def _zoned(rng: random.Random) -> tuple[str, str, str]:
    """Windows in a zone that has been five and a half hours ahead since 1945."""
    unit, seconds, size, step = rng.choice(
        (("m", 60, 60, 60), ("m", 60, 60, 20), ("h", 3600, 2, 2), ("h", 3600, 6, 2), ("h", 3600, 24, 24))
    )
    shape = f"tumbling {size}{unit}" if size == step else f"hopping {size}{unit} every {step}{unit}"
    text = f"window {shape} timezone 'Asia/Kolkata'"
    return text, ends_of(size * seconds, step * seconds, ahead=19_800), "zoned"


def ends_of(size: int, slide: int, ahead: int = 0) -> str:
    """The windows [i * slide, i * slide + size) that hold t, found by trying all near it."""
    first = f"((t + {ahead}000000) // {slide}000000 - {-(-size // slide) + 2})"
    start = f"i * {slide}000000 - {ahead}000000"
    return (
        f"list_filter(list_transform(range({first}, {first} + {-(-size // slide) + 5}), "
        f"lambda i: {{'ws': {start}, 'we': {start} + {size}000000}}), "
        "lambda w: w.ws <= t AND t < w.we)"
    )


def _grouped(rng: random.Random, lateness_us: int) -> Draw:
    window, windows, kind = _window(rng)
    windowed = kind not in ("none", "count")
    keys = rng.sample(_KEYS, rng.randint(0, 2))
    calls = [_aggregate(rng, windowed) for _ in range(rng.randint(1, 3))]
    where, condition = random_condition(rng) if rng.random() < 0.5 else ("", "true")
    items = [f"{mql} as k{i}" for i, (mql, _) in enumerate(keys)] + [
        f"{mql} as a{i}" for i, (mql, _) in enumerate(calls)
    ]
    text = f"select {', '.join(items)} from events {window}" + (f" where {where}" if where else "")
    if keys:
        text += " group by " + ", ".join(mql for mql, _ in keys)
    having = ""
    if rng.random() < 0.2:
        text += " having count(*) > 2"
        having = " HAVING count(*) > 2"
    names = [f"k{i}" for i in range(len(keys))]
    tail = ""
    by_events = kind in ("count", "session", "sliding")
    # Two sessions of one group may have the same borders where conditions end them.
    arranged = kind == "sliding" or (kind == "session" and windows.endswith("|false|false"))
    if rng.random() < 0.2 and (keys or windowed) and (arranged or not by_events):
        text += f" order by a0 desc limit {(n := rng.randint(1, 3))}"
        ranked = "a0 DESC NULLS LAST" + "".join(f", {name} NULLS LAST" for name in names)
        ranked = "a0 DESC NULLS LAST, es, eo" if kind == "sliding" else ranked
        scope = f"PARTITION BY {'w, ' * (kind == 'several')}ws, we " if windowed else ""
        tail = f" QUALIFY row_number() OVER ({scope}ORDER BY {ranked}) <= {n}"
    if windowed and (kind != "count" or not tail) and rng.random() < 0.2:
        early = rng.choice(("final", "final with early 1s", "changes every 1s"))
        text += f" emit {early} with revisions settings revisions_for = '{(kept := rng.choice((1, 5, 30)))}s'"
        lateness_us += kept * SECOND
    elif kind != "count" and rng.random() < 0.2 and (windowed or not tail):
        text += rng.choice((" emit final with early 1s", " emit changes", " emit every 2s")[not windowed :])
    elif kind == "count" and rng.random() < 0.4:
        text += rng.choice((" emit final with early 1s", " emit changes", " emit every 2s"))
    keyed = ", ".join(f"{sql} AS k{i}" for i, (_, sql) in enumerate(keys))
    found = ", ".join([*names, *(f"{sql} AS a{i}" for i, (_, sql) in enumerate(calls))])

    def statement(late: str) -> str:
        base = f"SELECT *{', ' + keyed if keyed else ''} FROM events WHERE {condition}"
        if kind == "none":
            group = f" GROUP BY {', '.join(names)}" if names else ""
            return f"SELECT {found} FROM ({base}){group}{having}{tail}"
        if kind == "count":
            over = f"PARTITION BY {', '.join(names)} " if names else ""
            base = (
                f"SELECT *, (row_number() OVER ({over}ORDER BY t, s, o) - 1) // {windows} AS w FROM ({base} AND {late})"
            )
            shown = "make_timestamp(min(t)) AS window_start, make_timestamp(max(t)) AS window_end, "
            return f"SELECT {shown}{found} FROM ({base}) GROUP BY {', '.join(['w', *names])}{having}"
        shown = ", ".join([*names, *(f"a{i}" for i in range(len(calls)))])
        told = f"SELECT make_timestamp(ws) AS window_start, make_timestamp(we) AS window_end, {shown}"
        if kind == "session":
            group = ", ".join(["kid", "q", "ws", "we", *names])
            source = _sessions(f"{base} AND {late}", names, windows)
            return f"{told} FROM (SELECT ws, we, {found} FROM {source} GROUP BY {group}{having}){tail}"
        if kind == "sliding":
            same = "".join(f" AND e.{name} IS NOT DISTINCT FROM r.{name}" for name in names)
            base = f"{base} AND {late}"
            pairs = (
                f"SELECT e.s AS es, e.o AS eo, e.t - {windows} AS ws, e.t AS we, r.* "
                f"FROM ({base}) e JOIN ({base}) r ON r.t > e.t - {windows} AND r.t <= e.t{same}"
            )
            group = ", ".join(["es", "eo", "ws", "we", *names])
            return f"{told} FROM (SELECT ws, we, es, eo, {found} FROM ({pairs}) GROUP BY {group}{having}){tail}"
        base = f"SELECT *, unnest({windows}) AS u FROM ({base})"
        which = "w, " if kind == "several" else ""
        base = f"SELECT *, {'u.w AS w, ' if which else ''}u.ws AS ws, u.we AS we FROM ({base})"
        group = which + ", ".join(["ws", "we", *names])
        inner = f"SELECT {which}ws, we, {found} FROM (SELECT * FROM ({base}) WHERE {late}) GROUP BY {group}{having}"
        return (
            f"SELECT {which}make_timestamp(ws) AS window_start, make_timestamp(we) AS window_end, {shown} "
            f"FROM ({inner}){tail}"
        )

    not_late = f"t >= m - {lateness_us}" if by_events else f"we > m - {lateness_us}"
    if kind == "session":
        not_late = f"t + {windows.split('|')[0]} > m - {lateness_us}"
    return Draw(text, statement("true"), statement(not_late), windowed, kind == "none", kind != "none")


def _filled(rng: random.Random, lateness_us: int) -> Draw:
    """FILL: each window near the events, each group, and whether it was seen in the window or not long before."""
    window, windows, kind = "", "", ""
    while kind not in ("tumbling", "hopping", "cumulate"):
        window, windows, kind = _window(rng)
    keys = rng.sample(_KEYS, rng.randint(0, 1))
    calls = rng.sample((("count(*)", "count(*)"), ("max(n)", "max(n)"), ("avg(x)", "avg(x)")), 2)
    where, condition = random_condition(rng) if rng.random() < 0.5 else ("", "true")
    value, kept = rng.choice(("0", "null", "7")), rng.choice((12, 25, 60))
    items = [f"{mql} as k{i}" for i, (mql, _) in enumerate(keys)]
    items += [f"{mql} as a{i}" for i, (mql, _) in enumerate(calls)]
    text = f"select {', '.join(items)} from events {window} fill {value} for {kept}s" + (
        f" where {where}" if where else ""
    )
    text += f" group by {keys[0][0]}" if keys else ""
    name = "k0" if keys else "0"
    key = f", {keys[0][1]} AS k0" if keys else ""

    def statement(late: str, reached: str) -> str:
        pairs = f"SELECT *{key}, unnest({windows}) AS u FROM events WHERE {condition}"
        pairs = f"SELECT * FROM (SELECT *, u.ws AS ws, u.we AS we FROM ({pairs})) WHERE {late}"
        found = ", ".join(f"{sql} AS a{i}" for i, (_, sql) in enumerate(calls))
        every_second = "range((SELECT min(ws) FROM seen), (SELECT max(we) + 60000000 FROM seen), 1000000)"
        same = "e.kk IS NOT DISTINCT FROM s.kk"
        told = (
            f"SELECT g.ws, g.we, s.kk, {value} AS a0, {value} AS a1 FROM grid g, (SELECT DISTINCT kk FROM seen) s "
            f"WHERE NOT EXISTS (FROM seen e WHERE {same} AND e.we = g.we) "
            f"AND EXISTS (FROM seen e WHERE {same} AND e.we < g.we AND g.we <= e.we + {kept}000000) "
            f"AND g.we <= greatest((SELECT max(we) FROM seen), {reached})"
        )
        return (
            f"WITH seen AS (SELECT ws, we, {name} AS kk, {found} FROM ({pairs}) GROUP BY ALL), "
            f"seconds AS (SELECT unnest({every_second}) AS t), "
            f"grid AS (SELECT DISTINCT u.ws AS ws, u.we AS we FROM (SELECT unnest({windows}) AS u FROM seconds)), "
            f"told AS (SELECT * FROM seen UNION ALL BY NAME {told}) "
            f"SELECT make_timestamp(ws), make_timestamp(we), {'kk, ' if keys else ''}a0, a1 FROM told"
        )

    reached = f"(SELECT min(t) - {lateness_us} FROM (SELECT max(t) AS t FROM events GROUP BY s))"
    return Draw(text, statement("true", "NULL"), statement(f"we > m - {lateness_us}", reached), True, False)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")


class Rows(list[tuple[str, ...]]):
    """Rows that are equal where they are but for the last of 12 digits: one rounds up what the other rounds down."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list) or len(self) != len(other):
            return False
        return all(one == two or _nearly(repr(one), repr(two)) for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def _nearly(one: str, two: str) -> bool:
    if NUMBER.sub("#", one) != NUMBER.sub("#", two):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(two), strict=True)
    return all(math.isclose(float(left), float(right), rel_tol=1e-11) for left, right in pairs)


def normal(rows: Sequence[dict[str, object]]) -> Rows:
    """Rows as they are compared: floats at 12 digits, in one order."""
    return Rows(sorted(tuple(_value(value) for value in row.values()) for row in rows))


def _value(value: object) -> str:
    match value:
        case bool() | None | str():
            return repr(value)
        case int() | float():
            # Sums that cancel leave noise around zero.
            return "0" if abs(value) < 1e-9 else f"{float(value):.12g}"
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{name}: {_value(item)}" for name, item in sorted(value.items())) + "}"
        case _:
            try:
                return f"{float(value):.12g}"  # type: ignore[arg-type]
            except (TypeError, ValueError):
                return str(value)
