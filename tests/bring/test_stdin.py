"""Standard input: a pipe is live, a file is a file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mql.exec.feed import From, Reader
from mql.exec.items import Chunk, Raw, Rows
from sources.file import FileSource
from sources.stdin import PipeSource, stdin_source


class Pipe:
    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        self.open = True

    def write(self, data: bytes) -> None:
        os.write(self.into, data)

    def end(self) -> None:
        if self.open:
            os.close(self.into)
            self.open = False


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.end()
    os.close(made.out)


def read_all(reader: Reader) -> list[Raw]:
    found: list[Raw] = []
    while not reader.ended:
        found += reader.poll(0.5, 1 << 20)
    return found


def text(items: list[Raw]) -> bytes:
    return b"".join(item.data for item in items if isinstance(item, Chunk))


def test_a_pipe_is_live_and_ends_with_its_writer(pipe: Pipe) -> None:
    pipe.write(b'{"n":1}\n{"n"')
    source = stdin_source(fd=pipe.out)
    assert isinstance(source, PipeSource)
    assert [field.name for field in source.info.shape.fields] == ["n"]
    assert not source.info.bounded
    reader = source.open(None)
    assert text(list(reader.poll(5, 1 << 20))) == b'{"n":1}\n'
    pipe.write(b":2}\n\xef")
    pipe.end()
    assert text(read_all(reader)) == b'{"n":2}\n\xef\n'
    source.close()


def test_a_piped_csv_has_columns(pipe: Pipe) -> None:
    pipe.write(b"n,name\n1,a\n2,b")
    pipe.end()
    source = PipeSource(fd=pipe.out)
    assert [(field.name, str(field.type)) for field in source.info.shape.fields] == [
        ("n", "BIGINT"),
        ("name", "VARCHAR"),
    ]
    rows = [row for item in read_all(source.open(From())) if isinstance(item, Rows) for row in item.table.to_pylist()]
    assert rows == [{"n": 1, "name": "a", "_offset": 0}, {"n": 2, "name": "b", "_offset": 1}]
    source.close()


def test_piped_parquet_is_read_whole(pipe: Pipe) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2]}), sink)
    pipe.write(sink.getvalue())
    pipe.end()
    source = PipeSource(fd=pipe.out)
    (item,) = read_all(source.open(None))
    assert isinstance(item, Rows)
    assert item.table.column("n").to_pylist() == [1, 2]
    source.close()


def test_a_full_buffer_leaves_the_rest_in_the_pipe(pipe: Pipe) -> None:
    source = PipeSource(fd=pipe.out, buffer_bytes=1_000)
    lines = b"".join(b'{"n":%d}\n' % n for n in range(200))
    pipe.write(lines[:900])
    reader = source.open(None)
    pipe.write(lines[900:])
    pipe.end()
    assert text(read_all(reader)) == lines
    source.close()


def test_a_file_on_standard_input_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text('{"n":1}\n')
    with path.open("rb") as file:
        source = stdin_source(fd=file.fileno())
        assert isinstance(source, FileSource)
        assert source.info.bounded
        assert text(list(source.history(From()))) == b'{"n":1}\n'
