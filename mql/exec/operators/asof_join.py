"""ASOF joins: each row of the left side with the newest one of the right that is not newer than it."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from mql.exec.items import MAX_US, Batch, End, Item, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.join import near
from mql.exec.operators.two_sided import TwoSided
from mql.planner.physical import AsofJoin

REMEDY = "Write a shorter WITHIN for how old a partner may be, name fewer properties, or set state_max higher."


class AsofJoinOperator(TwoSided):
    """Holds rows of the left side until the watermark has passed them, for until then a nearer partner can come. Of the
    right side it keeps the newest row of each key, and those that are newer than the watermark."""

    TRIM_ROWS = 20_000

    def __init__(self, spec: AsofJoin, session: Session) -> None:
        super().__init__(session, (spec.blank_left, spec.blank_right), spec.bytes_max, REMEDY)
        self._spec = spec
        self._trimmed_rows = 0

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        (self._left if batch.port == "left" else self._right).add(self.waiting(batch.table))
        self.check_room()
        return ()

    def on_watermark(self, us: int) -> Iterable[Item]:
        yield from self._tell(us)
        yield Watermark(us)

    def on_end(self) -> Iterable[Item]:
        yield from self._tell(MAX_US)
        self._left.clear()
        self._right.clear()
        yield End()

    def _tell(self, us: int) -> Iterable[Item]:
        """The rows that the watermark has passed, with their partners."""
        if us <= self._watermark_us:
            return
        due = self._left.decided(self._watermark_us, us)
        self._watermark_us = us
        if due.num_rows:
            rows = self._session.run(
                self._spec.joined, {"l": due, "r": near(self._right, due, self._spec.within_us, 0)}
            )
            self._left.let_go(us)
            if rows.num_rows:
                self.counts.emitted += rows.num_rows
                yield Batch(rows)
        if self._right.rows > max(self.TRIM_ROWS, 2 * self._trimmed_rows):
            self._trim(us)

    def _trim(self, us: int) -> None:
        """What no row to come can have as its partner goes."""
        rows = self._right.table()
        kept: pa.Table = self._session.run(self._spec.newest, {"r": rows}, {"until": us})
        self._right.clear()
        self._right.add(kept.select(rows.column_names).cast(rows.schema))
        self._trimmed_rows = self._right.rows
