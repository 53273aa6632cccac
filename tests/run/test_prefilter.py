"""The prefilter passes too much rather than too little, whatever way an event is spelled."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mql.catalog import TimeRule
from mql.exec import prefilter as tuning
from mql.exec.items import Chunk, Raw, Rows
from mql.exec.kernel import Kernel, Session
from mql.exec.prefilter import Prefilter
from mql.exec.scan import Decoder
from mql.parser import parse
from mql.planner.binding import Scope, bind_condition
from mql.planner.expressions import Bound, columns_of, walk
from mql.planner.expressions import Column as BoundColumn
from mql.planner.needles import needles
from mql.planner.physical import Needles
from mql.planner.sql import expression_sql
from mql.schema import BIGINT, BOOLEAN, DOUBLE, JSON, VARCHAR, Field, ListOf, Shape, StructOf

SHAPE = Shape(
    (
        Field("country", VARCHAR),
        Field("status", BIGINT),
        Field("ratio", DOUBLE),
        Field("ok", BOOLEAN),
        Field("näme", VARCHAR),
        Field("a/b", VARCHAR),
        Field("device", StructOf((("id", VARCHAR), ("Os", VARCHAR)))),
        Field("tags", ListOf(VARCHAR)),
        Field("any", JSON),
    )
)
TEXTS = ["US", "usa", "a/b", "é", "日本", "true", "null", "5", "500", "1.5", "1e2", "100.0", "nan", "Infinity", "[1,2]"]
TEXTS += ['{"c":"US"}', "", "x y", 'say "US"', "back\\slash", "tab\t", "10.0.0.1", "2026-01-31", "-0", "e", "\0", "😀"]
TEXTS += ["https://example.org/US?a=b", "a, b", "c:US", "00", "null,true", " US "]
NUMBERS = ["5", "500", "500.0", "5e2", "5E+2", "499.6", "-0", "0", "1.50", "1e2", "100", "1e25", "nan", "-inf"]
NUMBERS += ["12345678901234567890123", "0.00001"]
OTHERS = [
    "true",
    "false",
    "null",
    '{"c" : "US"}',
    "[1, 2]",
    '[ "US", "x y" ]',
    '{"x": [1e2, {"US": null}]}',
    "{}",
    "[]",
]
PATHS = ["country", "`näme`", "`a/b`", "device.id", "device.Os"]


def spelled(text: str, chance: random.Random) -> str:
    """One of the ways to write a text in JSON."""
    out = []
    for character in text:
        plain = json.dumps(character, ensure_ascii=False)[1:-1]
        if chance.random() < 0.04:
            plain = json.dumps(character) if ord(character) > 0xFFFF else f"\\u{ord(character):04x}"
            plain = plain.strip('"')
        elif character == "/" and chance.random() < 0.3:
            plain = "\\/"
        elif not character.isascii() and chance.random() < 0.5:
            plain = json.dumps(character)[1:-1]
        out.append(plain)
    return '"' + "".join(out) + '"'


def value(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.6:
        return spelled(chance.choice(TEXTS), chance)
    return chance.choice(NUMBERS if kind < 0.8 else OTHERS)


def event(chance: random.Random) -> str:
    names = ["country", "status", "ratio", "ok", "näme", "a/b", "any", "other"]
    chance.shuffle(names)
    pairs = [(name, value(chance)) for name in names[: chance.randrange(len(names) + 1)]]
    pairs += [(chance.choice(names), value(chance))] if chance.random() < 0.3 else []
    if chance.random() < 0.5:
        inner = ",".join(f"{spelled(name, chance)}:{value(chance)}" for name in ("id", "Os") if chance.random() < 0.7)
        pairs.append(("device", "{" + inner + "}"))
    if chance.random() < 0.5:
        pairs.append(("tags", "[" + ", ".join(value(chance) for _ in range(chance.randrange(3))) + "]"))
    chance.shuffle(pairs)
    space = chance.choice(["", " ", "  "])
    return "{" + f",{space}".join(f"{spelled(name, chance)}{space}:{space}{text}" for name, text in pairs) + "}"


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def condition(chance: random.Random, depth: int = 0) -> str:
    """A random WHERE clause."""
    path, text = chance.choice([*PATHS, "`any`", "`any`.c"]), chance.choice(TEXTS)
    part = text[chance.randrange(len(text) + 1) :]
    piece = part[: chance.randrange(len(part) + 1)]
    simple = [
        f"{path} = {literal(text)}",
        f"{path} == {literal(text)}",
        f"{literal(text)} = {path}",
        f"{path} != {literal(text)}",
        f"{path} IN ({literal(text)}, {literal(chance.choice(TEXTS))})",
        f"{path} LIKE {literal(chance.choice(['', '%', '_']) + piece + chance.choice(['', '%', '_%']))}",
        f"{path} ==+ {literal(piece)}",
        f"starts_with({path}, {literal(part)})",
        f"ends_with({path}, {literal(part)})",
        f"{path} IS NOT NULL",
        f"{path} IS NULL",
        f"{path} < {literal(text)}",
        f"status = {chance.choice(['5', '500', '0', '100'])}",
        "status >= 100",
        "status + ratio > 3",
        "ok",
        "ok = false",
        f"e['tags'][*] = {literal(text)}",
        f"e['any'][*] = {literal(text)}",
        f"tags[0] = {literal(text)}",
        f"upper({path}) = {literal(text.upper())}",
        f"{path} || 'x' = {literal(text + 'x')}",
        f"coalesce({path}, {literal(text)}) = {literal(text)}",
        f"CASE WHEN ok THEN {path} ELSE 'US' END = 'US'",
        f"{path} IS NOT DISTINCT FROM {literal(text)}",
    ]
    if depth > 1 or chance.random() < 0.5:
        found = chance.choice(simple)
        return f"NOT ({found})" if chance.random() < 0.1 else found
    joined = chance.choice([" AND ", " OR "])
    return "(" + joined.join(condition(chance, depth + 1) for _ in range(chance.randrange(2, 4))) + ")"


def bound(text: str) -> Bound:
    where = parse(f"SELECT * FROM s WHERE {text}").where
    assert where is not None
    return bind_condition(where, Scope(SHAPE, "s"))


@pytest.fixture(scope="module")
def session() -> Session:
    return Kernel(threads=1, memory_limit="512MB").session()


def matches(session: Session, predicate: Bound, raw: Raw, found: Needles | None) -> tuple[list[int], int]:
    """The offsets of the events that meet the predicate, and how many events were left undecoded."""
    types = {part.path: part.type for part in walk(predicate) if isinstance(part, BoundColumn)}
    assert set(types) == columns_of(predicate)
    prefilter = None if found is None else Prefilter(found)
    decoded = Decoder(session, "json", TimeRule(), types.items(), prefilter=prefilter).decode([raw])
    sql = f'SELECT "__o" FROM batch WHERE {expression_sql(predicate)} ORDER BY 1'
    return session.run(sql, {"batch": decoded.table}).column(0).to_pylist(), decoded.skipped


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_no_match_is_ever_skipped(session: Session, seed: int) -> None:
    chance = random.Random(seed)
    texts = [event(chance) for _ in range(60)]
    chunk = Chunk(0, "".join(text + "\n" for text in texts).encode(), 0, 0)
    batch = pa.RecordBatch.from_pydict({"_raw": texts, "_offset": list(range(len(texts)))})
    for _ in range(6):
        text = condition(chance)
        predicate = bound(text)
        wanted = needles(predicate, time_from_event=False)
        if wanted is None:
            continue
        everything, _ = matches(session, predicate, chunk, None)
        assert matches(session, predicate, chunk, wanted)[0] == everything, (text, wanted)
        rows = Rows(0, batch, 0, len(texts))
        assert matches(session, predicate, rows, wanted)[0] == matches(session, predicate, rows, None)[0], text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("country = 'US'", [b'"US"', b"\\u00"]),
        ("country = 'US' AND status = 500", [b'"US"', b"\\u00"]),
        ("country = 'US' OR country = 'DE'", [b'"DE"', b'"US"', b"\\u00"]),
        ("country IN ('US', '5')", [b'"US"', b"5", b"\\u00"]),
        ("country = 'true'", [b"\\u00", b"true"]),
        ("country = '1.5'", [b'"country"', b"\\u00"]),
        ("country LIKE 'US%'", [b'"US', b"\\u00"]),
        ("country LIKE '%play, pause%'", [b" pause", b"\\u00"]),
        ("country LIKE '%00.0%'", [b'"country"', b"\\u00"]),
        ("`näme` = 'é'", [b"\\u", '"é"'.encode()]),
        ("country = 'https://example.org/x'", [b"\\u00", b"example.org"]),
        ("status >= 500", [b'"status"', b"\\u00"]),
        ("device.id IS NOT NULL", [b'"device"', b"\\u00"]),
        ("e['tags'][*] = 'beta'", [b'"beta"', b"\\u00"]),
        ("e['any']['c'] = 'US'", [b'"US"', b"\\u00"]),
        ("country = 'US' OR status = 500", [b'"US"', b'"status"', b"\\u00"]),
        ("country = 'US' OR country IS NULL", None),
        ("country != 'US'", None),
        ("NOT (country == 'US')", None),
        ("coalesce(country, 'US') = 'US'", None),
        ("true", None),
    ],
)
def test_needles_are_what_can_be_proved(text: str, expected: list[bytes] | None) -> None:
    found = needles(bound(text), time_from_event=False)
    assert (None if found is None else sorted(found.any_of)) == (None if expected is None else sorted(expected))


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ('{"country": 1e2}', "country = '100.0'"),
        ('{"country": 1e2}', "country LIKE '%00.0'"),
        ('{"country": 1e2}', "starts_with(country, '100')"),
        ('{"country": nan}', "country ==+ 'na'"),
        ('{"country": true}', "country ==+ 'ru'"),
        ('{"country": true}', "starts_with(country, 'tru')"),
        ('{"country": 5}', "country IN ('5', 'x')"),
        ('{"country": {"c" : "US"}}', """country = '{"c":"US"}'"""),
        ('{"country": {"c" : "US"}}', """country LIKE '{"c":"US%'"""),
        ('{"country": ["US", 7]}', """country ==+ 'US",7'"""),
        ('{"country": "U\\u0053"}', "country = 'US'"),
        ('{"c\\u006funtry": "x"}', "country IS NOT NULL"),
        ('{"a\\/b": "c\\/d"}', "`a/b` = 'c/d'"),
        ('{"n\\u00e4me": "\\u00E9"}', "`näme` = 'é'"),
        ('{"country": "a\\tb"}', "country = 'a\tb'"),
        ('{"tags": [1e2]}', "e['tags'][*] = '100.0'"),
        ('{"any": {"c": "US"}}', "`any`.c = 'US'"),
        ('{"country": ""}', "country = ''"),
    ],
)
def test_values_written_another_way_still_match(session: Session, event: str, text: str) -> None:
    predicate = bound(text)
    chunk = Chunk(0, event.encode() + b"\n", 0, 0)
    assert matches(session, predicate, chunk, None)[0] == [0]
    assert matches(session, predicate, chunk, needles(predicate, time_from_event=False))[0] == [0]


def test_no_needle_where_every_time_is_wanted_or_the_property_is_not_in_the_text() -> None:
    assert needles(bound("country = 'US'"), time_from_event=True) is None
    assert needles(bound("country = 'US'"), time_from_event=False, envelope=frozenset(["country"])) is None


def test_only_lines_with_a_hit_are_cut_out() -> None:
    data = b"one\ntwo\n\none two\nthree"
    found = Prefilter(Needles((b"two", b"ree"))).lines(data)
    assert found is not None
    assert [data[start:end] for start, end in zip(found.starts, found.ends, strict=True)] == [
        b"two\n",
        b"one two\n",
        b"three",
    ]
    assert found.events == 5


def test_a_needle_across_two_texts_is_no_hit() -> None:
    found = Prefilter(Needles((b"aab",))).rows(b"xaabaaab", np.array([0, 2, 5, 5, 8]))
    assert found is not None
    assert found.tolist() == [3]


def test_a_search_that_finds_too_much_rests_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "REST_BYTES", 3000)
    full, empty = b"hit\n" * 300, b"nil\n" * 300
    prefilter = Prefilter(Needles((b"hit",)))
    assert prefilter.lines(full) is None
    assert [prefilter.lines(empty) is None for _ in range(5)] == [True, True, True, False, False]


def test_what_is_left_out_is_counted(session: Session) -> None:
    chunk = Chunk(0, b'{"country": "US"}\n{"country": "DE"}\n{"country": "US"\n{"country": "FR"}\n', 0, 0)
    decoder = Decoder(session, "json", TimeRule(), [(("country",), VARCHAR)], prefilter=Prefilter(Needles((b'"US"',))))
    found = decoder.decode([chunk])
    assert (found.table.num_rows, len(found.malformed), found.skipped, found.seen) == (1, 1, 2, 4)
    assert found.malformed[0].offset == 36
