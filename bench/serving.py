"""The real HTTP server in a process of its own, for the benchmarks, with sources of made-up events."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Served:
    """The server as seen from outside."""

    pid: int
    url: str

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used."""
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    @property
    def memory_mib(self) -> float:
        """Resident memory."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    async def start(self, session: aiohttp.ClientSession, query: str) -> str:
        """Asks a query, and gives its id."""
        headers = {"Accept": "application/json"}
        async with session.post(f"{self.url}/v1/queries", json={"query": query}, headers=headers) as answer:
            found = await answer.json(content_type=None)
            assert answer.status == 201, found
            return str(found["id"])

    async def queries(self, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
        async with session.get(f"{self.url}/v1/queries") as answer:
            return list((await answer.json())["queries"])


@contextmanager
def served(sources: Mapping[str, Any], **settings: Any) -> Iterator[Served]:
    """Runs the server until left. `sources` as in mql.yaml; `settings` are those of `server:`."""
    document = json.dumps({"server": {"port": 0, **settings}, "sources": sources})
    command = [sys.executable, __file__, document]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield Served(child.pid, f"http://127.0.0.1:{int(child.stdout.readline())}")
    finally:
        child.communicate()


async def frames(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str]]:
    """Server-sent events as they come: name and data."""
    name = ""
    async for line in answer.content:
        if line.startswith(b"event: "):
            name = line[7:].decode().strip()
        elif line.startswith(b"data: "):
            yield name, line[6:].decode()


def client() -> aiohttp.ClientSession:
    """A client without limits on connections and time, for streams."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), read_bufsize=1 << 20
    )


async def serve(document: str) -> None:
    from mql.exec.engine import Engine
    from server.app import make_app, open_door
    from server.settings import read_settings, sources_of

    settings = read_settings(document)
    engine = Engine(sources_of(settings), workers=settings.server.workers)
    try:
        async with open_door(make_app(engine, settings)) as door:
            print(door.port, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    finally:
        engine.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
