"""One run of a job: results into its log, checkpoints in between, from where the last run left to its end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mql.catalog import SourceInfo, TimeRule
from mql.errors import MqlError
from mql.exec.checkpoint import Checkpoint
from mql.exec.engine import Options, Running, Subscription
from mql.exec.family import Member
from mql.exec.frames import Ended, Failed, Frame, Gap, Phase, RowsFrame, Seal, Warn
from mql.exec.results import cursor_of
from mql.exec.running import Execution
from mql.exec.state import Snapshot
from mql.learn import parse_type
from mql.schema import Field as Property
from server.job_spec import Bound, has_episodes, scale_of
from server.resultlog import Length

if TYPE_CHECKING:
    from server.job import Job

log = logging.getLogger("server")

LOOK_S = 0.5
LOOK_LEAST_S = 0.01
SYNC_S = 1.0
SNAPSHOT_S = 20.0
LEAVE_S = 10.0
FOREVER_S = 1e9
TOGETHER_S = 0.05
CHECKPOINTS_PER_S = 50.0
"""So many are written each second of jobs that share a plan."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `kind`: stopped, paused, completed, failed, left (it goes on with the next server)."""

    kind: str
    reason: str | None = None


class Run:
    """One run of a job: from its last checkpoint, or from now, until something ends it."""

    def __init__(self, job: Job, adopted: Running | None) -> None:
        self.job = job
        self.spec = job.spec
        self.log = job.log
        self.clock = job.jobs.clock
        self.number = 0
        self.marks: deque[tuple[int, Length]] = deque()
        self.marked = self.log.length
        self.asked: Future[tuple[Snapshot, int]] | None = None
        self.adopted = adopted
        self.looks: Mapping[str, Any] | None = None
        self.has_episodes = False
        self.due_s = 0.0
        self.synced_s = 0.0

    def go(self) -> Outcome:
        job, spec = self.job, self.spec
        bound = job.jobs.bound(spec)
        if not spec.keeps_checkpoints:
            options = Options(name=f"job {job.name}", linger_s=FOREVER_S)
            self._begin_anew()
            running = self.adopted or job.jobs.engine.start(bound.query, bound.values, options)
            for note in running.execution.plan.warnings:
                job.say("info", note)
            return self._read(running, None)
        last = job.checkpoints.newest()
        self._go_back(last)
        if last is not None and last.notes.get("done"):
            return Outcome("completed", "its input has ended")
        self.number = 0 if last is None else last.number
        self.looks = None if last is None else last.notes["looks"]
        snapshot = self._beginning(bound) if last is None else last.snapshot
        assert self.looks is not None
        engine = job.jobs.engine
        known = {self.looks["source"]: as_it_looked(engine.source(self.looks["source"]).info, self.looks)}
        options = Options(name=f"job {job.name}", linger_s=FOREVER_S)
        # What counts from now (WARMUP FROM HISTORY) goes on counting from when the job first began, and the threshold
        # that was picked then (ALERT BUDGET) stays.
        running = engine.resume(
            snapshot,
            bound.query,
            bound.values,
            options,
            wait_for_readers=True,
            known=known,
            now_us=self.looks.get("began_us"),
            scale=self.looks.get("scale"),
            together=spec.template is not None,
        )
        return self._read(running, job.jobs.checkpointing)

    def _begin_anew(self) -> None:
        """What was open in an earlier run is lost, and nobody read meanwhile: the log says so, in its place."""
        if self.log.length.number and self.adopted is None:
            here = self.log.cursor(self.log.length)
            self.log.note("gap", {"rows": None, "from": here, "to": here, "why": "the job began anew"})

    def _go_back(self, last: Checkpoint | None) -> None:
        """Takes back results that will come again, where nothing may come twice."""
        told = Length() if last is None else Length(*last.notes["log"])
        if self.spec.guarantee == "exactly_once" and (self.log.length != told or self.log.committed != told):
            again = self.log.length.rows - told.rows
            self.log.truncate(told)
            self.job.say("info", f"went back to checkpoint {last.number if last else 0}; {again} rows come again")
        self.marked = self.log.length

    def _beginning(self, bound: Bound) -> Snapshot:
        """Where a job begins that has no checkpoint yet; written as its first, so that it begins there again."""
        engine = self.job.jobs.engine
        plan = engine.plan(bound.query, bound.values)
        source = engine.source(plan.scan.source)
        from_now = plan.scan.since.kind == "live"
        snapshot = Snapshot(positions=dict(source.end()) if from_now else {})
        self.looks = {**looks_of(source.info), "began_us": self.clock.now_us(), "scale": scale_of(plan)}
        for note in plan.warnings:
            self.job.say("info", note)
        self._write(snapshot, self.log.length)
        return snapshot

    # --- reading ---------------------------------------------------------------------------------------

    def _read(self, running: Running, pool: ThreadPoolExecutor | None) -> Outcome:
        """Results into the log, checkpoints in between, until the query ends or somebody tells to."""
        job = self.job
        subscription = running.subscribe(on_lag="drop")
        job.running, job.ring = running, subscription.ring
        self.has_episodes = has_episodes(running.execution.plan)
        job.runs()
        self.due_s = self.clock.monotonic_s() + self._pace_s(running)
        leaving_s: float | None = None
        try:
            while True:
                frames = subscription.take()
                ended = self._put(frames)
                self._settle(subscription, pool is None)
                if ended is not None:
                    return self._end(running, ended)
                now_s = self.clock.monotonic_s()
                if job.told is not None and leaving_s is None:
                    leaving_s, self.due_s = now_s, now_s
                waits = pool is not None and self.asked is None and now_s >= self.due_s
                if waits and pool is not None:
                    self.asked = self._ask(running, pool, leaving_s is not None)
                    self.asked.add_done_callback(lambda _: subscription.ring())
                    self.due_s = FOREVER_S if leaving_s is not None else now_s + self._pace_s(running)
                is_done = pool is None or (self.asked is None and self.due_s == FOREVER_S)
                if leaving_s is not None and (is_done or now_s - leaving_s > LEAVE_S / 2):
                    return Outcome(LEFT[job.told or "stop"])
                if not frames:
                    subscription.wait(max(LOOK_LEAST_S, min(LOOK_S, self.due_s - now_s)))
        finally:
            job.ring = nothing
            subscription.close()
            running.cancel("stopped")
            self.log.sync()

    def _ask(self, running: Running, pool: ThreadPoolExecutor, at_once: bool) -> Future[tuple[Snapshot, int]]:
        """A snapshot. Where jobs share a plan, one barrier is for all that ask at about the same time."""
        execution = running.execution
        if isinstance(execution, Member):
            return execution.ask(TOGETHER_S if at_once else self._pace_s(running) / 4)
        return pool.submit(snapshot_of, running)

    def _pace_s(self, running: Running) -> float:
        """How long to the next checkpoint: where very many share a plan, they take turns."""
        return max(self.spec.checkpoint_every, running.execution.sharing / CHECKPOINTS_PER_S)

    def _put(self, frames: Sequence[Frame]) -> Ended | Failed | None:
        """Frames into the log; gives the last one. A gap breaks the promise of a job with a guarantee."""
        for frame in frames:
            match frame:
                case RowsFrame(table, cursor):
                    self._mark(cursor, self.log.append(self._silenced(table)))
                case Seal(data, cursor):
                    self._mark(cursor, self.log.note("seal", data))
                case Gap(data) if self.spec.keeps_checkpoints:
                    raise MqlError(f"results were lost on the way to the log: {data.get('why')}", code="lost-results")
                case Gap(data):
                    self.log.note("gap", data)
                case Warn(data):
                    self.log.note("warn", data)
                case Phase(data):
                    self.log.note("phase", data)
                case Ended() | Failed():
                    return frame
                case _:
                    pass
        return None

    def _silenced(self, rows: pa.Table) -> pa.Table:
        """Rows of episodes with the silence that keeps them from alerting, if there is one."""
        if not self.has_episodes:
            return rows
        return self.job.jobs.silences.marked(self.job.name, self.job.spec.labels, rows)

    def _mark(self, cursor: str, length: Length) -> None:
        """Notes how long the log was after which frame, for the checkpoint that is to come."""
        if self.spec.keeps_checkpoints:
            at = cursor_of(cursor)
            assert at is not None
            self.marks.append((at.number, length))

    def _settle(self, subscription: Subscription, everything: bool) -> None:
        """Lets readers see what they may; writes the checkpoint once all that was told before it is in the log."""
        if self.spec.guarantee != "exactly_once" and self.log.committed != self.log.length:
            self.log.commit()
        now_s = self.clock.monotonic_s()
        if everything and now_s - self.synced_s >= SYNC_S:
            self.synced_s = now_s
            self.log.sync()
        if self.asked is None or not self.asked.done():
            return
        snapshot, barrier_at = self.asked.result()
        if subscription.number < barrier_at:
            return
        self.asked = None
        while self.marks and self.marks[0][0] <= barrier_at:
            self.marked = self.marks.popleft()[1]
        self.log.sync()
        self._write(snapshot, self.marked)
        if self.spec.guarantee == "exactly_once":
            self.log.commit(self.marked)

    def _write(self, snapshot: Snapshot, length: Length, *, done: bool = False) -> None:
        self.number += 1
        notes = {"log": [length.number, length.rows], "at_us": self.clock.now_us(), "done": done, "looks": self.looks}
        size = self.job.checkpoints.write(Checkpoint(self.number, snapshot, notes))
        positions = {str(split): at for split, at in snapshot.positions.items()}
        self.job.checkpointed = {"number": self.number, "bytes": size, "positions": positions, "rows": length.rows} | {
            "at_us": notes["at_us"]
        }

    def _end(self, running: Running, last: Ended | Failed) -> Outcome:
        """The query has ended by itself, or somebody ended it."""
        match last:
            case Failed(data):
                return Outcome("failed", str(data.get("detail")))
            case Ended("done" | "limit" | "timeout" as reason):
                self.log.sync()
                if self.spec.keeps_checkpoints:
                    self._write(Snapshot(), self.log.length, done=True)
                self.log.commit()
                return Outcome("completed", REASONS[reason])
            case Ended(reason):
                told = self.job.told or ("leave" if reason == "server stopping" else None)
                return Outcome(LEFT[told]) if told is not None else Outcome("failed", f"its query was ended: {reason}")


def looks_of(info: SourceInfo) -> Mapping[str, Any]:
    """What a source looks like now, as JSON: a job keeps to that, for what is learned may change with a restart."""
    return {
        "source": info.name,
        "open": info.shape.open,
        "fields": [[field.name, str(field.type)] for field in info.shape.fields],
        "time": [None if info.time.path is None else list(info.time.path), info.time.unit],
    }


def as_it_looked(info: SourceInfo, looks: Mapping[str, Any]) -> SourceInfo:
    path, unit = looks["time"]
    fields = tuple(Property(name, parse_type(type)) for name, type in looks["fields"])
    shape = replace(info.shape, fields=fields, open=looks["open"])
    return replace(info, shape=shape, time=TimeRule(None if path is None else tuple(path), unit))


def nothing() -> None:
    """Nobody waits."""


LEFT: Mapping[str, str] = {"stop": "stopped", "pause": "paused", "leave": "left"}
REASONS: Mapping[str, str] = {
    "done": "its input has ended",
    "limit": "it has as many rows as it asked for",
    "timeout": "its time is over",
}


def snapshot_of(running: Running) -> tuple[Snapshot, int]:
    """A snapshot, and the number of the frame behind all that was told before its barrier."""
    execution = running.execution
    assert isinstance(execution, Execution), "of a family it is cut out"
    snapshot = execution.snapshot(SNAPSHOT_S)
    place = execution.barrier_at
    assert place is not None
    return snapshot, place.number
