"""Enrichment: rows with what a table says of them, as it is when they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa

from mql.exec.items import Batch, Item
from mql.exec.kernel import Session
from mql.exec.operators.base import Base
from mql.planner.physical import Lookup

Tables = Callable[[str], pa.Table]
"""A declared table's rows as they are now, by its name."""


class LookupOperator(Base):
    """Joins each batch with the table. The table is no state of the query: it is its owner's, who refreshes it."""

    def __init__(self, spec: Lookup, session: Session, tables: Tables) -> None:
        super().__init__(session)
        self._spec = spec
        self._tables = tables

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        tables = {"batch": batch.table, self._spec.name: self._tables(self._spec.table)}
        rows = self._session.run(self._spec.sql, tables)
        self.counts.emitted += rows.num_rows
        if not self._spec.repeats:
            self.counts.filtered += batch.table.num_rows - rows.num_rows
        if rows.num_rows:
            yield Batch(rows, batch.port)
