"""A number for each of the queries that share a plan."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
LEAST = 64


class PerQuery:
    """Numbers by the queries' own, which rise from 0 and are never used again. Written by one thread."""

    def __init__(self, other: int = 0) -> None:
        self._other = other
        self._values = np.full(LEAST, other, np.int64)

    def get(self, query: int) -> int:
        values = self._values
        return int(values[query]) if query < len(values) else self._other

    def of(self, queries: Ints) -> Ints:
        """The number of each of them."""
        values = self._values
        found: Ints = np.where(queries < len(values), values[np.minimum(queries, len(values) - 1)], self._other)
        return found

    def add(self, queries: Ints, amounts: Ints | None = None) -> None:
        """Adds to each of them, one where no amounts are given; a query may come several times."""
        if len(queries):
            self._reach(int(queries.max()))
            counts = np.bincount(queries, amounts)
            self._values[: len(counts)] += counts.astype(np.int64)

    def put(self, queries: Ints, value: int) -> None:
        if len(queries):
            self._reach(int(queries.max()))
            self._values[queries] = value

    def raise_to(self, queries: Ints, least: int) -> None:
        """None of them is smaller from now on."""
        if len(queries):
            self._reach(int(queries.max()))
            self._values[queries] = np.maximum(self._values[queries], least)

    def clear(self) -> None:
        self._values = np.full(len(self._values), self._other, np.int64)

    def copy(self) -> PerQuery:
        found = PerQuery(self._other)
        found._values = self._values.copy()
        return found

    def _reach(self, query: int) -> None:
        if query >= len(self._values):
            more = np.full(max(query + 1, 2 * len(self._values)) - len(self._values), self._other, np.int64)
            self._values = np.concatenate([self._values, more])
