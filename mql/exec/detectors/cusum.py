"""`cusum`: small steps that do not go away (Page 1954). Deviations beyond `k` standard deviations add up.

Sees a level that has moved by a little for a long time, which no single window shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mql.exec.detectors.frame import Columns, Field, Scored, Seen, floored, half_life, in_blocks, number
from mql.exec.detectors.moments import learned, weights


@dataclass(frozen=True, slots=True)
class Cusum:
    """`k`: what is forgiven in each window; `threshold`: the sum that is unusual. Both in standard deviations."""

    k: float = 1
    threshold: float = 15
    half_life: float = 1000
    warmup: int = 100
    relative_floor: float = 0.0
    absolute_floor: float = 0.0

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("n", "int64"), Field("m"), Field("v"), Field("up"), Field("down"))

    def step(self, state: Columns, seen: Seen) -> Scored:
        return in_blocks(self._step, state, seen)

    def _step(self, state: Columns, seen: Seen) -> Scored:
        at, x = seen.slots, seen.value
        n, m, v = state["n"][at], state["m"][at], state["v"][at]
        warm = n >= self.warmup
        spread = floored(np.sqrt(v), m, self.relative_floor, self.absolute_floor)
        z = np.where(warm, (x - m) / spread, 0.0)
        # The sums are bounded, so that a long excursion is forgotten as fast as a short one.
        most = 2 * self.threshold
        up = np.clip(state["up"][at] + z - self.k, 0, most)
        down = np.clip(state["down"][at] - z - self.k, 0, most)
        larger = np.maximum(up, down)
        score = np.where(warm, larger / self.threshold, np.nan)
        room = self.threshold + self.k
        expected = m.copy()
        lower, upper = expected - (room - state["down"][at]) * spread, expected + (room - state["up"][at]) * spread
        scored = Scored(
            score,
            np.where(down > up, -1, 1).astype(np.int8),
            expected,
            lower,
            upper,
            lambda row: (
                f"deviations from {number(expected[row])} beyond {self.k:g}σ add up to {larger[row]:.0f}σ, "
                f"{self.threshold:g} are unusual"
            ),
        )
        mean, variance = learned(m, v, x, weights(n, half_life(self.half_life)))
        state["m"][at], state["v"][at], state["n"][at] = mean, variance, n + 1
        state["up"][at], state["down"][at] = up, down
        return scored
