"""MQL: questions to event streams, live and over history.

    rows = mql.run("select country, count(*) as n from events group by country", [{"country": "DE"}])
    for row in rows: ...

What stands below is the front door; it opens the engine only when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mql.errors import MqlError

if TYPE_CHECKING:
    import pyarrow as pa

    from mql.planner.physical import Plan
    from mql.schema import Shape

__all__ = ["MqlError", "RunResult", "compile", "run"]


class RunResult:
    """The rows of a query, as an iterator of dicts. Reading rows goes on where the last reading stopped."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._rows: Iterator[dict[str, Any]] = (row for batch in table.to_batches() for row in batch.to_pylist())

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the result's columns, in the order of the select list."""
        return tuple(self._table.column_names)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._rows

    def __next__(self) -> dict[str, Any]:
        return next(self._rows)

    def __len__(self) -> int:
        """How many rows there are in all."""
        return int(self._table.num_rows)

    def to_arrow(self) -> pa.Table:
        """All rows as an Arrow table, whatever has been iterated over before."""
        return self._table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """pandas, polars, DuckDB and pyarrow take the result as it is."""
        return self._table.__arrow_c_stream__(requested_schema)


def run(
    text: str,
    events: Iterable[Mapping[str, Any]] | pa.Table,
    params: Mapping[str, Any] | None = None,
    *,
    time: str | None = None,
    tables: Mapping[str, Iterable[Mapping[str, Any]] | pa.Table] | None = None,
) -> RunResult:
    """The rows of a query over events in memory, in this process.

    `events`: dicts, or an Arrow table; whatever name the query gives its source means them. `time`: the property
    that holds the event's time, found by its name where left out. `tables`: what events may be joined with, by name.
    MqlError where the query is wrong.
    """
    import pyarrow as pa

    from mql.catalog import TimeRule
    from mql.exec.engine import Engine, Options, tables_of
    from sources.memory import MemorySource
    from sources.tables import memory_table

    rule = None if time is None else TimeRule(tuple(time.split(".")))
    known = [memory_table(name, rows) for name, rows in (tables or {}).items()]
    engine = Engine([MemorySource("events", events, time=rule)], workers=1, piped="events", tables=known)
    try:
        running = engine.start(text, params, Options(route="batch"))
        told = list(tables_of(running))
        columns = [name for name, _ in running.columns]
    finally:
        engine.close()
    if not told:
        return RunResult(pa.table({name: pa.nulls(0) for name in columns}))
    return RunResult(pa.concat_tables(told).select(columns))


def compile(text: str, shape: Shape, params: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a query over a live source of this shape. MqlError where the query is wrong."""
    from mql.catalog import Catalog, SourceInfo
    from mql.planner.compile import compile_query

    return compile_query(text, Catalog({"events": SourceInfo("events", shape)}, piped="events"), params)
