"""`zscore`: how many standard deviations a value lies from the key's own mean, both with exponential weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mql.exec.detectors.frame import (
    Columns,
    Field,
    Scored,
    Seen,
    first_change,
    floored,
    half_life,
    in_blocks,
    number,
    signs,
)
from mql.exec.detectors.moments import learned, weights


@dataclass(frozen=True, slots=True)
class ZScore:
    half_life: float = 1000
    threshold: float = 6
    warmup: int = 100
    relative_floor: float = 0.0
    absolute_floor: float = 0.0

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("n", "int64"), Field("m"), Field("v"))

    def step(self, state: Columns, seen: Seen) -> Scored:
        return in_blocks(self._step, state, seen)

    def _step(self, state: Columns, seen: Seen) -> Scored:
        at, x = seen.slots, seen.value
        n, m, v = state["n"][at], state["m"][at], state["v"][at]
        spread = floored(np.sqrt(v), m, self.relative_floor, self.absolute_floor)
        z = (x - m) / spread
        warm = n >= self.warmup
        constant, before = (v == 0) & (n > 1), n.copy()
        scored = Scored(
            np.where(warm, np.abs(z) / self.threshold, np.nan),
            signs(z),
            m.copy(),
            m - self.threshold * spread,
            m + self.threshold * spread,
            lambda row: (
                first_change(x[row], scored.expected[row], before[row])
                if constant[row]
                else f"{number(x[row])} is {abs(z[row]):.1f} standard deviations from {number(scored.expected[row])}"
            ),
        )
        mean, variance = learned(m, v, x, weights(n, half_life(self.half_life)))
        state["m"][at], state["v"][at], state["n"][at] = mean, variance, n + 1
        return scored
