"""A running plan's state as bytes: named Arrow tables with a checksum, so that half a file is never taken for one.

Layout: magic, SHA-256 of the rest, length of the header, header (JSON: names and lengths, and numbers), the tables as
Arrow IPC streams one after the other.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from mql.exec.deadletters import Marks
from mql.exec.items import State
from mql.planner.physical import SPLITS_MAX

MAGIC = b"MQLSTATE1\n"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8


class BadState(Exception):
    """The bytes are not a whole state."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a plan knew at a barrier: the operators' states by task name and operator number, how far its splits had
    come, and the next offset of each. The splits of the scan n are numbered from n * SPLITS_MAX on. `marks`: how many
    events had been set aside; whoever keeps the snapshot keeps these first, and of its bytes they are no part. Nor is
    the `ledger`: what had become of the run's events; without a run behind it there is none."""

    tasks: Mapping[str, Mapping[int, State]] = field(default_factory=dict)
    splits: pa.Table | None = None
    positions: Mapping[int, int] = field(default_factory=dict)
    marks: Marks = field(default_factory=dict, compare=False)
    ledger: Mapping[str, int] = field(default_factory=dict, compare=False)

    def of_scan(self, scan: int) -> Snapshot:
        """What belongs to the splits of one of the plan's scans, with the numbers that these have there."""
        first = scan * SPLITS_MAX
        positions = {split - first: offset for split, offset in self.positions.items() if split // SPLITS_MAX == scan}
        if self.splits is None:
            return Snapshot(self.tasks, None, positions)
        rows = [row for row in self.splits.to_pylist() if row["split"] // SPLITS_MAX == scan]
        mine = [{**row, "split": row["split"] - first} for row in rows]
        return Snapshot(self.tasks, pa.Table.from_pylist(mine, schema=self.splits.schema), positions)


def together(parts: Iterable[pa.Table]) -> pa.Table:
    """How far the splits of each of a plan's scans had come, as one table."""
    return pa.concat_tables([_raised(table, number * SPLITS_MAX) for number, table in enumerate(parts)])


def _raised(table: pa.Table, first: int) -> pa.Table:
    rows = [{**row, "split": row["split"] + first} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=table.schema)


def snapshot_bytes(snapshot: Snapshot) -> bytes:
    """The snapshot as bytes."""
    tables = {
        json.dumps([task, number, name]): table
        for task, operators in snapshot.tasks.items()
        for number, state in operators.items()
        for name, table in state.items()
    }
    if snapshot.splits is not None:
        tables[json.dumps(["", 0, "splits"])] = snapshot.splits
    parts = {name: _table_bytes(table) for name, table in tables.items()}
    header = json.dumps(
        {
            "tasks": list(snapshot.tasks),
            "tables": [[name, len(data)] for name, data in parts.items()],
            "positions": {str(split): offset for split, offset in snapshot.positions.items()},
        }
    ).encode()
    body = b"".join([len(header).to_bytes(_LENGTH_BYTES, "big"), header, *parts.values()])
    return MAGIC + hashlib.sha256(body).digest() + body


def snapshot_from_bytes(data: bytes) -> Snapshot:
    """The snapshot that was written. BadState where a byte is missing or wrong."""
    start = len(MAGIC) + _DIGEST_BYTES
    if data[: len(MAGIC)] != MAGIC:
        raise BadState("this is no snapshot, or one of another version")
    body = data[start:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : start]:
        raise BadState("the snapshot is damaged: its checksum does not match")
    at = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "big")
    header = json.loads(body[_LENGTH_BYTES:at])
    tasks: dict[str, dict[int, dict[str, pa.Table]]] = {name: {} for name in header["tasks"]}
    splits = None
    for name, length in header["tables"]:
        table = _table_from_bytes(body[at : at + length])
        at += length
        task, number, key = json.loads(name)
        if task:
            tasks.setdefault(task, {}).setdefault(number, {})[key] = table
        else:
            splits = table
    positions = {int(split): offset for split, offset in header["positions"].items()}
    return Snapshot(tasks, splits, positions)


def _table_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _table_from_bytes(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
