"""A slow level and a profile of the day (or of another period) over it: what is usual at this time.

Slots of the profile go by event time in a named zone, so that a day's rhythm keeps its place when clocks change. A slot
counts after two visits. The level is slow on purpose: one that follows the day leaves nothing for the profile to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np

from mql.exec.detectors.frame import Columns, Field, Flags, Floats, Ints, Where, half_life

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONDAY_US = 4 * 86_400_000_000
"""The epoch was a Thursday: weeks are counted from the Monday after."""
VISITS_KNOWN = 2
VISITS_MAX = 250
FIRST_VISITS = 0.1
"""How much one window counts while a slot is visited for the first and second time."""


@dataclass(frozen=True)
class Profile:
    """`period_us` is cut into `slots`; `gamma`: how much a slot learns from one visit; a window is `window_us` long."""

    period_us: int
    slots: int
    gamma: float
    timezone: str
    window_us: int
    alpha: float
    half_life: float

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def fields(self) -> tuple[Field, ...]:
        return (
            Field("level"),
            Field("size"),
            Field("slot", "int32", -1),
            Field("profile", "float32", width=self.slots, by_column=True),
            Field("visits", "uint8", width=self.slots, by_column=True),
        )

    def slot_of(self, us: int) -> int:
        """Which slot of the profile a moment belongs to, by the clock on the wall."""
        moment = EPOCH + timedelta(microseconds=us)
        offset = moment.astimezone(self.zone).utcoffset()
        local = us + (0 if offset is None else offset // timedelta(microseconds=1))
        return (local - MONDAY_US) % self.period_us * self.slots // self.period_us

    def step(self, state: Columns, at: Where, n: Ints, x: Floats, start_us: int) -> Usual:
        """What is expected of these values, and then learn from them. `n` tells how many came before."""
        slot = self.slot_of(start_us)
        seasonal = state["profile"][at, slot].astype(np.float64)
        visits = state["visits"][at, slot]
        size = state["size"][at].copy()
        known: Flags = visits >= VISITS_KNOWN
        level = np.where(n == 0, x, state["level"][at])
        expected = level + seasonal * known
        error = x - expected
        # A visit is the whole time in a slot: its windows together weigh `gamma`.
        visit = max(1.0, self.period_us / self.slots / self.window_us)
        gamma = 1 - (1 - self.gamma) ** (1 / visit)
        learn: Floats | float = gamma
        if not known.all():
            learn = np.where(visits == 0, 1.0, np.where(known, gamma, max(gamma, FIRST_VISITS)))
        first = 1.0 / (n + 1)
        moved = level + np.maximum(self.alpha, first) * error
        again = state["slot"][at] != slot
        state["profile"][at, slot] = seasonal + learn * (x - moved - seasonal)
        state["visits"][at, slot] = np.minimum(visits + again, VISITS_MAX)
        state["slot"][at] = slot
        state["level"][at] = moved
        state["size"][at] = size + np.maximum(half_life(self.half_life), first) * (np.abs(error) - size)
        return Usual(expected, error, size, known)


@dataclass(frozen=True, slots=True)
class Usual:
    """What was expected, how far the values lie from it, how far they usually do; and where the profile has a say."""

    expected: Floats
    error: Floats
    size: Floats
    known: Flags
