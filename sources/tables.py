"""Tables that streams are joined with: read whole, kept in memory, and read again from time to time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from mql.catalog import TableInfo
from mql.exec.clock import Clock, SystemClock
from mql.planner.sql import column_name
from mql.schema import Field, Shape
from sources.columns import conform, shape_of

log = logging.getLogger("sources")

ROWS_MAX = 5_000_000
BYTES_MAX = 1 << 30
NUMBER = "__n"
JOIN_S = 2.0


class Unread(Exception):
    """The table can not be read now; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was read: columns of any Arrow types, and what they are where Arrow can not say it."""

    table: pa.Table
    shape: Shape | None = None


class Reading(Protocol):
    """Where a table's rows are from."""

    kind: str

    def changed(self) -> bool:
        """Whether reading again may give anything new; True where nobody can tell."""
        ...

    def read(self) -> Found:
        """All rows. Unread says why not."""
        ...


@dataclass(frozen=True, slots=True)
class TableSettings:
    """What may be said of any table. `shape`: the columns to keep, in these types; else as they are found.

    `key`: columns whose values tell rows apart; of rows with equal ones the last counts. `refresh_us`: how often it is
    read again; 0 for never.
    """

    key: tuple[str, ...] = ()
    refresh_us: int = 0
    shape: Shape | None = None
    rows_max: int = ROWS_MAX
    bytes_max: int = BYTES_MAX


class DeclaredTable:
    """A table's newest rows. What can not be read again stays as it was, and `trouble` says why.

    Its columns are those of the first reading: later ones are brought to them, so that running queries stay right.
    """

    def __init__(self, name: str, reading: Reading, settings: TableSettings, clock: Clock | None = None) -> None:
        self.name = name
        self.settings = settings
        self.trouble: str | None = None
        self.read_us: int | None = None
        self.version = 0
        self._reading = reading
        self._clock = clock or SystemClock()
        self._shape = settings.shape
        self._rows: pa.Table | None = None
        self._one_at_a_time = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.refresh()
        if settings.refresh_us:
            self._thread = threading.Thread(target=self._keep_fresh, name=f"mql-table-{name}", daemon=True)
            self._thread.start()

    @property
    def info(self) -> TableInfo:
        never = (self.trouble or "nobody knows why") if self._rows is None else None
        return TableInfo(self.name, self._shape or Shape(), self._reading.kind, self.settings.key, never)

    @property
    def rows(self) -> pa.Table:
        assert self._rows is not None, "a table that was never read is refused when the query is bound"
        return self._rows

    @property
    def count(self) -> int:
        return 0 if self._rows is None else self._rows.num_rows

    def refresh(self) -> bool:
        """Reads it again; whether that went well."""
        with self._one_at_a_time:
            try:
                self._take(self._reading.read())
            except Unread as error:
                self.trouble = str(error)
                log.warning("table %s: %s", self.name, error)
                return False
            self.trouble = None
            return True

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Other rows from now on, for a table whose rows are at hand; whether that went well."""
        from sources.table_readings import WrittenRows

        self._reading = WrittenRows(rows)
        return self.refresh()

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _keep_fresh(self) -> None:
        while not self._closed.wait(self.settings.refresh_us / 1e6):
            if self.trouble is not None or self._reading.changed():
                self.refresh()

    def _take(self, read: Found) -> None:
        found, settings = read.table, self.settings
        if found.num_rows > settings.rows_max or found.nbytes > settings.bytes_max:
            raise Unread(
                f"it has {found.num_rows:,} rows of {found.nbytes / 1e6:,.0f} MB; "
                f"at most {settings.rows_max:,} rows of {settings.bytes_max / 1e6:,.0f} MB are kept"
            )
        shape = self._shape or read.shape or shape_of(found.schema)
        missing = [name for name in settings.key if shape.field(name) is None]
        if missing:
            raise Unread(f'it has no column "{missing[0]}", which is to be its key')
        rows = in_shape(found, shape.fields)
        self._shape = replace(shape, version=1)
        self._rows = numbered(single(rows, settings.key))
        self.read_us = self._clock.now_us()
        self.version += 1


def memory_table(name: str, rows: Iterable[Mapping[str, Any]] | pa.Table) -> DeclaredTable:
    """A table of rows that are at hand."""
    from sources.table_readings import WrittenRows

    return DeclaredTable(name, WrittenRows(rows if isinstance(rows, pa.Table) else list(rows)), TableSettings())


def in_shape(found: pa.Table, fields: Sequence[Field]) -> pa.Table:
    """The table with these columns, named as decoded events name them."""
    names = [column_name((field.name,)) for field in fields]
    batches = [conform(batch, fields) for batch in found.combine_chunks().to_batches()]
    empty = conform(pa.RecordBatch.from_pylist([], schema=found.schema), fields)
    return pa.Table.from_batches(batches or [empty]).rename_columns(names).combine_chunks()


def single(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Of rows with the same key the last."""
    if not key or not rows.num_rows:
        return rows
    names = [column_name((name,)) for name in key]
    placed = rows.select(names).append_column("at", pa.array(np.arange(rows.num_rows)))
    last = placed.group_by(names).aggregate([("at", "max")]).column("at_max")
    return rows if len(last) == rows.num_rows else rows.take(last.combine_chunks().sort())


def numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column(NUMBER, pa.array(np.arange(rows.num_rows, dtype=np.int64)))
