"""DuckDB, locked down: the one place where rows are computed on.

Statements come from the planner, tables from memory. Nothing can be opened, installed, attached or set.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

_LOCK: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "temp_directory": "",
    "preserve_insertion_order": "false",
}


class Kernel:
    """One locked DuckDB in memory; every thread works on a session (a cursor) of its own.

    `threads` is how many DuckDB may use for one statement: 1 for streaming, where tasks are the parallelism;
    more for batches over history.
    """

    def __init__(self, threads: int = 1, memory_limit: str = "4GB") -> None:
        config: dict[str, str | bool | int | float | list[str]] = {
            **_LOCK,
            "threads": str(threads),
            "memory_limit": memory_limit,
        }
        self._connection = duckdb.connect(":memory:", config=config)
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("SET python_enable_replacements = false")
        self._connection.execute("SET enable_progress_bar = true")
        self._connection.execute("SET enable_progress_bar_print = false")
        self._connection.execute("SET lock_configuration = true")
        self._check_lock()
        self._guard = threading.Lock()

    def session(self) -> Session:
        """A session for one thread."""
        with self._guard:
            return Session(self._connection.cursor())

    def close(self) -> None:
        self._connection.close()

    def _check_lock(self) -> None:
        names = (
            "enable_external_access",
            "autoload_known_extensions",
            "python_enable_replacements",
            "lock_configuration",
        )
        for name in names:
            row = self._connection.execute(f"SELECT current_setting('{name}')").fetchone()
            assert row is not None, name
            assert bool(row[0]) == (name == "lock_configuration"), f"the engine's lock is open: {name} = {row[0]}"


class Session:
    """Runs statements, one at a time, over Arrow tables given by name. Not for two threads at once."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor

    def run(self, sql: str, tables: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> pa.Table:
        """The statement's rows. A table may be a pa.Table, a RecordBatch, a RecordBatchReader or a dataset."""
        for name, table in tables.items():
            self._cursor.register(name, table)
        try:
            relation = self._cursor.sql(sql, params=params) if params else self._cursor.sql(sql)
            return relation.to_arrow_table()
        finally:
            for name in tables:
                self._cursor.unregister(name)

    def stream(self, sql: str, tables: Mapping[str, Any], rows: int = 65_536) -> pa.RecordBatchReader:
        """The statement's rows as they come; the tables stay registered until `release`."""
        for name, table in tables.items():
            self._cursor.register(name, table)
        return self._cursor.sql(sql).to_arrow_reader(rows)

    def interrupt(self) -> None:
        """Stops the statement that runs now; may be called from another thread."""
        self._cursor.interrupt()

    def progress(self) -> float:
        """Share of the running statement that is done, 0 to 1; below 0 where DuckDB can't tell."""
        return float(self._cursor.query_progress()) / 100

    def close(self) -> None:
        self._cursor.close()
