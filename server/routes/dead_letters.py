"""A job's dead letters: read page by page, sent again to the sink that refused them, or let go of."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, Field

from mql.errors import MqlError
from server.deadletters import KINDS, DeadLog, Kind
from server.delivery import Again
from server.job import Job
from server.problems import Refusal, of_query, refuse
from server.routes.asking import choice, count, number_in
from server.routes.asking import one_of as word
from server.routes.hidden import check_may_read_all
from server.routes.job_views import LetterCounts
from server.routes.jobs import ONE, Said, body_of, job_of
from server.routes.queries import json_answer
from server.routes.route import JSON, Answer, Parameter, Route
from server.shared import shared_of

IDS_MAX = 10_000
NOTED_MAX = 100
WAIT_S = 2.0
Id = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_-]+:[0-9]{1,18}$")]


class LettersTold(BaseModel):
    """Dead letters, the newest first: id, kind, at_us, reason, payload (the row, or the first 4 KiB of what it was),
    and where it was: source, split and offset of an event; sink and row (its number among the job's results) of a row.
    `left_out`: so many before it were counted and not kept. `before`: for the next page; null on the last. `after`: for
    those that come later, the oldest first."""

    letters: list[dict[str, Any]]
    before: str | None
    after: str
    counts: dict[str, LetterCounts]


class Chosen(Said):
    """Which letters: these, or all that are open of a kind or of a sink."""

    ids: list[Id] | None = Field(default=None, max_length=IDS_MAX)
    kind: Kind | None = None
    sink: str | None = Field(default=None, max_length=200)


class Retried(BaseModel):
    """What became of letters that were to be sent again. `refused`: the sink refuses them still; `gone`: they are no
    letters any more, or their rows are not kept; `waiting`: the sink is busy or away, and gets them when it is not."""

    sent: int
    refused: int
    gone: int
    waiting: int


class Discarded(BaseModel):
    """How many letters were let go of."""

    discarded: int


async def job_dead_letters(request: web.Request) -> web.Response:
    """What could not be read, came too late, or was refused by a sink, the newest first, page by page."""
    n = number_in(request, "n", 100, 1, 1_000)
    kind = word(request, "kind", KINDS)
    sink = request.query.get("sink")
    before, after = places_in(request, "before"), places_in(request, "after")
    job = await job_of(request)
    kinds = KINDS if kind is None else (kind,)
    if sink is None and kinds != ("refused",):
        check_may_read_all(job.outline.sources)

    def page() -> dict[str, Any]:
        logs = job.dead.chosen(kinds, sink)
        counts = {log.name: told for log in logs if (told := log.numbers())["total"]}
        if after is not None:
            letters, reached = job.dead.following(logs, after, n)
            return {"letters": letters, "before": None, "after": text_of(reached), "counts": counts}
        reached = {log.name: log.end for log in logs}
        letters, rest = job.dead.page(logs, before or {}, n)
        return {"letters": letters, "before": text_of(rest) or None, "after": text_of(reached), "counts": counts}

    return json_answer(await shared_of(request).call(page))


async def retry_dead_letters(request: web.Request) -> web.Response:
    """Sends rows again to the sink that refused them. What it refuses again stays a dead letter."""
    said = Chosen.model_validate(await body_of(request))
    job = await job_of(request)

    def retry() -> dict[str, Any]:
        chosen = chosen_of(job, said)
        sinks = {sink.letters.name: sink for sink in job.sinks}
        for log, _ in chosen:
            if log.kind != "refused":
                hint = "Read them, mend what was wrong, and let go of them: :discard."
                raise MqlError("only rows that a sink refused can be sent again", hint=hint, code="not-a-row")
            if log.name not in sinks:
                raise MqlError(f'the job has no sink "{log.sink}" any more', code="unknown-sink")
        note(job, "retry-dead-letters", said, sum(len(numbers) for _, numbers in chosen))
        return became([sinks[log.name].again(numbers) for log, numbers in chosen if numbers])

    return json_answer(await shared_of(request).call(lambda: refusing(retry)))


async def discard_dead_letters(request: web.Request) -> web.Response:
    """Lets go of dead letters: they are not told any more."""
    said = Chosen.model_validate(await body_of(request))
    job = await job_of(request)

    def discard() -> dict[str, Any]:
        chosen = chosen_of(job, said)
        note(job, "discard-dead-letters", said, sum(len(numbers) for _, numbers in chosen))
        try:
            return {"discarded": sum(log.close_letters(numbers, "discarded") for log, numbers in chosen)}
        except OSError as error:
            raise MqlError(f"it cannot be noted: {error.strerror or error}", code="cannot-write") from None

    return json_answer(await shared_of(request).call(lambda: refusing(discard)))


def became(asked: Sequence[Again]) -> dict[str, int]:
    """What became of them, as far as is known within a moment."""
    until_s = time.monotonic() + WAIT_S
    for one in asked:
        one.done.wait(max(0.0, until_s - time.monotonic()))
    names = ("sent", "refused", "gone", "waiting")
    return {name: sum(getattr(one, name) for one in asked) for name in names}


def chosen_of(job: Job, said: Chosen) -> list[tuple[DeadLog, Sequence[int]]]:
    """The letters that are meant, by their logs."""
    if (said.ids is None) == (said.kind is None and said.sink is None):
        raise MqlError("it is not said which letters", hint="Say ids, or a kind, or a sink.", code="invalid-body")
    if said.ids is None:
        kinds = KINDS if said.kind is None else (said.kind,)
        seats = [sink.letters.sink for sink in job.sinks]
        if said.sink is not None and said.sink not in seats and not job.dead.chosen(sink=said.sink):
            hint = f"It has {', '.join(map(str, seats))}." if seats else "It has none."
            raise MqlError(f'the job has no sink "{said.sink}"', hint=hint, code="unknown-sink")
        return [(log, log.open_numbers()) for log in job.dead.chosen(kinds, said.sink)]
    by_name: dict[str, list[int]] = {}
    for id in said.ids:
        name, _, number = id.rpartition(":")
        by_name.setdefault(name, []).append(int(number))
    found = [(job.dead.named(name), numbers) for name, numbers in by_name.items()]
    unknown = next((name for name, (log, _) in zip(by_name, found, strict=True) if log is None), None)
    if unknown is not None:
        hint = f"GET /v1/jobs/{job.name}/dead-letters lists them."
        raise MqlError(f'no letters "{unknown}"', hint=hint, code="unknown-letters")
    return [(log, numbers) for log, numbers in found if log is not None]


def note(job: Job, action: str, said: Chosen, letters: int) -> None:
    """Who did it, for those who ask later."""
    detail = {"ids": said.ids[:NOTED_MAX]} if said.ids is not None else said.model_dump(exclude_none=True)
    job.jobs.store.acted(job.name, action, {**detail, "letters": letters})


def places_in(request: web.Request, parameter: str) -> dict[str, int] | None:
    """Where an earlier page ended, by log; None where that is not said."""
    text = request.query.get(parameter)
    if text is None:
        return None
    found: dict[str, int] = {}
    for part in text.split("~") if text else ():
        name, _, number = part.rpartition(":")
        if not name or not (number.isascii() and number.isdigit() and len(number) < 19):
            raise refuse(422, "invalid-parameter", f'"{parameter}" is what an earlier page said')
        found[name] = int(number)
    return found


def text_of(places: dict[str, int]) -> str:
    return "~".join(f"{name}:{number}" for name, number in sorted(places.items()))


STATUS = {"unknown-letters": 404, "unknown-sink": 409, "not-a-row": 409, "too-many-retries": 429, "cannot-write": 507}


def refusing(work: Any) -> Any:
    try:
        return work()
    except MqlError as error:
        raise Refusal(of_query(error, STATUS.get(error.code))) from None


ROUTES = (
    Route(
        "GET",
        "/v1/jobs/{name}/dead-letters",
        job_dead_letters,
        "Read a job's dead letters",
        "job",
        (Answer(200, "The letters.", LettersTold),),
        (
            choice("kind", "Of this kind alone.", KINDS),
            Parameter("sink", "Of this sink alone, by its number.", {"type": "string", "maxLength": 200}),
            count("n", "At most so many.", 1, 1_000),
            Parameter("before", "The page behind the one that said it.", {"type": "string", "maxLength": 4_096}),
            Parameter("after", "What has come since a page that said it.", {"type": "string", "maxLength": 4_096}),
        ),
        problems=(404, 422),
        path_notes=ONE,
    ),
    Route(
        "POST",
        "/v1/jobs/{name}/dead-letters:retry",
        retry_dead_letters,
        "Send dead letters again to their sink",
        "job",
        (Answer(200, "What became of them.", Retried),),
        body=Chosen,
        body_types=(JSON,),
        problems=(404, 409, 422, 429),
        path_notes=ONE,
    ),
    Route(
        "POST",
        "/v1/jobs/{name}/dead-letters:discard",
        discard_dead_letters,
        "Let go of dead letters",
        "job",
        (Answer(200, "How many.", Discarded),),
        body=Chosen,
        body_types=(JSON,),
        problems=(404, 422, 507),
        path_notes=ONE,
    ),
)
