"""A shape that grows while events come: all of the first ones are looked at, later a few."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from mql.exec.items import Chunk
from mql.learn import learn
from mql.schema import Shape
from sources.pieces import lines_list

LEARN_FIRST = 2_000
LEARN_PER_CHUNK = 200
KEEP_SAMPLES = 100


class Learner:
    """Learns a source's shape from the chunks that pass, and keeps the newest texts as samples. Thread-safe."""

    def __init__(self, shape: Shape | None = None, open: bool = False) -> None:
        self.lock = threading.Lock()
        self.open = open
        self.shape = shape or Shape(open=open, events=0)
        self.samples: deque[bytes] = deque(maxlen=KEEP_SAMPLES)

    def see(self, chunk: Chunk) -> None:
        """Looks at the head of a chunk: at more of it while little is known."""
        with self.lock:
            seen = self.shape.events or 0
            lines = lines_list(chunk, LEARN_PER_CHUNK if seen < LEARN_FIRST else 1)
            self.samples.extend(lines[-KEEP_SAMPLES:])
            events = parsed(lines)
            if events:
                self.shape = learn(events, previous=self.shape if seen else None, open=self.open)

    def newest(self, n: int) -> Sequence[bytes]:
        with self.lock:
            return tuple(self.samples)[-n:] if n > 0 else ()


def parsed(lines: Iterable[bytes]) -> list[Any]:
    """The events in these lines; what is no JSON is left out (the decoder makes it a dead letter)."""
    events = []
    for line in lines:
        try:
            events.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
    return events
