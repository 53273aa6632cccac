"""The archive: nothing lost, nothing doubled, whatever is closed, compacted, torn or taken away."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mql.errors import MqlError
from mql.exec.clock import ManualClock
from mql.exec.feed import From
from mql.exec.items import Chunk, Raw, Rows
from sources.archive import HOUR_US, Archive, RecordedSource, Retention
from sources.generator import GeneratorSource
from sources.memory import MemorySource

NOON = 1_714_564_800_000_000  # 2024-05-01T12:00:00Z


def line(n: int) -> bytes:
    return b'{"n":%04d}\n' % n


def chunk(split: int, first: int, last: int, arrival_us: int = NOON) -> Chunk:
    return Chunk(split, b"".join(line(n) for n in range(first, last)), first * len(line(0)), arrival_us)


def numbers(items: list[Raw], split: int = 0) -> list[int]:
    found: list[int] = []
    for item in items:
        if item.split != split:
            continue
        if isinstance(item, Chunk):
            found += [int(one[5:9]) for one in item.data.splitlines()]
        else:
            found += [int(one[5:9]) for one in item.table.column("_raw").to_pylist()]
            assert item.table.column("_offset").to_pylist() == [n * len(line(0)) for n in found[-item.table.num_rows :]]
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["append", "hour", "settle", "restart"]), max_size=10), data=st.data())
def test_history_is_what_was_appended_however_the_files_lie(
    tmp_path: Path, steps: list[str], data: st.DataObject
) -> None:
    directory = tmp_path / str(len(list(tmp_path.iterdir())))
    archive, now, count = Archive(directory), NOON, 0
    for step in steps:
        if step == "append":
            archive.append((chunk(0, count, count + 3, now), chunk(1, count, count + 3, now)))
            count += 3
        elif step == "hour":
            now += HOUR_US
        elif step == "settle":
            archive.settle()
        else:
            archive.close()
            archive = Archive(directory)
    since, until = (data.draw(st.integers(0, 30)) for _ in range(2))
    size = len(line(0))
    for split in (0, 1):
        parts = [list(archive.history(From(), None, part, 2)) for part in range(2)]
        assert sorted(numbers(parts[0], split) + numbers(parts[1], split)) == list(range(count))
        found = list(archive.history(From({split: since * size}), {split: until * size}))
        assert numbers(found, split) == list(range(since, min(until, count)))
    archive.close()


def test_a_closed_hour_is_one_parquet_file_with_arrivals(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.append((chunk(0, 0, 2, NOON + 5),))
    archive.append((chunk(0, 2, 3, NOON + HOUR_US),))
    archive.settle()
    assert [path.relative_to(tmp_path).as_posix() for path in archive.files()] == [
        "2024-05-01/12-000000000001.parquet",
        "2024-05-01/13-000000000002.parquet",
    ]
    (first, _) = archive.history(From())
    assert isinstance(first, Rows)
    assert first.table.column("_time").to_pylist() == [NOON + 5] * 2
    late = list(archive.history(From(time_us=NOON + 3 * HOUR_US), ahead_us=HOUR_US + 1))
    assert late == []
    archive.close()


def test_a_torn_end_is_cut_off_and_writing_goes_on(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.append((chunk(0, 0, 2),))
    archive.append((chunk(0, 2, 4),))
    archive.close()
    (log,) = tmp_path.glob("*.log")
    log.write_bytes(log.read_bytes()[:-3])
    again = Archive(tmp_path)
    assert again.end() == {0: 2 * len(line(0))}
    again.append((chunk(0, 2, 4),))
    assert numbers(list(again.history(From()))) == [0, 1, 2, 3]
    again.close()


def test_the_oldest_hours_go_by_age_and_by_size(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    archive = Archive(tmp_path, retention=Retention(age_us=2 * HOUR_US), clock=clock)
    for hour in range(5):
        clock.advance(HOUR_US)
        archive.append((chunk(0, hour, hour + 1, clock.now_us()),))
        archive.settle()
    assert numbers(list(archive.history(From()))) == [2, 3, 4]
    archive.close()
    small = Archive(tmp_path, retention=Retention(bytes=1), clock=clock)
    small.append((chunk(0, 5, 6, clock.now_us()),))
    small.settle()
    assert small.files() == ()
    small.close()


def test_a_directory_has_one_archive_at_a_time(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    with pytest.raises(MqlError, match="in use"):
        Archive(tmp_path)
    archive.close()
    archive.close()
    Archive(tmp_path).close()


def test_columns_come_back_with_their_types(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    batch = pa.RecordBatch.from_pydict({"n": [1, 2], "x": [{"y": ["a"]}, None], "_offset": [0, 1]})
    archive.append((Rows(0, batch, NOON, 2),))
    for _ in range(2):
        (item,) = archive.history(From())
        assert isinstance(item, Rows)
        assert item.table.select(["n", "x", "_offset"]).to_pylist() == batch.to_pylist()
        archive.settle()
    archive.close()


def test_a_recorded_source_remembers_what_its_ring_has_forgotten(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    inner = MemorySource("m", bounded=False, clock=clock)
    source = RecordedSource(inner, Archive(tmp_path, clock=clock))
    for n in range(50):
        inner.push(0, [{"n": n}])
    end = source.end()
    whole = b"".join(b'{"n":%d}\n' % n for n in range(50))
    assert joined(list(source.history(From(), end))) == whole
    reader = source.open(From({0: len(b'{"n":0}\n')}))
    inner.push(0, [{"n": 50}])
    found: list[Raw] = []
    while not found or found[-1].next_offset < source.end()[0]:
        found += reader.poll(0.1, 64)
    assert joined(found) == whole[8:] + b'{"n":50}\n'
    source.close()


def test_a_recorder_goes_on_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    inner = GeneratorSource(rate=100, clock=clock)
    first = RecordedSource(inner, Archive(tmp_path, clock=clock))
    seam = first.end()
    clock.advance(2_000_000)
    first.wait_for(first.end())
    first.close()
    clock.advance(2_000_000)
    again = RecordedSource(GeneratorSource(rate=100, clock=clock), Archive(tmp_path, clock=clock))
    end = again.end()
    found = [offset for item in again.history(From(), end) for offset in offsets(item)]
    assert sorted(found) == list(range(seam[0], end[0]))
    again.close()


def offsets(item: Raw) -> list[int]:
    assert isinstance(item, Rows)
    return list(item.table.column("_offset").to_pylist())


def joined(items: list[Raw]) -> bytes:
    return b"".join(
        item.data
        if isinstance(item, Chunk)
        else b"".join(text.strip().encode() + b"\n" for text in item.table.column("_raw").to_pylist())
        for item in items
    )


def test_a_recording_of_which_nothing_is_stored_yet_still_begins_where_it_began(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    source = RecordedSource(GeneratorSource(rate=1, rhythm=0, clock=clock), Archive(tmp_path, clock=clock))
    began = source.end()
    source.close()
    clock.advance(10_000_000)
    again = RecordedSource(GeneratorSource(rate=1, rhythm=0, clock=clock), Archive(tmp_path, clock=clock))
    end = again.end()
    found = [offset for item in again.history(From(), end) for offset in offsets(item)]
    assert sorted(found) == list(range(began[0], end[0]))
    reader = again.open(From())
    assert reader.positions == {0: 0, 1: 0}
    while min(reader.positions.values()) < end[0] - 1:
        assert all(item.next_offset > began[0] for item in reader.poll(0, 1 << 20))
    again.close()
