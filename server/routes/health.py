"""Whether the server lives, whether it is ready, and its numbers."""

from __future__ import annotations

import shutil
import time
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from server.metrics import CONTENT_TYPE
from server.problems import refuse
from server.routes.queries import json_answer
from server.routes.route import JSON, TEXT, Answer, Route
from server.shared import Shared, shared_of
from server.tokens import own_grant

DISK_LEAST_BYTES = 64 << 20


class Health(BaseModel):
    """The event loop runs."""

    status: str
    uptime: float


class Check(BaseModel):
    """One thing that must hold for the server to be ready."""

    name: str
    ok: bool
    detail: str


class Readiness(BaseModel):
    """Ready when every check holds."""

    ready: bool
    checks: list[Check]


async def healthz(request: web.Request) -> web.Response:
    """The loop lives; nothing else is looked at."""
    return json_answer({"status": "ok", "uptime": round(time.monotonic() - shared_of(request).started_s, 3)})


async def readyz(request: web.Request) -> web.Response:
    """Whether queries can be asked now: 503 and the reason when not."""
    shared = shared_of(request)
    checks = await shared.call(checks_of, shared)
    ready = all(check["ok"] for check in checks)
    return json_answer({"ready": ready, "checks": checks}, 200 if ready else 503)


def checks_of(shared: Shared) -> list[dict[str, Any]]:
    sources = shared.engine.catalog().sources
    troubles = shared.engine.troubles()
    queries = shared.engine.queries()
    most = shared.settings.server.limits.queries
    told = (
        "; ".join(f"{name}: {why}" for name, why in sorted(troubles.items()) if name in sources)
        or f"{len(sources)} declared"
    )
    folder = shared.settings.base_dir / shared.settings.data_dir
    free = shutil.disk_usage(folder if folder.exists() else shared.settings.base_dir).free
    return [
        {"name": "sources", "ok": not troubles, "detail": told},
        {"name": "queries", "ok": len(queries) < most * 2, "detail": f"{len(queries)} known, {most} may run"},
        {"name": "disk", "ok": free >= DISK_LEAST_BYTES, "detail": f"{free >> 20:,} MiB free for {folder}"},
    ]


async def metrics(request: web.Request) -> web.Response:
    """The numbers for Prometheus, of all sources, queries and jobs: for who may read all of them."""
    if not own_grant().is_whole:
        raise refuse(403, "hidden", "these are numbers of what you may not read, too", "Ask with another token.")
    shared = shared_of(request)
    body = await shared.call(shared.metrics.text)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


ROUTES = (
    Route("GET", "/healthz", healthz, "Does it live?", "health", (Answer(200, "It lives.", Health),)),
    Route(
        "GET",
        "/readyz",
        readyz,
        "Is it ready?",
        "health",
        (Answer(200, "It is.", Readiness), Answer(503, "It is not.", Readiness, (JSON, "application/problem+json"))),
    ),
    Route("GET", "/metrics", metrics, "Numbers for Prometheus", "health", (Answer(200, "Numbers.", types=(TEXT,)),)),
)
