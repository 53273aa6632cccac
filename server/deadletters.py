"""A job's dead letters on disk: events that could not be read, events that came too late, rows that a sink refused.

Each kind, and each sink, has a log of its own, bounded by size and age: so a flood of one keeps nothing of another from
being kept. They are result logs (resultlog.py) whose rows are letters. What became of letters that somebody sent again
or let go of is one small file beside.

Letters of events belong to checkpoints: they are written just before one, which notes how long the logs are, and a job
that goes back to it cuts them off there. Letters of a sink are written before its place moves on; what a crash leaves
between the two is known by the rows' numbers, so that it is written once.
"""

from __future__ import annotations

import heapq
import json
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.exec.aside import Aside
from mql.exec.clock import Clock
from mql.exec.files import replace_file
from server import encode
from server.resultlog import Keep, Length, ResultLog

Kind = Literal["unreadable", "late", "refused"]
KINDS: tuple[Kind, ...] = ("unreadable", "late", "refused")
PAYLOAD_BYTES = 4_096
"""What is told of a letter's event or row at most."""
WHOLE_BYTES = 64 << 10
"""A row that is larger is not kept whole beside its reason: the job's results have it for as long as they are kept."""
SEGMENT_BYTES = 2 << 20
LATE_MAX = 1_000
"""Late rows that are kept of those that come between two checkpoints; all are counted."""
LATE = "its windows had closed"
LOOK_BACK = 256
ROW_MAX = 2**62
EVENT = "event"
SCHEMA = pa.schema(
    [
        ("at_us", pa.int64()),
        ("reason", pa.string()),
        ("source", pa.string()),
        ("split", pa.int64()),
        ("offset", pa.int64()),
        ("row", pa.int64()),
        ("payload", pa.string()),
        ("left_out", pa.int64()),
        ("total", pa.int64()),
    ]
)
"""A letter. `row`: the number of the refused row among the job's results. `left_out`: so many before it were counted
and not kept. `total`: so many there were with it. A column `event` holds the event or row, where it is kept whole."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Place:
    """How long a log of letters is, and how many letters there were, those that were only counted among them."""

    number: int = 0
    rows: int = 0
    total: int = 0


@dataclass(slots=True)
class Fates:
    """Letters that are done with, as ranges of their numbers, and how many there ever were."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def has(self, row: int) -> bool:
        at = bisect_right(self.ranges, (row, ROW_MAX))
        return at > 0 and row < self.ranges[at - 1][1]

    def add(self, rows: Iterable[int], fate: str) -> int:
        """Gives how many of them were open until now."""
        fresh = sorted({row for row in rows if not self.has(row)})
        self.ranges = joined([*self.ranges, *((row, row + 1) for row in fresh)])
        self.counts[fate] = self.counts.get(fate, 0) + len(fresh)
        return len(fresh)

    def within(self, first: int, end: int) -> int:
        """How many of these numbers are done with."""
        return sum(max(0, min(end, b) - max(first, a)) for a, b in self.ranges)

    def cut(self, first: int, end: int) -> None:
        """Only these numbers are letters any more."""
        self.ranges = [(max(a, first), min(b, end)) for a, b in self.ranges if max(a, first) < min(b, end)]


class DeadLog:
    """The letters of one kind, or of one sink. On disk from the first letter on. Thread-safe.

    Letters are named `log:number`, such as `late:17`.
    """

    def __init__(self, directory: Path, kind: Kind, keep: Keep, clock: Clock, sink: str | None = None) -> None:
        self.directory = directory
        self.name = directory.name
        self.kind: Kind = kind
        self.sink = sink
        self._keep = keep
        self._clock = clock
        self._guard = threading.RLock()
        self._log: ResultLog | None = None
        self._total = 0
        self._uncounted = 0
        self._fates = Fates()
        if directory.exists():
            self._opened()

    # --- writing ---------------------------------------------------------------------------------------

    def append(self, letters: pa.Table, left_out: int = 0) -> None:
        """Letters of events, in the columns of SCHEMA. Seen once they are committed."""
        rows = letters.num_rows
        with self._guard:
            left_out += self._uncounted
            self._uncounted = 0 if rows else left_out
            if not rows:
                return
            log = self._opened()
            totals = np.arange(rows, dtype=np.int64) + (self._total + left_out + 1)
            numbers = {"left_out": np.concatenate([[left_out], np.zeros(rows - 1, np.int64)]), "total": totals}
            for name, values in numbers.items():
                letters = letters.set_column(letters.column_names.index(name), name, pa.array(values, pa.int64()))
            log.append(letters)
            self._total = int(totals[-1])

    def keep_for(self, keep: Keep) -> None:
        """How long letters are kept, and how many bytes of them, from now on."""
        with self._guard:
            self._keep = keep
            if self._log is not None:
                self._log.keep = keep

    def keep_unreadable(self, aside: Aside) -> None:
        """Events of a source that could not be read."""
        letters = aside.unreadable
        columns = {name: [getattr(one, name) for one in letters] for name in ("reason", "split", "offset")}
        texts = [one.text for one in letters]
        found = letters_of(len(letters), self._clock.now_us(), **columns, source=aside.source, payload=texts)
        self.append(found, aside.unreadable_left_out)

    def keep_late(self, aside: Aside) -> None:
        """Events of a source that came too late for their windows: the newest of them."""
        if aside.late is None:
            return
        rows = aside.late.slice(max(0, aside.late.num_rows - LATE_MAX))
        left_out = aside.late_left_out + aside.late.num_rows - rows.num_rows
        columns = {name: rows.column(rows.column_names.index(name)) for name in ("split", "offset")}
        letters = letters_of(rows.num_rows, self._clock.now_us(), **columns, reason=LATE, source=aside.source)
        self.append(with_events(letters, rows), left_out)

    def settle(self) -> Place:
        """What was written survives a loss of power; gives how long the log is."""
        with self._guard:
            if self._log is None:
                return Place()
            self._log.sync()
            return Place(self._log.length.number, self._log.length.rows, self._total)

    def commit(self) -> None:
        """Readers may see all of it."""
        with self._guard:
            if self._log is not None:
                self._log.commit()

    def go_back(self, place: Place) -> None:
        """Takes back what is behind that place: it comes again."""
        with self._guard:
            if self._log is None:
                return
            length = Length(place.number, place.rows)
            if self._log.length.number > length.number:
                self._log.truncate(length)
                self._total = place.total
                self._fates.cut(0, place.rows)

    def bury(self, rows: pa.Table, places: Ints, reasons: Sequence[str]) -> None:
        """Rows that a sink refused for good, with their numbers among the job's results. Written when it returns."""
        small = np.array([rows.slice(at, 1).nbytes <= WHOLE_BYTES for at in range(rows.num_rows)])
        for mask in (small, ~small):
            if mask.any():
                at = pa.array(np.flatnonzero(mask))
                whys = [why for why, is_it in zip(reasons, mask, strict=True) if is_it]
                self._bury(rows.take(at), places[mask], whys, whole=bool(mask is small))

    def bury_text(self, text: str, reason: str) -> None:
        """What was refused where it is no row: an alert."""
        self._write(letters_of(1, self._clock.now_us(), reason=reason, payload=text[:PAYLOAD_BYTES]))

    def _bury(self, rows: pa.Table, places: Ints, reasons: Sequence[str], *, whole: bool) -> None:
        columns: dict[str, Any] = {"row": places, "reason": reasons}
        if not whole:
            columns["payload"] = [cut(encode.dumps(row)) for row in encode.rows_of(rows)]
        letters = letters_of(rows.num_rows, self._clock.now_us(), **columns)
        self._write(with_events(letters, rows) if whole else letters)

    def _write(self, letters: pa.Table) -> None:
        with self._guard:
            log = self._opened()
            before = Place(log.length.number, log.length.rows, self._total)
            self.append(letters)
            try:
                self.settle()
            except OSError:
                self.go_back(before)  # it comes again, and is to be there once
                raise
            self.commit()

    def close_letters(self, rows: Iterable[int], fate: str) -> int:
        """They are done with: `sent` or `discarded`. Gives how many were open."""
        with self._guard:
            if self._log is None:
                return 0
            oldest, end = self._log.oldest.rows, self._log.committed.rows
            self._fates.cut(oldest, end)
            count = self._fates.add((row for row in rows if oldest <= row < end), fate)
            self._write_down()
            return count

    def expire(self) -> None:
        """Lets go of what is older than letters are kept, though no new ones come."""
        with self._guard:
            if self._log is not None and self._log.expire():
                self._write_down()

    def _write_down(self) -> None:
        """What is not in the letters that are kept."""
        told = {"ranges": self._fates.ranges, "counts": self._fates.counts, "total": self._total}
        replace_file(self.directory / "fates.json", json.dumps(told).encode())

    def close(self) -> None:
        with self._guard:
            if self._log is not None:
                self._log.close()

    # --- reading ---------------------------------------------------------------------------------------

    def newest(self, before: int | None, n: int) -> list[dict[str, Any]]:
        """The newest letters that are open, those before a number alone, the newest first."""
        found: list[dict[str, Any]] = []
        with self._guard:
            log = self._log
        if log is None:
            return found
        oldest = log.oldest.rows
        end = log.committed.rows if before is None else min(before, log.committed.rows)
        since_us = self._clock.now_us() - int(self._keep.age_s * 1e6)
        while end > oldest and len(found) < n:
            start = max(oldest, end - LOOK_BACK)
            told = [letter for first, part in log.parts(range(start, end)) for letter in self._told(first, part)]
            found += [letter for letter in reversed(told) if letter["at_us"] >= since_us]
            end = start
        return found[:n]

    def following(self, after: int, n: int) -> list[dict[str, Any]]:
        """The oldest letters that are open from a number on."""
        found: list[dict[str, Any]] = []
        with self._guard:
            log = self._log
        for first, part in log.parts(range(after, ROW_MAX)) if log is not None else ():
            found += self._told(first, part)
            if len(found) >= n:
                break
        return found[:n]

    @property
    def end(self) -> int:
        """The number of the letter that comes next."""
        with self._guard:
            return 0 if self._log is None else self._log.committed.rows

    def letters(self, rows: Iterable[int]) -> Iterator[tuple[Ints, pa.Table]]:
        """The open letters of these numbers, record by record, each with their numbers."""
        wanted = sorted(set(rows))
        with self._guard:
            log = self._log
        if log is None or not wanted:
            return
        for first, part in log.parts(range(wanted[0], wanted[-1] + 1)):
            numbers = np.arange(first, first + part.num_rows)
            mask = np.isin(numbers, wanted) & np.array([not self._fates.has(int(number)) for number in numbers])
            if mask.any():
                yield numbers[mask], part.filter(pa.array(mask))

    def open_numbers(self) -> list[int]:
        """The numbers of all letters that are open."""
        with self._guard:
            if self._log is None:
                return []
            numbers = range(self._log.oldest.rows, self._log.committed.rows)
            return [number for number in numbers if not self._fates.has(number)]

    def buried_from(self, row: int) -> set[int]:
        """The numbers of refused rows from that one on."""
        found: set[int] = set()
        with self._guard:
            log = self._log
        end = 0 if log is None else log.committed.rows
        while log is not None and end > log.oldest.rows:
            start = max(log.oldest.rows, end - LOOK_BACK)
            rows = [number for _, part in log.parts(range(start, end)) for number in part.column("row").to_pylist()]
            fresh = {number for number in rows if number is not None and number >= row}
            found |= fresh
            if rows and not fresh:
                break
            end = start
        return found

    def numbers(self) -> dict[str, int]:
        """How many letters there were in all, how many are open, what became of others, what it takes on disk."""
        with self._guard:
            counts = {"total": self._total, "open": 0, "sent": 0, "discarded": 0, "bytes": 0}
            if self._log is not None:
                first, end = self._log.oldest.rows, self._log.committed.rows
                counts |= {"open": end - first - self._fates.within(first, end), "bytes": self._log.bytes}
                counts |= self._fates.counts
            return counts

    def _told(self, first: int, part: pa.Table) -> Iterator[dict[str, Any]]:
        """The open letters of a record as people read them."""
        plain = part.drop_columns([EVENT]) if EVENT in part.column_names else part
        events = encode.rows_of(flat(part)) if EVENT in part.column_names else None
        for at, letter in enumerate(plain.to_pylist()):
            if self._fates.has(first + at):
                continue
            del letter["total"]
            if events is not None:
                text = encode.dumps(events[at])
                letter["payload"] = events[at] if len(text) <= PAYLOAD_BYTES else cut(text)
            told = {name: value for name, value in letter.items() if value is not None or name == "payload"}
            about = {"id": f"{self.name}:{first + at}", "kind": self.kind}
            yield about | ({} if self.sink is None else {"sink": self.sink}) | told

    def _opened(self) -> ResultLog:
        with self._guard:
            if self._log is None:
                self._log = ResultLog(self.directory, self._keep, self._clock)
                rows = self._log.length.rows
                last = [part for _, part in self._log.parts(range(max(0, rows - 1), rows))]
                self._total = rows
                with suppress(OSError, ValueError, KeyError):
                    told = json.loads((self.directory / "fates.json").read_bytes())
                    self._fates = Fates([(int(a), int(b)) for a, b in told["ranges"]], dict(told["counts"]))
                    self._total = max(rows, int(told["total"]))
                if last:
                    self._total = int(last[-1].column("total")[-1].as_py())
            return self._log


class DeadLogs:
    """All dead letters of one job: `unreadable`, `late`, and a log for each of its sinks. Thread-safe."""

    def __init__(self, home: Path, keep: Keep, clock: Clock) -> None:
        self._home = home
        self._keep = keep
        self._clock = clock
        self._guard = threading.Lock()
        self._logs: dict[str, DeadLog] = {}
        for name in ("unreadable", "late"):
            self._logs[name] = DeadLog(home / name, name, keep, clock)
        for path in sorted(home.glob("sink-*")):
            self.of_sink(path.name.removeprefix("sink-"))

    @property
    def unreadable(self) -> DeadLog:
        return self._logs["unreadable"]

    @property
    def late(self) -> DeadLog:
        return self._logs["late"]

    def of_sink(self, sink: str) -> DeadLog:
        """What this sink of the job has refused."""
        with self._guard:
            name = f"sink-{sink}"
            if name not in self._logs:
                self._logs[name] = DeadLog(self._home / name, "refused", self._keep, self._clock, sink)
            return self._logs[name]

    def chosen(self, kinds: Sequence[str] = KINDS, sink: str | None = None) -> list[DeadLog]:
        """The logs of these kinds; of one sink alone, where that is said."""
        with self._guard:
            logs = list(self._logs.values())
        return [log for log in logs if log.kind in kinds and (sink is None or log.sink == sink)]

    def named(self, name: str) -> DeadLog | None:
        with self._guard:
            return self._logs.get(name)

    def keep_for(self, keep: Keep) -> None:
        self._keep = keep
        for log in self.chosen():
            log.keep_for(keep)

    def places(self) -> dict[str, list[int]]:
        """How long the logs of events are, for a checkpoint; what is in them survives a loss of power."""
        return {log.name: list(astuple(log.settle())) for log in (self.unreadable, self.late)}

    def go_back(self, places: Mapping[str, Sequence[int]] | None) -> None:
        """To where a checkpoint stands: letters of events behind it come again. None: it says nothing of them."""
        if places is not None:
            for log in (self.unreadable, self.late):
                log.go_back(Place(*places.get(log.name, ())))

    def commit(self) -> None:
        """Readers may see all letters of events."""
        for log in (self.unreadable, self.late):
            log.commit()

    def page(
        self, logs: Sequence[DeadLog], before: Mapping[str, int], n: int
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The newest letters of these logs, each before its number where one is said; and the numbers for the next
        page, which is none where nothing is left."""
        found = [log.newest(before.get(log.name), n + 1) for log in logs]
        merged = list(heapq.merge(*found, key=lambda letter: -int(letter["at_us"])))
        shown, rest = merged[:n], len(merged) > n
        following = dict(before)
        for letter in shown:
            name, _, number = letter["id"].rpartition(":")
            following[name] = int(number)
        return shown, following if rest else {}

    def following(
        self, logs: Sequence[DeadLog], after: Mapping[str, int], n: int
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """What has come to these logs since those numbers, the oldest first; and the numbers behind it."""
        ends = {log.name: log.end for log in logs}
        found = [log.following(min(after.get(log.name, 0), ends[log.name]), n) for log in logs]
        shown = list(heapq.merge(*found, key=lambda letter: int(letter["at_us"])))[:n]
        reached = dict(after) if len(shown) == n else ends
        for letter in shown if len(shown) == n else ():
            name, _, number = letter["id"].rpartition(":")
            reached[name] = int(number) + 1
        return shown, reached

    def expire(self) -> None:
        for log in self.chosen():
            log.expire()

    def numbers(self) -> dict[str, dict[str, int]]:
        """Of each log that has letters, by its name."""
        return {log.name: counts for log in self.chosen() if (counts := log.numbers())["total"]}

    def close(self) -> None:
        for log in self.chosen():
            log.close()


def letters_of(count: int, at_us: int, **columns: Any) -> pa.Table:
    """So many letters; what is said once is the same for all, what is not said is null."""
    given = {"at_us": at_us, "left_out": 0, "total": 0} | columns
    whole = {name: [said] * count if isinstance(said, str | int) else said for name, said in given.items()}
    return pa.table({one.name: whole.get(one.name, [None] * count) for one in SCHEMA}, schema=SCHEMA)


def with_events(letters: pa.Table, events: pa.Table) -> pa.Table:
    """The letters with the events or rows that they are about, whole, as one column. A property that is called as
    something that is told beside it keeps its name."""
    arrays = [column.combine_chunks() for column in events.columns]
    names = events.column_names
    told_apart = [f"_{name}" if name in names[at + 1 :] else name for at, name in enumerate(names)]
    whole = pa.StructArray.from_arrays(arrays, names=told_apart)
    return letters.append_column(EVENT, whole)


def flat(letters: pa.Table) -> pa.Table:
    """The events or rows that letters are about, in columns of their own."""
    whole = letters.column(EVENT).combine_chunks()
    arrays = [pa.chunked_array([one]) for one in whole.flatten()]
    return pa.table(arrays, names=[one.name for one in whole.type])


def cut(text: bytes) -> str:
    return text[:PAYLOAD_BYTES].decode(errors="replace")


def joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return found
