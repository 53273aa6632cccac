"""`auto`: the method when none is named. Two simple detectors, the worse opinion counts.

One looks at the value itself (how many standard deviations from a long mean), the other at the last ten residuals of
double exponential smoothing taken together (how unlikely they are). The first sees spikes, the second sees a series
that has begun to behave differently though no single value is extreme.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mql.exec.detectors.frame import Columns, Field, Scored, Seen, floored, half_life, in_blocks, number, numbers, signs
from mql.exec.detectors.likelihood import Likelihood
from mql.exec.detectors.moments import learned, weights

SPREAD_OF_MEAN_DEVIATION = 1.2533
"""The standard deviation of normal residuals, in units of their mean absolute size."""


@dataclass(frozen=True, slots=True)
class Auto:
    """`threshold`: of the likelihood, in standard deviations; a single value needs twice as many."""

    alpha: float = 0.05
    beta: float = 0.01
    half_life: float = 1000
    short: int = 10
    long: float = 2000
    threshold: float = 4
    warmup: int = 100
    relative_floor: float = 0.0
    absolute_floor: float = 0.0

    @property
    def likelihood(self) -> Likelihood:
        return Likelihood(self.short, self.long, 2 * self.warmup)

    @property
    def fields(self) -> tuple[Field, ...]:
        own = (Field("n", "int64"), Field("m"), Field("v"), Field("l"), Field("b"), Field("s"))
        return (*own, *self.likelihood.fields)

    def step(self, state: Columns, seen: Seen) -> Scored:
        return in_blocks(self._step, state, seen)

    def _step(self, state: Columns, seen: Seen) -> Scored:
        at, x = seen.slots, seen.value
        n, m, v = state["n"][at], state["m"][at], state["v"][at]
        level, slope, size = state["l"][at], state["b"][at], state["s"][at]
        warm = n >= self.warmup
        weight = weights(n, half_life(self.half_life))

        spread = floored(np.sqrt(v), m, self.relative_floor, self.absolute_floor)
        z = (x - m) / spread

        first = n == 0
        foreseen = np.where(first, x, level + slope)
        error = x - foreseen
        usual = floored(SPREAD_OF_MEAN_DEVIATION * size, foreseen, self.relative_floor, self.absolute_floor)
        residual = np.where(warm, error / usual, 0.0)
        odd = self.likelihood.step(state, at, n, residual)

        by_value = np.abs(z) / 2
        expected, reach = m.copy(), 2 * self.threshold * spread
        by_residuals = odd > by_value
        score = np.where(warm, np.maximum(odd, by_value) / self.threshold, np.nan)

        def reason(row: int) -> str:
            if by_residuals[row]:
                return f"residuals {odd[row]:.1f}σ above usual for {self.short} windows"
            return f"{number(x[row])} is {abs(z[row]):.1f} standard deviations from {number(expected[row])}"

        direction = signs(z)
        some = np.flatnonzero(by_residuals)
        direction[some] = np.where(self.likelihood.points_down(state, numbers(at)[some]), -1, 1)
        scored = Scored(score, direction, expected, expected - reach, expected + reach, reason)

        step = np.maximum(self.alpha, 1.0 / (n + 1))
        mean, variance = learned(m, v, x, weight)
        state["l"][at] = foreseen + step * error
        state["b"][at] = slope + step * self.beta * error
        state["s"][at] = size + weight * (np.abs(error) - size)
        state["m"][at], state["v"][at], state["n"][at] = mean, variance, n + 1
        return scored
