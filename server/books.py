"""What became of a job's events, over all of its runs, and those that came too late: kept beside its results."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from mql.exec.files import replace_file

LATE_MAX = 1_000
CLASSES = ("emitted_from", "filtered", "late", "malformed", "sampled", "skipped", "dropped", "in_state")
"""What may become of an event; all of them together are the events."""


class Books:
    """One job's ledger and late rows, in its directory. Thread-safe.

    A crash loses what was counted in the seconds before it. What goes back to a checkpoint counts again what comes
    again: `earlier` is what runs did, not what is true of the source.
    """

    def __init__(self, home: Path) -> None:
        self._ledger_path = home / "ledger.json"
        self._late_path = home / "late.arrow"
        self._guard = threading.Lock()
        self._late_seen = 0
        self.earlier: Mapping[str, int] = {}
        self.newest: Mapping[str, int] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self._ledger_path.read_bytes())
            self.earlier = {str(kind): int(count) for kind, count in found.items()}

    def keep(self, ledger: Mapping[str, int], late: Callable[[int], pa.Table], *, at_end: bool, goes_on: bool) -> None:
        """What a run says of its events. A disk that is full keeps nothing, and the run goes on.

        `goes_on`: what is in its state when it ends is there again in the next run; else it is dropped.
        """
        with self._guard:
            self.newest = dict(ledger)
            if at_end:
                self.earlier, self.newest = added(self.earlier, left_over(ledger, goes_on)), {}
            with suppress(OSError):
                told = added(self.earlier, left_over(self.newest, goes_on))
                replace_file(self._ledger_path, json.dumps(told).encode(), synced=at_end)
                if ledger.get("late", 0) != self._late_seen:
                    self._keep_late(late(LATE_MAX))
                    self._late_seen = ledger["late"]
            if at_end:
                self._late_seen = 0

    def late(self, running: pa.Table, n: int) -> pa.Table:
        """The newest late rows, of this run and of those before."""
        with self._guard:
            return merged(self._kept_late(), running, n)

    def _keep_late(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        table = merged(self._kept_late(), rows, LATE_MAX)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        replace_file(self._late_path, sink.getvalue().to_pybytes())

    def _kept_late(self) -> pa.Table:
        try:
            with pa.ipc.open_stream(self._late_path.read_bytes()) as reader:
                return reader.read_all()
        except (OSError, pa.ArrowInvalid):
            return pa.table({})


def merged(before: pa.Table, rows: pa.Table, n: int) -> pa.Table:
    """Both, each event once, the newest n; only the newer where the columns have changed their types."""
    tables = [table for table in (before, rows) if table.num_rows]
    if not tables:
        return rows if rows.num_columns else before
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        table = tables[-1]
    if {"split", "offset"} <= set(table.column_names):
        places = zip(table.column("split").to_pylist(), table.column("offset").to_pylist(), strict=True)
        newest = {place: at for at, place in enumerate(places)}
        table = table.take(pa.array(sorted(newest.values()), pa.int64()))
    return table.slice(max(0, table.num_rows - n))


def added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {kind: one.get(kind, 0) + other.get(kind, 0) for kind in ("events", *CLASSES)}


def left_over(ledger: Mapping[str, int], goes_on: bool) -> dict[str, int]:
    """A run's ledger when it is over. What was in its state is an event of the next run, or is dropped."""
    held = ledger.get("in_state", 0)
    if goes_on:
        return {**ledger, "events": ledger.get("events", 0) - held, "in_state": 0}
    return {**ledger, "dropped": ledger.get("dropped", 0) + held, "in_state": 0}
