"""A job's checkpoints: one file each, whole or not there. Positions, operators' state, how far its results were told.

Layout: magic, SHA-256 of the rest, length of the notes, notes (JSON), the snapshot (state.py, with a checksum of its
own). The newest few are kept; one that is damaged is passed over and the one before is taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mql.exec.files import overwrite_file
from mql.exec.state import BadState, Snapshot, snapshot_bytes, snapshot_from_bytes

MAGIC = b"MQLCHECK1\n"
DIGEST_BYTES = 32
LENGTH_BYTES = 8
NOTES_BYTES_MAX = 64 << 20
KEPT = 3
ENDING = ".checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a job goes on from. `notes`: what its owner wants to know again, as JSON."""

    number: int
    snapshot: Snapshot
    notes: Mapping[str, Any] = field(default_factory=dict)


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    notes = json.dumps({"number": checkpoint.number, **checkpoint.notes}).encode()
    body = len(notes).to_bytes(LENGTH_BYTES, "big") + notes + snapshot_bytes(checkpoint.snapshot)
    return MAGIC + hashlib.sha256(body).digest() + body


def checkpoint_from_bytes(data: bytes) -> Checkpoint:
    """The checkpoint that was written. BadState where a byte is missing or wrong."""
    start = len(MAGIC) + DIGEST_BYTES
    body = data[start:]
    if data[: len(MAGIC)] != MAGIC:
        raise BadState("this is no checkpoint, or one of another version")
    if hashlib.sha256(body).digest() != data[len(MAGIC) : start]:
        raise BadState("the checkpoint is damaged: its checksum does not match")
    at = LENGTH_BYTES + int.from_bytes(body[:LENGTH_BYTES], "big")
    notes = json.loads(body[LENGTH_BYTES:at])
    return Checkpoint(notes.pop("number"), snapshot_from_bytes(body[at:]), notes)


class Checkpoints:
    """A job's checkpoints in a directory. One owner.

    They are written over each other in turn, in place: no name is made or taken away, so one costs one sync. Torn in a
    crash can only be the one that is written, and that takes the place of the oldest.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, checkpoint: Checkpoint) -> int:
        """Writes it over the oldest; gives its size in bytes."""
        data = checkpoint_bytes(checkpoint)
        overwrite_file(self.directory / f"{checkpoint.number % KEPT}{ENDING}", data)
        return len(data)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole; None where there is none."""
        return next((checkpoint for checkpoint, _ in self.whole()), None)

    def whole(self) -> Iterator[tuple[Checkpoint, int]]:
        """Those that are kept and whole, the newest first, with their sizes in bytes."""
        for path in self._paths()[:KEPT]:
            with suppress(BadState, FileNotFoundError):
                data = path.read_bytes()
                yield checkpoint_from_bytes(data), len(data)

    def _paths(self) -> list[Path]:
        """Those that can be read so far as to their number; the newest first."""
        found = [(number_in(path), path) for path in self.directory.glob(f"*{ENDING}")]
        return [path for number, path in sorted(found, reverse=True) if number]


def number_in(path: Path) -> int:
    """The number that a checkpoint's file says it has; 0 where that cannot be read."""
    start = len(MAGIC) + DIGEST_BYTES
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
        head = file.read(start + LENGTH_BYTES)
        length = int.from_bytes(head[start:], "big")
        if head.startswith(MAGIC) and length <= NOTES_BYTES_MAX:
            return int(json.loads(file.read(length))["number"])
    return 0
