"""Each event once for each of the queries that want it: where queries that differ in literals share a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from mql.exec.deadletters import LateRows
from mql.exec.items import Batch, Counts, Item, Roster, State
from mql.exec.kernel import Session
from mql.exec.ledger import Matched
from mql.exec.operators.base import Base, is_suspicious
from mql.exec.tallies import PerQuery
from mql.planner.physical import Expand
from mql.planner.sharing import QUERY

ROWS_MAX = 1_000_000
"""About so many rows come out of one statement at most."""
EASE = 8.0


class ExpandOperator(Base):
    """Joins batches with the roster, and knows what became of events for each query.

    How many rows come of one is learned as it goes; until that is known, a batch is taken in small pieces.
    """

    def __init__(self, spec: Expand, session: Session) -> None:
        super().__init__(session)
        self.matched = PerQuery()
        self.late = LateRows()
        """Each with the number of its query."""
        self.late_of = PerQuery()
        self.seen_before = PerQuery(-1)
        """What this operator had seen, and sampled out, when a query came."""
        self.sampled_before = PerQuery()
        self._spec = spec
        self._roster: pa.Table | None = None
        self._newest = -1
        self._each = 1.0

    def on_roster(self, roster: Roster) -> Iterable[Item]:
        numbers = roster.table.column(QUERY).to_numpy()
        fresh = numbers[numbers > self._newest]
        if len(fresh):
            self._newest = int(fresh.max())
            self.seen_before.put(fresh, self.counts.seen)
            self.sampled_before.put(fresh, self.counts.sampled)
            self._each += len(fresh)
        self._roster = roster.table
        yield roster

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        table = batch.table
        if self._roster is None or not self._roster.num_rows:
            self.counts.seen += table.num_rows
            return
        for found in self._expanded(self._in_time(table, self._roster), self._roster):
            self.matched.add(found.column(QUERY).to_numpy())
            self.counts.emitted += found.num_rows
            yield Batch(found)
        # Last, so that nobody who looks meanwhile takes for filtered what only has not been looked at.
        self._count_sampled(table)
        self.counts.seen += table.num_rows

    def restore(self, state: State) -> None:
        """A query's number is its family's affair; the roster comes anew."""

    def counted(self) -> Counted:
        """What became of events until now, for who asks later."""
        per_query = (self.matched, self.late_of, self.seen_before, self.sampled_before)
        return Counted(replace(self.counts), *(one.copy() for one in per_query))

    def _expanded(self, table: pa.Table, roster: pa.Table) -> Iterator[pa.Table]:
        at = 0
        while at < table.num_rows:
            rows = max(1, min(table.num_rows - at, int(ROWS_MAX / self._each)))
            piece = table if rows == table.num_rows else table.take(pa.array(np.arange(at, at + rows)))
            at += rows
            found = self._session.run(self._spec.sql, {"batch": piece, "roster": roster})
            self._each = max(found.num_rows / rows, self._each / EASE, 0.01)
            if found.num_rows:
                yield found

    def _count_sampled(self, table: pa.Table) -> None:
        if self._spec.sampling is not None and table.num_rows:
            out = self.rows(f"SELECT count(*) AS n FROM batch WHERE ({self._spec.sampling}) IS NOT TRUE", table)
            self.counts.sampled += int(out.column("n")[0].as_py())

    def _in_time(self, table: pa.Table, roster: pa.Table) -> pa.Table:
        """The batch without rows that are late; of these it is noted for whom."""
        late = self._spec.late
        if late is None or not is_suspicious(table, self._spec.lateness_us):
            return table
        gone = self.rows(f"SELECT * FROM batch WHERE {late}", table)
        if not gone.num_rows:
            return table
        missed = self._session.run(self._spec.late_sql, {"batch": gone, "roster": roster})
        self.late_of.add(missed.column(QUERY).to_numpy())
        self.counts.late += missed.num_rows
        self.late.add(missed)
        return self.rows(f"SELECT * FROM batch WHERE ({late}) IS NOT TRUE", table)


@dataclass(frozen=True, slots=True)
class Counted:
    """What had become of events in one operator at some moment, for each query."""

    counts: Counts
    matched: PerQuery
    late_of: PerQuery
    seen_before: PerQuery
    """What the operator had seen, and sampled out, when a query came."""
    sampled_before: PerQuery


def own_in(found: ExpandOperator | Counted, query: int) -> Matched:
    """What became of events for one query. Counts go on: those of what comes later on an event's way are read first."""
    matched, late = found.matched.get(query), found.late_of.get(query)
    before = found.seen_before.get(query)
    if before < 0:
        return Matched(matched=matched, late=late)
    sampled = found.counts.sampled - found.sampled_before.get(query)
    return Matched(found.counts.seen - before, matched, late, sampled)
