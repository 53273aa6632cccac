"""Sample, filter and project: one statement a batch."""

from __future__ import annotations

from collections.abc import Iterable

from mql.exec.deadletters import LateRows
from mql.exec.items import Batch, Item
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Intake
from mql.planner.physical import SelectRows


class SelectRowsOperator(Base):
    """Gives the rows that are sampled, match and are in time, projected."""

    def __init__(self, spec: SelectRows, session: Session) -> None:
        super().__init__(session)
        self._sql = spec.sql
        self._repeats = spec.repeats
        self._intake = Intake(session, self.counts, spec.sampling, spec.predicate, spec.late, spec.lateness_us)

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        table = self._intake.take(batch.table)
        found = self.rows(self._sql, table)
        self._intake.matched(table, self._intake.count(table) if self._repeats else found.num_rows)
        self.counts.emitted += found.num_rows
        if found.num_rows:
            yield Batch(found)

    @property
    def late(self) -> LateRows:
        return self._intake.late
