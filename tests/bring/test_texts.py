"""Text files become the same lines at the same offsets, however the blocks fall."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mql.errors import MqlError
from mql.exec.feed import From
from mql.exec.items import Chunk, Raw
from sources.file import FileSource
from sources.pieces import clip_chunk, lines_of, slices
from sources.texts import blocks_of

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINES = st.lists(st.text("ab{}é", max_size=9).map(str.encode), max_size=12)
ENDS = st.sampled_from([b"\n", b"\r\n"])


def offsets_of(text: bytes) -> list[tuple[int, bytes]]:
    """What must come out: each line with the byte it starts at, the last one given its end."""
    found, at = [], 3 if text.startswith(b"\xef\xbb\xbf") else 0
    while at < len(text):
        end = text.find(b"\n", at) + 1
        line = text[at:] + b"\n" if end == 0 else text[at:end]
        found.append((at, line))
        at += len(line)
    return found


def lines_in(blocks: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    found = []
    for base, data in blocks:
        assert data.endswith(b"\n")
        at = 0
        for line in data.splitlines(keepends=True) if b"\r" not in data else data.split(b"\n")[:-1]:
            whole = line if line.endswith(b"\n") else line + b"\n"
            found.append((base + at, whole))
            at += len(whole)
    return found


@FEW
@given(
    lines=LINES, end=ENDS, final=st.booleans(), bom=st.booleans(), size=st.integers(1, 20), packing=st.integers(0, 2)
)
def test_blocks_of_any_size_hold_the_same_lines_at_the_same_offsets(
    tmp_path: Path, lines: list[bytes], end: bytes, final: bool, bom: bool, size: int, packing: int
) -> None:
    text = (b"\xef\xbb\xbf" if bom else b"") + end.join(lines) + (end if final and lines else b"")
    pack = (bytes, gzip.compress, zstandard.compress)[packing]
    path = tmp_path / "t"
    path.write_bytes(pack(text))
    assert lines_in(list(blocks_of(path, size=size))) == offsets_of(text)


@FEW
@given(lines=LINES, start=st.integers(0, 40), end=st.integers(0, 60), size=st.integers(1, 20), packed=st.booleans())
def test_a_range_holds_the_lines_that_start_in_it(
    tmp_path: Path, lines: list[bytes], start: int, end: int, size: int, packed: bool
) -> None:
    text = b"\n".join(lines)
    path = tmp_path / "t"
    path.write_bytes(gzip.compress(text) if packed else text)
    wanted = [(at, line) for at, line in offsets_of(text) if start <= at < end]
    assert lines_in(list(blocks_of(path, start, end, size))) == wanted


@FEW
@given(lines=LINES, parts=st.integers(1, 5))
def test_the_parts_of_a_file_are_the_whole_and_nothing_twice(tmp_path: Path, lines: list[bytes], parts: int) -> None:
    path = tmp_path / "t.ndjson"
    path.write_bytes(b"\n".join(lines))
    source = FileSource("t", path)
    read = [piece for part in range(parts) for piece in source.history(From(), None, part, parts)]
    assert lines_in([(one.base, one.data) for one in chunks(read)]) == offsets_of(path.read_bytes())


@FEW
@given(lines=LINES.filter(len), since=st.integers(0, 40), until=st.integers(0, 60), size=st.integers(1, 20))
def test_a_chunk_is_cut_at_lines(lines: list[bytes], since: int, until: int, size: int) -> None:
    text = b"".join(line + b"\n" for line in lines)
    chunk = Chunk(0, text, 5, 0)
    cut = clip_chunk(chunk, since, until)
    wanted = [(at + 5, line) for at, line in offsets_of(text) if since <= at + 5 < until]
    assert lines_in([(cut.base, cut.data)] if cut else []) == wanted
    assert b"".join(piece.data for piece in slices(chunk, size)) == text


def test_lines_become_arrow_texts_without_blank_ones() -> None:
    texts, offsets = lines_of(Chunk(0, b'{"a":1}\n\n\r\nx\n{"a":2}\r\n', 10, 0))
    assert texts.to_pylist() == ['{"a":1}\n', "x\n", '{"a":2}\r\n']
    assert offsets.tolist() == [10, 21, 23]


def test_a_packed_file_that_is_cut_off_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.ndjson.gz"
    path.write_bytes(gzip.compress(b'{"a":1}\n' * 10_000)[:-20])
    with pytest.raises(MqlError, match="cannot be decompressed"):
        FileSource("t", path)


def chunks(items: list[Raw]) -> list[Chunk]:
    assert all(isinstance(item, Chunk) for item in items)
    return [item for item in items if isinstance(item, Chunk)]
