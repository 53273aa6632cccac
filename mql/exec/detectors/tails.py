"""Tails of overdispersed counts. The one door to scipy, whose incomplete beta function does the work.

scipy takes a third of a second to import, so only a query that needs a tail pays for it.
"""

from __future__ import annotations

import numpy as np

from mql.exec.detectors.frame import Flags, Floats


def binomial_tail(k: Floats, n: Floats, p: Floats, up: Flags) -> Floats:
    """The chance of a count at least as far out as k of n, upwards or downwards, where each of n has the chance p.
    Neither k nor n need to be whole."""
    from scipy.special import betainc

    above = betainc(np.maximum(k, 1e-9), n - k + 1, p)
    below = betainc(np.maximum(n - k, 1e-9), k + 1, 1 - p)
    return np.asarray(np.where(up, np.where(k > 0, above, 1.0), np.where(k < n, below, 1.0)), np.float64)


def count_tail(k: Floats, mean: Floats, up: Flags, phi: float) -> Floats:
    """The same of a count alone: negative binomial, variance mean + mean²/phi."""
    from scipy.special import betainc

    chance = phi / (phi + mean)
    above = betainc(np.maximum(k, 1e-9), phi, 1 - chance)
    below = betainc(phi, k + 1, chance)
    return np.asarray(np.where(up, np.where(k > 0, above, 1.0), below), np.float64)


def normal_quantile(p: float) -> float:
    """How many standard deviations up the normal law has a tail of p."""
    from scipy.special import ndtri

    return float(-ndtri(p))
