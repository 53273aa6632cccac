"""Exponentially weighted mean and spread, one of each a key: what most detectors are made of."""

from __future__ import annotations

import numpy as np

from mql.exec.detectors.frame import Floats, Ints

SPREAD_OF_MEAN_DEVIATION = 1.2533
"""The standard deviation of normal residuals, in units of their mean absolute size."""


def weights(n: Ints, weight: float) -> Floats:
    """How much the next value counts: as in a plain mean at first, later as the half-life says."""
    found: Floats = np.maximum(weight, 1.0 / (n + 1))
    return found


def learned(mean: Floats, variance: Floats, value: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Mean and variance after another value (West 1979, with exponential weights)."""
    away = value - mean
    return mean + weight * away, (1 - weight) * (variance + weight * away * away)
