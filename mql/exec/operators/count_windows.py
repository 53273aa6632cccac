"""Windows of a number of events, per group."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.exchange import HASH
from mql.exec.items import MAX_US, MIN_US, TIME, Batch, End, Item, State, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile, number_state, snapshot_of
from mql.exec.operators.told import KEY
from mql.planner.physical import CountWindows


class CountWindowsOperator(Base):
    """Holds rows until the watermark has passed them, numbers them in their group in event order, and tells a window
    when it is full. At the end, what no full window held comes in a last, shorter one."""

    def __init__(self, spec: CountWindows, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._held = Pile(session, None)
        self._piles = {"state": Pile(session, None)}
        self._piles.update({f"bag{i}": Pile(session, None) for i in range(spec.bags)})
        self._counts: pa.Table | None = None
        self._released_us = MIN_US
        self._open = 0

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        self._held.add(batch.table)
        return ()

    def in_state(self) -> int:
        return self._held.rows + self._open

    def on_watermark(self, us: int) -> Iterable[Item]:
        yield from self._release(us, ended=False)
        # A window ends with its last event, and another group's may end at this very moment.
        yield Watermark(us - 1)

    def on_end(self) -> Iterable[Item]:
        yield from self._release(MAX_US, ended=True)
        self._open = 0
        yield End()

    def snapshot(self) -> State:
        held = self._held.table()
        found = snapshot_of(self._piles)
        if held is not None:
            found["held"] = held
        if self._counts is not None:
            found["counts"] = self._counts
        return {**found, "numbers": number_state(released=self._released_us)}

    def restore(self, state: State) -> None:
        for name, pile in self._piles.items():
            if name in state:
                pile.add(state[name])
        if "held" in state:
            self._held.add(state["held"])
        if "counts" in state:
            known = self._counts
            self._counts = state["counts"] if known is None else pa.concat_tables([known, state["counts"]])
        if "numbers" in state:
            self._released_us = max(self._released_us, state["numbers"].column("released")[0].as_py())
            self._recount()

    def _release(self, until_us: int, *, ended: bool) -> Iterable[Item]:
        """Rows from before `until_us` are complete: number them, and tell the windows that they fill."""
        table = self._held.table()
        due = None
        if table is not None and until_us > self._released_us:
            mask = pc.less(table.column(TIME), until_us)
            due = table.filter(mask)
            self._held.drop(mask)
        self._released_us = max(self._released_us, until_us)
        if due is not None and due.num_rows:
            self._take_in(due)
        elif not ended:
            return
        if self._counts is None:
            return
        yield from self._tell(ended)

    def _take_in(self, due: pa.Table) -> None:
        spec = self._spec
        if self._counts is None:
            keys = [*(f"k{i}" for i in range(spec.keys)), HASH]
            self._counts = due.slice(0, 0).select(keys)
            for name in ("n", "done"):
                self._counts = self._counts.append_column(name, pa.array([], pa.int64()))
        numbered = self._session.run(spec.number, {"released": due, "counts": self._counts})
        self._piles["state"].add(self.rows(spec.partial, numbered, "numbered"))
        for i, sql in enumerate(spec.partial_bags):
            self._piles[f"bag{i}"].add(self.rows(sql, numbered, "numbered"))
        counts = self._session.run(spec.counts, {"released": due, "counts": self._counts})
        self._counts = counts.select(self._counts.column_names).cast(self._counts.schema)
        self._open += due.num_rows

    def _tell(self, ended: bool) -> Iterable[Item]:
        assert self._counts is not None
        tables = {"counts": self._counts}
        for name, pile in self._piles.items():
            table = pile.table_or_blank()
            assert table is not None
            tables[name] = table
        rows = self._session.run(self._spec.close, tables, {"ended": ended})
        self._forget()
        kept = rows.filter(rows.column("__keep")).drop_columns(["__keep", KEY])
        if kept.num_rows:
            self.counts.emitted += kept.num_rows
            yield Batch(kept)

    def _forget(self) -> None:
        """Full windows are told: move each group's `done` on, and let go of panes that only told windows held."""
        done = self._session.run(self._spec.done, {"counts": self._counts})
        assert self._counts is not None
        self._counts = done.select(self._counts.column_names).cast(self._counts.schema)
        for pile in self._piles.values():
            table = pile.table()
            if table is not None:
                kept = self._session.run(self._spec.keep, {"held": table, "counts": self._counts})
                pile.replace(kept.select(table.column_names).cast(table.schema))
        self._recount()

    def _recount(self) -> None:
        main = self._piles["state"].table()
        self._open = 0 if main is None else pc.sum(main.column("n")).as_py()
