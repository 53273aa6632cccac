"""Result rows into a table of a DuckDB file: rows with a key in place of the earlier ones, others appended; each once.

The file is open only while a portion is written, so that others can read it in between. The place is a row of a table
beside, written in the same transaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sources.sinks.contract import Away, Portion, Refused
from sources.sinks.tables import PLACES, key_of, last_words, quoted, refused_among

ROWS_MAX = 50_000
REFUSALS = (duckdb.DataError, duckdb.IntegrityError)
"""A value that does not fit its column, a constraint."""


@dataclass(frozen=True, slots=True)
class DuckTarget:
    """`key`: the columns that rows are told apart by; `_key` where rows have that. The table is made if need be."""

    table: str
    key: tuple[str, ...] = ()


class DuckSink:
    """`id`: what its place is called."""

    rows_max = ROWS_MAX
    whole_frames = False

    def __init__(self, path: Path, target: DuckTarget, id: str) -> None:
        self.path = path
        self.target = target
        self.id = id
        self.rows = 0

    def open(self) -> int:
        with self._connected() as connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {PLACES} (sink VARCHAR PRIMARY KEY, place BIGINT)")
            return self._place(connection)

    def write(self, portion: Portion) -> None:
        with self._connected() as connection:
            connection.execute("BEGIN")
            if self._place(connection) != portion.first:
                raise Away(f"{self.path.name}: the place has moved")
            try:
                self._put(connection, portion.rows)
            except REFUSALS as error:
                connection.execute("ROLLBACK")
                found = refused_among(portion.rows, lambda rows: self._attempt(connection, rows))
                raise Refused(first_line(error), found) from None
            connection.execute(f"INSERT OR REPLACE INTO {PLACES} VALUES (?, ?)", [self.id, portion.end])
            connection.execute("COMMIT")
        self.rows += portion.rows.num_rows

    def missed(self, why: str) -> None:
        """What is gone is told by who drives the sink."""

    def idle(self) -> None:
        """All that it took is written."""

    def told(self) -> Mapping[str, Any]:
        return {"path": self.path.name, "table": self.target.table}

    def close(self) -> None:
        """It is closed after each portion."""

    def _attempt(self, connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> str | None:
        """Why these rows are refused, where they are. Nothing of them stays."""
        connection.execute("BEGIN")
        try:
            self._put(connection, rows)
            return None
        except REFUSALS as error:
            return first_line(error)
        finally:
            connection.execute("ROLLBACK")

    def _put(self, connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        table = quoted(self.target.table)
        key = key_of(rows, self.target.key)
        split = last_words(rows, key)
        connection.register("put", split.put)
        unique = f", PRIMARY KEY ({', '.join(map(quoted, key))})" if key else ""
        types = connection.execute("DESCRIBE put").fetchall()
        columns = ", ".join(f"{quoted(name)} {type}" for name, type, *_ in types)
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}{unique})")
        for name, type, *_ in types:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {quoted(name)} {type}")
        if split.drop.num_rows:
            connection.register("gone", split.drop)
            names = ", ".join(map(quoted, key))
            connection.execute(f"DELETE FROM {table} WHERE ({names}) IN (SELECT ({names}) FROM gone)")
        replacing = "OR REPLACE " if key else ""
        connection.execute(f"INSERT {replacing}INTO {table} BY NAME SELECT * FROM put")

    def _place(self, connection: duckdb.DuckDBPyConnection) -> int:
        found = connection.execute(f"SELECT place FROM {PLACES} WHERE sink = ?", [self.id]).fetchall()
        return int(found[0][0]) if found else 0

    @contextlib.contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The file, open; what is not committed is gone when it is closed."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            config: dict[str, str | bool | int | float | list[str]] = {
                "threads": "1",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
            connection = duckdb.connect(str(self.path), config=config)
            try:
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute("SET python_enable_replacements = false")
                yield connection
            finally:
                connection.close()
        except REFUSALS as error:
            raise Refused(first_line(error)) from None
        except (duckdb.Error, OSError) as error:
            raise Away(f"{self.path.name}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    said = str(error).splitlines()
    return said[0][:300] if said else type(error).__name__
