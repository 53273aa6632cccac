"""Events in memory, and the ring that live sources share."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mql.catalog import TimeRule
from mql.exec.clock import ManualClock
from mql.exec.feed import From, Reader
from mql.exec.items import Chunk, Raw, Rows
from sources.memory import MemorySource
from sources.ring import Full, Ring


def data(items: object) -> bytes:
    assert isinstance(items, list | tuple)
    return b"".join(item.data for item in items if isinstance(item, Chunk))


def read_all(reader: Reader) -> list[Raw]:
    found: list[Raw] = []
    while not reader.ended:
        found += reader.poll(0, 1 << 20)
    return found


def test_dicts_travel_as_json_lines_dealt_to_the_splits() -> None:
    source = MemorySource("m", [{"n": n} for n in range(4)], splits=2)
    assert [(one.split, one.data) for one in read_all(source.open(None)) if isinstance(one, Chunk)] == [
        (0, b'{"n":0}\n{"n":2}\n'),
        (1, b'{"n":1}\n{"n":3}\n'),
    ]
    assert source.end() == {0: 16, 1: 16}
    assert source.info.bounded


def test_tables_stay_columns_one_a_split() -> None:
    source = MemorySource("m", [pa.table({"n": [1, 2]}), pa.table({"n": pa.array([3], pa.int8())})])
    found = [one for one in read_all(source.open(None)) if isinstance(one, Rows)]
    assert [(one.split, one.table.to_pylist()) for one in found] == [
        (0, [{"n": 1, "_offset": 0}, {"n": 2, "_offset": 1}]),
        (1, [{"n": 3, "_offset": 0}]),
    ]
    assert source.info.encoding == "columns"
    assert source.sample(1) == (b'{"n":3}',)


def test_a_live_one_gives_what_is_pushed_after_the_reader_came() -> None:
    clock = ManualClock(5)
    source = MemorySource("m", [{"n": 0}], bounded=False, time=TimeRule(("n",), "s"), clock=clock)
    reader = source.open(None)
    source.push(0, [{"n": 1}])
    assert reader.poll(0, 100) == (Chunk(0, b'{"n":1}\n', 8, 5),)
    assert not reader.ended
    source.finish()
    assert reader.ended
    assert source.info.time == TimeRule(("n",), "s")


@settings(max_examples=60, deadline=None)
@given(
    pushes=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5)), max_size=8),
    room=st.integers(1, 60),
    stop=st.integers(0, 5),
)
def test_whatever_the_portions_a_resumed_reader_misses_and_doubles_nothing(
    pushes: list[tuple[int, int]], room: int, stop: int
) -> None:
    source = MemorySource("m", bounded=False, splits=2)
    for at, (split, count) in enumerate(pushes):
        source.push(split, [{"n": at * 10 + n} for n in range(count)])
    source.finish()
    reader = source.open(From())
    first = [item for _ in range(stop) for item in reader.poll(0, room)]
    rest = read_all(source.open(From(reader.positions)))
    for split in (0, 1):
        whole = [item for item in source.history(From()) if item.split == split]
        assert data([item for item in [*first, *rest] if item.split == split]) == data(whole)


def test_a_full_ring_refuses_until_its_reader_has_caught_up() -> None:
    ring = Ring(capacity_bytes=20)
    reader = ring.reader(None)
    ring.append(Chunk(0, b"123456789\n", 0, 0))
    ring.append(Chunk(0, b"123456789\n", 10, 0))
    with pytest.raises(Full):
        ring.append(Chunk(0, b"x\n", 20, 0))
    assert len(data(reader.poll(0, 100))) == 20
    ring.append(Chunk(0, b"x\n", 20, 0))
    assert data(reader.poll(0, 100)) == b"x\n"
    assert ring.earliest() == {0: 10}


def test_a_ring_without_readers_keeps_the_newest() -> None:
    ring = Ring(capacity_bytes=20)
    for at in range(5):
        ring.append(Chunk(0, b"123456789\n", at * 10, 0))
    assert data(ring.reader(From()).poll(0, 100)) == b"123456789\n" * 2


def test_a_reader_that_waits_is_woken() -> None:
    ring = Ring()
    reader = ring.reader(None)
    found: list[Raw] = []
    thread = threading.Thread(target=lambda: found.extend(reader.poll(30, 100)))
    thread.start()
    ring.append(Chunk(0, b"x\n", 0, 0))
    thread.join(10)
    assert data(found) == b"x\n"
