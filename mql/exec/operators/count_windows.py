"""Windows of a number of events, per group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.exchange import HASH
from mql.exec.items import MIN_US, TIME, Batch, End, Item, State, Tick, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile, number_in, number_state, snapshot_of
from mql.exec.operators.speaker import Speaker
from mql.exec.operators.told import KEY
from mql.planner.physical import CountWindows


@dataclass(frozen=True, slots=True)
class Numbered:
    """What rows add to the tables of windows, and the counts behind them."""

    parts: Mapping[str, pa.Table]
    counts: pa.Table


class CountWindowsOperator(Base):
    """Holds rows until the watermark has passed them, numbers them in their group in event order, and tells a window
    when it is full. At the end, what no full window held comes in a last, shorter one."""

    def __init__(self, spec: CountWindows, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._speaker = Speaker(spec.retold, session, self.counts)
        self._held = Pile(session, None)
        self._piles = {"state": Pile(session, None)}
        self._piles.update({f"bag{i}": Pile(session, None) for i in range(spec.bags)})
        self._counts: pa.Table | None = None
        self._released_us = MIN_US
        self._open = 0

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        self._held.add(batch.table)
        if batch.table.num_rows:
            self._speaker.changed()
        return ()

    def in_state(self) -> int:
        return self._held.rows + self._open

    def on_watermark(self, us: int) -> Iterable[Item]:
        if self._speaker.revises:
            if self._speaker.may_look(us):
                yield from self._look(us)
            yield Watermark(self._speaker.looked_us - 1)
            return
        rows = self._release(us)
        if rows is not None:
            yield from self._speaker.final(rows)
        # A window ends with its last event, and another group's may end at this very moment.
        yield Watermark(us - 1)

    def on_tick(self, us: int) -> Iterable[Item]:
        if self._is_known() and self._speaker.is_due(us):
            over = self._full(self._speaker.looked_us) if self._speaker.revises else None
            yield from self._speaker.early(self._at_the_end(), over)
        yield Tick(us)

    def on_end(self) -> Iterable[Item]:
        if self._is_known():
            yield from self._speaker.ended(self._at_the_end())
        self._held.clear()
        self._open = 0
        yield End()

    def snapshot(self) -> State:
        held = self._held.table_or_blank()
        found = snapshot_of(self._piles)
        if held is not None:
            found["held"] = held
        if self._counts is not None:
            found["counts"] = self._counts
        numbers = number_state(released=self._released_us, looked=self._speaker.looked_us)
        return {**found, **self._speaker.snapshot(), "numbers": numbers}

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
            self._released_us = max(self._released_us, number_in(state, "released"))
            self._speaker.looked_us = max(self._speaker.looked_us, number_in(state, "looked"))
            self._recount()
        self._speaker.restore(state, self._at_the_end() if self._is_known() else None)

    def _look(self, us: int) -> Iterable[Item]:
        """Tell the windows that are full by now, and those that late rows have changed."""
        if self._is_known():
            settled_us = self._speaker.settled_us(us)
            settled = self._full(settled_us).column(KEY)
            yield from self._speaker.look(self._full(us), settled, self._at_the_end)
            self._release(settled_us)
        self._speaker.looked_us = max(self._speaker.looked_us, us)

    def _release(self, until_us: int) -> pa.Table | None:
        """Rows from before `until_us` are complete: number them, and give the rows of the windows that they fill."""
        table = self._held.table()
        due = None
        if table is not None and until_us > self._released_us:
            mask = pc.less(table.column(TIME), until_us)
            due = table.filter(mask)
            self._held.drop(mask)
        self._released_us = max(self._released_us, until_us)
        if due is None or not due.num_rows:
            return None
        numbered = self._numbered(due)
        for name, pile in self._piles.items():
            pile.add(numbered.parts[name])
        self._counts = numbered.counts
        self._open += due.num_rows
        rows = self._close({name: pile.table_or_blank() for name, pile in self._piles.items()}, self._counts, False)
        self._forget()
        return rows

    def _at_the_end(self) -> pa.Table:
        """What would be told if the input ended now: full windows of the rows that are held yet, and last, shorter
        ones."""
        held = self._held.table_or_blank()
        assert held is not None
        return self._with(held, True)

    def _full(self, until_us: int) -> pa.Table:
        """The windows that are full of rows from before the time, and were not let go of."""
        held = self._held.table_or_blank()
        assert held is not None
        return self._with(held.filter(pc.less(held.column(TIME), until_us)).combine_chunks(), False)

    def _with(self, held: pa.Table, ended: bool) -> pa.Table:
        """The rows of windows, were these numbered by now."""
        numbered = self._numbered(held)
        tables = {}
        for name, pile in self._piles.items():
            known = pile.table()
            tables[name] = numbered.parts[name] if known is None else pa.concat_tables([known, numbered.parts[name]])
        return self._close(tables, numbered.counts, ended)

    def _is_known(self) -> bool:
        """Whether there has ever been a row, so that their table has columns."""
        return self._held.table_or_blank() is not None

    def _numbered(self, due: pa.Table) -> Numbered:
        """These rows come next in their groups."""
        spec = self._spec
        known = self._counts
        if known is None:
            keys = [*(f"k{i}" for i in range(spec.keys)), HASH]
            known = due.slice(0, 0).select(keys)
            for name in ("n", "done"):
                known = known.append_column(name, pa.array([], pa.int64()))
        numbered = self._session.run(spec.number, {"released": due, "counts": known})
        parts = {"state": self.rows(spec.partial, numbered, "numbered")}
        for i, sql in enumerate(spec.partial_bags):
            parts[f"bag{i}"] = self.rows(sql, numbered, "numbered")
        counts = self._session.run(spec.counts, {"released": due, "counts": known})
        return Numbered(parts, counts.select(known.column_names).cast(known.schema))

    def _close(self, tables: Mapping[str, pa.Table | None], counts: pa.Table, ended: bool) -> pa.Table:
        return self._session.run(self._spec.close, {**tables, "counts": counts}, {"ended": ended})

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
