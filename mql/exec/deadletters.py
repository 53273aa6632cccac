"""Events that are set aside, and why: those that could not be read, as letters, and those that came too late, as rows.

The newest are kept, within bounds, and all are counted. Their numbers, from 0 on, are places to come back to: what was
set aside between two of them is found for as long as it is kept.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

TEXT_BYTES_MAX = 4096
OVERHEAD_BYTES = 200
LATE_ROWS_MAX = 10_000

Marks = Mapping[str, int]
"""How many events had been set aside, by where it was done."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A malformed event. `text` is its first 4 KiB; bytes that are no UTF-8 stand as `\\xff`."""

    reason: str
    split: int
    offset: int
    arrival_us: int
    text: str


def dead_letter(reason: str, split: int, offset: int, arrival_us: int, data: bytes) -> DeadLetter:
    text = data[:TEXT_BYTES_MAX].decode(errors="backslashreplace")
    return DeadLetter(reason, split, offset, arrival_us, text)


class DeadLetters:
    """The malformed events of one source, or of one share of it, bounded by number and by bytes: the oldest go first.
    Thread-safe."""

    def __init__(self, count_max: int = 1000, bytes_max: int = 1 << 20) -> None:
        self.total = 0
        """How many there were, those that are not kept included."""
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._kept: deque[tuple[int, DeadLetter]] = deque()
        self._bytes = 0
        self._guard = threading.Lock()

    def add(self, letters: Sequence[DeadLetter], count: int | None = None) -> None:
        """Letters of some events, and how many events there were, where that is more."""
        with self._guard:
            for number, letter in enumerate(letters, self.total):
                self._kept.append((number, letter))
                self._bytes += _size(letter)
            while len(self._kept) > self._count_max or self._bytes > self._bytes_max:
                self._bytes -= _size(self._kept.popleft()[1])
            self.total += len(letters) if count is None else count

    def newest(self, n: int = 100) -> Sequence[DeadLetter]:
        """The newest first."""
        with self._guard:
            return tuple(letter for (_, letter), _ in zip(reversed(self._kept), range(n), strict=False))

    def between(self, first: int, end: int) -> Sequence[DeadLetter]:
        """Those with numbers from `first` to (not with) `end` that are kept, the oldest first."""
        with self._guard:
            return tuple(letter for number, letter in self._kept if first <= number < end)


class LateRows:
    """The newest late rows of one operator, of how many there were. Written by one thread."""

    def __init__(self) -> None:
        self.total = 0
        self._kept: list[tuple[int, pa.Table]] = []
        self._rows = 0

    def add(self, rows: pa.Table) -> None:
        self._kept.append((self.total, rows))
        self.total += rows.num_rows
        self._rows += rows.num_rows
        while self._rows > LATE_ROWS_MAX and len(self._kept) > 1:
            self._rows -= self._kept.pop(0)[1].num_rows

    def between(self, first: int = 0, end: int | None = None) -> pa.Table | None:
        """Those with numbers from `first` to (not with) `end` that are kept, the oldest first; None where none are."""
        end = self.total if end is None else end
        found = [
            rows.slice(max(0, first - number), min(rows.num_rows, end - number) - max(0, first - number))
            for number, rows in list(self._kept)
            if number < end and number + rows.num_rows > first
        ]
        return pa.concat_tables(found, promote_options="default") if found else None


def _size(letter: DeadLetter) -> int:
    return len(letter.text.encode(errors="surrogatepass")) + OVERHEAD_BYTES
