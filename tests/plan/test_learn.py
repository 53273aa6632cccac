"""Shapes learned from events, and types by name."""

from __future__ import annotations

import pytest

from mql.errors import MqlError
from mql.learn import learn, parse_type
from mql.schema import BIGINT, BOOLEAN, DATE, DECIMAL, DOUBLE, JSON, TIMESTAMP, VARCHAR, ListOf, Scalar, StructOf


def test_a_property_has_the_type_of_its_values_a_share_and_an_example() -> None:
    shape = learn([{"a": 1}, {"a": 2, "b": "x" * 50}, {"a": None}, {"c": True}])
    assert [(field.name, field.type, field.presence) for field in shape.fields] == [
        ("a", BIGINT, 0.5),
        ("b", VARCHAR, 0.25),
        ("c", BOOLEAN, 0.25),
    ]
    assert shape.fields[0].example == "1"
    assert shape.fields[1].example == "x" * 39 + "…"
    assert (shape.version, shape.events) == (1, 4)


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([1, 2], BIGINT),
        ([1, 2.5], DOUBLE),
        ([1, 2**63], DECIMAL),
        ([2**63, 0.5], DOUBLE),
        ([10**40], DOUBLE),
        ([1, "a"], JSON),
        ([True, 1], JSON),
        ([None], JSON),
        ([{}], JSON),
        ([[]], ListOf(JSON)),
        ([[], [1]], ListOf(BIGINT)),
        ([[1], [0.5]], ListOf(DOUBLE)),
        ([[1, "a"]], ListOf(JSON)),
        ([[1], 1], JSON),
        ([{"b": 1}, {"c": None}], StructOf((("b", BIGINT), ("c", JSON)))),
        ([[{"b": 1}, {"b": 1.5}]], ListOf(StructOf((("b", DOUBLE),)))),
    ],
)
def test_mixed_values_have_the_narrowest_type_that_holds_them(values: list[object], type: object) -> None:
    assert learn([{"a": value} for value in values]).type_of(("a",)) == type
    assert learn([{"a": value} for value in reversed(values)]).type_of(("a",)) in (type, _turned(type))


def _turned(type: object) -> object:
    """A struct whose fields were seen in the other order."""
    return StructOf(tuple(reversed(type.fields))) if isinstance(type, StructOf) else type


def test_what_is_too_deep_or_too_wide_is_json() -> None:
    deep: object = 1
    for _ in range(12):
        deep = {"x": deep}
    shape = learn([{"deep": deep, "wide": {str(n): n for n in range(1001)}, "grows": {str(n): n}} for n in range(1001)])
    assert shape.type_of(("wide",)) == JSON
    assert shape.type_of(("grows",)) == JSON
    assert shape.type_of(("deep", *["x"] * 8)) == JSON
    assert isinstance(shape.type_of(("deep", *["x"] * 7)), StructOf)


def test_a_shape_widens_and_its_version_grows_only_then() -> None:
    first = learn([{"a": 1, "n": None}])
    same = learn([{"a": 7}], first)
    assert (same.version, same.events, same.field("a").presence) == (1, 2, 1.0)
    wider = learn([{"a": 0.5, "n": "x", "b": 1}], same)
    assert wider.version == 2
    assert [str(field.type) for field in wider.fields] == ["DOUBLE", "VARCHAR", "BIGINT"]


def test_what_is_no_object_is_passed_over() -> None:
    assert learn([1, None, [1], "x"]).fields == ()


@pytest.mark.parametrize(
    ("text", "type"),
    [
        ("BIGINT", BIGINT),
        ("int", BIGINT),
        ("string", VARCHAR),
        ("float", DOUBLE),
        ("bool", BOOLEAN),
        ("timestamp", TIMESTAMP),
        ("Timestamp With Time Zone", TIMESTAMP),
        ("date", DATE),
        ("double precision[]", ListOf(DOUBLE)),
        ("VARCHAR(20)[][]", ListOf(ListOf(VARCHAR))),
        ("decimal(10, 2)", Scalar("DECIMAL(10,2)")),
        ("decimal", DECIMAL),
        ('struct(a int, "b ""c" text[])', StructOf((("a", BIGINT), ('b "c', ListOf(VARCHAR))))),
    ],
)
def test_a_type_is_read_by_its_name(text: str, type: object) -> None:
    assert parse_type(text) == type
    assert parse_type(str(type)) == type


@pytest.mark.parametrize("text", ["", "bigin", "int[", "struct()", "decimal(50,2)", "int int", "x; drop", "[]" * 3])
def test_what_names_no_type_is_refused(text: str) -> None:
    with pytest.raises(MqlError, match="unknown type"):
        parse_type(text)


def test_nesting_of_types_is_bounded() -> None:
    with pytest.raises(MqlError):
        parse_type("struct(a " * 100 + "int" + ")" * 100)
