"""Joins and state: events a second and bytes of state, on one thread, beside DuckDB's own batch over the same rows.

    python bench/joins.py [million events a side]

Two streams of events with 100,000 keys, in the order of time, 50,000 a second of event time: an interval join of
both, the same as LEFT JOIN, an ASOF join, a table of 100,000 rows looked up; sessions over a million keys; the three
largest of each group. State is what a snapshot in the middle weighs; time is processor time of the whole process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mql.catalog import Catalog, SourceInfo, TableInfo, TimeRule
from mql.exec.drive import Driver
from mql.exec.items import Raw, Rows
from mql.exec.kernel import Kernel
from mql.planner.compile import compile_query
from mql.schema import BIGINT, DOUBLE, Field, Shape

PER_SECOND = 50_000
BATCH = 50_000
KEYS = 100_000
SHAPE = Shape((Field("ts", BIGINT), Field("k", BIGINT), Field("u", BIGINT), Field("v", DOUBLE)))
INFO = SourceInfo("a", SHAPE, encoding="columns", time=TimeRule(("ts",), "us"), lateness_us=0, max_ahead_us=2**60)
NAMES = TableInfo("names", Shape((Field("id", BIGINT), Field("w", DOUBLE))), key=("id",))
NEAR = "b.ts >= a.ts - 1000000 AND b.ts <= a.ts + 1000000"

QUESTIONS = (
    (
        "interval join, ±1 s",
        "SELECT a.k, a.v, b.v AS w FROM a JOIN b ON a.k = b.k WITHIN 1s",
        f"SELECT a.k, a.v, b.v AS w FROM a JOIN b ON a.k = b.k AND {NEAR}",
    ),
    (
        "interval LEFT JOIN, ±1 s",
        "SELECT a.k, a.v, b.v AS w FROM a LEFT JOIN b ON a.k = b.k WITHIN 1s",
        f"SELECT a.k, a.v, b.v AS w FROM a LEFT JOIN b ON a.k = b.k AND {NEAR}",
    ),
    (
        "ASOF JOIN, 10 s",
        "SELECT a.k, a.v, b.v AS w FROM a ASOF JOIN b ON a.k = b.k WITHIN 10s",
        "SELECT a.k, a.v, b.v AS w FROM a ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts",
    ),
    (
        "a table of 100,000 rows",
        "SELECT a.k, a.v, n.w FROM a JOIN names AS n ON a.k = n.id",
        'SELECT a.k, a.v, n."/w" FROM a JOIN names n ON a.k = n."/id"',
    ),
    (
        "sessions over a million keys",
        "SELECT u, count(*) AS n FROM a WINDOW SESSION 2s GROUP BY u",
        "SELECT u, q, count(*) AS n FROM (SELECT *, sum(c) OVER (PARTITION BY u ORDER BY ts) AS q FROM (SELECT *, "
        "coalesce(ts - lag(ts) OVER (PARTITION BY u ORDER BY ts) >= 2000000, true)::INTEGER AS c FROM a)) "
        "GROUP BY u, q",
    ),
    (
        "the three largest of each group a second",
        "SELECT k % 1000 AS g, k, sum(v) AS s FROM a WINDOW 1s GROUP BY g, k ORDER BY s DESC LIMIT 3 PER g",
        "SELECT * FROM (SELECT k % 1000 AS g, k, ts // 1000000 AS w, sum(v) AS s FROM a GROUP BY ALL) "
        "QUALIFY row_number() OVER (PARTITION BY w, g ORDER BY s DESC) <= 3",
    ),
)


def main() -> None:
    count = round(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 1_000_000
    sides = {name: events(count, seed) for seed, name in enumerate("ab", 1)}
    rng = np.random.default_rng(3)
    names = pa.table({"/id": np.arange(KEYS), "/w": rng.random(KEYS), "__n": np.arange(KEYS)})
    print(f"{'question':42} {'ours, ev/s':>12} {'DuckDB, ev/s':>13} {'rows':>10} {'state':>9}")
    for title, ours, theirs in QUESTIONS:
        both = " b " in ours
        rows, state, seconds = streamed(ours, sides, names)
        plain_rows, plain_s = batched(theirs, {**sides, "names": names})
        total = count * (2 if both else 1)
        told = f"{rows:,}" if rows == plain_rows or "ASOF" in ours else f"{rows:,} / {plain_rows:,}"
        print(f"{title:42} {total / seconds:12,.0f} {total / plain_s:13,.0f} {told:>10} {state / 1e6:6.1f} MB")


def events(count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    times = (np.arange(count) * (1_000_000 // PER_SECOND)).astype(np.int64)
    keys, users = rng.integers(0, KEYS, count), rng.integers(0, 1_000_000, count)
    return pa.table({"ts": times, "k": keys, "u": users, "v": rng.random(count)})


def streamed(text: str, sides: dict[str, pa.Table], names: pa.Table) -> tuple[int, int, float]:
    """Rows, bytes of a snapshot in the middle, and seconds of processor time without it."""
    sources = {name: SourceInfo(**{**fields(INFO), "name": name}) for name in sides}
    plan = compile_query(text, Catalog(sources, tables={"names": NAMES}))
    kernel = Kernel()
    driver = Driver(plan, kernel, tables=lambda name: names)
    for number in range(len(plan.scans)):
        driver.expect((0,), number)
    count = next(iter(sides.values())).num_rows
    state, spent = 0, 0.0
    for at in range(0, count, BATCH):
        round = {name: raws(table, at) for name, table in sides.items()}
        began = time.process_time()
        driver.feed(round)
        spent += time.process_time() - began
        if at // BATCH == count // BATCH // 2:
            state = len(driver.snapshot(1))
    began = time.process_time()
    out = driver.finish()
    spent += time.process_time() - began
    rows = sum(table.num_rows for table in out.tables)
    driver.close()
    kernel.close()
    return rows, state, spent


def raws(table: pa.Table, at: int) -> Sequence[Raw]:
    part = table.slice(at, BATCH).combine_chunks()
    offsets = pa.array(np.arange(at, at + part.num_rows))
    (batch,) = part.append_column("_offset", offsets).to_batches()
    return [Rows(0, batch, 2**60, at + part.num_rows)]


def fields(info: SourceInfo) -> dict[str, object]:
    return {name: getattr(info, name) for name in info.__dataclass_fields__}


def batched(sql: str, tables: dict[str, pa.Table]) -> tuple[int, float]:
    kernel = Kernel()
    session = kernel.session()
    began = time.process_time()
    rows = session.run(sql, {name: table for name, table in tables.items() if name in sql}).num_rows
    spent = time.process_time() - began
    kernel.close()
    return rows, spent


if __name__ == "__main__":
    main()
