"""A bounded buffer of raw items that any number of readers follow, each from its own start to the end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from mql.exec.feed import From, Positions
from mql.exec.items import Chunk, Raw
from sources.pieces import Portions, between, bytes_of, first_of, merged


class Full(Exception):
    """The buffer is full because a reader is behind; try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the buffer is full, try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class Ring:
    """Raw items in the order of their coming; the oldest go when there are more than `capacity_bytes`.

    An item goes only after every open reader has had it: else `append` refuses with Full. Thus nothing is lost
    between a writer and a reader, and the readers decide the pace. Without a reader it just keeps the newest. `merge`:
    chunks that follow each other may be handed out as one (not where the arrival is the event's time).
    """

    def __init__(self, capacity_bytes: int | None = None, merge: bool = True) -> None:
        self.capacity_bytes = capacity_bytes
        self.merge = merge
        self.changed = threading.Condition()
        self.items: deque[Raw] = deque()
        self.first = 0  # number of the oldest item kept, counted from the first that ever came
        self.bytes = 0
        self.finished = False
        self.next: dict[int, int] = {}  # the next offset by split
        self.readers: set[RingReader] = set()

    def check_room(self, size: int) -> None:
        """Makes room for so many bytes; Full where there is none."""
        with self.changed:
            self.make_room(size)

    def append(self, item: Raw, checked: bool = False) -> None:
        """Takes an item in; Full where it finds no room (unless that has been checked before, by the one writer)."""
        with self.changed:
            if not checked:
                self.make_room(bytes_of(item))
            self.items.append(item)
            self.bytes += bytes_of(item)
            self.next[item.split] = item.next_offset
            self.changed.notify_all()

    def append_when_free(self, item: Raw, wanted: Callable[[], bool]) -> bool:
        """Waits until there is room; False where `wanted` turned false meanwhile."""
        while wanted():
            try:
                self.append(item)
                return True
            except Full:
                with self.changed:
                    self.changed.wait(0.05)
        return False

    def make_room(self, size: int) -> None:
        if self.capacity_bytes is None:
            return
        needed = min((reader.at for reader in self.readers), default=self.first + len(self.items))
        if self.items and self.bytes + size - self.freeable(needed, size) > self.capacity_bytes:
            raise Full(0.1)
        while self.items and self.bytes + size > self.capacity_bytes and self.first < needed:
            self.bytes -= bytes_of(self.items.popleft())
            self.first += 1

    def freeable(self, needed: int, size: int) -> int:
        """The bytes that could go, counted no further than needed to fit `size`."""
        assert self.capacity_bytes is not None
        free = 0
        for at in range(needed - self.first):
            if self.bytes + size - free <= self.capacity_bytes:
                break
            free += bytes_of(self.items[at])
        return free

    def finish(self) -> None:
        """Nothing more will come: readers end after what is there."""
        with self.changed:
            self.finished = True
            self.changed.notify_all()

    def end(self) -> dict[int, int]:
        with self.changed:
            return dict(self.next)

    def earliest(self) -> dict[int, int]:
        """The oldest offset that is still here, by split."""
        with self.changed:
            found = dict(self.next)
            for item in reversed(self.items):
                found[item.split] = first_of(item)
            return found

    def stored(self, since: Positions, until: Positions | None) -> Iterator[Raw]:
        """What is kept of `[since, until)`, as of now."""
        with self.changed:
            kept = tuple(self.items)
            last = dict(self.next) if until is None else until
        return between(kept, since, last)

    def reader(self, start: From | None, splits: Sequence[int] | None = None) -> RingReader:
        """A reader of these splits (None: all). A start by time begins with the oldest that is kept."""
        with self.changed:
            at = self.first + len(self.items) if start is None else self.first
            since = dict(start.positions) if start is not None and start.positions is not None else {}
            if start is None:
                since = dict(self.next)
            reader = RingReader(self, at, since, splits)
            self.readers.add(reader)
            return reader


class RingReader:
    """One reader's place in a ring."""

    def __init__(self, ring: Ring, at: int, since: dict[int, int], splits: Sequence[int] | None) -> None:
        self.ring = ring
        self.at = at
        self.since = since
        self.wanted = None if splits is None else frozenset(splits)
        self.reached = {split: offset for split, offset in since.items() if self.wants(split)}
        self.rest = Portions()  # what one poll had no room for

    def wants(self, split: int) -> bool:
        return self.wanted is None or split in self.wanted

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        if not self.rest:
            self.rest.add(self.take(timeout_s, max_bytes))
        given = self.rest.give(max_bytes)
        self.reached.update({item.split: item.next_offset for item in given})
        return given

    def take(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        """The next items of the ring, at most one more than `max_bytes` hold."""
        ring = self.ring
        with ring.changed:
            if self.at >= ring.first + len(ring.items) and not ring.finished and timeout_s > 0:
                ring.changed.wait(timeout_s)
            taken: list[Raw] = []
            room = max_bytes
            while room > 0 and self.at < ring.first + len(ring.items):
                item = ring.items[self.at - ring.first]
                self.at += 1
                if self.wants(item.split):
                    taken.extend(between((item,), self.since, None))
                    room -= bytes_of(item)
            ring.changed.notify_all()
        return joined(taken) if ring.merge else taken

    @property
    def splits(self) -> tuple[int, ...]:
        return tuple(sorted(split for split in self.ring.end() if self.wants(split)))

    @property
    def positions(self) -> Positions:
        return {**dict.fromkeys(self.splits, 0), **self.reached}

    @property
    def ended(self) -> bool:
        with self.ring.changed:
            return self.ring.finished and not self.rest and self.at >= self.ring.first + len(self.ring.items)

    @property
    def trouble(self) -> str | None:
        return None

    def close(self) -> None:
        with self.ring.changed:
            self.ring.readers.discard(self)
            self.ring.changed.notify_all()


def joined(items: Sequence[Raw]) -> Sequence[Raw]:
    """The items with chunks of one split that follow each other made one."""
    runs: list[list[Raw]] = []
    for item in items:
        last = runs[-1][-1] if runs else None
        if isinstance(item, Chunk) and isinstance(last, Chunk) and follows(last, item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return [run[0] if len(run) == 1 else merged([item for item in run if isinstance(item, Chunk)]) for run in runs]


def follows(before: Chunk, after: Chunk) -> bool:
    return before.split == after.split and before.next_offset == after.base
