"""What the engine asks of a source. Sources implement this; the engine never knows their kind.

All calls block and are made from threads of the engine's (never from an event loop); an asynchronous client
runs its own loop in a thread of its own behind these calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from mql.catalog import SourceInfo, TableInfo
from mql.exec.items import Raw

Positions = Mapping[int, int]
"""Offsets by split: the next offset to be read."""


@dataclass(frozen=True, slots=True)
class From:
    """Where to begin. Exactly one is meant: `positions`, else `time_us`, else earliest (all None).

    A time may give earlier events too, never fewer: the engine filters by event time itself.
    """

    positions: Positions | None = None
    time_us: int | None = None


class Reader(Protocol):
    """One live reading of a source, from a start and on. Owned by one thread."""

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        """What has come, at most about `max_bytes`; empty after `timeout_s` without anything.

        Offsets of a split rise from call to call. A world that is away (no broker) is not an error: it
        gives nothing, and `trouble` says why until it is back.
        """
        ...

    @property
    def splits(self) -> tuple[int, ...]:
        """The splits that this reader has at the moment; a rebalance may change them."""
        ...

    @property
    def positions(self) -> Positions:
        """The next offset of each split, after what poll gave last."""
        ...

    @property
    def ended(self) -> bool:
        """A bounded source has been read to its end."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing comes, in a sentence, while the source is away; None while all is well."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """One declared source. Thread-safe."""

    @property
    def info(self) -> SourceInfo:
        """What the planner needs; its shape may grow (with a new version) as events come."""
        ...

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        """Read live. `start` None: only what comes from now on; all of it where the source is bounded.

        `task` of `tasks`: a share of the splits. `columns`: the only top-level properties that will be looked at
        (the event time's among them); a hint, which a source may ignore.
        """
        ...

    def end(self) -> Positions:
        """The positions just after the newest event there is."""
        ...

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        """Stored events from `since` up to (not with) `until`, in order within each split; then it ends.

        `part` of `parts`: a share of it; the shares together are the whole. `columns` as in `open`. MqlError
        where the source keeps no history.
        """
        ...

    def sample(self, n: int) -> Sequence[bytes]:
        """Up to n recent events as JSON texts."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Filed(Source, Protocol):
    """A source that may lie in files which the kernel can read by itself."""

    def plain_files(self, since: From, until: Positions | None) -> Sequence[Path]:
        """The files that hold just this as JSON lines, as they are; none where it lies otherwise."""
        ...


class Table(Protocol):
    """One declared table. Thread-safe; whoever owns it keeps it fresh."""

    @property
    def info(self) -> TableInfo:
        """What the planner needs."""
        ...

    @property
    def rows(self) -> pa.Table:
        """The rows as they are now: a column for each field, named by `column_name`, and their numbers as __n."""
        ...

    def close(self) -> None: ...
