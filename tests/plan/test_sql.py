"""What gets into a statement: quoting, names, constants, decoding; judged by the engine."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mql.exec.kernel import Kernel, Session
from mql.planner.expressions import AnyOf, Apply, Bound, Column, Constant, Element, columns_of
from mql.planner.sql import (
    column_name,
    constant_sql,
    decode_columns,
    decode_template,
    expression_sql,
    quote_identifier,
    quote_string,
    type_sql,
)
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DECIMAL,
    DOUBLE,
    INTERVAL,
    JSON,
    TIMESTAMP,
    VARCHAR,
    DataType,
    ListOf,
    Path,
    StructOf,
)

NASTY = ["'", '"', "\\", "\0", ";", "--", "/*", "*/", "$$", "$1", "?", "\n", "E'", "''", "é", "😀", "{0}", "%s", "\x1b"]
TEXTS = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=3)), max_size=6).map("".join)


@pytest.fixture(scope="module")
def session() -> Session:
    return Kernel().session()


@given(texts=st.lists(TEXTS, min_size=200, max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back_as_it_was_and_stays_one_value(session: Session, texts: list[str]) -> None:
    table = session.run("SELECT " + ", ".join(f"{quote_string(text)} AS c{at}" for at, text in enumerate(texts)), {})
    assert table.num_columns == len(texts)
    assert [column[0].as_py() for column in table.columns] == texts


@given(names=st.lists(TEXTS.filter(bool), min_size=40, max_size=40))
@settings(max_examples=25, deadline=None)
def test_any_name_stays_one_name(session: Session, names: list[str]) -> None:
    table = session.run("SELECT " + ", ".join(f"1 AS {quote_identifier(name)}" for name in names), {})
    assert [name.replace("�", "\0") for name in table.column_names] == [name.replace("�", "\0") for name in names]


@given(paths=st.lists(st.lists(TEXTS, min_size=1, max_size=3).map(tuple), min_size=2, max_size=20, unique=True))
@settings(max_examples=100, deadline=None)
def test_no_two_properties_share_a_column(paths: list[Path]) -> None:
    names = [column_name(path).encode("ascii", "xmlcharrefreplace").lower() for path in paths]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("value", "type", "shown"),
    [
        (2**63 - 1, BIGINT, 2**63 - 1),
        (-(2**63), BIGINT, -(2**63)),
        (1.5, DOUBLE, 1.5),
        (-0.0, DOUBLE, -0.0),
        (5e-324, DOUBLE, 5e-324),
        (1e308, DOUBLE, 1e308),
        (math.inf, DOUBLE, math.inf),
        (True, BOOLEAN, True),
        (None, BIGINT, None),
        ((Constant(1, BIGINT), Constant(None, BIGINT)), ListOf(BIGINT), [1, None]),
        ((), ListOf(VARCHAR), []),
    ],
)
def test_a_constant_has_its_value_and_its_type(session: Session, value: object, type: DataType, shown: object) -> None:
    sql = constant_sql(Constant(value, type))
    table = session.run(f"SELECT {sql} AS x, typeof({sql}) AS t", {})
    assert repr(table.column("x")[0].as_py()) == repr(shown)
    assert table.column("t")[0].as_py() == type_sql(type)


def test_times_are_made_from_integers(session: Session) -> None:
    parts = [Constant(1_500_000, TIMESTAMP), Constant(-1, DATE), Constant(90_000_000, INTERVAL)]
    sql = ", ".join(f"CAST({constant_sql(part)} AS VARCHAR) AS c{at}" for at, part in enumerate(parts))
    table = session.run(f"SELECT {sql}", {})
    assert [column[0].as_py() for column in table.columns] == ["1970-01-01 00:00:01.5", "1969-12-31", "00:01:30"]


# --- expressions that share parts ----------------------------------------------------------------------------

BIG = 2**63 - 1
COLUMNS = st.sampled_from([Column(("a",), BIGINT), Column(("b",), BIGINT), Constant(BIG, BIGINT), Constant(0, BIGINT)])


def numbers(parts: st.SearchStrategy[Bound]) -> st.SearchStrategy[Bound]:
    twice = st.builds(lambda op, one: Apply(op, (one, one), BIGINT), st.sampled_from(("+", "*", "//")), parts)
    plain = st.builds(
        lambda op, one, other: Apply(op, (one, other), BIGINT),
        st.sampled_from(("+", "-", "*", "//", "%")),
        parts,
        parts,
    )
    single = st.builds(
        lambda name, one: Apply(name, (one,), BIGINT), st.sampled_from(("abs", "negate", "bit_count")), parts
    )
    return st.one_of(twice, plain, single)


@given(part=st.recursive(COLUMNS, numbers, max_leaves=6), other=st.recursive(COLUMNS, numbers, max_leaves=4))
@settings(max_examples=60, deadline=None)
def test_expressions_with_common_parts_fail_on_nothing(session: Session, part: Bound, other: Bound) -> None:
    family = [
        part,
        Apply("*", (part, other), BIGINT),
        Apply("+", (part, part), BIGINT),
        Apply("chr", (part,), VARCHAR),
        Apply("round", (other, part), DOUBLE),
        Apply("make_timestamp", (part,), TIMESTAMP),
        Apply("make_timestamp_ms", (part,), TIMESTAMP),
    ]
    values = [0, 1, -1, BIG, -BIG - 1, 2**31, None]
    rows = pa.table({"/a": [x for x in values for _ in values], "/b": values * len(values)})
    items = ", ".join(f"count({expression_sql(bound)}) AS c{at}" for at, bound in enumerate(family))
    condition = expression_sql(Apply("or", tuple(Apply(">", (part, one), BOOLEAN) for one in family[:3]), BOOLEAN))
    assert session.run(f"SELECT {items} FROM rows WHERE {condition} OR true", {"rows": rows}).num_rows == 1


def test_an_element_of_a_list_inside_a_list_is_the_inner_one(session: Session) -> None:
    inner = AnyOf(Element(ListOf(BIGINT)), Apply("=", (Element(BIGINT), Constant(3, BIGINT)), BOOLEAN), BOOLEAN)
    bound = AnyOf(Column(("a",), ListOf(ListOf(BIGINT))), inner, BOOLEAN)
    rows = pa.table({"/a": [[[1], [2, 3]], [[1]], [None], None]})
    got = session.run(f"SELECT {expression_sql(bound)} AS x FROM rows", {"rows": rows})
    assert got.column("x").to_pylist() == [True, False, False, False]
    assert columns_of(bound) == {("a",)}


# --- decoding ------------------------------------------------------------------------------------------------


def decoded(session: Session, paths: list[tuple[Path, DataType]], events: list[str]) -> list[list[object]]:
    items = ", ".join(f"{sql} AS {quote_identifier(name)}" for sql, name in decode_columns(paths))
    transform = f"TRY(json_transform(_raw, {quote_string(decode_template(paths))}))"
    sql = f"SELECT {items} FROM (SELECT _raw, {transform} AS j FROM raw)"
    table = session.run(sql, {"raw": pa.table({"_raw": pa.array(events, pa.string())})})
    assert table.column_names == [column_name(path) for path, _ in paths]
    return [column.to_pylist() for column in table.columns]


EVENT = {
    "id": 7,
    "ID": 8,
    "": 9,
    "device": {"id": "x", "Id": "y"},
    "a/b~": {"\"c'": 1},
    "n": 12345678901234567890,
    "t": "2026-01-01T01:00:00+01:00",
    "tags": ["a", None],
    "mixed": {"deep": [{"x": 1}], "none": None},
    "list": [{"t": "2026-01-01", "x": 1}, None],
}


@pytest.mark.parametrize(
    ("path", "type", "value"),
    [
        (("id",), BIGINT, 7),
        (("ID",), BIGINT, 8),
        (("",), BIGINT, 9),
        (("device", "id"), VARCHAR, "x"),
        (("device", "Id"), VARCHAR, "y"),
        (("a/b~", "\"c'"), BIGINT, 1),
        (("tags",), ListOf(VARCHAR), ["a", None]),
        (("mixed",), JSON, '{"deep":[{"x":1}],"none":null}'),
        (("mixed", "deep"), JSON, '[{"x":1}]'),
        (("mixed", "none"), JSON, None),
        (("missing",), JSON, None),
        (("missing", "too"), VARCHAR, None),
        (("device",), StructOf((("id", VARCHAR),)), {"id": "x"}),
        ((), JSON, json.dumps(EVENT)),
    ],
)
def test_a_property_is_decoded_alone_and_beside_others(
    session: Session, path: Path, type: DataType, value: object
) -> None:
    event = json.dumps(EVENT)
    others: list[tuple[Path, DataType]] = [(("id",), BIGINT), (("ID",), BIGINT), (("mixed",), JSON)]
    assert decoded(session, [(path, type)], [event]) == [[value]]
    many = decoded(session, [(path, type), *(one for one in others if one[0] != path)], [event])
    assert many[0] == [value]


def test_times_are_utc_and_what_is_none_is_null(session: Session) -> None:
    paths: list[tuple[Path, DataType]] = [
        (("t",), TIMESTAMP),
        (("n",), DECIMAL),
        (("list",), ListOf(StructOf((("t", DATE), ("x", BIGINT))))),
    ]
    events = [json.dumps(EVENT), '{"t": 5, "n": "x", "list": 3}', "{}", "nonsense", "[]", "5", '"x"', "", "null"]
    times, numbers, lists = decoded(session, paths, events)
    assert str(times[0]) == "2026-01-01 00:00:00"
    assert str(numbers[0]) == "12345678901234567890.0000000000"
    assert str(lists[0]) == "[{'t': datetime.date(2026, 1, 1), 'x': 1}, None]"
    assert times[1:] == numbers[1:] == lists[1:] == [None] * 8


@given(
    names=st.lists(TEXTS, min_size=1, max_size=8, unique=True),
    inner=st.lists(TEXTS, min_size=1, max_size=4, unique=True),
)
@settings(max_examples=60, deadline=None)
def test_any_names_can_be_decoded(session: Session, names: list[str], inner: list[str]) -> None:
    event = {name: {key: at * 10 + to for to, key in enumerate(inner)} for at, name in enumerate(names)}
    paths: list[tuple[Path, DataType]] = [((name, key), BIGINT) for name in names for key in inner]
    found = decoded(session, paths, [json.dumps(event)])
    assert found == [[event[path[0]][path[1]]] for path, _ in paths]
