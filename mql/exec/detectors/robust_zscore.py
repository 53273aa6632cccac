"""`robust_zscore`: how far a value lies from the median of the last windows, in median absolute deviations (Hampel).

A bare MAD is a trap: it is 0 on constant or coarsely rounded values. So the spread never falls below the key's own
long-run spread, a share of the median, and an absolute least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mql.exec.detectors.frame import (
    Columns,
    Field,
    Floats,
    Ints,
    Scored,
    Seen,
    floored,
    half_life,
    in_blocks,
    number,
    numbers,
    signs,
)
from mql.exec.detectors.moments import SPREAD_OF_MEAN_DEVIATION

MAD_TO_SPREAD = 1.4826
"""The standard deviation of normal values, in units of their median absolute deviation."""


@dataclass(frozen=True, slots=True)
class RobustZScore:
    window: int = 60
    threshold: float = 8
    warmup: int = 20
    half_life: float = 1000
    relative_floor: float = 0.0
    absolute_floor: float = 0.0

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("n", "int64"), Field("s"), Field("ring", "float32", np.nan, width=self.window))

    def step(self, state: Columns, seen: Seen) -> Scored:
        return in_blocks(self._step, state, seen)

    def _step(self, state: Columns, seen: Seen) -> Scored:
        at, x = seen.slots, seen.value
        n, size = state["n"][at], state["s"][at]
        kept = np.minimum(n, self.window)
        ring = np.sort(state["ring"][at], axis=1)
        median = middle(ring, kept)
        mad = middle(np.sort(np.abs(ring - median[:, None].astype(np.float32)), axis=1), kept)
        spread = np.maximum(MAD_TO_SPREAD * mad, SPREAD_OF_MEAN_DEVIATION * size)
        spread = floored(spread, median, self.relative_floor, self.absolute_floor)
        z = (x - median) / spread
        warm = n >= self.warmup
        scored = Scored(
            np.where(warm, np.abs(z) / self.threshold, np.nan),
            signs(z),
            median,
            median - self.threshold * spread,
            median + self.threshold * spread,
            lambda row: (
                f"{number(x[row])} is {abs(z[row]):.1f} robust spreads from the median {number(median[row])} "
                f"of the last {kept[row]} windows"
            ),
        )
        away = np.where(n > 0, np.abs(x - median), 0.0)
        weight = np.maximum(half_life(self.half_life), 1.0 / np.maximum(n, 1))
        state["s"][at] = size + weight * (away - size)
        state["ring"][numbers(at), n % self.window] = x
        state["n"][at] = n + 1
        return scored


def middle(ordered: npt.NDArray[np.float32], counts: Ints) -> Floats:
    """The median of the first `counts` values of each sorted row; 0 where there is none."""
    rows = np.arange(len(ordered))
    low = ordered[rows, np.maximum(counts - 1, 0) // 2]
    high = ordered[rows, np.minimum(np.maximum(counts, 1) // 2, ordered.shape[1] - 1)]
    found: Floats = np.where(counts > 0, (low.astype(np.float64) + high) / 2, 0.0)
    return found
