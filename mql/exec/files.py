"""Files that survive what happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Written beside, synced, renamed over: who reads sees all of the old or all of the new. Not `synced`, a loss of
    power may bring back the old."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)
    if synced:
        sync_directory(path.parent)


def overwrite_file(path: Path, data: bytes) -> None:
    """Written in place, and synced: what a crash leaves may be neither the old nor the new."""
    is_new = not path.exists()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        file.write(data)
        file.truncate()
        file.flush()
        os.fdatasync(file.fileno())
    if is_new:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Names that were made, changed or taken away in it survive a loss of power."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
