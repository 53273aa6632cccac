"""Raw items cut at positions: what a resumed reader, a bounded history and a ring need alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.exec.feed import Positions
from mql.exec.items import MAX_US, Chunk, Raw, Rows

CHUNK_BYTES = 16 << 20
END = MAX_US  # beyond every offset


def first_of(item: Raw) -> int:
    """The offset of the item's first event."""
    match item:
        case Chunk():
            return item.base
        case Rows():
            return int(item.table.column("_offset")[0].as_py()) if item.table.num_rows else item.next_offset


def bytes_of(item: Raw) -> int:
    match item:
        case Chunk():
            return len(item.data)
        case Rows():
            return int(item.table.nbytes)


def clip(item: Raw, since: int, until: int = END) -> Raw | None:
    """The part of the item whose events start in `[since, until)`; None where that is nothing."""
    if since <= first_of(item) and item.next_offset <= until:
        return item
    match item:
        case Chunk():
            return clip_chunk(item, since, until)
        case Rows():
            return clip_rows(item, since, until)


def clip_chunk(chunk: Chunk, since: int, until: int) -> Chunk | None:
    start = line_start(chunk.data, since - chunk.base)
    end = line_start(chunk.data, until - chunk.base)
    if start >= end:
        return None
    return Chunk(chunk.split, chunk.data[start:end], chunk.base + start, chunk.arrival_us)


def line_start(data: bytes, at: int) -> int:
    """Where the first line that begins at or after `at` begins."""
    if at <= 0:
        return 0
    if at >= len(data):
        return len(data)
    return data.index(b"\n", at - 1) + 1


def clip_rows(rows: Rows, since: int, until: int) -> Rows | None:
    offsets = rows.table.column("_offset").to_numpy()
    start, end = (int(at) for at in np.searchsorted(offsets, [since, until]))
    if start >= end:
        return None
    whole = end == len(offsets)
    next_offset = min(rows.next_offset, until) if whole else int(offsets[end - 1]) + 1
    return Rows(rows.split, rows.table.slice(start, end - start), rows.arrival_us, next_offset)


def between(items: Iterable[Raw], since: Positions, until: Positions | None) -> Iterator[Raw]:
    """The items' events at or after `since` and before `until`; splits that `until` does not name are left out."""
    for item in items:
        last = END if until is None else until.get(item.split, 0)
        piece = clip(item, since.get(item.split, 0), last)
        if piece is not None:
            yield piece


def slices(chunk: Chunk, max_bytes: int) -> Iterator[Chunk]:
    """A big chunk as several of at most `max_bytes` (or one line, where a line is longer)."""
    start = 0
    size = len(chunk.data)
    while start < size:
        end = size if size - start <= max_bytes else chunk.data.rfind(b"\n", start, start + max_bytes) + 1
        if end <= start:
            end = chunk.data.index(b"\n", start) + 1
        yield Chunk(chunk.split, chunk.data[start:end], chunk.base + start, chunk.arrival_us)
        start = end


class Portions:
    """Items that wait to be handed out, about so many bytes at a time; big chunks are cut at a line's end."""

    def __init__(self) -> None:
        self.waiting: deque[Raw] = deque()

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def add(self, items: Iterable[Raw]) -> None:
        self.waiting.extend(items)

    def give(self, max_bytes: int) -> tuple[Raw, ...]:
        """At least one item, if any waits; no more than `max_bytes` unless a single one is bigger."""
        given: list[Raw] = []
        room = max(max_bytes, 1)
        while self.waiting and room > 0:
            item = self.waiting.popleft()
            if isinstance(item, Chunk) and len(item.data) > room and not given:
                head, *tail = slices(item, room)
                self.waiting.extendleft(reversed(tail))
                item = head
            elif given and bytes_of(item) > room:
                self.waiting.appendleft(item)
                break
            room -= bytes_of(item)
            given.append(item)
        return tuple(given)


def merged(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks of one split that follow each other as one. Its arrival is the last one's."""
    if len(chunks) == 1:
        return chunks[0]
    data = b"".join(chunk.data for chunk in chunks)
    return Chunk(chunks[0].split, data, chunks[0].base, chunks[-1].arrival_us)


def lines_of(chunk: Chunk) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The chunk's lines, each with its line end, as Arrow text without a copy, and their offsets. No blank ones."""
    data = np.frombuffer(chunk.data, np.uint8)
    ends = np.flatnonzero(data == 10)
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    bounds = np.concatenate((starts, [len(chunk.data)])).astype(np.int64)
    texts = pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(bounds), pa.py_buffer(chunk.data))
    offsets = starts.astype(np.int64) + chunk.base
    blank = (ends == starts) | ((ends - starts == 1) & (data[starts] == 13)) if len(ends) else ends == starts
    if blank.any():
        filled = np.flatnonzero(~blank)
        return texts.take(pa.array(filled)), offsets[filled]
    return texts, offsets


def lines_list(chunk: Chunk, n: int) -> list[bytes]:
    """The first n lines that are not blank, as bytes."""
    found: list[bytes] = []
    start = 0
    while len(found) < n and start < len(chunk.data):
        end = chunk.data.find(b"\n", start)
        end = len(chunk.data) if end < 0 else end
        line = chunk.data[start:end].strip()
        if line:
            found.append(line)
        start = end + 1
    return found
