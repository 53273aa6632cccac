"""Made-up events that are the same whenever they are made: event i is a function of the seed and i alone.

So the source needs no memory: its history is made anew for any range, and what it gives live goes on where its
history ends. An event's offset is its number i; event i is in split `i % splits`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.catalog import SourceInfo, TimeRule
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader
from mql.exec.items import Raw, Rows
from mql.schema import Shape
from sources.settings import DEFAULTS, Settings, describe
from sources.stored import StoredReader

ROWS_PER_BATCH = 32_768
QUANTUM_US = 20_000  # events are let out in little heaps of this much time
DAY_MINUTES = 1440
MINUTE_US = 60_000_000
BOUNDED_START_US = 1_704_067_200_000_000  # 2024-01-01

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class Model(Protocol):
    """What the events say."""

    @property
    def kind(self) -> str: ...

    @property
    def shape(self) -> Shape: ...

    @property
    def time(self) -> TimeRule: ...

    @property
    def bytes_per_event(self) -> int: ...

    def texts(self, numbers: Numbers, times_us: Numbers) -> pa.Array:
        """The events of these numbers as JSON texts; `times_us` is when each comes out."""
        ...

    def keep(self, numbers: Numbers) -> Numbers:
        """Those of the numbers that are events of this stream."""
        ...


class SyntheticSource:
    """Events of a model at the rate of a curve, live by the clock and back to `start_us`.

    `events`: after so many the source ends, and then it is bounded.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        curve: Curve,
        *,
        splits: int = 2,
        events: int | None = None,
        settings: Settings = DEFAULTS,
        clock: Clock | None = None,
    ) -> None:
        assert splits > 0
        self.name = name
        self.model = model
        self.curve = curve
        self.split_count = splits
        self.events = events
        self.settings = settings
        self.clock = clock or SystemClock()

    @property
    def info(self) -> SourceInfo:
        found = describe(
            self.name,
            self.model.kind,
            self.model.shape,
            self.settings,
            bounded=self.events is not None,
            history=True,
            splits=self.split_count,
        )
        if self.settings.time is not None:
            return found
        return replace(found, time=self.model.time)

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        splits = range(task, self.split_count, tasks)
        if self.events is not None:
            since = start or From()
            return StoredReader(self.stored(splits, since, self.end()), splits, self.first(since))
        positions = self.end() if start is None else self.first(start)
        return SyntheticReader(self, {split: positions[split] for split in splits})

    def first(self, since: From) -> dict[int, int]:
        """The number to begin with, by split."""
        if since.positions is not None:
            return {split: since.positions.get(split, 0) for split in range(self.split_count)}
        number = 0 if since.time_us is None else self.curve.count(since.time_us)
        return dict.fromkeys(range(self.split_count), number)

    def end(self) -> Positions:
        number = self.due() if self.events is None else self.events
        return dict.fromkeys(range(self.split_count), number)

    def due(self) -> int:
        """How many events have come out until now."""
        return self.curve.count(self.clock.now_us() // QUANTUM_US * QUANTUM_US)

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        last = self.end() if until is None else until
        first = self.first(since)
        for split in range(self.split_count):
            low = first[split]
            high = max(low, last.get(split, 0))
            begin, end = low + (high - low) * part // parts, low + (high - low) * (part + 1) // parts
            yield from self.stored((split,), From({split: begin}), {split: end})

    def stored(self, splits: Sequence[int], since: From, until: Positions) -> Iterator[Raw]:
        first = self.first(since)
        for split in splits:
            for start in range(first[split], until[split], ROWS_PER_BATCH * self.split_count):
                rows = self.make(split, start, min(until[split], start + ROWS_PER_BATCH * self.split_count))
                if rows is not None:
                    yield rows

    def make(self, split: int, start: int, end: int) -> Rows | None:
        """The events of a split with numbers in `[start, end)`."""
        begin = start + (split - start) % self.split_count
        numbers = self.model.keep(np.arange(begin, end, self.split_count, dtype=np.int64))
        if not len(numbers):
            return None
        times = self.curve.times(numbers)
        columns = [self.model.texts(numbers, times), pa.array(numbers)]
        table = pa.RecordBatch.from_arrays(columns, ["_raw", "_offset"])
        return Rows(split, table, int(times[-1]), end)

    def sample(self, n: int) -> Sequence[bytes]:
        end = self.due() if self.events is None else self.events
        found: list[str] = []
        for split in range(self.split_count):
            rows = self.make(split, max(0, end - 50 * n * self.split_count), end)
            if rows is not None:
                found += rows.table.column("_raw").to_pylist()[-n:]
        return tuple(text.encode() for text in found[:n])

    def close(self) -> None:
        return


class SyntheticReader:
    """Gives out what is due by the clock."""

    def __init__(self, source: SyntheticSource, positions: dict[int, int]) -> None:
        self.source = source
        self.reached = positions
        self.closed = threading.Event()

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        found = self.take(max_bytes)
        if not found and timeout_s > 0:
            self.closed.wait(min(timeout_s, QUANTUM_US / 1e6))
            found = self.take(max_bytes)
        return found

    def take(self, max_bytes: int) -> Sequence[Raw]:
        due = self.source.due()
        room = max(1, max_bytes // self.source.model.bytes_per_event)
        span = max(1, min(room, ROWS_PER_BATCH) // max(1, len(self.reached))) * self.source.split_count
        found: list[Raw] = []
        for split, at in self.reached.items():
            rows = None
            while rows is None and at < due:
                end = min(due, at + span)
                rows = self.source.make(split, at, end)
                at = end
            self.reached[split] = at
            if rows is not None:
                found.append(rows)
        return found

    @property
    def splits(self) -> tuple[int, ...]:
        return tuple(self.reached)

    @property
    def positions(self) -> Positions:
        return dict(self.reached)

    @property
    def ended(self) -> bool:
        return False

    @property
    def trouble(self) -> str | None:
        return None

    def close(self) -> None:
        self.closed.set()


class Curve:
    """When events come out: `rate` a second on average, with a daily rhythm of that amplitude (0: none).

    The number of events in each minute of the day is fixed and they are spread evenly over it, in whole
    microseconds: thus the time of event i and the count of events before a time are exact, and inverse to each other.
    """

    def __init__(self, rate: float, rhythm: float = 0.0, start_us: int = 0) -> None:
        assert rate > 0
        assert 0 <= rhythm < 1
        minutes = np.arange(DAY_MINUTES)
        shares = 1 + rhythm * np.sin(2 * np.pi * (minutes / DAY_MINUTES - 0.5))
        per_minute = np.maximum(1, np.round(rate * 60 * shares)).astype(np.int64)
        self.start_us = start_us
        self.before: Numbers = np.concatenate(([0], np.cumsum(per_minute))).astype(np.int64)
        self.per_day = int(self.before[-1])

    def times(self, numbers: Numbers) -> Numbers:
        """When these events come out."""
        days, rest = np.divmod(numbers, self.per_day)
        minute = np.searchsorted(self.before, rest, side="right") - 1
        size = self.before[minute + 1] - self.before[minute]
        within = (rest - self.before[minute]) * MINUTE_US // size
        return (self.start_us + (days * DAY_MINUTES + minute) * MINUTE_US + within).astype(np.int64)

    def count(self, us: int) -> int:
        """How many events come out before the time `us`."""
        days, rest = divmod(max(0, us - self.start_us), DAY_MINUTES * MINUTE_US)
        minute, within = divmod(rest, MINUTE_US)
        first, size = int(self.before[minute]), int(self.before[minute + 1] - self.before[minute])
        return days * self.per_day + first + -(-within * size // MINUTE_US)


def begin_us(start_us: int | None, events: int | None) -> int:
    """When the first event comes out: as told, else with the epoch, or in 2024 where only so many are made."""
    if start_us is not None:
        return start_us
    return 0 if events is None else BOUNDED_START_US


def mixed(numbers: Numbers, seed: int, purpose: int) -> Hashes:
    """64 well mixed bits for each number, others for each seed and purpose (splitmix64)."""
    salt = (seed * 0x9E3779B97F4A7C15 + purpose * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    bits = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def unit(bits: Hashes) -> npt.NDArray[np.float64]:
    """Bits as numbers in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def below(bits: Hashes, n: int) -> Numbers:
    """Bits as numbers in [0, n), all equally likely."""
    return (unit(bits) * n).astype(np.int64)


def zipf(bits: Hashes, n: int) -> Numbers:
    """Bits as ranks in [0, n), the first the likeliest: about 1 / (rank + 1)."""
    return (np.power(float(n + 1), unit(bits)) - 1).astype(np.int64)
