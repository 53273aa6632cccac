"""Rows of groups as the events of another query."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import ARRIVAL, EARLIER, MIN_US, OFFSET, SPLIT, TIME, Batch, Item
from mql.exec.kernel import Session
from mql.exec.operators.base import Base
from mql.planner.physical import AsEvents

PLACE = "__place"
HIDDEN = "__"


class AsEventsOperator(Base):
    """Gives rows a time and a place, and lets go of what told their window. None of them is ever late: they come when
    the watermark has passed their windows, and lie before it."""

    def __init__(self, spec: AsEvents, session: Session) -> None:
        super().__init__(session)
        self._spec = spec

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        rows = batch.table
        self.counts.seen += rows.num_rows
        self.counts.emitted += rows.num_rows
        times = self._times(rows)
        nowhere = np.zeros(rows.num_rows, np.int64)
        columns = {name: rows.column(name) for name in rows.column_names if not name.startswith(HIDDEN)}
        columns[TIME] = times
        columns[SPLIT] = pa.array((nowhere + self._spec.split).astype(np.int32))
        columns[OFFSET] = rows.column(PLACE)
        columns[ARRIVAL] = times
        columns[EARLIER] = pa.array(nowhere + MIN_US)
        yield Batch(pa.table(columns))

    def _times(self, rows: pa.Table) -> pa.ChunkedArray:
        match self._spec.time:
            case "window":
                return pc.subtract(rows.column("__we"), 1)
            case "end":
                return rows.column("__we")
            case "own":
                return rows.column(TIME)
            case "none":
                return pc.multiply(rows.column(PLACE), 0)
            case time:
                raise AssertionError(time)
