"""The server: an application around an engine, and how it is started and stopped."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import wraps
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from mql.errors import did_you_mean
from mql.exec.engine import Engine
from server import openapi
from server.guard import SCOPES, Door, Handler, add_headers, guard
from server.jobs import JOBS, Jobs
from server.keeping import KEEPER, SILENCES, TOKENS, Keeper
from server.metrics import Metrics
from server.problems import refuse
from server.routes import ROUTES
from server.routes.asking import PARAMETER_PREFIX
from server.routes.job_views import numbers_of
from server.routes.replays import REPLAYS
from server.routes.route import EVENTS, Route
from server.secret import mask_key
from server.settings import Settings, check_reach, sources_of, tables_of
from server.shared import SHARED, Shared
from server.tokens import FIRST, NewToken, own_grant
from sources.strict_yaml import Document

log = logging.getLogger("server")

STOPPING = "server stopping"
LAG_EVERY_S = 1.0


def serve(settings: Settings, document: Document | None = None) -> None:
    """Serves until SIGTERM or SIGINT; then ends streams with a word, finishes what is under way, and returns.

    `document`: what the settings were read from, for the places of errors. No source is opened, and nothing written,
    while another server has the same data directory.
    """
    check_reach(settings.server)
    keeper = Keeper(settings)
    try:
        keeper.claim()
        found, tables = sources_of(settings, document), tables_of(settings, document)
        engine = Engine(
            found,
            workers=settings.server.workers,
            default=settings.default,
            tables=tables,
            secret=lambda: mask_key(keeper.data_dir),
        )
        try:
            asyncio.run(serve_until_told(make_app(engine, settings, keeper)))
        finally:
            engine.close()
    finally:
        keeper.close()


def raise_file_limit() -> None:
    """As many open files as may be: each job has one, each reader too, and many a system begins with 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve_until_told(app: web.Application) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    app[JOBS].upkeep.on_lost = lambda: loop.call_soon_threadsafe(told.set)
    async with open_door(app) as door:
        log.info("listening on %s", door.name)
        await told.wait()
        log.info("stopping")


@asynccontextmanager
async def open_door(app: web.Application) -> AsyncIterator[Door]:
    """The application, listening; when left, it stops gracefully. The engine stays open."""
    shared = app[SHARED]
    check_reach(shared.settings.server)
    raise_file_limit()
    stop_within = shared.settings.server.stop_within
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=stop_within, access_log=None)
    await runner.setup()
    try:
        door = Door(runner, shared)
        await door.start()
        yield door
    finally:
        await runner.cleanup()


def make_app(engine: Engine, settings: Settings, keeper: Keeper | None = None) -> web.Application:
    """The application around an engine that its caller owns. Run it by `open_door` or `serve`."""
    limits = settings.server.limits
    app = web.Application(middlewares=[guard], client_max_size=max(limits.body, limits.events_body))
    shared = Shared(engine, settings, Metrics(engine.queries))
    shared.document = openapi.document(ROUTES, product_version())
    app[SHARED] = shared
    app[REPLAYS] = {}
    app[KEEPER] = keeper or Keeper(settings)
    app[JOBS] = Jobs(engine, app[KEEPER])
    shared.metrics.jobs = lambda: [(job.name, numbers_of(job)) for job in app[JOBS].all()]
    app[TOKENS] = app[KEEPER].tokens()
    engine.view = lambda catalog: own_grant().seen(catalog)
    app[SCOPES] = {(route.method, route.path): route.scope for route in ROUTES}
    app[SILENCES] = app[JOBS].silences
    for route in ROUTES:
        add_route(app, route)
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(watch_loop)
    app.cleanup_ctx.append(run_jobs)
    app.on_shutdown.append(end_streams)
    app.on_cleanup.append(let_go)
    return app


def add_route(app: web.Application, route: Route) -> None:
    """A route; where its answer is no stream, HEAD too."""
    streams = any(EVENTS in answer.types for answer in route.answers)
    resource = app.router.add_resource(route.path)
    handler = with_known_parameters(route)
    resource.add_route(route.method, handler)
    if route.method == "GET" and not streams:
        resource.add_route("HEAD", handler)


def with_known_parameters(route: Route) -> Handler:
    """The route's handler, which refuses parameters that nobody looks at: a filter with a wrong name lets all pass."""
    known = [one.name for one in route.parameters if one.where == "query"]

    @wraps(route.handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        for name in request.query:
            if name not in known and not name.startswith(PARAMETER_PREFIX):
                hint = did_you_mean(name, known) or (f"There are {', '.join(known)}." if known else "There are none.")
                raise refuse(422, "invalid-parameter", f'there is no parameter "{name[:80]}" here', hint)
        return await route.handler(request)

    return handle


async def end_streams(app: web.Application) -> None:
    """Tells every reader that the server stops; without this a stop would wait for them."""
    shared = app[SHARED]
    shared.stopping = True
    for reader in tuple(shared.readers):
        reader.stop(STOPPING)
    for replay in tuple(app[REPLAYS].values()):
        replay.reader.stop(STOPPING)
    tasks = [replay.task for replay in app[REPLAYS].values() if replay.task is not None]
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)


async def let_go(app: web.Application) -> None:
    shared = app[SHARED]
    if shared.leaving:
        await asyncio.wait(shared.leaving, timeout=shared.settings.server.stop_within)
    shared.pool.shutdown(wait=False, cancel_futures=True)
    app[KEEPER].close()


async def run_jobs(app: web.Application) -> AsyncIterator[None]:
    """Jobs of the store go on where the last server left them; with this one's end they leave."""
    shared = app[SHARED]
    await shared.call(app[KEEPER].claim)
    await shared.call(app[TOKENS].load)
    if app[TOKENS].needed and not app[TOKENS].all():
        _, text = await shared.call(app[TOKENS].create, NewToken(name=FIRST, scope="admin"))
        print(f"The first token, of an admin; it is not told again: {text}", file=sys.stderr, flush=True)
    await shared.call(app[JOBS].revive)
    app[JOBS].upkeep.start()
    yield
    await shared.call(app[JOBS].close)


async def watch_loop(app: web.Application) -> AsyncIterator[None]:
    """Measures how late the loop is, for the metrics."""
    task = asyncio.create_task(measure_delay(app[SHARED]), name="loop delay")
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def measure_delay(shared: Shared) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        shared.metrics.lag.set(max(0.0, loop.time() - due))


def product_version() -> str:
    try:
        return version("mql-streams")
    except PackageNotFoundError:
        return "0"
