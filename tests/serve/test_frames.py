"""Frames as they go over the wire: SSE, NDJSON, CSV and Arrow, by the pens that write them."""

from __future__ import annotations

import gzip
import json
import zlib

import pyarrow as pa
import pytest
import zstandard

from mql.exec.frames import Ended, Failed, Gap, Meta, Progress, RowsFrame, Seal
from server.encode import PLAIN
from server.stream import (
    ArrowPen,
    CsvPen,
    Cut,
    Encoded,
    Gzip,
    LinesPen,
    SsePen,
    Zstd,
    coding_of,
    joined_cursors,
    split_cursors,
)


def rows(*values: int, cursor: str = "c1") -> RowsFrame:
    return RowsFrame(pa.table({"n": pa.array(values, pa.int64())}), cursor)


def sse(single: bool = False) -> SsePen:
    return SsePen(Encoded(), {None: PLAIN}, single)


def test_rows_are_one_event_whose_id_is_the_cursor_after_them() -> None:
    assert sse().write([(None, rows(1, 2))]) == b'id: c1\nevent: rows\ndata: [{"n":1},{"n":2}]\n\n'


def test_small_frames_of_one_flush_become_one_event() -> None:
    written = sse().write([(None, rows(1)), (None, rows(2, cursor="c2"))])
    assert written == b'id: c2\nevent: rows\ndata: [{"n":1},{"n":2}]\n\n'


def test_a_large_frame_is_several_events_each_with_the_cursor_behind_its_rows() -> None:
    frames = [(None, rows(1, 2, cursor="e-3.12")), (None, rows(*range(1_100), cursor="e-4.1112"))]
    events = sse().write(frames).split(b"\n\n")[:-1]
    assert [event.split(b"\n")[0] for event in events] == [
        b"id: e-3.12",
        b"id: e-3.512",
        b"id: e-3.1012",
        b"id: e-4.1112",
    ]
    assert [len(json.loads(event.split(b"data: ")[1])) for event in events] == [2, 500, 500, 100]


def test_a_frame_of_the_newest_rows_has_no_cursor_in_its_midst() -> None:
    frame = RowsFrame(rows(*range(600)).table, "e-4.5000", counted=0)
    events = sse().write([(None, frame)]).split(b"\n\n")[:-1]
    assert [event.startswith(b"id: e-4.5000\n") for event in events] == [False, True]


def test_order_between_rows_and_other_frames_is_kept() -> None:
    seal = Seal({"rows": 1}, "c2")
    written = sse().write([(None, rows(1)), (None, seal), (None, rows(2, cursor="c3"))])
    assert [line for line in written.split(b"\n") if line.startswith(b"id")] == [b"id: c1", b"id: c2", b"id: c3"]


def test_batch_1_is_one_unnamed_event_per_row() -> None:
    written = sse(single=True).write([(None, rows(1, 2, cursor="e-1.2"))])
    assert written == b'id: e-0.1\ndata: {"n":1}\n\nid: e-1.2\ndata: {"n":2}\n\n'


def test_the_last_event_has_an_id_that_ends_reconnects() -> None:
    written = sse().write([(None, rows(1)), (None, Ended("limit"))])
    assert written.endswith(b'id: end.c1\nevent: end\ndata: {"reason":"limit"}\n\n')


def test_several_queries_share_a_stream_and_a_cursor() -> None:
    pen = SsePen(Encoded(), {"a": PLAIN, "b": PLAIN}, several=True)
    written = pen.write([("a", rows(1)), ("b", rows(2, cursor="x"))]).decode()
    assert 'id: a=c1\nevent: rows\ndata: {"query":"a","data":[{"n":1}]}' in written
    assert 'id: a=c1&b=x\nevent: rows\ndata: {"query":"b","data":[{"n":2}]}' in written
    assert split_cursors(joined_cursors(pen.cursors)) == {"a": "c1", "b": "x"}


def test_lines_are_rows_alone_unless_all_frames_are_asked_for() -> None:
    frames = [(None, Meta({"id": "q"})), (None, rows(1)), (None, Progress({"scanned": 1})), (None, Ended("done"))]
    assert LinesPen(Encoded(), {None: PLAIN}).write(frames) == b'{"n":1}\n'
    all_lines = LinesPen(Encoded(), {None: PLAIN}, all=True).write(frames).splitlines()
    told = [json.loads(line) for line in all_lines]
    assert [each["event"] for each in told] == ["meta", "rows", "progress", "end"]
    assert told[1] == {"event": "rows", "data": [{"n": 1}], "id": "c1"}


def test_lines_of_rows_alone_still_tell_of_a_gap_and_an_error() -> None:
    pen = LinesPen(Encoded(), {None: PLAIN})
    written = pen.write([(None, Gap({"rows": 5})), (None, Failed({"code": "broken"}))]).splitlines()
    assert [json.loads(line) for line in written] == [
        {"event": "gap", "data": {"rows": 5}},
        {"event": "error", "data": {"code": "broken"}},
    ]


def test_csv_and_arrow_break_off_where_rows_are_missing() -> None:
    for pen in (CsvPen(Encoded(), PLAIN, ["n"]), ArrowPen([("n", "BIGINT")])):
        with pytest.raises(Cut):
            pen.write([(None, Gap({"rows": 5}))])


def test_the_first_rows_tell_the_header_of_csv() -> None:
    pen = CsvPen(Encoded(), PLAIN, ["n"])
    keyed = RowsFrame(pa.table({"n": [1], "_key": ["a"]}), "c1")
    assert pen.head() + pen.write([(None, keyed)]) + pen.write([(None, keyed)]) == b"n,_key\r\n1,a\r\n1,a\r\n"
    assert pen.tail() == b""
    assert CsvPen(Encoded(), PLAIN, ["n"]).tail() == b"n\r\n"


def test_arrow_is_one_batch_a_flush_and_never_without_a_schema() -> None:
    pen = ArrowPen([("n", "BIGINT")])
    sent = pen.head() + pen.write([(None, rows(1)), (None, rows(2))]) + pen.write([(None, rows(3))]) + pen.tail()
    with pa.ipc.open_stream(sent) as reader:
        assert [batch.num_rows for batch in reader] == [2, 1]
    with pa.ipc.open_stream(ArrowPen([("n", "BIGINT")]).tail()) as reader:
        assert reader.schema == pa.schema([("n", pa.int64())])


def test_a_frame_is_encoded_once_for_all_readers() -> None:
    encoded = Encoded()
    frame = rows(1, 2)
    first = encoded.inner(frame.table, PLAIN)
    assert encoded.inner(frame.table, PLAIN) is first


def test_encoded_frames_have_a_bound() -> None:
    encoded = Encoded(bytes_max=10_000, frames_max=10)
    for n in range(100):
        encoded.lines(rows(n).table, PLAIN)
    assert len(encoded.made) == 10
    encoded.lines(rows(*range(10_000)).table, PLAIN)
    assert encoded.bytes <= 10_000


def test_compression_lets_each_flush_be_read_at_once() -> None:
    squeeze = Gzip()
    reader = zlib.decompressobj(31)
    assert reader.decompress(squeeze.put(b"one")) == b"one"
    assert reader.decompress(squeeze.put(b"two")) == b"two"
    assert gzip.decompress(Gzip().put(b"x") and whole(Gzip(), b"abc")) == b"abc"
    packed = Zstd()
    unpacked = zstandard.ZstdDecompressor().decompressobj()
    assert unpacked.decompress(packed.put(b"one")) == b"one"
    assert unpacked.decompress(packed.put(b"two") + packed.end()) == b"two"


def whole(squeeze: Gzip, data: bytes) -> bytes:
    return squeeze.put(data) + squeeze.end()


def test_a_coding_is_used_only_where_it_is_named() -> None:
    assert coding_of("gzip, deflate, br, zstd") == "zstd"
    assert coding_of("gzip;q=1.0, zstd;q=0") == "gzip"
    assert coding_of("br") is None
    assert coding_of("*") is None
    assert coding_of("") is None
