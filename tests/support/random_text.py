"""Random queries as text, and random damage to a text. A seed given twice gives the same."""

from __future__ import annotations

import random
import re

NAMES = ["a", "b", "status", "node", "path", "type", "offset", "limit", "end", "order", "e", "window_start", "time"]
FUNCTIONS = ["count", "sum", "min", "max", "lower", "left", "p99", "list", "coalesce", "now"]
STRINGS = ["'x'", '"y"', "'it''s'", "''", "'a -- b'", "'/* */'", '"(["', "'ü'"]
DURATIONS = ["10s", "250ms", "5 MINUTES", "1h30m", "INTERVAL '2' DAY", "7d"]
COMPARISONS = ["=", "==", "!=", "<>", "<", "<=", ">", ">=", "==+"]
REGEXES = ["/ab.*/", r"/\/api\/v[0-9]+/", r"/a['\"]b/", "//", "/(a|b)/"]
PIECES = [
    *"()[]{},;|&!=<>*+-/%.:$'\"`\\",
    "select",
    "from",
    "where",
    "||",
    "and",
    "window",
    "'",
    "as",
    "/*",
    "--",
    "10s",
    "é",
    "\n",
]


def random_query(rng: random.Random, depth: int = 2) -> str:
    """A text that parses, though what it means may be nonsense."""
    parts = [f"SELECT {_maybe(rng, 'DISTINCT ')}{_list(rng, _item, 4, depth)}"]
    if rng.random() < 0.9:
        joins = "".join(f" {_join(rng, depth)}" for _ in range(rng.choice([0, 0, 0, 1, 2])))
        parts.append(f"FROM {_list(rng, _source, 2, depth)}{joins}")
    clauses = [make(rng, depth) for make in _CLAUSES if rng.random() < 0.25]
    rng.shuffle(clauses)
    text = " ".join([*parts, *clauses])
    if depth > 0 and rng.random() < 0.1:
        text = f"WITH w AS ({random_query(rng, depth - 1)}) {text}"
    if depth > 1 and rng.random() < 0.1:
        text = f"SELECT a FROM b WHERE {random_expression(rng, 1)} UNION ALL {text}" if "WITH w" not in text else text
    return _shout(rng, text)


def random_expression(rng: random.Random, depth: int = 3) -> str:
    """Any expression: a value, arithmetic, a condition."""
    if depth <= 0:
        return _leaf(rng)
    inner = [random_expression(rng, depth - 1) for _ in range(3)]
    return rng.choice(_FORMS)(rng, inner)


def damaged(rng: random.Random, text: str) -> str:
    """The text with one to three random edits: characters or words dropped, doubled, swapped or put in."""
    for _ in range(rng.randint(1, 3)):
        words = re.split(r"(\s+|\W)", text)
        at, other = rng.randrange(len(words)), rng.randrange(len(words))
        match rng.randrange(6):
            case 0:
                del words[at]
            case 1:
                words.insert(at, words[other])
            case 2:
                words[at], words[other] = words[other], words[at]
            case 3:
                words.insert(at, rng.choice(PIECES))
            case 4:
                words[at] = words[at][: len(words[at]) // 2]
            case _:
                words.insert(at, chr(rng.choice([rng.randrange(128), rng.randrange(0x3000)])))
        text = "".join(words)
    return text


def _leaf(rng: random.Random) -> str:
    return rng.choice(
        [
            rng.choice(NAMES),
            f"{rng.choice(NAMES)}.{rng.choice(NAMES)}",
            f"e['{rng.choice(NAMES)}']['x y'][0][*]",
            "e[^'metric']",
            "`a b`",
            str(rng.randrange(100)),
            "2.5",
            "1e3",
            "-7",
            rng.choice(STRINGS),
            rng.choice(["true", "NULL", "$p"]),
            rng.choice(DURATIONS),
            rng.choice(["TIMESTAMP '2026-01-31T12:00:00Z'", "DATE '2026-01-31'", "count(*)"]),
        ]
    )


_FORMS = [
    lambda rng, x: (
        "".join(f"{_leaf(rng)} {rng.choice(['+', '-', '*', '/', '//', '%', '||'])} " for _ in x) + _tight(x[0])
    ),
    lambda rng, x: f"({x[0]}) {rng.choice(['+', '-', '||'])} ({x[1]}) {rng.choice(['*', '||'])} ({x[2]})",
    lambda rng, x: f"({x[0]}) {rng.choice(COMPARISONS)} {_tight(x[1])}",
    lambda rng, x: f"({x[0]}) {rng.choice(['AND', 'OR', '&&'])} ({x[1]}) {rng.choice(['AND', 'OR'])} ({x[2]})",
    lambda rng, x: f"a = 1 || {_tight(x[0])} = 2 AND b = 3",
    lambda rng, x: f"NOT ({x[0]})",
    lambda rng, x: f"NOT a == {_tight(x[0])}",
    lambda rng, x: f"({x[0]}) {_maybe(rng, 'NOT ')}BETWEEN ({x[1]}) AND ({x[2]})",
    lambda rng, x: f"({x[0]}) {_maybe(rng, 'NOT ')}IN ({x[1]}, {x[2]})",
    lambda rng, x: f"a IN {rng.choice(['$p', '[1, 2]', '(SELECT b FROM c)'])}",
    lambda rng, x: f"({x[0]}) {_maybe(rng, 'NOT ')}{rng.choice(['LIKE', 'ILIKE'])} 'x%'",
    lambda rng, x: f"({x[0]}) IS {_maybe(rng, 'NOT ')}{rng.choice(['NULL', 'TRUE', 'DISTINCT FROM 1'])}",
    lambda rng, x: f"path {rng.choice(['==~', '=~'])} {rng.choice(REGEXES)}",
    lambda rng, x: f"CASE {_maybe(rng, 'a ')}WHEN {x[0]} THEN {x[1]} {_maybe(rng, 'ELSE ' + x[2] + ' ')}END",
    lambda rng, x: f"CAST({x[0]} AS {rng.choice(['BIGINT', 'decimal(10, 2)', 'VARCHAR[]'])})",
    lambda rng, x: f"({x[0]})::double",
    lambda rng, x: f"{rng.choice(['-', '+', '- - '])}({x[0]})",
    lambda rng, x: f"[{x[0]}, {x[1]}]",
    lambda rng, x: f"{rng.choice(FUNCTIONS)}({_maybe(rng, 'DISTINCT ')}{x[0]}, {x[1]}, q => {x[2]})",
    lambda rng, x: f"sum({x[0]}) FILTER (WHERE {x[1]})",
    lambda rng, x: (
        f"lag({x[0]}) OVER (PARTITION BY {x[1]} ORDER BY time DESC ROWS BETWEEN 5 PRECEDING AND CURRENT ROW)"
    ),
    lambda rng, x: "EXISTS (SELECT a FROM b)",
    lambda rng, x: _leaf(rng),
]


def _item(rng: random.Random, depth: int) -> str:
    if rng.random() < 0.1:
        return "*"
    alias = rng.choice(["", "", " AS n", " n", " AS 'COUNT(a)'", " AS `order`"])
    return f"{random_expression(rng, depth)}{alias}"


def _source(rng: random.Random, depth: int) -> str:
    if depth > 0 and rng.random() < 0.1:
        return f"({random_query(rng, depth - 1)}) AS q"
    return rng.choice(["requests", "'logs/*.parquet'", "$source", "a-b.c", "`x y`"]) + rng.choice(["", " AS r", " r"])


def _join(rng: random.Random, depth: int) -> str:
    kind = rng.choice(["", "LEFT ", "INNER ", "ASOF ", "FULL OUTER "])
    within = rng.choice(["", " WITHIN 5m", " WITHIN (5m, 1h)"])
    if rng.random() < 0.2:
        return "join t2 5 seconds on e['node']"
    return f"{kind}JOIN t2 AS b ON {random_expression(rng, depth)}{within}"


def _where(rng: random.Random, depth: int) -> str:
    return f"WHERE {random_expression(rng, depth + 1)}"


def _window(rng: random.Random, depth: int) -> str:
    window = rng.choice(
        [
            "10",
            "60 10",
            "|100|",
            "TUMBLING 10s OFFSET 2s TIMEZONE 'UTC'",
            "HOPPING 60s EVERY 10s",
            "HOP(1m, 10s)",
            "CUMULATE 1d EVERY 1h",
            "SESSION 30s MAX 30m START WHEN a = 1 END WHEN b = 2",
            "SLIDING $w",
            "100 EVENTS EVERY 10",
        ]
    )
    fill = rng.choice(["", "", " FILL 0", " FILL null FOR 1h"])
    if rng.random() < 0.1:
        return "WINDOWS (fast AS TUMBLING 1m, slow AS 1h)" + fill
    return f"WINDOW {window}{fill}"


def _anomaly(rng: random.Random, depth: int) -> str:
    if rng.random() < 0.2:
        return "anomaly mad cpu 1.0 -2.5"
    options = [
        "USING ratio(fdr => 1%, min_effect => 2)",
        "DIRECTION UP",
        "BY title, country",
        "HISTORY 1 HOUR",
        "WARMUP 20 WINDOWS",
        "FOR 3 OF 5 WINDOWS",
        "REARM AFTER 5 MINUTES",
        "MINIMUM starts >= 20, CHANGE >= 0.02",
        "AMONG cluster",
        "TRANSFORM log",
        "RELATIVE TO sum(a)",
        "LIMIT 20 PER WINDOW",
    ]
    chosen = [option for option in options if rng.random() < 0.3]
    return " ".join([f"ANOMALY ON ({random_expression(rng, depth)})", *chosen])


_CLAUSES = [
    _where,
    _window,
    _anomaly,
    lambda rng, depth: rng.choice(
        [
            "SAMPLE 5%",
            "SAMPLE 2.5 % BY a, b EXTRAPOLATE",
            "SAMPLE 100 PER SECOND",
            "SAMPLE {'strategy':'STICKY','keys':['zip'],'threshold':200,'extrapolate':true}",
        ]
    ),
    lambda rng, depth: f"GROUP BY {_list(rng, lambda r, d: random_expression(r, d - 1), 3, depth)}",
    lambda rng, depth: f"HAVING {random_expression(rng, depth)}",
    lambda rng, depth: f"QUALIFY {random_expression(rng, depth)}",
    lambda rng, depth: f"ORDER BY {random_expression(rng, depth)}{rng.choice(['', ' DESC', ' ASC NULLS FIRST'])}",
    lambda rng, depth: f"LIMIT {rng.choice(['10', '$n', '3 PER node, a'])}",
    lambda rng, depth: (
        f"EMIT {rng.choice(['FINAL WITH EARLY 1s', 'CHANGES EVERY 1s WITH REVISIONS', 'EVERY 5s', 'EPISODES'])}"
    ),
    lambda rng, depth: "LATENESS 2m",
    lambda rng, depth: f"SINCE {rng.choice([*STRINGS[:1], 'EARLIEST', 'OFFSET 5', '-1h', '$t'])}",
    lambda rng, depth: f"UNTIL {rng.choice(['NOW', 'LIVE', 'now() - 5m'])}",
    lambda rng, depth: f"REPLAY SPEED {rng.choice(['10x', '$x'])}",
    lambda rng, depth: "SETTINGS late = 'as_live', state_ttl = 1h",
]


def _list(rng: random.Random, make, most: int, depth: int) -> str:  # type: ignore[no-untyped-def]
    return ", ".join(make(rng, depth) for _ in range(rng.randint(1, most)))


def _maybe(rng: random.Random, text: str) -> str:
    return text if rng.random() < 0.3 else ""


def _tight(text: str) -> str:
    return f"({text})"


def _shout(rng: random.Random, text: str) -> str:
    """Keywords in another case now and then, and blanks of another kind."""
    if rng.random() < 0.2:
        text = re.sub(r"\b[A-Z]{3,}\b(?=[^'\"`]*$)", lambda word: word[0].lower(), text)
    return text.replace(" ", "\n  ", 1) if rng.random() < 0.2 else text
