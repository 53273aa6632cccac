"""What is told of windows before they are over: what would be told if the input ended now."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MIN_US, Batch, Counts, State
from mql.exec.kernel import Session
from mql.exec.operators.base import MIXED
from mql.exec.operators.told import KEY, Told
from mql.planner.physical import Early

KEEP = "__keep"
TOLD = "told"


class Speaker:
    """Tells the rows of windows that lie where events do, final and early.

    Such a window may grow at both ends and meet others, and its row then goes by another key: what was told of it
    early is taken back with the next early values.
    """

    def __init__(self, spec: Early | None, session: Session, counts: Counts) -> None:
        self._spec = spec
        self._counts = counts
        self._told = Told(session)
        self._changed = False
        self._next_us = MIN_US

    def changed(self) -> None:
        """Something came: open windows are no longer as they were told."""
        self._changed = True

    def is_due(self, us: int) -> bool:
        """Whether early values are to be told, now that the clock says `us`."""
        spec = self._spec
        if spec is None or not (self._changed or spec.again) or us < self._next_us:
            return False
        self._next_us = us - us % spec.pace_us + spec.pace_us
        return True

    def early(self, rows: pa.Table) -> Iterable[Batch]:
        """`rows`: what would be told if the input ended now."""
        assert self._spec is not None
        yield from self._changes(rows, final=False, again=self._spec.again)
        self._told.keep(KEY, rows.column(KEY))
        self._changed = False

    def final(self, rows: pa.Table) -> Iterable[Batch]:
        """`rows`: of windows that are over."""
        kept = rows.filter(rows.column(KEEP)).drop_columns([KEEP])
        if self._spec is None:
            kept = kept.drop_columns([KEY])
        elif rows.num_rows:
            told = self._told.changes(kept, "false", final=True, again=True)
            self._told.drop(KEY, kept.column(KEY))
            self._changed = True
            kept = kept.slice(0, 0) if told is None else told
        yield from self._tell(kept)

    def ended(self, rows: pa.Table) -> Iterable[Batch]:
        """The last: `rows` is what was still open."""
        if self._spec is None:
            yield from self.final(rows)
        else:
            yield from self._changes(rows, final=True, again=True)
            self._told.keep(KEY, rows.column(KEY).slice(0, 0))

    def snapshot(self) -> State:
        return {} if self._told.table is None else {TOLD: self._told.table}

    def restore(self, state: State, rows: pa.Table | None) -> None:
        """`rows`: what would be told if the input ended now, where `told` is of several tasks."""
        if TOLD in state:
            told = state[TOLD]
            if MIXED in state and rows is not None:
                told = told.filter(pc.is_in(told.column(KEY), rows.column(KEY))).combine_chunks()
            self._told.restore(told)
        self._changed = True

    def _changes(self, rows: pa.Table, *, final: bool, again: bool) -> Iterable[Batch]:
        kept = rows.filter(rows.column(KEEP)).drop_columns([KEEP])
        told = self._told.changes(kept, "true", final=final, again=again)
        if told is not None:
            yield from self._tell(told)

    def _tell(self, rows: pa.Table) -> Iterable[Batch]:
        if rows.num_rows:
            self._counts.emitted += rows.num_rows
            yield Batch(rows)
