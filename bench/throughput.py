"""How fast questions are answered over JSON lines in a file: by ours, streamed and in batch, and by others.

    python bench/throughput.py [megabytes] [rounds]

Each run has a process of its own that is held to one core; the runs of one round follow each other, and the table
shows medians over the rounds. `M/s cpu` is million events per second of processor time, which the load of others on
the machine disturbs least; the ratio to DuckDB's own batch is of that. The last lines run ours on two cores with two
tasks, over two files: there the wall clock counts.
"""

from __future__ import annotations

import os

os.environ["POLARS_MAX_THREADS"] = "1"

import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import events

LOOP_SHARE = 10  # the Python loop gets a tenth of the events
WINDOW_MS = 10_000
SETTLE_S = 0.5  # for what a process does once, beside its first question

FILTER = "SELECT path, latency_ms FROM events WHERE country = 'XX'"
WINDOW = "SELECT host, count(*) AS n, avg(latency_ms) AS latency FROM events WINDOW TUMBLING 10s GROUP BY host"
PROJECT = "SELECT country, path, status, latency_ms, device FROM events"
QUESTIONS = {"filter, 1 % match": FILTER, "count, avg by window, key": WINDOW, "project 5 columns": PROJECT}
REFERENCE = "DuckDB read_json"


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run: what it found, by the wall clock and in processor time."""

    rows: int
    wall_s: float
    cpu_s: float


def main(megabytes: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"events-{number}.ndjson" for number in range(2)]
        counts = [events.write(file, megabytes // (number + 1), number) for number, file in enumerate(files)]
        print(f"{counts[0]:,} events, {files[0].stat().st_size >> 20} MiB, {rounds} rounds, one core")
        print(f"{'question':<27}{'by':<20}{'M/s cpu':>9}{'M/s wall':>9}{'ratio':>8}")
        for question, text in QUESTIONS.items():
            compare(question, text, files[:1], counts[0], rounds)
        halves = [files[1], second(files[1], Path(folder))]
        print(f"\n{'two tasks on two cores':<27}{'by':<20}{'M/s wall':>9}{'of one':>8}")
        for question, text in QUESTIONS.items():
            scaling(question, text, halves, 2 * counts[1], rounds)


def second(file: Path, folder: Path) -> Path:
    """The same events once more, as another split."""
    copy = folder / "events-2.ndjson"
    copy.write_bytes(file.read_bytes())
    return copy


def compare(question: str, text: str, files: Sequence[Path], count: int, rounds: int) -> None:
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            runs[way].append(measured(way, text, files, 1))
    speeds = {way: scale(way) * count / median_cpu(of) / 1e6 for way, of in runs.items()}
    for way, of in runs.items():
        wall = scale(way) * count / statistics.median(run.wall_s for run in of) / 1e6
        ratio = speeds[way] / speeds[REFERENCE]
        print(f"{question:<27}{way:<20}{speeds[way]:>9.2f}{wall:>9.2f}{ratio:>8.2f}", flush=True)
        question = ""
    agree(text, {way: of[0].rows for way, of in runs.items() if scale(way) == 1})


def scaling(question: str, text: str, files: Sequence[Path], count: int, rounds: int) -> None:
    for way in ("ours, streamed", "ours, batch"):
        ratios, speeds = [], []
        for _ in range(rounds):
            one, two = measured(way, text, files, 1), measured(way, text, files, 2)
            ratios.append(one.wall_s / two.wall_s)
            speeds.append(count / two.wall_s / 1e6)
        print(f"{question:<27}{way:<20}{statistics.median(speeds):>9.2f}{statistics.median(ratios):>8.2f}", flush=True)
        question = ""


def median_cpu(runs: Sequence[Run]) -> float:
    return statistics.median(run.cpu_s for run in runs)


def scale(way: str) -> float:
    return 1 / LOOP_SHARE if way == "Python and orjson" else 1.0


def agree(text: str, rows: dict[str, int]) -> None:
    """All must have found the same number of rows, or the table compares different things."""
    assert len(set(rows.values())) == 1, (text, rows)


def measured(way: str, text: str, files: Sequence[Path], tasks: int) -> Run:
    """A run in a process of its own, held to as many cores as it has tasks."""
    command = [sys.executable, __file__, "--one", way, text, str(tasks), *map(str, files)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Run(**json.loads(done.stdout))


def one(way: str, text: str, tasks: int, files: Sequence[str]) -> None:
    """What the process of one run does: opens, gets ready by a small run, then the measured one, and closes."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-tasks:])
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.ndjson"
        with Path(files[0]).open("rb") as opened:
            small.write_bytes(b"".join(opened.readline() for _ in range(1000)))
        with WAYS[way](tasks) as opened_by:
            opened_by([str(small)])(text)
            answer = opened_by(files)
            time.sleep(SETTLE_S)
            cpu, wall = processor_s(), time.perf_counter()
            rows = answer(text)
            print(json.dumps({"rows": rows, "wall_s": time.perf_counter() - wall, "cpu_s": processor_s() - cpu}))


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- ways to answer ------------------------------------------------------------------------------------------

Answer = Callable[[str], int]
"""Answers a question, and tells how many rows that are."""
Open = Callable[[Sequence[str]], Answer]
"""Gets ready to answer questions over files, as a server does before it is asked."""


@contextmanager
def streamed(tasks: int) -> Iterator[Open]:
    with ours(tasks, "stream") as opened:
        yield opened


@contextmanager
def batched(tasks: int) -> Iterator[Open]:
    with ours(tasks, "batch") as opened:
        yield opened


@contextmanager
def ours(tasks: int, route: str) -> Iterator[Open]:
    from mql.catalog import TimeRule
    from mql.exec.engine import Engine, Options
    from mql.learn import parse_type
    from mql.schema import Field, Shape
    from sources.file import FileSource
    from sources.settings import Settings

    shape = Shape(tuple(Field(name, parse_type(type), 1.0) for name, type in events.SHAPE.items()))
    settings = Settings(shape=shape, time=TimeRule(("ts",), "ms"))
    engine = Engine(workers=tasks)

    def opened(files: Sequence[str]) -> Answer:
        engine.add_source(FileSource("events", files, settings=settings))
        return lambda text: sum(table.num_rows for table in engine.rows(text, options=Options(route=route)))

    try:
        yield opened
    finally:
        engine.close()


@contextmanager
def by_duckdb(tasks: int) -> Iterator[Open]:
    import duckdb

    connection = duckdb.connect(config={"threads": str(tasks), "preserve_insertion_order": "false"})

    def answer(files: Sequence[str], text: str) -> int:
        columns = ", ".join(f"{name}: '{events.SHAPE[name]}'" for name in fields_of(text))
        rows = f"read_json({list(files)}, format = 'newline_delimited', columns = {{{columns}}})"
        sql = text.replace("FROM events", f"FROM {rows}")
        if text == WINDOW:
            groups = f"ts // {WINDOW_MS} AS w, host, count(*) AS n, avg(latency_ms) AS latency"
            sql = f"SELECT {groups} FROM {rows} GROUP BY ALL"
        return int(connection.sql(sql).to_arrow_table().num_rows)

    yield lambda files: partial(answer, files)


@contextmanager
def by_polars(tasks: int) -> Iterator[Open]:
    import polars

    types = {"VARCHAR": polars.String, "BIGINT": polars.Int64, "DOUBLE": polars.Float64}

    def answer(files: Sequence[str], text: str) -> int:
        fields = fields_of(text)
        frame = polars.scan_ndjson(list(files), schema={name: types[events.SHAPE[name]] for name in fields})
        if text == FILTER:
            found = frame.filter(polars.col("country") == "XX").select("path", "latency_ms")
        elif text == WINDOW:
            keyed = frame.group_by(polars.col("ts") // WINDOW_MS, "host")
            found = keyed.agg(polars.len().alias("n"), polars.col("latency_ms").mean())
        else:
            found = frame.select(fields)
        return int(found.collect().height)

    yield lambda files: partial(answer, files)


@contextmanager
def by_loop(tasks: int) -> Iterator[Open]:
    """A tenth of the events, one at a time."""
    import orjson

    def answer(files: Sequence[str], text: str) -> int:
        data = b"".join(Path(file).read_bytes() for file in files)
        data = data[: data.find(b"\n", len(data) // LOOP_SHARE) + 1]
        found: list[tuple[object, ...]] = []
        groups: dict[tuple[int, str], list[float]] = {}
        for line in data.splitlines():
            event = orjson.loads(line)
            if text == WINDOW:
                held = groups.setdefault((event["ts"] // WINDOW_MS, event["host"]), [0, 0.0])
                held[0] += 1
                held[1] += event["latency_ms"]
            elif text == PROJECT:
                found.append((event["country"], event["path"], event["status"], event["latency_ms"], event["device"]))
            elif event["country"] == "XX":
                found.append((event["path"], event["latency_ms"]))
        return len(found) or len(groups)

    yield lambda files: partial(answer, files)


def fields_of(text: str) -> Sequence[str]:
    """What has to be read for a question."""
    words = {*re.findall(r"\w+", text), *(["ts"] if text == WINDOW else [])}
    return [name for name in events.SHAPE if name in words]


WAYS: dict[str, Callable[[int], AbstractContextManager[Open]]] = {
    "ours, streamed": streamed,
    "ours, batch": batched,
    REFERENCE: by_duckdb,
    "polars scan_ndjson": by_polars,
    "Python and orjson": by_loop,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
    else:
        main(*(int(argument) for argument in sys.argv[1:3] or ["200", "3"]))
