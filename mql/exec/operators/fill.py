"""FILL: rows for groups that were not seen in a window."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MAX_US, MIN_US, Batch, End, Item, State, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile, number_state
from mql.exec.operators.told import KEY
from mql.planner import windows
from mql.planner.physical import Fill


class FillOperator(Base):
    """Knows when each group was seen last. As the watermark closes a window, it has a row for each that is due."""

    def __init__(self, spec: Fill, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._held = Pile(session, None)
        self._seen: pa.Table | None = None
        self._told_us = MIN_US
        self._watermark_us = MIN_US

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        self._held.add(batch.table)
        return ()

    def on_watermark(self, us: int) -> Iterable[Item]:
        self._watermark_us = max(self._watermark_us, us)
        if windows.may_end_between(self._spec.window, self._told_us, us):
            yield from self._tell(us, us)
        yield Watermark(us)

    def on_end(self) -> Iterable[Item]:
        table = self._held.table()
        last = MIN_US if table is None else pc.max(table.column("we")).as_py()
        yield from self._tell(MAX_US, max(last, self._watermark_us))
        yield End()

    def snapshot(self) -> State:
        found = {"numbers": number_state(told=self._told_us, watermark=self._watermark_us)}
        held = self._held.table_or_blank()
        if held is not None:
            found["held"] = held
        if self._seen is not None:
            found["seen"] = self._seen
        return found

    def restore(self, state: State) -> None:
        if "held" in state:
            self._held.add(state["held"])
        if "seen" in state:
            self._seen = state["seen"]
        if "numbers" in state:
            numbers = state["numbers"]
            self._told_us = max(self._told_us, numbers.column("told")[0].as_py())
            self._watermark_us = max(self._watermark_us, numbers.column("watermark")[0].as_py())

    def _tell(self, until_us: int, limit_us: int) -> Iterable[Item]:
        """The rows of windows that end by then, and what is filled in between."""
        held = self._held.table_or_blank()
        if held is None:
            return
        over = pc.less_equal(held.column("we"), until_us)
        due = held.filter(over)
        self._held.drop(over)
        seen = due.slice(0, 0).select([*(f"k{i}" for i in range(self._spec.keys)), "we"])
        tables = {"rows": due, "seen": seen if self._seen is None else self._seen}
        given = {"since": self._told_us, "limit": limit_us}
        rows = self._session.run(self._spec.close, tables, given)
        self._seen = self._session.run(self._spec.seen, tables, {"until": until_us})
        self._told_us = until_us
        kept = rows.filter(rows.column("__keep")).drop_columns(["__keep", KEY])
        if kept.num_rows:
            self.counts.emitted += kept.num_rows
            yield Batch(kept)
