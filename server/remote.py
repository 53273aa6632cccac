"""A server's answers as the same frames that an engine in this process gives."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
import orjson
import pyarrow as pa

from mql.errors import MqlError
from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, Progress, RowsFrame, Seal, Warn
from server.encode import ARROW_TYPES
from server.exits import Unreachable
from server.hints import as_commands

WAITING_MAX = 200
LOOK_S = 0.2
CONNECT_S = 5.0
LINE_MAX = 64 << 20


def call(
    base: str,
    method: str,
    path: str,
    body: Any = None,
    params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
) -> Any:
    """One request; the JSON that comes back, None where there is no body. MqlError for a problem, Unreachable where
    nobody answers. A body of bytes is YAML, any other becomes JSON."""
    said: dict[str, Any] = {"json": body}
    if isinstance(body, bytes):
        said = {"data": body, "headers": {"Content-Type": "application/yaml"}}

    async def go() -> Any:
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S, total=120)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True, headers=who()) as session:
            answer = await session.request(method, url_of(base, path), params=params, **said)
            if answer.status >= 400:
                raise problem_of(answer.status, await answer.read(), base)
            body_told = await answer.read()
            return orjson.loads(body_told) if body_told else None

    try:
        return asyncio.run(go())
    except (aiohttp.ClientConnectionError, aiohttp.InvalidURL, TimeoutError) as error:
        raise Unreachable(f"no answer from {base}: {error}") from error


class RemoteAnswer:
    """A query that runs on a server. A thread of its own reads; at most WAITING_MAX frames wait for us."""

    def __init__(self, base: str, ask: Mapping[str, Any]) -> None:
        self.base = base
        self.ask = ask
        self.frames_in: queue.Queue[Frame | Exception] = queue.Queue(WAITING_MAX)
        self.columns: Sequence[tuple[str, str]] = ()
        self.loop = asyncio.new_event_loop()
        self.task: asyncio.Task[None] | None = None
        self.stopped: str | None = None
        self.thread = threading.Thread(target=self.run, name="server's answer", daemon=True)
        self.thread.start()

    def frames(self) -> Generator[Frame | None, None, None]:
        """The frames, and None now and then while nothing comes."""
        try:
            while True:
                try:
                    found = self.frames_in.get(timeout=LOOK_S)
                except queue.Empty:
                    yield None
                    continue
                if isinstance(found, Exception):
                    raise found
                yield found
                if isinstance(found, Ended | Failed):
                    return
        finally:
            self.leave()

    def leave(self) -> None:
        """Nobody takes frames any more: the thread that waits to give one is let go, and ends."""
        while self.thread.is_alive():
            self.stop("left")
            with suppress(queue.Empty):
                self.frames_in.get(timeout=LOOK_S / 10)

    def stop(self, reason: str) -> None:
        self.stopped = reason
        with suppress(RuntimeError):  # the loop has ended by itself meanwhile
            self.loop.call_soon_threadsafe(lambda: None if self.task is None else self.task.cancel())

    def run(self) -> None:
        try:
            self.frames_in.put(self.loop.run_until_complete(self.read()))
        finally:
            self.loop.close()

    async def read(self) -> Frame | Exception:
        """Reads to the end, and gives the last frame, or what broke it off."""
        self.task = asyncio.current_task()
        try:
            return await self.pour()
        except asyncio.CancelledError:
            return Ended(self.stopped or "stopped")
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.ServerTimeoutError) as error:
            return Unreachable(f"no answer from {self.base}: {error}")
        except (aiohttp.ClientError, OSError) as error:
            return Unreachable(f"the connection to {self.base} broke off: {error}")
        except MqlError as error:
            return error

    async def pour(self) -> Frame | Exception:
        """Puts all frames but the last, which it returns."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        url = url_of(self.base, "/v1/queries")
        form = {"format": "ndjson", "frames": "all"}
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20, trust_env=True, headers=who()) as session,
            session.post(url, params=form, json=dict(self.ask)) as answer,
        ):
            if answer.status >= 400:
                raise problem_of(answer.status, await answer.read(), self.base)
            async for line in lines_of(answer.content):
                frame = self.frame(orjson.loads(line))
                if isinstance(frame, Ended | Failed):
                    return frame
                await asyncio.to_thread(self.frames_in.put, frame)
        return Unreachable(f"the server at {self.base} ended the stream without a word")

    def frame(self, told: Mapping[str, Any]) -> Frame:
        event, data, cursor = told["event"], told["data"], str(told.get("id", ""))
        match event:
            case "rows":
                return RowsFrame(table_of(data, self.columns), cursor)
            case "meta":
                self.columns = [(column["name"], column["type"]) for column in data["schema"]]
                return Meta(data)
            case "seal":
                return Seal(data, cursor)
            case "error":
                return Failed({**data, "hint": as_commands(data.get("hint"), self.base)})
            case "end":
                return Ended(data.pop("reason"), data)
            case _:
                return OTHERS[event](data)


OTHERS: Mapping[str, Callable[[Mapping[str, Any]], Frame]] = {
    "progress": Progress,
    "phase": Phase,
    "gap": Gap,
    "warn": Warn,
}


def who() -> Mapping[str, str]:
    """The token of the environment, for servers that need one."""
    token = os.environ.get("MQL_TOKEN")
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def url_of(base: str, path: str) -> str:
    return (base if "://" in base else f"http://{base}").rstrip("/") + path


async def lines_of(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length up to LINE_MAX."""
    rest = bytearray()
    async for data in content.iter_any():
        rest += data
        *lines, last = rest.split(b"\n")
        for line in lines:
            yield bytes(line)
        rest = bytearray(last)
        if len(rest) > LINE_MAX:
            raise MqlError("the server sent a line that never ends", code="bad-answer")


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> pa.Table:
    """Rows of JSON as a table again, with the types that the server told."""
    types = dict(columns)
    names = list(dict.fromkeys(name for row in rows[:1] for name in row))
    return pa.table({name: array_of([row.get(name) for row in rows], types.get(name)) for name in names})


def array_of(values: list[Any], type: str | None) -> pa.Array:
    if type == "JSON":
        return pa.array([None if value is None else orjson.dumps(value).decode() for value in values], pa.string())
    if type in ("TIMESTAMP", "DATE"):
        texts = pa.array([None if value is None else value.removesuffix("Z") for value in values], pa.string())
        return texts.cast(ARROW_TYPES[type])
    wanted = ARROW_TYPES.get(type or "")
    if wanted is not None and type not in ("INTERVAL", "NULL"):
        return pa.array(values, wanted)
    return pa.array(values)


def problem_of(status: int, body: bytes, base: str) -> MqlError:
    """A problem document of the server at `base` as the error it tells of."""
    try:
        told = orjson.loads(body)
        return MqlError(
            str(told["detail"]).removeprefix("/"), hint=as_commands(told.get("hint"), base), code=str(told["code"])
        )
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return MqlError(f"the server answered {status}", code="bad-answer")
