"""A query's results: one bounded ring for all its readers, each of which is no more than a place in it.

Frames are made once and shared. A reader that stops reading costs nothing; what the ring has let go of meanwhile it is
told of by a Gap.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, Progress, RowsFrame, Seal, Warn
from mql.exec.items import MIN_US

ROWS_MAX = 100_000
BYTES_MAX = 16 << 20
ENTRIES_MAX = 20_000
CONFLATE_ROWS = 2_000
POLICIES = ("conflate", "drop", "disconnect")
KEY = "_key"

Starts = npt.NDArray[np.int64]


@dataclass(slots=True)
class Part:
    """Some rows of a table that many queries share, not cut out of it before somebody reads them."""

    table: pa.Table
    start: int
    end: int
    cursor: str

    def frame(self) -> RowsFrame:
        table = self.table
        if any(pa.types.is_nested(kind) for kind in table.schema.types):
            # A slice of structs has an offset that DuckDB refuses.
            return RowsFrame(table.take(pa.array(np.arange(self.start, self.end))), self.cursor)
        return RowsFrame(table.slice(self.start, self.end - self.start), self.cursor)


@dataclass(slots=True)
class Entry:
    """A frame in the ring. `before`: result rows ahead of it since the start. `starts`: of each row's window.

    Not frozen, nor is a part of a table: where thousands of queries get theirs of each batch, that takes half the time.
    """

    frame: Frame | Part
    rows: int
    bytes: int
    before: int
    starts: Starts | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in one run's results: the number of the next frame, and how many rows there were before it."""

    epoch: str
    number: int
    rows: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}.{self.rows}"


def cursor_of(text: str) -> Cursor | None:
    """The cursor that a reader hands back; None where it is none of ours."""
    epoch, dash, place = text.rpartition("-")
    number, dot, rows = place.partition(".")
    if not (dash and dot and number.isdecimal() and rows.isdecimal()):
        return None
    return Cursor(epoch, int(number), int(rows))


def cursor_within(frame: RowsFrame, taken: int) -> str | None:
    """The position behind so many of a frame's rows; None where there is none. It names the frame itself, and a row
    in its midst: who hands it back gets the rest."""
    if taken == frame.table.num_rows:
        return frame.cursor
    counted = frame.table.num_rows if frame.counted is None else frame.counted
    end = cursor_of(frame.cursor)
    if end is None or not counted:
        return None
    return str(Cursor(end.epoch, end.number - 1, end.rows - counted + taken))


class Results:
    """The ring. Written by the query's last tasks, read by any number of subscriptions. Thread-safe.

    While `keep_all` holds (a bounded query, the history before a live one), `full` asks the writers to wait for the
    slowest reader instead of letting go of what it has not had. `on_room` is called when there is room again. Of what
    all have read half of the bounds is kept for those who come back; nothing, where it is read `once`.
    """

    def __init__(
        self,
        epoch: str,
        *,
        keep_all: bool = False,
        once: bool = False,
        rows_max: int | None = None,
        bytes_max: int | None = None,
    ) -> None:
        self.epoch = epoch
        self.keep_all = keep_all
        self._once = once
        self.on_room: Callable[[], None] = lambda: None
        self.rows = 0
        self._rows_max = rows_max or ROWS_MAX
        self._bytes_max = bytes_max or BYTES_MAX
        self._entries: dict[int, Entry] = {}
        self._first = 0
        self._next = 0
        self._kept_rows = 0
        self._kept_bytes = 0
        self._progress: Progress | None = None
        self._progress_number = 0
        self._last: Ended | Failed | None = None
        self._readers: tuple[Reading, ...] = ()
        self._guard = threading.RLock()

    # --- writing ---------------------------------------------------------------------------------------

    def publish(self, table: pa.Table, starts: Starts | None = None) -> None:
        """Rows for all readers; `starts`: where each row's window starts. After the end they go nowhere."""
        if not table.num_rows:
            return
        with self._guard:
            if self._last is not None:
                return
            cursor = Cursor(self.epoch, self._next + 1, self.rows + table.num_rows)
            self._append(RowsFrame(table, str(cursor)), table.num_rows, table.nbytes, starts)
        self._wake()

    def publish_part(self, table: pa.Table, start: int, end: int, size: int, starts: Starts | None) -> int:
        """The same for rows from `start` to `end` of a table; `size` is what they weigh. Gives the frame's number."""
        rows = end - start
        with self._guard:
            number = self._next
            if self._last is not None:
                return number
            cursor = f"{self.epoch}-{number + 1}.{self.rows + rows}"
            self._append(Part(table, start, end, cursor), rows, size, starts)
        self._wake()
        return number

    def let_go_to(self, number: int) -> None:
        """Lets go of the frames up to this one, whoever has not read them."""
        with self._guard:
            while self._first <= number and self._first < self._next:
                self._drop_first()

    def seal(self, data: Mapping[str, Any]) -> None:
        with self._guard:
            if self._last is not None:
                return
            self._append(Seal(data, str(Cursor(self.epoch, self._next + 1, self.rows))), 0, 500, None)
        self._wake()

    def say(self, frame: Phase | Warn | Gap) -> None:
        """A frame without rows, in its place among them."""
        with self._guard:
            if self._last is not None:
                return
            self._append(frame, 0, 500, None)
        self._wake()

    def progress(self, data: Mapping[str, Any]) -> None:
        """The newest numbers; a reader that missed some gets the newest only."""
        with self._guard:
            if self._last is not None:
                return
            self._progress = Progress(data)
            self._progress_number += 1
        for reading in self._readers:
            if reading.wants_progress:
                reading.ring()

    def finish(self, frame: Ended | Failed) -> None:
        """The last frame; the first one that comes counts."""
        with self._guard:
            if self._last is None:
                self._last = frame
        self._wake()
        self.on_room()

    @property
    def finished(self) -> Ended | Failed | None:
        return self._last

    @property
    def full(self) -> bool:
        """Writers are to wait for the readers."""
        if not self.keep_all or self._last is not None:
            return False
        return self._kept_rows >= self._rows_max or self._kept_bytes >= self._bytes_max

    @property
    def place(self) -> Cursor:
        """The place after all that is there."""
        with self._guard:
            return Cursor(self.epoch, self._next, self.rows)

    @property
    def readers(self) -> int:
        return len(self._readers)

    @property
    def wants_progress(self) -> bool:
        """Somebody reads how it goes."""
        return any(reading.wants_progress for reading in self._readers)

    def _append(self, frame: Frame | Part, rows: int, size: int, starts: Starts | None) -> None:
        self._entries[self._next] = Entry(frame, rows, size, self.rows, starts)
        self._next += 1
        self.rows += rows
        self._kept_rows += rows
        self._kept_bytes += size
        self._let_go()

    def _let_go(self) -> None:
        """Of the oldest frames what the bounds do not hold; under `keep_all`, of what every reader has had, half."""
        rows_max, bytes_max, last = self._rows_max, self._bytes_max, self._next - 1
        if self.keep_all:
            rows_max, bytes_max = (-1, -1) if self._once else (rows_max // 2, bytes_max // 2)
            last = min((reading.number for reading in self._readers), default=self._first)
        elif self._kept_rows <= rows_max and self._kept_bytes <= bytes_max and last - self._first < ENTRIES_MAX:
            return
        while self._first < last and (
            self._kept_rows > rows_max or self._kept_bytes > bytes_max or self._next - self._first > ENTRIES_MAX
        ):
            self._drop_first()

    def _drop_first(self) -> None:
        gone = self._entries.pop(self._first)
        self._first += 1
        self._kept_rows -= gone.rows
        self._kept_bytes -= gone.bytes

    def _wake(self) -> None:
        for reading in self._readers:
            reading.ring()

    # --- reading ---------------------------------------------------------------------------------------

    def read(
        self,
        meta: Meta,
        at: Cursor,
        *,
        on_lag: str,
        not_before_us: int = MIN_US,
        on_close: Callable[[Reading], None] = lambda reading: None,
        progress: bool = True,
    ) -> Reading:
        """A new reader that begins at a place; rows of windows that start earlier than `not_before_us` are not its.
        `progress`: it is told how it goes."""
        assert on_lag in POLICIES, on_lag
        with self._guard:
            reading = Reading(self, meta, at, on_lag, not_before_us, on_close, progress)
            self._readers = (*self._readers, reading)
        return reading

    def after(self, reading: Reading, frames_max: int) -> list[Frame]:
        """What waits for a reader, and moves its place on."""
        with self._guard:
            found = self._resumed(reading)
            lagging = self.rows - reading.rows > CONFLATE_ROWS
            if reading.on_lag == "conflate" and lagging and not self.keep_all:
                found += self._conflated(reading)
            while len(found) < frames_max and reading.number < self._next:
                entry = self._entries[reading.number]
                frame = rest_of(reading.filtered(entry), reading.rows - entry.before)
                reading.number += 1
                reading.rows = entry.before + entry.rows
                if frame is not None:
                    found.append(frame)
            if reading.number == self._next:
                found += self._newest(reading)
            was_full = self.full
            if self.keep_all:
                self._let_go()
        if was_full and not self.full:
            self.on_room()
        return found

    def has_for(self, reading: Reading) -> bool:
        with self._guard:
            news = reading.wants_progress and reading.progress < self._progress_number
            waits = reading.number < self._next or news
            return not reading.ended and (waits or self._last is not None)

    def leave(self, reading: Reading) -> None:
        with self._guard:
            self._readers = tuple(other for other in self._readers if other is not reading)
            was_full = self.full
            if self.keep_all:
                self._let_go()
        if was_full and not self.full:
            self.on_room()

    def _resumed(self, reading: Reading) -> list[Frame]:
        """Brings a reader whose place is gone to the oldest that is there, and tells it what it missed."""
        if reading.number >= self._first:
            return []
        oldest = self._entries[self._first].before if self._first < self._next else self.rows
        missed = oldest - reading.rows
        here = Cursor(self.epoch, reading.number, reading.rows)
        reading.number, reading.rows = self._first, oldest
        if not missed:
            return []
        to = Cursor(self.epoch, reading.number, reading.rows)
        if reading.on_lag == "disconnect":
            reading.number, reading.ended = self._next, True
            return [Failed(too_slow(missed, str(here)))]
        return [Gap({"rows": missed, "from": str(here), "to": str(to), "why": "the reader was too slow"})]

    def _conflated(self, reading: Reading) -> list[Frame]:
        """All that waits as one frame with the newest row of each key, where rows have keys."""
        entries = [self._entries[number] for number in range(reading.number, self._next)]
        frames = [frame for entry in entries if (frame := reading.filtered(entry)) is not None]
        tables = [frame.table for frame in frames if isinstance(frame, RowsFrame)]
        if not tables or KEY not in tables[0].column_names:
            return []
        reading.number, reading.rows = self._next, self.rows
        rows = newest_by_key(pa.concat_tables(tables, promote_options="default"))
        others = [frame for frame in frames if not isinstance(frame, RowsFrame)]
        return [*others, RowsFrame(rows, str(Cursor(self.epoch, self._next, self.rows)), counted=0)]

    def _newest(self, reading: Reading) -> list[Frame]:
        """Behind all rows: the newest progress, and the end."""
        found: list[Frame] = []
        if reading.wants_progress and self._progress is not None and reading.progress < self._progress_number:
            reading.progress = self._progress_number
            found.append(self._progress)
        if self._last is not None and not reading.ended:
            reading.ended = True
            found.append(self._last)
        return found


class Reading:
    """One reader's place in the ring: what a subscription is."""

    def __init__(
        self,
        results: Results,
        meta: Meta,
        at: Cursor,
        on_lag: str,
        not_before_us: int,
        on_close: Callable[[Reading], None],
        wants_progress: bool,
    ) -> None:
        self.wants_progress = wants_progress
        self.number = at.number
        self.rows = at.rows
        self.progress = 0
        self.ended = False
        self.on_lag = on_lag
        self._results = results
        self._own: deque[Frame] = deque([meta])
        self._not_before_us = not_before_us
        self._on_close = on_close
        self._wake: Callable[[], None] | None = None
        self._asleep = True
        self._rung = threading.Event()
        self._rung.set()
        self._closed = False
        self._cut: Ended | None = None

    def say(self, frame: Frame) -> None:
        """A frame for this reader alone, before all others."""
        self._own.append(frame)
        self.ring()

    def end(self, frame: Ended) -> None:
        """The end for this reader alone: it gets what waits, then this."""
        self._cut = frame
        self.ring()

    def take(self, max_frames: int = 100) -> Sequence[Frame]:
        """What waits now, without blocking. Meta comes first; after Ended or Failed nothing comes."""
        found: list[Frame] = []
        self._rung.clear()
        self._asleep = True
        while self._own and len(found) < max_frames:
            found.append(self._own.popleft())
        if not self.ended and not self._closed and len(found) < max_frames:
            found += self._results.after(self, max_frames - len(found))
        if self._cut is not None and not self.ended and len(found) < max_frames:
            self.ended = True
            found.append(self._cut)
        if self._own or self._results.has_for(self):
            self.ring()
        return found

    def wait(self, timeout_s: float) -> bool:
        """Blocks until something waits (True) or the time is over."""
        return self._rung.wait(timeout_s)

    def on_ready(self, wake: Callable[[], None] | None) -> None:
        """`wake` is called, from a thread of the engine, once whenever something new waits until that is taken."""
        self._wake = wake
        if wake is not None and (self._own or self._results.has_for(self)):
            wake()

    def close(self) -> None:
        """The reader leaves; what only it used ends after the query's linger."""
        if self._closed:
            return
        self._closed = True
        self._wake = None
        self._rung.set()
        self._results.leave(self)
        self._on_close(self)

    def ring(self) -> None:
        """Wakes the reader, once until it takes something."""
        if self._asleep:
            self._asleep = False
            self._rung.set()
            wake = self._wake
            if wake is not None:
                wake()

    def filtered(self, entry: Entry) -> Frame | None:
        """The frame without rows of windows that started before this reader came; None where nothing is left."""
        frame = entry.frame.frame() if isinstance(entry.frame, Part) else entry.frame
        if self._not_before_us == MIN_US or entry.starts is None or not isinstance(frame, RowsFrame):
            return frame
        due = entry.starts >= self._not_before_us
        if due.all():
            return frame
        rows = frame.table.filter(pa.array(due))
        return RowsFrame(rows, frame.cursor, counted=entry.rows) if rows.num_rows else None


def rest_of(frame: Frame | None, taken: int) -> Frame | None:
    """The frame for a reader that has had so many of its rows."""
    if taken <= 0 or not isinstance(frame, RowsFrame):
        return frame
    return RowsFrame(frame.table.slice(taken), frame.cursor) if taken < frame.table.num_rows else None


def newest_by_key(table: pa.Table) -> pa.Table:
    """Of each key the last row, in the order in which they came."""
    keys = table.column(KEY).combine_chunks().dictionary_encode()
    codes = keys.indices.to_numpy(zero_copy_only=False)
    last = np.full(len(keys.dictionary), -1, np.int64)
    np.maximum.at(last, codes, np.arange(len(codes)))
    return table.take(pa.array(np.sort(last)))


def too_slow(missed: int, cursor: str) -> Mapping[str, Any]:
    return {
        "code": "reader-too-slow",
        "detail": f"{missed} rows came while this reader was not reading",
        "hint": "Read on from the cursor, or ask for on_lag=drop or conflate.",
        "retryable": True,
        "cursor": cursor,
    }
