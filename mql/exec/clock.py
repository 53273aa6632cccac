"""The one module that knows what time it is; everything else is told."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now_us(self) -> int:
        """Microseconds since the epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back, for timeouts and rates."""
        ...


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is moved: for tests and replays."""

    def __init__(self, us: int = 0) -> None:
        self._us = us

    def now_us(self) -> int:
        return self._us

    def monotonic_s(self) -> float:
        return self._us / 1e6

    def advance(self, us: int) -> None:
        self._us += us
