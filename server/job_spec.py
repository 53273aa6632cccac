"""What a job is asked to be, its states, and what a guarantee needs of a source and a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mql.errors import MqlError
from mql.exec.engine import Engine
from mql.exec.feed import Source
from mql.planner.physical import Anomaly, Plan
from server.life import Expect, KeepLetters, Limits, Positive, Schedule
from server.seats import Seat
from server.settings import Bytes, Seconds
from server.silences import SILENCED
from server.sinks import AnySink
from server.templates import SINKS_MAX, Label, ParamName
from sources.formats.source import origin_of
from sources.http import HttpSource

TRANSITIONS: Mapping[str, tuple[str, ...]] = {
    "start": ("stopped", "failed"),
    "stop": ("starting", "running", "restarting", "paused"),
    "pause": ("starting", "running", "restarting"),
    "resume": ("paused",),
    "restart": ("starting", "running", "restarting", "paused", "stopped", "failed"),
}
"""From which states an action leads on. `completed` leads nowhere."""

Workers = Annotated[int, Field(ge=1, le=64, strict=True)]

Priority = Literal["low", "normal", "high"]

ALIVE = ("starting", "running", "restarting")
STATES = (*ALIVE, "paused", "stopped", "failed", "completed")


class Anew(BaseModel):
    """Checkpoints up to `after` are of no use any more: it began without what it knew. `begin`: from where it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: int
    begin: Literal["checkpoint", "now", "earliest"]


class Spec(BaseModel):
    """A job as it was asked for. Of a template, or of a Python job's artifact, it has the name and version instead of
    a query."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str | None = Field(default=None, min_length=1, max_length=65_536)
    params: Mapping[str, Any] = Field(default_factory=dict)
    template: str | None = None
    version: int | None = None
    artifact: str | None = Field(default=None, description="of a Python job: its artifact")
    artifact_version: str | None = None
    guarantee: Literal["at_most_once", "at_least_once", "exactly_once"] = "at_most_once"
    checkpoint_every: Annotated[Seconds, Field(ge=0.02, le=3_600)] = 1.0
    restart: Literal["on_failure", "never"] = "on_failure"
    attempts: int = Field(default=100, ge=0, le=1_000_000, description="restarts in a row before it has failed")
    keep_age: Seconds = 7 * 86_400.0
    keep_bytes: Bytes = 1 << 30
    dead_letters: KeepLetters = KeepLetters()
    sinks: tuple[AnySink, ...] = Field(default=(), max_length=SINKS_MAX)
    seats: tuple[Seat, ...] = Field(default=(), description="of sinks, once these have been changed")
    seats_made: int = Field(default=0, description="how many there have been: no number is given twice")
    labels: Mapping[ParamName, Label] = Field(default_factory=dict)
    owner: str | None = Field(default=None, max_length=200)
    schedule: Schedule | None = None
    limits: Limits = Limits()
    expect: Expect = Expect()
    transient: Positive | None = Field(default=None, description="it ends so long after its last reader has left")
    workers: Workers | None = Field(default=None, description="on how many of the server's workers it runs")
    priority: Priority = Field(default="normal", description="who goes first where there is too much to do")
    anew: Anew | None = None

    @property
    def keeps_checkpoints(self) -> bool:
        return self.guarantee != "at_most_once"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a job runs: a query and the values that are bound into it."""

    query: str
    values: Mapping[str, Any]


def check_workers(workers: int | None, engine: Engine) -> None:
    """No job runs on more workers than there are."""
    if workers is not None and workers > engine.workers:
        hint = "Start the server with more: mql serve --workers."
        raise MqlError(f"the server has {engine.workers} workers, not {workers}", hint=hint, code="too-few-workers")


def check_guarantee(spec: Spec, engine: Engine, plan: Plan) -> None:
    """A guarantee needs sources that can be read again from where a checkpoint stands."""
    if plan.explain is not None:
        raise MqlError("EXPLAIN is no job", hint="Ask it as a query.")
    if spec.keeps_checkpoints and spec.artifact is not None:
        hint = "What its process holds is in no checkpoint."
        raise MqlError("a Python job is at_most_once", hint=hint, code="no-guarantee")
    if not spec.keeps_checkpoints:
        if spec.limits.state is not None or spec.limits.entries is not None:
            hint = "Ask for at_least_once, or leave limits.state and limits.entries out."
            raise MqlError("state is measured at checkpoints, and at_most_once takes none", hint=hint)
        return
    for name in dict.fromkeys(scan.source for scan in plan.scans):
        check_can_be_read_again(engine.source(name))
    if plan.scan.until.kind != "live" or not (plan.scan.since.kind in ("live", "earliest") or is_warmed(plan)):
        hint = "Say SINCE EARLIEST or leave SINCE and UNTIL out, or ask for at_most_once."
        raise MqlError(f"a job that is {spec.guarantee} begins now or with the earliest event", hint=hint)


def check_can_be_read_again(source: Source) -> None:
    info = source.info
    if info.bounded:
        hint = "Ask for at_most_once: it is read from its beginning each time."
        raise MqlError(f'source "{info.name}" ends by itself', hint=hint, code="no-guarantee")
    origin = origin_of(source)
    if not info.history or (isinstance(origin, HttpSource) and origin.archive is None):
        hint = "Declare it with record: true, or ask for at_most_once."
        raise MqlError(f'source "{info.name}" keeps nothing to go back to', hint=hint, code="no-guarantee")
    if not info.shape.fields:
        hint = "Declare its shape, or begin when its first events are there."
        raise MqlError(f'nobody knows what events of "{info.name}" look like yet', hint=hint, code="no-guarantee")


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
