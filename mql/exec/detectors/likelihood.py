"""How unlikely the last few residuals are, taken together: their mean size against its own long-run mean and spread.

A single odd value says little on a restless series; ten values that are all a little off say much. After the anomaly
likelihood of Ahmad, Lavin, Purdy and Agha (2017), with exponential weights instead of a window of 8,000 values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mql.exec.detectors.frame import Columns, Field, Flags, Floats, Ints, Where, half_life, numbers
from mql.exec.detectors.moments import learned, weights

CLIP = 1e6
LEAST_SPREAD = 0.1
"""Of the residuals' mean size: on a constant series one small step is no surprise."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """`short`: how many residuals are taken together; `long`: the half-life of what is usual for them."""

    short: int = 10
    long: float = 2000
    warmup: int = 200

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("ring", width=self.short, by_column=True), Field("mu"), Field("w"))

    def step(self, state: Columns, at: Where, n: Ints, residual: Floats) -> Floats:
        """How many standard deviations the last residuals' mean size is above its own mean.

        `residual` is measured in usual residuals; `n` tells how many came before.
        """
        ring = state["ring"]
        clipped = np.minimum(np.maximum(residual, -CLIP), CLIP)
        if len(n) and n.min() == n.max():
            ring[at, n[0] % self.short] = clipped
        else:
            ring[numbers(at), n % self.short] = clipped
        last = ring[at]
        # Column by column, so that a key's sum never depends on which other keys are there.
        u = np.abs(last[:, 0])
        size = np.empty_like(u)
        for column in range(1, self.short):
            u += np.abs(last[:, column], out=size)
        u /= self.short
        mu, w = state["mu"][at], state["w"][at]
        odd = np.where(n >= self.warmup, (u - mu) / np.maximum(np.sqrt(w), LEAST_SPREAD), 0.0)
        state["mu"][at], state["w"][at] = learned(mu, w, u, weights(n, half_life(self.long)))
        return odd

    def points_down(self, state: Columns, slots: Ints) -> Flags:
        """Whether the last residuals of these keys lie below what was foreseen, all in all."""
        found: Flags = state["ring"][slots].sum(axis=1) < 0
        return found
