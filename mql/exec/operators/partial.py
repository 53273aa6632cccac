"""Pre-aggregate: what one batch adds to each pane and group."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow.compute as pc

from mql.exec.deadletters import LateRows
from mql.exec.items import Batch, Item
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Intake
from mql.planner.physical import Partial


class PartialOperator(Base):
    """Turns decoded batches into partial tables: one of panes and groups, and one per bag of values. No state."""

    def __init__(self, spec: Partial, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._intake = Intake(session, self.counts, spec.sampling, spec.predicate, spec.late, spec.lateness_us)

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        table = self._intake.take(batch.table)
        main = self.rows(self._spec.sql, table)
        repeats = self._spec.window.kind == "several"
        matched = self._intake.count(table) if repeats else pc.sum(main.column("n")).as_py() or 0
        self._intake.matched(table, matched)
        self.counts.emitted += matched
        if not main.num_rows:
            return
        for number, sql in enumerate(self._spec.bags):
            yield Batch(self.rows(sql, table), f"bag{number}")
        yield Batch(main)

    @property
    def late(self) -> LateRows:
        return self._intake.late
