"""One ring, many readers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, Progress, RowsFrame, Seal
from mql.exec.items import MIN_US
from mql.exec.results import Cursor, Reading, Results, cursor_of, cursor_within

META = Meta({"id": "q"})


def rows(*values: int) -> pa.Table:
    return pa.table({"v": pa.array(values, pa.int64())})


def keyed(*pairs: tuple[str, int]) -> pa.Table:
    return pa.table({"_key": [key for key, _ in pairs], "v": [value for _, value in pairs]})


def reader(results: Results, on_lag: str = "drop", at: Cursor | None = None) -> Reading:
    return results.read(META, at or Cursor(results.epoch, 0, 0), on_lag=on_lag)


def values(frames: Sequence[Frame]) -> list[int]:
    return [value for frame in frames if isinstance(frame, RowsFrame) for value in frame.table.column("v").to_pylist()]


def test_meta_comes_first_the_end_last_and_nothing_after_it() -> None:
    results = Results("e")
    reading = reader(results)
    results.publish(rows(1, 2))
    results.seal({"rows": 2})
    results.progress({"scanned": 5})
    results.finish(Ended("done"))
    frames = reading.take()
    assert [type(frame) for frame in frames] == [Meta, RowsFrame, Seal, Progress, Ended]
    assert reading.take() == []
    results.publish(rows(3))
    assert reading.take() == []


def test_take_gives_no_more_than_is_asked_for() -> None:
    results = Results("e")
    reading = reader(results)
    for value in range(5):
        results.publish(rows(value))
    taken = [reading.take(2) for _ in range(4)]
    assert [len(frames) for frames in taken] == [2, 2, 2, 0]
    assert values([frame for frames in taken for frame in frames]) == [0, 1, 2, 3, 4]


def test_a_cursor_leads_back_to_the_place_behind_its_rows() -> None:
    results = Results("e")
    for value in range(4):
        results.publish(rows(value))
    frames = reader(results).take()
    second = frames[2]
    assert isinstance(second, RowsFrame)
    cursor = cursor_of(second.cursor)
    assert cursor is not None
    assert values(reader(results, at=cursor).take()) == [2, 3]


def test_a_cursor_within_a_frame_leads_to_the_rest_of_it() -> None:
    results = Results("e")
    results.publish(rows(0, 1))
    results.publish(rows(2, 3, 4, 5), np.array([7, 9, 7, 9]))
    results.publish(rows(6))
    for not_before_us, wanted in ((MIN_US, [0, 1, 2, 3, 4, 5, 6]), (8, [0, 1, 3, 5, 6])):
        frames = results.read(META, Cursor("e", 0, 0), on_lag="drop", not_before_us=not_before_us).take()
        assert values(frames) == wanted
        large = frames[2]
        assert isinstance(large, RowsFrame)
        for taken in range(1, large.table.num_rows + 1):
            place = cursor_of(cursor_within(large, taken) or "")
            assert place is not None
            again = results.read(META, place, on_lag="drop", not_before_us=not_before_us).take()
            assert values(again) == wanted[2 + taken :]


def test_what_is_no_cursor_is_none() -> None:
    for text in ("", "e", "e-", "e-1", "e-x.1", "e-1.", "-"):
        assert cursor_of(text) is None
    assert cursor_of("a-b-12.34") == Cursor("a-b", 12, 34)


def test_a_reader_that_fell_behind_the_ring_is_told_how_much_it_missed() -> None:
    results = Results("e", rows_max=10)
    reading = reader(results)
    reading.take()
    for value in range(30):
        results.publish(rows(value))
    frames = reading.take(1000)
    gap = frames[0]
    assert isinstance(gap, Gap)
    assert gap.data["rows"] == 20
    assert gap.data["from"] == "e-0.0"
    assert gap.data["to"] == "e-20.20"
    assert values(frames) == list(range(20, 30))


def test_bytes_bound_the_ring_too() -> None:
    results = Results("e", bytes_max=1000)
    reading = reader(results)
    for value in range(100):
        results.publish(rows(*[value] * 10))
    frames = reading.take(1000)
    kept = sum(frame.table.nbytes for frame in frames if isinstance(frame, RowsFrame))
    assert kept <= 1000
    assert any(isinstance(frame, Gap) for frame in frames)


def test_disconnect_ends_a_reader_that_fell_behind_with_the_cursor_to_read_on_from() -> None:
    results = Results("e", rows_max=10)
    reading = reader(results, "disconnect")
    for value in range(30):
        results.publish(rows(value))
    frames = reading.take()
    assert [type(frame) for frame in frames] == [Meta, Failed]
    failed = frames[1]
    assert isinstance(failed, Failed)
    assert failed.data["cursor"] == "e-0.0"
    assert reading.take() == []


def test_conflate_keeps_the_newest_row_of_each_key() -> None:
    results = Results("e")
    reading = reader(results, "conflate")
    for value in range(3000):
        results.publish(keyed(("a", value), ("b", -value)))
    frames = [frame for frame in reading.take() if isinstance(frame, RowsFrame)]
    assert len(frames) == 1
    assert frames[0].table.to_pylist() == [{"_key": "a", "v": 2999}, {"_key": "b", "v": -2999}]
    results.publish(keyed(("a", 1)))
    assert values(reading.take()) == [1]


def test_a_reader_sees_no_windows_that_began_before_it_came() -> None:
    results = Results("e")
    reading = results.read(META, results.place, on_lag="drop", not_before_us=20)
    results.publish(rows(1, 2), np.array([10, 10]))
    results.publish(rows(3, 4), np.array([10, 20]))
    results.publish(rows(5), np.array([30]))
    assert values(reading.take()) == [4, 5]


def test_frames_are_shared_not_copied() -> None:
    results = Results("e")
    readings = [reader(results) for _ in range(1000)]
    results.publish(rows(1))
    tables = {id(frame.table) for one in readings for frame in one.take() if isinstance(frame, RowsFrame)}
    assert len(tables) == 1


def test_a_reader_is_woken_once_until_it_takes() -> None:
    results = Results("e")
    reading = reader(results)
    woken: list[int] = []
    reading.on_ready(lambda: woken.append(1))
    reading.take()
    woken.clear()
    for value in range(100):
        results.publish(rows(value))
    assert woken == [1]
    assert reading.wait(0)
    reading.take(1000)
    assert not reading.wait(0)
    results.publish(rows(1))
    assert woken == [1, 1]


def test_whoever_keeps_all_waits_for_the_slowest_reader_and_loses_nothing() -> None:
    results = Results("e", keep_all=True, rows_max=10)
    room: list[int] = []
    results.on_room = lambda: room.append(1)
    slow, quick = reader(results), reader(results)
    written = 0
    seen: list[int] = []
    while written < 100:
        while not results.full:
            results.publish(rows(written))
            written += 1
        quick.take(1000)
        assert results.full
        seen += values(slow.take(1000))
        assert not results.full
    seen += values(slow.take(1000))
    assert seen == list(range(written))
    assert room


def test_only_the_newest_progress_waits_for_a_reader() -> None:
    results = Results("e")
    reading = reader(results)
    reading.take()
    for at in range(100):
        results.progress({"scanned": at})
    results.say(Phase({"phase": "live"}))
    assert reading.take() == [Phase({"phase": "live"}), Progress({"scanned": 99})]


def test_an_end_of_its_own_ends_one_reader_and_not_the_others() -> None:
    results = Results("e")
    one, other = reader(results), reader(results)
    results.publish(rows(1))
    one.end(Ended("deleted"))
    assert [type(frame) for frame in one.take()] == [Meta, RowsFrame, Ended]
    results.publish(rows(2))
    assert one.take() == []
    assert values(other.take()) == [1, 2]
