"""A schema registry for the tests: another party's part, by its REST contract, over real HTTP on the loopback."""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


@dataclass
class SchemaRegistry:
    """`url`: where it is. `status`: what it answers instead, while it is not None. `asked`: the paths that were got."""

    url: str = ""
    status: int | None = None
    login: tuple[str, str] | None = None
    asked: list[str] = field(default_factory=list)
    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)

    def add(
        self, subject: str, schema: str, kind: str = "AVRO", references: Sequence[Mapping[str, Any]] = (), id: int = 0
    ) -> int:
        """Registers a schema as the subject's newest version; its number."""
        number = id or len(self.schemas) + 1
        said: dict[str, Any] = {"schema": schema} | ({} if kind == "AVRO" else {"schemaType": kind})
        self.schemas[number] = said | ({"references": list(references)} if references else {})
        self.subjects.setdefault(subject, []).append(number)
        return number

    async def by_id(self, request: web.Request) -> web.Response:
        found = self.schemas.get(int(request.match_info["id"]))
        return refusal(404, 40403, "Schema not found") if found is None else told(found)

    async def by_version(self, request: web.Request) -> web.Response:
        subject, version = request.match_info["subject"], request.match_info["version"]
        numbers = self.subjects.get(subject)
        if numbers is None:
            return refusal(404, 40401, "Subject not found")
        at = len(numbers) if version == "latest" else int(version)
        if not 1 <= at <= len(numbers):
            return refusal(404, 40402, "Version not found")
        number = numbers[at - 1]
        return told({"subject": subject, "version": at, "id": number} | self.schemas[number])

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.status is not None:
            return refusal(self.status, 50001, "out of order")
        if self.login is not None:
            wanted = "Basic " + base64.b64encode(":".join(self.login).encode()).decode()
            if request.headers.get("Authorization") != wanted:
                return refusal(401, 401, "Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer


def told(body: Mapping[str, Any]) -> web.Response:
    return web.json_response(body, content_type=CONTENT_TYPE)


def refusal(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"error_code": code, "message": message}, status=status, content_type=CONTENT_TYPE)


def framed(id: int, body: bytes, path: bytes = b"") -> bytes:
    """A value in the registry's wire format."""
    return struct.pack(">bI", 0, id) + path + body


@contextmanager
def schema_registry() -> Iterator[SchemaRegistry]:
    """One that listens on a free port, in a thread of its own."""
    registry = SchemaRegistry()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application(middlewares=[registry.guard])
        app.router.add_get(r"/schemas/ids/{id:\d+}", registry.by_id)
        app.router.add_get("/subjects/{subject}/versions/{version}", registry.by_version)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, int(runner.addresses[0][1])

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    registry.url = f"http://127.0.0.1:{port}"
    try:
        yield registry
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
