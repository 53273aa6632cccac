"""What the handlers of one server share."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from mql.exec.engine import Engine
from server.metrics import Metrics
from server.settings import Settings
from server.stream import Bell, Encoded, Reader

T = TypeVar("T")
THREADS = 8


@dataclass(slots=True)
class Shared:
    """One server's state. Owned by its event loop; the engine is called on threads of the pool."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    encoded: Encoded = field(default_factory=Encoded)
    readers: set[Reader] = field(default_factory=set)
    starting: int = 0
    owners: dict[str, str] = field(default_factory=dict)
    """Whose token each query was asked with, where one was needed."""
    stopping: bool = False
    started_s: float = field(default_factory=time.monotonic)
    document: Mapping[str, Any] = field(default_factory=dict)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "server"))
    leaving: set[asyncio.Future[Any]] = field(default_factory=set)
    bell_of_loop: Bell | None = None

    @property
    def bell(self) -> Bell:
        if self.bell_of_loop is None:
            self.bell_of_loop = Bell(asyncio.get_running_loop())
        return self.bell_of_loop

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls the engine or a source on a thread: nothing that could wait runs on the loop."""
        work = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, function, *arguments)

    async def call_or_undo(self, undo: Callable[[T], Any], function: Callable[..., T], *arguments: Any) -> T:
        """Like `call`; if the caller is cancelled meanwhile, what the function gives is undone, on a thread too."""
        result = asyncio.ensure_future(self.call(function, *arguments))
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            result.add_done_callback(lambda done: self.undo(undo, done))
            raise

    def undo(self, undo: Callable[[T], Any], done: asyncio.Future[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.leave(undo, done.result())

    def leave(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls it on a thread without waiting: for what must be let go of though the handler is being cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)
        self.leaving.add(future)
        future.add_done_callback(self.leaving.discard)


SHARED = web.AppKey("shared", Shared)


def shared_of(request: web.Request) -> Shared:
    return request.app[SHARED]
