"""The result log: what was written is read again, from anywhere, whatever happened at its end."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa

from mql.exec.clock import ManualClock
from mql.exec.frames import Ended, Frame, Gap, Meta, RowsFrame, Seal
from mql.exec.results import cursor_within
from server.resultlog import Keep, Length, ResultLog


def rows(start: int, count: int) -> pa.Table:
    return pa.table({"n": pa.array(range(start, start + count), pa.int64())})


def filled(directory: Path, records: int, keep: Keep | None = None) -> ResultLog:
    log = ResultLog(directory, keep, ManualClock(1_000_000))
    for at in range(records):
        log.append(rows(at * 3, 3))
    log.commit()
    return log


def all_of(log: ResultLog, cursor: str | None = None) -> list[Frame]:
    reading = log.reading(Meta({}), cursor, live=False)
    found: list[Frame] = []
    while reading.at.number < log.committed.number or not found:
        found += reading.take()
    reading.close()
    return found[1:]


def numbers(frames: list[Frame]) -> list[int]:
    return [n for frame in frames if isinstance(frame, RowsFrame) for n in frame.table.column("n").to_pylist()]


def test_readers_go_on_from_any_cursor_after_a_restart(tmp_path: Path) -> None:
    log = filled(tmp_path, 100, Keep(segment_bytes=2_000))
    frames = all_of(log)
    log.close()
    assert len(log.segments) > 5
    assert numbers(frames) == list(range(300))
    again = ResultLog(tmp_path)
    for at, frame in enumerate(frames):
        assert isinstance(frame, RowsFrame)
        if at % 9 == 0:
            assert numbers(all_of(again, frame.cursor)) == list(range(3 * at + 3, 300))
            assert numbers(all_of(again, cursor_within(frame, 2))) == list(range(3 * at + 2, 300))
    again.close()


def test_what_is_not_whole_at_the_end_is_cut_off(tmp_path: Path) -> None:
    filled(tmp_path, 3).close()
    path = next(tmp_path.glob("*.log"))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        log = ResultLog(tmp_path)
        kept = log.length.number
        assert kept == (0 if length < len(whole) // 3 else 1 if length < len(whole) * 2 // 3 else 2)
        assert numbers(all_of(log)) == list(range(3 * kept)) if kept else log.length == Length()
        log.append(rows(3 * kept, 3))
        log.commit()
        assert numbers(all_of(log)) == list(range(3 * kept + 3))
        log.close()


def test_a_damaged_record_is_never_read(tmp_path: Path) -> None:
    filled(tmp_path, 30, Keep(segment_bytes=2_000)).close()
    path = sorted(tmp_path.glob("*.log"))[1]
    whole = path.read_bytes()
    dice = random.Random(3)
    for _ in range(60):
        broken = bytearray(whole)
        broken[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(bytes(broken))
        log = ResultLog(tmp_path)
        frames = all_of(log)
        found = numbers(frames)
        missed = sum(frame.data["rows"] for frame in frames if isinstance(frame, Gap))
        assert missed > 0
        assert found == sorted(set(found))
        assert len(found) + missed == 90
        log.close()


def test_taken_back_to_a_length(tmp_path: Path) -> None:
    log = filled(tmp_path, 40, Keep(segment_bytes=2_000))
    for length in (Length(33, 99), Length(20, 60), Length(0, 0)):
        log.truncate(length)
        assert log.length == log.committed == length
        log.append(rows(1_000, 1))
        log.commit()
        assert numbers(all_of(log)) == [*range(length.rows), 1_000]
        log.truncate(length)
    log.close()


def test_readers_see_what_is_committed(tmp_path: Path) -> None:
    log = filled(tmp_path, 2)
    reading = log.reading(Meta({}), None, live=False)
    assert numbers(list(reading.take())) == list(range(6))
    marked = log.append(rows(6, 3))
    log.append(rows(9, 3))
    assert not reading.take()
    log.commit(marked)
    assert numbers(list(reading.take())) == [6, 7, 8]
    log.note("seal", {"rows": 3})
    log.commit()
    log.finish(Ended("stopped"))
    last = list(reading.take())
    assert numbers(last) == [9, 10, 11]
    assert isinstance(last[1], Seal)
    assert isinstance(last[2], Ended)
    log.close()


def test_old_segments_go_and_who_wants_them_is_told(tmp_path: Path) -> None:
    keep = Keep(bytes=6_000, segment_bytes=2_000)
    log = ResultLog(tmp_path, keep, ManualClock(1_000_000))
    first = log.append(rows(0, 3))
    for at in range(1, 100):
        log.append(rows(at * 3, 3))
        log.commit()
    assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) < 9_000
    frames = all_of(log, log.cursor(first))
    gap = frames[0]
    assert isinstance(gap, Gap)
    assert gap.data["rows"] + len(numbers(frames)) == 297
    assert numbers(frames)[-1] == 299
    stranger = all_of(log, "abc-3.9")[0]
    assert isinstance(stranger, Gap)
    log.close()


def test_stored_rows_by_number_and_by_time(tmp_path: Path) -> None:
    clock = ManualClock(0)
    log = ResultLog(tmp_path, Keep(segment_bytes=2_000), clock)
    for at in range(50):
        log.append(rows(at * 3, 3))
        clock.advance(1_000_000)
    log.commit()
    everything = range(2**62)
    tables, after = log.tables(range(10, 20), 0, 2**62, 1_000)
    assert (pa.concat_tables(tables).column("n").to_pylist(), after) == (list(range(10, 20)), 20)
    tables, after = log.tables(everything, 10_000_000, 12_000_000, 1_000)
    assert pa.concat_tables(tables).column("n").to_pylist() == list(range(30, 36))
    tables, after = log.tables(range(10, 2**62), 0, 2**62, 7)
    assert (pa.concat_tables(tables).column("n").to_pylist(), after) == (list(range(10, 17)), 17)
    log.close()
