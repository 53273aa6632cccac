"""Jobs of one template share a reader, a plan and its barriers; each can be stopped, go on and be deleted alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reading import await_true

from mql.catalog import TimeRule
from mql.exec.clock import Clock, ManualClock
from mql.exec.engine import Engine
from mql.exec.family import Member
from server.job_spec import Spec
from server.jobs import Jobs
from server.keeping import Keeper
from server.settings import Settings
from sources.memory import MemorySource

TEMPLATE = """
name: per-device
params:
  device: {type: string, required: true}
  least: {type: number, default: 0}
query: |
  SELECT k, count(*) AS n, sum(v) AS total FROM live WHERE k = $device
  WINDOW TUMBLING 10s GROUP BY k HAVING count(*) > $least
"""
DEVICES = 5


def events(first: int, last: int) -> list[dict[str, Any]]:
    return [{"ts": at, "k": f"d{at % DEVICES}", "v": at} for at in range(first, last)]


def want(device: int, first: int, last: int) -> list[tuple[int, int]]:
    """Counts and sums of the windows of ten seconds that lie between."""
    windows = range(first, last, 10)
    mine = [[at for at in range(start, start + 10) if at % DEVICES == device] for start in windows]
    return [(len(found), sum(found)) for found in mine]


@pytest.fixture
def source() -> MemorySource:
    return MemorySource("live", events(0, 10), bounded=False, time=TimeRule(("ts",), "s"))


@pytest.fixture
def engine(source: MemorySource) -> Iterator[Engine]:
    made = Engine([source], workers=2)
    yield made
    made.close()


def jobs_in(path: Path, engine: Engine, clock: Clock | None = None) -> Jobs:
    made = Jobs(engine, Keeper(Settings(base_dir=path)), clock)
    if made.store.template("per-device", None) is None:
        made.store.put_template("per-device", TEMPLATE)
    return made


def create(jobs: Jobs, guarantee: str, checkpoint_every: float = 0.05) -> None:
    for at in range(DEVICES):
        spec = Spec(
            template="per-device",
            params={"device": f"d{at}"},
            guarantee=guarantee,
            checkpoint_every=checkpoint_every,
        )
        jobs.create(f"j{at}", spec)
    await_true(lambda: all(is_in(jobs, at) for at in range(DEVICES)))


def is_in(jobs: Jobs, at: int) -> bool:
    return is_in_family(jobs, f"j{at}")


def is_in_family(jobs: Jobs, name: str) -> bool:
    running = jobs.job(name).running
    return running is not None and isinstance(running.execution, Member) and bool(running.execution.positions)


def families(jobs: Jobs) -> set[object]:
    return {job.running.execution.family for job in jobs.all() if job.running is not None}  # type: ignore[union-attr]


def told(jobs: Jobs, at: int) -> list[tuple[int, int]]:
    return rows_told(jobs, f"j{at}")


def rows_told(jobs: Jobs, name: str) -> list[tuple[int, int]]:
    log = jobs.job(name).log
    tables, _ = log.tables(range(1_000), 0, 2**62, 1_000)
    return [(row["n"], row["total"]) for table in tables for row in table.to_pylist()]


def has_told(jobs: Jobs, at: int, rows: list[tuple[int, int]]) -> None:
    await_true(lambda: told(jobs, at) == rows)


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_jobs_of_a_template_share_a_plan_and_do_so_again_after_a_restart(
    guarantee: str, tmp_path: Path, engine: Engine, source: MemorySource
) -> None:
    jobs = jobs_in(tmp_path, engine)
    create(jobs, guarantee)
    assert len(families(jobs)) == 1
    plan, graph = jobs.job("j0").running.runs_by()  # type: ignore[union-attr]
    assert [type(spec).__name__ for spec in plan.stages[0].operators] == ["Expand", "Partial"]
    assert graph is not None
    source.push(0, events(10, 46))
    for at in range(DEVICES):
        has_told(jobs, at, want(at, 10, 40))
    jobs.close()
    source.push(0, events(46, 58))
    jobs = jobs_in(tmp_path, engine)
    jobs.revive()
    await_true(lambda: all(is_in(jobs, at) for at in range(DEVICES)))
    assert len(families(jobs)) <= 2
    source.push(0, events(58, 86))
    for at in range(DEVICES):
        has_told(jobs, at, want(at, 10, 80))
    jobs.close()


def test_one_of_them_is_stopped_goes_on_and_is_deleted_alone(
    tmp_path: Path, engine: Engine, source: MemorySource
) -> None:
    jobs = jobs_in(tmp_path, engine)
    create(jobs, "exactly_once")
    source.push(0, events(10, 46))
    has_told(jobs, 1, want(1, 10, 40))
    jobs.job("j1").act("stop")
    source.push(0, events(46, 66))
    has_told(jobs, 2, want(2, 10, 60))
    assert told(jobs, 1) == want(1, 10, 40)
    jobs.job("j1").act("start")
    has_told(jobs, 1, want(1, 10, 60))
    jobs.delete("j3")
    source.push(0, events(66, 86))
    for at in (0, 1, 2, 4):
        has_told(jobs, at, want(at, 10, 80))
    assert jobs.job("j1").running.execution.family is not jobs.job("j2").running.execution.family  # type: ignore[union-attr]
    jobs.close()


def test_after_a_crash_each_row_is_there_once(tmp_path: Path, engine: Engine, source: MemorySource) -> None:
    jobs = jobs_in(tmp_path, engine)
    create(jobs, "exactly_once")
    for first in range(10, 90, 8):
        source.push(0, events(first, first + 8))
        if first % 3 == 0:
            family = next(iter(families(jobs)))
            family.core.fail(RuntimeError("the kernel is gone"))  # type: ignore[attr-defined]
            await_true(lambda: all(job.attempts == 0 or is_in(jobs, int(job.name[1:])) for job in jobs.all()))
    for at in range(DEVICES):
        has_told(jobs, at, want(at, 10, 80))
    jobs.close()


def test_after_a_crash_before_its_first_checkpoint_a_job_begins_where_it_was_made(
    tmp_path: Path, engine: Engine, source: MemorySource
) -> None:
    jobs = jobs_in(tmp_path, engine)
    create(jobs, "exactly_once", checkpoint_every=3600)
    source.push(0, events(10, 46))
    family = next(iter(families(jobs)))
    await_true(lambda: family.core.watermark_us() == 40_000_000)  # type: ignore[attr-defined]
    family.core.fail(RuntimeError("the kernel is gone"))  # type: ignore[attr-defined]
    await_true(lambda: all(job.attempts >= 1 and is_in(jobs, int(job.name[1:])) for job in jobs.all()))
    source.push(0, events(46, 66))
    await_true(lambda: all(job.log.length.rows == 5 for job in jobs.all()))
    jobs.close()
    assert [told(jobs, at) for at in range(DEVICES)] == [want(at, 10, 60) for at in range(DEVICES)]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_barriers_pass_while_jobs_join(tmp_path: Path, engine: Engine, source: MemorySource) -> None:
    jobs = jobs_in(tmp_path, engine)
    create(jobs, "at_least_once")
    await_true(lambda: all(is_in(jobs, at) for at in range(DEVICES)))
    family = next(iter(families(jobs)))
    over, wrong = threading.Event(), []

    def pass_barriers() -> None:
        while not over.is_set():
            try:
                family.on_barrier(-1)  # type: ignore[attr-defined]
            except RuntimeError as error:
                wrong.append(error)

    passing = threading.Thread(target=pass_barriers)
    passing.start()
    for at in range(DEVICES, 40):
        spec = Spec(template="per-device", params={"device": f"d{at}"}, guarantee="at_least_once")
        jobs.create(f"j{at}", spec)
    await_true(lambda: all(is_in(jobs, at) for at in range(40)))
    over.set()
    passing.join()
    jobs.close()
    assert not wrong


def test_many_jobs_are_few_threads(tmp_path: Path, engine: Engine, source: MemorySource) -> None:
    before = threading.active_count()
    jobs = jobs_in(tmp_path, engine)
    for at in range(100):
        spec = Spec(template="per-device", params={"device": f"d{at}"}, guarantee="at_least_once")
        jobs.create(f"j{at}", spec)
    await_true(lambda: all(is_in(jobs, at) for at in range(100)))
    threads = [thread.name for thread in threading.enumerate()]
    starting = sum(name.startswith("mql-job-start") for name in threads)
    assert threading.active_count() - before - starting < 30, threads
    source.push(0, events(0, 30))
    await_true(lambda: all(jobs.job(f"j{at}").log.length.rows == 2 for at in range(DEVICES)))
    jobs.close()


class BusySource(MemorySource):
    """More comes, and is read by those who read already, while somebody asks for its end."""

    def __init__(self, first: int, clock: Clock) -> None:
        super().__init__("live", events(0, first), bounded=False, time=TimeRule(("ts",), "s"), clock=clock)
        self.coming: list[dict[str, Any]] = []
        self.are_read: Callable[[], bool] = lambda: True

    def end(self) -> dict[int, int]:
        found = dict(super().end())
        coming, self.coming = self.coming, []
        if coming:
            self.push(0, coming)
            await_true(self.are_read)
        return found


def test_what_comes_while_a_job_joins_is_told_alike_before_and_after_a_crash(tmp_path: Path) -> None:
    clock = ManualClock(15_000_000)
    source = BusySource(10, clock)
    engine = Engine([source], workers=2, clock=clock)
    jobs = jobs_in(tmp_path, engine, clock)
    spec = Spec(template="per-device", params={"device": "d0"}, guarantee="at_least_once", checkpoint_every=3600)
    jobs.create("old", spec)
    await_true(lambda: is_in_family(jobs, "old"))
    family = next(iter(families(jobs)))
    source.are_read = lambda: family.core.watermark_us() == 10_000_000  # type: ignore[attr-defined]
    source.coming = events(10, 16)
    jobs.create("new", spec.model_copy(update={"params": {"device": "d1"}}))
    await_true(lambda: is_in_family(jobs, "new"))
    source.push(0, events(16, 46))
    await_true(lambda: jobs.job("new").log.length.rows == 3)
    first = rows_told(jobs, "new")
    next(iter(families(jobs))).core.fail(RuntimeError("the kernel is gone"))  # type: ignore[attr-defined]

    def has_told_again() -> bool:
        clock.advance(20_000)  # siblings wait for each other after a restart
        return jobs.job("new").log.length.rows == 6

    await_true(has_told_again)
    assert rows_told(jobs, "new") == first + first
    closing = threading.Thread(target=jobs.close)
    closing.start()
    while closing.is_alive():  # they leave with a last checkpoint, for which siblings wait a moment
        clock.advance(20_000)
        closing.join(0.01)
    engine.close()
