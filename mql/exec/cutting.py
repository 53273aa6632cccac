"""What a source gives, cut into texts or columns with their places; what is no event at first sight is set aside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.catalog import TimeRule
from mql.exec.deadletters import DeadLetter, dead_letter
from mql.exec.items import Chunk, Rows
from mql.exec.prefilter import Hits, Prefilter

EVENT_BYTES_MAX = 1 << 20
DEPTH_MAX = 500  # no text shorter than twice this can be nested deeper
INT32_MAX = 2**31 - 1
ASCII_MAX = 127
BLANK = "empty"
NEWLINE = 10
BRACE = 0x7B
FIRST = np.frombuffer(b"{ \t\r\n", np.uint8)
LETTERS_MAX, LETTERS_LEAST = 200, 4
"""Letters that are written of one batch, and of one in a flood; the other events that cannot be read are counted."""

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Unread:
    """What cannot be read of one batch: how many events, and letters of the first of them, at most so many."""

    most: int = LETTERS_MAX
    letters: list[DeadLetter] = field(default_factory=list)
    count: int = 0

    def add(self, rows: Ints, letter: Callable[[int], DeadLetter]) -> None:
        """These rows, of which `letter` writes one."""
        self.letters += [letter(row) for row in rows[: self.most - len(self.letters)].tolist()]
        self.count += len(rows)

    def next(self) -> Unread:
        """For the next batch: ever fewer letters, while there are more events than these."""
        return Unread(max(LETTERS_LEAST, self.most // 2) if self.count > self.most else LETTERS_MAX)


@dataclass(frozen=True, slots=True)
class Part:
    """What is to be decoded of one raw: the texts, or columns, and where each came from."""

    split: int
    arrival_us: int
    offsets: Ints
    texts: pa.Array | None
    beside: pa.RecordBatch | None = None
    skipped: int = 0

    @property
    def rows(self) -> int:
        return len(self.offsets)

    @property
    def times(self) -> Ints:
        """The time that came with each event, else its arrival."""
        arrivals = np.full(self.rows, self.arrival_us, np.int64)
        if self.beside is None or self.beside.schema.get_field_index("_time") < 0:
            return arrivals
        given = self.beside.column("_time")
        if given.null_count == 0:
            return ints(given)
        return ints(given.fill_null(self.arrival_us))


@dataclass(frozen=True, slots=True)
class Placed:
    """Time, split, offset and arrival of rows."""

    times: Ints
    splits: npt.NDArray[np.int32]
    offsets: Ints
    arrivals: Ints

    @staticmethod
    def of(parts: Sequence[Part]) -> Placed:
        counts = [part.rows for part in parts]
        return Placed(
            np.concatenate([part.times for part in parts]),
            np.repeat(np.array([part.split for part in parts], np.int32), counts),
            np.concatenate([part.offsets for part in parts]),
            np.repeat(np.array([part.arrival_us for part in parts], np.int64), counts),
        )

    def only(self, mask: Mask) -> Placed:
        return Placed(self.times[mask], self.splits[mask], self.offsets[mask], self.arrivals[mask])


def alike(parts: Sequence[Part]) -> list[Sequence[Part]]:
    """The parts in runs of the same columns: what a source gives may change its form while it is read."""
    runs: list[list[Part]] = []
    for part in parts:
        if runs and _schema(part) == _schema(runs[-1][0]):
            runs[-1].append(part)
        else:
            runs.append([part])
    return list(runs)


def _schema(part: Part) -> tuple[pa.Schema, object] | None:
    """What a part's columns are; None for texts, which are all alike."""
    if part.texts is not None or part.beside is None:
        return None
    schema = part.beside.schema
    return schema, tuple((field.name, str(field.metadata)) for field in schema)


def without_unread(rows: Rows, unread: Unread) -> Rows:
    """The events that the source could read; of the others letters with its reasons."""
    at = rows.table.schema.get_field_index("_reason")
    if at < 0:
        return rows
    reasons = rows.table.column(at)
    offsets, texts = rows.table.column("_offset"), rows.table.column("_unread")

    def letter(row: int) -> DeadLetter:
        offset = int(offsets[row].as_py())
        return dead_letter(reasons[row].as_py(), rows.split, offset, rows.arrival_us, bytes_of(texts[row]))

    unread.add(np.flatnonzero(reasons.is_valid().to_numpy(zero_copy_only=False)), letter)
    kept = np.flatnonzero(reasons.is_null().to_numpy(zero_copy_only=False))
    table = rows.table.drop_columns(["_reason", "_unread"]).take(pa.array(kept))
    return replace(rows, table=table)


def cut_chunk(chunk: Chunk, unread: Unread, prefilter: Prefilter | None = None) -> Part:
    """The lines of a chunk. Blank lines are no events; a last line without an end is one like the others."""
    hits = prefilter.lines(chunk.data) if prefilter else None
    if hits is not None:
        return _hit_lines(chunk, hits, unread)
    data = np.frombuffer(chunk.data, np.uint8)
    ends = np.flatnonzero(data == NEWLINE) + 1
    if len(data) and (len(ends) == 0 or ends[-1] != len(data)):
        ends = np.append(ends, len(data))
    bounds = np.concatenate([[0], ends]).astype(np.int64)
    return _part(chunk.split, chunk.arrival_us, chunk.data, bounds, bounds[:-1] + chunk.base, None, unread)


def _hit_lines(chunk: Chunk, hits: Hits, unread: Unread) -> Part:
    pieces = [chunk.data[start:end] for start, end in zip(hits.starts.tolist(), hits.ends.tolist(), strict=True)]
    bounds = np.concatenate([[0], np.cumsum(hits.ends - hits.starts)]).astype(np.int64)
    offsets = hits.starts + chunk.base
    part = _part(chunk.split, chunk.arrival_us, b"".join(pieces), bounds, offsets, None, unread)
    return replace(part, skipped=hits.events - len(pieces))


def cut_rows(rows: Rows, unread: Unread, prefilter: Prefilter | None = None) -> Part:
    """The texts of a batch; a null is an empty one."""
    table = rows.table
    skipped = 0
    if prefilter is not None:
        buffer, bounds = texts_of(table)
        hits = prefilter.rows(buffer, bounds)
        if hits is not None:
            skipped = table.num_rows - len(hits)
            table = table.take(pa.array(hits)) if skipped else table
    buffer, bounds = texts_of(table)
    part = _part(rows.split, rows.arrival_us, buffer, bounds, ints(table.column("_offset")), table, unread)
    return replace(part, skipped=skipped)


def texts_of(table: pa.RecordBatch) -> tuple[Any, Ints]:
    """The bytes of a batch's texts, and where in them each begins and ends."""
    texts = table.column("_raw")
    texts = texts.fill_null("") if texts.null_count else texts
    large = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    _, offsets, data = texts.buffers()
    if len(texts) == 0 or offsets is None:
        return b"", np.zeros(len(texts) + 1, np.int64)
    found = np.frombuffer(offsets, np.int64 if large else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return (b"" if data is None else memoryview(data)), found.astype(np.int64)


def _part(
    split: int,
    arrival_us: int,
    buffer: Any,
    bounds: Ints,
    offsets: Ints,
    beside: pa.RecordBatch | None,
    unread: Unread,
) -> Part:
    """The texts between the bounds, without blank lines and without what is malformed at first sight."""
    data = np.frombuffer(buffer, np.uint8)
    texts = text_array(buffer, bounds)
    odd = odd_texts(texts, data, bounds)
    if not odd.any():
        return Part(split, arrival_us, offsets, texts, beside)

    def letter(row: int) -> DeadLetter:
        text = data[bounds[row] : bounds[row + 1]].tobytes()
        reason = wrong_at_sight(text)
        assert reason is not None
        return dead_letter(reason, split, int(offsets[row]), arrival_us, text.rstrip(b"\r\n"))

    wrong = odd & surely_no_object(data, bounds)
    kept = ~wrong
    for row in np.flatnonzero(odd & kept).tolist():
        reason = wrong_at_sight(data[bounds[row] : bounds[row + 1]].tobytes())
        kept[row] = reason is None
        wrong[row] = reason is not None and (reason != BLANK or beside is not None)
    unread.add(np.flatnonzero(wrong), letter)
    mask = pa.array(kept)
    rest = None if beside is None else beside.filter(mask)
    return Part(split, arrival_us, offsets[kept], texts.filter(mask), rest)


def surely_no_object(data: Bytes, bounds: Ints) -> Mask:
    """Texts that begin with neither a brace nor a blank, so that a flood of them costs no look at each."""
    if len(data) == 0:
        return np.zeros(len(bounds) - 1, np.bool_)
    found: Mask = (np.diff(bounds) > 0) & ~np.isin(data[np.minimum(bounds[:-1], len(data) - 1)], FIRST)
    return found


def odd_texts(texts: pa.Array, data: Bytes, bounds: Ints) -> Mask:
    """Those that need a look of their own: no brace first, long, or what may not be UTF-8."""
    if len(texts) == 0 or len(data) == 0:
        return np.ones(len(texts), np.bool_)
    sizes = np.diff(bounds)
    odd = (sizes == 0) | (sizes > DEPTH_MAX * 2)
    odd |= data[np.minimum(bounds[:-1], len(data) - 1)] != BRACE
    if data.max() > ASCII_MAX:
        odd |= not_utf8(texts, data, bounds)
    found: Mask = odd
    return found


def not_utf8(texts: pa.Array, data: Bytes, bounds: Ints) -> Mask:
    """Those with other bytes than ASCII, where not all is UTF-8."""
    found = np.zeros(len(texts), np.bool_)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        high = np.flatnonzero(data[bounds[0] : bounds[-1]] > ASCII_MAX) + bounds[0]
        found[np.searchsorted(bounds, high, side="right") - 1] = True
    return found


def wrong_at_sight(text: bytes) -> str | None:
    """What is wrong with a text, as far as can be told without parsing it."""
    bare = text.lstrip(b" \t\r\n")
    if not bare:
        return BLANK
    if len(text) > EVENT_BYTES_MAX:
        return "larger than 1 MiB"
    if not bare.startswith(b"{"):
        return why_not_json(text)
    if not is_utf8(text):
        return "not UTF-8"
    if bare.count(b"[") + bare.count(b"{") > DEPTH_MAX and depth(bare) > DEPTH_MAX:
        return f"nested deeper than {DEPTH_MAX}"
    return None


def depth(text: bytes) -> int:
    """How deep brackets are nested in a JSON text, those inside of strings left out."""
    bare = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text, flags=re.DOTALL)
    found = np.frombuffer(bare, np.uint8)
    steps = np.isin(found, np.frombuffer(b"[{", np.uint8)).astype(np.int64)
    steps -= np.isin(found, np.frombuffer(b"]}", np.uint8))
    return int(np.cumsum(steps).max(initial=0))


def why_not_json(text: bytes) -> str:
    """The reason why a text is no event."""
    if not is_utf8(text):
        return "not UTF-8"
    try:
        return "not JSON" if isinstance(json.loads(text), dict) else "not an object"
    except (ValueError, RecursionError):
        return "not JSON"


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def no_time(rule: TimeRule) -> str:
    return f'no event time in "{".".join(rule.path or ())}"'


def text_array(buffer: Any, bounds: Ints) -> pa.Array:
    """The bytes between bounds as Arrow texts, without a copy."""
    large = int(bounds[-1]) > INT32_MAX
    offsets = pa.py_buffer(bounds if large else bounds.astype(np.int32))
    of = pa.large_string() if large else pa.string()
    return pa.Array.from_buffers(of, len(bounds) - 1, [None, offsets, pa.py_buffer(buffer)])


def ints(column: Any) -> Ints:
    found: Ints = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    return found.astype(np.int64, copy=False)


def bytes_of(scalar: Any) -> bytes:
    found = scalar.as_buffer()
    return b"" if found is None else bytes(found)
