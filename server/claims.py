"""One server on one data directory: who comes second is told who is there.

A claim is a lock of the operating system on a file. It goes with the process that has it, however that ends; the file
stays, and says who had it last.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from mql.errors import MqlError
from mql.exec.clock import Clock, SystemClock

log = logging.getLogger("server")

FILE = "server.lock"
TELLS_BYTES_MAX = 4_096
LOOK_S = 0.05
WAIT_S = 0.5
"""Somebody may just be looking who is there."""
HINT = "Stop that one first, or give this one {}. The claim ends with its process, however that ends."


class Claim(Protocol):
    """What is claimed until it is let go of."""

    def is_held(self) -> bool:
        """Whether it is still ours; claims it again where it was lost and is free. Blocks."""

    def let_go(self) -> None: ...


class FileClaim:
    """A lock on a file."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file

    def is_held(self) -> bool:
        return True

    def let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def claim_directory(directory: Path, clock: Clock | None = None) -> Claim:
    """The data directory of one server. MqlError where another has it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return unclaimed(directory, error)
    hint = HINT.format("a directory of its own (data_dir: in its configuration; where it has none, start it elsewhere)")
    return claim_file(directory / FILE, f'the data directory "{directory.resolve()}"', hint, clock)


def claim_file(path: Path, what: str, hint: str, clock: Clock | None = None) -> Claim:
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
    except OSError as error:
        return unclaimed(path, error)
    end_s = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end_s:
                who = told_in(file)
                file.close()
                raise in_use(what, who, hint) from None
            time.sleep(LOOK_S)
        except OSError as error:
            file.close()
            return unclaimed(path, error)
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since_us": (clock or SystemClock()).now_us()}
    with suppress(OSError):  # a disk that is full keeps nobody from claiming
        file.truncate(0)
        file.write(json.dumps(about).encode())
    return FileClaim(file)


def unclaimed(path: Path, error: OSError) -> Claim:
    """Who may not write there keeps nothing there; a file system without locks is for its operator to look after."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.EOPNOTSUPP):
        raise error
    log.warning("%s cannot be locked (%s): nothing keeps a second server away", path, error.strerror)
    return FileClaim(None)


def in_use(what: str, who: str, hint: str) -> MqlError:
    return MqlError(f"{what} is in use by {who}", hint=hint, code="in-use")


def claimed_by(directory: Path) -> str | None:
    """Who has the data directory, in words; None where nobody has."""
    try:
        file = (directory / FILE).open("rb", buffering=0)
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return told_in(file)
        except OSError:
            return None
    return None


def told_in(file: BinaryIO) -> str:
    """Who a lock's file says that it is."""
    try:
        file.seek(0)
        about = json.loads(file.read(TELLS_BYTES_MAX))
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(about["since_us"] / 1e6))
        return f"the server with pid {int(about['pid'])} on host {str(about['host'])[:255]}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another server"
