"""One input of a join, on its way to the exchange: filtered, with its columns named by its side, and with its keys."""

from __future__ import annotations

from collections.abc import Iterable

from mql.exec.deadletters import LateRows
from mql.exec.items import Batch, Item
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Intake
from mql.planner.physical import JoinSide


class JoinSideOperator(Base):
    """Gives the rows of a batch that match and are in time, as a join takes them."""

    def __init__(self, spec: JoinSide, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._intake = Intake(session, self.counts, None, spec.predicate, spec.late, spec.lateness_us)

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        table = self._intake.take(batch.table)
        rows = self.rows(self._spec.sql, table)
        self._intake.matched(table, self._intake.count(table) if self._spec.repeats else rows.num_rows)
        self.counts.emitted += rows.num_rows
        if rows.num_rows:
            yield Batch(rows, self._spec.port)

    @property
    def late(self) -> LateRows:
        return self._intake.late
