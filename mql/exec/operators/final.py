"""Merge partials and speak: when the watermark closes a window, when the clock ticks, at the end."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MAX_US, MIN_US, Batch, End, Item, Roster, State, Tick, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import MIXED, Base, Pile, number_state, snapshot_of
from mql.exec.operators.told import KEY, Told
from mql.exec.tallies import PerQuery
from mql.planner import windows
from mql.planner.physical import Final
from mql.planner.sharing import QUERY

LEFT_SHARE = 0.75
WINDOW_START = "__ws"


class FinalOperator(Base):
    """Keeps the partials of open panes, and gives a window's rows when it closes.

    `not_before_us`: windows that start earlier are not told as final (the query joined in their midst). Where several
    queries share the plan, `not_before` says the same of each, and `held` how many events of each are in state.
    """

    def __init__(self, spec: Final, session: Session) -> None:
        super().__init__(session)
        self.not_before_us = MIN_US
        self.not_before = PerQuery(MIN_US)
        self.held = PerQuery()
        self._known = 0
        self._spec = spec
        self._windowed = spec.window.kind != "none"
        self._keyed = spec.emit != "final" or spec.early_us is not None or spec.revise_us > 0
        self._pace_us = spec.early_us if spec.emit == "final" else spec.every_us
        self._piles = {"rows": Pile(session, spec.merge)}
        self._piles.update({f"bag{i}": Pile(session, merge) for i, merge in enumerate(spec.merge_bags)})
        self._blanks: dict[int, pa.Table] = {}
        self._told = Told(session)
        self._closed_us = MIN_US
        self._settled_us = MIN_US
        self._reopened_pane: int | None = None
        self._earliest_pane: int | None = None
        self._changed = False
        self._next_tick_us = MIN_US
        self._in_state = 0

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        table = batch.table
        self._piles[batch.port].add(table)
        if batch.port == "rows" and table.num_rows:
            self._in_state += self._events(table)
            self._hold(table)
            earliest = pc.min(table.column("p")).as_py()
            if self._earliest_pane is None or earliest < self._earliest_pane:
                self._earliest_pane = earliest
            if self._spec.revise_us and windows.may_have_ended(self._spec.window, earliest, self._closed_us):
                reopened = earliest if self._reopened_pane is None else min(earliest, self._reopened_pane)
                self._reopened_pane = reopened
        self._changed = True
        return ()

    def in_state(self) -> int:
        return self._in_state

    def on_roster(self, roster: Roster) -> Iterable[Item]:
        """What is held of queries that have left goes once they are many."""
        numbers = roster.table.column(QUERY)
        self._known = max(self._known, len(numbers))
        if len(numbers) < LEFT_SHARE * self._known:
            for pile in self._piles.values():
                table = pile.table()
                if table is not None:
                    pile.replace(table.filter(pc.is_in(table.column(self._spec.query), numbers)).combine_chunks())
            self._told.keep(QUERY, numbers)
            self._known = len(numbers)
            self._recount()
        yield roster

    def on_watermark(self, us: int) -> Iterable[Item]:
        us = max(MIN_US, us - self._spec.hold_us)
        if self._windowed and us > self._closed_us:
            yield from self._close(us)
        yield Watermark(us)

    def on_tick(self, us: int) -> Iterable[Item]:
        to_tell = self._changed or self._spec.emit == "every"
        if to_tell and self._pace_us is not None and us >= self._next_tick_us:
            self._next_tick_us = us - us % self._pace_us + self._pace_us
            yield from self._tell_open(final=False)
            self._changed = False
        yield from self._revise()
        yield Tick(us)

    def on_end(self) -> Iterable[Item]:
        if self._windowed:
            yield from self._close(MAX_US)
        elif self._keyed:
            yield from self._tell_open(final=True)
        else:
            yield from self._rows(self._finished(MIN_US, MAX_US, MIN_US))
        for pile in self._piles.values():
            pile.clear()
        yield End()

    def snapshot(self) -> State:
        numbers = number_state(closed=self._closed_us, settled=self._settled_us, not_before=self.not_before_us)
        told = {} if self._told.table is None else {"told": self._told.table}
        return {**snapshot_of(self._piles), **told, "numbers": numbers}

    def restore(self, state: State) -> None:
        for name, pile in self._piles.items():
            if name in state:
                pile.add(state[name])
        if "numbers" in state:
            self._closed_us = max(self._closed_us, state["numbers"].column("closed")[0].as_py())
            self.not_before_us = max(self.not_before_us, state["numbers"].column("not_before")[0].as_py())
            self._settled_us = max(self._settled_us, state["numbers"].column("settled")[0].as_py())
        if "told" in state:
            self._told.restore(self._own(state["told"]) if MIXED in state else state["told"])
        self._recount()
        self._reopened_pane = self._earliest_pane if self._spec.revise_us else None
        self._changed = True

    def _own(self, told: pa.Table) -> pa.Table:
        """Of what several tasks have told, what is of the groups that are in this one's state: nothing else can be
        told anew."""
        rows = self._finished(self._settled_us, MAX_US, MIN_US)
        return told.filter(pc.is_in(told.column(KEY), rows.column(KEY))).combine_chunks()

    # --- windows ---------------------------------------------------------------------------------------

    def _close(self, until_us: int) -> Iterable[Item]:
        yield from self._revise()
        if self._earliest_pane is not None and self._may_close(self._earliest_pane, until_us):
            rows = self._whole(self._finished(self._closed_us, until_us, self.not_before_us))
            if self._keyed:
                kept = _kept(rows)
                scope = f'"__we" > {self._closed_us} AND "__we" <= {until_us}'
                changed = self._told.changes(kept, scope, final=True, again=True)
                if changed is not None:
                    yield from self._tell(changed)
                self._told.forget(until_us - self._spec.revise_us)
            else:
                yield from self._rows(rows)
            self._drop(until_us - self._spec.revise_us)
            self._settled_us = until_us - self._spec.revise_us
        self._closed_us = until_us

    def _revise(self) -> Iterable[Item]:
        """Tell anew what changed in windows that are closed but not yet settled."""
        if self._reopened_pane is None:
            return
        since_us = max(self._settled_us, self._reopened_pane)
        self._reopened_pane = None
        kept = _kept(self._whole(self._finished(since_us, self._closed_us, self.not_before_us)))
        scope = f'"__we" > {since_us} AND "__we" <= {self._closed_us}'
        changed = self._told.changes(kept, scope, final=True, again=False)
        if changed is not None:
            yield from self._tell(changed)

    def _may_close(self, earliest_pane: int, until_us: int) -> bool:
        """Whether any window can have ended that has not before."""
        return windows.may_end_between(self._spec.window, max(earliest_pane, self._closed_us), until_us)

    def _drop(self, until_us: int) -> None:
        """Let go of panes whose last window is closed."""
        for pile in self._piles.values():
            table = pile.table()
            if table is not None:
                pile.replace(
                    self._session.run(self._spec.open, {"held": table}, {"until": until_us}).cast(table.schema)
                )
        self._recount()

    def _recount(self) -> None:
        table = self._piles["rows"].table()
        self.held.clear()
        if table is None:
            self._in_state, self._earliest_pane = 0, None
        else:
            self._in_state = self._events(table)
            self._hold(table)
            self._earliest_pane = pc.min(table.column("p")).as_py()

    def _events(self, table: pa.Table) -> int:
        """How many events a table of partials is made of."""
        return pc.sum(self._once(table).column("n")).as_py() or 0

    def _hold(self, table: pa.Table) -> None:
        """The same for each of the queries that share the plan."""
        if self._spec.query:
            table = self._once(table)
            self.held.add(table.column(self._spec.query).to_numpy(), table.column("n").to_numpy())

    def _once(self, table: pa.Table) -> pa.Table:
        """Partials in which each event counts once. Of several windows, the longest holds them all."""
        window = self._spec.window
        if window.kind != "several":
            return table
        return table.filter(pc.equal(table.column(window.by), windows.longest(window)))

    def _whole(self, rows: pa.Table) -> pa.Table:
        """Of queries that share the plan, the rows of windows that they have seen from their start."""
        if not self._spec.query:
            return rows
        since = self.not_before.of(rows.column(QUERY).to_numpy())
        return rows.filter(pa.array(rows.column(WINDOW_START).to_numpy() >= since))

    # --- telling ---------------------------------------------------------------------------------------

    def _tell_open(self, final: bool) -> Iterable[Item]:
        rows = self._finished(self._closed_us, MAX_US, MIN_US)
        scope = f'"__we" > {self._closed_us}' if self._windowed else "true"
        changed = self._told.changes(_kept(rows), scope, final=final, again=self._spec.emit == "every")
        if changed is not None:
            yield from self._tell(changed)

    def _rows(self, rows: pa.Table) -> Iterable[Item]:
        yield from self._tell(_kept(rows).drop_columns([KEY]))

    def _tell(self, rows: pa.Table) -> Iterable[Item]:
        if rows.num_rows:
            self.counts.emitted += rows.num_rows
            yield Batch(rows)

    def _finished(self, since_us: int, until_us: int, not_before_us: int) -> pa.Table:
        tables = {}
        for number, (name, pile) in enumerate(self._piles.items()):
            table = pile.table()
            tables["state" if name == "rows" else name] = self._empty(number) if table is None else table
        params = {"since": since_us, "until": until_us, "not_before": not_before_us} if self._windowed else None
        return self._session.run(self._spec.close, tables, params)

    def _empty(self, number: int) -> pa.Table:
        """A table of the state without rows: an aggregate over everything has a result even so."""
        if number not in self._blanks:
            self._blanks[number] = self._session.run(self._spec.blanks[number], {})
        return self._blanks[number]


def _kept(rows: pa.Table) -> pa.Table:
    """The rows for which HAVING holds."""
    return rows.filter(rows.column("__keep")).drop_columns(["__keep"])
