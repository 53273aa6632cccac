"""The queries of the Nexmark benchmark: events a second and bytes of state, streamed on one thread from JSON texts.

    python bench/nexmark.py [thousand events]

Persons, auctions and bids at 10,000 events a second of event time, in rounds of half a second. Events are those of
all sources that the query reads; state is what a snapshot in the middle weighs. Queries that group without a window
are asked over history (`*`): nothing is let go of before the end.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from mql.catalog import Catalog
from mql.errors import MqlError
from mql.exec.drive import Driver
from mql.exec.feed import From
from mql.exec.items import Raw, Rows
from mql.exec.kernel import Kernel
from mql.planner.compile import compile_query
from mql.planner.physical import Plan
from sources.nexmark import NexmarkSource
from sources.tables import memory_table

QUERIES = Path(__file__).parent.parent / "examples" / "nexmark"
STREAMS = ("person", "auction", "bid")
PER_SECOND, ROUND = 10_000, 5_000
SIDE = memory_table("side", [{"key": key, "value": f"side {key}"} for key in range(100)])


def main(thousands: int) -> None:
    count = thousands * 1000
    sources = [
        NexmarkSource(name, name, rate=PER_SECOND, events=count, splits=1, start_us=1_700_000_000_000_000)
        for name in STREAMS
    ]
    rounds = rounds_of(sources, count)
    print(f"{'query':<6}{'events':>9}{'rows':>9}{'thousand/s':>12}{'state KiB':>11}")
    for file in sorted(QUERIES.glob("*.mql"), key=lambda file: int(file.stem[1:])):
        plan, mark = planned(file.read_text(), sources)
        events, rows, seconds, state = run(plan, rounds)
        speed, kept = events / seconds / 1000, state / 1024
        print(f"{file.stem + mark:<6}{events:>9,}{rows:>9,}{speed:>12,.0f}{kept:>11,.0f}", flush=True)


def planned(text: str, sources: list[NexmarkSource]) -> tuple[Plan, str]:
    """As of a stream without end, or where that has no answer, of stored events."""
    infos = {source.name: source.info for source in sources}
    tables = {"side": SIDE.info}
    try:
        live = {name: replace(info, bounded=False) for name, info in infos.items()}
        return compile_query(text, Catalog(live, tables=tables)), ""
    except MqlError:
        return compile_query(text, Catalog(infos, tables=tables)), "*"


def rounds_of(sources: list[NexmarkSource], count: int) -> list[dict[str, list[Raw]]]:
    """Half a second of event time each."""
    rounds: list[dict[str, list[Raw]]] = [{} for _ in range(-(-count // ROUND))]
    for source in sources:
        tables = [raw.table for raw in source.history(From()) if isinstance(raw, Rows)]
        whole = pa.Table.from_batches(tables).combine_chunks()
        numbers = whole.column("_offset").to_numpy()
        for at, round in enumerate(rounds):
            low, high = numbers.searchsorted([at * ROUND, (at + 1) * ROUND])
            if high > low:
                (batch,) = whole.slice(int(low), int(high - low)).combine_chunks().to_batches()
                round[source.name] = [Rows(0, batch, 2**60, int(numbers[high - 1]) + 1)]
    return rounds


def run(plan: Plan, rounds: list[dict[str, list[Raw]]]) -> tuple[int, int, float, int]:
    """Events, rows, seconds of processor time, bytes of state in the middle."""
    kernel = Kernel()
    driver = Driver(plan, kernel, tables=lambda name: SIDE.rows)
    names = {scan.source for scan in plan.scans}
    for number in range(len(plan.scans)):
        driver.expect((0,), number)
    events, state, spent = 0, 0, 0.0
    for at, round in enumerate(rounds):
        asked = {name: raws for name, raws in round.items() if name in names}
        events += sum(raw.table.num_rows for raws in asked.values() for raw in raws if isinstance(raw, Rows))
        began = time.process_time()
        driver.feed(asked, watermarks=not plan.scan.bounded)
        spent += time.process_time() - began
        if at == len(rounds) // 2:
            state = len(driver.snapshot(1))
    began = time.process_time()
    rows = sum(table.num_rows for table in driver.finish().tables)
    spent += time.process_time() - began
    driver.close()
    kernel.close()
    return events, rows, spent, state


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
