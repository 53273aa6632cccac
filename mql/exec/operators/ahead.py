"""Window functions that look at rows that come later: lead, and frames that reach ahead."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MAX_US, TIME, Batch, End, Item, State, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile
from mql.planner.physical import Ahead

TOLD, READY, NEEDED = "__told", "__ready", "__needed"


class AheadOperator(Base):
    """Tells a row once the rows that it looks at are there, or can't come any more. The watermark waits for it."""

    def __init__(self, spec: Ahead, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._held = Pile(session, None)

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        self._held.add(_with_told(batch.table, pa.array([False] * batch.table.num_rows, pa.bool_())))
        return ()

    def in_state(self) -> int:
        waiting = self._waiting()
        return 0 if waiting is None else waiting.num_rows

    def on_watermark(self, us: int) -> Iterable[Item]:
        yield from self._tell(us, ended=False)
        waiting = self._waiting()
        yield Watermark(us if waiting is None else min(us, pc.min(waiting.column(TIME)).as_py()))

    def on_end(self) -> Iterable[Item]:
        yield from self._tell(MAX_US, ended=True)
        self._held.clear()
        yield End()

    def snapshot(self) -> State:
        held = self._held.table()
        return {} if held is None else {"held": held}

    def restore(self, state: State) -> None:
        if "held" in state:
            self._held.add(state["held"])

    def _waiting(self) -> pa.Table | None:
        """The rows that have not been told; None where there are none."""
        held = self._held.table()
        if held is None:
            return None
        waiting = held.filter(pc.invert(held.column(TOLD)))
        return waiting if waiting.num_rows else None

    def _tell(self, until_us: int, *, ended: bool) -> Iterable[Item]:
        held = self._held.table()
        if held is None or self._waiting() is None:
            return
        judged = self._session.run(self._spec.judge, {"held": held}, {"until": until_us, "ended": ended})
        told, ready = judged.column(TOLD), judged.column(READY)
        rows = judged.filter(pc.and_(ready, pc.invert(told))).drop_columns([TOLD, READY, NEEDED])
        kept = judged.filter(judged.column(NEEDED))
        kept = _with_told(kept, pc.or_(kept.column(TOLD), kept.column(READY))).select(held.column_names)
        later = held.filter(pc.greater_equal(held.column(TIME), until_us))
        self._held.replace(pa.concat_tables([kept.cast(held.schema), later]).combine_chunks())
        if rows.num_rows:
            self.counts.emitted += rows.num_rows
            yield Batch(rows)


def _with_told(table: pa.Table, told: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows with a mark on those that have been told."""
    rest = table.drop_columns([TOLD]) if TOLD in table.column_names else table
    return rest.append_column(TOLD, told)
