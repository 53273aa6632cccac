"""How fast a selective filter reads JSON lines, on one core: one run, one table.

    python bench/filter.py [megabytes]

The same filter, `SELECT path, latency_ms FROM requests WHERE country = 'XX'`, over the same events, by the prefilter,
without it, and by others. Ratios are against the prefilter's line above them.
"""

from __future__ import annotations

import os

os.environ["POLARS_MAX_THREADS"] = "1"

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import orjson
import polars

from mql.catalog import TimeRule
from mql.exec.items import Chunk
from mql.exec.kernel import Kernel
from mql.exec.prefilter import Prefilter
from mql.exec.scan import Decoder
from mql.planner.expressions import Apply, Column, Constant
from mql.planner.needles import needles
from mql.schema import BOOLEAN, DOUBLE, VARCHAR

SEED = 7
BLOCK_EVENTS = 20_000
CHUNK_BYTES = 16 << 20
LOOP_BYTES = 20 << 20
SLOW_BYTES = 100 << 20  # what decodes everything is timed on so much
SHARES = (0.0001, 0.01, 0.17)
SESSION = Kernel(threads=1).session()
COLUMNS = ((("country",), VARCHAR), (("path",), VARCHAR), (("latency_ms",), DOUBLE))
PREDICATE = Apply("=", (Column(("country",), VARCHAR), Constant("XX", VARCHAR)), BOOLEAN)
SQL = """SELECT "/path", "/latency_ms" FROM batch WHERE "/country" = 'XX'"""


def main(megabytes: int) -> None:
    print(f"{'events':<32}{'by':<28}{'GB/s':>8}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.ndjson"
        for escaped in (False, True):
            base, places = events(megabytes << 20, escaped)
            for share in SHARES:
                data, matching = marked(base, places, share)
                file.write_bytes(data)
                name = f"{share:.2%} match" + (", with escapes" if escaped else "")
                report(name, data, file, matching, escaped)


def report(name: str, data: bytes, file: Path, matching: int, escaped: bool) -> None:
    """The lines of the table for one set of events; what does not depend on the share is timed once."""
    size = len(data)
    given = list(chunks(data))
    first = timed(lambda: ours(given, True), size, matching)
    ways: list[tuple[str, Callable[[], float]]] = [
        ("prefilter, from a file", lambda: timed(lambda: ours(chunks_of(file), True), size, matching)),
    ]
    if name.startswith("1.00%"):
        slow, some = part(data, SLOW_BYTES)
        slow_chunks = list(chunks(slow))
        loop, few = part(data, LOOP_BYTES)
        ways += [
            ("decoding all, from memory", lambda: timed(lambda: ours(slow_chunks, False), len(slow), some)),
            ("DuckDB read_json", lambda: timed(lambda: by_duckdb(file), size, matching)),
            ("polars scan_ndjson", lambda: timed(lambda: by_polars(file), size, matching)),
            ("Python and orjson", lambda: timed(lambda: by_loop(loop), len(loop), few)),
        ]
    print(f"{name:<32}{'prefilter, from memory':<28}{first:>8.2f}{1:>8.2f}")
    for way, run in ways:
        speed = run()
        print(f"{'':<32}{way:<28}{speed:>8.2f}{speed / first:>8.2f}", flush=True)


def timed(run: Callable[[], int], size: int, matching: int) -> float:
    """GB per second of processor time (all ways use one thread), of one run, which must find every match."""
    start = time.process_time()
    found = run()
    seconds = time.process_time() - start
    assert found == matching, (found, matching)
    return size / seconds / 1e9


# --- ways to filter ----------------------------------------------------------------------------------------


def ours(given: Iterable[Chunk], filtered: bool) -> int:
    wanted = needles(PREDICATE, time_from_event=False)
    assert wanted is not None
    decoder = Decoder(SESSION, "json", TimeRule(), COLUMNS, prefilter=Prefilter(wanted) if filtered else None)
    found = 0
    for chunk in given:
        batch = decoder.decode([chunk]).table
        if batch.num_rows:
            found += SESSION.run(SQL, {"batch": batch}).num_rows
    return found


def by_duckdb(file: Path) -> int:
    connection = duckdb.connect(config={"threads": "1"})
    columns = "{country: 'VARCHAR', path: 'VARCHAR', latency_ms: 'DOUBLE'}"
    rows = f"read_json('{file}', format = 'newline_delimited', columns = {columns})"
    sql = f"SELECT path, latency_ms FROM {rows} WHERE country = 'XX'"
    return len(connection.sql(sql).to_arrow_table())


def by_polars(file: Path) -> int:
    schema = {"country": polars.String, "path": polars.String, "latency_ms": polars.Float64}
    frame = polars.scan_ndjson(file, schema=schema).filter(polars.col("country") == "XX")
    return frame.select("path", "latency_ms").collect().height


def by_loop(data: bytes) -> int:
    found = []
    for line in data.splitlines():
        event = orjson.loads(line)
        if event["country"] == "XX":
            found.append((event["path"], event["latency_ms"]))
    return len(found)


# --- events ------------------------------------------------------------------------------------------------


def events(size: int, escaped: bool) -> tuple[bytes, np.ndarray]:
    """Events of about 188 bytes as JSON lines, and where in them their country stands."""
    chance = random.Random(SEED)
    lines = [event(chance, escaped) for _ in range(BLOCK_EVENTS)]
    block = b"".join(lines)
    starts = np.concatenate([[0], np.cumsum([len(line) for line in lines])[:-1]])
    places = starts + np.array([line.index(b'"country":"') + len(b'"country":"') for line in lines])
    copies = max(1, size // len(block))
    return block * copies, (places[None, :] + len(block) * np.arange(copies)[:, None]).ravel()


def event(chance: random.Random, escaped: bool) -> bytes:
    found = {
        "ts": 1_700_000_000_000 + chance.randrange(10**7),
        "country": chance.choice(["US", "DE", "FR", "IN", "BR", "JP"]),
        "path": f"/play/{chance.randrange(1000)}",
        "status": chance.choice([200, 200, 200, 404, 500]),
        "latency_ms": round(chance.random() * 100, 3),
        "device": f"d{chance.randrange(10**6):06}",
        "user": chance.randrange(10**6),
        "ok": True,
        "bytes": chance.randrange(10**5),
        "note": 'the "new" one' if escaped else "the newer one",
        "host": f"h{chance.randrange(100)}",
        "v": 2,
    }
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def marked(base: bytes, places: np.ndarray, share: float) -> tuple[bytes, int]:
    """The events with a share of them, chosen at random, from the country XX."""
    rows = np.random.default_rng(SEED).choice(places, int(len(places) * share), replace=False)
    data = np.frombuffer(base, np.uint8).copy()
    data[rows] = data[rows + 1] = ord("X")
    return data.tobytes(), len(rows)


def part(data: bytes, size: int) -> tuple[bytes, int]:
    """The first lines of the events, and how many of them match."""
    found = data[: data.rfind(b"\n", 0, size) + 1]
    return found, found.count(b'"country":"XX"')


def chunks(data: bytes) -> Iterator[Chunk]:
    """Whole lines, as a source gives them."""
    at = 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + CHUNK_BYTES) + 1
        yield Chunk(0, data[at:end], at, 0)
        at = end


def chunks_of(file: Path) -> Iterator[Chunk]:
    at = 0
    with file.open("rb", buffering=0) as opened:
        while data := opened.read(CHUNK_BYTES):
            data = data[: data.rfind(b"\n") + 1]
            yield Chunk(0, data, at, 0)
            at += len(data)
            opened.seek(at)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
