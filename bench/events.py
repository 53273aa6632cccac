"""Events for the benchmarks: JSON lines of about 188 bytes with twelve fields, the same for the same seed.

    {"ts":1700000000000,"country":"US","path":"/play/123","status":200,"latency_ms":12.345,"device":"d012345",
     "user":123456,"ok":true,"bytes":12345,"note":"the newer one","host":"h12","v":2}

`ts` (milliseconds) rises by 2,000 events a second, with a few events out of order by less than a second; `host`
has 50 values; one event in a hundred is from the country XX.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SEED = 7
START_MS = 1_700_000_000_000
PER_SECOND = 2_000
BLOCK_EVENTS = 100_000
BYTES_PER_EVENT = 188
HOSTS = 50
COUNTRIES = pa.array(["US", "DE", "FR", "IN", "BR", "JP", "XX"])
SHARES = (0.4, 0.2, 0.15, 0.12, 0.08, 0.04, 0.01)
STATUSES = pa.array(["200", "404", "500"])

SHAPE = {
    "ts": "BIGINT",
    "country": "VARCHAR",
    "path": "VARCHAR",
    "status": "BIGINT",
    "latency_ms": "DOUBLE",
    "device": "VARCHAR",
    "user": "BIGINT",
    "ok": "BOOLEAN",
    "bytes": "BIGINT",
    "note": "VARCHAR",
    "host": "VARCHAR",
    "v": "BIGINT",
}
"""The fields and their types, as a source declares them."""


def write(file: Path, megabytes: int, split: int = 0) -> int:
    """Writes events to a file and leaves them in the page cache; tells how many. Splits differ in their events."""
    events = max(1, (megabytes << 20) // BYTES_PER_EVENT)
    with file.open("wb") as opened:
        for block in blocks(events, split):
            opened.write(block)
    os.sync()
    return events


def blocks(events: int, split: int = 0) -> Iterator[bytes]:
    """So many events, as blocks of whole lines."""
    chance = np.random.default_rng([SEED, split])
    for first in range(0, events, BLOCK_EVENTS):
        yield block(chance, first, min(BLOCK_EVENTS, events - first))


def block(chance: np.random.Generator, first: int, count: int) -> bytes:
    """The events with numbers from `first` on."""
    late = np.where(chance.random(count) < 0.02, chance.integers(0, 900, count), 0)
    ts = START_MS + np.arange(first, first + count) * 1000 // PER_SECOND - late
    micros = chance.integers(0, 100_000, count)
    lines = pc.binary_join_element_wise(
        '{"ts":',
        text(ts),
        ',"country":"',
        COUNTRIES.take(pa.array(chance.choice(len(SHARES), count, p=SHARES))),
        '","path":"/play/',
        text(chance.integers(0, 1000, count)),
        '","status":',
        STATUSES.take(pa.array(chance.choice(3, count, p=(0.9, 0.07, 0.03)))),
        ',"latency_ms":',
        text(micros // 1000),
        ".",
        text(100 + micros % 900),
        ',"device":"d',
        text(100_000 + chance.integers(0, 900_000, count)),
        '","user":',
        text(chance.integers(0, 1_000_000, count)),
        ',"ok":true,"bytes":',
        text(chance.integers(0, 100_000, count)),
        ',"note":"the newer one","host":"h',
        text(chance.integers(0, HOSTS, count)),
        '","v":2}\n',
        "",
    )
    _, offsets, data = lines.buffers()
    return bytes(data)[: np.frombuffer(offsets, np.int32)[count]]


def text(numbers: np.ndarray) -> pa.Array:
    return pa.array(numbers).cast(pa.string())
