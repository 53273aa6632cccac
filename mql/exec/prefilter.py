"""Leaves events out before they are decoded: those whose text lacks what every match must hold.

A search for bytes runs some thirty times as fast as decoding. It may pass too much, never too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import stringzilla

from mql.planner.physical import Needles

Ints = npt.NDArray[np.int64]

BLOCK_BYTES = 256 << 10  # searched for one needle after the other while it is in the processor's cache
HITS_MAX = 0.25  # of all events; with more of them, decoding everything costs no more
EVENTS_MIN = 256  # so many are looked at before that is decided
EVENTS_MEMORY = 8192
REST_BYTES = 32 << 20
REST_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Hits:
    """The texts to be decoded: the bytes from `starts` to `ends`. `events`: how many there were in all."""

    starts: Ints
    ends: Ints
    events: int


class Prefilter:
    """The search for one query's needles, by one thread. Rests for a while when it finds too much to be of use."""

    def __init__(self, needles: Needles) -> None:
        assert all(needles.any_of), "an empty needle is everywhere"
        self.needles = needles
        self._events = 0
        self._hits = 0
        self._rest_bytes = 0
        self._next_rest_bytes = REST_BYTES

    def lines(self, data: bytes) -> Hits | None:
        """The lines of a chunk that hold a needle, blank ones counted as events; None: decode all of them."""
        if self._rests(len(data)):
            return None
        ends: list[int] = []
        at = 0
        events = 0
        while at < len(data):
            until = _line_end(data, at + BLOCK_BYTES)
            found = lines_with(data, at, until, self.needles.any_of)
            here = stringzilla.count(data, b"\n", at, until)
            if self._too_many(here, len(found)):
                return None
            ends += found
            events += here
            at = until
        events += len(data) > 0 and data[-1] != NEWLINE
        starts = [data.rfind(b"\n", 0, end - 1) + 1 for end in ends]
        return Hits(np.array(starts, np.int64), np.array(ends, np.int64), events)

    def rows(self, data: bytes | memoryview, bounds: Ints) -> Ints | None:
        """Which of the texts between the bounds hold a needle; None: decode all of them."""
        first, last = int(bounds[0]), int(bounds[-1])
        if self._rests(last - first):
            return None
        found = np.unique(np.concatenate([texts_with(data, bounds, needle) for needle in self.needles.any_of]))
        return None if self._too_many(len(bounds) - 1, len(found)) else found

    def _rests(self, size: int) -> bool:
        if self._rest_bytes <= 0:
            return False
        self._rest_bytes -= size
        return True

    def _too_many(self, events: int, hits: int) -> bool:
        """Takes note of what a search gave, and lies down to rest if it was too much: ever longer, until it was not."""
        self._events += events
        self._hits += hits
        if self._events < EVENTS_MIN:
            return False
        too_many = self._hits > HITS_MAX * self._events
        if too_many:
            self._rest_bytes = self._next_rest_bytes
            self._next_rest_bytes = min(2 * self._next_rest_bytes, REST_BYTES_MAX)
            self._events = self._hits = 0
        elif self._events > EVENTS_MEMORY:
            self._events //= 2
            self._hits //= 2
            self._next_rest_bytes = REST_BYTES
        return too_many


NEWLINE = 10


def lines_with(data: bytes, start: int, end: int, needles: Sequence[bytes]) -> list[int]:
    """The ends (behind the newline) of the lines between two borders of lines that hold any of the needles, rising."""
    if len(needles) == 1:
        return _lines_with(data, start, end, needles[0])
    found = [line_end for needle in needles for line_end in _lines_with(data, start, end, needle)]
    return sorted(set(found)) if found else found


def _lines_with(data: bytes, start: int, end: int, needle: bytes) -> list[int]:
    find = stringzilla.find
    line_end = data.find
    found: list[int] = []
    at = find(data, needle, start, end)
    while at >= 0:
        start = line_end(b"\n", at, end) + 1 or end
        found.append(start)
        at = find(data, needle, start, end)
    return found


def texts_with(data: Any, bounds: Ints, needle: bytes) -> Ints:
    """The numbers of the texts between bounds that hold a needle; one that lies across a border is none."""
    places: list[int] = []
    end = int(bounds[-1])
    at = stringzilla.find(data, needle, int(bounds[0]), end)
    while at >= 0:
        places.append(at)
        at = stringzilla.find(data, needle, at + 1, end)
    found = np.array(places, np.int64)
    rows = np.searchsorted(bounds, found, side="right") - 1
    return rows[found + len(needle) <= bounds[rows + 1]]


def _line_end(data: bytes, at: int) -> int:
    """Where the line that a position lies in ends, behind its newline."""
    if at >= len(data):
        return len(data)
    return data.find(b"\n", at) + 1 or len(data)
