"""A job whose query has changed goes on with what it knows, where the plans allow it: what a checkpoint was taken of,
against what is asked now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mql.catalog import SourceInfo
from mql.errors import MqlError
from mql.exec.carrying import by_itself, carried
from mql.exec.checkpoint import Checkpoint
from mql.exec.family import number_in
from mql.exec.state import Snapshot
from mql.planner.carrying import Carry, carry
from mql.planner.compile import Compiled
from mql.planner.sharing import family_plan
from server.job_spec import Spec
from server.looks import as_it_looked, looks_in, looks_with

if TYPE_CHECKING:
    from server.jobs import Jobs

Notes = Mapping[str, Any]


def asked_of(spec: Spec) -> Notes:
    """What a job's query is, as a checkpoint notes it."""
    return {
        "query": spec.query,
        "params": dict(spec.params),
        "template": spec.template,
        "version": spec.version,
    }


@dataclass(frozen=True, slots=True)
class Weighed:
    """A changed query against the one before. `looks`: what its sources look like to it."""

    carry: Carry
    old: Compiled
    new: Compiled
    looks: Notes


def weigh(jobs: Jobs, notes: Notes, spec: Spec) -> Weighed | None:
    """What becomes of the state that a checkpoint with these notes has; None where it is of this very query."""
    before = notes.get("asked")
    if before is None or before == asked_of(spec):
        return None
    looks = looks_in(notes["looks"])
    old = compiled(jobs, spec.model_copy(update=before), looks)
    bound = jobs.bound(spec)
    named = [scan.source for scan in jobs.engine.plan(bound.query, bound.values).scans]
    looks = looks_with(looks, [jobs.engine.source(name).info for name in named])
    new = compiled(jobs, spec, looks)
    return Weighed(carry(old.plan, new.plan), old, new, looks)


def compiled(jobs: Jobs, spec: Spec, looks: Notes) -> Compiled:
    """The query as it means with sources that look so."""
    bound = jobs.bound(spec)
    known = known_by(jobs, looks)
    return jobs.engine.recall(bound.query, bound.values, known, now_us=looks.get("began_us"), scale=looks.get("scale"))


def known_by(jobs: Jobs, looks: Notes) -> Mapping[str, SourceInfo]:
    """The sources as they looked."""
    return {look["source"]: as_it_looked(jobs.engine.source(look["source"]).info, look) for look in looks["sources"]}


def taken_over(jobs: Jobs, last: Checkpoint, spec: Spec) -> tuple[Snapshot, Notes]:
    """The state of a checkpoint for the query that is asked now. MqlError where that can't be."""
    found = weigh(jobs, last.notes, spec)
    if found is None:
        return last.snapshot, looks_in(last.notes["looks"])
    if found.carry.reasons:
        raise NotCarried(found.carry)
    snapshot = last.snapshot
    old, new = found.old.sibling, found.new.sibling
    if number_in(snapshot) is not None and not (old is not None and new is not None and old.key == new.key):
        assert old is not None, "what is in no family has no number"
        session = jobs.engine.session()
        try:
            snapshot = by_itself(snapshot, family_plan(old.skeleton), found.old.plan, session)
        finally:
            session.close()
    elif number_in(snapshot) is not None:
        return snapshot, found.looks
    return carried(snapshot, found.carry, found.new.plan), found.looks


class NotCarried(MqlError):
    def __init__(self, carry: Carry) -> None:
        hint = 'Say "state": "discard" to begin without what it knows, or make another job.'
        super().__init__(f"its state does not serve: {'; '.join(carry.reasons)}", hint=hint, code="state-not-carried")
