"""Posts: bodies, receipts, repeated keys, backpressure, what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from mql.errors import MqlError
from mql.exec.clock import ManualClock
from mql.exec.feed import From, Reader
from mql.exec.items import Chunk, Raw, Rows
from sources.archive import Archive
from sources.http import Body, Full, HttpSource, split_body

LINES = b'{"n":1}\n{"n":2}\n'


def texts(items: object) -> list[str]:
    assert isinstance(items, list | tuple)
    found: list[str] = []
    for item in items:
        if isinstance(item, Rows):
            found += item.table.column("_raw").to_pylist()
        else:
            found += item.data.decode().splitlines()
    return found


def poll(reader: Reader) -> list[Raw]:
    return [item for _ in range(4) for item in reader.poll(0, 1 << 20)]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (LINES, "application/x-ndjson"),
        (LINES[:-1], ""),
        (b"\xef\xbb\xbf" + LINES, "application/x-www-form-urlencoded"),
        (b' [{"n": 1},\n {"n": 2}]', "application/json"),
        (b'[{"n":1},{"n":2}]', ""),
    ],
)
def test_a_body_becomes_lines(body: bytes, content_type: str) -> None:
    assert split_body(body, content_type) == Body(LINES, 2)


def test_one_object_over_several_lines_is_one_event() -> None:
    assert split_body(b'{\n  "n": 1\n}\n') == Body(b'{"n":1}\n', 1)


def test_lines_are_counted_without_the_blank_ones() -> None:
    assert split_body(b'\n{"n":1}\n\n\n{"n":2}\n').events == 2
    assert split_body(b'{"n":1}\r\n\r\n{"n":2}').events == 2
    assert split_body(b" \n") == Body(b"", 0)


def test_a_line_that_is_no_json_is_let_through_but_an_array_that_is_none_is_refused() -> None:
    assert split_body(b"oops\n") == Body(b"oops\n", 1)
    with pytest.raises(MqlError, match="not JSON"):
        split_body(b'[{"n":1},')


def test_every_reader_gets_everything_from_its_start() -> None:
    source = HttpSource("h", clock=ManualClock(7))
    early = source.open(None)
    receipt = source.put(LINES)
    late = source.open(None)
    source.put(b'{"n":3}')
    assert (receipt.accepted, receipt.stored, receipt.positions) == (2, "memory", {0: 7000 + len(LINES)})
    assert texts(poll(early)) == ['{"n":1}', '{"n":2}', '{"n":3}']
    assert texts(poll(late)) == ['{"n":3}']
    assert texts(list(source.history(From()))) == ['{"n":1}', '{"n":2}', '{"n":3}']
    assert [field.name for field in source.info.shape.fields] == ["n"]


def test_a_known_key_stores_nothing_again() -> None:
    clock = ManualClock()
    source = HttpSource("h", clock=clock)
    first = source.put(LINES, "key")
    again = source.put(LINES, "key")
    assert (again.repeated, again.positions, source.end()) == (True, first.positions, first.positions)
    clock.advance(601_000_000)
    source.put(LINES, "another")
    assert not source.put(LINES, "key").repeated


def test_a_put_that_finds_no_room_is_refused_and_goes_in_later() -> None:
    source = HttpSource("h", buffer_bytes=len(LINES))
    reader = source.open(None)
    source.put(LINES)
    with pytest.raises(Full) as refused:
        source.put(LINES)
    assert refused.value.retry_after_s > 0
    poll(reader)
    source.put(LINES)
    assert texts(poll(reader)) == ['{"n":1}', '{"n":2}']


def test_an_archive_keeps_posts_over_a_restart_and_offsets_go_on(tmp_path: Path) -> None:
    clock = ManualClock(1_700_000_000_000_000)
    source = HttpSource("h", clock=clock, archive=Archive(tmp_path, fsync=True, clock=clock))
    receipt = source.put(LINES)
    assert receipt.stored == "archive-synced"
    source.close()
    again = HttpSource("h", clock=clock, archive=Archive(tmp_path, fsync=True, clock=clock))
    assert again.end() == receipt.positions
    reader = again.open(From())
    again.put(b'{"n":3}')
    assert texts(poll(reader)) == ['{"n":1}', '{"n":2}', '{"n":3}']
    again.put(b'{"n":4}')
    assert texts(poll(reader)) == ['{"n":4}']
    assert texts(list(again.history(From()))) == ['{"n":1}', '{"n":2}', '{"n":3}', '{"n":4}']
    again.close()


def test_a_reader_from_the_past_crosses_from_archive_to_live_without_gap_or_double(tmp_path: Path) -> None:
    clock = ManualClock(1_700_000_000_000_000)
    source = HttpSource("h", clock=clock, buffer_bytes=64, archive=Archive(tmp_path, clock=clock))
    for n in range(20):
        source.put(b'{"n":%d}' % n)
    reader = source.open(From())
    found = list(reader.poll(0, 30))
    for n in range(20, 40):
        source.put(b'{"n":%d}' % n)
        found += reader.poll(0, 30)
    while more := poll(reader):
        found += more
    assert texts(found) == [f'{{"n":{n}}}' for n in range(40)]
    assert all(isinstance(item, Chunk | Rows) for item in found)
    source.close()
