"""Jobs: queries that run for months. Kept in the store, told into result logs, brought back after a crash.

A job (job.py) reads its query's results into its log, run after run (job_run.py), in turn with all others (turns.py).
With a guarantee it reads the source for itself and takes a checkpoint every so often: positions, state and the log's
length as of one barrier. After a crash it goes back there.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from mql.errors import MqlError
from mql.exec.clock import Clock, SystemClock
from mql.exec.engine import Engine, Running, reads
from mql.exec.frames import Ended
from mql.planner.physical import Plan
from server.chaining import PREFIX, JobSource, check_cycle, upstreams
from server.job import Job
from server.job_spec import ALIVE, Bound, Spec, check_guarantee, check_workers
from server.keeping import Keeper
from server.outline import Outline, outline_of
from server.programs.manifest import outline_of_program, query_values
from server.programs.shelf import Shelf
from server.sinks import check_sinks
from server.store import Store
from server.templates import kept_template, values_of
from server.turns import Turns
from server.upkeep import Upkeep

log = logging.getLogger("server")

JOBS_MAX = 10_000
CHECKPOINTING = 16
"""So many checkpoints are taken at a time."""
STARTING = 32
"""So many jobs begin a run at a time: a source that does not answer keeps one that long."""
TURNING = 4
"""So many threads write what comes of all jobs."""


class Jobs:
    """All jobs of one server. Thread-safe; calls block."""

    def __init__(self, engine: Engine, keeper: Keeper, clock: Clock | None = None) -> None:
        self.engine = engine
        self.keeper = keeper
        self.clock = clock or SystemClock()
        self.silences = keeper.silences(self.clock)
        self.shelf = Shelf(keeper.data_dir / "artifacts")
        self.checkpointing = ThreadPoolExecutor(CHECKPOINTING, "mql-checkpoint")
        self.starting = ThreadPoolExecutor(STARTING, "mql-job-start")
        self.turns = Turns(TURNING, "mql-jobs")
        self._jobs: dict[str, Job] = {}
        self._guard = threading.RLock()
        self._closed = False
        self.upkeep = Upkeep(self)

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
            source = JobSource(job.name, job.outline, job.log, job.standing, job.say)
            self.engine.add_source(source)
        except Exception as error:  # its own rows are told none the less
            job.say("error", f"its results cannot be read by other queries: {error}")

    def close(self) -> None:
        """Every job takes a last checkpoint and leaves; their states stay as they are, for the next server."""
        with self._guard:
            self._closed = True
            jobs = tuple(self._jobs.values())
        self.upkeep.close()
        for job in jobs:
            job.tell("leave")
        for job in jobs:
            job.join()
        for job in jobs:  # all at once: some sinks may have to wait for the network
            job.ask_sinks_to_close()
        for job in jobs:
            job.end_sinks()
            job.log.close()
            job.dead.close()
        for pool in (self.checkpointing, self.starting):
            pool.shutdown(wait=False, cancel_futures=True)

    # --- what may be done ------------------------------------------------------------------------------

    def create(self, name: str, spec: Spec, *, start: bool = True, adopted: Running | None = None) -> Job:
        """A new job. MqlError where its query is wrong, its guarantee cannot be held, or its name is taken."""
        with self._guard:
            if self._closed:
                raise MqlError("the server is stopping", code="stopping")
            if len(self._jobs) >= JOBS_MAX:
                raise MqlError(f"there are {JOBS_MAX:,} jobs already", hint="Delete one.", code="too-many-queries")
            spec = self.of_version(spec)
            outline = self.allowed(name, spec)
            stored = self.store.add_job(name, spec.model_dump(mode="json"), "starting" if start else "stopped")
            shutil.rmtree(self.directory(name), ignore_errors=True)
            outline.write(self.directory(name))
            job = self._jobs[name] = Job(self, stored)
            self._offer(job)
        job.open_sinks()
        if start:
            job.begin(adopted)
        return job

    def of_version(self, spec: Spec) -> Spec:
        """The same, of a version of its template that there is to be had: jobs outlive their templates."""
        if spec.template is None:
            return spec
        kept = self.store.template(spec.template, spec.version)
        if kept is None:
            raise unknown_template(spec)
        return spec.model_copy(update={"version": kept.version})

    def allowed(self, name: str, spec: Spec) -> Outline:
        """The outline of a job of this name that is asked for so; MqlError where it cannot be."""
        bound = self.bound(spec)
        plan = self.engine.plan(bound.query, bound.values)
        check_workers(spec.workers, self.engine)
        check_guarantee(spec, self.engine, plan)
        outline = self.outline(spec, plan)
        check_sinks(spec.sinks, outline, self.keeper.settings, self.engine)
        with self._guard:
            check_cycle(name, outline, {job.name: job.outline for job in self._jobs.values() if upstreams(outline)})
        return outline

    def offer_anew(self, job: Job) -> None:
        """Its results have other columns from now on."""
        with suppress(MqlError):
            self.engine.drop_source(PREFIX + job.name)
        self._offer(job)

    def job(self, name: str) -> Job:
        with self._guard:
            if name not in self._jobs:
                raise unknown_job(name)
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
        job.end_sinks("the job was deleted")
        job.log.finish(Ended("deleted"))
        job.log.close()
        job.dead.close()
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

    def outline(self, spec: Spec, plan: Plan) -> Outline:
        if spec.artifact is None:
            return outline_of(plan, self.engine.catalog())
        return outline_of_program(self.shelf.get(spec.artifact, spec.artifact_version).read().program, plan)

    def directory(self, name: str) -> Path:
        return self.keeper.data_dir / "jobs" / name

    def bound(self, spec: Spec) -> Bound:
        """The query and its values, of the template or the artifact where there is one."""
        if spec.artifact is not None:
            program = self.shelf.get(spec.artifact, spec.artifact_version).read().program
            return Bound(program.query, query_values(program, spec.params))
        if spec.template is None:
            assert spec.query is not None
            return Bound(spec.query, spec.params)
        kept = self.store.template_of_job(spec.template, spec.version)
        if kept is None:
            raise unknown_template(spec)
        template = kept_template(kept.text)
        return Bound(template.query, values_of(template, spec.params))


def unknown_template(spec: Spec) -> MqlError:
    which = "" if spec.version is None else f" with version {spec.version}"
    hint = "GET /v1/templates lists them."
    return MqlError(f'no template "{spec.template}"{which}', hint=hint, code="unknown-template")


def unknown_job(name: str) -> MqlError:
    return MqlError(f'no job "{name[:80]}"', hint="GET /v1/jobs lists them.", code="unknown-job")


JOBS: web.AppKey[Jobs] = web.AppKey("jobs")
