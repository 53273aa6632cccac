"""What a reader of a query's results is told, one frame after the other (docs/api.md names them the same)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Meta:
    """First of all: id, schema, plan_hash, shared_with, guarantee, watermark policy, warnings."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowsFrame:
    """Result rows. `cursor` is the position after the last of them.

    `counted`: how many rows lie between that position and the one before the frame, where that is not their number
    (some are not for this reader); 0 where there is no position in the frame's midst.
    """

    table: pa.Table
    cursor: str
    counted: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Every second, even if nothing happened: scanned, matched, filtered, late, malformed, dropped, sampled, skipped,
    in_state, watermark, lag_ms, trouble; on a backfill also share (0 to 1) and eta_s."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seal:
    """A window is final: window_start, window_end, rows, digest, late so far."""

    data: Mapping[str, Any]
    cursor: str


@dataclass(frozen=True, slots=True)
class Phase:
    """`backfill` with the share done, then `live` with the seam's offsets."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gap:
    """This reader missed rows: rows, from, to, why."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Warn:
    """Shape drift, open names, sampling under load: code, detail."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The query ended by an error: a problem with code, detail, hint, retryable."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """reason: done, limit, timeout, deleted, server stopping."""

    reason: str
    data: Mapping[str, Any] = field(default_factory=dict)


Frame = Meta | RowsFrame | Progress | Seal | Phase | Gap | Warn | Failed | Ended
