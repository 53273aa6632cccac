"""`seasonal`: a level and a profile of the day or the week; the residuals are judged by their likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mql.exec.detectors.frame import Columns, Field, Scored, Seen, floored, in_blocks, number, numbers
from mql.exec.detectors.likelihood import Likelihood
from mql.exec.detectors.moments import SPREAD_OF_MEAN_DEVIATION
from mql.exec.detectors.profile import Profile


@dataclass(frozen=True)
class Seasonal:
    """Parameters as in Profile and Likelihood; `threshold` in standard deviations of the likelihood."""

    period_us: int = 86_400_000_000
    slots: int = 24
    gamma: float = 0.25
    timezone: str = "UTC"
    window_us: int = 10_000_000
    alpha: float = 0.002
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
    def profile(self) -> Profile:
        return Profile(
            self.period_us, self.slots, self.gamma, self.timezone, self.window_us, self.alpha, self.half_life
        )

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("n", "int64"), *self.profile.fields, *self.likelihood.fields)

    def step(self, state: Columns, seen: Seen) -> Scored:
        return in_blocks(self._step, state, seen)

    def _step(self, state: Columns, seen: Seen) -> Scored:
        at, x = seen.slots, seen.value
        n = state["n"][at].copy()
        usual = self.profile.step(state, at, n, x, seen.start_us)
        expected = usual.expected
        spread = floored(SPREAD_OF_MEAN_DEVIATION * usual.size, expected, self.relative_floor, self.absolute_floor)
        warm = n >= self.warmup
        odd = self.likelihood.step(state, at, n, np.where(warm, usual.error / spread, 0.0))
        state["n"][at] = n + 1
        reach = self.threshold * spread
        return Scored(
            np.where(warm, odd / self.threshold, np.nan),
            np.where(self.likelihood.points_down(state, numbers(at)), -1, 1).astype(np.int8),
            expected,
            expected - reach,
            expected + reach,
            lambda row: (
                f"residuals {odd[row]:.1f}σ above usual for {self.short} windows, "
                f"{number(expected[row])} expected at this time"
            ),
        )
