"""What most operators have in common: counts, and passing on what does not concern them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.deadletters import LateRows
from mql.exec.items import EARLIER, MIN_US, TIME, Batch, Counts, End, Item, Roster, State, Tick, Watermark
from mql.exec.kernel import Session


class Base:
    """An operator without state that lets everything pass but batches."""

    def __init__(self, session: Session) -> None:
        self.counts = Counts()
        self._session = session

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        raise NotImplementedError

    def in_state(self) -> int:
        return 0

    def on_watermark(self, us: int) -> Iterable[Item]:
        yield Watermark(us)

    def on_tick(self, us: int) -> Iterable[Item]:
        yield Tick(us)

    def on_roster(self, roster: Roster) -> Iterable[Item]:
        yield roster

    def on_end(self) -> Iterable[Item]:
        yield End()

    def snapshot(self) -> State:
        return {}

    def restore(self, state: State) -> None:
        assert not state, "this operator has no state"

    def rows(self, sql: str, table: pa.Table, name: str = "batch") -> pa.Table:
        """The statement's rows over one table."""
        return self._session.run(sql, {name: table})


class Intake:
    """The start of a query's own work on a decoded batch: counts what comes, and takes late rows out.

    A row that is not sampled is counted so, else one that does not match, else one that is late.
    """

    def __init__(
        self,
        session: Session,
        counts: Counts,
        sampling: str | None,
        predicate: str | None,
        late: str | None,
        lateness_us: int,
    ) -> None:
        self._session = session
        self._counts = counts
        self._sampling = sampling
        self._late = late
        self._lateness_us = lateness_us
        self._only = " AND ".join(f"({condition})" for condition in (sampling, predicate) if condition) or "true"
        self.late = LateRows()

    def take(self, table: pa.Table) -> pa.Table:
        """The batch without the matching rows that are late.

        A row can be late only if its event time lies before the largest one earlier in its split less the lateness;
        where no row's does, nothing is computed.
        """
        self._counts.seen += table.num_rows
        if self._late is None or not is_suspicious(table, self._lateness_us):
            return table
        matching = f"{self._only} AND ({self._late})"
        late = self._session.run(f"SELECT * FROM batch WHERE {matching}", {"batch": table})
        if not late.num_rows:
            return table
        self._counts.late += late.num_rows
        self.late.add(late)
        return self._session.run(f"SELECT * FROM batch WHERE ({matching}) IS NOT TRUE", {"batch": table})

    def matched(self, table: pa.Table, rows: int) -> None:
        """So many rows of the batch (without late ones) went on; the others were sampled out or filtered."""
        gone = table.num_rows - rows
        if gone and self._sampling is not None:
            sampled = f"SELECT count(*) AS n FROM batch WHERE ({self._sampling}) IS NOT TRUE"
            out = int(self._session.run(sampled, {"batch": table}).column("n")[0].as_py())
            self._counts.sampled += out
            gone -= out
        self._counts.filtered += gone

    def count(self, table: pa.Table) -> int:
        """How many rows of the batch match, where the result does not tell."""
        sql = f"SELECT count(*) AS n FROM batch WHERE {self._only}"
        return int(self._session.run(sql, {"batch": table}).column("n")[0].as_py())


def is_suspicious(table: pa.Table, lateness_us: int) -> bool:
    """Whether any row of a batch could be late for something."""
    times = table.column(TIME).to_numpy()
    earlier = table.column(EARLIER).to_numpy()
    return bool(np.any(times < earlier - lateness_us))


class Pile:
    """One table of an operator's state: batches piled up, put together by its merge statement when it grows."""

    COMPACT_ROWS = 50_000

    def __init__(self, session: Session, merge: str | None) -> None:
        self._session = session
        self._merge = merge
        self._parts: list[pa.Table] = []
        self._blank: pa.Table | None = None
        self._rows = 0
        self._compacted_rows = 0

    @property
    def rows(self) -> int:
        return self._rows

    def add(self, table: pa.Table) -> None:
        if self._blank is None:
            self._blank = table.slice(0, 0)
        if not table.num_rows:
            return
        self._parts.append(table)
        self._rows += table.num_rows
        too_many_parts = len(self._parts) > 256
        if self._merge and (self._rows > max(self.COMPACT_ROWS, 4 * self._compacted_rows) or too_many_parts):
            self.replace(self._compact())
            self._compacted_rows = self._rows
        elif too_many_parts:
            self._parts = [self.table()]

    def table(self) -> pa.Table | None:
        """All rows as one table, None where there are none."""
        if not self._parts:
            return None
        if len(self._parts) > 1:
            self._parts = [pa.concat_tables(self._parts)]
        return self._parts[0]

    def table_or_blank(self) -> pa.Table | None:
        """The same, but where there are no rows any more (or never were) a table of their columns."""
        return self._blank if self.table() is None else self.table()

    def replace(self, table: pa.Table) -> None:
        self._parts = [table] if table.num_rows else []
        self._rows = table.num_rows

    def clear(self) -> None:
        self._parts, self._rows = [], 0

    def drop(self, mask: pa.Array) -> None:
        """Let go of the rows for which the mask is true."""
        table = self.table()
        if table is not None:
            # combine_chunks copies what stays, so that what goes is freed.
            self.replace(table.filter(pc.invert(mask)).combine_chunks())

    def _compact(self) -> pa.Table:
        assert self._merge is not None
        table = self.table()
        assert table is not None
        merged = self._session.run(self._merge, {"state": table})
        return merged.select(table.column_names).cast(table.schema)


def snapshot_of(piles: Mapping[str, Pile]) -> dict[str, pa.Table]:
    """The tables of piles that have been added to."""
    return {name: table for name, pile in piles.items() if (table := pile.table_or_blank()) is not None}


MIXED = "mixed"
"""In a state: its table `told` is that of other tasks, too."""


def number_state(**values: int) -> pa.Table:
    """A few numbers as a one-row table, for a snapshot."""
    return pa.table({name: pa.array([value], pa.int64()) for name, value in values.items()})


def number_in(state: State, name: str) -> int:
    """One of the numbers of a snapshot; the least there is where an older one lacks it."""
    numbers = state["numbers"]
    return int(numbers.column(name)[0].as_py()) if name in numbers.column_names else MIN_US
