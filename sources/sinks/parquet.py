"""Result rows into Parquet files, by hour, each row once: `hour=2026-01-31T12/errors-a1b2-000000001200.parquet`.

Rows are written to drafts. A roll ends the drafts, syncs them, writes down which files they are to become and which
place in the log they reach (one small file, replaced whole: that is the moment at which the rows are there), and
renames them. A crash before that moment leaves drafts, which are thrown away; one after it, renames that `open` does.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mql.exec.clock import Clock
from mql.exec.files import replace_file, sync_directory
from sources.sinks.contract import Away, Portion

ROWS_MAX = 50_000
OPEN_MAX = 24
"""Files that are open at the same time; for one more, the oldest is ended."""
PARTS = {"hour": 13, "day": 10, "none": 0}
"""How much of `2026-01-31T12:00:00` names a directory."""
TIMES = ("window_start", "window_end", "event_time")


@dataclass(frozen=True, slots=True)
class Layout:
    """`by`: hour, day or none. `time`: the column that decides; else the window's start where rows have it, else when
    they are written. A file is rolled at `bytes` or when it is `seconds` old."""

    by: str = "hour"
    time: str | None = None
    bytes: int = 128 << 20
    seconds: float = 60.0
    compression: str = "zstd"


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is not there yet: what it is called now, and what it is to be called."""

    path: Path
    final: Path


class ParquetSink:
    """`id` goes into the files' names: no other job writes one so called. `state`: where the place is kept."""

    rows_max = ROWS_MAX
    whole_frames = False

    def __init__(self, directory: Path, id: str, layout: Layout, state: Path, clock: Clock) -> None:
        self.directory = directory
        self.id = id
        self.layout = layout
        self.clock = clock
        self.files = 0
        self._state = state
        self._place = 0
        self._reached = 0
        self._is_torn = False
        self._drafts: list[Draft] = []
        self._open: OrderedDict[tuple[str, str], pq.ParquetWriter] = OrderedDict()
        self._began_s = 0.0

    def open(self) -> int:
        with told_as_away("Parquet"):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._state.parent.mkdir(parents=True, exist_ok=True)
            self._place = self._reached = self._finish()
            for draft in self.directory.rglob(f".{self.id}-*.draft"):
                draft.unlink()
        self._is_torn = False
        return self._place

    def write(self, portion: Portion) -> None:
        self._is_torn = True
        with told_as_away("Parquet"):
            for part, rows in self._parts(portion.rows):
                self._writer(part, rows.schema, portion.again or f"{portion.first:012d}").write_table(rows)
            self._reached = portion.end
            if self._is_due() or portion.again is not None:
                self._roll()
        self._is_torn = False

    def missed(self, why: str) -> None:
        """What is gone is told by who drives the sink."""

    def idle(self) -> None:
        if self._is_due():
            with told_as_away("Parquet"):
                self._roll()

    def told(self) -> Mapping[str, Any]:
        return {"path": self.directory.name, "files": self.files, "waiting": self._reached - self._place}

    def leave(self, why: str) -> None:
        """It does not come again: what was written becomes files, unless a portion was left amid."""
        if self._drafts and not self._is_torn:
            with told_as_away("Parquet"):
                self._roll()

    def close(self) -> None:
        """Drafts are thrown away: their rows are in the log, and come again."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._end_all()
        for draft in self._drafts:
            draft.path.unlink(missing_ok=True)
        self._open.clear()
        self._drafts.clear()

    # --- writing ---------------------------------------------------------------------------------------

    def _parts(self, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """The rows of each hour or day, by its directory's name."""
        if not rows.num_rows:
            return
        letters = PARTS[self.layout.by]
        name = self.layout.time or next((one for one in TIMES if one in rows.column_names), None)
        if not letters:
            yield "", rows
            return
        if name is None or name not in rows.column_names or not pa.types.is_timestamp(rows.schema.field(name).type):
            yield f"{self.layout.by}={hour_of(self.clock.now_us())[:letters]}", rows
            return
        hours = rows.column(name).combine_chunks().cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        step = 3_600_000_000 if self.layout.by == "hour" else 86_400_000_000
        numbers = np.floor_divide(pc.fill_null(hours, 0).to_numpy(zero_copy_only=False), step)
        for number in np.unique(numbers):
            found = rows.take(pa.array(np.flatnonzero(numbers == number)))
            yield f"{self.layout.by}={hour_of(int(number) * step)[:letters]}", found

    def _writer(self, part: str, schema: pa.Schema, name: str) -> pq.ParquetWriter:
        """The part's open file, for columns of these types. `name`: what is in the name of a new one."""
        key = (part, str(schema))
        if key not in self._open:
            if not self._drafts:
                self._began_s = self.clock.monotonic_s()
            if len(self._open) >= OPEN_MAX:
                self._open.popitem(last=False)[1].close()
            home = self.directory / part
            home.mkdir(parents=True, exist_ok=True)
            final = home / f"{self.id}-{name}-{len(self._drafts):03d}.parquet"
            draft = Draft(home / f".{final.name}.draft", final)
            self._drafts.append(draft)
            self._open[key] = pq.ParquetWriter(draft.path, schema, compression=self.layout.compression)
        return self._open[key]

    # --- rolling ---------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        if not self._drafts:
            return self._reached > self._place and self.clock.monotonic_s() - self._began_s >= self.layout.seconds
        old = self.clock.monotonic_s() - self._began_s >= self.layout.seconds
        return old or sum(draft.path.stat().st_size for draft in self._drafts) >= self.layout.bytes

    def _roll(self) -> None:
        """What was written becomes files, all of them together."""
        self._end_all()
        for draft in self._drafts:
            sync_file(draft.path)
        renames = [[str(draft.path), str(draft.final)] for draft in self._drafts]
        told = {"place": self._reached, "renames": renames}
        replace_file(self._state, json.dumps(told).encode())
        self.files += len(self._drafts)
        self._drafts.clear()
        self._began_s = self.clock.monotonic_s()
        self._place = self._finish()

    def _end_all(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _finish(self) -> int:
        """Renames what is still to be renamed, and says which place the files reach."""
        if not self._state.exists():
            return 0
        told = json.loads(self._state.read_bytes())
        homes = set()
        for path, final in told["renames"]:
            if Path(path).exists():
                os.replace(path, final)
            homes.add(Path(final).parent)
        for home in homes:
            sync_directory(home)
        return int(told["place"])


def hour_of(us: int) -> str:
    """`2026-01-31T12:00:00` of microseconds since the epoch."""
    return str(np.datetime64(us, "us").astype("datetime64[s]"))


def sync_file(path: Path) -> None:
    """Its bytes, and its name, survive a loss of power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_directory(path.parent)


@contextlib.contextmanager
def told_as_away(what: str) -> Iterator[None]:
    """A disk that is full or away is tried again."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise Away(f"{what} cannot be written: {error}") from error
