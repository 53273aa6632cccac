"""A reader of what is stored: items from an iterator, portion by portion, until they end."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from mql.exec.feed import Positions
from mql.exec.items import Raw
from sources.pieces import Portions, bytes_of


class StoredReader:
    """Reads an iterator of raw items to its end."""

    def __init__(self, items: Iterator[Raw], splits: Sequence[int], start: Positions) -> None:
        self.items = items
        self.splits = tuple(splits)
        self.reached = {split: start.get(split, 0) for split in splits}
        self.rest = Portions()
        self.exhausted = False

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        if not self.rest and not self.exhausted:
            self.fill(max_bytes)
        given = self.rest.give(max_bytes)
        self.reached.update({item.split: item.next_offset for item in given})
        return given

    def fill(self, max_bytes: int) -> None:
        room = max(max_bytes, 1)
        while room > 0:
            item = next(self.items, None)
            if item is None:
                self.exhausted = True
                return
            self.rest.add((item,))
            room -= bytes_of(item)

    @property
    def positions(self) -> Positions:
        return dict(self.reached)

    @property
    def ended(self) -> bool:
        return self.exhausted and not self.rest

    @property
    def trouble(self) -> str | None:
        return None

    def close(self) -> None:
        self.exhausted = True
        self.rest = Portions()
        if isinstance(self.items, Generator):
            self.items.close()
