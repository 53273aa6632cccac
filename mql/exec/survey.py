"""A look at the bytes of JSON lines without decoding them: how many events they are, and whether all of them may be
decoded as they are. A sixteenth of decoding's price: a buffer that is used again, and three passes through the cache.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import stringzilla

from mql.exec.cutting import DEPTH_MAX, NEWLINE

BLOCK = DEPTH_MAX // 16 * 16
"""If a line ends in each block of this size, none is longer than twice that: too short to be nested too deep."""
BYTES_AT_ONCE = BLOCK << 10


@dataclass(slots=True)
class Survey:
    """What has been seen so far. `stopped` ends the looking."""

    lines: int = 0
    starts: int = 0
    bytes: int = 0
    odd: bool = False
    stopped: bool = False

    @property
    def plain(self) -> bool:
        """Whether each line begins with a brace and none is long."""
        return not self.odd and not self.stopped and self.lines == self.starts


def look(survey: Survey, guard: threading.Lock, files: Sequence[Path], part: int, parts: int) -> Iterator[None]:
    """Adds a part of the files, a share of the bytes of each, to the survey, piece by piece."""
    buffer = bytearray(BYTES_AT_ONCE + 1)
    for path in files:
        with path.open("rb", buffering=0) as file:
            size = path.stat().st_size
            blocks = -(-size // BYTES_AT_ONCE)
            for block in range(blocks * part // parts, blocks * (part + 1) // parts):
                if survey.odd or survey.stopped:
                    return
                _add(survey, guard, file.fileno(), buffer, block * BYTES_AT_ONCE, size)
                yield


def _add(survey: Survey, guard: threading.Lock, fd: int, buffer: bytearray, at: int, size: int) -> None:
    """One piece of a file. The byte before it, a line's end in front of the first, tells whether it begins a line."""
    view = memoryview(buffer)
    if at == 0:
        buffer[0] = NEWLINE
        got = os.preadv(fd, [view[1:]], 0) + 1
    else:
        got = os.preadv(fd, [view], at - 1)
    piece = view[1:got]
    starts = stringzilla.count(view[:got], b"\n{")
    ends = np.frombuffer(piece, np.uint8) == NEWLINE
    whole = len(ends) // BLOCK * BLOCK
    words = ends[:whole].view(np.uint64).reshape(-1, BLOCK // 8)
    lines = int(np.count_nonzero(ends))
    if at + len(piece) >= size and len(ends) and not ends[-1]:
        lines += 1
    short = bool(np.bitwise_or.reduce(words, axis=1).all())
    with guard:
        survey.starts += starts
        survey.lines += lines
        survey.bytes += len(piece)
        survey.odd |= not short
