"""Checkpoints: whole or not taken."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from mql.exec.checkpoint import Checkpoint, Checkpoints, checkpoint_bytes, checkpoint_from_bytes, number_in
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
    assert numbers_in(kept) == [5, 4, 3]
    paths = list(tmp_path.glob("*.checkpoint"))
    newest = max(paths, key=number_in)
    newest.write_bytes(newest.read_bytes()[:-1])
    found = kept.newest()
    assert found is not None
    assert (len(paths), found.number) == (3, 4)
    kept.write(checkpoint(5))
    assert numbers_in(kept) == [5, 4, 3]


def test_a_write_that_is_torn_anywhere_leaves_the_two_before(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for number in range(1, 4):
        kept.write(checkpoint(number))
    (oldest,) = (path for path in tmp_path.glob("*.checkpoint") if number_in(path) == 1)
    before, data = oldest.read_bytes(), checkpoint_bytes(checkpoint(4))
    for length in range(1, len(data)):
        oldest.write_bytes(data[:length] + before[length:])
        assert [number for number in numbers_in(kept) if number in (2, 3)] == [3, 2], length


def numbers_in(kept: Checkpoints) -> list[int]:
    return [found.number for found, _ in kept.whole()]


def test_a_half_written_draft_is_no_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.write(checkpoint(1))
    (tmp_path / ".000000000002.checkpoint.draft").write_bytes(b"MQLCHECK1\n")
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert found.number == 1
