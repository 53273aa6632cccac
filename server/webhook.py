"""Letters over HTTP: posted, signed, sent again until they are taken, and in order. Rows of a job, or its alerts.

A body that is sent again has the same Idempotency-Key. What is refused for good, or too often, goes to the dead
letters, and the next is sent. Of a body that is refused for what is in it, smaller ones are tried.

Only addresses of the public internet are dialled, unless the operator allows more: the address that is really connected
to is what is checked, so neither a name that resolves to another address the second time nor a redirect gets around it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from mql.errors import MqlError
from mql.exec.clock import Clock
from mql.exec.files import replace_file
from server import encode
from server.delivery import Closing
from server.settings import Settings
from sources.reach import Forbidden, Reach
from sources.sinks.contract import Portion, Refused

BATCH_ROWS = 500
REPLY_BYTES = 64 << 10
TIMEOUT_S = 5.0
WAITS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TRIES_MAX = 12
RETRIED = (408, 425, 429)
OF_ROWS = (400, 413, 422)
"""It is what is in the body that is refused, so a smaller one may be taken."""
HALVINGS_MAX = 64


def reach_of(settings: Settings) -> Reach:
    """What the operator allows."""
    return Reach(settings.server.webhooks.allowed, settings.server.webhooks.plain)


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


@dataclass(frozen=True, slots=True)
class Letter:
    """One body to be posted. `key`: the same whenever the same is sent again."""

    url: str
    key: str
    body: bytes
    secret: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class NotTaken(Refused):
    """A letter that is refused for good, or was too often. `of_rows`: for what is in it."""

    def __init__(self, why: str, of_rows: bool) -> None:
        super().__init__(why)
        self.of_rows = of_rows


@dataclass(frozen=True, slots=True)
class Answered:
    """Why a letter was not taken, and whether that is for good. `status`: where there was an answer."""

    why: str
    for_good: bool
    status: int | None = None


class Courier:
    """Posts letters, one after the other, each until it is taken, or refused for good or too often.

    Of one thread. `id`: what its letters' keys begin with. `per_minute`: at most so many letters. `closing`
    interrupts its waits. `bury`: keeps the text of a letter that is not taken, and why.
    """

    def __init__(
        self,
        id: str,
        reach: Reach,
        directory: Path,
        clock: Clock,
        closing: threading.Event,
        per_minute: float | None = None,
        bury: Callable[[str, str], None] = lambda text, why: None,
    ) -> None:
        self.id = id
        self.reach = reach
        self.directory = directory
        self.clock = clock
        self.closing = closing
        self.trouble: str | None = None
        self._bury = bury
        self._apart_s = 60 / per_minute if per_minute else 0.0
        self._due_s = 0.0
        self._runner: asyncio.Runner | None = None
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._runner = asyncio.Runner()
        self._session = self._runner.run(self._opened())

    def close(self) -> None:
        runner, session = self._runner, self._session
        self._runner = self._session = None
        if runner is not None:
            if session is not None:
                runner.run(session.close())
            runner.close()

    def deliver(self, letter: Letter) -> None:
        """Until it is taken. NotTaken where it never will be, Closing where it is told to close meanwhile."""
        found: Answered | None = None
        for tried in range(TRIES_MAX):
            if not self._waited(self._due_s - self.clock.monotonic_s()):
                raise Closing
            found = self.post(letter)
            if found is None:
                self.trouble = None
                return
            self.trouble = found.why
            if found.for_good:
                raise NotTaken(found.why, found.status in OF_ROWS)
            if not self._waited(WAITS_S[min(tried, len(WAITS_S) - 1)] * random.uniform(0.5, 1.5)):
                raise Closing
        assert found is not None
        raise NotTaken(f"{found.why}, {TRIES_MAX} times", of_rows=False)

    def deliver_or_bury(self, letter: Letter) -> None:
        """The same, for what is no row: where it is not taken it is kept among the dead letters."""
        try:
            self.deliver(letter)
        except NotTaken as refused:
            body = json.loads(letter.body)
            if isinstance(body, dict):
                body.pop("routing_key", None)  # PagerDuty's secret is part of its bodies
            self._bury(encode.dumps(body).decode(), str(refused))

    def post(self, letter: Letter) -> Answered | None:
        """Once. None where it was taken."""
        assert self._runner is not None, "it is not open"
        self._due_s = self.clock.monotonic_s() + self._apart_s
        return self._runner.run(self._post(letter))

    def _waited(self, wait_s: float) -> bool:
        """Whether the time is over, and nobody has told to close."""
        return not (self.closing.wait(wait_s) if wait_s > 0 else self.closing.is_set())

    async def _opened(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(socket_factory=guarded_socket(self.reach), force_close=True)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        return aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False)

    async def _post(self, letter: Letter) -> Answered | None:
        """The answer's text is never shown."""
        assert self._session is not None
        timestamp = self.clock.now_us() // 1_000_000
        headers = {"Content-Type": "application/json", "Idempotency-Key": letter.key, **letter.headers}
        headers["X-MQL-Timestamp"] = str(timestamp)
        if letter.secret is not None:
            headers["X-MQL-Signature"] = signature(letter.secret, timestamp, letter.body)
        try:
            async with self._session.post(
                letter.url, data=letter.body, headers=headers, allow_redirects=False
            ) as answer:
                await answer.content.read(REPLY_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Answered(f"it cannot be reached: {type(error).__name__}", isinstance(error, Forbidden))
        if answer.status < 300:
            return None
        for_good = answer.status < 500 and answer.status not in RETRIED
        return Answered(f"it answered {answer.status}", for_good, answer.status)


class WebhookSink:
    """A job's rows to one target, record by record of its log, in bodies of a bounded size."""

    rows_max = BATCH_ROWS
    whole_frames = True

    def __init__(self, job: str, target: Target, courier: Courier) -> None:
        self.job = job
        self.target = target
        self.courier = courier
        self._place = courier.directory / "sent"
        self._under_way = ""
        self._settled: set[int] = set()

    def open(self) -> int:
        self.courier.open()
        return int(self._place.read_text()) if self._place.exists() else 0

    def write(self, portion: Portion) -> None:
        """Body by body. After one that is refused it is called with the same portion again, and goes on behind it."""
        name = portion.again or str(portion.end)
        if name != self._under_way:
            self._under_way, self._settled = name, set()
        for rows in bodies(portion.rows.num_rows):
            if rows.start in self._settled:
                continue
            refused = tuple(self._refused(portion, rows))
            self._settled.add(rows.start)
            if refused:
                raise Refused(refused[0][1], {row: why for part, why in refused for row in part})
        self._under_way = ""
        replace_file(self._place, str(portion.end).encode())

    def _refused(self, portion: Portion, rows: range) -> Iterator[tuple[range, str]]:
        """Posts these rows; gives those of them that were refused, and why."""
        waiting, tried = [rows], 0
        while waiting:
            part = waiting.pop()
            try:
                self.courier.deliver(self._letter(portion, part, whole=part == rows))
            except NotTaken as refused:
                if len(part) == 1 or not refused.of_rows or tried >= HALVINGS_MAX:
                    yield part, str(refused)
                    continue
                half = part.start + len(part) // 2
                waiting += [range(half, part.stop), range(part.start, half)]
                tried += 1

    def _letter(self, portion: Portion, rows: range, *, whole: bool) -> Letter:
        found = portion.rows.slice(rows.start, len(rows))
        body = encode.dumps({"job": self.job, "rows": encode.rows_of(found)})
        key = f"{self.courier.id}-{portion.again or portion.end}+{rows.start}" + ("" if whole else f"-{len(rows)}")
        return Letter(self.target.url, key, body, self.target.secret)

    def missed(self, why: str) -> None:
        """What is gone is told by who drives the sink."""

    def idle(self) -> None:
        """All that it took is sent."""

    def told(self) -> Mapping[str, Any]:
        return {"url": self.target.url, "trouble": self.courier.trouble}

    def close(self) -> None:
        self.courier.close()


def bodies(rows: int) -> Iterator[range]:
    """The rows of each body."""
    for at in range(0, rows, BATCH_ROWS):
        yield range(at, min(at + BATCH_ROWS, rows))
