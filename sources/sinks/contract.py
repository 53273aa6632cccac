"""What a job's results are handed to. Each sink stands beside the source of its system; who drives them knows none.

A sink is told rows portion by portion, in order, from one thread. The place that it has come to it keeps together with
what it wrote, in one transaction where its system has any: so it can say where to go on, and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
NONE: Mapping[int, str] = {}


@dataclass(frozen=True, slots=True)
class Portion:
    """Result rows of a job's log: from the row number `first` to (not with) `end`. A place is such a number.

    Where a job chooses what to send, `rows` are fewer than that, or none. `places`: their numbers, where somebody is to
    know them. `again`: a name for rows that were refused before and are sent again: the place stays where it is."""

    rows: pa.Table
    first: int
    end: int
    places: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    again: str | None = None


class Away(Exception):
    """The world is not as it should be: the message is a sentence for people. It is tried again, from the place that
    the sink then says."""


class Refused(Exception):
    """Rows of the portion will never be taken, whatever is tried: nothing of it was. `rows`: why, for each of them that
    is known by then; where none is, smaller portions tell. Reasons may name values of the rows."""

    def __init__(self, why: str, rows: Mapping[int, str] = NONE) -> None:
        super().__init__(why)
        self.rows = rows


class Fenced(Exception):
    """Somebody else writes for this job now: this one is to stop for good."""


class Sink(Protocol):
    """Owned by one thread; calls block."""

    rows_max: int
    """A portion has at most so many rows; it may change with each portion."""

    whole_frames: bool
    """A portion is a record of the log, always the same one, rather than as much as waits."""

    def open(self) -> int:
        """Connects, puts in order what a crash has left, and says at which place to go on."""
        ...

    def write(self, portion: Portion) -> None:
        """Takes all of it or, with Away or Refused, nothing."""
        ...

    def missed(self, why: str) -> None:
        """Rows are gone that should have been here."""
        ...

    def idle(self) -> None:
        """Called about once a second: what was taken may be due to be finished, or something to be said again."""
        ...

    def told(self) -> Mapping[str, Any]:
        """How it goes, for people; from any thread."""
        ...

    def close(self) -> None:
        """Lets go of what `open` opened; it may be opened again."""
        ...
