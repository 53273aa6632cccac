"""`FROM job.name`: a job's results as a source, live and back to its oldest row.

A row's offset is its number in the job's result log, and only what the log shows to readers is read. So who reads with
a guarantee goes on, after any crash of either, at the very next row. A row's event time is the end of its window (its
last microsecond), else its own `event_time`, else the time of the event that it was made of where that was selected,
else when it was stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.catalog import SourceInfo, TimeRule
from mql.errors import MqlError
from mql.exec.feed import From, Positions, Reader
from mql.exec.frames import Meta, RowsFrame
from mql.exec.items import Raw, Rows
from mql.learn import parse_type
from mql.planner.physical import SPLITS_MAX
from mql.schema import Field, Shape
from server import encode
from server.outline import WINDOW_TIMES, Outline
from server.resultlog import Length, LogReading, ResultLog
from sources.columns import conform

PREFIX = "job."
RECORDS_MAX = 64
HOUR_US = 3_600_000_000


class JobSource:
    """One job's results. `standing` says why nothing comes at the moment, in a sentence, or None; `say` notes
    in the job's log what somebody should know of."""

    def __init__(
        self,
        job: str,
        outline: Outline,
        results: ResultLog,
        standing: Callable[[], str | None],
        say: Callable[[str, str], None],
    ) -> None:
        self.job = job
        self.log = results
        self.standing = standing
        self.say = say
        self.fields = tuple(Field(name, parse_type(type)) for name, type in outline.names.items())
        self.split = int(results.id[:8], 16) % SPLITS_MAX
        """Made of the log's own name: a place in the results of an earlier job of this name is none in these."""
        self._time = outline.time[0] if outline.time is not None and outline.time[1] == "auto" else None
        rule = TimeRule()
        if outline.time is not None and self._time is None:
            rule = TimeRule((outline.time[0],), outline.time[1])
        self.info = SourceInfo(
            name=PREFIX + job,
            shape=Shape(self.fields),
            kind="job",
            encoding="columns",
            time=rule,
            lateness_us=outline.lateness_us,
            history=True,
        )

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        return JobReader(self, self.log.committed.rows if start is None else self._row(start))

    def end(self) -> Positions:
        return {self.split: self.log.committed.rows}

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        end = self.log.committed.rows if until is None else min(self.log.committed.rows, until.get(self.split, 0))
        place = Place(self, self._row(since))
        number = 0
        while place.row < end:
            items = place.take(RECORDS_MAX, end)
            for item in items:
                if number % parts == part:
                    yield item
                number += 1
            if not items:
                return

    def sample(self, n: int) -> Sequence[bytes]:
        end = self.log.committed.rows
        tables, _ = self.log.tables(range(max(0, end - n), end), 0, 2**62, n)
        return tuple(encode.dumps(row) for table in tables for row in encode.rows_of(table))

    def close(self) -> None:
        """The log belongs to the job."""

    def _row(self, start: From) -> int:
        if start.positions is not None:
            return start.positions.get(self.split, 0)
        return 0 if start.time_us is None else self.log.row_before(start.time_us - HOUR_US)

    def rows(self, table: pa.Table, first: int, at_us: int) -> Rows:
        """Result rows as events: their numbers, and their times where the rows themselves do not tell."""
        batch = table.combine_chunks().to_batches()[0]
        plain = conform(batch, self.fields)
        numbers = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
        arrays = [*plain.columns, numbers, self._times(batch, at_us)]
        found = pa.RecordBatch.from_arrays(arrays, [*plain.schema.names, "_offset", "_time"])
        return Rows(self.split, found, at_us, first + batch.num_rows)

    def _times(self, batch: pa.RecordBatch, at_us: int) -> pa.Array:
        name = self._time
        if name is None or name not in batch.schema.names or not pa.types.is_timestamp(batch.column(name).type):
            return pa.array(np.full(batch.num_rows, at_us, np.int64))
        times = batch.column(name).cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        return pc.subtract(times, 1) if name == WINDOW_TIMES[0] else times


class Place:
    """How far somebody has read a job's log. What is gone meanwhile is stepped over, and counted."""

    def __init__(self, source: JobSource, row: int) -> None:
        self.source = source
        self.row = row
        self.lost = 0
        self._at = source.log.at_row(row)

    def take(self, records_max: int, end: int) -> list[Raw]:
        """Rows from here up to (not with) that row; at most of so many records."""
        log = self.source.log
        found: list[Raw] = []
        read = log.read(self._at.number, records_max)
        if not read and self._at.number < log.committed.number:
            return self._stepped(records_max, end)
        for at_us, frame in read:
            if not isinstance(frame, RowsFrame):
                self._at = Length(self._at.number + 1, self._at.rows)
                continue
            table, first = frame.table, self._at.rows
            if first >= end:
                break
            table = table.slice(max(0, self.row - first), end - max(first, self.row))
            start = max(first, self.row)
            self._at = Length(self._at.number + 1, first + frame.table.num_rows)
            if table.num_rows:
                found.append(self.source.rows(table, start, at_us))
                self.row = start + table.num_rows
        return found

    def _stepped(self, records_max: int, end: int) -> list[Raw]:
        """Records here are gone or damaged: on with those behind."""
        log = self.source.log
        following = [one for one in log.segments if one.number > self._at.number]
        there = log.at_row(following[0].rows) if following else log.committed
        self.lost += max(0, there.rows - self.row)
        self._at, self.row = there, max(self.row, there.rows)
        return self.take(records_max, end) if following else []


class JobReader:
    """A live reading of a job's results."""

    ended = False

    def __init__(self, source: JobSource, row: int) -> None:
        oldest = source.log.oldest.rows
        self._source = source
        self._lost = max(0, oldest - row) if row else 0
        self._place = Place(source, max(row, oldest))
        self._polled = False
        self._bell: LogReading = source.log.reading(Meta({}), None, live=True)

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        if self._polled:
            self._lost = 0  # it has been told
        self._polled = True
        self._bell.quiet()
        found = self._taken(max_bytes)
        if not found:
            self._bell.wait(timeout_s)
            self._bell.quiet()
            found = self._taken(max_bytes)
        self._lost += self._place.lost
        self._place.lost = 0
        if self._lost:
            self._source.say("error", f"{self._lost} rows were gone before {PREFIX}{self._source.job} gave them")
        return found

    def _taken(self, max_bytes: int) -> list[Raw]:
        found: list[Raw] = []
        size = 0
        while size < max_bytes and (items := self._place.take(4, self._source.log.committed.rows)):
            found += items
            size += sum(item.table.nbytes for item in items if isinstance(item, Rows))
        return found

    @property
    def splits(self) -> tuple[int, ...]:
        return (self._source.split,)

    @property
    def positions(self) -> Positions:
        return {self._source.split: self._place.row}

    @property
    def trouble(self) -> str | None:
        if self._lost:
            return f"{self._lost} rows of job {self._source.job} were gone before they were read"
        return self._source.standing()

    def close(self) -> None:
        self._bell.close()


def upstreams(outline: Outline) -> tuple[str, ...]:
    """The jobs whose results a job reads."""
    return tuple(name.removeprefix(PREFIX) for name in outline.sources if name.startswith(PREFIX))


def check_cycle(name: str, outline: Outline, outlines: Mapping[str, Outline]) -> None:
    """MqlError where a job would read, by way of others, what it tells itself."""
    seen: set[str] = set()
    path: list[tuple[str, tuple[str, ...]]] = [(one, (name, one)) for one in upstreams(outline)]
    while path:
        at, way = path.pop()
        if at == name:
            hint = "A job may read what others tell, but not what becomes of its own rows."
            raise MqlError(f"jobs would read each other in a circle: {' from '.join(way)}", hint=hint, code="cycle")
        if at not in seen and at in outlines:
            seen.add(at)
            path += [(one, (*way, one)) for one in upstreams(outlines[at])]
