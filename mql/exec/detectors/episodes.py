"""Episodes: from windows with a score to an alert that opens, goes on and closes.

# score >= 1      . x x . x . . . . . .        FOR 2 OF 3 WINDOWS, REARM AFTER 4 WINDOWS
# episode           o-----u---------c          opens at the second hit of three, closes after four quiet windows
# since             ^                          the first anomalous window, not the one that opened it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mql.exec.detectors.frame import Columns, Field, Flags, Floats, Ints, Where

NOT_OPEN, OPENED, GOES_ON, WORSE, CLOSED = 0, 1, 2, 3, 4
WORSE_BY = 1.5
"""An open episode is told again when its score is so many times the worst so far."""
OF_MAX = 64

EPISODE_FIELDS = (
    Field("open", "bool"),
    Field("hits", "uint64"),
    Field("since", "int64", -1),
    Field("last_hit", "int64", -1),
    Field("worst"),
    Field("way", "int8", 1),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """`needed` hits of the last `of` windows open an episode; `rearm` windows without one close it."""

    needed: int = 1
    of: int = 1
    rearm: int = 50

    def step(self, state: Columns, at: Where, window: int, score: Floats, hit: Flags) -> Turn:
        """One window. `hit`: the score is 1 or more and nothing speaks against it. Opens nothing yet: see `admit`."""
        mask = np.uint64((1 << self.of) - 1)
        hits = ((state["hits"][at] << np.uint64(1)) | hit.astype(np.uint64)) & mask
        was_open = state["open"][at].copy()
        last_hit = np.where(hit, window, state["last_hit"][at])
        opens = ~was_open & hit & (np.bitwise_count(hits) >= self.needed)
        closes = was_open & ~hit & (window - last_hit >= self.rearm)
        worse = was_open & hit & (score >= WORSE_BY * state["worst"][at])
        state["hits"][at] = hits
        state["last_hit"][at] = last_hit
        phase = np.select([opens, closes, worse, was_open], [OPENED, CLOSED, WORSE, GOES_ON], NOT_OPEN)
        return Turn(phase.astype(np.int8), _first_of(hits, window))

    def admit(
        self, state: Columns, at: Where, turn: Turn, score: Floats, way: npt.NDArray[np.int8], refused: Flags
    ) -> None:
        """Open what opens, except where there are too many (they may at their next hit), and close what closes."""
        turn.phase[refused & (turn.phase == OPENED)] = NOT_OPEN
        opened, closed = turn.phase == OPENED, turn.phase == CLOSED
        told = opened | (turn.phase == WORSE)
        is_open = (state["open"][at] | opened) & ~closed
        state["since"][at] = np.where(opened, turn.first, state["since"][at])
        state["worst"][at] = np.where(told, score, state["worst"][at])
        state["way"][at] = np.where(opened, way, state["way"][at])
        state["hits"][at] = np.where(closed, np.uint64(0), state["hits"][at])
        state["open"][at] = is_open


@dataclass(frozen=True, slots=True)
class Turn:
    """What a window changed: a phase a row, and the first window of its last hits."""

    phase: npt.NDArray[np.int8]
    first: Ints


def _first_of(hits: npt.NDArray[np.uint64], window: int) -> Ints:
    """The window of the oldest hit that is remembered."""
    _, exponent = np.frexp(hits.astype(np.float64))
    found: Ints = window - np.maximum(exponent.astype(np.int64) - 1, 0)
    return found
