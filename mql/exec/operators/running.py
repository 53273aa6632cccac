"""Window functions that go on from row to row: running numbers and sums, rows before, frames of rows or of time."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MAX_US, MIN_US, TIME, Batch, End, Item, State, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile, number_state
from mql.planner.physical import Running


class RunningOperator(Base):
    """Holds rows until the watermark has passed them, and tells them in event order with what came before.

    It keeps the rows that later frames reach, and for each partition what it carries: counts and partials.
    """

    def __init__(self, spec: Running, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._held = Pile(session, None)
        self._carries = {name: Pile(session, None) for name in spec.carries}
        self._told_us = MIN_US
        self._waiting = 0
        self._next_us = MAX_US

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        self._held.add(batch.table)
        self._waiting += batch.table.num_rows
        if batch.table.num_rows:
            self._next_us = min(self._next_us, pc.min(batch.table.column(TIME)).as_py())
        return ()

    def in_state(self) -> int:
        return self._waiting

    def on_watermark(self, us: int) -> Iterable[Item]:
        if us > self._next_us:
            yield from self._tell(us)
        yield Watermark(us)

    def on_end(self) -> Iterable[Item]:
        if self._waiting:
            yield from self._tell(MAX_US)
        self._held.clear()
        yield End()

    def snapshot(self) -> State:
        found = {"numbers": number_state(told=self._told_us)}
        for name, pile in {"held": self._held, **self._carries}.items():
            table = pile.table()
            if table is not None:
                found[name] = table
        return found

    def restore(self, state: State) -> None:
        for name, pile in {"held": self._held, **self._carries}.items():
            if name in state:
                pile.add(state[name])
        if "numbers" in state:
            self._told_us = max(self._told_us, state["numbers"].column("told")[0].as_py())
        self._look()

    def _tell(self, until_us: int) -> Iterable[Item]:
        held = self._held.table()
        assert held is not None
        tables = {"held": held}
        for name, begin in zip(self._spec.carries, self._spec.begin, strict=True):
            pile = self._carries[name]
            if pile.table_or_blank() is None:
                pile.add(self._session.run(begin, {"held": held.slice(0, 0)}))
            carried = pile.table_or_blank()
            assert carried is not None
            tables[name] = carried
        rows = self._run(self._spec.close, tables, until_us)
        carried_on = [self._run(sql, tables, until_us) for sql in self._spec.carry]
        kept = self._run(self._spec.keep, tables, until_us)
        for name, table in zip(self._spec.carries, carried_on, strict=True):
            self._carries[name].replace(table.select(tables[name].column_names).cast(tables[name].schema))
        self._held.replace(kept.select(held.column_names).cast(held.schema))
        self._told_us = until_us
        self._look()
        if rows.num_rows:
            self.counts.emitted += rows.num_rows
            yield Batch(rows)

    def _look(self) -> None:
        """How many rows wait to be told, and from when on one of them can be."""
        held = self._held.table()
        waiting = None if held is None else held.filter(pc.greater_equal(held.column(TIME), self._told_us))
        self._waiting = 0 if waiting is None else waiting.num_rows
        self._next_us = pc.min(waiting.column(TIME)).as_py() if waiting is not None and waiting.num_rows else MAX_US

    def _run(self, sql: str, tables: dict[str, pa.Table], until_us: int) -> pa.Table:
        given = {"since": self._told_us, "until": until_us}
        used = {name: table for name, table in tables.items() if name in sql}
        return self._session.run(sql, used, {name: value for name, value in given.items() if f"${name}" in sql})
