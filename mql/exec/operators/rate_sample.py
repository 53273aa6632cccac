"""SAMPLE n PER SECOND: of each second of event time, the rows with the smallest hashes."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.deadletters import LateRows
from mql.exec.items import MAX_US, TIME, Batch, End, Item, State, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Intake, Pile
from mql.planner.physical import RateSample
from mql.planner.windows import floor_sql

SECOND_US = 1_000_000


SEEN, WEIGHT = "__seen", "__weight"
"""How many rows of its second one stands for while it is held, the first of them for all; and what it weighs then."""


class RateSampleOperator(Base):
    """Holds each second until the watermark has passed it; never more of it than are kept. Gives decoded batches."""

    def __init__(self, spec: RateSample, session: Session) -> None:
        super().__init__(session)
        second = floor_sql(f'"{TIME}"', SECOND_US)
        late = f'{second} + {SECOND_US} <= "__m" - {spec.lateness_us}' if spec.live else None
        self._intake = Intake(session, self.counts, None, None, late, spec.lateness_us)
        rank = f'row_number() OVER (PARTITION BY {second} ORDER BY {spec.hash}, "__s", "__o")'
        self._weighs = spec.weighs
        seen = f'CASE {rank} WHEN 1 THEN sum("{SEEN}") OVER (PARTITION BY {second})::BIGINT ELSE 0 END'
        columns = f'* REPLACE ({seen} AS "{SEEN}")' if spec.weighs else "*"
        self._best = f"SELECT {columns} FROM rows QUALIFY {rank} <= {spec.per_second}"
        weight = f'sum("{SEEN}") OVER (PARTITION BY {second})::DOUBLE / count(*) OVER (PARTITION BY {second})'
        self._weigh = f'SELECT * EXCLUDE ("{SEEN}"), {weight} AS "{WEIGHT}" FROM rows'
        self._held = Pile(session, None)

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        rows = self._intake.take(batch.table)
        if self._weighs:
            rows = rows.append_column(SEEN, pa.repeat(pa.scalar(1, pa.int64()), rows.num_rows))
        self._held.add(rows)
        table = self._held.table()
        if table is not None:
            best = self.rows(self._best, table, "rows")
            self.counts.sampled += table.num_rows - best.num_rows
            self._held.replace(best)
        return ()

    def in_state(self) -> int:
        return self._held.rows

    def on_watermark(self, us: int) -> Iterable[Item]:
        yield from self._release(us)
        yield Watermark(us)

    def on_end(self) -> Iterable[Item]:
        yield from self._release(MAX_US)
        yield End()

    def snapshot(self) -> State:
        held = self._held.table()
        return {} if held is None else {"held": held}

    def restore(self, state: State) -> None:
        if "held" in state:
            self._held.add(state["held"])

    @property
    def late(self) -> LateRows:
        return self._intake.late

    def _release(self, us: int) -> Iterable[Item]:
        table = self._held.table()
        if table is None:
            return
        over = pc.less(table.column(TIME), us - us % SECOND_US)
        rows = table.filter(over)
        if rows.num_rows:
            self._held.drop(over)
            self.counts.emitted += rows.num_rows
            yield Batch(self.rows(self._weigh, rows, "rows") if self._weighs else rows)
