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

from mql.exec.files import replace_file
from mql.exec.state import BadState, Snapshot, snapshot_bytes, snapshot_from_bytes

MAGIC = b"MQLCHECK1\n"
DIGEST_BYTES = 32
LENGTH_BYTES = 8
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
    """A job's checkpoints in a directory. One owner."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, checkpoint: Checkpoint) -> int:
        """Writes it and lets go of the oldest; gives its size in bytes."""
        data = checkpoint_bytes(checkpoint)
        replace_file(self.directory / f"{checkpoint.number:012d}{ENDING}", data)
        for path in self._paths()[KEPT:]:
            path.unlink(missing_ok=True)
        return len(data)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole; None where there is none. Damaged ones are set aside, for somebody to look at."""
        for path in self._paths():
            try:
                return checkpoint_from_bytes(path.read_bytes())
            except BadState:
                path.replace(path.with_suffix(".damaged"))
        return None

    def whole(self) -> Iterator[tuple[Checkpoint, int]]:
        """Those that are kept and whole, the newest first, with their sizes in bytes."""
        for path in self._paths():
            with suppress(BadState, FileNotFoundError):
                data = path.read_bytes()
                yield checkpoint_from_bytes(data), len(data)

    def clear(self) -> None:
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """The newest first."""
        return sorted(self.directory.glob(f"*{ENDING}"), reverse=True)
