"""Numbers of splits that tell the sources of a query apart."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from mql.exec.items import SPLIT, Batch, Item
from mql.exec.kernel import Session
from mql.exec.operators.base import Base
from mql.planner.physical import Renumber


class RenumberOperator(Base):
    """Raises the number of each row's split."""

    def __init__(self, spec: Renumber, session: Session) -> None:
        super().__init__(session)
        self._first = spec.first

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        yield Batch(renumbered(batch.table, self._first), batch.port)


def renumbered(table: pa.Table, first: int) -> pa.Table:
    """The rows with their splits counted from `first` on."""
    if not first:
        return table
    splits = table.column(SPLIT).to_numpy() + np.int32(first)
    return table.set_column(table.column_names.index(SPLIT), SPLIT, pa.array(splits, pa.int32()))
