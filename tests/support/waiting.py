"""Waiting for what a server comes to by itself: for as short as can be, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from support.serving import Served

WAIT_S = 15.0


def wait_for(what: Callable[[], Any], within_s: float = WAIT_S) -> Any:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"it did not come to that: {what()}")


def state_of(server: Served, name: str) -> str:
    return str(server.get(f"/v1/jobs/{name}").json()["state"])


def wait_for_state(server: Served, name: str, state: str) -> None:
    wait_for(lambda: state_of(server, name) == state)
