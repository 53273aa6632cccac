"""Sessions that are panes: put together where they meet, told when no row that is in time can join them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MAX_US, Batch, End, Item, State, Tick, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile, number_state, snapshot_of
from mql.exec.operators.speaker import Speaker
from mql.exec.operators.told import KEY
from mql.planner.physical import Sessions


class SessionsOperator(Base):
    """Keeps the partials of open sessions. What comes from one batch is a short session of its own until it is folded
    into the ones that it meets; rows of values follow by their session's first event."""

    FOLD_ROWS = 50_000

    def __init__(self, spec: Sessions, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._speaker = Speaker(spec.retold, session, self.counts)
        self._gap_us = spec.window.size
        self._piles = {"state": Pile(session, None)}
        self._piles.update({f"bag{i}": Pile(session, None) for i in range(spec.bags)})
        self._folds = {"state": spec.fold, **{f"bag{i}": sql for i, sql in enumerate(spec.fold_bags)}}
        self._gone_us = -MAX_US
        self._earliest_us = MAX_US
        self._folded_rows = 0
        self._in_state = 0

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        main = batch.port == "rows"
        self._piles["state" if main else batch.port].add(batch.table)
        if main and batch.table.num_rows:
            self._speaker.changed()
            self._in_state += pc.sum(batch.table.column("n")).as_py()
            self._earliest_us = min(self._earliest_us, pc.min(batch.table.column("z")).as_py())
            if sum(pile.rows for pile in self._piles.values()) > max(self.FOLD_ROWS, 4 * self._folded_rows):
                self._fold(self._spans(), self._gone_us)
        return ()

    def in_state(self) -> int:
        return self._in_state

    def on_watermark(self, us: int) -> Iterable[Item]:
        if self._speaker.revises:
            if self._speaker.may_look(us):
                yield from self._look(us)
            yield Watermark(self._speaker.looked_us - self._gap_us)
            return
        self._gone_us = max(self._gone_us, us)
        if self._earliest_us + 2 * self._gap_us <= us:
            yield from self._close(us)
        yield Watermark(us - self._gap_us)

    def on_tick(self, us: int) -> Iterable[Item]:
        if self._is_known() and self._speaker.is_due(us):
            rows = self._over(self._spans(), MAX_US)
            over = self._until(rows, self._speaker.looked_us) if self._speaker.revises else None
            yield from self._speaker.early(rows, over)
        yield Tick(us)

    def on_end(self) -> Iterable[Item]:
        if self._is_known():
            spans = self._spans()
            yield from self._speaker.ended(self._over(spans, MAX_US))
            self._fold(spans, MAX_US)
        yield End()

    def snapshot(self) -> State:
        looked = {"numbers": number_state(looked=self._speaker.looked_us)} if self._speaker.revises else {}
        return {**snapshot_of(self._piles), **self._speaker.snapshot(), **looked}

    def restore(self, state: State) -> None:
        for name, pile in self._piles.items():
            if name in state:
                pile.add(state[name])
        self._recount()
        if "numbers" in state and self._speaker.revises:
            self._speaker.looked_us = max(self._speaker.looked_us, state["numbers"].column("looked")[0].as_py())
            self._gone_us = self._speaker.settled_us(self._speaker.looked_us)
        self._speaker.restore(state, self._over(self._spans(), MAX_US) if self._is_known() else None)

    def _close(self, until_us: int) -> Iterable[Item]:
        """Tell the sessions that are over by now."""
        if not self._piles["state"].rows:
            return
        spans = self._spans()
        rows = self._over(spans, until_us)
        self._fold(spans, until_us)
        yield from self._speaker.final(rows)
        self._speaker.forget(until_us - self._gap_us)

    def _look(self, us: int) -> Iterable[Item]:
        """Tell the sessions that are over by now, and those that late rows have changed."""
        if self._is_known():
            settled_us, spans = self._speaker.settled_us(us), self._spans()
            over = self._over(spans, us)
            settled = self._until(over, settled_us).column(KEY)
            yield from self._speaker.look(over, settled, lambda: self._over(spans, MAX_US))
            self._speaker.forget(settled_us - self._gap_us)
            self._gone_us = settled_us
            if self._earliest_us + 2 * self._gap_us <= settled_us:
                self._fold(spans, settled_us)
        self._speaker.looked_us = max(self._speaker.looked_us, us)

    def _until(self, rows: pa.Table, until_us: int) -> pa.Table:
        """Of the rows of sessions, those that are over at the time."""
        return rows.filter(pc.less_equal(rows.column("__we"), until_us - self._gap_us))

    def _over(self, spans: pa.Table, until_us: int) -> pa.Table:
        """The rows of the sessions that are over at the time; at `MAX_US`, of all."""
        return self._session.run(self._spec.close, {**self._tables(), "spans": spans}, {"until": until_us})

    def _is_known(self) -> bool:
        """Whether all tables have come, with rows or without: what they are made of is known only then."""
        return all(pile.table_or_blank() is not None for pile in self._piles.values())

    def _spans(self) -> pa.Table:
        """Which session each of the short ones belongs to."""
        return self._session.run(self._spec.spans, {"state": self._piles["state"].table_or_blank()})

    def _fold(self, spans: pa.Table, until_us: int) -> None:
        """Put short sessions together, and let go of those that are over."""
        for name, pile in self._piles.items():
            table = pile.table()
            if table is not None:
                tables = {"state": table, "spans": spans}
                folded = self._session.run(self._folds[name], tables, {"until": until_us})
                pile.replace(folded.select(table.column_names).cast(table.schema))
        self._recount()

    def _tables(self) -> dict[str, pa.Table]:
        found = {name: pile.table_or_blank() for name, pile in self._piles.items()}
        assert all(table is not None for table in found.values()), "the rows of values come before the sessions'"
        return {name: table for name, table in found.items() if table is not None}

    def _recount(self) -> None:
        table = self._piles["state"].table()
        self._folded_rows = sum(pile.rows for pile in self._piles.values())
        self._in_state = 0 if table is None else pc.sum(table.column("n")).as_py()
        self._earliest_us = MAX_US if table is None else pc.min(table.column("z")).as_py()
