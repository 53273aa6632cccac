"""Queries of the Mantis dialect, from the tests and documents of Netflix' mantis-mql, mantis and mantis-ui
(Apache License 2.0), with the rows that the original gives: here they give the same, streamed and batched.

A case with `differs` is one where docs/coming-from-mantis.md tells what is different.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.random_queries import normal
from support.routes import batched, streamed

from mql.catalog import Catalog, SourceInfo, TimeRule
from mql.exec.items import Raw, Rows
from mql.exec.kernel import Kernel
from mql.learn import learn
from mql.parser import parse
from mql.planner.compile import compile_query

TESTS = Path(__file__).parent.parent
CASES = [json.loads(line) for line in (TESTS / "golden" / "mantis.jsonl").read_text().splitlines()]
WITH_ROWS = [case for case in CASES if "expect" in case and "differs" not in case]
KERNEL = Kernel()
Row = dict[str, Any]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_text_is_understood(case: dict[str, Any]) -> None:
    parse(case["query"])


@pytest.mark.parametrize("case", WITH_ROWS, ids=lambda case: case["id"])
def test_the_rows_are_the_originals(case: dict[str, Any]) -> None:
    info = SourceInfo("stream", replace(learn(case["input"]), open=True), time=TimeRule(), bounded=True)
    plan = compile_query(case["query"], Catalog({"stream": info}, default="stream", piped="stream"))
    types = {name: str(type) for name, type in plan.result.columns}
    want = normal([named(row) for row in case["expect"]])
    for rows in (batched(plan, rounds(case), KERNEL), streamed(plan, rounds(case), KERNEL, 2)):
        assert normal([named(shown(row, types)) for row in rows]) == want


def rounds(case: dict[str, Any]) -> list[list[Raw]]:
    """The events, a microsecond apart: Mantis' windows go by arrival, and these all arrived at once."""
    found: list[list[Raw]] = []
    for at, event in enumerate(case["input"]):
        table = pa.record_batch(
            {
                "_raw": pa.array([json.dumps(event)]),
                "_offset": pa.array([at], pa.int64()),
                "_time": pa.array([1_000_000 + at], pa.int64()),
            }
        )
        found.append([Rows(0, table, 0, at + 1)])
    return found


def shown(row: Row, types: dict[str, str]) -> Row:
    """A row as a reader of JSON gets it; without its window, which the original does not tell."""
    values = {name: value for name, value in row.items() if name not in ("window_start", "window_end")}
    read = {
        name: json.loads(value) if types[name] == "JSON" and value is not None else value
        for name, value in values.items()
    }
    return json.loads(json.dumps(read, default=str))  # type: ignore[no-any-return]


def named(row: Row) -> Row:
    """Names with functions in capitals, as the original writes them; what is missing or null is left out."""
    spelled = {_capitals(name): value for name, value in row.items() if value is not None}
    return dict(sorted(spelled.items()))


def _capitals(name: str) -> str:
    function, bracket, rest = name.partition("(")
    return f"{function.upper()}({rest}".replace("(*)", "((.*.))") if bracket else name
