"""Queries that parse and yet can't be: each with what its author is told. MQL_ACCEPT=1 rewrites the messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mql.catalog import Catalog, SourceInfo, TableInfo, TimeRule
from mql.errors import MqlError
from mql.planner.compile import compile_query
from mql.schema import BIGINT, BOOLEAN, DOUBLE, JSON, TIMESTAMP, VARCHAR, Field, ListOf, Shape, StructOf

GOLDEN = Path(__file__).parent.parent / "golden" / "wrong_queries.txt"
LINE = "-" * 100
SHAPE = Shape(
    (
        Field("ts", BIGINT),
        Field("service", VARCHAR),
        Field("country", VARCHAR),
        Field("status", BIGINT),
        Field("latency_ms", DOUBLE),
        Field("ok", BOOLEAN),
        Field("at", TIMESTAMP),
        Field("device", StructOf((("id", VARCHAR), ("type", VARCHAR)))),
        Field("tags", ListOf(VARCHAR)),
        Field("extra", JSON),
    )
)
REQUESTS = SourceInfo("requests", SHAPE, time=TimeRule(("ts",), "ms"))
CATALOG = Catalog(
    {
        "requests": REQUESTS,
        "kept": SourceInfo("kept", SHAPE, time=TimeRule(("ts",), "ms"), history=True),
        "playback": SourceInfo("playback", SHAPE),
    },
    tables={
        "users": TableInfo("users", Shape((Field("id", VARCHAR), Field("tier", BIGINT))), key=("id",)),
        "gone": TableInfo("gone", Shape(), trouble="gone.csv can not be read: No such file or directory"),
    },
)
NOW_US = 1_790_000_000_000_000
PARAMS = {"n": 5, "name": "x"}


def cases() -> list[str]:
    """The texts, in the order of the golden file."""
    _, *parts = GOLDEN.read_text().split(LINE + "\n")
    return [part.split("\n=> ")[0].strip("\n") for part in parts]


def told(text: str) -> str:
    try:
        compile_query(text, CATALOG, PARAMS, now_us=NOW_US)
    except MqlError as error:
        return str(error)
    return "nothing is wrong"


def test_every_wrong_query_is_answered_as_written() -> None:
    texts = cases()
    assert len(texts) >= 50
    now = "".join(f"{LINE}\n{text}\n=> {told(text)}\n" for text in texts)
    head = GOLDEN.read_text().split(LINE)[0]
    if "MQL_ACCEPT" in os.environ:
        GOLDEN.write_text(head + now)
    assert head + now == GOLDEN.read_text()


@pytest.mark.parametrize("text", cases())
def test_a_wrong_query_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(MqlError) as refused:
        compile_query(text, CATALOG, PARAMS, now_us=NOW_US)
    error = refused.value
    assert error.text == text
    assert error.span is not None
    assert error.span.start <= len(text)
