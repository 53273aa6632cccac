"""A way to a TCP server that can be made slow, narrow, cut and dead, for one who is told its port instead.

link = Link()                   # its port is known before the server's is
link.leads_to("127.0.0.1:9092")
link.latency_s = 0.2            # each way
link.bytes_per_s = 50_000       # each way of each connection
link.cut()                      # all connections are reset
link.swallows = True            # bytes vanish without a word; who was connected then will never hear again
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from types import TracebackType

PIECE_BYTES = 16 << 10
ON_THE_WAY_MAX = 64


class Link:
    """Listens on a port of the loopback, in a thread of its own. What is set holds for the bytes that come next."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.swallows = False
        self._target: tuple[str, int] | None = None
        self._passages: set[Passage] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"link-{self.port}", daemon=True)
        self._thread.start()

    def leads_to(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._target = host, int(port)

    def heal(self) -> None:
        """As fast as it goes, from now on; what was swallowed is gone."""
        self.latency_s, self.bytes_per_s = 0.0, None
        self.swallows = False

    def cut(self, share: float = 1.0, dice: random.Random | None = None) -> None:
        """Resets all connections, or about a share of them."""
        odds = dice or random.Random(0)
        for passage in tuple(self._passages):
            if odds.random() < share:
                self._loop.call_soon_threadsafe(passage.reset)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        self._listener.setblocking(False)
        accepting = self._loop.create_task(self._accept())
        self._loop.run_forever()
        for passage in tuple(self._passages):
            passage.reset()
        tasks = [accepting, *(passage.task for passage in self._passages)]
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self) -> None:
        while True:
            come, _ = await self._loop.sock_accept(self._listener)
            if self._target is None:
                come.close()
                continue
            come.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            passage = Passage(self, come)
            self._passages.add(passage)
            passage.task = self._loop.create_task(passage.run(self._target))
            passage.task.add_done_callback(lambda _, ended=passage: self._passages.discard(ended))


class Passage:
    """One connection through a link, both ways."""

    task: asyncio.Task[None]

    def __init__(self, link: Link, near: socket.socket) -> None:
        self._link = link
        self._near = near
        self._far: socket.socket | None = None
        self._dead = False

    async def run(self, target: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        self._far = far = socket.socket()
        try:
            far.setblocking(False)
            await loop.sock_connect(far, target)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways = [loop.create_task(self._way(*ends)) for ends in ((self._near, far), (far, self._near))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # nobody is there: who came sees his connection end
        finally:
            self._near.close()
            far.close()

    def reset(self) -> None:
        """Both ends see that it is broken (RST)."""
        for end in (self._near, self._far):
            if end is not None and end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.task.cancel()

    async def _way(self, source: socket.socket, sink: socket.socket) -> None:
        """Until one end closes, and what is on its way then has come."""
        loop = asyncio.get_running_loop()
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(ON_THE_WAY_MAX)
        carrying = loop.create_task(self._carry(on_the_way, sink))
        try:
            while data := await loop.sock_recv(source, PIECE_BYTES):
                self._dead = self._dead or self._link.swallows
                if not self._dead:
                    await on_the_way.put((loop.time() + self._link.latency_s, data))
            if self._dead:
                await asyncio.Event().wait()  # even its end is not heard
            await on_the_way.put((0.0, b""))
            await carrying
        finally:
            carrying.cancel()

    async def _carry(self, on_the_way: asyncio.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, data = await on_the_way.get()
            if not data:
                return
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if self._link.bytes_per_s is not None:
                await asyncio.sleep(len(data) / self._link.bytes_per_s)
            self._dead = self._dead or self._link.swallows
            if not self._dead:
                await loop.sock_sendall(sink, data)
