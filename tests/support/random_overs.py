"""Random queries with window functions, and the same as plain SQL: over events as they come, with partitions that are
forgotten, and over the rows of a window, grouped or not."""

from __future__ import annotations

import random

from support.random_queries import Draw, ends_of, random_condition

SECOND = 1_000_000
_KEYS = (("k", "k"), ("g", "g"), ("d.id", "d_id"))
_PLACE = "t, s, o"


def random_over(rng: random.Random, lateness_us: int) -> Draw:
    """A query with window functions over the source `events`."""
    roll = rng.random()
    if roll < 0.6:
        return _running(rng, lateness_us)
    return _of_groups(rng, lateness_us) if roll < 0.8 else _of_window_rows(rng, lateness_us)


def _running(rng: random.Random, lateness_us: int) -> Draw:
    """Functions that go on from event to event, over up to two partitionings; the oracle cuts these into stretches."""
    ttl = rng.choice((2, 5, 3600))
    lanes = [rng.sample(_KEYS, rng.randint(0, 1)) for _ in range(rng.randint(1, 2))]
    calls, columns = [], []
    for i in range(rng.randint(1, 4)):
        lane = rng.randrange(len(lanes))
        by = ", ".join(mql for mql, _ in lanes[lane])
        text, sql = _call(rng, f"PARTITION BY {by} " if by else "", lanes[lane], lane)
        calls.append(f"{text} as c{i}")
        columns.append(f"{sql} AS c{i}")
    where, condition = random_condition(rng) if rng.random() < 0.4 else ("", "true")
    text = f"select n, k, {', '.join(calls)} from events" + (f" where {where}" if where else "")
    qualify = ""
    if rng.random() < 0.3:
        by = ", ".join(mql for mql, _ in lanes[0])
        text += f" qualify row_number() over ({f'partition by {by}' if by else ''}) <= 2"
        parted = _parted([sql for _, sql in lanes[0]], 0, True)
        qualify = f" QUALIFY row_number() OVER ({parted}ORDER BY {_PLACE}) <= 2"
    text += f" settings state_ttl = '{ttl}s'"

    def statement(late: str) -> str:
        rows = f"(SELECT * FROM events WHERE {condition} AND {late})"
        for at, lane in enumerate(lanes):
            over = _parted([sql for _, sql in lane], at, False)
            before = f"lag(t) OVER ({over}ORDER BY {_PLACE})"
            rows = f"(SELECT *, coalesce(t - {before} > {ttl * SECOND}, false) AS b{at} FROM {rows})"
            number = f"sum(b{at}::INT) OVER ({over}ORDER BY {_PLACE} ROWS UNBOUNDED PRECEDING)"
            rows = f"(SELECT *, {number} AS z{at} FROM {rows})"
        return f"SELECT n, k, {', '.join(columns)} FROM {rows}{qualify}"

    return Draw(text, statement("true"), statement(f"t >= m - {lateness_us}"), False, False)


def _parted(keys: list[str], lane: int, stretches: bool) -> str:
    names = [*keys, *([f"z{lane}"] if keys and stretches else [])]
    return f"PARTITION BY {', '.join(names)} " if names else ""


def _call(rng: random.Random, by: str, lane: list[tuple[str, str]], at: int) -> tuple[str, str]:
    keys = [sql for _, sql in lane]
    parted, whole = _parted(keys, at, True), _parted(keys, at, False)
    time = rng.choice(("event_time()", "event_time"))
    name = rng.choice(
        ("number", "rank", "lag", "sum", "fold", "rows", "range", "first", "last", "lead", "around", "far")
    )
    match name:
        case "number":
            return f"row_number() over ({by}order by {time})", f"row_number() OVER ({parted}ORDER BY {_PLACE})"
        case "rank":
            rank = rng.choice(("rank", "dense_rank"))
            return f"{rank}() over ({by}order by {time})", f"{rank}() OVER ({parted}ORDER BY t)"
        case "lag":
            n = rng.randint(1, 3)
            return f"lag(n, {n}) over ({by}order by {time})", f"lag(n, {n}) OVER ({parted}ORDER BY {_PLACE})"
        case "sum":
            return f"sum(n) over ({by}order by {time})", f"coalesce(sum(n) OVER ({parted}ORDER BY t), 0)"
        case "fold":
            fold = rng.choice(("count(*)", "count(n)", "min(n)", "max(x)", "avg(n)", "stddev(n)", "bool_or(n > 3)"))
            shape = "rows unbounded preceding" if rng.random() < 0.5 else ""
            order = _PLACE if shape else "t"
            return f"{fold} over ({by}order by {time} {shape})", f"{fold} OVER ({parted}ORDER BY {order} {shape})"
        case "rows":
            n, m = rng.randint(0, 4), rng.randint(0, 2)
            fold = rng.choice(("count(n)", "max(n)", "median(n)", "count(DISTINCT k)", "list(n)", "avg(DISTINCT n)"))
            frame = f"rows between {n + m} preceding and {m} preceding"
            sql = f"list(n ORDER BY {_PLACE}) FILTER (WHERE n IS NOT NULL)" if fold == "list(n)" else fold
            return f"{fold} over ({by}order by {time} {frame})", f"{sql} OVER ({parted}ORDER BY {_PLACE} {frame})"
        case "range":
            n = rng.randint(0, 8)
            fold = rng.choice(("count(*)", "min(n)", "max(n)", "count(DISTINCT k)", "rate(*)"))
            frame = f"RANGE {n * SECOND} PRECEDING"
            if fold == "rate(*)":
                n = max(n, 1)
                rate = f"count(*) OVER ({whole}ORDER BY t RANGE {n * SECOND} PRECEDING) / {n}"
                return f"rate(*) over ({by}order by {time} range {n}s preceding)", rate
            return f"{fold} over ({by}order by {time} range {n}s preceding)", f"{fold} OVER ({whole}ORDER BY t {frame})"
        case "lead":
            n = rng.randint(1, 3)
            return f"lead(n, {n}) over ({by}order by {time})", f"lead(n, {n}) OVER ({parted}ORDER BY {_PLACE})"
        case "around":
            n, m = rng.randint(0, 3), rng.randint(1, 3)
            if rng.random() < 0.5:
                frame = f"rows between {n} preceding and {m} following"
                return f"max(n) over ({by}order by {time} {frame})", f"max(n) OVER ({parted}ORDER BY {_PLACE} {frame})"
            frame = f"RANGE BETWEEN {n * SECOND} PRECEDING AND {m * SECOND} FOLLOWING"
            text = f"max(n) over ({by}order by {time} range between {n}s preceding and {m}s following)"
            return text, f"max(n) OVER ({whole}ORDER BY t {frame})"
        case "far":
            folds = ("count(*)", "sum(n)", "min(n)", "avg(n)", "bool_or(n > 3)", "first_value(n)", "last_value(n)")
            fold, n, side = rng.choice(folds), rng.randint(1, 4), rng.choice(("preceding", "following"))
            sql = fold
            if rng.random() < 0.5:
                frame = f"rows between unbounded preceding and {n} {side}"
                over, shown = f"({parted}ORDER BY {_PLACE} {frame})", frame
            else:
                frame = f"RANGE BETWEEN UNBOUNDED PRECEDING AND {n * SECOND} {side}"
                over, shown = f"({parted}ORDER BY t {frame})", f"range between unbounded preceding and {n}s {side}"
                if fold.endswith("_value(n)"):
                    sql = f"{fold[:-3]}(n ORDER BY {_PLACE})"
            sql = f"coalesce({sql} OVER {over}, 0)" if fold == "sum(n)" else f"{sql} OVER {over}"
            return f"{fold} over ({by}order by {time} {shown})", sql
        case "first":
            return f"first_value(n) over ({by}order by {time})", f"first_value(n) OVER ({parted}ORDER BY {_PLACE})"
        case _:
            last = f"last_value(n ORDER BY {_PLACE}) OVER ({parted}ORDER BY t)"
            return f"last_value(n) over ({by}order by {time})", last


def _of_groups(rng: random.Random, lateness_us: int) -> Draw:
    """Ranks and shares within each window, and what goes on from window to window."""
    size, slide = rng.choice(((5, 5), (10, 10), (10, 5)))
    text_key, key = rng.choice(_KEYS)
    inside = f"SELECT u.ws AS ws, u.we AS we, {key} AS k, count(*) AS c, max(n) AS h"
    running = rng.random() < 0.5
    if running:
        call = f"count(*) - lag(count(*)) over (partition by {text_key} order by window_start)"
        sql = "c - lag(c) OVER (PARTITION BY k ORDER BY we)"
        extra = f"sum(count(*)) over (partition by {text_key} order by window_end)"
        extra_sql = "sum(c) OVER (PARTITION BY k ORDER BY we)"
    else:
        call, sql = "rank() over (order by count(*) desc)", "rank() OVER (PARTITION BY ws, we ORDER BY c DESC)"
        extra, extra_sql = "max(max(n)) over ()", "max(h) OVER (PARTITION BY ws, we)"
    window = f"window {size}s" if size == slide else f"window {size} {slide}"
    text = f"select {text_key} as key, {call} as a, {extra} as b from events {window} group by {text_key}"
    qualify = ""
    if not running and rng.random() < 0.6:
        text += " qualify a <= 2"
        qualify = " QUALIFY a <= 2"

    def statement(late: str) -> str:
        rows = f"(SELECT *, unnest({ends_of(size, slide)}) AS u FROM events)"
        groups = f"({inside} FROM {rows} WHERE {late} GROUP BY ALL)"
        shown = "make_timestamp(ws) AS window_start, make_timestamp(we) AS window_end"
        return f"SELECT {shown}, k AS key, {sql} AS a, {extra_sql} AS b FROM {groups}{qualify}"

    return Draw(text, statement("true"), statement(f"u.we > m - {lateness_us}"), True, False)


def _of_window_rows(rng: random.Random, lateness_us: int) -> Draw:
    """The rows of each window by themselves."""
    size, slide = rng.choice(((5, 5), (10, 10), (10, 5)))
    n = rng.randint(1, 3)
    window = f"window {size}s" if size == slide else f"window {size} {slide}"
    call = "row_number() over (partition by k order by n desc)"
    text = f"select n, k, {call} as r, count(*) over () as c from events {window} qualify r <= {n}"
    each = "PARTITION BY u.ws, u.we"

    def statement(late: str) -> str:
        rows = f"(SELECT * FROM (SELECT *, unnest({ends_of(size, slide)}) AS u FROM events) WHERE {late})"
        shown = "make_timestamp(u.ws) AS window_start, make_timestamp(u.we) AS window_end"
        number = f"row_number() OVER ({each}, k ORDER BY n DESC NULLS LAST, {_PLACE})"
        return f"SELECT {shown}, n, k, {number} AS r, count(*) OVER ({each}) AS c FROM {rows} QUALIFY r <= {n}"

    return Draw(text, statement("true"), statement(f"u.we > m - {lateness_us}"), True, False)
