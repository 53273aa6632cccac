"""ORDER BY and LIMIT: over the rows of each window as it closes, over everything at the end, or as a kept list."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MAX_US, MIN_US, Batch, End, Item, State, Tick, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile, number_state
from mql.exec.operators.told import FINAL, KEY, OP, REVISION, Told
from mql.planner.physical import Arranging


class ArrangingOperator(Base):
    """Holds rows until they can be put in order.

    Where the rows before are changes of keyed ones, the newest row per key is held, and the changes of the
    arranged list are told at the query's pace.
    """

    def __init__(self, spec: Arranging, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._keyed = spec.kind in ("changes", "every") or spec.early_us is not None or spec.revise_us > 0
        self._pace_us = spec.early_us if spec.kind == "final" else spec.every_us
        self._held = Pile(session, None)
        self._told = Told(session)
        self._changed = False
        self._next_tick_us = MIN_US
        self._closed_us = MIN_US
        self._reopened = False

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        self._held.add(batch.table)
        self._changed = True
        if self._keyed:
            self._keep_newest()
        if self._spec.revise_us and batch.table.num_rows:
            self._reopened |= pc.min(batch.table.column("__we")).as_py() <= self._closed_us
        return ()

    def in_state(self) -> int:
        return 0 if self._keyed else self._held.rows

    def on_watermark(self, us: int) -> Iterable[Item]:
        if self._spec.per_window:
            yield from self._close(us)
        yield Watermark(us)

    def on_tick(self, us: int) -> Iterable[Item]:
        if self._keyed and self._changed and self._pace_us is not None and us >= self._next_tick_us:
            self._next_tick_us = us - us % self._pace_us + self._pace_us
            yield from self._tell_changes(self._closed_us, MAX_US, final=False, again=False)
            self._changed = False
        yield from self._revise()
        yield Tick(us)

    def on_end(self) -> Iterable[Item]:
        if self._spec.per_window:
            yield from self._close(MAX_US)
            self._held.clear()
        elif self._keyed:
            yield from self._tell_changes(MIN_US, MAX_US, final=True, again=True)
        else:
            table = self._held.table()
            if table is not None:
                yield from self._tell(self.rows(self._spec.sql, table, "rows"))
                self._held.clear()
        yield End()

    def snapshot(self) -> State:
        found = {"numbers": number_state(closed=self._closed_us)}
        held, told = self._held.table(), self._told.table
        if held is not None:
            found["held"] = held
        if told is not None:
            found["told"] = told
        return found

    def restore(self, state: State) -> None:
        if "held" in state:
            self._held.add(state["held"])
        if "told" in state:
            self._told.restore(state["told"])
        if "numbers" in state:
            self._closed_us = max(self._closed_us, state["numbers"].column("closed")[0].as_py())
        self._changed = True
        self._reopened = self._spec.revise_us > 0

    def _close(self, us: int) -> Iterable[Item]:
        """Windows that ended at or before are complete: tell them in order."""
        table = self._held.table()
        if table is not None and us > self._closed_us:
            if self._keyed:
                yield from self._revise()
                yield from self._tell_changes(self._closed_us, us, final=True, again=True)
                settled_us = us - self._spec.revise_us
                self._told.forget(settled_us)
                self._held.drop(pc.less_equal(table.column("__we"), settled_us))
            else:
                closing = pc.less_equal(table.column("__we"), us)
                rows = table.filter(closing)
                if rows.num_rows:
                    yield from self._tell(self.rows(self._spec.sql, rows, "rows"))
                    self._held.drop(closing)
        self._closed_us = max(self._closed_us, us)

    def _revise(self) -> Iterable[Item]:
        """Tell anew what changed in windows that are closed."""
        if self._reopened:
            self._reopened = False
            since_us = max(MIN_US, self._closed_us - self._spec.revise_us)
            yield from self._tell_changes(since_us, self._closed_us, final=True, again=False)

    def _tell_changes(self, since_us: int, until_us: int, *, final: bool, again: bool) -> Iterable[Item]:
        """What changed in the windows that end in (since, until], or in all there is; `again`: and what did not."""
        table = self._held.table()
        if table is None:
            return
        scope = "true"
        if self._spec.per_window:
            scope = f'"__we" > {since_us} AND "__we" <= {until_us}'
            ends = table.column("__we")
            table = table.filter(pc.and_(pc.greater(ends, since_us), pc.less_equal(ends, until_us)))
        if final and self._spec.per_window:
            # A window that was joined in its midst has no final rows, only early ones.
            table = table.filter(table.column(FINAL))
        kept = table.filter(pc.not_equal(table.column(OP), "delete")) if OP in table.column_names else table
        plain = kept.drop_columns([name for name in (REVISION, OP, FINAL) if name in kept.column_names])
        arranged = self.rows(self._spec.sql, plain, "rows")
        changed = self._told.changes(arranged, scope, final=final, again=again)
        if changed is not None:
            yield from self._tell(changed)

    def _keep_newest(self) -> None:
        """Of each key the row that came last."""
        table = self._held.table()
        if table is None or REVISION not in table.column_names:
            self._trim()
            return
        newest = self.rows(
            f'SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY "{KEY}" ORDER BY "{REVISION}" DESC) = 1',
            table,
            "rows",
        )
        self._held.replace(newest.select(table.column_names).cast(table.schema))

    def _trim(self) -> None:
        """A kept list of plain rows needs no more than its own length."""
        table = self._held.table()
        if table is not None:
            self._held.replace(self.rows(self._spec.sql, table, "rows"))

    def _tell(self, rows: pa.Table) -> Iterable[Item]:
        if rows.num_rows:
            self.counts.emitted += rows.num_rows
            yield Batch(rows)
