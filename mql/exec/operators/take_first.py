"""LIMIT in total."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import OFFSET, SPLIT, TIME, Batch, Done, End, Item, State
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, number_state
from mql.planner.physical import TakeFirst


class TakeFirstOperator(Base):
    """So many rows: as they come, or, of an input with an end, the first ones in event order."""

    def __init__(self, spec: TakeFirst, session: Session) -> None:
        super().__init__(session)
        self._count = spec.count
        self._ordered = spec.ordered
        self._taken = 0
        self._best: pa.Table | None = None

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        if self._ordered:
            self._best = self._first(batch.table)
            return
        left = self._count - self._taken
        if left > 0:
            rows = batch.table.slice(0, left)
            self._taken += rows.num_rows
            self.counts.emitted += rows.num_rows
            yield Batch(rows)
        if self._taken >= self._count:
            yield Done()

    def in_state(self) -> int:
        return 0 if self._best is None else self._best.num_rows

    def on_end(self) -> Iterable[Item]:
        if self._best is not None:
            self.counts.emitted += self._best.num_rows
            yield Batch(self._best)
            self._best = None
        yield End()

    def snapshot(self) -> State:
        state = {"taken": number_state(n=self._taken)}
        return state if self._best is None else {**state, "best": self._best}

    def restore(self, state: State) -> None:
        if "taken" in state:
            self._taken += state["taken"].column("n")[0].as_py()
        if "best" in state:
            self._best = self._first(state["best"])

    def _first(self, more: pa.Table) -> pa.Table:
        rows = more if self._best is None else pa.concat_tables([self._best, more])
        place = [name for name in (TIME, SPLIT, OFFSET, "__we") if name in rows.column_names]
        order = pc.sort_indices(rows, [(name, "ascending") for name in place])
        return rows.take(order[: self._count])
