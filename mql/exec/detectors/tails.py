"""Tails of overdispersed counts. The one door to scipy, whose incomplete beta function does the work."""

from __future__ import annotations

import numpy as np
from scipy.special import betainc, ndtri

from mql.exec.detectors.frame import Flags, Floats


def binomial_tail(k: Floats, n: Floats, p: Floats, up: Flags, phi: float) -> Floats:
    """The chance of a count at least as far out as k of n, upwards or downwards, where each of n fails with chance p.

    Traffic varies more than coins do: the sizes are shrunk as if at most `phi` of n were independent.
    """
    size = n * (phi + 1) / (phi + n)
    hits = k * size / np.maximum(n, 1.0)
    above = betainc(np.maximum(hits, 1e-9), size - hits + 1, p)
    below = betainc(np.maximum(size - hits, 1e-9), hits + 1, 1 - p)
    return np.asarray(np.where(up, np.where(k > 0, above, 1.0), np.where(hits < size, below, 1.0)), np.float64)


def count_tail(k: Floats, mean: Floats, up: Flags, phi: float) -> Floats:
    """The same of a count alone: negative binomial, variance mean + mean²/phi."""
    chance = phi / (phi + mean)
    above = betainc(np.maximum(k, 1e-9), phi, 1 - chance)
    below = betainc(phi, k + 1, chance)
    return np.asarray(np.where(up, np.where(k > 0, above, 1.0), below), np.float64)


def normal_quantile(p: float) -> float:
    """How many standard deviations up the normal law has a tail of p."""
    return float(-ndtri(p))
