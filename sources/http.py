"""Events that are posted over HTTP: the buffer between the server's route and the readers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader
from mql.exec.items import Chunk, Raw, Rows
from sources.archive import Archive, ArchiveReader
from sources.learning import Learner
from sources.pieces import between, bytes_of
from sources.ring import Full, Ring
from sources.settings import DEFAULTS, Settings, describe

__all__ = ["Body", "Full", "HttpSource", "Receipt", "split_body"]

BUFFER_BYTES = 64 << 20
KEYS_KEPT = 10_000
KEYS_KEPT_S = 600.0
SAMPLES = 100
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body as whole lines, one event each, and how many they are; or, where events are no lines, as
    `values`."""

    lines: bytes
    events: int
    values: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a put. `stored`: `memory` (gone with the process), `archive` (on disk, but not yet synced) or
    `archive-synced` (survives a loss of power). `positions`: where its events ended. `repeated`: the idempotency key
    was known, nothing was stored again, and the rest is the first answer's.
    """

    accepted: int
    stored: str
    positions: Positions
    repeated: bool = False


class HttpSource:
    """A buffer that posts go into and readers follow; its newest `buffer_bytes` are also a short history.

    With an archive every post is on disk before it is answered, and history reaches back as far as the archive
    keeps. A post that finds no room, because a reader is behind, is refused with Full. Offsets are bytes of text since
    a start that lies after all offsets of earlier lives, so that an old position never means a new event.
    """

    def __init__(
        self,
        name: str,
        *,
        settings: Settings = DEFAULTS,
        clock: Clock | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        archive: Archive | None = None,
        body: Callable[[bytes, str], Body] | None = None,
    ) -> None:
        self.name = name
        self.split = body or split_body
        self.settings = settings
        self.clock = clock or SystemClock()
        self.archive = archive
        self.lock = threading.Lock()
        self.ring = Ring(buffer_bytes, merge=False)
        stored_until = archive.end().get(0) if archive is not None else None
        self.ring.next = {0: stored_until if stored_until is not None else self.clock.now_us() * 1000}
        self.learner = Learner(open=settings.open)
        self.newest: tuple[bytes, ...] = ()
        self.keys: OrderedDict[str, tuple[float, Receipt]] = OrderedDict()

    @property
    def info(self) -> SourceInfo:
        shape = self.learner.shape
        if not shape.fields and self.settings.shape is None:
            shape = replace(shape, open=True)
        return describe(self.name, "http", shape, self.settings, history=True)

    def put(self, body: bytes | Body, idempotency_key: str | None = None, content_type: str = "") -> Receipt:
        """Takes a body in; Full where there is no room, MqlError where it cannot be read at all."""
        parts = self.split(body, content_type) if isinstance(body, bytes) else body
        with self.lock:
            known = self.keys.get(idempotency_key) if idempotency_key is not None else None
            if known is not None:
                return replace(known[1], repeated=True)
            receipt = self.take(parts)
            if idempotency_key is not None:
                self.remember(idempotency_key, receipt)
            return receipt

    def take(self, body: Body) -> Receipt:
        """On disk first, then to the readers: nobody sees an event that a crash could take back."""
        at = self.ring.end()[0]
        stored = "memory" if self.archive is None else self.archive.promise
        if not body.lines and not body.values:
            return Receipt(0, stored, {0: at})
        item = item_of(body, at, self.clock.now_us())
        self.ring.check_room(bytes_of(item))
        if self.archive is not None:
            self.archive.append((item,))
        self.ring.append(item, checked=True)
        if isinstance(item, Chunk):
            self.learner.see(item)
        else:
            self.newest = body.values[-SAMPLES:]
        return Receipt(body.events, stored, {0: item.next_offset})

    def remember(self, key: str, receipt: Receipt) -> None:
        now = self.clock.monotonic_s()
        self.keys[key] = (now, receipt)
        while len(self.keys) > KEYS_KEPT or next(iter(self.keys.values()))[0] < now - KEYS_KEPT_S:
            self.keys.popitem(last=False)

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        splits = range(task, 1, tasks)
        self.ring.merge = self.info.time.path is not None
        if start is None or self.archive is None:
            return self.ring.reader(start, splits)
        return ArchiveReader(self.archive, self.ring.reader, start, splits, self.ring.earliest())

    def end(self) -> Positions:
        return self.ring.end()

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        if self.archive is not None:
            yield from self.archive.history(since, until, part, parts, self.settings.max_ahead_us)
        elif part == 0:
            last = self.ring.end() if until is None else until
            yield from between(tuple(self.ring.stored(since.positions or {}, last)), since.positions or {}, last)

    def sample(self, n: int) -> Sequence[bytes]:
        return self.newest[-n:] or self.learner.newest(n)

    def close(self) -> None:
        self.ring.finish()
        if self.archive is not None:
            self.archive.close()


def item_of(body: Body, at: int, now_us: int) -> Raw:
    """Lines as they are; values with offsets that leave each as much room as it has bytes."""
    if not body.values:
        return Chunk(0, body.lines, at, now_us)
    values = pa.array(body.values, pa.binary())
    ends = at + np.cumsum([len(value) + 1 for value in body.values], dtype=np.int64)
    offsets = np.concatenate([[at], ends[:-1]]).astype(np.int64)
    table = pa.RecordBatch.from_pydict({"_raw": values, "_offset": pa.array(offsets)})
    return Rows(0, table, now_us, int(ends[-1]))


def values_body(values: Sequence[bytes]) -> Body:
    return Body(b"", len(values), tuple(values))


def split_body(body: bytes, content_type: str = "") -> Body:
    """JSON lines as they are, without a look inside; a JSON array or one object, as lines.

    Where the content type does not say, the first bytes do: `[` is an array; a first line that is JSON by itself
    means lines. What is a line but no JSON is let through: it becomes a dead letter, with its offset. MqlError for an
    array or object that cannot be read.
    """
    text = body.removeprefix(BOM)
    start = text.lstrip()[:1] if text[:1].isspace() else text[:1]
    if is_lines(content_type) or start not in (b"[", b"{"):
        return lines_body(text)
    if start == b"{" and first_line_stands_alone(text):
        return lines_body(text)
    try:
        parsed: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MqlError(
            f"the body is not JSON: {error.msg} at byte {error.pos}",
            hint="Send JSON lines, a JSON array, or one JSON object.",
            code="malformed-body",
        ) from error
    events = parsed if isinstance(parsed, list) else [parsed]
    lines = b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)
    return Body(lines, len(events))


def is_lines(content_type: str) -> bool:
    kind = content_type.split(";")[0].strip().lower()
    return kind in ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-lines")


def first_line_stands_alone(text: bytes) -> bool:
    start = len(text) - len(text.lstrip())
    end = text.find(b"\n", start)
    if end < 0:
        return True
    try:
        orjson.loads(text[start:end])
    except orjson.JSONDecodeError:
        return False
    return True


def lines_body(text: bytes) -> Body:
    if not text or text.isspace():
        return Body(b"", 0)
    lines = text if text.endswith(b"\n") else text + b"\n"
    has_blank = lines[:1].isspace() or b"\n\n" in lines or b"\n\r\n" in lines
    if has_blank:
        return Body(lines, sum(not line.isspace() for line in lines.splitlines(keepends=True)))
    return Body(lines, lines.count(b"\n"))
