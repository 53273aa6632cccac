"""Files: formats, positions, shapes, and files that grow."""

from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mql.errors import MqlError
from mql.exec.clock import ManualClock
from mql.exec.feed import From, Reader
from mql.exec.items import Chunk, Raw, Rows
from mql.schema import BIGINT, DOUBLE, TIMESTAMP, VARCHAR, Field, Shape
from sources.file import FileSource
from sources.settings import Settings
from sources.tail import TailReader


def rows(items: Any) -> list[dict[str, Any]]:
    return [row for item in items for row in item.table.to_pylist()]


def text(items: Any) -> bytes:
    return b"".join(item.data for item in items)


def read_all(reader: Reader) -> list[Raw]:
    found: list[Raw] = []
    while not reader.ended:
        found += reader.poll(0, 1 << 20)
    return found


# --- JSON lines --------------------------------------------------------------------------------------


def test_json_lines_have_a_learned_shape_and_a_guessed_time(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text('{"n":1,"timestamp":"2024-05-01T00:00:00Z"}\n{"n":2,"timestamp":"2024-05-01T00:00:01Z"}')
    info = FileSource("events", path).info
    assert [field.name for field in info.shape.fields] == ["n", "timestamp"]
    assert info.time.path == ("timestamp",)
    assert (info.bounded, info.history, info.encoding) == (True, True, "json")


def test_a_reader_goes_on_where_another_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"".join(b'{"n":%d}\n' % n for n in range(100)))
    source = FileSource("a", path)
    reader = source.open(None)
    first = reader.poll(0, 50)
    rest = source.open(From(reader.positions))
    assert text(first) + text(read_all(rest)) == path.read_bytes()
    assert rest.positions == source.end()


def test_every_file_of_a_pattern_is_a_split(tmp_path: Path) -> None:
    (tmp_path / "b.ndjson").write_text('{"n":2}\n')
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(b'{"n":1}\n'))
    source = FileSource("ab", tmp_path / "*.ndjson*")
    assert [(item.split, item.data) for item in source.history(From()) if isinstance(item, Chunk)] == [
        (0, b'{"n":1}\n'),
        (1, b'{"n":2}\n'),
    ]
    assert source.open(None, task=1, tasks=2).splits == (1,)


def test_events_without_a_time_came_when_the_file_was_written_whoever_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"a":1}\n' * 50)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    source = FileSource("files", path)
    parts = [item for part in range(3) for item in source.history(From(), part=part, parts=3)]
    assert len(parts) == 3
    assert {item.arrival_us for item in parts} == {1_700_000_000_000_000}


def test_no_file_is_an_error_of_the_asker(tmp_path: Path) -> None:
    with pytest.raises(MqlError, match="no file matches"):
        FileSource("none", tmp_path / "*.json")


def test_a_json_array_is_read_as_its_elements(tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    path.write_text('[\n {"n": 1},\n {"n": 2}\n]')
    source = FileSource("array", path)
    assert text(source.history(From())) == b'{"n":1}\n{"n":2}\n'


# --- CSV ---------------------------------------------------------------------------------------------


def test_csv_has_types_and_survives_broken_rows(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text('ts,name,v\n2024-01-01T00:00:00Z,"a\nb",1\n2024-01-01T00:00:01Z,,2.5\nbroken\n,"d ""q""",4')
    source = FileSource("c", path)
    assert [(field.name, field.type) for field in source.info.shape.fields] == [
        ("ts", TIMESTAMP),
        ("name", VARCHAR),
        ("v", DOUBLE),
    ]
    found = rows(source.history(From()))
    assert [(row["name"], row["v"], row["_offset"]) for row in found] == [
        ("a\nb", 1, 0),
        (None, 2.5, 1),
        ('d "q"', 4, 2),
    ]
    assert source.skipped_rows > 0


def test_a_value_that_does_not_fit_its_column_is_null(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"n;t\n1;x\noops;y\n3;\xff\n")
    source = FileSource("c", path, settings=Settings(shape=Shape((Field("n", BIGINT),))))
    assert [row["n"] for row in rows(source.history(From()))] == [1, None, 3]


def test_csv_goes_on_at_a_row(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("n\n1\n2\n3\n")
    source = FileSource("c", path)
    assert [row["n"] for row in rows(source.history(From({0: 1}), {0: 2}))] == [2]
    assert source.end() == {0: 3}


# --- Parquet -----------------------------------------------------------------------------------------


def test_parquet_reads_the_asked_columns_of_the_asked_rows(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    table = pa.table({"ts": pa.array(range(10), pa.int32()), "kind": pa.array(["a", "b"] * 5).dictionary_encode()})
    pq.write_table(table, path, row_group_size=4)
    source = FileSource("p", path)
    assert [(field.name, field.type) for field in source.info.shape.fields] == [("ts", BIGINT), ("kind", VARCHAR)]
    found = rows(source.history(From({0: 3}), {0: 9}, columns=["kind"]))
    assert found == [{"kind": "ab"[n % 2], "_offset": n} for n in range(3, 9)]
    parts = [rows(source.history(From(), None, part, 2)) for part in range(2)]
    assert sorted(row["ts"] for part in parts for row in part) == list(range(10))
    assert all(parts)


def test_files_of_different_columns_become_one_shape(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["x"], "a": pa.array([2], pa.int16())}), tmp_path / "2.parquet")
    found = rows(FileSource("ab", tmp_path / "*.parquet").history(From()))
    assert [(row["a"], row["b"]) for row in found] == [(1, None), (2, "x")]


# --- files that grow ---------------------------------------------------------------------------------


class Log:
    """A log that somebody writes, and a source that follows it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "app.log"
        self.path.write_bytes(b"old\n")
        self.directory = directory
        self.clock = ManualClock(1_000_000)

    def source(self) -> FileSource:
        registry = self.directory / "state" / "followed.json"
        pattern = self.directory / "*.log*"
        return FileSource("log", pattern, format="ndjson", follow=True, clock=self.clock, registry=registry)

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def polled(reader: Reader) -> list[tuple[int, int, bytes]]:
    found = [*reader.poll(0, 1 << 20), *reader.poll(0, 1 << 20), *reader.poll(0, 1 << 20)]
    return [(item.split, item.base, item.data) for item in found if isinstance(item, Chunk)]


def test_a_follower_gives_what_is_appended_and_whole_lines_only(log: Log) -> None:
    reader = log.source().open(None)
    log.write(b"one\ntw")
    assert polled(reader) == [(0, 4, b"one\n")]
    log.write(b"o\n")
    assert polled(reader) == [(0, 8, b"two\n")]
    reader.close()


def test_a_rotated_file_is_read_to_its_end_and_offsets_go_on(log: Log) -> None:
    reader = log.source().open(From())
    assert polled(reader) == [(0, 0, b"old\n")]
    log.write(b"last")
    log.path.rename(log.directory / "app.log.1")
    log.path.write_bytes(b"new\n")
    assert polled(reader) == [(0, 4, b"last\n"), (0, 9, b"new\n")]
    log.clock.advance(5_000_000)
    assert polled(reader) == []
    assert reader.splits == (0,)
    reader.close()


def test_a_file_that_is_cut_short_begins_anew(log: Log) -> None:
    reader = log.source().open(From())
    assert polled(reader) == [(0, 0, b"old\n")]
    os.truncate(log.path, 0)
    log.write(b"n\n")
    assert polled(reader) == [(0, 4, b"n\n")]
    reader.close()


def test_a_new_file_becomes_a_new_split(log: Log) -> None:
    reader = log.source().open(None)
    assert polled(reader) == []
    (log.directory / "aaa.log").write_bytes(b"x\n")
    log.clock.advance(2_000_000)
    assert polled(reader) == [(1, 0, b"x\n")]
    reader.close()


def test_a_restarted_follower_finds_what_was_rotated_away_meanwhile(log: Log) -> None:
    source = log.source()
    reader = source.open(From())
    polled(reader)
    stopped_at = reader.positions
    reader.close()
    log.write(b"unread\n")
    log.path.rename(log.directory / "app.log.1")
    log.path.write_bytes(b"new\n")
    again = log.source().open(From(stopped_at))
    assert polled(again) == [(0, 4, b"unread\n"), (0, 11, b"new\n")]
    again.close()


def test_the_history_of_a_followed_file_ends_where_the_live_part_begins(log: Log) -> None:
    source = log.source()
    log.write(b"a\nhal")
    end = source.end()
    assert text(source.history(From(), end)) == b"old\na\n"
    live = source.open(From(end))
    log.write(b"f\n")
    assert polled(live) == [(0, 6, b"half\n")]
    live.close()


def test_a_line_longer_than_the_room_comes_whole(log: Log) -> None:
    reader = log.source().open(None)
    log.write(b"x" * 200_000 + b"\ny\n")
    found = [item for _ in range(3) for item in reader.poll(0, 1000)]
    assert text(found) == b"x" * 200_000 + b"\ny\n"
    reader.close()


def test_a_follower_waits_for_a_file_that_is_not_there(tmp_path: Path) -> None:
    clock = ManualClock()
    reader = FileSource("f", tmp_path / "*.ndjson", follow=True, clock=clock).open(None)
    assert isinstance(reader, TailReader)
    assert reader.trouble is not None
    (tmp_path / "n.ndjson").write_text('{"n":1}\n')
    clock.advance(2_000_000)
    assert polled(reader) == [(0, 0, b'{"n":1}\n')]
    assert reader.trouble is None
    reader.close()


def test_new_parquet_files_are_found_once_they_are_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "1.parquet")
    clock = ManualClock()
    source = FileSource("p", tmp_path / "*.parquet", follow=True, clock=clock)
    reader = source.open(From())
    assert rows(reader.poll(0, 1 << 20)) == [{"n": 1, "_offset": 0}]
    (tmp_path / "2.parquet").write_bytes(b"PAR1 not yet whole")
    clock.advance(2_000_000)
    assert reader.poll(0, 1 << 20) == []
    pq.write_table(pa.table({"n": [2]}), tmp_path / "2.parquet")
    clock.advance(2_000_000)
    found = reader.poll(0, 1 << 20)
    assert isinstance(found[0], Rows)
    assert rows(found) == [{"n": 2, "_offset": 0}]
    assert reader.positions == source.end()
    reader.close()


def test_the_shape_of_a_followed_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "n.ndjson"
    path.write_text('{"n":1}\n')
    source = FileSource("f", path, follow=True)
    reader = source.open(None)
    before = source.info.shape
    path.write_text('{"n":1}\n{"n":2,"more":"x"}\n')
    polled(reader)
    after = source.info.shape
    assert [field.name for field in after.fields] == ["n", "more"]
    assert after.version > before.version
    reader.close()


def test_columns_of_every_kind_come_as_the_types_of_queries(tmp_path: Path) -> None:
    day = datetime(2024, 5, 1)
    table = pa.table(
        {
            "unsigned": pa.array([2**63], pa.uint64()),
            "zoned": pa.array([day.replace(tzinfo=UTC)], pa.timestamp("ns", "Europe/Berlin")),
            "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())),
            "bytes": pa.array([b"abc"], pa.binary()),
            "nested": pa.array([[{"x": 1.5}]], pa.list_(pa.struct([("x", pa.float32())]))),
            "date": pa.array([day.date()], pa.date64()),
            "nothing": pa.nulls(1),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    source = FileSource("p", tmp_path / "p.parquet")
    assert [str(field.type) for field in source.info.shape.fields] == [
        "DECIMAL(38,10)",
        "TIMESTAMP",
        'STRUCT("key" VARCHAR, "value" BIGINT)[]',
        "VARCHAR",
        'STRUCT("x" DOUBLE)[]',
        "DATE",
        "VARCHAR",
    ]
    (row,) = rows(source.history(From()))
    assert list(row.values()) == [2**63, day, [{"key": "a", "value": 1}], "abc", [{"x": 1.5}], day.date(), None, 0]


def test_row_groups_that_are_too_old_are_not_read(tmp_path: Path) -> None:
    for name, times in (
        ("seconds", pa.array(range(1_700_000_000, 1_700_000_010))),
        (
            "stamps",
            pa.array([datetime.fromtimestamp(1_700_000_000 + n, UTC) for n in range(10)], pa.timestamp("ms", "UTC")),
        ),
    ):
        pq.write_table(pa.table({"ts": times}), tmp_path / name, row_group_size=2)
        source = FileSource(name, tmp_path / name)
        found = rows(source.history(From(time_us=1_700_000_005_000_000)))
        assert [row["_offset"] for row in found] == [4, 5, 6, 7, 8, 9]


def test_an_object_printed_over_several_lines_is_one_event(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{\n  "n": 1\n}\n')
    assert text(FileSource("one", path).history(From())) == b'{"n":1}\n'


def test_empty_files_hold_nothing(tmp_path: Path) -> None:
    for name, content in (("a.json", b""), ("b.csv", b""), ("c.csv", b"n\n"), ("d.json", b"[]")):
        (tmp_path / name).write_bytes(content)
        source = FileSource("empty", tmp_path / name)
        assert list(source.history(From())) == []
        assert source.end() == {0: 0}
        assert read_all(source.open(None)) == []
