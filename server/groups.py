"""Groups of readers: each row of a job goes to one reader of the group, at least once.

A reader takes a stretch of rows for a while (a lease) and says when it is done with them. What it does not say in time
goes to whoever asks next; so readers may come, go and crash as they like, and the quicker take more. How far a group
is done is one small file; leases are in memory only, and a restart gives their rows out again.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from mql.errors import MqlError
from mql.exec.clock import Clock
from mql.exec.files import replace_file
from server.resultlog import ResultLog

GROUPS_MAX = 100
LEASES_MAX = 10_000
AHEAD_MAX = 10_000


class NoLease(MqlError):
    """It never was, or its time is over."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Rows from `first` up to (not with) `after`, for one reader until then."""

    id: str
    reader: str
    first: int
    after: int
    until_s: float


@dataclass(slots=True)
class Group:
    """How far a group is: all rows before `done`, and stretches `ahead` of that. `lost`: gone before they were read."""

    done: int
    ahead: list[tuple[int, int]] = field(default_factory=list)
    lost: int = 0
    leases: dict[str, Lease] = field(default_factory=dict)

    def free(self) -> tuple[int, int | None]:
        """The first stretch that nobody has: from where, and up to where if there is an end."""
        at = self.done
        taken = [*self.ahead, *((lease.first, lease.after) for lease in self.leases.values())]
        for first, after in sorted(taken):
            if first > at:
                return at, first
            at = max(at, after)
        return at, None

    def finish(self, first: int, after: int) -> None:
        self.ahead = sorted([*self.ahead, (first, after)])
        while self.ahead and self.ahead[0][0] <= self.done:
            self.done = max(self.done, self.ahead.pop(0)[1])


class Groups:
    """The groups of one job's readers. Thread-safe; calls block."""

    def __init__(self, directory: Path, results: ResultLog, clock: Clock) -> None:
        self._directory = directory
        self._log = results
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self._guard = threading.Lock()
        for path in sorted(directory.glob("*.json")):
            with suppress(OSError, ValueError, KeyError):
                told = json.loads(path.read_bytes())
                if told["log"] == results.id:
                    ahead = [(int(first), int(after)) for first, after in told["ahead"]]
                    self._groups[path.stem] = Group(int(told["done"]), ahead, int(told["lost"]))

    def take(
        self, name: str, reader: str, rows_max: int, lease_s: float, *, live: bool
    ) -> tuple[Lease | None, Sequence[pa.Table]]:
        """Rows for a reader, and its lease; None where there are none now. A group begins with who first takes."""
        with self._guard:
            group = self._groups.get(name) or self._begin(name, live)
            now_s = self._clock.monotonic_s()
            group.leases = {id: lease for id, lease in group.leases.items() if lease.until_s > now_s}
            if len(group.leases) >= LEASES_MAX or len(group.ahead) >= AHEAD_MAX:
                hint = "Say :ack for what is done, or wait until it is given out again."
                raise MqlError("too much is under way in this group", hint=hint, code="too-many-leases")
            oldest = self._log.oldest.rows
            if group.done < oldest:
                group.lost += oldest - group.done
                group.finish(group.done, oldest)
            first, before = group.free()
            last = min(self._log.committed.rows, first + rows_max, first + rows_max if before is None else before)
            if last <= first:
                return None, ()
            tables, after = self._log.tables(range(first, last), 0, 2**62, rows_max)
            after = after if tables else last
            lease = Lease(f"{first}-{after}-{secrets.token_hex(6)}", reader, first, after, now_s + lease_s)
            group.leases[lease.id] = lease
            return lease, tables

    def ack(self, name: str, id: str) -> Group:
        """The reader is done with these rows: nobody gets them again."""
        with self._guard:
            group = self._known(name)
            lease = group.leases.get(id)
            if lease is None or lease.until_s <= self._clock.monotonic_s():
                hint = "Its time was over, and its rows go to who asks next: take a longer lease, or fewer rows."
                raise NoLease("this lease does not hold any more", hint=hint, code="no-lease")
            before = Group(group.done, list(group.ahead), group.lost)
            group.finish(lease.first, lease.after)
            try:
                self._write(name, group)
            except OSError:
                group.done, group.ahead = before.done, before.ahead
                raise
            del group.leases[id]
            return group

    def release(self, name: str, reader: str) -> None:
        """The reader leaves: what it has not done goes to the others at once."""
        with self._guard:
            group = self._known(name)
            group.leases = {id: lease for id, lease in group.leases.items() if lease.reader != reader}

    def delete(self, name: str) -> None:
        with self._guard:
            self._known(name)
            del self._groups[name]
            (self._directory / f"{name}.json").unlink(missing_ok=True)

    def told(self) -> Sequence[Mapping[str, Any]]:
        with self._guard:
            now_s, rows = self._clock.monotonic_s(), self._log.committed.rows
            found = []
            for name, group in sorted(self._groups.items()):
                held = [lease for lease in group.leases.values() if lease.until_s > now_s]
                done = group.done + sum(after - first for first, after in group.ahead)
                numbers = {"done": group.done, "behind": max(0, rows - done), "lost": group.lost}
                under_way = sum(lease.after - lease.first for lease in held)
                readers = sorted({lease.reader for lease in held})
                found.append({"name": name, **numbers, "under_way": under_way, "readers": readers})
            return found

    def _begin(self, name: str, live: bool) -> Group:
        if len(self._groups) >= GROUPS_MAX:
            raise MqlError(f"there are {GROUPS_MAX} groups already", hint="Delete one.", code="too-many-groups")
        group = Group(self._log.committed.rows if live else self._log.oldest.rows)
        self._write(name, group)
        self._groups[name] = group
        return group

    def _known(self, name: str) -> Group:
        if name not in self._groups:
            raise MqlError(f'no group "{name[:80]}"', hint="It begins with the first :take.", code="unknown-group")
        return self._groups[name]

    def _write(self, name: str, group: Group) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        told = {"log": self._log.id, "done": group.done, "ahead": group.ahead, "lost": group.lost}
        replace_file(self._directory / f"{name}.json", json.dumps(told).encode())
