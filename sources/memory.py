"""Events that are in memory: for `mql.run`, notebooks and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pyarrow as pa

from mql.catalog import SourceInfo, TimeRule
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader
from mql.exec.items import Chunk, Raw, Rows
from mql.schema import Shape
from sources.columns import conform, rows_of, shape_of
from sources.learning import Learner
from sources.pieces import CHUNK_BYTES, slices
from sources.ring import Ring
from sources.settings import DEFAULTS, Settings, describe

ROWS_PER_BATCH = 65_536

Events = Iterable[Any]
"""Dicts; or one Arrow table; or a list of Arrow tables, one a split."""


class MemorySource:
    """Events in memory, as dicts (which travel as JSON texts) or as Arrow tables (which stay columns).

    A list of tables gives each a split of its own. `bounded=False`: more may be given by `push` until `finish`.
    Offsets are bytes of JSON text, or rows of a table. A reader of a bounded one always begins with the first event.
    """

    def __init__(
        self,
        name: str,
        events: Events = (),
        *,
        time: TimeRule | None = None,
        bounded: bool = True,
        splits: int = 1,
        settings: Settings = DEFAULTS,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.bounded = bounded
        self.clock = clock or SystemClock()
        self.settings = settings if time is None else replace(settings, time=time)
        self.ring = Ring(merge=False)
        tables = tables_of(events)
        self.columns: Shape | None = None
        self.learner = Learner(open=settings.open)
        self.split_count = max(splits, len(tables), 1)
        self.ring.next = dict.fromkeys(range(self.split_count), 0)
        for split, table in enumerate(tables):
            self.push(split, table)
        if not tables:
            for split, share in enumerate(dealt(events, self.split_count)):
                self.push(split, share)
        if bounded:
            self.ring.finish()

    @property
    def info(self) -> SourceInfo:
        return describe(
            self.name,
            "memory",
            self.columns or self.learner.shape,
            self.settings,
            encoding="json" if self.columns is None else "columns",
            bounded=self.bounded,
            history=True,
            splits=self.split_count,
        )

    def push(self, split: int, events: Iterable[Mapping[str, Any]] | pa.Table) -> None:
        """Adds events to a split, with the clock's time as their arrival."""
        assert not self.ring.finished, "a finished source takes no more events"
        first = self.ring.end().get(split, 0)
        if isinstance(events, pa.Table):
            self.push_table(split, events, first)
            return
        data = b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE, default=str) for event in events)
        for chunk in slices(Chunk(split, data, first, self.clock.now_us()), CHUNK_BYTES):
            self.learner.see(chunk)
            self.ring.append(chunk)

    def push_table(self, split: int, table: pa.Table, first: int) -> None:
        self.columns = self.columns or shape_of(table.schema)
        for batch in table.to_batches(max_chunksize=ROWS_PER_BATCH):
            rows = rows_of(split, conform(batch, self.columns.fields), first, self.clock.now_us())
            self.ring.append(rows)
            first = rows.next_offset

    def finish(self) -> None:
        """No more events will be pushed: readers end."""
        self.ring.finish()

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        if start is None and self.bounded:
            start = From()
        return self.ring.reader(start, range(task, self.split_count, tasks))

    def end(self) -> Positions:
        return self.ring.end()

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        for at, item in enumerate(self.ring.stored(since.positions or {}, until)):
            if at % parts == part:
                yield item

    def sample(self, n: int) -> Sequence[bytes]:
        if self.columns is None:
            return self.learner.newest(n)
        rows = [row for item in tuple(self.ring.items)[-1:] if isinstance(item, Rows) for row in item.table.to_pylist()]
        return tuple(orjson.dumps(plain(row), default=str) for row in rows[-n:])

    def close(self) -> None:
        self.ring.finish()


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "_offset"}


def tables_of(events: Events) -> Sequence[pa.Table]:
    """The events as tables, one a split, where they are tables; else nothing."""
    if isinstance(events, pa.Table):
        return (events,)
    if isinstance(events, (list, tuple)) and events and isinstance(events[0], pa.Table):
        return events
    return ()


def dealt(events: Iterable[Mapping[str, Any]], splits: int) -> Sequence[list[Mapping[str, Any]]]:
    """The events dealt out to the splits in turn."""
    hands: list[list[Mapping[str, Any]]] = [[] for _ in range(splits)]
    for at, event in enumerate(events):
        hands[at % splits].append(event)
    return hands
