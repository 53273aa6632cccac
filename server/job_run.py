"""One run of a job: results into its log, checkpoints in between, from where the last run left to its end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from mql.errors import MqlError
from mql.exec.checkpoint import Checkpoint
from mql.exec.deadletters import Marks
from mql.exec.engine import Options, Running, Subscription
from mql.exec.family import Member
from mql.exec.frames import Ended, Failed, Frame, Gap, Phase, RowsFrame, Seal, Warn
from mql.exec.results import cursor_of
from mql.exec.running import Execution
from mql.exec.state import Snapshot
from server.books import without_state
from server.carrying import asked_of, known_by, taken_over
from server.job_spec import Bound, has_episodes, scale_of
from server.looks import ends_of, looks_of
from server.resultlog import Length
from server.turns import Waits

if TYPE_CHECKING:
    from server.job import Job

T = TypeVar("T")
log = logging.getLogger("server")

LOOK_S = 0.5
LOOKS_PER_S = 100.0
"""So often do jobs look together, without anything that wakes them: where there are very many, less often each."""
LOOK_LEAST_S = 0.01
AWAY_S = 2.0
SYNC_S = 1.0
SNAPSHOT_S = 20.0
LEAVE_S = 10.0
FOREVER_S = float("inf")
BOOKS_S = 10.0
TOGETHER_S = 0.05
TOGETHER_SHARE = 10
"""Who shares a plan waits a tenth of the time between checkpoints for the others."""
FIRST_S = 2.0
"""The first checkpoint comes so soon, however many share the plan: where a job began, nobody else did."""
CHECKPOINTS_PER_S = 50.0
"""So many are written each second of jobs that share a plan."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `kind`: stopped, paused, completed, failed, left (it goes on with the next server), changed (it
    goes on at once, as something else).

    `is_final`: it is not tried again.
    """

    kind: str
    reason: str | None = None
    is_final: bool = False


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
        self.rests_until_s = 0.0
        self.kept_s = 0.0
        self.aside: Marks = {}
        """Which events that were set aside are dead letters already."""

    def go(self) -> Waits[Outcome]:
        job = self.job
        if not self.spec.keeps_checkpoints:
            self._begin_anew()
            running = self.adopted or (yield from self._elsewhere(self._start))
            self.aside = {} if len(running.execution.askers) == 1 else running.marks()
            for note in running.execution.plan.warnings:
                job.say("info", note)
            return (yield from self._read(running, None))
        last = job.checkpoints.newest()
        self._go_back(last)
        if last is not None and last.notes.get("done"):
            return Outcome("completed", "its input has ended")
        self.number = 0 if last is None else last.number
        found = yield from self._resumed(last)
        if found is None:
            return Outcome(LEFT[job.told or "stop"], job.why)
        running, snapshot = found
        if last is not None and (self._is_anew(last) or last.notes.get("asked") != asked_of(self.spec)):
            yield from self._write(snapshot, self.log.length)
        return (yield from self._read(running, job.jobs.checkpointing, snapshot if last is None else None))

    def _resumed(self, last: Checkpoint | None) -> Waits[tuple[Running, Snapshot] | None]:
        """The query, once its sources say where it is to begin; None where it is told to leave before."""
        job = self.job
        while job.told is None:
            try:
                found = yield from self._elsewhere(lambda: self._resume(last))
            except ConnectionError as away:
                job.wait_for(str(away))
                yield AWAY_S
                continue
            job.wait_for(None)
            return found
        return None

    def _elsewhere(self, work: Callable[[], T]) -> Waits[T]:
        """Done by another thread: it may take its time, for sources are asked where they end."""
        done = self.job.jobs.starting.submit(work)
        done.add_done_callback(lambda _: self.job.ring())
        while not done.done():
            yield LOOK_S
        return done.result()

    def _options(self) -> Options:
        name = f"job {self.job.name}"
        return Options(name=name, linger_s=FOREVER_S, workers=self.spec.workers, priority=self.spec.priority)

    def _start(self) -> Running:
        bound = self.job.jobs.bound(self.spec)
        return self.job.jobs.engine.start(bound.query, bound.values, self._options())

    def _resume(self, last: Checkpoint | None) -> tuple[Running, Snapshot]:
        """The query, from its last checkpoint or from where it is to begin; and what it knew there."""
        job, spec = self.job, self.spec
        bound = job.jobs.bound(spec)
        snapshot = self._beginning(bound) if last is None else self._going_on(bound, last)
        assert self.looks is not None
        engine = job.jobs.engine
        known = known_by(job.jobs, self.looks)
        # What counts from now (WARMUP FROM HISTORY) goes on counting from when the job first began, and the threshold
        # that was picked then (ALERT BUDGET) stays.
        running = engine.resume(
            snapshot,
            bound.query,
            bound.values,
            self._options(),
            wait_for_readers=True,
            known=known,
            now_us=self.looks.get("began_us"),
            scale=self.looks.get("scale"),
            together=spec.template is not None,
            from_now=last is None,
        )
        return running, snapshot

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
        self.job.dead.go_back({} if last is None else last.notes.get("dead"))
        self.job.books.go_back({} if last is None else last.notes.get("ledger", {}))

    def _going_on(self, bound: Bound, last: Checkpoint) -> Snapshot:
        """What it knew at its last checkpoint, for what is asked of it now."""
        anew = self.spec.anew
        if anew is not None and self._is_anew(last):
            self.job.say("info", f"begins without what it knew, reading from: {anew.begin}")
            self.job.books.discard()
            return self._beginning(bound, anew.begin, last.snapshot)
        snapshot, self.looks = taken_over(self.job.jobs, last, self.spec)
        return snapshot

    def _is_anew(self, last: Checkpoint) -> bool:
        """It was asked to begin without what it knew, and has not yet."""
        return self.spec.anew is not None and last.number <= self.spec.anew.after

    def _beginning(self, bound: Bound, begin: str | None = None, last: Snapshot | None = None) -> Snapshot:
        """Where a job begins that knows nothing. `begin`: now, earliest, or where the `last` checkpoint stands; where
        left out, as its query says."""
        engine = self.job.jobs.engine
        plan = engine.plan(bound.query, bound.values)
        sources = [engine.source(scan.source) for scan in plan.scans]
        begin = begin or ("now" if plan.scan.since.kind == "live" else "earliest")
        snapshot = Snapshot(positions=ends_of(sources) if begin == "now" else {})
        if begin == "checkpoint":
            assert last is not None
            snapshot = replace(last, tasks={})
        infos = {source.info.name: source.info for source in sources}
        looks = [looks_of(info) for info in infos.values()]
        self.looks = {"sources": looks, "began_us": self.clock.now_us(), "scale": scale_of(plan)}
        for note in plan.warnings:
            self.job.say("info", note)
        return snapshot

    # --- reading ---------------------------------------------------------------------------------------

    def _begun(self, running: Running, asked_for: Snapshot) -> Waits[None]:
        """Its first checkpoint: it is to begin there again. Who joins siblings that read already begins where they
        are, which may be behind what was asked for."""
        execution, snapshot = running.execution, asked_for
        if isinstance(execution, Member):
            execution.on_in = self.job.ring
            while not execution.is_in:
                if execution.over or self.job.told is not None:
                    return
                yield LOOK_S
            snapshot = replace(asked_for, positions={**asked_for.positions, **execution.positions})
        yield from self._write(snapshot, self.log.length)

    def _read(
        self, running: Running, pool: ThreadPoolExecutor | None, begins_at: Snapshot | None = None
    ) -> Waits[Outcome]:
        """Results into the log, checkpoints in between, until the query ends or somebody tells to."""
        job = self.job
        subscription = running.subscribe(on_lag="drop", progress=False)
        job.books.begin(running.execution.carried)
        job.running = running
        subscription.on_ready(job.ring)
        self.has_episodes = has_episodes(running.execution.plan)
        leaving_s: float | None = None
        try:
            if begins_at is not None:
                yield from self._begun(running, begins_at)
            job.runs()
            first_s = min(self._pace_s(running), max(FIRST_S, self.spec.checkpoint_every))
            self.due_s = self._next_due_s(running, first_s)
            while True:
                rests_s = self.rests_until_s - self.clock.monotonic_s()
                frames = subscription.take() if rests_s <= 0 or job.told is not None else ()
                ended = yield from self._put(frames)
                if job.fault is not None and job.told is None:
                    return Outcome("failed", job.fault)
                if isinstance(ended, Failed):
                    return (yield from self._end(running, ended))
                self._keep_books(running)
                yield from self._settle(running, subscription, pool is None)
                if ended is not None:
                    return (yield from self._end(running, ended))
                now_s = self.clock.monotonic_s()
                if job.told is not None and leaving_s is None:
                    leaving_s, self.due_s = now_s, now_s
                waits = pool is not None and self.asked is None and now_s >= self.due_s
                if waits and pool is not None:
                    self.asked = self._ask(running, pool, leaving_s is not None)
                    self.asked.add_done_callback(lambda _: job.ring())
                    self.due_s = (
                        FOREVER_S if leaving_s is not None else self._next_due_s(running, self._pace_s(running))
                    )
                is_done = pool is None or (self.asked is None and self.due_s == FOREVER_S)
                if leaving_s is not None and (is_done or now_s - leaving_s > LEAVE_S / 2):
                    return Outcome(LEFT[job.told or "stop"], job.why)
                if rests_s > 0 and job.told is None:
                    yield min(LOOK_S, rests_s)
                elif not frames:
                    look_s = max(LOOK_S, running.execution.sharing / LOOKS_PER_S)
                    yield max(LOOK_LEAST_S, min(look_s, self.due_s - now_s))
        except GivenUp:
            return Outcome(LEFT[job.told or "stop"], job.why)
        except OverLimit as over:
            return Outcome("failed", over.message, is_final=True)
        finally:
            self._keep_books(running, at_end=True)
            if pool is None:
                self._bury_last(running)
            subscription.close()
            running.cancel("stopped")
            with suppress(OSError):  # whoever goes on from a checkpoint has synced what is before it
                self.log.sync()

    def _ask(self, running: Running, pool: ThreadPoolExecutor, at_once: bool) -> Future[tuple[Snapshot, int]]:
        """A snapshot. Where jobs share a plan, one barrier is for all that ask at about the same time."""
        execution = running.execution
        if isinstance(execution, Member):
            return execution.ask(TOGETHER_S if at_once else self._pace_s(running) / TOGETHER_SHARE)
        return pool.submit(snapshot_of, running)

    def _pace_s(self, running: Running) -> float:
        """How long to the next checkpoint: where very many share a plan, they take turns."""
        return max(self.spec.checkpoint_every, running.execution.sharing / CHECKPOINTS_PER_S)

    def _next_due_s(self, running: Running, pace_s: float) -> float:
        """When the next checkpoint is. Jobs that share a plan take theirs at the same moments: what stands at one
        barrier goes on together after a crash."""
        now_s = self.clock.monotonic_s()
        if isinstance(running.execution, Member):
            return (now_s // pace_s + 1) * pace_s
        return now_s + pace_s

    def _put(self, frames: Sequence[Frame]) -> Waits[Ended | Failed | None]:
        """Frames into the log; gives the last one. A gap breaks the promise of a job with a guarantee."""
        for frame in frames:
            match frame:
                case RowsFrame(table, cursor):
                    length = yield from self._appended(self._silenced(table))
                    self._mark(cursor, length)
                    self._count(table.num_rows)
                case Seal(data, cursor):
                    length = yield from self._noted("seal", data)
                    self._mark(cursor, length)
                case Gap(data) if self.spec.keeps_checkpoints:
                    raise MqlError(f"results were lost on the way to the log: {data.get('why')}", code="lost-results")
                case Gap(data):
                    yield from self._noted("gap", data)
                case Warn(data):
                    yield from self._noted("warn", data)
                case Phase(data):
                    yield from self._noted("phase", data)
                case Ended() | Failed():
                    return frame
                case _:
                    pass
        return None

    def _appended(self, rows: pa.Table) -> Waits[Length]:
        return self._stored(lambda: self.log.append(rows))

    def _noted(self, event: str, data: Mapping[str, Any]) -> Waits[Length]:
        return self._stored(lambda: self.log.note(event, data))

    def _stored(self, work: Callable[[], T]) -> Waits[T]:
        """What goes to disk. Where that is full or away the job waits, says why, and goes on by itself."""
        job = self.job
        while True:
            try:
                result = work()
            except OSError as error:
                if job.told is not None:
                    raise GivenUp from error
                job.wait_for(f"it cannot write: {error.strerror or error}")
                yield LOOK_S
                continue
            job.wait_for(None)
            return result

    def _count(self, rows: int) -> None:
        """Slows down where it may tell only so many rows a second."""
        most = self.job.spec.limits.rows_per_s
        if most is not None:
            self.rests_until_s = max(self.rests_until_s, self.clock.monotonic_s()) + rows / most

    def _keep_books(self, running: Running, *, at_end: bool = False) -> None:
        """What became of events, and the late ones, are kept for those who ask later."""
        now_s = self.clock.monotonic_s()
        if at_end or now_s - self.kept_s >= max(BOOKS_S, running.execution.sharing / CHECKPOINTS_PER_S):
            self.kept_s = now_s
            self.job.books.keep(running.ledger(), running.late, at_end=at_end)

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

    def _settle(self, running: Running, subscription: Subscription, everything: bool) -> Waits[None]:
        """Lets readers see what they may; writes the checkpoint once all that was told before it is in the log."""
        if self.spec.guarantee != "exactly_once" and self.log.committed != self.log.length:
            self.log.commit()
        now_s = self.clock.monotonic_s()
        if everything and now_s - self.synced_s >= SYNC_S:
            self.synced_s = now_s
            yield from self._stored(self.log.sync)
            yield from self._bury(running, running.marks())
            self.job.dead.commit()
        if self.asked is None or not self.asked.done():
            return
        snapshot, barrier_at = self.asked.result()
        if subscription.number < barrier_at:
            return
        self.asked = None
        while self.marks and self.marks[0][0] <= barrier_at:
            self.marked = self.marks.popleft()[1]
        self._check_size(snapshot)
        yield from self._stored(self.log.sync)
        yield from self._bury(running, snapshot.marks)
        yield from self._write(snapshot, self.marked, self.job.books.as_of(snapshot.ledger))
        self.job.dead.commit()
        if self.spec.guarantee == "exactly_once":
            self.log.commit(self.marked)

    def _bury(self, running: Running, until: Marks) -> Waits[None]:
        """What was set aside until then becomes dead letters, which nobody sees before they are committed."""
        dead = self.job.dead
        for one in running.aside(self.aside, until):
            yield from self._stored(partial(dead.unreadable.keep_unreadable, one))
            yield from self._stored(partial(dead.late.keep_late, one))
        self.aside = {**self.aside, **until}

    def _bury_last(self, running: Running) -> None:
        """As a run without checkpoints ends: on a disk that is full these are lost, like all of its last second."""
        dead = self.job.dead
        with suppress(OSError):
            for one in running.aside(self.aside, running.marks()):
                dead.unreadable.keep_unreadable(one)
                dead.late.keep_late(one)
        dead.commit()

    def _check_size(self, snapshot: Snapshot) -> None:
        most = self.job.spec.limits.entries
        entries = entries_of(snapshot)
        if most is not None and entries > most:
            raise OverLimit(f"its state has {entries:,} panes and keys; {most:,} are allowed")

    def _write(
        self, snapshot: Snapshot, length: Length, ledger: Mapping[str, int] | None = None, *, done: bool = False
    ) -> Waits[None]:
        """A checkpoint. `ledger`: all that became of events; None where that is as at the one before."""
        books = self.job.books
        ledger = books.checkpointed if ledger is None else ledger
        self.number += 1
        notes = {
            "log": [length.number, length.rows],
            "at_us": self.clock.now_us(),
            "done": done,
            "looks": self.looks,
            "asked": asked_of(self.spec),
            "ledger": ledger,
            "dead": (yield from self._stored(self.job.dead.places)),
        }
        checkpoint = Checkpoint(self.number, snapshot, notes)
        size = yield from self._stored(lambda: self.job.checkpoints.write(checkpoint))
        books.checkpointed = ledger
        if self.job.spec.limits.state is not None and size > self.job.spec.limits.state:
            raise OverLimit(f"its state is {size:,} bytes; {self.job.spec.limits.state:,} are allowed")
        positions = {str(split): at for split, at in snapshot.positions.items()}
        self.job.checkpointed = {"number": self.number, "bytes": size, "positions": positions, "rows": length.rows} | {
            "at_us": notes["at_us"]
        }

    def _end(self, running: Running, last: Ended | Failed) -> Waits[Outcome]:
        """The query has ended by itself, or somebody ended it."""
        match last:
            case Failed(data):
                return Outcome("failed", str(data.get("detail")))
            case Ended("done" | "limit" | "timeout" as reason):
                self.log.sync()
                yield from self._bury(running, running.marks())
                if self.spec.keeps_checkpoints:
                    ledger = self.job.books.as_of(without_state(running.ledger()))
                    yield from self._write(Snapshot(), self.log.length, ledger, done=True)
                self.log.commit()
                self.job.dead.commit()
                return Outcome("completed", REASONS[reason])
            case Ended(reason):
                told = self.job.told or ("leave" if reason == "server stopping" else None)
                if told is None:
                    return Outcome("failed", f"its query was ended: {reason}")
                return Outcome(LEFT[told], self.job.why)


class GivenUp(Exception):
    """It was told to stop while it waited for its disk."""


class OverLimit(MqlError):
    """It uses more than it may."""


def entries_of(snapshot: Snapshot) -> int:
    """Panes and keys: the longest table of each operator."""
    states = [state for operators in snapshot.tasks.values() for state in operators.values()]
    return sum(max((table.num_rows for table in state.values()), default=0) for state in states)


LEFT: Mapping[str, str] = {
    "stop": "stopped",
    "pause": "paused",
    "leave": "left",
    "change": "changed",
    "complete": "completed",
}
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
