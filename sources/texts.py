"""Text files, plain or compressed, as blocks of whole lines."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from mql.errors import MqlError
from sources.pieces import CHUNK_BYTES, END

BOM = b"\xef\xbb\xbf"
LOOK_BACK = 64 << 10

Block = tuple[int, bytes]
"""The offset of the first byte, and whole lines, each ended by a newline (the file's last one if need be by us)."""


def blocks_of(path: Path, start: int = 0, end: int = END, size: int = CHUNK_BYTES) -> Iterator[Block]:
    """The lines that start in `[start, end)` of the uncompressed text, in blocks of about `size` bytes."""
    if not is_compressed(path):
        with path.open("rb", buffering=0) as file:
            yield from plain_blocks(file.fileno(), start, end, size)
        return
    try:
        with decompressed(path) as stream:
            yield from stream_blocks(stream, start, end, size)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise MqlError(
            f'file "{path}" cannot be decompressed',
            hint=f"Check that the file is complete: {error}.",
            code="source-unreadable",
        ) from error


def plain_blocks(fd: int, start: int, end: int, size: int = CHUNK_BYTES) -> Iterator[Block]:
    """Blocks of a plain file; each is read in one piece, exactly up to a line's end, so that nothing is copied."""
    length = os.fstat(fd).st_size
    stop = length if end >= length else next_line(fd, end, length)
    at = len(BOM) if start <= len(BOM) and os.pread(fd, len(BOM), 0) == BOM else next_line(fd, start, length)
    while at < stop:
        cut = stop if stop - at <= size else last_line_end(fd, at, at + size, stop)
        data = read_exactly(fd, at, cut - at)
        if not data:
            return
        yield at, data if data.endswith(b"\n") else data + b"\n"
        at = cut


def next_line(fd: int, at: int, length: int) -> int:
    """Where the first line that starts at or after `at` starts; the file's length where there is none."""
    if at <= 0:
        return 0
    at -= 1
    while at < length:
        piece = os.pread(fd, LOOK_BACK, at)
        found = piece.find(b"\n")
        if found >= 0:
            return at + found + 1
        if not piece:
            break
        at += len(piece)
    return length


def last_line_end(fd: int, start: int, target: int, stop: int) -> int:
    """The end of the last line that ends in `[start, target)`; of a longer line, its own end."""
    upper = target
    while upper > start:
        lower = max(start, upper - LOOK_BACK)
        found = os.pread(fd, upper - lower, lower).rfind(b"\n")
        if found >= 0:
            return lower + found + 1
        upper = lower
    return min(next_line(fd, target, stop), stop)


def read_exactly(fd: int, at: int, size: int) -> bytes:
    """So many bytes, fewer only where the file has become shorter meanwhile."""
    data = os.pread(fd, size, at)
    while len(data) < size:
        more = os.pread(fd, size - len(data), at + len(data))
        if not more:
            break
        data += more
    return data


def complete_end(fd: int) -> int:
    """Where the last line that is ended by a newline ends."""
    length = os.fstat(fd).st_size
    upper = length
    while upper > 0:
        lower = max(0, upper - LOOK_BACK)
        found = os.pread(fd, upper - lower, lower).rfind(b"\n")
        if found >= 0:
            return lower + found + 1
        upper = lower
    return 0


def stream_blocks(stream: BinaryIO, start: int, end: int, size: int = CHUNK_BYTES) -> Iterator[Block]:
    """Blocks of a stream that can only be read forward; what lies before `start` is read and left out."""
    rest, at, first = b"", 0, True
    while at < end:
        data = stream.read(max(size, len(BOM)) if first else size)
        last = not data
        if first and data.startswith(BOM):
            data, at = data[len(BOM) :], len(BOM)
        first = False
        whole = rest + data
        if last and whole and not whole.endswith(b"\n"):
            whole += b"\n"
        cut = whole.rfind(b"\n") + 1
        wanted = lines_within(whole[:cut], at, start, end)
        if wanted is not None:
            yield wanted
        rest = whole[cut:]
        at += cut
        if last:
            return


def lines_within(data: bytes, base: int, start: int, end: int) -> Block | None:
    """The lines that start in `[start, end)` of a block that begins at `base`."""
    lower = 0 if start <= base else data.find(b"\n", start - base - 1) + 1
    if start - base > len(data):
        lower = len(data)
    upper = len(data) if end - base >= len(data) else data.find(b"\n", max(end - base - 1, 0)) + 1
    if lower >= upper:
        return None
    return base + lower, data[lower:upper]


def is_compressed(path: Path) -> bool:
    return compression_of(path) is not None


def compression_of(path: Path) -> str | None:
    """`gzip` or `zstd`, told by the file's first bytes."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if magic == b"\x28\xb5\x2f\xfd" else None


def decompressed(path: Path) -> BinaryIO:
    """The file's text, whatever it is packed in."""
    match compression_of(path):
        case "gzip":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case "zstd":
            raw = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
            return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, raw), 1 << 20))
        case _:
            return path.open("rb")


def length_of(path: Path) -> int:
    """The length of the uncompressed text; a compressed file is read through for it."""
    if not is_compressed(path):
        return path.stat().st_size
    return max((at + len(data) for at, data in blocks_of(path)), default=0)
