"""`auto`: the method when none is named. Two simple detectors, the worse opinion counts.

One looks at the value itself (how many standard deviations from a long mean), the other at the last ten residuals
taken together (how unlikely they are). The first sees spikes, the second sees a series that has begun to behave
differently though no single value is extreme. The residuals are those of a slow level with a profile of the day, as
soon as the profile knows this time of the day; before that those of double exponential smoothing, which follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mql.exec.detectors.frame import (
    Columns,
    Field,
    Floats,
    Ints,
    Scored,
    Seen,
    Where,
    first_change,
    floored,
    half_life,
    in_blocks,
    number,
    numbers,
    signs,
)
from mql.exec.detectors.likelihood import Likelihood
from mql.exec.detectors.moments import SPREAD_OF_MEAN_DEVIATION, learned, weights
from mql.exec.detectors.profile import Profile

DAY_US = 86_400_000_000
LEVEL_ALPHA = 0.002
NEARLY = 0.5
GAMMA = 0.25


@dataclass(frozen=True)
class Auto:
    """`threshold`: of the likelihood, in standard deviations; a single value needs twice as many. `alpha` and `beta`
    smooth level and trend until the profile of the day, in `slots` of `timezone`, has its say (0 slots: always)."""

    alpha: float = 0.05
    beta: float = 0.01
    half_life: float = 1000
    short: int = 10
    long: float = 2000
    threshold: float = 4
    warmup: int = 100
    relative_floor: float = 0.0
    absolute_floor: float = 0.0
    slots: int = 24
    timezone: str = "UTC"
    window_us: int = 10_000_000

    @cached_property
    def likelihood(self) -> Likelihood:
        return Likelihood(self.short, self.long, 2 * self.warmup)

    @cached_property
    def profile(self) -> Profile:
        return Profile(DAY_US, self.slots, GAMMA, self.timezone, self.window_us, LEVEL_ALPHA, self.half_life)

    @property
    def fields(self) -> tuple[Field, ...]:
        own = (Field("n", "int64"), Field("m"), Field("v"), Field("l"), Field("b"), Field("s"))
        return (*own, *(self.profile.fields if self.slots else ()), *self.likelihood.fields)

    def step(self, state: Columns, seen: Seen) -> Scored:
        return in_blocks(self._step, state, seen)

    def _step(self, state: Columns, seen: Seen) -> Scored:
        at, x = seen.slots, seen.value
        n, m, v = state["n"][at], state["m"][at], state["v"][at]
        warm = n >= self.warmup
        weight = weights(n, half_life(self.half_life))

        spread = floored(np.sqrt(v), m, self.relative_floor, self.absolute_floor)
        z = (x - m) / spread
        residual = self._residual(state, at, n, x, weight, seen.start_us)
        odd = self.likelihood.step(state, at, n, np.where(warm, residual, 0.0))

        by_value = np.abs(z) / 2
        expected, reach = m.copy(), 2 * self.threshold * spread
        by_residuals = odd > by_value
        constant, before = (v == 0) & (n > 1), n.copy()
        score = np.where(warm, np.maximum(odd, by_value) / self.threshold, np.nan)
        direction = signs(z)
        # Which way residuals point is of interest where they are unusual, or nearly so.
        some = np.flatnonzero(by_residuals & (score >= NEARLY))
        direction[some] = np.where(self.likelihood.points_down(state, numbers(at)[some]), -1, 1)

        def reason(row: int) -> str:
            if constant[row]:
                return first_change(x[row], expected[row], before[row])
            if by_residuals[row]:
                return f"residuals {odd[row]:.1f}σ above usual for {self.short} windows"
            return f"{number(x[row])} is {abs(z[row]):.1f} standard deviations from {number(expected[row])}"

        scored = Scored(score, direction, expected, expected - reach, expected + reach, reason)
        state["m"][at], state["v"][at] = learned(m, v, x, weight)
        state["n"][at] = n + 1
        return scored

    def _residual(self, state: Columns, at: Where, n: Ints, x: Floats, weight: Floats, start_us: int) -> Floats:
        """How far the values are from what was expected, in units of what is usual."""
        if not self.slots:
            return self._followed(state, at, n, x, weight)
        usual = self.profile.step(state, at, n, x, start_us)
        if not usual.known.any():
            return self._followed(state, at, n, x, weight)
        size = SPREAD_OF_MEAN_DEVIATION * usual.size
        residual: Floats = usual.error / floored(size, usual.expected, self.relative_floor, self.absolute_floor)
        # Where the profile has its say, the other model is only kept from falling behind.
        new = np.flatnonzero(~usual.known)
        if not len(new):
            state["l"][at], state["b"][at] = x, 0.0
            return residual
        slots, old = numbers(at), usual.known
        residual[new] = self._followed(state, slots[new], n[new], x[new], weight[new])
        state["l"][slots[old]], state["b"][slots[old]] = x[old], 0.0
        return residual

    def _followed(self, state: Columns, at: Where, n: Ints, x: Floats, weight: Floats) -> Floats:
        """The residuals of double exponential smoothing, in units of usual ones."""
        level, slope, size = state["l"][at], state["b"][at], state["s"][at]
        foreseen = np.where(n == 0, x, level + slope)
        error = x - foreseen
        usual = floored(SPREAD_OF_MEAN_DEVIATION * size, foreseen, self.relative_floor, self.absolute_floor)
        step = np.maximum(self.alpha, 1.0 / (n + 1))
        residual: Floats = error / usual
        state["l"][at] = foreseen + step * error
        state["b"][at] = slope + step * self.beta * error
        state["s"][at] = size + weight * (np.abs(error) - size)
        return residual
