"""What all detectors share: which key lives in which slot, and arrays over slots that grow, are reset and are saved.

A detector sees one window at a time: the values of the keys that are there, as arrays. It scores before it learns, so
a window is judged by what was known before it. Nothing here knows what time it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Where = slice | Ints
"""Slots of the rows of one window, rising: a slice where they are neighbours (nothing is copied then)."""

TINY = 1e-12
BLOCK = 8192


@dataclass(frozen=True, slots=True)
class Field:
    """One array of a detector's state: its type, what a new key starts with, and how many values a key has (0: one).

    `by_column`: the first values of all keys lie side by side, not all values of the first key.
    """

    name: str
    type: str = "float64"
    fill: float = 0.0
    width: int = 0
    by_column: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One window: for each row its slot (rising, each once) and its value.

    `of`: the denominator, where the value is the numerator of a ratio. `group`: a number for the siblings that a row is
    compared with. `start_us`: where the window starts, in event time.
    """

    slots: Where
    value: Floats
    of: Floats | None = None
    group: Ints | None = None
    start_us: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """What a detector thinks of each row of a window. All arrays have one value a row.

    `score`: 1 and more is unusual; NaN while warming up. `direction`: 1 up, -1 down. `lower` and `upper`: where the
    score is 1 (NaN where there is no such value). `reason` says of one row why, in a sentence.
    """

    score: Floats
    direction: npt.NDArray[np.int8]
    expected: Floats
    lower: Floats
    upper: Floats
    reason: Callable[[int], str]


class Detector(Protocol):
    """A method with its parameters: plain numbers, no state. State lives in Columns, so that it can be saved."""

    @property
    def fields(self) -> Sequence[Field]: ...

    @property
    def warmup(self) -> int:
        """Windows that a key is watched in silence."""
        ...

    def step(self, state: Columns, seen: Seen) -> Scored:
        """Score the rows by what is known so far, then learn from them."""
        ...


class Columns:
    """Arrays over slots, by name."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.size = 0
        self._arrays: dict[str, npt.NDArray[Any]] = {field.name: _made(field, 0) for field in self.fields}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def grow(self, size: int) -> None:
        """Room for so many slots; new ones hold what a new key starts with."""
        if size <= self.size:
            return
        capacity = max(size, self.size + self.size // 2, 64)
        for field in self.fields:
            fresh = _made(field, capacity)
            fresh[: self.size] = self._arrays[field.name]
            self._arrays[field.name] = fresh
        self.size = capacity

    def reset(self, slots: Where) -> None:
        """These slots as if never used."""
        for field in self.fields:
            self._arrays[field.name][slots] = field.fill

    def save(self, size: int) -> dict[str, pa.Array]:
        """The first `size` slots as Arrow arrays."""
        found: dict[str, pa.Array] = {}
        for field in self.fields:
            values = pa.array(np.ascontiguousarray(self._arrays[field.name][:size]).reshape(-1))
            found[field.name] = pa.FixedSizeListArray.from_arrays(values, field.width) if field.width else values
        return found

    def load(self, table: pa.Table) -> None:
        """Takes over saved slots."""
        self.grow(table.num_rows)
        for field in self.fields:
            column = table.column(field.name).combine_chunks()
            values = column.flatten() if field.width else column
            array = values.to_numpy(zero_copy_only=False)
            self._arrays[field.name][: table.num_rows] = array.reshape(-1, field.width) if field.width else array


class Keys:
    """Which key lives in which slot. A new key takes the lowest free slot, so that a restart changes nothing.

    Slot 0 is no key's: it is for what a detector knows of all keys together.
    """

    def __init__(self) -> None:
        self.size = 1
        self._names: list[str | None] = [None]
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._last: tuple[Sequence[str], Ints] | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, slot: int) -> str:
        name = self._names[slot]
        assert name is not None, "the slot is free"
        return name

    def slots(self, names: Sequence[str]) -> tuple[Ints, Ints]:
        """The slots of these keys, in their order, and which of them are new."""
        if self._last is not None and self._last[0] == names:
            return self._last[1], _NO_SLOTS
        known = self._slots
        found = np.fromiter(map(known.get, names, _NONE), np.int64, len(names))
        fresh = np.flatnonzero(found < 0)
        new: list[int] = []
        for at in sorted(fresh.tolist(), key=lambda at: names[at]):
            slot = self._take(names[at])
            found[at] = slot
            new.append(slot)
        self._last = (names, found)
        return found, np.array(new, np.int64) if new else _NO_SLOTS

    def find(self, names: Sequence[str]) -> Ints:
        """The slots of those that are known, -1 for the others."""
        return np.fromiter(map(self._slots.get, names, _NONE), np.int64, len(names))

    def drop(self, slots: Ints) -> None:
        self._last = None
        for slot in slots.tolist():
            name = self._names[slot]
            assert name is not None, "the slot is free already"
            del self._slots[name]
            self._names[slot] = None
            heapq.heappush(self._free, slot)

    def live(self) -> Ints:
        """All slots in use, rising."""
        if not self._free:
            return np.arange(1, self.size)
        free = np.zeros(self.size, np.bool_)
        free[[0, *self._free]] = True
        return np.flatnonzero(~free)

    def save(self) -> pa.Array:
        """The key of each slot, null where it is free."""
        return pa.array(self._names, pa.string())

    def load(self, names: Sequence[str | None]) -> None:
        """Takes over saved keys, with their places."""
        self._names = list(names)
        self.size = len(self._names)
        self._slots = {name: slot for slot, name in enumerate(self._names) if name is not None}
        self._free = [slot for slot, name in enumerate(self._names) if name is None and slot]
        self._last = None

    def _take(self, name: str) -> int:
        if self._free:
            slot = heapq.heappop(self._free)
            self._names[slot] = name
        else:
            slot = self.size
            self._names.append(name)
            self.size += 1
        self._slots[name] = slot
        return slot


def in_blocks(step: Callable[[Columns, Seen], Scored], state: Columns, seen: Seen) -> Scored:
    """The step done for some thousand keys at a time, whose numbers fit into the processor's cache: twice as fast.
    For detectors that look at each key alone."""
    rows = len(seen.value)
    if rows <= BLOCK:
        return step(state, seen)
    parts = []
    for first in range(0, rows, BLOCK):
        last = min(first + BLOCK, rows)
        at = part_of(seen.slots, first, last)
        parts.append(step(state, Seen(at, seen.value[first:last], None, None, seen.start_us)))
    return Scored(
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.direction for part in parts]),
        np.concatenate([part.expected for part in parts]),
        np.concatenate([part.lower for part in parts]),
        np.concatenate([part.upper for part in parts]),
        lambda row: parts[row // BLOCK].reason(row % BLOCK),
    )


def neighbours(slots: Ints) -> Where:
    """Rising slots as a slice, where they are neighbours."""
    if len(slots) and slots[-1] - slots[0] + 1 == len(slots):
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return slots


def part_of(where: Where, first: int, last: int) -> Where:
    """The slots of some of the rows."""
    if isinstance(where, slice):
        return slice(where.start + first, where.start + last)
    return neighbours(where[first:last])


def numbers(where: Where) -> Ints:
    """The slots one by one."""
    return np.arange(where.start, where.stop) if isinstance(where, slice) else where


def half_life(windows: float) -> float:
    """The weight of a new value, such that after so many windows an old one counts half."""
    return float(1.0 - 0.5 ** (1.0 / windows))


def floored(spread: Floats, expected: Floats, relative: float, absolute: float) -> Floats:
    """The spread, never below a share of what is expected, nor below an absolute least."""
    least = max(absolute, TINY)
    found = np.maximum(spread, least)
    return np.maximum(found, relative * np.abs(expected)) if relative else found


def signs(values: Floats) -> npt.NDArray[np.int8]:
    return np.where(values < 0, -1, 1).astype(np.int8)


def none_of(rows: int) -> Floats:
    return np.full(rows, np.nan)


def number(value: float) -> str:
    """A number as a person reads it."""
    if value != value:
        return "?"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def first_change(value: float, expected: float, before: int) -> str:
    """The reason where all values were equal until now, and standard deviations have no meaning."""
    return f"{number(value)}, the first change after {before:,} equal values of {number(expected)}"


_NO_SLOTS = np.empty(0, np.int64)


class _Forever:
    """-1 without end: what a key that is not known stands for."""

    def __iter__(self) -> _Forever:
        return self

    def __next__(self) -> int:
        return -1


_NONE = _Forever()


def _made(field: Field, size: int) -> npt.NDArray[Any]:
    shape = (size, field.width) if field.width else (size,)
    return np.full(shape, field.fill, np.dtype(field.type), order="F" if field.by_column else "C")
