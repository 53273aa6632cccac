"""A condition over result rows, such as `errors > 10 AND service = 'api'`: what a job's sinks choose rows by.

It is the text of an expression, read, bound and computed as a query's would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.catalog import Catalog, SourceInfo
from mql.errors import MqlError
from mql.exec.items import ARRIVAL, EARLIER, MIN_US, OFFSET, SPLIT, TIME, Batch
from mql.exec.kernel import Session
from mql.exec.operators import build
from mql.learn import parse_type
from mql.parser import parse
from mql.planner.compile import compile_query
from mql.planner.physical import SelectRows
from mql.planner.sql import column_name
from mql.schema import Field, Shape
from mql.syntax import Query

ROWS = "rows"
HOLDS = "holds"
TEXT_MAX = 4_096


def check_condition(text: str) -> None:
    """MqlError where the text is no expression, whatever columns there are."""
    if len(text) > TEXT_MAX:
        raise MqlError(f"a condition has at most {TEXT_MAX} characters")
    tree = parse(asked(text))
    if len(tree.select) != 1 or replace(tree, select=(), sources=()) != Query(()):
        raise MqlError("a condition is one expression", hint="Join several by AND or OR.")


def asked(text: str) -> str:
    """The condition as a query; the line ends keep a comment in it from swallowing what follows."""
    return f"SELECT (\n{text}\n) AS {HOLDS} FROM {ROWS}"


class Condition:
    """A condition over rows with these columns (name, type). MqlError where it does not fit them."""

    def __init__(self, text: str, columns: Sequence[tuple[str, str]], session: Session) -> None:
        check_condition(text)
        shape = Shape(tuple(Field(name, parse_type(type)) for name, type in columns))
        catalog = Catalog({ROWS: SourceInfo(ROWS, shape, encoding="columns")})
        plan = compile_query(asked(text), catalog)
        [name_and_type] = plan.result.columns
        if str(name_and_type[1]) not in ("BOOLEAN", "NULL"):
            raise MqlError(f"a condition is true or false, not {name_and_type[1]}", hint="Compare it with something.")
        specs = [spec for stage in plan.stages for spec in stage.operators]
        if len(specs) != 1 or not isinstance(specs[0], SelectRows):
            raise MqlError("a condition looks at one row", hint="What is counted or summed belongs into the query.")
        self._operator = build(specs[0], session)
        self._reads = [(path[0], column_name(path)) for path, _ in plan.scan.columns]

    def holds(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """For each row whether the condition is true; null is not true."""
        n = rows.num_rows
        numbers = {TIME: 0, SPLIT: 0, ARRIVAL: 0, EARLIER: MIN_US}
        hidden = {name: pa.array(np.full(n, value, np.int64)) for name, value in numbers.items()}
        hidden[OFFSET] = pa.array(np.arange(n, dtype=np.int64))
        read = {inner: rows.column(name) if name in rows.column_names else pa.nulls(n) for name, inner in self._reads}
        found = np.zeros(n, np.bool_)
        for item in self._operator.on_batch(Batch(pa.table({**read, **hidden}))):
            assert isinstance(item, Batch)
            truths = item.table.column(HOLDS).combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
            found[item.table.column(OFFSET).to_numpy()] = truths
        return found
