"""A filter of log lines: what a library says over and over while a broker is away is written once a minute."""

from __future__ import annotations

import logging
import threading

EVERY_S = 60.0
LIBRARIES = ("aiokafka",)


class Seldom(logging.Filter):
    """Of the lines that come from one place in a library, the first of each minute passes. It says how many did not."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._passed_s: dict[tuple[str, int], float] = {}
        self._held: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in LIBRARIES:
            return True
        place = record.pathname, record.lineno
        with self._guard:
            if record.created - self._passed_s.get(place, -EVERY_S) < EVERY_S:
                self._held[place] = self._held.get(place, 0) + 1
                return False
            self._passed_s[place] = record.created
            held = self._held.pop(place, 0)
        if held:
            record.msg, record.args = f"{record.getMessage()} (and {held} more like this)", ()
        return True
