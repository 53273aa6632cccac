"""What a Python job's own code may import: `from mql.sdk import events`.

A Python job is a function of an Observable of Arrow record batches (the rows of its query, as they come) and its
parameters; it gives an Observable of rows: dicts, lists of dicts, record batches or tables.

    def sessions(batches, params):
        return events(batches).pipe(ops.group_by(lambda event: event["user"]), …)
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import reactivex
from reactivex import Observable
from reactivex import operators as ops


def events(batches: Observable[pa.RecordBatch]) -> Observable[dict[str, Any]]:
    """The rows one by one, as dicts. Times are aware datetimes in UTC, decimals are Decimal, JSON is text."""
    return batches.pipe(ops.concat_map(rows_of))


def rows_of(batch: pa.RecordBatch) -> Observable[dict[str, Any]]:
    return reactivex.from_iterable(batch.to_pylist())
