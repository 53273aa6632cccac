"""How items go from the tasks of one stage to those of the next: forward, by hash, or all to one.

The lines between tasks are bounded. A full one is no error: its writer is not run until there is room, and so on back
to the source. Nothing is ever dropped here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa

from mql.exec.items import Batch, Item, Tick, Watermark

HASH = "__h"
BATCHES_MAX = 8
BYTES_MAX = 32 << 20


class Channel:
    """A bounded line of items from one writer to one reader.

    `full` asks the writer to stop; what it makes of the item it is at still goes in. `on_item` and `on_room` tell the
    reader's and the writer's runtime that there is something to do.
    """

    def __init__(self, batches_max: int = BATCHES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.batches_max = batches_max
        self.bytes_max = bytes_max
        self.on_item: Callable[[], None] = nothing
        self.on_room: Callable[[], None] = nothing
        self._items: deque[tuple[Item, int]] = deque()
        self._batches = 0
        self._bytes = 0
        self._guard = threading.Lock()

    @property
    def full(self) -> bool:
        return self._batches >= self.batches_max or self._bytes >= self.bytes_max

    @property
    def batches(self) -> int:
        """How many batches wait."""
        return self._batches

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, item: Item) -> None:
        is_batch = isinstance(item, Batch)
        size = size_of(item)
        with self._guard:
            self._supersede(item)
            self._items.append((item, size))
            self._batches += is_batch
            self._bytes += size
        self.on_item()

    def take(self) -> Item | None:
        """The next item, None where nothing waits."""
        with self._guard:
            if not self._items:
                return None
            was_full = self.full
            item, size = self._items.popleft()
            self._batches -= isinstance(item, Batch)
            self._bytes -= size
            has_room = was_full and not self.full
        if has_room:
            self.on_room()
        return item

    def _supersede(self, item: Item) -> None:
        """A newer watermark or tick makes the one that waits before it, with no rows between, superfluous."""
        if not isinstance(item, Watermark | Tick):
            return
        for back in range(1, min(2, len(self._items)) + 1):
            before = self._items[-back][0]
            if type(before) is type(item):
                del self._items[-back]
                return
            if not isinstance(before, Watermark | Tick):
                return

    def clear(self) -> None:
        with self._guard:
            self._items.clear()
            self._batches = self._bytes = 0
        self.on_room()


def nothing() -> None:
    """Where nobody is to be told."""


def size_of(item: Item) -> int:
    """What an item weighs in a line."""
    return int(item.table.nbytes) if isinstance(item, Batch) else 0


class Exchange(Protocol):
    """The way out of one task: the lines it writes to."""

    channels: tuple[Channel, ...]

    def send(self, item: Item) -> None: ...

    @property
    def full(self) -> bool:
        """Any of its lines is full: the task is not to be run."""
        ...


class Forward:
    """Everything to one task: its counterpart, or the one that gathers."""

    def __init__(self, channel: Channel) -> None:
        self.channels: tuple[Channel, ...] = (channel,)

    def send(self, item: Item) -> None:
        self.channels[0].put(item)

    @property
    def full(self) -> bool:
        return self.channels[0].full


class Hash:
    """Rows of equal `__h` to the same task; whatever is not a batch to all of them.

    The first batch of a port goes to all of them, even without rows: its columns are known to each task from then on.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        assert channels
        self.channels: tuple[Channel, ...] = tuple(channels)
        self._known: set[str] = set()

    def send(self, item: Item) -> None:
        if isinstance(item, Batch) and len(self.channels) > 1:
            for channel, part in zip(self.channels, partition(item.table, len(self.channels)), strict=True):
                if part.num_rows or item.port not in self._known:
                    channel.put(Batch(part, item.port))
            self._known.add(item.port)
            return
        for channel in self.channels:
            channel.put(item)

    @property
    def full(self) -> bool:
        return any(channel.full for channel in self.channels)


class Outlet:
    """The end of the last stage: items go to the query's results as they come, as long as these are not `full`."""

    def __init__(self, tell: Callable[[Item], None], is_full: Callable[[], bool]) -> None:
        self.channels: tuple[Channel, ...] = ()
        self._tell = tell
        self._is_full = is_full

    def send(self, item: Item) -> None:
        self._tell(item)

    @property
    def full(self) -> bool:
        return self._is_full()


def partition(table: pa.Table, parts: int) -> Sequence[pa.Table]:
    """The rows of a table by the remainder of their `__h`, each part in the order of the table."""
    if not table.num_rows:
        return (table,) * parts
    at = table.column(HASH).to_numpy() % parts
    order = np.argsort(at, kind="stable")
    borders = np.searchsorted(at[order], np.arange(parts + 1))
    # Each part is taken for itself: a slice of structs has an offset that DuckDB refuses.
    return tuple(table.take(pa.array(order[start:end])) for start, end in pairwise(borders))
