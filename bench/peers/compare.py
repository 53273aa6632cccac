"""The questions of throughput.py, answered by Spark SQL and Flink SQL as well.

    python bench/peers/compare.py [megabytes] [rounds]

Each peer gets an environment of its own beside this file the first time (some 1.5 GB in all; Java 17 must be there).
A run is a process held to one core; the runs of a round follow each other. What counts is the wall clock of one
statement in a process that has answered the same question over the same file once before, without what it takes to
start the process and a session; for Flink a statement is a job, and setting it up is part of it. The table shows
medians and the ratio to ours.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import events  # noqa: E402
import throughput  # noqa: E402

QUESTIONS: Mapping[str, str] = {
    "filter": throughput.FILTER,
    "window": throughput.WINDOW,
    "project": throughput.PROJECT,
}
Measure = Callable[[str, Path], tuple[int, float]]
"""Of a question over a file: how many rows, and seconds."""


def main(megabytes: int, rounds: int) -> None:
    ways: Mapping[str, Measure] = {
        "ours, streamed": ours("ours, streamed"),
        "ours, batch": ours("ours, batch"),
        "DuckDB read_json": ours("DuckDB read_json"),
        "Spark SQL, batch": peer("spark"),
        "Flink SQL, streaming": peer("flink", "streaming"),
        "Flink SQL, batch": peer("flink", "batch"),
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.ndjson"
        count = events.write(file, megabytes)
        print(f"{count:,} events, {file.stat().st_size >> 20} MiB, {rounds} rounds, one core")
        print(f"{'question':<10}{'by':<24}{'rows':>10}{'M/s wall':>10}{'of ours, streamed':>20}")
        for question in QUESTIONS:
            compare(question, file, count, rounds, ways)


def compare(question: str, file: Path, count: int, rounds: int, ways: Mapping[str, Measure]) -> None:
    taken: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, int] = {}
    for _ in range(rounds):
        for way, measure in ways.items():
            found[way], wall_s = measure(question, file)
            taken[way].append(wall_s)
    assert len(set(found.values())) == 1, (question, found)
    speeds = {way: count / statistics.median(of) / 1e6 for way, of in taken.items()}
    for way, speed in speeds.items():
        ratio = speed / speeds["ours, streamed"]
        print(f"{question:<10}{way:<24}{found[way]:>10,}{speed:>10.2f}{ratio:>20.2f}", flush=True)


def ours(way: str) -> Measure:
    def measure(question: str, file: Path) -> tuple[int, float]:
        run = throughput.measured(way, QUESTIONS[question], [file], 1)
        return run.rows, run.wall_s

    return measure


def peer(name: str, *more: str) -> Measure:
    python = environment(name)

    def measure(question: str, file: Path) -> tuple[int, float]:
        command = (python, HERE / f"on_{name}.py", question, file, *more)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        told = json.loads(done.stdout[done.stdout.rindex('{"rows"') :])
        return told["rows"], told["wall_s"]

    return measure


def environment(name: str) -> Path:
    """The peer's Python, with what its requirements name; made the first time."""
    folder = HERE / f".venv-{name}"
    done = folder / ".installed"
    if not done.exists():
        print(f"installing {name} into {folder}", flush=True)
        subprocess.run((sys.executable, "-m", "venv", folder), check=True)
        pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run((*pip, "--requirement", HERE / f"requirements-{name}.txt"), check=True)
        done.touch()
    return folder / "bin" / "python"


if __name__ == "__main__":
    main(*(int(given) for given in (*sys.argv[1:], *("200", "3")[len(sys.argv) - 1 :])))
