"""`mql tail`: a source's events as they came, before any query."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import orjson

from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.exec.clock import SystemClock
from mql.exec.feed import From, Source
from mql.exec.items import Chunk, Raw
from mql.planner.bounds import instant_us
from mql.planner.constants import duration_us
from server.exits import OK, say
from server.local import House, source_of

POLL_S = 0.5
POLL_BYTES = 4 << 20


def tail_local(house: House, name: str, lines: int, since: str | None, ends: bool) -> int:
    """The last events of a source of this process (or those since a point), then what comes."""
    source = source_of(house, name)
    try:
        info = source.info
        describe(info)
        for text in events(source, info, lines, None if since is None else start_of(since), ends):
            sys.stdout.buffer.write(text.rstrip(b"\r\n") + b"\n")
            sys.stdout.buffer.flush()
    finally:
        source.close()
    return OK


def describe(info: SourceInfo) -> None:
    """What was guessed about the source, so that a wrong guess is seen."""
    time = "arrival" if info.time.path is None else ".".join(info.time.path)
    say(f"{info.name}: {info.kind}, {info.encoding}, {len(info.shape.fields)} properties, time from {time}")


def events(source: Source, info: SourceInfo, lines: int, since: From | None, ends: bool) -> Iterator[bytes]:
    if not info.history:
        yield from () if ends else live(source, From() if since is None and info.bounded else since)
        return
    end = source.end()
    stored = chain.from_iterable(texts_of(item) for item in source.history(since or recent(info, lines), until=end))
    yield from stored if since is not None else deque(stored, maxlen=lines)
    if not ends and not info.bounded:
        yield from live(source, From(positions=end))


def recent(info: SourceInfo, lines: int) -> From:
    """Where to begin looking for the last events: a generator's are countless, so only its last seconds are made."""
    if info.kind in ("generator", "nexmark") and not info.bounded:
        return From(time_us=SystemClock().now_us() - 10_000_000)
    return From()


def live(source: Source, start: From | None) -> Iterator[bytes]:
    reader = source.open(start)
    trouble: str | None = None
    try:
        while True:
            for item in reader.poll(POLL_S, POLL_BYTES):
                yield from texts_of(item)
            if reader.trouble != trouble and reader.trouble:
                say(reader.trouble)
            trouble = reader.trouble
            if reader.ended:
                return
    finally:
        reader.close()


def texts_of(item: Raw) -> Iterator[bytes]:
    """An item's events, one JSON text each."""
    if isinstance(item, Chunk):
        yield from item.data.splitlines()
    elif "_raw" in item.table.schema.names:
        for text in item.table.column("_raw").to_pylist():
            yield text.encode()
    else:
        for row in item.table.drop_columns(["_offset"]).to_pylist():
            yield orjson.dumps(row, default=str)


def start_of(since: str) -> From:
    """`-1h`, a time, or earliest."""
    text = since.strip()
    if text.lower() == "earliest":
        return From()
    length = duration_us(text)
    us = SystemClock().now_us() + length if length is not None else instant_us(text)
    if us is None:
        raise MqlError(f'"{since}" is no point in time', hint="Write -1h, 2026-01-31T12:00:00Z or earliest.")
    return From(time_us=us)


def tail_remote(server: str, name: str, lines: int, since: str | None, ends: bool) -> int:
    """The same from a server: its recent events, then a query for all that comes."""
    from server.answering import Talk, follow, sheet_for
    from server.remote import RemoteAnswer, call

    if since is None and lines:
        told: Mapping[str, Any] = call(server, "GET", f"/v1/sources/{name}/sample", params={"n": str(min(lines, 1000))})
        for event in told["events"][-lines:]:
            sys.stdout.buffer.write(orjson.dumps(event) + b"\n")
        sys.stdout.buffer.flush()
    if ends and since is None:
        return OK
    bounds = "" if since is None else f" SINCE '{since}'" + (" UNTIL NOW" if ends else "")
    quoted = name.replace("`", "``")
    answer = RemoteAnswer(server, {"query": f"SELECT * FROM `{quoted}`{bounds}"})
    return follow(answer, sheet_for("ndjson", sys.stdout.buffer), Talk(quiet=True))
