"""`peers`: a row against its siblings in the same window: the node that is not like the others of its cluster.

Needs no history and no warm-up; at least five siblings, though.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mql.exec.detectors.frame import Columns, Field, Floats, Ints, Scored, Seen, floored, number, signs
from mql.exec.detectors.robust_zscore import MAD_TO_SPREAD


@dataclass(frozen=True, slots=True)
class Peers:
    threshold: float = 6
    siblings: int = 5
    warmup: int = 0
    relative_floor: float = 0.01
    absolute_floor: float = 0.0

    @property
    def fields(self) -> tuple[Field, ...]:
        return ()

    def step(self, state: Columns, seen: Seen) -> Scored:
        x = seen.value
        group = np.zeros(len(x), np.int64) if seen.group is None else seen.group
        median, counts = medians(x, group)
        mad, _ = medians(np.abs(x - median), group)
        spread = floored(MAD_TO_SPREAD * mad, median, self.relative_floor, self.absolute_floor)
        z = (x - median) / spread
        return Scored(
            np.where(counts >= self.siblings, np.abs(z) / self.threshold, np.nan),
            signs(z),
            median,
            median - self.threshold * spread,
            median + self.threshold * spread,
            lambda row: (
                f"{number(x[row])} is {abs(z[row]):.1f} robust spreads from the median {number(median[row])} "
                f"of {counts[row]} siblings"
            ),
        )


def medians(x: Floats, group: Ints) -> tuple[Floats, Ints]:
    """For each row the median of its group and how many rows the group has."""
    if not len(x):
        return np.empty(0), np.empty(0, np.int64)
    order = np.lexsort((x, group))
    ordered = group[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.diff(np.r_[first, len(x)])
    values = x[order]
    middle = (values[first + (counts - 1) // 2] + values[first + counts // 2]) / 2
    which = np.empty(len(x), np.int64)
    which[order] = np.repeat(np.arange(len(first)), counts)
    return middle[which], counts[which]
