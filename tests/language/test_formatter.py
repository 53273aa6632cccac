"""Canonical text: what it looks like, and that it says the same as what was written."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_text import random_expression, random_query

from mql.formatter import format_expression, format_query
from mql.parser import parse


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (
            "select e['node'], count(*) n from requests window 10 where status>=500 && (a == 1) group by e['node'] "
            "limit 3",
            "SELECT e['node'], count(*) AS n\nFROM requests\nWHERE status >= 500 AND a == 1\nWINDOW TUMBLING 10\n"
            "GROUP BY e['node']\nLIMIT 3",
        ),
        ("true", "SELECT *\nWHERE TRUE"),
        ("select a as 'COUNT(a)' from `x y`", "SELECT a AS `COUNT(a)`\nFROM `x y`"),
        (
            "explain sql select a from b union all select c from d limit 2",
            "EXPLAIN SQL\nSELECT a\nFROM b\nUNION ALL\nSELECT c\nFROM d\nLIMIT 2",
        ),
        (
            "select * from s window |100| fill 0 emit final with early 1s since '-1h' until live",
            "SELECT *\nFROM s\nWINDOW 100 EVENTS\nFILL 0\nEMIT FINAL WITH EARLY 1s\nSINCE '-1h'\nUNTIL LIVE",
        ),
        (
            "select * from s anomaly on (order) among a, (group) by b",
            "SELECT *\nFROM s\nANOMALY ON (order) AMONG a, (group) BY b",
        ),
        (
            "select * from s anomaly on errors/starts using ratio(fdr => 1%) for 3 of 5 windows limit 9 per window",
            "SELECT *\nFROM s\nANOMALY ON errors / starts USING ratio(fdr => 0.01) FOR 3 OF 5 WINDOWS "
            "LIMIT 9 PER WINDOW",
        ),
    ],
)
def test_a_query_has_one_canonical_text(written: str, canonical: str) -> None:
    assert format_query(parse(written)) == canonical
    assert parse(canonical) == parse(written)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("((a)) + ((b * c))", "a + b * c"),
        ("(a + b) * c", "(a + b) * c"),
        ("a - (b - c)", "a - (b - c)"),
        ("not (a == 1)", "NOT a == 1"),
        ("(not a) == 1", "(NOT a) == 1"),
        ("a == 1 || b == 2", "a == 1 OR b == 2"),
        ("not (a || b = c)", "NOT (a || b = c)"),
        ("not a || b = c", "NOT a OR b = c"),
        ("(a or b) and c", "(a OR b) AND c"),
        ("(a and b) and (c and d)", "a AND b AND c AND d"),
        ("- -5 - -a", "-(-5) - -a"),
        ("x::bigint", "CAST(x AS BIGINT)"),
        ("a ==~ /\\/x/", "a ==~ /\\/x/"),
        ("90 minutes + 1500ms", "90m + 1500ms"),
        ("1e3 + 2.50 + 'it''s'", "1000e0 + 2.50 + 'it''s'"),
    ],
)
def test_brackets_stand_only_where_they_are_needed(written: str, canonical: str) -> None:
    assert format_expression(parse(f"select {written}").select[0].expression) == canonical


def assert_same_when_written_again(text: str) -> None:
    query = parse(text)
    canonical = format_query(query)
    assert parse(canonical) == query, canonical
    assert format_query(parse(canonical)) == canonical


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_canonical_text_says_the_same(seed: int) -> None:
    assert_same_when_written_again(random_query(random.Random(seed), depth=1))


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_canonical_expressions_say_the_same(seed: int) -> None:
    assert_same_when_written_again(f"select a from b where {random_expression(random.Random(seed), depth=3)}")
