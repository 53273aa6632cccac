"""Many keys, one window: which of their p-values are small enough, when only a share of the alarms may be false."""

from __future__ import annotations

import numpy as np

from mql.exec.detectors.frame import Floats


def cut(p: Floats, share: float) -> float:
    """The largest p-value that still counts (Benjamini and Hochberg 1995); the smallest one that ever could where
    none does. `p` holds one value a test; `share` of those at or below the cut may be false on average."""
    tests = len(p)
    if not tests:
        return share
    small = np.sort(p[p <= share])
    ranks = np.flatnonzero(small <= share * np.arange(1, len(small) + 1) / tests)
    rank = int(ranks[-1]) + 1 if len(ranks) else 1
    return share * rank / tests
