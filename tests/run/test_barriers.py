"""A barrier cuts everything at once: positions, states, what was told. Four threads read while it goes through.

# split 0  ....|........        told before the barrier | told again by who goes on from the snapshot
# split 1  .......|.....        together: each row once
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest

from mql.exec.engine import Engine, Running, Subscription
from mql.exec.frames import RowsFrame
from mql.exec.results import cursor_of
from mql.exec.state import Snapshot, snapshot_bytes, snapshot_from_bytes
from sources.memory import MemorySource

SPLITS = 4
ROUNDS = 60
EACH = 25
QUERIES = {
    "plain": "SELECT n FROM events",
    "windowed": "SELECT window_start, k, count(*) AS c, sum(n) AS s FROM events WINDOW TUMBLING 5s GROUP BY k",
}


def event(n: int) -> dict[str, int]:
    return {"ts": 1_000_000 + n // 40, "k": n % 11, "n": n}


def push(source: MemorySource, round: int) -> None:
    for split in range(SPLITS):
        first = (round * SPLITS + split) * EACH
        source.push(split, [event(n) for n in range(first, first + EACH)])


def close_windows(source: MemorySource) -> None:
    for split in range(SPLITS):
        source.push(split, [{"ts": 1_000_900, "k": -1, "n": -1}])


def row_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.values())


class Heard:
    """All rows of a running query, each with the number of the frame that it came in."""

    def __init__(self, running: Running) -> None:
        self.rows: list[tuple[int, tuple[Any, ...]]] = []
        self.subscription: Subscription = running.subscribe(on_lag="drop")

    def listen(self) -> None:
        for frame in self.subscription.take():
            if isinstance(frame, RowsFrame):
                at = cursor_of(frame.cursor)
                assert at is not None
                self.rows += [(at.number, row_of(row)) for row in frame.table.to_pylist()]

    def until(self, rows: int) -> None:
        end = time.monotonic() + 20
        while len(self.rows) < rows and time.monotonic() < end:
            self.subscription.wait(0.05)
            self.listen()


def wanted(kind: str) -> Counter[tuple[Any, ...]]:
    events = [event(n) for n in range(ROUNDS * SPLITS * EACH)]
    if kind == "plain":
        return Counter({(one["n"],): 1 for one in events} | {(-1,): SPLITS})
    groups: dict[tuple[int, int], list[int]] = {}
    for one in events:
        groups.setdefault((one["ts"] // 5 * 5, one["k"]), []).append(one["n"])
    return Counter((start, k, len(found), sum(found)) for (start, k), found in groups.items())


def told(kind: str, rows: list[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    if kind == "plain":
        return Counter(rows)
    return Counter((round(row[0].timestamp()), *row[1:]) for row in rows)


@pytest.mark.parametrize("kind", list(QUERIES))
@pytest.mark.parametrize("after", [0.0, 0.05, 0.11, 0.2])
def test_before_the_barrier_and_after_it_make_the_whole(kind: str, after: float) -> None:
    source = MemorySource("events", bounded=False, splits=SPLITS)
    push(source, 0)
    engine = Engine([source], workers=2 * SPLITS)
    try:
        running = engine.resume(Snapshot(), QUERIES[kind], wait_for_readers=True)
        first = Heard(running)

        def feed() -> None:
            for round in range(1, ROUNDS):
                push(source, round)
                time.sleep(0.005)
            close_windows(source)

        feeder = threading.Thread(target=feed)
        feeder.start()
        listener = threading.Event()

        def listen() -> None:
            while not listener.is_set():
                first.subscription.wait(0.02)
                first.listen()

        hearing = threading.Thread(target=listen)
        hearing.start()
        time.sleep(after)
        snapshot = running.execution.snapshot()
        barrier_at = running.execution.barrier_at
        assert barrier_at is not None
        feeder.join()
        while first.subscription.number < barrier_at.number:
            time.sleep(0.01)
        listener.set()
        hearing.join()
        running.cancel()
        before = [row for number, row in first.rows if number <= barrier_at.number]
        second = Heard(engine.resume(snapshot_from_bytes(snapshot_bytes(snapshot)), QUERIES[kind]))
        want = wanted(kind)
        second.until(want.total() - len(before))
        after_it = [row for _, row in second.rows]
        assert told(kind, before + after_it) == want
    finally:
        engine.close()
