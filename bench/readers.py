"""What readers cost: a thousand of one query, and some that stop reading.

    python bench/readers.py [readers]

Every reader is a connection of server-sent events. Delays are from an event's arrival to its row at the client, at
every fiftieth reader; the client is on the same machine, so its share of them is in there. Readers that stop reading
are sent 1,000 rows of all columns a second; what they cost is the server's memory, against the same time before.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import statistics
import sys
import time

import aiohttp
import numpy as np
from live import seconds_of
from serving import Served, client, served

RATE = 2_000
MEASURE_S = 8.0
STUCK = 20
STUCK_S = 15.0
SAMPLED = 50
FEW_ROWS = "SELECT arrival_time() AS at, path FROM requests WHERE status >= 500"
MANY_ROWS = "SELECT *, arrival_time() AS at FROM requests WHERE bytes > 10000"
SOURCES = {"requests": {"kind": "generator", "rate": RATE, "rhythm": 0}}


async def main(readers: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with served(SOURCES) as server:
        async with client() as session:
            await many(server, session, readers)
            await stuck(server, session)


async def many(server: Served, session: aiohttp.ClientSession, readers: int) -> None:
    id = await server.start(session, FEW_ROWS)
    print(
        f"{'readers of one query':<24}{'MiB':>8}{'KiB each':>10}{'cores':>8}{'delay ms':>10}{'p99':>8}{'rows each':>11}"
    )
    opened: list[Connection] = []
    before = 0.0
    for count in (1, readers):
        while len(opened) < count:
            opened.append(await connect(server, f"/v1/queries/{id}/stream", len(opened) % SAMPLED == 0))
        await asyncio.sleep(2.0)
        for each in opened:
            each.rows, each.delays = 0, []
        cpu, began = server.cpu_s, time.perf_counter()
        await asyncio.sleep(MEASURE_S)
        cores = (server.cpu_s - cpu) / (time.perf_counter() - began)
        delays = [delay for each in opened for delay in each.delays]
        memory = server.memory_mib
        each_kib = (memory - before) * 1024 / (count - 1) if count > 1 else 0.0
        before = before or memory
        rows = statistics.mean(each.rows for each in opened if each.sampled)
        print(
            f"{count:<24}{memory:>8.0f}{each_kib:>10.1f}{cores:>8.2f}{statistics.median(delays):>10.0f}"
            f"{np.percentile(delays, 99):>8.0f}{rows:>11.0f}",
            flush=True,
        )
    for each in opened:
        each.close()
    await asyncio.sleep(1.0)


async def stuck(server: Served, session: aiohttp.ClientSession) -> None:
    id = await server.start(session, MANY_ROWS)
    good = await connect(server, f"/v1/queries/{id}/stream", True)
    print(f"\n{'readers that stop':<24}{'MiB':>8}{'KiB each':>10}{'delay ms':>10}{'p99':>8}   of one that reads on")
    await asyncio.sleep(STUCK_S)
    before = server.memory_mib
    report(0, before, 0.0, good)
    held = [stop_reading(server, f"/v1/queries/{id}/stream") for _ in range(STUCK)]
    await asyncio.sleep(STUCK_S)
    report(STUCK, server.memory_mib, (server.memory_mib - before) * 1024 / STUCK, good)
    for each in held:
        each.close()
    good.close()


def report(count: int, memory: float, each_kib: float, good: Connection) -> None:
    delays, good.delays = good.delays, []
    median, late = np.percentile(delays, (50, 99))
    print(f"{count:<24}{memory:>8.0f}{each_kib:>10.1f}{median:>10.0f}{late:>8.0f}", flush=True)


class Connection(asyncio.Protocol):
    """A reader of server-sent events; looks into the rows only where it is `sampled`."""

    def __init__(self, path: str, sampled: bool) -> None:
        self.path = path
        self.sampled = sampled
        self.rows = 0
        self.delays: list[float] = []
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(asked(self.path))

    def data_received(self, data: bytes) -> None:
        if not self.sampled:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        now = time.time()
        for line in lines:
            if line.startswith(b"data: ["):
                rows = json.loads(line[6:])
                self.rows += len(rows)
                self.delays += [(now - seconds_of(row["at"])) * 1000 for row in rows]

    def close(self) -> None:
        self.transport.close()


async def connect(server: Served, path: str, sampled: bool) -> Connection:
    loop = asyncio.get_running_loop()
    _, made = await loop.create_connection(lambda: Connection(path, sampled), "127.0.0.1", port_of(server))
    return made


def stop_reading(server: Served, path: str) -> socket.socket:
    """A reader that asks and never reads."""
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.connect(("127.0.0.1", port_of(server)))
    opened.sendall(asked(path))
    return opened


def asked(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()


def port_of(server: Served) -> int:
    return int(server.url.rpartition(":")[2])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
