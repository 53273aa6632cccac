"""`mql.run`: a query over events in memory, as notebooks and tests of users' queries run it."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

import mql
from mql.schema import VARCHAR, Field, Shape

EVENTS = [
    {"ts": 1, "k": "a", "v": 1},
    {"ts": 2, "k": "b", "v": 2},
    {"ts": 12, "k": "a", "v": 5},
]


def test_rows_are_dicts() -> None:
    rows = mql.run("select k, sum(v) as s from events group by k order by k", EVENTS)
    assert rows.columns == ("k", "s")
    assert list(rows) == [{"k": "a", "s": 6}, {"k": "b", "s": 2}]


def test_any_name_of_a_source_means_the_events() -> None:
    assert [row["v"] for row in mql.run("select v from whatever where v > $least", EVENTS, {"least": 1})] == [2, 5]
    assert [row["v"] for row in mql.run("select v where v = 1", EVENTS)] == [1]


def test_an_arrow_table_goes_in_and_comes_out() -> None:
    rows = mql.run("select k, count(*) as n from t group by k order by k", pa.Table.from_pylist(EVENTS))
    assert rows.to_arrow().to_pydict() == {"k": ["a", "b"], "n": [2, 1]}
    assert pa.table(rows).num_rows == len(rows) == 2


def test_the_time_of_events_can_be_named() -> None:
    rows = mql.run("select count(*) as n from events window 10", EVENTS, time="ts")
    assert [row["n"] for row in rows] == [2, 1]


def test_a_query_without_rows_still_has_columns() -> None:
    rows = mql.run("select k, v from events where v > 100", EVENTS)
    assert rows.columns == ("k", "v")
    assert list(rows) == []


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(mql.MqlError, match='no property "kk"'):
        mql.run("select kk from events", EVENTS)


def test_a_query_can_be_compiled_against_a_shape_alone() -> None:
    plan = mql.compile("select k from live where k = 'a'", Shape((Field("k", VARCHAR),)))
    assert plan.result.columns == (("k", VARCHAR),)


def test_the_front_door_opens_nothing_by_itself() -> None:
    """Importing mql costs no engine: what it needs is imported when it is called."""
    code = "import sys, mql; print(sorted({'duckdb', 'pyarrow', 'aiohttp', 'lark'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
