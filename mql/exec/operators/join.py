"""Joins of two streams: each row meets those of the other side that came before it, and waits for those still to come.

    #  watermark            W
    #  a      --a1---a2-----|--        a row waits until no partner can come any more
    #  b      ----b1--------|-b2-      a1 meets b1 when the later of them comes

Neither side waits for the other. What must be known of rows that were told (had this one a partner before?) is asked of
the rows that are kept; so those of the other side are kept for longer where rows without partners count.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.errors import MqlError
from mql.exec.items import MAX_US, TIME, Batch, End, Item, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.segments import Segments
from mql.exec.operators.told import FINAL, KEY, OP, REVISION
from mql.exec.operators.two_sided import TwoSided
from mql.planner.physical import JOINED_ROWS_MAX, Join

REMEDY = "Write a shorter WITHIN, name fewer properties, filter before the join, or set state_max higher."


class JoinOperator(TwoSided):
    """Keeps the rows of both sides for as long as partners can come."""

    def __init__(self, spec: Join, session: Session) -> None:
        super().__init__(session, (spec.blank_left, spec.blank_right), spec.bytes_max, REMEDY)
        self._spec = spec

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        table = self.waiting(batch.table)
        self.counts.seen += table.num_rows
        if table.num_rows:
            yield from self._meet_left(table) if batch.port == "left" else self._meet_right(table)
            self.check_room()

    def on_watermark(self, us: int) -> Iterable[Item]:
        yield from self._decide(us)
        floor = self._spec.floor
        yield Watermark(us - self._spec.hold_us if floor is None else us - (us - floor.offset) % floor.size)

    def on_end(self) -> Iterable[Item]:
        yield from self._decide(MAX_US)
        self._left.clear()
        self._right.clear()
        yield End()

    # --- meeting ---------------------------------------------------------------------------------------

    def _meet_left(self, rows: pa.Table) -> Iterable[Item]:
        spec, others = self._spec, self._partners_of_left(rows)
        if spec.pairs:
            yield from self._tell(self._joined(spec.pairs, rows, others))
        if spec.met_left and not spec.retracts:
            yield from self._tell(self._joined(spec.met_left, rows, others, others.slice(0, 0)))
        if spec.retracts and spec.alone_left:
            yield from self._tell(self._joined(spec.alone_left, rows, others))
        if spec.retracts and spec.met_right:
            seen = self._partners_of_right(others)
            yield from self._withdraw(self._joined(spec.met_right, rows, others, seen))
        self._left.add(rows)

    def _meet_right(self, rows: pa.Table) -> Iterable[Item]:
        spec, others = self._spec, self._partners_of_right(rows)
        if spec.pairs:
            yield from self._tell(self._joined(spec.pairs, others, rows))
        if spec.met_left:
            met = self._joined(spec.met_left, others, rows, self._partners_of_left(others))
            yield from self._withdraw(met) if spec.retracts else self._tell(met)
        if spec.retracts and spec.alone_right:
            yield from self._tell(self._joined(spec.alone_right, others, rows))
        self._right.add(rows)

    def _partners_of_left(self, rows: pa.Table) -> pa.Table:
        """All rows of the right side that rows of the left can have as partners, and maybe others."""
        return near(self._right, rows, self._spec.before_us, self._spec.after_us)

    def _partners_of_right(self, rows: pa.Table) -> pa.Table:
        return near(self._left, rows, self._spec.after_us, self._spec.before_us)

    # --- deciding --------------------------------------------------------------------------------------

    def _decide(self, us: int) -> Iterable[Item]:
        """No partner can come any more for rows up to here: tell those that have none, and let go."""
        if us <= self._watermark_us:
            return
        spec, since_us = self._spec, self._watermark_us
        if spec.alone_left and not spec.retracts:
            left = self._left.decided(since_us, us)
            if left.num_rows:
                yield from self._tell(self._joined(spec.alone_left, left, self._partners_of_left(left)))
        if spec.alone_right and not spec.retracts:
            right = self._right.decided(since_us, us)
            if right.num_rows:
                yield from self._tell(self._joined(spec.alone_right, self._partners_of_right(right), right))
        self._left.let_go(us)
        self._right.let_go(us)
        self._watermark_us = us

    # --- telling ---------------------------------------------------------------------------------------

    def _joined(self, sql: str, left: pa.Table, right: pa.Table, seen: pa.Table | None = None) -> pa.Table:
        tables = {"l": left, "r": right} if seen is None else {"l": left, "r": right, "seen": seen}
        return self._session.run(sql, tables)

    def _withdraw(self, rows: pa.Table) -> Iterable[Item]:
        """Rows that were told without a partner have one now."""
        yield from self._tell(rows, "delete", 1)

    def _tell(self, rows: pa.Table, op: str = "insert", revision: int = 0) -> Iterable[Item]:
        count = rows.num_rows
        if count > JOINED_ROWS_MAX:
            raise MqlError(
                f"one batch of the join gives more than {JOINED_ROWS_MAX:,} rows",
                hint="Too many rows have equal keys: join by one more property, or write a shorter WITHIN.",
                code="join-too-large",
            )
        if not count:
            return
        if self._spec.retracts:
            assert KEY in rows.column_names
            rows = rows.append_column(REVISION, pa.repeat(pa.scalar(revision, pa.int64()), count))
            rows = rows.append_column(OP, pa.repeat(op, count)).append_column(FINAL, pa.repeat(True, count))
        self.counts.emitted += count
        yield Batch(rows)


def near(side: Segments, rows: pa.Table, before_us: int, after_us: int) -> pa.Table:
    """The rows of a side that lie up to so long before and after some of these rows."""
    if not rows.num_rows:
        return side.between(MAX_US, -MAX_US)
    times = pc.min_max(rows.column(TIME)).as_py()
    return side.between(times["min"] - before_us, times["max"] + after_us)
