"""How far event time has come in each split, and so in all of them: what watermarks and late rows are made of.

Knows no clock: whoever calls says what time it is.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.items import MIN_US

Times = npt.NDArray[np.int64]

SNAPSHOT = pa.schema(
    [
        ("split", pa.int32()),
        ("reached", pa.int64()),
        ("spoken", pa.bool_()),
        ("idle", pa.bool_()),
        ("frontier", pa.int64()),
    ]
)


@dataclass(slots=True)
class _Split:
    """`reached`: the largest event time seen, or the frontier at its return from being idle if that is larger.

    `heard_us`: when it last spoke, or when it was first expected. `idle`: it has been left out.
    """

    heard_us: int
    reached: int = MIN_US
    spoken: bool = False
    idle: bool = False


class Splits:
    """The splits of one source as its readers see them. Thread-safe."""

    def __init__(self, idle_timeout_us: int, max_ahead_us: int) -> None:
        self._idle_timeout_us = idle_timeout_us
        self._max_ahead_us = max_ahead_us
        self._splits: dict[int, _Split] = {}
        self._frontier = MIN_US
        self._guard = threading.Lock()

    def expect(self, splits: Iterable[int], now_us: int) -> None:
        """These splits will speak: until they do, or have been silent for too long, the frontier waits for them."""
        with self._guard:
            for split in splits:
                self._splits.setdefault(split, _Split(now_us))

    def excuse(self, splits: Iterable[int], now_us: int) -> None:
        """Nobody can hear these splits at the moment: that they are silent does not mean that nothing happens there."""
        with self._guard:
            for split in splits:
                if split in self._splits and not self._splits[split].idle:
                    self._splits[split].heard_us = max(self._splits[split].heard_us, now_us)

    def not_heard(self, splits: Iterable[int], absent_us: int, now_us: int) -> None:
        """Nobody listened to these splits for so long: that time does not count as their silence."""
        with self._guard:
            for split in splits:
                if split in self._splits and not self._splits[split].idle:
                    self._splits[split].heard_us = min(now_us, self._splits[split].heard_us + absent_us)

    def forget(self, splits: Iterable[int]) -> None:
        """Somebody else reads these splits from now on: the frontier no longer waits for them."""
        with self._guard:
            for split in splits:
                self._splits.pop(split, None)

    def earlier(self, split: int, times: Times, arrivals: Times | int) -> Times:
        """For each of a split's next rows, in order, the largest event time before it: the column `__m`.

        A time further ahead of its arrival than is allowed counts for nothing. For a split that had been left out,
        or is new, what the frontier had reached without it counts as seen.
        """
        if len(times) == 0:
            return np.empty(0, np.int64)
        believed = np.where(times <= arrivals + np.int64(self._max_ahead_us), times, MIN_US)
        with self._guard:
            state = self._splits.get(split)
            if state is None:
                state = self._splits[split] = _Split(int(np.max(arrivals)), reached=self._frontier)
            if state.idle:
                state.reached = max(state.reached, self._frontier)
                state.idle = False
            seen = np.empty(len(times) + 1, np.int64)
            seen[0] = state.reached
            seen[1:] = believed
            np.maximum.accumulate(seen, out=seen)
            state.reached = int(seen[-1])
            state.spoken = True
            state.heard_us = max(state.heard_us, int(np.max(arrivals)))
            return seen[:-1]

    def frontier(self, now_us: int) -> int:
        """The event time that every active split has reached; MIN_US while one of them has not spoken yet.

        A split silent for the idle timeout is left out. When all are, the frontier goes on with the clock from where
        the last of them left it. It never goes back.
        """
        with self._guard:
            for state in self._splits.values():
                state.idle = state.idle or now_us - state.heard_us >= self._idle_timeout_us
            active = [state.reached for state in self._splits.values() if not state.idle]
            reached = min(active) if active else self._by_clock(now_us)
            self._frontier = max(self._frontier, reached)
            return self._frontier

    def silent(self, now_us: int) -> bool:
        """None of them has ever spoken, for longer than is waited for any."""
        with self._guard:
            return all(
                not state.spoken and now_us - state.heard_us >= self._idle_timeout_us for state in self._splits.values()
            )

    def _by_clock(self, now_us: int) -> int:
        """The frontier while every split is silent: where those that spoke last had come, plus the time since."""
        spoken = [state for state in self._splits.values() if state.spoken and state.reached > MIN_US]
        if not spoken:
            return MIN_US
        silent_since = max(state.heard_us for state in spoken)
        start = min(state.reached for state in spoken if state.heard_us == silent_since)
        return start + max(0, now_us - silent_since - self._idle_timeout_us)

    def snapshot(self, only: Collection[int] | None = None, least_us: int = MIN_US) -> pa.Table:
        """One row a split, or each of those. `least_us`: others have gone on without them up to there."""
        with self._guard:
            rows = [
                {
                    "split": split,
                    "reached": max(state.reached, least_us),
                    "spoken": state.spoken,
                    "idle": state.idle,
                    "frontier": self._frontier,
                }
                for split, state in sorted(self._splits.items())
                if only is None or split in only
            ]
            return pa.Table.from_pylist(rows, schema=SNAPSHOT)

    @staticmethod
    def together(parts: Iterable[pa.Table]) -> pa.Table:
        """Snapshots of different splits as one, as of the earliest: the frontier is the least that one of them knew."""
        whole = pa.concat_tables(parts)
        if not whole.num_rows:
            return whole
        least = pc.min(whole.column("frontier"))
        frontier = pa.repeat(least, whole.num_rows)
        return whole.set_column(whole.schema.get_field_index("frontier"), SNAPSHOT.field("frontier"), frontier)

    def restore(self, table: pa.Table, now_us: int) -> None:
        """Takes over a snapshot; several calls merge. What was not idle then is not idle now: a pause of ours is no
        silence of theirs."""
        with self._guard:
            for row in table.to_pylist():
                self._take_over(row, now_us)

    def _take_over(self, row: dict[str, Any], now_us: int) -> None:
        state = self._splits.setdefault(row["split"], _Split(now_us))
        state.reached = max(state.reached, row["reached"])
        state.spoken = state.spoken or row["spoken"]
        state.idle = row["idle"]
        state.heard_us = max(state.heard_us, now_us)
        self._frontier = max(self._frontier, row["frontier"])
