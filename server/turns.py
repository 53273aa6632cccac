"""Many things that mostly wait, done by a few threads: each is a generator that yields how long it would wait.

A thousand jobs are a thousand generators, not a thousand threads: what wakes all of them at once (the end of a window)
would have the threads stand in line for the interpreter's lock, each looking up every five milliseconds.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Generator
from itertools import count
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Waits: TypeAlias = Generator[float, None, T]
"""Yields for how many seconds it would wait, if nobody rings before; gives its result in the end."""

log = logging.getLogger("server")


class Turns:
    """The threads, and who waits for them. Thread-safe. Threads are there while there is something to do."""

    def __init__(self, threads: int, name: str) -> None:
        self.changed = threading.Condition()
        self._most = threads
        self._name = name
        self._threads = 0
        self._idle = 0
        self._unfinished = 0
        self._ready: deque[Turn] = deque()
        self._due: list[tuple[float, int, Turn]] = []
        self._looks_at_s: float | None = None
        self._numbers = count()

    def begin(self, turn: Turn) -> None:
        with self.changed:
            self._unfinished += 1
            self.make_ready(turn)

    def make_ready(self, turn: Turn) -> None:
        """It is next, behind those that are ready already."""
        turn.state = "ready"
        self._ready.append(turn)
        if self._idle < len(self._ready) and self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        elif self._idle:
            self.changed.notify()

    def wait(self, turn: Turn, wait_s: float) -> None:
        """It is ready in so many seconds, if nobody rings before."""
        due_s = time.monotonic() + wait_s
        turn.state, turn.number = "waits", next(self._numbers)
        heapq.heappush(self._due, (due_s, turn.number, turn))
        if self._looks_at_s is not None and due_s < self._looks_at_s:
            self.changed.notify_all()

    def finish(self, turn: Turn) -> None:
        turn.state = "over"
        self._unfinished -= 1
        if not self._unfinished:
            self.changed.notify_all()

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            turn.step()

    def _next(self) -> Turn | None:
        """Who is ready, once somebody is; None where there is nobody any more."""
        with self.changed:
            while True:
                self._wake_those_due()
                if self._ready:
                    turn = self._ready.popleft()
                    turn.state = "runs"
                    if self._idle and (self._ready or self._due):
                        self.changed.notify()
                    return turn
                if not self._unfinished:
                    self._threads -= 1
                    self._due.clear()
                    return None
                self._rest()

    def _wake_those_due(self) -> None:
        """Those whose time has come. Who was rung meanwhile does not wait any more, or waits anew."""
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            _, number, turn = heapq.heappop(self._due)
            if turn.state == "waits" and turn.number == number:
                self.make_ready(turn)

    def _rest(self) -> None:
        """Until something changes. One of the threads looks at the clock for all of them."""
        self._idle += 1
        if self._looks_at_s is None and self._due:
            self._looks_at_s = self._due[0][0]
            self.changed.wait(max(0.0, self._looks_at_s - time.monotonic()))
            self._looks_at_s = None
        else:
            self.changed.wait()
        self._idle -= 1


class Turn:
    """One of them. `ring` has it go on at once; it never runs in two threads.

    `state` (new, waits, ready, runs, rung while it runs, over) and `number` (which of its waits it is in) are the
    business of its `Turns`, under their lock.
    """

    def __init__(self, turns: Turns, life: Waits[None]) -> None:
        self.state = "new"
        self.number = -1
        self._turns = turns
        self._life = life
        self._thread: int | None = None
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def begin(self) -> None:
        self._turns.begin(self)

    def ring(self) -> None:
        with self._turns.changed:
            if self.state == "waits":
                self._turns.make_ready(self)
            elif self.state == "runs":
                self.state = "rung"

    def join(self, timeout_s: float) -> None:
        """Until it is over, or the time is; at once where it is itself that asks."""
        if self._thread != threading.get_ident():
            self._over.wait(timeout_s)

    def step(self) -> None:
        """Goes on until it waits again."""
        self._thread = threading.get_ident()
        wait_s: float | None = None
        try:
            wait_s = next(self._life)
        except StopIteration:
            pass
        except Exception:
            log.exception("a job's life ended by mistake")
        self._thread = None
        with self._turns.changed:
            if wait_s is None:
                self._turns.finish(self)
            elif self.state == "rung":
                self._turns.make_ready(self)
            else:
                self._turns.wait(self, wait_s)
        if wait_s is None:
            self._over.set()
