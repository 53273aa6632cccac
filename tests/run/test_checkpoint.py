"""Checkpoints: whole or not taken."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from mql.exec.checkpoint import Checkpoint, Checkpoints, checkpoint_bytes, checkpoint_from_bytes
from mql.exec.state import BadState, Snapshot

FLIPS = int(os.environ.get("MQL_FLIPS", "2000"))
STATE = {"groups": pa.table({"k": ["a", "b"], "n": pa.array([1, 2], pa.int64())})}


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(number, Snapshot({"stage0/0": {1: STATE}}, None, {0: 100 * number}), {"log": [number, 3]})


def test_what_was_written_is_read() -> None:
    found = checkpoint_from_bytes(checkpoint_bytes(checkpoint(7)))
    assert (found.number, found.notes, found.snapshot.positions) == (7, {"log": [7, 3]}, {0: 700})
    assert found.snapshot.tasks["stage0/0"][1]["groups"].equals(STATE["groups"])


def test_every_cut_is_noticed() -> None:
    data = checkpoint_bytes(checkpoint(1))
    for length in range(len(data)):
        with pytest.raises(BadState):
            checkpoint_from_bytes(data[:length])


def test_every_flipped_bit_is_noticed() -> None:
    data = checkpoint_bytes(checkpoint(1))
    dice = random.Random(1)
    for at in [*range(100), *(dice.randrange(len(data)) for _ in range(FLIPS))]:
        broken = bytearray(data)
        broken[at] ^= 1 << dice.randrange(8)
        with pytest.raises(BadState):
            checkpoint_from_bytes(bytes(broken))


def test_the_one_before_is_taken_where_the_newest_is_damaged(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for number in range(1, 6):
        kept.write(checkpoint(number))
    assert len(list(tmp_path.glob("*.checkpoint"))) == 3
    newest = max(tmp_path.glob("*.checkpoint"))
    newest.write_bytes(newest.read_bytes()[:-1])
    found = kept.newest()
    assert found is not None
    assert found.number == 4
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".checkpoint", ".checkpoint", ".damaged"]


def test_a_half_written_draft_is_no_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.write(checkpoint(1))
    (tmp_path / ".000000000002.checkpoint.draft").write_bytes(b"MQLCHECK1\n")
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert found.number == 1
