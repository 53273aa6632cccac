"""`seasonal`: a level and a profile of the day or the week; the residuals are judged by their likelihood.

A slot of the profile counts after two visits; before that the level alone is expected there. Slots go by event time
in a named zone, so that a day's rhythm keeps its place when clocks change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np

from mql.exec.detectors.auto import SPREAD_OF_MEAN_DEVIATION
from mql.exec.detectors.frame import Columns, Field, Scored, Seen, floored, half_life, in_blocks, number, numbers
from mql.exec.detectors.likelihood import Likelihood

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONDAY_US = 4 * 86_400_000_000
"""The epoch was a Thursday: weeks are counted from the Monday after."""
VISITS_MAX = 250
FIRST_VISITS = 0.1
"""How much one window counts while a slot is visited for the first and second time."""


@dataclass(frozen=True)
class Seasonal:
    """`period_us` is cut into `slots`; `gamma`: how much a slot learns from one visit; a window is `window_us` long."""

    period_us: int = 86_400_000_000
    slots: int = 48
    gamma: float = 0.25
    timezone: str = "UTC"
    window_us: int = 10_000_000
    alpha: float = 0.05
    half_life: float = 1000
    short: int = 10
    long: float = 2000
    threshold: float = 4
    warmup: int = 100
    relative_floor: float = 0.0
    absolute_floor: float = 0.0

    @cached_property
    def likelihood(self) -> Likelihood:
        return Likelihood(self.short, self.long, 2 * self.warmup)

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def fields(self) -> tuple[Field, ...]:
        profile = (Field("profile", "float32", width=self.slots), Field("visits", "uint8", width=self.slots))
        own = (Field("n", "int64"), Field("l"), Field("s"), Field("slot", "int32", -1))
        return (*own, *profile, *self.likelihood.fields)

    def slot_of(self, us: int) -> int:
        """Which slot of the profile a moment belongs to, by the clock on the wall."""
        moment = EPOCH + timedelta(microseconds=us)
        offset = moment.astimezone(self.zone).utcoffset()
        local = us + (0 if offset is None else offset // timedelta(microseconds=1))
        return (local - MONDAY_US) % self.period_us * self.slots // self.period_us

    def step(self, state: Columns, seen: Seen) -> Scored:
        return in_blocks(self._step, state, seen)

    def _step(self, state: Columns, seen: Seen) -> Scored:
        at, x = seen.slots, seen.value
        n, level, size = state["n"][at], state["l"][at], state["s"][at]
        slot = self.slot_of(seen.start_us)
        rows = numbers(at)
        seasonal = state["profile"][rows, slot].astype(np.float64)
        visits = state["visits"][rows, slot]
        again = state["slot"][at] != slot
        known = visits >= 2

        level = np.where(n == 0, x, level)
        expected = level + np.where(known, seasonal, 0.0)
        error = x - expected
        usual = floored(SPREAD_OF_MEAN_DEVIATION * size, expected, self.relative_floor, self.absolute_floor)
        warm = n >= self.warmup
        residual = np.where(warm, error / usual, 0.0)
        odd = self.likelihood.step(state, at, n, residual)
        score = np.where(warm, odd / self.threshold, np.nan)
        reach = self.threshold * usual

        scored = Scored(
            score,
            np.where(self.likelihood.points_down(state, rows), -1, 1).astype(np.int8),
            expected,
            expected - reach,
            expected + reach,
            lambda row: (
                f"residuals {odd[row]:.1f}σ above usual for {self.short} windows, "
                f"{number(expected[row])} expected at this time"
            ),
        )
        # A visit is the whole time in a slot: its windows together weigh `gamma`.
        visit = max(1.0, self.period_us / self.slots / self.window_us)
        gamma = 1 - (1 - self.gamma) ** (1 / visit)
        learn = np.where(visits == 0, 1.0, np.where(known, gamma, max(gamma, FIRST_VISITS)))
        step = np.maximum(self.alpha, 1.0 / (n + 1))
        moved = level + step * error
        state["profile"][rows, slot] = seasonal + learn * (x - moved - seasonal)
        state["visits"][rows, slot] = np.minimum(visits + again, VISITS_MAX).astype(np.uint8)
        weight = np.maximum(half_life(self.half_life), 1.0 / (n + 1))
        state["s"][at] = size + weight * (np.abs(error) - size)
        state["l"][at], state["n"][at], state["slot"][at] = moved, n + 1, slot
        return scored
