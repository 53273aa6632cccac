"""DuckDB, locked down: the one place where rows are computed on.

Statements come from the planner, tables from memory. Nothing can be opened, installed, attached or set.
"""

from __future__ import annotations

import secrets
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa

# A prepared statement has no other way out; the copy that the warning is about costs less than planning again.
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")

_LOCK: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "temp_directory": "",
    "preserve_insertion_order": "false",
}


KernelError = duckdb.Error
"""What a statement raises."""


class Kernel:
    """One locked DuckDB in memory; every thread works on a session (a cursor) of its own.

    `threads` is how many DuckDB may use for one statement: 1 for streaming, where tasks are the parallelism;
    more for batches over history. `files`: what it may open itself, nothing beside. `secret`: gives the key of masks,
    when it is needed first; one of its own where none is given.
    """

    def __init__(
        self,
        threads: int = 1,
        memory_limit: str = "4GB",
        files: Sequence[str] = (),
        secret: Callable[[], str] | None = None,
    ) -> None:
        self._secret = cache(secret or (lambda: secrets.token_hex(32)))
        config: dict[str, str | bool | int | float | list[str]] = {
            **_LOCK,
            "threads": str(threads),
            "memory_limit": memory_limit,
        }
        self._connection = duckdb.connect(":memory:", config=config)
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")
        self._connection.execute("SET GLOBAL python_enable_replacements = false")
        self._connection.execute("SET enable_progress_bar = true")
        self._connection.execute("SET enable_progress_bar_print = false")
        if files:
            self._connection.execute("SET allowed_paths = $files", {"files": list(files)})
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        self._check_lock()
        self._guard = threading.Lock()

    def session(self) -> Session:
        """A session for one thread."""
        with self._guard:
            return Session(self._connection.cursor(), self._secret)

    def close(self) -> None:
        self._connection.close()

    def _check_lock(self) -> None:
        names = (
            "enable_external_access",
            "autoload_known_extensions",
            "python_enable_replacements",
            "lock_configuration",
        )
        cursor = self._connection.cursor()
        for name in names:
            row = cursor.execute(f"SELECT current_setting('{name}')").fetchone()
            assert row is not None, name
            assert bool(row[0]) == (name == "lock_configuration"), f"the engine's lock is open: {name} = {row[0]}"


class Session:
    """Runs statements, one at a time, over Arrow tables given by name. Not for two threads at once.

    A statement that comes again and again over columns of the same types is prepared: planning costs more than
    computing on small batches (1.9 ms against 0.5).
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, secret: Callable[[], str]) -> None:
        self.secret = secret
        self._cursor = cursor
        self._running = cursor
        self._prepared: OrderedDict[_Key, _Prepared | int] = OrderedDict()

    def run(self, sql: str, tables: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> pa.Table:
        """The statement's rows. A table may be a pa.Table, a RecordBatch, a RecordBatchReader or a dataset."""
        prepared = None if params else self._prepared_for(sql, tables)
        if prepared is None:
            return self._run_once(sql, tables, params)
        self._running = prepared.cursor
        try:
            return prepared.run(tables)
        finally:
            self._running = self._cursor

    def _run_once(self, sql: str, tables: Mapping[str, Any], params: Mapping[str, Any] | None) -> pa.Table:
        for name, table in tables.items():
            self._cursor.register(name, table)
        try:
            relation = self._cursor.sql(sql, params=params) if params else self._cursor.sql(sql)
            return relation.to_arrow_table()
        finally:
            for name in tables:
                self._cursor.unregister(name)

    def _prepared_for(self, sql: str, tables: Mapping[str, Any]) -> _Prepared | None:
        """The statement, prepared, if it has come often enough with these columns."""
        if not tables or not all(isinstance(table, pa.Table | pa.RecordBatch) for table in tables.values()):
            return None
        key = (sql, tuple((name, table.schema) for name, table in tables.items()))
        found = self._prepared.pop(key, 0)
        if isinstance(found, int):
            found = found + 1 if found < PREPARED_AFTER else _Prepared(self._cursor.cursor(), sql, tables)
        self._prepared[key] = found
        if len(self._prepared) > PREPARED_MAX:
            self._prepared.popitem(last=False)
        return None if isinstance(found, int) else found

    def define(self, view: str, sql: str) -> None:
        """Gives a statement's rows a name, for this session."""
        self._cursor.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {sql}")

    def stream(self, sql: str, tables: Mapping[str, Any], rows: int = 65_536) -> pa.RecordBatchReader:
        """The statement's rows as they come; the tables stay registered until `release`."""
        for name, table in tables.items():
            self._cursor.register(name, table)
        return self._cursor.sql(sql).to_arrow_reader(rows)

    def interrupt(self) -> None:
        """Stops the statement that runs now; may be called from another thread, which may find the session closed."""
        with suppress(duckdb.ConnectionException):
            self._running.interrupt()

    def progress(self) -> float:
        """Share of the running statement that is done, 0 to 1; below 0 where DuckDB can't tell."""
        return float(self._running.query_progress()) / 100

    def close(self) -> None:
        self._prepared.clear()
        self._cursor.close()


PREPARED_AFTER = 4
PREPARED_MAX = 64
_Key = tuple[str, tuple[tuple[str, pa.Schema], ...]]


class _Slot:
    """What a prepared statement reads: the table that is in it when the statement runs."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        table = self.table
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        return table.__arrow_c_stream__(requested_schema)


class _Prepared:
    """A statement that was planned once, on a cursor of its own: names of tables belong to a cursor."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, sql: str, tables: Mapping[str, Any]) -> None:
        self.cursor = cursor
        self._slots = {name: _Slot(table) for name, table in tables.items()}
        for name, slot in self._slots.items():
            cursor.register(name, slot)
        cursor.execute(f"PREPARE again AS {sql}")

    def run(self, tables: Mapping[str, Any]) -> pa.Table:
        for name, table in tables.items():
            self._slots[name].table = table
        try:
            return self.cursor.execute("EXECUTE again").to_arrow_table()
        finally:
            for slot in self._slots.values():
                slot.table = slot.table.schema.empty_table()
