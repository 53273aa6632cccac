"""The table of all routes: what the server offers, read top to bottom."""

from __future__ import annotations

from server.routes import (
    artifacts,
    backtests,
    dead_letters,
    declared_tables,
    groups,
    health,
    job_changes,
    job_views,
    jobs,
    pages,
    queries,
    replays,
    silences,
    sources,
    templates,
    texts,
    tokens,
)
from server.routes.route import Route

ROUTES: tuple[Route, ...] = (
    *queries.ROUTES,
    *texts.ROUTES,
    *replays.ROUTES,
    *backtests.ROUTES,
    *sources.ROUTES,
    *declared_tables.ROUTES,
    *templates.ROUTES,
    *artifacts.ROUTES,
    *jobs.ROUTES,
    *job_changes.ROUTES,
    *job_views.ROUTES,
    *dead_letters.ROUTES,
    *groups.ROUTES,
    *silences.ROUTES,
    *tokens.ROUTES,
    *health.ROUTES,
    *pages.ROUTES,
)
