"""The webhook sink: a job's rows posted to an address, signed, each at least once, in order.

The result log is its outbox: the sink reads it from a place of its own, kept in a file, and moves that place on when
the other side has answered 2xx. A body that is sent again has the same Idempotency-Key. What is refused for good, or
too often, goes to a file of dead letters, and the sink goes on.

Only addresses of the public internet are dialled, unless the operator allows more: the address that is really connected
to is what is checked, so neither a name that resolves to another address the second time nor a redirect gets around it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import random
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa

from mql.errors import MqlError
from mql.exec.clock import Clock
from mql.exec.files import replace_file
from mql.exec.frames import Meta, RowsFrame
from server import encode
from server.resultlog import LogReading, ResultLog

log = logging.getLogger("server")

BATCH_ROWS = 500
REPLY_BYTES = 64 << 10
TIMEOUT_S = 5.0
WAITS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TRIES_MAX = 12
LOOK_S = 1.0
JOIN_S = 10.0
DEAD_BYTES_MAX = 16 << 20
RETRIED = (408, 425, 429)


class Forbidden(OSError):
    """The address is none that may be dialled."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Which addresses may be dialled: public ones, and these networks; `plain`: http too, not https alone."""

    allowed: tuple[str, ...] = ()
    plain: bool = False

    def permits(self, text: str) -> bool:
        address = bare(ipaddress.ip_address(text.partition("%")[0]))
        if any(address in ipaddress.ip_network(network) for network in self.allowed):
            return True
        return address.is_global and not address.is_multicast and not is_tunnel(address)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
TUNNELS = tuple(ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
"""IPv6 networks whose addresses lead to IPv4 ones, private ones among them."""


def bare(address: Address) -> Address:
    """What `::ffff:127.0.0.1` stands for."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_tunnel(address: Address) -> bool:
    return isinstance(address, ipaddress.IPv6Address) and any(address in network for network in TUNNELS)


def guarded_socket(reach: Reach) -> Callable[[Any], socket.socket]:
    """Makes the sockets of a connector: the address that is about to be connected to is the one that is checked."""

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, target = info
        if not reach.permits(str(target[0])):
            raise Forbidden(f"{target[0]} is no address that may be dialled")
        return socket.socket(family, kind, protocol)

    return make


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and the secret that bodies are signed with."""

    url: str
    secret: str | None = None


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 over `timestamp.body`: who knows the secret can tell who sent it, and when."""
    return "v1=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def check_target(target: Target, reach: Reach) -> None:
    """MqlError for an address that could never be dialled."""
    scheme = target.url.partition("://")[0].lower()
    if scheme != "https" and not (reach.plain and scheme == "http"):
        hint = "Say https://…; the operator allows http by server.webhooks.plain in mql.yaml."
        raise MqlError(f'a webhook is not sent to "{target.url[:80]}"', hint=hint, code="invalid-sink")


class Webhook:
    """Sends a log's rows to one target, from a thread of its own, until it is closed."""

    def __init__(self, name: str, log: ResultLog, target: Target, reach: Reach, directory: Path, clock: Clock) -> None:
        self.name = name
        self.log = log
        self.target = target
        self.reach = reach
        self.directory = directory
        self.clock = clock
        self.sent = 0
        self.dead = 0
        self.trouble: str | None = None
        self._closing = threading.Event()
        self._reading: LogReading | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._place = directory / "sent"
        self._thread = threading.Thread(target=self._run, name=f"mql-webhook-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._reading is not None:
            self._reading.ring()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)

    def told(self) -> Mapping[str, Any]:
        return {"url": self.target.url, "sent": self.sent, "dead": self.dead, "trouble": self.trouble}

    def _run(self) -> None:
        try:
            asyncio.run(self._send_all())
        except Exception:
            log.exception("the webhook of job %s has ended", self.name)
            self.trouble = "it has ended by an error of ours; see the server's log"

    async def _send_all(self) -> None:
        self._reading = reading = self._opened()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(socket_factory=guarded_socket(self.reach), force_close=True)
        try:
            async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
                while not self._closing.is_set():
                    for frame in reading.take():
                        if isinstance(frame, RowsFrame) and not await self._send(session, frame):
                            return
                    if reading.ended:  # the job stands still; what comes when it runs again is sent too
                        reading.close()
                        self._reading = reading = self._opened()
                    await asyncio.to_thread(reading.wait, LOOK_S)
        finally:
            reading.close()

    def _opened(self) -> LogReading:
        cursor = self._place.read_text() if self._place.exists() else None
        return self.log.reading(Meta({}), cursor, live=False)

    async def _send(self, session: aiohttp.ClientSession, frame: RowsFrame) -> bool:
        """A frame's rows, in bodies of a bounded size; then the place moves on. False where it is told to close."""
        for at in range(0, frame.table.num_rows, BATCH_ROWS):
            piece = frame.table.slice(at, BATCH_ROWS)
            if not await self._deliver(session, f"{frame.cursor}+{at}", body_of(self.name, piece)):
                return False
            self.sent += piece.num_rows
        replace_file(self._place, frame.cursor.encode())
        return True

    async def _deliver(self, session: aiohttp.ClientSession, key: str, body: bytes) -> bool:
        for tried in range(TRIES_MAX):
            refused = await self._post(session, key, body)
            if refused is None:
                self.trouble = None
                return True
            self.trouble, for_good = refused
            if for_good:
                break
            wait_s = WAITS_S[min(tried, len(WAITS_S) - 1)] * random.uniform(0.5, 1.5)
            if await asyncio.to_thread(self._closing.wait, wait_s):
                return False
        self._bury(key, body)
        return True

    async def _post(self, session: aiohttp.ClientSession, key: str, body: bytes) -> tuple[str, bool] | None:
        """None where it was taken; else why not, and whether that is for good. The answer's text is never shown."""
        timestamp = self.clock.now_us() // 1_000_000
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "X-MQL-Timestamp": str(timestamp)}
        if self.target.secret is not None:
            headers["X-MQL-Signature"] = signature(self.target.secret, timestamp, body)
        try:
            async with session.post(self.target.url, data=body, headers=headers, allow_redirects=False) as answer:
                await answer.content.read(REPLY_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"it cannot be reached: {type(error).__name__}", isinstance(error, Forbidden)
        if answer.status < 300:
            return None
        return f"it answered {answer.status}", answer.status < 500 and answer.status not in RETRIED

    def _bury(self, key: str, body: bytes) -> None:
        """Into the file of dead letters, whose oldest go when it is too big."""
        self.dead += 1
        path = self.directory / "dead.ndjson"
        if path.exists() and path.stat().st_size > DEAD_BYTES_MAX:
            path.replace(path.with_suffix(".old.ndjson"))
        letter = {"key": key, "why": self.trouble, "body": json.loads(body), "at_us": self.clock.now_us()}
        with path.open("ab") as file:
            file.write(encode.dumps(letter) + b"\n")


def body_of(job: str, rows: pa.Table) -> bytes:
    return encode.dumps({"job": job, "rows": encode.rows_of(rows)})
