"""One side of a join's state: rows in tables that each cover a stretch of time, so that a look at some minutes of it
reads those alone, and what is over is let go of table by table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import TIME

DECIDED, OVER = "__u", "__v"
"""Columns of rows in state: when the watermark gets to the first, no partner can come any more; to the second, nobody
looks at the row any more."""
SEALED_ROWS = 50_000
LOOSE_MAX = 32


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows with the bounds of their columns."""

    table: pa.Table
    first_us: int
    last_us: int
    first_over_us: int
    last_over_us: int


class Segments:
    """The rows of one side, as they came. `blank` is a table of its columns without rows."""

    def __init__(self, blank: pa.Table) -> None:
        self._blank = blank
        self._sealed: list[Segment] = []
        self._loose: list[Segment] = []
        self.rows = 0
        self.bytes = 0

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        self._count(table, 1)
        self._loose.append(segment(table))
        if len(self._loose) > LOOSE_MAX or sum(one.table.num_rows for one in self._loose) > SEALED_ROWS:
            self._seal()

    def table(self) -> pa.Table:
        """All rows."""
        return self._together(self._all())

    def between(self, first_us: int, last_us: int) -> pa.Table:
        """All rows with times from `first_us` to `last_us`, and maybe others."""
        return self._together(one for one in self._all() if one.last_us >= first_us and one.first_us <= last_us)

    def decided(self, since_us: int, until_us: int) -> pa.Table:
        """The rows that were decided after `since_us` and up to `until_us`."""
        parts = []
        for one in self._all():
            at = one.table.column(DECIDED)
            chosen = one.table.filter(pc.and_(pc.greater(at, since_us), pc.less_equal(at, until_us)))
            if chosen.num_rows:
                parts.append(chosen)
        return pa.concat_tables(parts) if parts else self._blank

    def let_go(self, until_us: int) -> None:
        """Lets go of the rows that are over; of a few of them somewhat later, for it takes copying the others."""
        if any(one.first_over_us <= until_us for one in self._all()):
            self._sealed = list(self._kept(self._sealed, until_us))
            self._loose = list(self._kept(self._loose, until_us))

    def clear(self) -> None:
        self._sealed, self._loose, self.rows, self.bytes = [], [], 0, 0

    def _kept(self, segments: Iterable[Segment], until_us: int) -> Iterable[Segment]:
        for one in segments:
            if one.last_over_us <= until_us:
                self._count(one.table, -1)
            elif until_us - one.first_over_us > (one.last_over_us - one.first_over_us) // 2:
                kept = one.table.filter(pc.greater(one.table.column(OVER), until_us)).combine_chunks()
                self._count(one.table, -1)
                self._count(kept, 1)
                yield segment(kept)
            else:
                yield one

    def _seal(self) -> None:
        """The rows that came last as one table."""
        table = pa.concat_tables([one.table for one in self._loose]).combine_chunks()
        self._sealed.append(segment(table))
        self._loose = []

    def _all(self) -> Iterable[Segment]:
        yield from self._sealed
        yield from self._loose

    def _together(self, segments: Iterable[Segment]) -> pa.Table:
        tables = [one.table for one in segments]
        return pa.concat_tables(tables) if tables else self._blank

    def _count(self, table: pa.Table, sign: int) -> None:
        self.rows += sign * table.num_rows
        self.bytes += sign * table.nbytes


def segment(table: pa.Table) -> Segment:
    times, over = pc.min_max(table.column(TIME)).as_py(), pc.min_max(table.column(OVER)).as_py()
    return Segment(table, times["min"], times["max"], over["min"], over["max"])
