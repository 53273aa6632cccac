"""A real server around a real engine, on a free port of this machine, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import http.client
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mql.exec.engine import Engine
from mql.exec.feed import Source
from server.app import make_app, open_door
from server.settings import Limits, Server, Settings
from sources.http import HttpSource

WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """The server as a client sees it."""

    def __init__(self, port: int, engine: Engine | None) -> None:
        self.port = port
        self.engine = engine

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """One request; a dict or list goes as JSON, a text as text/plain."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            data, named = packed(body, headers or {})
            connection.request(method, path, data, named)
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers=dashed(headers))

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        return self.send("POST", path, body, dashed(headers))

    def events(self, source: str, *events: Mapping[str, Any]) -> Reply:
        """Posts events to a source."""
        return self.post(f"/v1/sources/{source}/events", list(events))

    @contextmanager
    def stream(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[Stream]:
        """A streamed answer; when left, the reader leaves."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            data, named = packed(body, dashed(headers))
            connection.request(method, path, data, named)
            yield Stream(connection.getresponse())
        finally:
            if connection.sock is not None:
                connection.sock.close()
            connection.close()


class Stream:
    """An answer that is read as it comes."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.answer = answer
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}

    def line(self) -> bytes:
        """The next line; empty at the end."""
        return self.answer.readline()

    def lines(self, n: int) -> list[Any]:
        """The next n lines, as JSON."""
        return [json.loads(self.line()) for _ in range(n)]

    def rest(self) -> bytes:
        return self.answer.read()

    def event(self) -> dict[str, str]:
        """The next server-sent event: its id, event and data. Comments and retry are passed over; {} at the end."""
        found: dict[str, str] = {}
        while line := self.line():
            text = line.decode().rstrip("\n")
            if not text and "data" in found:
                return found
            name, colon, value = text.partition(": ")
            if colon and name in ("id", "event", "data"):
                found[name] = value
        return {}

    def until(self, event: str) -> dict[str, str]:
        """The next event of that name."""
        while found := self.event():
            if found.get("event") == event:
                return found
        raise AssertionError(f"the stream ended without the event {event}")

    def rows(self, n: int) -> list[Any]:
        """At least the next n rows, from events of rows."""
        found: list[Any] = []
        while len(found) < n:
            found += json.loads(self.until("rows")["data"])
        return found

    def close(self) -> None:
        self.answer.close()


def packed(body: Any, headers: Mapping[str, str]) -> tuple[bytes | None, dict[str, str]]:
    named = dict(headers)
    match body:
        case None:
            return None, named
        case bytes():
            return body, named
        case str():
            named.setdefault("Content-Type", "text/plain")
            return body.encode(), named
        case _:
            named.setdefault("Content-Type", "application/json")
            return json.dumps(body).encode(), named


def dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def served(
    sources: Sequence[Source] | None = None, limits: Limits | None = None, home: Path | None = None, **server: Any
) -> Iterator[Served]:
    """A server with these sources; without any, one HTTP source "orders", which is the default.

    `home`: where it keeps its data; a directory that goes with the server where left out.
    """
    if home is None:
        with tempfile.TemporaryDirectory() as made, served(sources, limits, Path(made), **server) as found:
            yield found
        return
    given = [HttpSource("orders")] if sources is None else list(sources)
    told = Server(port=0, stop_within=2, limits=limits or Limits(), **server)
    settings = Settings(server=told, default=given[0].info.name if given else None, base_dir=home)
    engine = Engine(given, default=settings.default)
    loop = asyncio.new_event_loop()
    up = threading.Event()
    stop = asyncio.Event()
    port: list[int] = []

    async def run() -> None:
        async with open_door(make_app(engine, settings)) as door:
            port.append(door.port)
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="server under test", daemon=True)
    thread.start()
    assert up.wait(WAIT_S), "the server did not come up"
    try:
        yield Served(port[0], engine)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
        assert not thread.is_alive(), "the server did not stop"
        loop.close()
        engine.close()
