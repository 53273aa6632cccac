"""Events that could not be read: the newest of them, kept apart with their reason, and how many there were."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TEXT_BYTES_MAX = 4096
OVERHEAD_BYTES = 200


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
    """The malformed events of one source, bounded by number and by bytes: the oldest go first. Thread-safe."""

    def __init__(self, count_max: int = 1000, bytes_max: int = 1 << 20) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._kept: deque[DeadLetter] = deque()
        self._bytes = 0
        self._counts: Counter[str] = Counter()
        self._guard = threading.Lock()

    def add(self, letters: Iterable[DeadLetter]) -> None:
        with self._guard:
            for letter in letters:
                self._counts[letter.reason] += 1
                self._kept.append(letter)
                self._bytes += _size(letter)
                while len(self._kept) > self._count_max or self._bytes > self._bytes_max:
                    self._bytes -= _size(self._kept.popleft())

    def newest(self, n: int = 100) -> Sequence[DeadLetter]:
        """The newest first."""
        with self._guard:
            return tuple(letter for letter, _ in zip(reversed(self._kept), range(n), strict=False))

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there were since the start, by reason, those no longer kept included."""
        with self._guard:
            return dict(self._counts)

    @property
    def total(self) -> int:
        with self._guard:
            return self._counts.total()


def _size(letter: DeadLetter) -> int:
    return len(letter.text.encode(errors="surrogatepass")) + OVERHEAD_BYTES
