"""Whether memory stays where it is under load that does not end.

    python bench/memory.py [minutes]

Half of the time live queries with windows and groups of many keys read two sources as fast as they can be decoded;
the other half bounded queries over history follow each other. Resident memory is taken every five seconds; after the
first third of each half, which is to warm up, its slope is the line that fits best.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from mql.exec.engine import Engine, Options
from sources.generator import GeneratorSource

EVERY_S = 5.0
RATE = 150_000  # more than two cores decode for these queries: what they cannot take is dropped, and counted
HISTORY_EVENTS = 1_000_000
LIVE = (
    "SELECT path, count(*) AS n, avg(latency_ms) AS mean FROM requests WINDOW TUMBLING 1s GROUP BY path",
    "SELECT user_id, count(*) AS n, max(bytes) AS most FROM requests WINDOW HOPPING 10s EVERY 2s GROUP BY user_id",
    "SELECT country, P95(latency_ms) AS p95 FROM requests WINDOW TUMBLING 5s GROUP BY country EMIT FINAL WITH EARLY 1s",
    "SELECT title, approx_count_distinct(user_id) AS users FROM requests WINDOW TUMBLING 10s GROUP BY title",
    "SELECT path, status, latency_ms FROM requests WHERE status >= 500",
)
HISTORY = (
    ("SELECT user_id, count(*) AS n FROM stored WINDOW TUMBLING 1m GROUP BY user_id", "stream"),
    ("SELECT user_id, count(*) AS n FROM stored WINDOW TUMBLING 1m GROUP BY user_id", "batch"),
    ("SELECT path, status, latency_ms FROM stored WHERE status >= 500", "stream"),
    ("SELECT country, median(latency_ms) AS m FROM stored WINDOW HOPPING 1m EVERY 10s GROUP BY country", "stream"),
)


def main(minutes: float) -> None:
    print(f"{'part':<10}{'minutes':>9}{'MiB first':>11}{'last':>8}{'most':>8}{'MiB/hour':>10}{'M events/s':>12}")
    for name, part in (("live", live), ("history", history)):
        seconds = minutes * 30
        stopping = threading.Event()
        counted: list[int] = []
        work = threading.Thread(target=part, args=(stopping, counted))
        work.start()
        taken = watch(seconds, work)
        stopping.set()
        work.join()
        report(name, seconds, taken, sum(counted))


def watch(seconds: float, work: threading.Thread) -> Sequence[tuple[float, float]]:
    """Times and resident MiB."""
    began = time.perf_counter()
    found = []
    while (now := time.perf_counter() - began) < seconds and work.is_alive():
        found.append((now, resident_mib()))
        time.sleep(min(EVERY_S, seconds / 10))
    assert work.is_alive() or now >= seconds, "the work ended too soon"
    return found


def report(name: str, seconds: float, taken: Sequence[tuple[float, float]], events: int) -> None:
    times, sizes = (np.array(column) for column in zip(*taken, strict=True))
    warm = times >= seconds / 3
    slope = np.polyfit(times[warm], sizes[warm], 1)[0] * 3600
    print(
        f"{name:<10}{seconds / 60:>9.1f}{sizes[0]:>11.0f}{sizes[-1]:>8.0f}{sizes.max():>8.0f}{slope:>10.0f}"
        f"{events / seconds / 1e6:>12.2f}",
        flush=True,
    )


def live(stopping: threading.Event, counted: list[int]) -> None:
    engine = Engine((GeneratorSource("requests", rate=RATE, rhythm=0),))
    running = [engine.start(text, options=Options(linger_s=1e9)) for text in LIVE]
    stopping.wait()
    counted.append(max(one.ledger()["events"] for one in running))
    dropped = [one.ledger()["dropped"] for one in running]
    print(f"{'':<10}dropped by query: {', '.join(f'{count:,}' for count in dropped)}")
    engine.close()


def history(stopping: threading.Event, counted: list[int]) -> None:
    engine = Engine((GeneratorSource("stored", rate=2_000, rhythm=0, events=HISTORY_EVENTS),))
    run: Callable[[str, str], int] = lambda text, route: sum(  # noqa: E731
        table.num_rows for table in engine.rows(text, options=Options(route=route))
    )
    while not stopping.is_set():
        for text, route in HISTORY:
            if not stopping.is_set():
                run(text, route)
                counted.append(HISTORY_EVENTS)
    engine.close()


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
