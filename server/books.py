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

    With a guarantee the ledger goes with the checkpoints: whoever goes back to one takes back what was counted since,
    for it comes again. Without one there is nothing to go back to: a crash loses what was counted in the seconds before
    it, and what is in state when a run ends is dropped.
    """

    def __init__(self, home: Path, *, keeps_checkpoints: bool) -> None:
        self._keeps_checkpoints = keeps_checkpoints
        self._ledger_path = home / "ledger.json"
        self._late_path = home / "late.arrow"
        self._guard = threading.Lock()
        self._late_seen = 0
        self._runs = False
        self.earlier: Mapping[str, int] = {}
        """What became of events before this run: without what it goes on with, where one runs."""
        self.newest: Mapping[str, int] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self._ledger_path.read_bytes())
            self.earlier = {str(kind): int(count) for kind, count in found.items()}
        self.checkpointed: Mapping[str, int] = {}
        """All that became of events as of the last checkpoint."""

    def go_back(self, checkpointed: Mapping[str, int]) -> None:
        """To what a checkpoint says."""
        with self._guard:
            self.earlier = self.checkpointed = checkpointed

    def discard(self) -> None:
        """What the last checkpoint has in state is not gone on with."""
        with self._guard:
            self.earlier = self.checkpointed = without_state(self.checkpointed)

    def begin(self, carried: int) -> None:
        """A run, whose state holds so many events from before: they are of its own ledger."""
        with self._guard:
            self._runs = True
            if self._keeps_checkpoints:
                self.earlier = before_run(self.checkpointed, carried)

    def as_of(self, ledger: Mapping[str, int]) -> Mapping[str, int]:
        """All that became of events where this run's ledger says so."""
        with self._guard:
            return added(self.earlier, ledger)

    def total(self, run: Mapping[str, int] | None) -> Mapping[str, int]:
        """The same as of now, where it runs, else as of where it goes on."""
        return self.as_of(run if run is not None and self._runs else {})

    def keep(self, ledger: Mapping[str, int], late: Callable[[int], pa.Table], *, at_end: bool) -> None:
        """What a run says of its events. A disk that is full keeps nothing, and the run goes on."""
        with self._guard:
            self.newest = {} if at_end else dict(ledger)
            told = self.checkpointed if self._keeps_checkpoints else added(self.earlier, without_state(ledger))
            if at_end:
                self.earlier, self._runs = told, False
            with suppress(OSError):
                if not self._keeps_checkpoints:
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


def without_state(ledger: Mapping[str, int]) -> dict[str, int]:
    """What was in state is dropped."""
    return {**ledger, "dropped": ledger.get("dropped", 0) + ledger.get("in_state", 0), "in_state": 0}


def before_run(ledger: Mapping[str, int], carried: int) -> dict[str, int]:
    """A ledger without what a run goes on with. Where another query holds fewer events than the one before, the others
    are dropped; where it holds more, events count as emitted no longer."""
    change = ledger.get("in_state", 0) - carried
    return {
        **added(ledger, {}),
        "events": ledger.get("events", 0) - carried,
        "dropped": ledger.get("dropped", 0) + max(0, change),
        "emitted_from": ledger.get("emitted_from", 0) + min(0, change),
        "in_state": 0,
    }
