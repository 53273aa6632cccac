"""The end of a query's tasks: rows lose their hidden columns and go to the results, closed windows are sealed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import pyarrow as pa

from mql.exec.items import MAX_US, MIN_US, Barrier, Batch, Done, End, Item, Roster, Tick, Watermark
from mql.exec.kernel import Session
from mql.exec.results import Results
from mql.planner.physical import Result
from mql.planner.sql import quote_identifier

HIDDEN = "__"
WINDOW_START, WINDOW_END = "__ws", "__we"
FINAL = "final"
KEYED = ("_key", "_revision", "_op", FINAL)


@dataclass(frozen=True, slots=True)
class Sealing:
    """A window of which final rows were told: how many, and a digest that does not depend on their order."""

    rows: int
    digest: int


class Collector:
    """Takes what the last stage's tasks say. Thread-safe; `on_end` is called once, with what ended the query."""

    def __init__(
        self,
        results: Results,
        result: Result,
        tasks: int,
        session: Session,
        on_end: Callable[[str], None],
        rows_max: int | None = None,
        on_barrier: Callable[[int], None] = lambda epoch: None,
        late: Callable[[], int] = lambda: 0,
    ) -> None:
        self.watermark_us = MIN_US
        self._results = results
        self._result = result
        self._session = session
        self._on_end = on_end
        self._rows_left = rows_max
        self._closed = False
        self._on_barrier = on_barrier
        self._late = late
        self._watermarks = [MIN_US] * tasks
        self._behind: dict[int, deque[Item]] = {}
        self._epoch = 0
        self._ended = 0
        self._open: dict[tuple[int, int], Sealing] = {}
        self._guard = threading.RLock()

    def tell(self, task: int, item: Item) -> None:
        """What comes behind a barrier waits until the barrier has come from all tasks: so it cuts the results too."""
        with self._guard:
            if task in self._behind:
                self._behind[task].append(item)
            else:
                self._take(task, item)

    def _take(self, task: int, item: Item) -> None:
        with self._guard:
            if self._closed:
                return
            match item:
                case Batch():
                    self.rows(item.table)
                case Watermark(us):
                    self._watermark(task, us)
                case Tick() | Roster():
                    pass
                case Barrier(epoch):
                    self._behind[task] = deque()
                    self._epoch = epoch
                    self._align()
                case End():
                    self._ended += 1
                    self._align()
                    self._watermark(task, MAX_US)
                    if self._ended == len(self._watermarks):
                        self._on_end("done")
                case Done():
                    self._on_end("limit")
                case _:
                    assert_never(item)

    def _align(self) -> None:
        """Where all tasks have sent the barrier, or have ended, what waited behind it goes on."""
        if not self._behind or len(self._behind) + self._ended < len(self._watermarks):
            return
        self._on_barrier(self._epoch)
        behind, self._behind = self._behind, {}
        for task, items in behind.items():
            for item in items:
                self.tell(task, item)

    def rows(self, table: pa.Table) -> None:
        """Rows as the operators give them; with the last that is asked for the query ends."""
        if self._rows_left is not None:
            table = table.slice(0, self._rows_left)
            self._rows_left -= table.num_rows
        starts = None
        if self._result.windowed and WINDOW_START in table.column_names and table.num_rows:
            starts = table.column(WINDOW_START).to_numpy()
            self._count(table)
        self._results.publish(visible(table), starts)
        if self._rows_left == 0:
            self._on_end("limit")

    def close(self) -> None:
        """Nothing more is taken."""
        with self._guard:
            if not self._closed:
                self._closed = True
                self._session.close()

    def _count(self, table: pa.Table) -> None:
        """Adds final rows to their windows, for the seal."""
        if self._result.emit != "final":
            return
        sql = digest_sql(visible(table).column_names, FINAL in table.column_names)
        for row in self._session.run(sql, {"rows": table}).to_pylist():
            before = self._open.get((row["we"], row["ws"]), Sealing(0, 0))
            self._open[row["we"], row["ws"]] = Sealing(before.rows + row["n"], before.digest ^ row["d"])

    def _watermark(self, task: int, us: int) -> None:
        self._watermarks[task] = max(self._watermarks[task], us)
        reached = min(self._watermarks)
        if reached <= self.watermark_us:
            return
        self.watermark_us = reached
        self._seal(reached)

    def _seal(self, reached_us: int) -> None:
        """Windows that are over are told to be final."""
        for we, ws in sorted(key for key in self._open if key[0] <= reached_us):
            self._results.seal(seal_of(ws, we, self._open.pop((we, ws)), self._late()))


def digest_sql(names: Sequence[str], some_are_early: bool, per: str = "") -> str:
    """Counts the final rows of each window, with a digest of their columns of these names."""
    only = f'WHERE "{FINAL}"' if some_are_early else ""
    columns = ", ".join(quote_identifier(name) for name in names if name not in KEYED)
    digest = f"bit_xor(hash(row({columns})))" if columns else "0::UBIGINT"
    group = f"{per}, " if per else ""
    return f'SELECT {group}"__ws" AS ws, "__we" AS we, count(*) AS n, {digest} AS d FROM rows {only} GROUP BY ALL'


def visible(table: pa.Table) -> pa.Table:
    """What readers see of the rows."""
    names = [name for name in table.column_names if not name.startswith(HIDDEN)]
    return table if len(names) == table.num_columns else table.select(names)


def seal_of(starts_us: int, ends_us: int, sealing: Sealing, late: int) -> Mapping[str, Any]:
    return {
        "window_start": starts_us,
        "window_end": ends_us,
        "rows": sealing.rows,
        "digest": f"{sealing.digest:016x}",
        "late": late,
    }
