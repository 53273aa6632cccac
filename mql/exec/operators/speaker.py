"""What is told of windows that lie where events do: when they are over, before, and after."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MIN_US, Batch, Counts, State
from mql.exec.kernel import Session
from mql.exec.operators.base import MIXED
from mql.exec.operators.told import FINAL, KEY, Told
from mql.planner.physical import Retold

KEEP = "__keep"
TOLD = "told"

Keys: TypeAlias = pa.ChunkedArray
"""The keys of some windows."""


class Speaker:
    """Tells the rows of windows that lie where events do, final, early and revised.

    Such a window may grow at both ends and meet others, and its row then goes by another key: what was told of it
    is taken back with the next values. Where late rows revise windows, the operator looks at them as the watermark goes
    on: those that are over are told, and let go of when they are *settled*, so long after that no late row is taken for
    them any more. One that a late row opens again stays as it was told until it is over again.
    """

    def __init__(self, spec: Retold | None, session: Session, counts: Counts) -> None:
        self._spec = spec
        self._counts = counts
        self._told = Told(session)
        self._changed = False
        self._next_us = MIN_US
        self.looked_us = MIN_US
        """The watermark at the last look."""

    def changed(self) -> None:
        """Something came: open windows are no longer as they were told."""
        self._changed = True

    def forget(self, until_us: int) -> None:
        """Where windows are cut, one that was taken back may come again by the same key. No row can come any more that
        would be the first of a window, or part it from another, at or before `until_us`."""
        self._told.forget_gone(until_us)

    # --- early -------------------------------------------------------------------------------------------

    def is_due(self, us: int) -> bool:
        """Whether early values are to be told, now that the clock says `us`."""
        spec = self._spec
        if spec is None or spec.pace_us is None or not (self._changed or spec.again) or us < self._next_us:
            return False
        self._next_us = us - us % spec.pace_us + spec.pace_us
        return True

    def early(self, rows: pa.Table, over: pa.Table | None) -> Iterable[Batch]:
        """`rows`: what would be told if the input ended now. `over`: those of windows that are over and may be
        revised."""
        assert self._spec is not None
        if over is None:
            yield from self._tell(self._told.changes(_kept(rows), "true", final=False, again=self._spec.again))
        else:
            yield from self._revise(over, lambda: rows)
            fresh = _marked(_kept(_without(rows, over)), final=False)
            yield from self._tell(self._told.changes(fresh, "false", final=None, again=self._spec.again))
        self._changed = False

    # --- final -------------------------------------------------------------------------------------------

    def final(self, rows: pa.Table) -> Iterable[Batch]:
        """`rows`: of windows that are over, for good."""
        kept = _kept(rows)
        if self._spec is None:
            yield from self._tell(kept.drop_columns([KEY]))
        elif rows.num_rows:
            yield from self._tell(self._told.changes(kept, "false", final=True, again=True))
            self._told.drop(KEY, rows.column(KEY))
            self._changed = True

    def ended(self, rows: pa.Table) -> Iterable[Batch]:
        """The last: `rows` is of all windows that were not let go of."""
        if self._spec is None:
            yield from self.final(rows)
        else:
            if self.revises:
                changes = self._told.changes(_marked(_kept(rows), final=True), "true", final=None, again=False)
            else:
                changes = self._told.changes(_kept(rows), "true", final=True, again=True)
            yield from self._tell(changes)
            self._told.keep(KEY, rows.column(KEY).slice(0, 0))

    # --- revised -----------------------------------------------------------------------------------------

    @property
    def revises(self) -> bool:
        return self._spec is not None and self._spec.revise_us > 0

    def may_look(self, us: int) -> bool:
        """Whether the watermark has come far enough to tell what is over now, and what late rows have changed."""
        assert self._spec is not None
        return us - self.looked_us >= self._spec.look_us

    def settled_us(self, us: int) -> int:
        """Windows that were over at this watermark are settled when it has come to `us`."""
        assert self._spec is not None
        return max(MIN_US, us - self._spec.revise_us)

    def look(self, over: pa.Table, settled: Keys, rows: Callable[[], pa.Table]) -> Iterable[Batch]:
        """`over`: the rows of windows that are over if no late row comes; `settled`: those of windows that are over for
        good; `rows` gives what would be told if the input ended now."""
        yield from self._revise(over, rows)
        self._told.drop(KEY, settled)

    def _revise(self, over: pa.Table, rows: Callable[[], pa.Table]) -> Iterable[Batch]:
        """Tell what is over and was not told so; what is open stays as it was told."""
        fresh = _marked(_kept(over), final=True)
        if self._told.has_others(over.column(KEY)):
            standing = self._told.standing(_kept(_without(rows(), over)).column(KEY))
            fresh = pa.concat_tables([fresh, standing.select(fresh.column_names).cast(fresh.schema)])
        yield from self._tell(self._told.changes(fresh, "true", final=None, again=False))

    # --- state -------------------------------------------------------------------------------------------

    def snapshot(self) -> State:
        return {} if self._told.table is None else {TOLD: self._told.table}

    def restore(self, state: State, rows: pa.Table | None) -> None:
        """`rows`: what would be told if the input ended now, where `told` is of several tasks."""
        if TOLD in state:
            told = state[TOLD]
            if MIXED in state and rows is not None:
                told = told.filter(pc.is_in(told.column(KEY), rows.column(KEY))).combine_chunks()
            self._told.restore(self._marked_or_not(told))
        self._changed = True

    def _marked_or_not(self, told: pa.Table) -> pa.Table:
        """A query that was changed may have told its rows with revisions before, or do so from now on."""
        if self.revises == (FINAL in told.column_names):
            return told
        return _marked(told, final=False) if self.revises else told.drop_columns([FINAL])

    def _tell(self, rows: pa.Table | None) -> Iterable[Batch]:
        if rows is not None and rows.num_rows:
            self._counts.emitted += rows.num_rows
            yield Batch(rows)


def _kept(rows: pa.Table) -> pa.Table:
    """The rows for which HAVING holds."""
    return rows.filter(rows.column(KEEP)).drop_columns([KEEP])


def _without(rows: pa.Table, others: pa.Table) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows.column(KEY), others.column(KEY))))


def _marked(rows: pa.Table, *, final: bool) -> pa.Table:
    return rows.append_column(FINAL, pa.repeat(pa.scalar(final), rows.num_rows))
