"""Reading a running query from a test: frames until something holds, with a limit in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mql.exec.engine import Subscription
from mql.exec.frames import Ended, Failed, Frame, RowsFrame

LIMIT_S = 20.0


def read_until(
    subscription: Subscription, holds: Callable[[list[Frame]], bool], limit_s: float = LIMIT_S
) -> list[Frame]:
    """All frames from now until `holds` of them; fails after the limit."""
    found: list[Frame] = []
    ends_at = time.monotonic() + limit_s
    while not holds(found):
        assert time.monotonic() < ends_at, f"still waiting; so far: {found[-5:]}"
        subscription.wait(0.2)
        found += subscription.take()
    return found


def read_rows(subscription: Subscription, count: int, limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
    """At least so many rows."""
    return rows_of(read_until(subscription, lambda found: len(rows_of(found)) >= count, limit_s))


def read_all(subscription: Subscription, limit_s: float = LIMIT_S) -> list[Frame]:
    """To the end."""
    return read_until(subscription, lambda found: bool(found) and isinstance(found[-1], Ended | Failed), limit_s)


def rows_of(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    return [row for frame in frames if isinstance(frame, RowsFrame) for row in frame.table.to_pylist()]


def await_true(holds: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Waits for something that other threads are to bring about."""
    ends_at = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends_at, "it did not come about"
        time.sleep(0.01)
