"""What a query sets aside belongs to its barriers: all that lies before a snapshot's positions, once, and no more."""

from __future__ import annotations

import random
import threading

from mql.catalog import TimeRule
from mql.exec.deadletters import Marks
from mql.exec.engine import Engine
from mql.exec.items import Chunk
from mql.exec.running import Execution
from sources.memory import MemorySource

SPLITS = 3
ROUNDS = 12
SEED = 3


def lines(dice: random.Random, number: int) -> bytes:
    """Some events in time, some too late for their windows, some that cannot be read."""
    found = []
    for at in range(dice.randrange(1, 60)):
        match dice.randrange(6):
            case 0:
                found.append(b"broken")
            case 1 if number > 2:
                found.append(b'{"ts": 1, "k": "late"}')
            case _:
                found.append(b'{"ts": %d, "k": "k%d"}' % (number * 10_000 + at, at % 3))
    return b"\n".join(found) + b"\n"


def test_each_belongs_to_the_first_barrier_behind_it() -> None:
    dice = random.Random(SEED)
    source = MemorySource("live", [{"ts": 0, "k": "a"}], time=TimeRule(("ts",), "ms"), bounded=False, splits=SPLITS)
    engine = Engine([source], workers=4)
    running = engine.start("SELECT k, count(*) AS n FROM live WINDOW TUMBLING 1s GROUP BY k")
    execution = running.execution
    assert isinstance(execution, Execution)
    want: dict[bytes, set[tuple[int, int]]] = {b"broken": set(), b'{"ts": 1, "k": "late"}': set()}
    data = dict.fromkeys(range(SPLITS), b"")
    starts = {split: source.end().get(split, 0) for split in range(SPLITS)}
    done = threading.Event()

    def write() -> None:
        for number in range(ROUNDS):
            for split in range(SPLITS):
                more = lines(dice, number)
                at = source.end().get(split, 0)
                data[split] += more
                for text in more.splitlines(keepends=True):
                    if text.rstrip() in want:
                        want[text.rstrip()].add((split, at))
                    at += len(text)
                source.ring.append(Chunk(split, more, source.end().get(split, 0), 0))
        done.set()

    threading.Thread(target=write, daemon=True).start()
    marks: Marks = {}
    unreadable: list[tuple[int, int]] = []
    late: list[tuple[int, int]] = []
    while True:
        was_done = done.is_set()
        snapshot = execution.snapshot()
        (aside,) = running.aside(marks, snapshot.marks)
        assert (aside.unreadable_left_out, aside.late_left_out) == (0, 0)
        unreadable += [(one.split, one.offset) for one in aside.unreadable]
        if aside.late is not None:
            late += zip(aside.late.column("split").to_pylist(), aside.late.column("offset").to_pylist(), strict=True)
        for split, offset in (*unreadable, *late):
            assert offset < snapshot.positions[split], f"seed {SEED}"
        for split, offset in want[b"broken"] - set(unreadable):
            assert offset >= snapshot.positions[split], f"seed {SEED}"
        marks = {**marks, **snapshot.marks}
        if was_done and snapshot.positions == {split: starts[split] + len(data[split]) for split in range(SPLITS)}:
            break
    engine.close()
    assert sorted(unreadable) == sorted(want[b"broken"])
    assert len(late) == len(set(late))
    assert set(late) <= want[b'{"ts": 1, "k": "late"}']
    assert len(late) == execution.ledger()["late"] > 0
