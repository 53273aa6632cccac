"""`des`: double exponential smoothing with two margins, as Netflix Atlas' `:des` and `des-epic-signal` compute it.

A value is unusual when it lies outside the prediction by more than the noise *and* by more than a share of it. The
prediction shown for a window is the smoothed value of the window before; a missing window changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mql.exec.detectors.frame import TINY, Columns, Field, Floats, Scored, Seen, half_life, in_blocks, number, signs
from mql.exec.detectors.moments import SPREAD_OF_MEAN_DEVIATION

JUST_BELOW_ONE = float(np.nextafter(1.0, 0.0))
SCORE_MAX = 1e6


@dataclass(frozen=True, slots=True)
class Des:
    """`noise`: the absolute margin; None takes three times the usual error. `up` and `down`: the relative margins."""

    training: int = 10
    alpha: float = 0.1
    beta: float = 0.5
    up: float = 0.2
    down: float = 0.2
    noise: float | None = None
    warmup: int = 10

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("n", "int64"), Field("l"), Field("b"), Field("s"))

    def step(self, state: Columns, seen: Seen) -> Scored:
        return in_blocks(self._step, state, seen)

    def _step(self, state: Columns, seen: Seen) -> Scored:
        at, x = seen.slots, seen.value
        n, level, slope, size = state["n"][at], state["l"][at], state["b"][at], state["s"][at]
        warm = n >= max(self.warmup, self.training)
        margin = np.full(len(x), self.noise) if self.noise is not None else 3 * SPREAD_OF_MEAN_DEVIATION * size
        low, high = level - margin, level + margin
        least, most = level * (1 - self.down), level * (1 + self.up)
        fires = ((x > high) & (x > most)) | ((x < low) & (x < least))
        # How many times each margin is exceeded; the smaller one decides.
        share = np.where(x < level, level - least, most - level)
        times = np.minimum(_times(np.abs(x - level), margin), _times(np.abs(x - level), np.maximum(share, 0.0)))
        score = np.where(fires, np.maximum(times, 1.0), np.minimum(times, JUST_BELOW_ONE))
        lower, upper = np.minimum(low, least), np.maximum(high, most)
        scored = Scored(
            np.where(warm, score, np.nan),
            signs(x - level),
            level.copy(),
            lower,
            upper,
            lambda row: (
                f"{number(x[row])} is outside {number(lower[row])} to {number(upper[row])}, "
                f"{number(scored.expected[row])} was foreseen"
            ),
        )
        first = n == 0
        smooth = np.where(first, x, self.alpha * x + (1 - self.alpha) * (level + slope))
        error = np.where(first, 0.0, np.abs(x - level))
        weight = np.maximum(half_life(1000), 1.0 / np.maximum(n, 1))
        state["s"][at] = size + weight * (error - size)
        state["b"][at] = np.where(first, 0.0, self.beta * (smooth - level) + (1 - self.beta) * slope)
        state["l"][at], state["n"][at] = smooth, n + 1
        return scored


def _times(away: Floats, margin: Floats) -> Floats:
    found: Floats = np.minimum(away / np.maximum(margin, TINY), SCORE_MAX)
    return found
