"""What is done for jobs as time passes: schedules, clusters, limits, ends, silence. The clock is moved by hand."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.waiting import wait_for

from mql.errors import MqlError
from mql.exec.clock import ManualClock
from mql.exec.engine import Engine
from mql.exec.items import Chunk
from server import resultlog
from server.books import CLASSES
from server.job import Job
from server.job_spec import Spec
from server.jobs import Jobs
from server.keeping import Keeper
from server.life import Schedule
from server.settings import Settings
from sources.memory import MemorySource

HOUR_S = 3_600
TEMPLATE = """
name: kept
query: SELECT n FROM events
sla: {min: 2, max: 3}
"""


class Place:
    """Jobs over one source, with a clock of their own, and nobody who looks after them but the test."""

    def __init__(self, home: Path) -> None:
        self.clock = ManualClock(1_000_000_000_000_000)
        self.source = MemorySource("events", [{"ts": 1, "n": 1}], bounded=False)
        self.keeper = Keeper(Settings(base_dir=home))
        self.keeper.open().clock = self.clock
        self.engine = Engine([self.source])
        self.jobs = Jobs(self.engine, self.keeper, self.clock)

    def job(self, name: str = "j", *, start: bool = True, **said: Any) -> Job:
        job = self.jobs.create(name, Spec.model_validate({"query": "SELECT n FROM events", **said}), start=start)
        if start:
            self.comes_to(job, "running")
        return job

    def comes_to(self, job: Job, state: str) -> None:
        wait_for(lambda: job.state == state)

    def after(self, seconds: float) -> None:
        self.clock.advance(round(seconds * 1e6))
        self.jobs.upkeep.look()

    def close(self) -> None:
        self.jobs.close()
        self.engine.close()
        self.keeper.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.close()


def lines(place: Place, name: str = "j") -> list[str]:
    return [line["text"] for line in place.jobs.store.logs(name, 50)]


# --- schedules -----------------------------------------------------------------------------------------------


def test_a_schedule_starts_a_job_when_its_time_comes(place: Place) -> None:
    job = place.job(start=False, schedule={"cron": "0 * * * *"})
    place.after(1)
    assert job.state == "stopped"
    assert job.next_us is not None
    assert job.next_us > place.clock.now_us()
    place.after(HOUR_S)
    place.comes_to(job, "running")


@pytest.mark.parametrize(("policy", "runs"), [("keep_existing", 1), ("keep_new", 2)])
def test_what_becomes_of_a_run_that_is_still_there(place: Place, policy: str, runs: int) -> None:
    job = place.job(schedule={"cron": "0 * * * *", "policy": policy})
    place.after(1)
    place.after(HOUR_S)
    place.comes_to(job, "running")
    assert len(place.jobs.store.runs("j", 10)) == runs


def test_times_that_passed_without_a_server_are_made_up_for_once_or_skipped(place: Place) -> None:
    once = place.job("once", start=False, schedule={"cron": "0 * * * *"})
    skips = place.job("skips", start=False, schedule={"cron": "0 * * * *", "missed": "skip"})
    place.after(5 * HOUR_S)
    place.comes_to(once, "running")
    assert skips.state == "stopped"
    once.act("stop")
    place.after(60)
    assert once.state == "stopped"


def test_a_clock_that_goes_back_starts_nothing_twice(place: Place) -> None:
    job = place.job(start=False, schedule={"cron": "0 * * * *"})
    place.after(1)
    place.after(HOUR_S)
    place.comes_to(job, "running")
    job.act("stop")
    place.after(-HOUR_S)
    place.after(HOUR_S - 120)
    assert job.state == "stopped"


def test_a_paused_job_stays_paused(place: Place) -> None:
    job = place.job(schedule={"cron": "0 * * * *"})
    place.after(1)
    job.act("pause")
    place.after(HOUR_S)
    assert job.state == "paused"
    assert lines(place)[-1] == "its time has come, but it is paused"


@pytest.mark.parametrize("cron", ["", "x", "@daily", "* * * * * *", "61 * * * *", "0 0 31 2 *"])
def test_what_is_no_schedule_is_refused(cron: str) -> None:
    with pytest.raises(ValidationError):
        Schedule(cron=cron)


def test_a_schedule_keeps_to_its_own_clock_over_summer_time() -> None:
    schedule = Schedule(cron="30 6 * * *", timezone="Europe/Berlin")
    before = schedule.next_us(1_774_600_000_000_000)
    assert before is not None
    following = schedule.next_us(before)
    assert following is not None
    assert (following - before) / 1e6 == 23 * HOUR_S  # clocks go forward in the night of 2026-03-29
    with pytest.raises(ValidationError, match="no time zone"):
        Schedule(cron="0 * * * *", timezone="Mars/Olympus")


# --- as many as are wanted -------------------------------------------------------------------------------------


def test_a_template_has_as_many_jobs_as_it_says(place: Place) -> None:
    place.jobs.store.put_template("kept", TEMPLATE)
    place.after(6)
    assert len(place.jobs.all()) == 2
    place.after(6)
    assert len(place.jobs.all()) == 2, "jobs that are starting count"
    for at in range(2):
        place.clock.advance(1)
        place.job(f"more-{at}", query=None, template="kept")
    place.after(1)
    alive = [job.name for job in place.jobs.all() if job.state != "stopped"]
    assert len(alive) == 3
    assert {"more-0", "more-1"} < set(alive), "the oldest is stopped"


def test_jobs_that_failed_for_good_run_again_later_and_later(place: Place) -> None:
    place.jobs.store.put_template("kept", TEMPLATE)
    place.after(6)
    job = place.jobs.all()[0]
    place.comes_to(job, "running")
    job.change(job.spec.model_copy(update={"restart": "never"}))
    assert job.running is not None
    job.running.execution.fail(MqlError("broken"))
    place.comes_to(job, "failed")
    place.after(61)
    place.comes_to(job, "running")
    assert len(place.jobs.all()) == 2


# --- limits and ends -------------------------------------------------------------------------------------------


def test_a_run_ends_in_time(place: Place) -> None:
    job = place.job(limits={"runtime": "10m"})
    place.after(1)
    place.after(601)
    place.comes_to(job, "completed")
    assert job.reason == "its time of 600 s is over"


def test_a_transient_job_ends_with_its_last_reader(place: Place) -> None:
    job = place.job(transient="30s")
    reading = job.read(None, live=True)
    place.after(1)
    place.after(100)
    assert job.state == "running"
    reading.close()
    place.after(31)
    place.comes_to(job, "completed")
    assert job.reason == "nobody has read it for 30 s"


def test_more_state_than_is_allowed_ends_a_job_for_good(place: Place) -> None:
    query = "SELECT n, count(*) AS c FROM events WINDOW 1h GROUP BY n"
    said = {"guarantee": "exactly_once", "checkpoint_every": 0.02, "limits": {"entries": 5}}
    job = place.job(query=query, **said)
    place.source.push(0, [{"ts": 2, "n": at} for at in range(20)])
    wait_for(lambda: job.running is None or job.running.ledger()["events"] == 20)
    place.clock.advance(1_000_000)
    place.comes_to(job, "failed")
    assert job.reason is not None
    assert "panes and keys; 5 are allowed" in job.reason


def test_limits_on_state_need_a_guarantee(place: Place) -> None:
    with pytest.raises(MqlError, match="takes none"):
        place.job(limits={"state": "1MiB"})


def test_a_job_that_is_slowed_down_tells_all_of_its_rows_in_its_time(place: Place) -> None:
    job = place.job(guarantee="at_least_once", checkpoint_every=0.02, limits={"rows_per_s": 1})
    place.source.push(0, [{"ts": 2, "n": at} for at in range(5)])
    wait_for(lambda: job.log.length.rows == 5)
    place.source.push(0, [{"ts": 3, "n": at} for at in range(5)])
    wait_for(lambda: job.running is not None and job.running.ledger()["events"] == 10)
    assert job.log.length.rows == 5
    place.clock.advance(6_000_000)
    wait_for(lambda: job.log.length.rows == 10)


# --- silence -----------------------------------------------------------------------------------------------------


def test_who_falls_silent_is_told_of_once_and_again_when_it_is_heard(place: Place) -> None:
    job = place.job(expect={"events": "5m", "rows": "1h"})
    place.after(1)
    place.after(299)
    assert job.silence is None
    place.after(2)
    assert job.silence == "no event for 300 s"
    assert job.trouble == "no event for 300 s"
    place.after(10)
    place.source.push(0, [{"ts": 2, "n": 2}])
    wait_for(lambda: job.log.length.rows == 1)
    place.after(1)
    assert job.silence is None
    assert [line for line in lines(place) if "silent" in line or "heard" in line] == [
        "silent: no event for 300 s",
        "heard again",
    ]


def test_where_too_much_cannot_be_read_somebody_is_told_until_it_can(place: Place) -> None:
    job = place.job(expect={"unreadable": 0.25})

    def minute(good: int, bad: int) -> None:
        assert job.running is not None
        before = job.running.ledger()["events"]
        data = b'{"ts": 9, "n": 9}\n' * good + b"oops\n" * bad
        place.source.ring.append(Chunk(0, data, place.source.end()[0], place.clock.now_us()))
        wait_for(lambda: job.running is not None and job.running.ledger()["events"] == before + good + bad)
        place.after(61)

    place.after(1)
    minute(3, 1)
    assert job.silence is None
    minute(2, 2)
    assert job.silence == job.trouble == "50 % of a minute's events could not be read"
    minute(0, 0)
    assert job.silence is None
    told = [line for line in lines(place) if "unreadable" in line or "heard" in line]
    assert told == ["unreadable: 50 % of a minute's events could not be read", "heard again"]


# --- a disk that is full -----------------------------------------------------------------------------------------


def full(out: int, data: bytes) -> None:
    """Writes some of it, as a disk does that becomes full."""
    os.write(out, data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_job_waits_for_a_full_disk_and_goes_on_by_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = place.job(guarantee="exactly_once", checkpoint_every=0.02)
    write = resultlog.write_all
    monkeypatch.setattr(resultlog, "write_all", full)
    place.source.push(0, [{"ts": 2, "n": 2}])
    wait_for(lambda: job.waits)
    assert (job.state, job.trouble) == ("running", "it cannot write: No space left on device")
    monkeypatch.setattr(resultlog, "write_all", write)
    wait_for(lambda: job.log.length.rows == 1)
    assert job.trouble is None
    assert lines(place)[-2:] == ["waits: it cannot write: No space left on device", "goes on"]


def test_a_job_that_waits_for_its_disk_can_be_stopped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = place.job()
    monkeypatch.setattr(resultlog, "write_all", full)
    place.source.push(0, [{"ts": 2, "n": 2}])
    wait_for(lambda: job.waits)
    job.act("stop")
    assert job.state == "stopped"


# --- the ledger --------------------------------------------------------------------------------------------------


def test_the_ledger_goes_on_over_runs_and_adds_up(place: Place) -> None:
    query = "SELECT count(*) AS c FROM events WHERE n > 0 WINDOW 10s"
    job = place.job(query=query, guarantee="exactly_once", checkpoint_every=0.02)
    events = [{"ts": 10 + at, "n": at % 3} for at in range(5)]
    place.source.push(0, events)
    wait_for(lambda: job.running is not None and job.running.ledger()["in_state"] == 3)
    place.clock.advance(1_000_000)
    wait_for(lambda: job.checkpointed is not None and job.checkpointed["number"] >= 2)
    for _ in range(2):
        job.act("stop")
        total = job.books.total(None)
        assert (total["events"], total["in_state"], total["filtered"]) == (5, 3, 2)
        job.act("start")
        place.comes_to(job, "running")
        wait_for(lambda: job.running is not None and job.running.ledger()["in_state"] == 3)
    assert job.running is not None
    ledger = job.running.ledger()
    assert ledger["events"] == sum(ledger[kind] for kind in CLASSES) == 3
    total = job.books.total(ledger)
    assert total["events"] == sum(total[kind] for kind in CLASSES) == 5
    assert total["dropped"] == 0


def test_a_job_without_a_guarantee_drops_what_was_in_its_state(place: Place) -> None:
    job = place.job(query="SELECT count(*) AS c FROM events WINDOW 10s")
    place.source.push(0, [{"ts": 10, "n": 1}, {"ts": 11, "n": 2}])
    wait_for(lambda: job.running is not None and job.running.ledger()["in_state"] == 2)
    job.act("stop")
    assert (job.books.earlier["events"], job.books.earlier["dropped"]) == (2, 2)
