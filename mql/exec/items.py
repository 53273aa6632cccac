"""What flows: through a task's operators, between tasks, and out to readers.

Event times and clock readings are integers in microseconds since the epoch, UTC.

A *decoded* batch has the columns below beside one column per property path that queries read (named by
`column_name`). `__m` is the largest event time earlier in the row's own split (MIN_US where there is none): a row
is late for a window whose end is at or before `__m - lateness`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

TIME = "__t"  # event time, BIGINT microseconds
SPLIT = "__s"  # number of the split, INTEGER
OFFSET = "__o"  # position in the split, BIGINT
ARRIVAL = "__a"  # when it came in, BIGINT microseconds
EARLIER = "__m"  # largest event time earlier in the split, BIGINT microseconds
MIN_US = -(2**62)
MAX_US = 2**62

# --- raw: what a source gives ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of text, one event a line (JSON encoding), each ended by a newline.

    A line's offset is `base` + its first byte.
    """

    split: int
    data: bytes
    base: int
    arrival_us: int

    @property
    def next_offset(self) -> int:
        return self.base + len(self.data)


@dataclass(frozen=True, slots=True)
class Rows:
    """Events as an Arrow batch with the column `_offset` (int64, rising), and

    for encoding `json`: `_raw` (string, the event's text) and the envelope's columns;
    for encoding `columns`: one column per field of the shape;
    optionally `_reason` (string) and `_unread` (binary): why the source could not read an event, null where it could,
    and the event's bytes;
    optionally `_time` (int64 microseconds, null where unknown): the time that the source gives with the event.
    """

    split: int
    table: pa.RecordBatch
    arrival_us: int
    next_offset: int


Raw = Chunk | Rows

# --- inside a plan -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows on their way between operators. `port` tells apart the tables of one operator's output
    ("rows", and "bag0", "bag1", … for the value counts that some aggregates keep)."""

    table: pa.Table
    port: str = "rows"


@dataclass(frozen=True, slots=True)
class Watermark:
    """No row that counts for a window ending at or before `us` will come any more."""

    us: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The clock says `us`: operators that speak by the clock (EMIT EVERY, CHANGES, EARLY) may speak."""

    us: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """Everything before it belongs to the snapshot `epoch`; operators snapshot as it passes."""

    epoch: int


@dataclass(frozen=True, slots=True, eq=False)
class Roster:
    """From here on these queries share the plan: a row each, by their rising numbers `__q`, with their literals.
    `version` rises with each change."""

    version: int
    table: pa.Table


@dataclass(frozen=True, slots=True)
class End:
    """The input is over: everything becomes final."""


@dataclass(frozen=True, slots=True)
class Done:
    """An operator has all that the query asked for (LIMIT): the query may end. Flows down, then the task stops."""


Item = Batch | Watermark | Tick | Barrier | Roster | End | Done

State = Mapping[str, pa.Table]
"""An operator's state: named Arrow tables. Columnar, so it can be saved, split by key and merged."""


@dataclass(slots=True)
class Counts:
    """What became of events in one operator since it started; the ledger adds them up."""

    seen: int = 0
    filtered: int = 0
    late: int = 0
    sampled: int = 0
    malformed: int = 0
    skipped: int = 0
    dropped: int = 0
    emitted: int = 0


class Operator(Protocol):
    """One step of a task. Synchronous: what goes in comes out before the call returns. Plain state, no clock."""

    counts: Counts

    def on_batch(self, batch: Batch) -> Iterable[Item]: ...

    def in_state(self) -> int:
        """How many events are held back, neither emitted nor counted elsewhere yet."""
        ...

    def on_watermark(self, us: int) -> Iterable[Item]:
        """Yields what the watermark releases, the watermark itself (or a smaller one) last."""
        ...

    def on_tick(self, us: int) -> Iterable[Item]:
        """Yields what the clock releases, then the tick itself."""
        ...

    def on_roster(self, roster: Roster) -> Iterable[Item]:
        """Takes note of the queries that share the plan, then yields the roster."""
        ...

    def on_end(self) -> Iterable[Item]:
        """Yields what is left, then End."""
        ...

    def snapshot(self) -> State: ...

    def restore(self, state: State) -> None:
        """Takes over a snapshot; several calls merge (a task may inherit from several)."""
        ...
