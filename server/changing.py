"""What becomes of a job that is changed: whether it goes on with what it knows, and what is otherwise from then on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mql.errors import MqlError
from mql.exec.checkpoint import Checkpoint
from mql.exec.engine import reads
from mql.exec.results import cursor_of
from server.carrying import Weighed, taken_over, weigh
from server.chaining import PREFIX, upstreams
from server.job_spec import Anew, Spec
from server.outline import Outline
from server.seats import Seating, as_said, seated, seats_of

if TYPE_CHECKING:
    from server.job import Job

RESTARTED = ("query", "params", "version", "workers", "priority", "checkpoint_every")
"""What only another run heeds."""
Begin = Literal["checkpoint", "now", "earliest"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a job's state. `state`: whole, differs (it goes on with what it knows, and does otherwise what
    `differences` say), cannot (`reasons` say why), discarded, or none, where it has none. `sinks`: what becomes of
    them, where they change."""

    state: str
    differences: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    restarts: bool = False


def change(
    job: Job,
    changes: Mapping[str, Any],
    begin: Begin | None = None,
    *,
    action: str = "change",
    rehearses: bool = False,
    sinks_from: str = "now",
) -> Fate:
    """Changes a job. `begin`: it begins without what it knows. `rehearses`: only says what would become of it. MqlError
    where it cannot be; nothing is changed then."""
    jobs, before = job.jobs, job.spec
    spec = Spec.model_validate({**before.model_dump(), **changes})
    check_made_of(job, spec)
    if spec.version != before.version:
        spec = jobs.of_version(spec)
    seating = None
    if spec.sinks != before.sinks:
        seating = seating_of(job, before, spec, sinks_from)
        spec = spec.model_copy(update=as_said(seating))
    outline = jobs.allowed(job.name, spec)
    fate = fate_of(job, spec, begin)
    if seating is not None:
        fate = replace(fate, sinks=seating.told)
        if fate.restarts:
            hint = "Change the sinks first, then the rest."
            raise MqlError("sinks change while the job runs, and this takes another run", hint=hint)
    if seen_in(outline) != seen_in(job.outline):
        check_unread(job)
    if rehearses:
        return fate
    if fate.state == "cannot":
        hint = 'Say "state": "discard" to begin without what it knows, or make another job.'
        if begin == "checkpoint":
            hint = 'Say "begin": "now", or "earliest".'
        told = f"its state does not serve: {'; '.join(fate.reasons)}"
        raise MqlError(told, hint=hint, code="state-not-carried")
    if seating is not None:
        job.change_sinks(before, spec, seating)
        return fate
    if not fate.restarts:
        job.change(spec)
        return fate

    def then() -> Spec:
        last = last_of(job)
        return spec if begin is None or last is None else spec.model_copy(update={"anew": anew(last, begin)})

    job.become(then, action, told_of(job, fate, spec), None if outline == job.outline else outline)
    return fate


def seating_of(job: Job, before: Spec, spec: Spec, sinks_from: str) -> Seating:
    """`sinks_from`: where sinks begin that are new: now, earliest, or a cursor of the job's results."""
    seats = seats_of(before.sinks, before.seats)
    return seated(before.sinks, seats, before.seats_made, spec.sinks, row_of(job, sinks_from))


def row_of(job: Job, said: str) -> int:
    """The number of the result row that is meant."""
    match said:
        case "now":
            return job.log.committed.rows
        case "earliest":
            return job.log.oldest.rows
    cursor = cursor_of(said)
    if cursor is None or cursor.epoch != job.log.id or cursor.number > job.log.committed.number:
        hint = "Say now, earliest, or a cursor that a reader of this job was given."
        raise MqlError("sinks_from is no cursor of this job's results", hint=hint)
    return cursor.rows


def check_made_of(job: Job, spec: Spec) -> None:
    """A job goes on being made of what it was made of: a query, a template, an artifact."""
    made_of = {
        "a query of its own": spec.query is not None,
        "its template": spec.template is not None,
        "its artifact": spec.artifact is not None,
    }
    found = [what for what, is_so in made_of.items() if is_so]
    if len(found) != 1 or (spec.template is None and spec.version is not None):
        hint = "A job of a query has another text and other params, a job of a template other params and versions."
        raise MqlError(f'job "{job.name}" is made of {found[-1]}', hint=hint, code="of-a-template")


def fate_of(job: Job, spec: Spec, begin: Begin | None) -> Fate:
    """What would become of a job's state if it were changed so."""
    restarts = begin is not None or any(getattr(spec, name) != getattr(job.spec, name) for name in RESTARTED)
    last = last_of(job)
    if last is None or not spec.keeps_checkpoints:
        return Fate("none", restarts=restarts)
    if not restarts:
        return Fate("whole")
    try:
        found = weigh(job.jobs, last.notes, spec)
        if begin is not None:
            return discarded(found, begin)
        if found is None:
            return Fate("whole", restarts=True)
        if not found.carry.reasons:
            taken_over(job.jobs, last, spec)  # what can't be done is to be known before anything is changed
        return Fate(found.carry.verdict, found.carry.differences, found.carry.reasons, restarts=True)
    except MqlError as error:
        return Fate("discarded" if begin in ("now", "earliest") else "cannot", (), (error.message,), restarts=True)


def discarded(found: Weighed | None, begin: Begin) -> Fate:
    """It begins without what it knows, from places that must be of the sources that it reads."""
    if begin == "checkpoint" and found is not None:
        before, now = ([scan.source for scan in one.plan.scans] for one in (found.old, found.new))
        if before != now:
            return Fate("cannot", (), ("its checkpoint has no places in the sources that it reads now",), restarts=True)
    return Fate("discarded", restarts=True)


def last_of(job: Job) -> Checkpoint | None:
    return next((checkpoint for checkpoint, _ in job.checkpoints.whole()), None)


def anew(last: Checkpoint, begin: Begin) -> Anew:
    return Anew(after=last.number, begin=begin)


def told_of(job: Job, fate: Fate, spec: Spec) -> str:
    """Why a run ended, for those who read its runs and logs."""
    if spec.workers != job.spec.workers:
        return f"goes on with {spec.workers or 'as many as are right'} workers"
    match fate.state:
        case "discarded":
            return "changed: it begins without what it knew"
        case "differs":
            return f"changed: {'; '.join(fate.differences)}"
        case _:
            return "changed"


def seen_in(outline: Outline) -> tuple[Any, ...]:
    """What those who read a job's rows see of it."""
    return outline.names, outline.time, outline.lateness_us


def check_unread(job: Job) -> None:
    """Nobody reads rows whose columns change under them."""
    jobs = job.jobs
    readers = [f'job "{one.name}"' for one in jobs.all() if job.name in upstreams(one.outline)]
    asking = [one for one in jobs.engine.queries() if not one.execution.over and reads(one, PREFIX + job.name)]
    readers += [f"query {one.id}" for one in asking if not one.name or not one.name.startswith("job ")]
    if readers:
        told = f"its rows would have other columns, and {', '.join(readers[:3])} reads them"
        raise MqlError(told, hint="End those first, or keep the columns.", code="results-in-use")
