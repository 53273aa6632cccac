"""Rows that are held until their windows are final: sliding windows, and sessions that conditions cut."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MAX_US, MIN_US, TIME, Batch, End, Item, State, Tick, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile, number_in, number_state
from mql.exec.operators.speaker import Speaker
from mql.exec.operators.told import KEY
from mql.planner.physical import Held


class HeldOperator(Base):
    """Holds rows until the watermark makes their windows final, and tells these by the statement that history uses."""

    def __init__(self, spec: Held, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._speaker = Speaker(spec.retold, session, self.counts)
        self._held = Pile(session, None)
        self._told_us = MIN_US
        self._next_us = MAX_US
        self._ready_us = MAX_US

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        self._held.add(batch.table)
        if batch.table.num_rows:
            self._speaker.changed()
            self._expect(pc.min(batch.table.column(TIME)).as_py() + self._spec.ready_us)
        return ()

    def in_state(self) -> int:
        return self._held.rows

    def on_watermark(self, us: int) -> Iterable[Item]:
        if self._speaker.revises:
            if self._speaker.may_look(us):
                yield from self._look(us)
            yield Watermark(self._speaker.looked_us - self._spec.ready_us)
            return
        if us >= self._next_us:
            yield from self._tell(us)
        # What waits for the pace alone is still to be told, and lies before its own watermark.
        told_us = us if us < self._ready_us else max(self._told_us, self._ready_us - 1)
        yield Watermark(told_us - self._spec.ready_us)

    def on_tick(self, us: int) -> Iterable[Item]:
        if self._is_known() and self._speaker.is_due(us):
            over = self._over(self._speaker.looked_us) if self._speaker.revises else None
            yield from self._speaker.early(self._over(MAX_US), over)
        yield Tick(us)

    def on_end(self) -> Iterable[Item]:
        if self._is_known():
            yield from self._speaker.ended(self._over(MAX_US))
        self._held.clear()
        yield End()

    def snapshot(self) -> State:
        held = self._held.table_or_blank()
        numbers = number_state(told=self._told_us, looked=self._speaker.looked_us)
        found = {"numbers": numbers, **self._speaker.snapshot()}
        return found if held is None else {**found, "held": held}

    def restore(self, state: State) -> None:
        if "held" in state:
            self._held.add(state["held"])
        if self._held.rows:
            self._next_us = self._ready_us = MIN_US
        if "numbers" in state:
            self._told_us = max(self._told_us, number_in(state, "told"))
            self._speaker.looked_us = max(self._speaker.looked_us, number_in(state, "looked"))
        self._speaker.restore(state, self._over(MAX_US) if self._is_known() else None)

    def _tell(self, until_us: int) -> Iterable[Item]:
        table = self._held.table()
        if table is None:
            return
        yield from self._speaker.final(self._over(until_us))
        self._keep(until_us)
        self._speaker.forget(until_us - self._spec.ready_us)
        self._next_us = self._ready_us = MAX_US
        self._expect(until_us + 1)

    def _look(self, us: int) -> Iterable[Item]:
        """Tell the windows that are over by now, and those that late rows have changed."""
        if self._is_known():
            settled_us = self._speaker.settled_us(us)
            over = self._over(us)
            if self._spec.by_end:
                settled = over.filter(pc.less(over.column("__we"), settled_us))
            else:
                settled = self._over(settled_us)
            yield from self._speaker.look(over, settled.column(KEY), lambda: self._over(MAX_US))
            self._keep(settled_us)
            self._speaker.forget(settled_us - self._spec.ready_us)
        self._speaker.looked_us = max(self._speaker.looked_us, us)

    def _over(self, until_us: int) -> pa.Table:
        """The rows of windows that are over at the time, and were not before for good; at `MAX_US`, of all."""
        return self._run(self._spec.close, until_us)

    def _keep(self, until_us: int) -> None:
        """Let go of what no window needs that is not over by then."""
        table = self._held.table_or_blank()
        assert table is not None
        self._held.replace(self._run(self._spec.keep, until_us).select(table.column_names).cast(table.schema))
        self._told_us = until_us

    def _expect(self, us: int) -> None:
        """Something may be final by then; statements run at the pace of the specification at most."""
        if self._held.rows:
            self._ready_us = min(self._ready_us, us)
            self._next_us = min(self._next_us, max(us, self._told_us + self._spec.pace_us))

    def _run(self, sql: str, until_us: int) -> pa.Table:
        given = {"since": self._told_us, "until": until_us}
        params = {name: value for name, value in given.items() if f"${name}" in sql}
        return self._session.run(sql, {"held": self._held.table_or_blank()}, params)

    def _is_known(self) -> bool:
        """Whether there has ever been a row, so that their table has columns."""
        return self._held.table_or_blank() is not None
