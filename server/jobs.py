"""Jobs: queries that run for months. Kept in the store, told into result logs, brought back after a crash.

A job is a thread that reads its query's results into its log. With a guarantee it reads the source for itself and takes
a checkpoint every so often: positions, state and the log's length as of one barrier. After a crash it goes back there.
docs/jobs.md has the states and what leads from one to the other; TRANSITIONS below is the same as a table.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError

from mql.catalog import SourceInfo, TimeRule
from mql.errors import MqlError
from mql.exec.checkpoint import Checkpoint, Checkpoints
from mql.exec.clock import Clock, SystemClock
from mql.exec.engine import Engine, Options, Running, Subscription, reads
from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, RowsFrame, Seal, Warn
from mql.exec.results import cursor_of
from mql.exec.running import Execution
from mql.exec.state import Snapshot
from mql.learn import parse_type
from mql.planner.physical import Anomaly, Plan
from mql.schema import Field as Property
from server.chaining import PREFIX, JobSource, check_cycle, upstreams
from server.delivery import Delivery
from server.keeping import Keeper
from server.outline import Outline, outline_of, read_outline
from server.resultlog import Keep, Length, LogReading, ResultLog
from server.settings import Bytes, Seconds
from server.silences import SILENCED
from server.sinks import AnySink, check_sinks, deliveries
from server.store import Store, StoredJob
from server.templates import SINKS_MAX, Label, ParamName, parse_template, values_of
from sources.http import HttpSource

T = TypeVar("T")
log = logging.getLogger("server")

TRANSITIONS: Mapping[str, tuple[str, ...]] = {
    "start": ("stopped", "failed"),
    "stop": ("starting", "running", "restarting", "paused"),
    "pause": ("starting", "running", "restarting"),
    "resume": ("paused",),
    "restart": ("starting", "running", "restarting", "paused", "stopped", "failed"),
}
"""From which states an action leads on. `completed` leads nowhere."""

ALIVE = ("starting", "running", "restarting")
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
STEADY_S = 300.0
"""A run that lasted so long begins the backoff anew."""
LOOK_S = 0.5
LOOK_LEAST_S = 0.01
SYNC_S = 1.0
SNAPSHOT_S = 20.0
LEAVE_S = 10.0
FOREVER_S = 1e9
JOBS_MAX = 1_000


class Spec(BaseModel):
    """A job as it was asked for. Of a template it has the name and version instead of a query."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str | None = Field(default=None, min_length=1, max_length=65_536)
    params: Mapping[str, Any] = Field(default_factory=dict)
    template: str | None = None
    version: int | None = None
    guarantee: Literal["at_most_once", "at_least_once", "exactly_once"] = "at_most_once"
    checkpoint_every: Annotated[Seconds, Field(ge=0.02, le=3_600)] = 1.0
    restart: Literal["on_failure", "never"] = "on_failure"
    attempts: int = Field(default=100, ge=0, le=1_000_000, description="restarts in a row before it has failed")
    keep_age: Seconds = 7 * 86_400.0
    keep_bytes: Bytes = 1 << 30
    sinks: tuple[AnySink, ...] = Field(default=(), max_length=SINKS_MAX)
    labels: Mapping[ParamName, Label] = Field(default_factory=dict)
    owner: str | None = Field(default=None, max_length=200)

    @property
    def keeps_checkpoints(self) -> bool:
        return self.guarantee != "at_most_once"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a job runs: a query and the values that are bound into it."""

    query: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `kind`: stopped, paused, completed, failed, left (it goes on with the next server)."""

    kind: str
    reason: str | None = None


class Jobs:
    """All jobs of one server. Thread-safe; calls block."""

    def __init__(self, engine: Engine, keeper: Keeper, clock: Clock | None = None) -> None:
        self.engine = engine
        self.keeper = keeper
        self.clock = clock or SystemClock()
        self.silences = keeper.silences(self.clock)
        self._jobs: dict[str, Job] = {}
        self._guard = threading.RLock()
        self._closed = False

    @property
    def store(self) -> Store:
        return self.keeper.open()

    def revive(self) -> None:
        """Brings back the jobs of the store, and starts those that ran when the last server stopped or crashed."""
        if not self.keeper.has_something:
            return
        brought: list[Job] = []
        for stored in self.store.jobs():
            with self._guard:
                if stored.name in self._jobs or self._closed:
                    continue
                try:
                    job = self._jobs[stored.name] = Job(self, stored)
                except Exception as error:  # one that cannot be read must not keep the others from running
                    log.exception("job %s cannot be brought back", stored.name)
                    self.store.log(stored.name, "error", f"cannot be brought back: {error}")
                    continue
                self._offer(job)
                brought.append(job)
            self.store.end_open_runs(stored.name, "the server stopped or crashed")
        for job in brought:  # all of them are there to be read before the first begins to read
            job.open_sinks()
            if job.state in ALIVE:
                job.begin()

    def _offer(self, job: Job) -> None:
        """Its results are a source from now on."""
        try:
            source = JobSource(job.name, job.outline, job.log, job.standing)
            self.engine.add_source(source)
        except Exception as error:  # its own rows are told none the less
            job.say("error", f"its results cannot be read by other queries: {error}")

    def close(self) -> None:
        """Every job takes a last checkpoint and leaves; their states stay as they are, for the next server."""
        with self._guard:
            self._closed = True
            jobs = tuple(self._jobs.values())
        for job in jobs:
            job.tell("leave")
        for job in jobs:
            job.join()
            job.close_sinks()
            job.log.close()

    # --- what may be done ------------------------------------------------------------------------------

    def create(self, name: str, spec: Spec, *, start: bool = True, adopted: Running | None = None) -> Job:
        """A new job. MqlError where its query is wrong, its guarantee cannot be held, or its name is taken."""
        with self._guard:
            if self._closed:
                raise MqlError("the server is stopping", code="stopping")
            if len(self._jobs) >= JOBS_MAX:
                raise MqlError(f"there are {JOBS_MAX} jobs already", hint="Delete one.", code="too-many-queries")
            bound = self.bound(spec)
            plan = self.engine.plan(bound.query, bound.values)
            check_guarantee(spec, self.engine, plan)
            outline = outline_of(plan, self.engine.catalog())
            check_sinks(spec.sinks, outline, self.keeper.settings, self.engine)
            check_cycle(name, outline, {job.name: job.outline for job in self._jobs.values() if upstreams(outline)})
            stored = self.store.add_job(name, spec.model_dump(mode="json"), "starting" if start else "stopped")
            shutil.rmtree(self.directory(name), ignore_errors=True)
            outline.write(self.directory(name))
            job = self._jobs[name] = Job(self, stored)
            self._offer(job)
        job.open_sinks()
        if start:
            job.begin(adopted)
        return job

    def job(self, name: str) -> Job:
        with self._guard:
            if name not in self._jobs:
                raise MqlError(f'no job "{name[:80]}"', hint="GET /v1/jobs lists them.", code="unknown-job")
            return self._jobs[name]

    def all(self) -> Sequence[Job]:
        with self._guard:
            return tuple(self._jobs[name] for name in sorted(self._jobs))

    def delete(self, name: str) -> None:
        """Stops it and takes it away with its results. Who reads them fails, and says why."""
        job = self.job(name)
        job.halt("stop")
        with self._guard:
            self._jobs.pop(name, None)
        self._withdraw(name)
        self.store.delete_job(name)
        job.close_sinks()
        job.log.finish(Ended("deleted"))
        job.log.close()
        shutil.rmtree(self.directory(name), ignore_errors=True)

    def _withdraw(self, name: str) -> None:
        source = PREFIX + name
        gone = MqlError(f'job "{name}", whose results it reads, was deleted', code="upstream-deleted")
        for asker in self.engine.queries():
            if reads(asker, source):
                asker.execution.fail(gone)
        with suppress(MqlError):  # one that begins to read in this moment fails when it is next looked at
            self.engine.drop_source(source)

    def missing(self, job: Job) -> str | None:
        """The job that this one reads and that is not there any more."""
        with self._guard:
            return next((name for name in upstreams(job.outline) if name not in self._jobs), None)

    def directory(self, name: str) -> Path:
        return self.keeper.data_dir / "jobs" / name

    def bound(self, spec: Spec) -> Bound:
        """The query and its values, of the template where there is one."""
        if spec.template is None:
            assert spec.query is not None
            return Bound(spec.query, spec.params)
        kept = self.store.template(spec.template, spec.version)
        if kept is None:
            hint = "GET /v1/templates lists them."
            raise MqlError(f'no template "{spec.template}"', hint=hint, code="unknown-template")
        template = parse_template(kept.text)
        return Bound(template.query, values_of(template, spec.params))


def check_guarantee(spec: Spec, engine: Engine, plan: Plan) -> None:
    """A guarantee needs a source that can be read again from where a checkpoint stands."""
    if plan.explain is not None:
        raise MqlError("EXPLAIN is no job", hint="Ask it as a query.")
    if not spec.keeps_checkpoints:
        return
    if len(plan.scans) > 1:
        hint = "Ask for at_most_once, or make a job of each source."
        raise MqlError("a job over several sources keeps no checkpoints yet", hint=hint, code="no-guarantee")
    source = engine.source(plan.scan.source)
    info = source.info
    if info.bounded:
        hint = "Ask for at_most_once: it is read from its beginning each time."
        raise MqlError(f'source "{info.name}" ends by itself', hint=hint, code="no-guarantee")
    if not info.history or (isinstance(source, HttpSource) and source.archive is None):
        hint = "Declare it with record: true, or ask for at_most_once."
        raise MqlError(f'source "{info.name}" keeps nothing to go back to', hint=hint, code="no-guarantee")
    if not info.shape.fields:
        hint = "Declare its shape, or begin when its first events are there."
        raise MqlError(f'nobody knows what events of "{info.name}" look like yet', hint=hint, code="no-guarantee")
    if plan.scan.until.kind != "live" or not (plan.scan.since.kind in ("live", "earliest") or is_warmed(plan)):
        hint = "Say SINCE EARLIEST or leave SINCE and UNTIL out, or ask for at_most_once."
        raise MqlError(f"a job that is {spec.guarantee} begins now or with the earliest event", hint=hint)


# --- one job -------------------------------------------------------------------------------------------------


class Job:
    """One job and its log. Its thread is there while it runs, or waits to run again."""

    def __init__(self, jobs: Jobs, stored: StoredJob) -> None:
        self.jobs = jobs
        self.name = stored.name
        self.spec = Spec.model_validate(stored.spec)
        self.created_us = stored.created_us
        self.state = stored.state
        self.reason = stored.reason
        self.running: Running | None = None
        self.attempts = 0
        home = jobs.directory(stored.name)
        keep = Keep(age_s=self.spec.keep_age, bytes=self.spec.keep_bytes)
        self.log = ResultLog(home / "results", keep, jobs.clock)
        self.checkpoints = Checkpoints(home / "checkpoints")
        self.checkpointed: Mapping[str, Any] | None = None
        if self.spec.guarantee == "exactly_once":
            last = self.checkpoints.newest()
            self.log.commit(Length(*last.notes["log"]) if last is not None else Length())
        self.ring: Callable[[], None] = nothing
        self.sinks: tuple[Delivery, ...] = ()
        self._told: str | None = None
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._guard = threading.RLock()

    # --- what may be done ------------------------------------------------------------------------------

    def act(self, action: str) -> None:
        """start, stop, pause, resume or restart; MqlError where its state does not allow that."""
        with self._guard:
            if self.state not in TRANSITIONS[action]:
                allowed = [name for name, states in TRANSITIONS.items() if self.state in states]
                hint = f"It can {' or '.join(allowed)}." if allowed else "Delete it, or make another."
                raise MqlError(f'job "{self.name}" is {self.state}: it cannot {action}', hint=hint, code="wrong-state")
            self.jobs.store.acted(self.name, action)
            match action:
                case "start" | "resume":
                    self.begin()
                case "restart":
                    self.halt("stop")
                    self.begin()
                case _:
                    self.halt(action)

    def begin(self, adopted: Running | None = None) -> None:
        with self._guard:
            if self._thread is not None and self._thread.is_alive():
                raise MqlError(
                    f'job "{self.name}" has not stopped yet', hint="Try again in a moment.", code="wrong-state"
                )
            self._told = None
            self._bell.clear()
            self.attempts = 0
            self._set("starting", None)
            name = f"mql-job-{self.name}"
            self._thread = threading.Thread(target=self._live, args=(adopted,), name=name, daemon=True)
            self._thread.start()

    def halt(self, how: str) -> None:
        """Stops or pauses it, and waits until it has."""
        with self._guard:
            self.tell(how)
            self.join()
            if self.state not in ("completed", "failed"):
                self._set("paused" if how == "pause" else "stopped", None)

    def tell(self, what: str) -> None:
        self._told = what
        self._bell.set()
        self.ring()

    def join(self) -> None:
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(LEAVE_S)

    def change(self, changes: Mapping[str, Any]) -> None:
        """New labels, owner, restart policy or retention: at once, without a restart."""
        with self._guard:
            self.spec = Spec.model_validate({**self.spec.model_dump(), **changes})
            self.log.keep = Keep(age_s=self.spec.keep_age, bytes=self.spec.keep_bytes)
            self.jobs.store.change_job(self.name, self.spec.model_dump(mode="json"))

    def meta(self) -> Meta:
        """What a reader of its results is told first."""
        columns = self.columns()
        return Meta(
            {
                "id": self.name,
                "schema": [{"name": name, "type": type} for name, type in columns],
                "guarantee": self.spec.guarantee,
                "state": self.state,
            }
        )

    def columns(self) -> Sequence[tuple[str, str]]:
        running = self.running
        if running is not None:
            plan = running.execution.plan
        else:
            bound = self.jobs.bound(self.spec)
            plan = self.jobs.engine.plan(bound.query, bound.values)
        own = [(name, str(type)) for name, type in plan.result.columns]
        return [*own, (SILENCED, "VARCHAR")] if has_episodes(plan) else own

    def read(self, cursor: str | None, *, live: bool) -> LogReading:
        reading = self.log.reading(self.meta(), cursor, live=live)
        if self.state not in ALIVE:
            reading.end(Ended(self.state, {"detail": self.reason}))
        return reading

    def open_sinks(self) -> None:
        """They go on sending while the job stands still, until it is deleted or the server stops."""
        if not self.spec.sinks:
            return
        jobs = self.jobs
        home = jobs.directory(self.name) / "sinks"
        try:
            found = deliveries(
                self.spec.sinks,
                self.name,
                self.log,
                home,
                self.outline,
                jobs.engine,
                jobs.keeper.settings,
                jobs.clock,
                self.say,
                lambda rows: jobs.silences.marked(self.name, self.spec.labels, rows),
            )
            self.sinks = tuple(found)
        except MqlError as error:  # what was allowed when it was made may not be any more: the job goes on without
            self.say("error", f"its sinks cannot be opened: {error.message}")
        for sink in self.sinks:
            sink.start()

    @cached_property
    def outline(self) -> Outline:
        """What is known of its results; told anew only where that was never written down."""
        jobs = self.jobs
        found = read_outline(jobs.directory(self.name))
        if found is None:
            bound = jobs.bound(self.spec)
            found = outline_of(jobs.engine.plan(bound.query, bound.values), jobs.engine.catalog())
            found.write(jobs.directory(self.name))
        return found

    def standing(self) -> str | None:
        """Why no rows come of it, for those who read them."""
        return None if self.state in ("starting", "running") else f"job {self.name} is {self.state}"

    def close_sinks(self) -> None:
        for sink in self.sinks:
            sink.close()

    # --- its life --------------------------------------------------------------------------------------

    def _live(self, adopted: Running | None) -> None:
        """Runs, and runs again after failures, until it is told to stop or there is nothing more to do."""
        while True:
            began_s = self.jobs.clock.monotonic_s()
            number = self._noted(lambda: self.jobs.store.begin_run(self.name))
            outcome = self._run(adopted)
            adopted = None
            if number is not None:
                self._end_run(number, outcome)
            if outcome.kind == "left":
                return
            if outcome.kind != "failed":
                self._say("info", outcome.kind + (f": {outcome.reason}" if outcome.reason else ""))
            if outcome.kind == "completed":
                self._set("completed", outcome.reason)
            if outcome.kind in ("stopped", "paused", "completed"):
                self.log.finish(Ended(outcome.kind))
                return
            if self.jobs.clock.monotonic_s() - began_s > STEADY_S:
                self.attempts = 0
            if not self._waits_to_run_again(outcome):
                return

    def _waits_to_run_again(self, outcome: Outcome) -> bool:
        """Whether it does, after a failure; when it does, the backoff is over."""
        self._say("error", f"failed: {outcome.reason}")
        gone = self.jobs.missing(self)
        if gone is not None:
            outcome = Outcome("failed", f'job "{gone}", whose results it reads, was deleted')
        if gone is not None or self.spec.restart == "never" or self.attempts >= self.spec.attempts:
            self._set("failed", outcome.reason)
            self.log.finish(Failed({"code": "job-failed", "detail": outcome.reason, "hint": None, "retryable": False}))
            return False
        wait_s = BACKOFF_S[min(self.attempts, len(BACKOFF_S) - 1)]
        self.attempts += 1
        self._set("restarting", outcome.reason)
        self._say("info", f"runs again in {wait_s:g} s (attempt {self.attempts})")
        self._bell.wait(wait_s)
        if self._told is not None:
            if self._told != "leave":
                self.log.finish(Ended("paused" if self._told == "pause" else "stopped"))
            return False
        return True

    def _run(self, adopted: Running | None) -> Outcome:
        """One run, from its start to its end, whatever that is."""
        try:
            return Run(self, adopted).go()
        except MqlError as error:
            return Outcome("failed", error.message + (f". {error.hint}" if error.hint else ""))
        except Exception as error:
            log.exception("job %s", self.name)
            return Outcome("failed", f"{type(error).__name__}: {error}")
        finally:
            self.running = None

    def runs(self) -> None:
        self._set("running", None)

    @property
    def told(self) -> str | None:
        return self._told

    def _end_run(self, number: int, outcome: Outcome) -> None:
        self._noted(lambda: self.jobs.store.end_run(number, outcome.kind, outcome.reason))

    def _say(self, level: str, text: str) -> None:
        self._noted(lambda: self.jobs.store.log(self.name, level, text))

    def _noted(self, note: Callable[[], T]) -> T | None:
        """A store that is away for a while does not end a job; what it would have noted is in the server's log."""
        try:
            return note()
        except SQLAlchemyError as error:
            log.warning("job %s: the store is away: %s", self.name, error)
            return None

    def say(self, level: str, text: str) -> None:
        self._say(level, text)

    def _set(self, state: str, reason: str | None) -> None:
        self.state, self.reason = state, reason
        self._noted(lambda: self.jobs.store.set_state(self.name, state, reason))


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
        )
        with ThreadPoolExecutor(1, f"mql-checkpoint-{job.name}") as pool:
            return self._read(running, pool)

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
        self.due_s = self.clock.monotonic_s() + self.spec.checkpoint_every
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
                    self.asked = pool.submit(snapshot_of, running)
                    self.asked.add_done_callback(lambda _: subscription.ring())
                    self.due_s = FOREVER_S if leaving_s is not None else now_s + self.spec.checkpoint_every
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


def has_episodes(plan: Plan) -> bool:
    """Whether a detector is among its operators; a name that the query uses itself stays the query's."""
    names = {name for name, _ in plan.result.columns}
    specs = (spec for stage in plan.stages for spec in stage.operators)
    return SILENCED not in names and any(isinstance(spec, Anomaly) for spec in specs)


def is_warmed(plan: Plan) -> bool:
    """Whether it begins now, after its detector has learned from history."""
    specs = (spec for stage in plan.stages for spec in stage.operators if isinstance(spec, Anomaly))
    return any(spec.told_after_us is not None for spec in specs)


def scale_of(plan: Plan) -> float | None:
    """What its ALERT BUDGET picked; None where it has none."""
    specs = (spec for stage in plan.stages for spec in stage.operators if isinstance(spec, Anomaly))
    return next((spec.scale for spec in specs if spec.budget is not None), None)


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
    assert isinstance(execution, Execution), "what keeps checkpoints reads for itself"
    snapshot = execution.snapshot(SNAPSHOT_S)
    place = execution.barrier_at
    assert place is not None
    return snapshot, place.number


JOBS: web.AppKey[Jobs] = web.AppKey("jobs")
