"""What one stream costs that thousands of queries look at, which differ in literals only.

    python bench/many.py [filter | window | jobs]... [events a second]

One engine in this process, a generator as the source, and for each query a reader who takes its rows as they come. The
queries of `filter` are `WHERE user_id = …`, those of `window` the same with a windowed GROUP BY; the users that they
ask for are the busiest, so that nearly every event is somebody's. Processor time is that of the whole process, readers
and generator too. `jobs`: jobs of one template that are at_least_once, with logs and checkpoints on disk; they ask as
`window` does, every ten seconds.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from mql.exec.engine import Engine, Options, Running, Subscription
from mql.exec.frames import RowsFrame
from server.job_spec import Spec
from server.jobs import Jobs
from server.keeping import Keeper
from server.settings import Settings
from sources.generator import GeneratorSource

COUNTS = (1, 100, 1_000, 10_000)
RATE = 20_000
SETTLE_S = 3.0
MEASURE_S = 6.0
JOB_COUNTS = (1, 200, 1_000)
JOBS_MEASURE_S = 20.0
TEMPLATE = """
name: one
params:
  user: {type: string, required: true}
query: |
  SELECT path, count(*) AS n, avg(latency_ms) AS mean FROM requests WHERE user_id = $user
  WINDOW TUMBLING 10s GROUP BY path
"""
TEXTS = {
    "filter": "SELECT path, status, latency_ms FROM requests WHERE user_id = 'u-{}'",
    "window": (
        "SELECT path, count(*) AS n, avg(latency_ms) AS mean FROM requests WHERE user_id = 'u-{}' "
        "WINDOW TUMBLING 1s GROUP BY path"
    ),
}


def main(kinds: Sequence[str], rate: int) -> None:
    print(f"{rate:,} events/s; {os.cpu_count()} cores, load of the machine before: {os.getloadavg()[0]:.1f}")
    for kind in kinds:
        if kind == "jobs":
            run_jobs(rate)
            continue
        print(
            f"\n{kind:<8}{'queries':>9}{'start s':>9}{'events/s':>10}{'cores':>8}{'us/event':>10}{'rows/s':>9}"
            f"{'lag ms':>8}{'dropped':>9}{'MiB':>7}"
        )
        for count in COUNTS:
            measure(kind, count, rate)


def measure(kind: str, count: int, rate: int) -> None:
    engine = Engine((GeneratorSource("requests", rate=rate, rhythm=0),))
    readers = Readers()
    try:
        began = time.perf_counter()
        running = [engine.start(TEXTS[kind].format(at), options=Options(linger_s=1e9)) for at in range(1, count + 1)]
        started_s = time.perf_counter() - began
        for one in running:
            readers.add(one.subscribe())
        time.sleep(SETTLE_S)
        before = taken(running[0], readers)
        time.sleep(MEASURE_S)
        after = taken(running[0], readers)
        seconds, cpu, events, rows = (new - old for new, old in zip(after, before, strict=True))
        lags = [one.status()["lag_ms"] or 0.0 for one in running[:: max(1, count // 100)]]
        dropped = sum(one.ledger()["dropped"] for one in running) / count
        print(
            f"{'':<8}{count:>9,}{started_s:>9.1f}{events / seconds:>10,.0f}{cpu / seconds:>8.2f}"
            f"{cpu / events * 1e6:>10.1f}{rows / seconds:>9,.0f}{statistics.median(lags):>8.0f}"
            f"{dropped:>9,.0f}{resident_mib():>7.0f}",
            flush=True,
        )
    finally:
        readers.close()
        engine.close()


def run_jobs(rate: int) -> None:
    print(f"\n{'jobs':<8}{'jobs':>9}{'start s':>9}{'cores':>8}{'rows':>9}{'MiB':>7}")
    for count in JOB_COUNTS:
        with tempfile.TemporaryDirectory() as directory:
            engine = Engine((GeneratorSource("requests", rate=rate, rhythm=0),))
            jobs = Jobs(engine, Keeper(Settings(base_dir=Path(directory))))
            jobs.store.put_template("one", TEMPLATE)
            began = time.perf_counter()
            for at in range(1, count + 1):
                jobs.create(f"j{at}", Spec(template="one", params={"user": f"u-{at}"}, guarantee="at_least_once"))
            started_s = time.perf_counter() - began
            time.sleep(4 * SETTLE_S)
            began, cpu = time.perf_counter(), time.process_time()
            time.sleep(JOBS_MEASURE_S)
            used = (time.process_time() - cpu) / (time.perf_counter() - began)
            rows = sum(job.log.length.rows for job in jobs.all())
            print(f"{'':<8}{count:>9,}{started_s:>9.1f}{used:>8.2f}{rows:>9,}{resident_mib():>7.0f}", flush=True)
            jobs.close()
            engine.close()


def taken(running: Running, readers: Readers) -> tuple[float, float, float, float]:
    return time.perf_counter(), time.process_time(), float(running.ledger()["events"]), float(readers.rows)


class Readers:
    """All readers, served by one thread that takes from those that have something."""

    def __init__(self) -> None:
        self.rows = 0
        self.waiting: deque[Subscription] = deque()
        self.bell = threading.Event()
        self.closing = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def add(self, subscription: Subscription) -> None:
        def ready() -> None:
            self.waiting.append(subscription)
            self.bell.set()

        subscription.on_ready(ready)

    def run(self) -> None:
        while not self.closing:
            self.bell.wait(0.5)
            self.bell.clear()
            while self.waiting:
                for frame in self.waiting.popleft().take():
                    if isinstance(frame, RowsFrame):
                        self.rows += frame.table.num_rows

    def close(self) -> None:
        self.closing = True
        self.bell.set()
        self.thread.join()


def resident_mib() -> float:
    with open("/proc/self/statm") as opened:
        return int(opened.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    words = sys.argv[1:]
    numbers = [int(word) for word in words if word.isdigit()]
    kinds = (*TEXTS, "jobs")
    main([word for word in words if word in kinds] or kinds, numbers[0] if numbers else RATE)
