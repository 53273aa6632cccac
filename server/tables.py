"""The grammar's tables, kept between two runs of the command line: building them takes longer than most questions."""

from __future__ import annotations

import os
import stat
import sys
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from mql.parser import TABLES


def use_kept_tables() -> None:
    """Takes the tables from the user's cache, or puts them there. Where there is no cache, they are built."""
    if TABLES.ready:
        return
    file = _file()
    try:
        if _is_ours(file):
            with file.open("rb") as kept:
                TABLES.use(kept)
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(file.parent):
            return
        draft = file.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        with draft.open("wb") as kept:
            TABLES.keep(kept)
        draft.replace(file)
        for old in sorted(file.parent.glob("tables-*"), key=lambda one: one.stat().st_mtime)[:-4]:
            old.unlink(missing_ok=True)
    except Exception:  # a cache that is in the way: the tables are built instead
        return


def _file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mql" / f"tables-{_edition()}"


def _edition() -> str:
    """What the tables depend on, in a word."""
    grammar = files("mql").joinpath("grammar.lark").read_bytes()
    return sha256(f"{version('lark')} {sys.version} ".encode() + grammar).hexdigest()[:32]


def _is_ours(path: Path) -> bool:
    """Whether nobody else could have written it."""
    if not path.exists():
        return False
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
