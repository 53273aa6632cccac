"""What is done for jobs as time passes: runs by the clock, as many of a kind as are wanted, ends, and who is silent.

One thread looks after all jobs, about once a second. `look` does all of it once; the clock is told, so that a test can
move it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from mql.errors import MqlError
from server.job import BACKOFF_S, Job
from server.job_spec import ALIVE, Spec
from server.templates import Template, kept_template

if TYPE_CHECKING:
    from server.jobs import Jobs

log = logging.getLogger("server")

LOOK_S = 1.0
CLAIMS_S = 5.0
TEMPLATES_S = 5.0
STEADY_S = 300.0
MINUTE_S = 60.0
EXPIRE_S = 60.0
"""How often dead letters that are too old are let go of."""


@dataclass(slots=True)
class Watch:
    """What is known of one job since it was first looked at. Moments are of the clock that never goes back."""

    fired_us: int
    began_s: float | None = None
    read_s: float | None = None
    counted: dict[str, int] = field(default_factory=dict)
    heard_s: dict[str, float] = field(default_factory=dict)
    expires_s: float = 0.0
    minute: tuple[float, int, int] | None = None
    """When the minute began, and how many events there had been, and how many of them unreadable."""
    too_many: tuple[str, ...] = ()

    def unreadable(self, now_s: float, events: int, malformed: int, most: float) -> tuple[str, ...]:
        """What is to be said of the last whole minute, where too much of it could not be read."""
        began_s, events_before, malformed_before = self.minute or (now_s, events, malformed)
        if self.minute is None or events < events_before:
            self.minute = (now_s, events, malformed)
        elif now_s - began_s >= MINUTE_S:
            share = (malformed - malformed_before) / max(1, events - events_before)
            self.too_many = (f"{100 * share:.3g} % of a minute's events could not be read",) if share > most else ()
            self.minute = (now_s, events, malformed)
        return self.too_many


@dataclass(slots=True)
class Cluster:
    """The attempts to have enough jobs of one template."""

    tries: int = 0
    due_s: float = 0.0
    tried_s: float = 0.0


class Upkeep:
    """Looks after the jobs of one server."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._clock = jobs.clock
        self._watches: dict[str, Watch] = {}
        self._clusters: dict[str, Cluster] = {}
        self._templates: Mapping[str, tuple[int, Template]] = {}
        self._looked_s: float | None = None
        self._claims_due_s = 0.0
        self.on_lost: Callable[[], object] = lambda: None
        """What is done when another server has the store now."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mql-upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(LOOK_S):
            self.look()
            self._look_at_claims()

    def _look_at_claims(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._claims_due_s:
            return
        self._claims_due_s = now_s + CLAIMS_S
        if self._jobs.keeper.has_lost():
            log.critical("the store was away, and another server has it now: this one stops")
            self.on_lost()

    def look(self) -> None:
        """All of it, once. What goes wrong with one job keeps nothing from the others."""
        jobs = self._jobs.all()
        names = {job.name for job in jobs}
        self._watches = {name: watch for name, watch in self._watches.items() if name in names}
        for job in jobs:
            try:
                self._look_after(job)
            except (MqlError, SQLAlchemyError) as error:
                log.warning("upkeep of job %s: %s", job.name, error)
        try:
            self._keep_clusters(jobs)
        except (MqlError, SQLAlchemyError) as error:
            log.warning("upkeep of templates: %s", error)

    def _look_after(self, job: Job) -> None:
        watch = self._watches.get(job.name)
        if watch is None:
            watch = self._watches[job.name] = Watch(self._last_fired_us(job))
        now_s = self._clock.monotonic_s()
        if now_s >= watch.expires_s:
            watch.expires_s = now_s + EXPIRE_S
            with suppress(OSError):
                job.dead.expire()
        self._run_by_the_clock(job, watch)
        if job.state not in ALIVE:
            watch.began_s = watch.read_s = None
            watch.heard_s.clear()
            job.silence = None
            return
        watch.began_s = now_s if watch.began_s is None else watch.began_s
        self._end_in_time(job, watch, now_s)
        self._listen(job, watch, now_s)

    # --- by the clock ----------------------------------------------------------------------------------

    def _last_fired_us(self, job: Job) -> int:
        """From when on times count: since its last run, or since now where missed ones are skipped."""
        schedule = job.spec.schedule
        if schedule is None or schedule.missed == "skip":
            return self._clock.now_us()
        runs = self._jobs.store.runs(job.name, 1)
        return max(job.created_us, int(runs[0]["started_us"]) if runs else 0)

    def _run_by_the_clock(self, job: Job, watch: Watch) -> None:
        schedule = job.spec.schedule
        if schedule is None or not schedule.enabled:
            watch.fired_us = max(watch.fired_us, self._clock.now_us())
            job.next_us = None
            return
        now_us = self._clock.now_us()
        job.next_us = schedule.next_us(watch.fired_us)
        if job.next_us is None or job.next_us > now_us:
            return
        watch.fired_us = now_us
        job.next_us = schedule.next_us(now_us)
        if job.state == "paused":
            job.say("info", "its time has come, but it is paused")
        elif job.state not in ALIVE:
            job.begin()
        elif schedule.policy == "keep_new":
            job.say("info", "its time has come: the run that was still there is stopped")
            job.halt("stop")
            job.begin()
        else:
            job.say("info", "its time has come, but the run before is still there")

    # --- ends ------------------------------------------------------------------------------------------

    def _end_in_time(self, job: Job, watch: Watch, now_s: float) -> None:
        spec = job.spec
        assert watch.began_s is not None
        if spec.limits.runtime is not None and now_s - watch.began_s >= spec.limits.runtime:
            job.complete(f"its time of {spec.limits.runtime:g} s is over")
        if spec.transient is None:
            return
        if watch.read_s is None or job.readers:
            watch.read_s = now_s
        elif now_s - watch.read_s >= spec.transient:
            job.complete(f"nobody has read it for {spec.transient:g} s")

    # --- silence ---------------------------------------------------------------------------------------

    def _listen(self, job: Job, watch: Watch, now_s: float) -> None:
        """Says when a job or its source falls silent, or too much cannot be read; and when that is over."""
        expect = job.spec.expect
        said: list[str] = []
        running = job.running
        ledger = job.books.newest if running is None else running.ledger()
        events = ledger.get("events", 0)
        for what, most_s, count in (("event", expect.events, events), ("row", expect.rows, job.log.length.rows)):
            if watch.counted.get(what) != count or what not in watch.heard_s:
                watch.counted[what] = count
                watch.heard_s[what] = now_s
            if most_s is not None and now_s - watch.heard_s[what] >= most_s:
                said.append(f"no {what} for {most_s:g} s")
        kind = "silent" if said else "unreadable"
        if expect.unreadable is not None:
            said += watch.unreadable(now_s, events, ledger.get("malformed", 0), expect.unreadable)
        silence = "; ".join(said) or None
        if silence != job.silence:
            job.say("error" if silence else "info", f"{kind}: {silence}" if silence else "heard again")
        job.silence = silence

    # --- as many as are wanted -------------------------------------------------------------------------

    def _keep_clusters(self, jobs: Sequence[Job]) -> None:
        now_s = self._clock.monotonic_s()
        if self._looked_s is None or now_s - self._looked_s >= TEMPLATES_S:
            self._looked_s = now_s
            self._read_templates()
        for name, (version, template) in self._templates.items():
            if template.sla is not None:
                of_it = [job for job in jobs if job.spec.template == name]
                self._keep_cluster(template, version, of_it, now_s)

    def _read_templates(self) -> None:
        if not self._jobs.keeper.has_something:
            return
        templates = self._jobs.store.templates()
        self._templates = {kept.name: (kept.version, kept_template(kept.text)) for kept in templates}

    def _keep_cluster(self, template: Template, version: int, jobs: Sequence[Job], now_s: float) -> None:
        sla = template.sla
        assert sla is not None
        there = sorted((job for job in jobs if job.state in (*ALIVE, "paused")), key=lambda job: job.created_us)
        for job in there[: max(0, len(there) - sla.max)]:
            job.say("info", f"stopped: there are more than {sla.max} jobs of template {template.name}")
            job.halt("stop")
        cluster = self._clusters.setdefault(template.name, Cluster())
        missing = sla.min - len(there)
        if missing <= 0:
            if now_s - cluster.tried_s > STEADY_S:
                cluster.tries = 0
            return
        if now_s < cluster.due_s:
            return
        cluster.due_s = now_s + BACKOFF_S[min(cluster.tries, len(BACKOFF_S) - 1)]
        cluster.tries, cluster.tried_s = cluster.tries + 1, now_s
        failed = [job for job in jobs if job.state == "failed"]
        if failed and sla.restart == "never":
            return
        for job in failed[:missing]:
            job.say("info", f"runs again: there are to be {sla.min} jobs of template {template.name}")
            job.begin()
        for _ in range(missing - len(failed[:missing])):
            name = f"{template.name[:80]}-{secrets.token_hex(4)}"
            self._jobs.create(name, spec_of(template, version, sla.params)).say(
                "info", f"made: there are to be {sla.min} jobs of template {template.name}"
            )


def spec_of(template: Template, version: int, params: Mapping[str, object]) -> Spec:
    """A job of a template as the template itself says it."""
    restart = template.sla.restart if template.sla is not None else "on_failure"
    return Spec(
        template=template.name,
        version=version,
        params=params,
        guarantee=template.guarantee,
        owner=template.owner,
        sinks=template.sinks,
        labels=template.labels,
        schedule=template.schedule,
        limits=template.limits,
        expect=template.expect,
        transient=template.transient,
        restart=restart,
    )
