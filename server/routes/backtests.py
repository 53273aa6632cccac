"""Backtests over HTTP: what a query's or a job's detector would have told of a stretch of history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from mql.exec.trials import labels_of
from server.jobs import JOBS
from server.routes.jobs import ONE, body_of, job_of, refusing
from server.routes.queries import json_answer
from server.routes.route import JSON, Answer, Route
from server.shared import shared_of

TIMEOUT_S = 60.0
LABELS_MAX = 10_000


class Stretch(BaseModel):
    """Which history is tried. `labels`: stretches in which something was wrong, each with `start`, `end` (times, or
    seconds since the epoch) and, where it is known, values of the groups' keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: str | None = Field(default=None, min_length=1, max_length=100, examples=["-14d"])
    until: str | None = Field(default=None, min_length=1, max_length=100)
    labels: list[dict[str, str | float | bool | None]] | None = Field(default=None, max_length=LABELS_MAX)
    timeout: float = Field(default=TIMEOUT_S, gt=0, le=3_600, description="seconds")


class Backtest(Stretch):
    """A query that is tried."""

    query: str = Field(min_length=1, max_length=65_536)
    params: dict[str, Any] = Field(default_factory=dict)


class DelayTold(BaseModel):
    median_s: float
    mean_s: float
    max_s: float


class DayTold(BaseModel):
    day: str
    alerts: int


class OffenderTold(BaseModel):
    keys: dict[str, str | None]
    alerts: int
    worst_score: float


class EpisodeTold(BaseModel):
    episode: str
    keys: dict[str, str | None]
    since: str
    told: str
    ended: str | None
    worst_score: float
    direction: str
    reason: str | None


class MissedTold(BaseModel):
    start: str
    end: str
    keys: dict[str, str]


class LabelsTold(BaseModel):
    """`precision`: the share of alerts that meet a label; `recall`: the share of labels that an alert meets."""

    labels: int
    found: int
    right: int
    precision: float | None
    recall: float | None
    delay: DelayTold | None
    missed: list[MissedTold]


class BacktestTold(BaseModel):
    """`delay`: from the start of an episode's first unusual window to the end of the one that opens it; of labels, from
    their start. `episodes`: the first thousand. `notes`: such as the threshold that an ALERT BUDGET picked."""

    since: str
    until: str
    days: float
    alerts: int
    alerts_per_day: float
    by_day: list[DayTold]
    delay: DelayTold | None
    offenders: list[OffenderTold]
    episodes: list[EpisodeTold]
    labels: LabelsTold | None
    notes: list[str]


async def backtest_query(request: web.Request) -> web.Response:
    """Tries a query with an ANOMALY clause over history: alerts a day, delay, worst keys, precision and recall."""
    said = Backtest.model_validate(await body_of(request))
    return await tried(request, lambda: (said.query, said.params), said)


async def backtest_job(request: web.Request) -> web.Response:
    """Tries a job's query over history, as it stands, without touching the job."""
    said = Stretch.model_validate(await body_of(request))
    job, jobs = await job_of(request), request.app[JOBS]

    def bound() -> tuple[str, Mapping[str, Any]]:
        found = jobs.bound(job.spec)
        return found.query, found.values

    return await tried(request, bound, said)


async def tried(
    request: web.Request, bound: Callable[[], tuple[str, Mapping[str, Any]]], said: Stretch
) -> web.Response:
    shared = shared_of(request)

    def work() -> Mapping[str, Any]:
        query, values = bound()
        labels = None if said.labels is None else labels_of(said.labels)
        return shared.engine.backtest(
            query, values, since=said.since, until=said.until, labels=labels, timeout_s=said.timeout
        )

    return json_answer(dict(await shared.call(lambda: refusing(work))))


ROUTES = (
    Route(
        "POST",
        "/v1/queries:backtest",
        backtest_query,
        "Try a query's ANOMALY clause over history",
        "query",
        (Answer(200, "What it would have told.", BacktestTold),),
        body=Backtest,
        body_types=(JSON,),
        problems=(404, 409, 422),
    ),
    Route(
        "POST",
        "/v1/jobs/{name}:backtest",
        backtest_job,
        "Try a job's ANOMALY clause over history",
        "job",
        (Answer(200, "What it would have told.", BacktestTold),),
        body=Stretch,
        body_types=(JSON,),
        problems=(404, 409, 422),
        path_notes=ONE,
    ),
)
