"""Mantis' anomalies of plain rows: values against a running estimate of their median."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import OFFSET, SPLIT, TIME, Batch, End, Item, State
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile
from mql.planner.physical import RunningMedian


class RunningMedianOperator(Base):
    """The first value is the estimate; each later one is compared, then moves it by a step towards itself."""

    def __init__(self, spec: RunningMedian, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._held = Pile(session, None)
        self._estimate: float | None = None

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        if self._spec.ordered:
            self._held.add(batch.table)
        else:
            yield from self._tell(batch.table)

    def in_state(self) -> int:
        return self._held.rows

    def on_end(self) -> Iterable[Item]:
        held = self._held.table()
        if held is not None:
            order = pc.sort_indices(held, [(TIME, "ascending"), (SPLIT, "ascending"), (OFFSET, "ascending")])
            yield from self._tell(held.take(order))
            self._held.clear()
        yield End()

    def snapshot(self) -> State:
        found = {"estimate": pa.table({"at": pa.array([self._estimate], pa.float64())})}
        held = self._held.table()
        return found if held is None else {**found, "held": held}

    def restore(self, state: State) -> None:
        if "held" in state:
            self._held.add(state["held"])
        if "estimate" in state:
            self._estimate = state["estimate"].column("at")[0].as_py()

    def _tell(self, rows: pa.Table) -> Iterable[Item]:
        if rows.num_rows:
            self.counts.emitted += rows.num_rows
            flags = [self._judge(value) for value in rows.column("__x").to_pylist()]
            yield Batch(rows.append_column("anomalous", pa.array(flags, pa.bool_())))

    def _judge(self, value: float | None) -> bool:
        """Whether the value is too large; missing ones are not, and change nothing."""
        if value is None or not np.isfinite(value):
            return False
        if self._estimate is None:
            self._estimate = value
        anomalous = value > self._spec.times * self._estimate
        if value > self._estimate:
            self._estimate += self._spec.step
        elif value < self._estimate:
            self._estimate -= self._spec.step
        return anomalous
