"""Files followed as they grow, as `tail -F` does: rotation, truncation, half lines, new files.

A file that matches is a split, numbered in the order of its being found. When the file behind a path is replaced
or cut short, the split goes on with a new *generation*, whose offsets continue where the last one's ended: offsets
of a split only rise.
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mql.exec.clock import Clock
from mql.exec.feed import From, Positions
from mql.exec.items import Chunk, Raw
from sources.columns import conform, rows_of, shape_of
from sources.learning import Learner
from sources.pieces import END, clip
from sources.texts import BOM, complete_end, compression_of, plain_blocks, read_exactly

LOOK_FOR_FILES_S = 1.0
PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Generation:
    """One file that stood, or stands, behind a path. `base` is the split's offset of its first byte."""

    inode: int
    base: int
    length: int | None = None  # how much of it counts, once it has been replaced


@dataclass(slots=True)
class Followed:
    """A split: a path, and what stood behind it one after the other."""

    path: str
    generations: list[Generation] = field(default_factory=list)


class Tail:
    """What all readers of a followed source share: which file is which split. Thread-safe."""

    def __init__(
        self,
        patterns: Sequence[str],
        format: str,
        clock: Clock,
        registry: Path | None,
        learner: Learner,
        notes: bool = True,
    ) -> None:
        self.learner = learner
        self.patterns = patterns
        self.format = format
        self.clock = clock
        self.registry = registry
        self.notes = notes
        self.lock = threading.Lock()
        self.looked_s = -1e9
        self.splits: list[Followed] = self.remembered()
        self.look()

    def look(self) -> None:
        """Finds files that have come. A file that was known by another path (rotated away) is not a new one."""
        with self.lock:
            self.looked_s = self.clock.monotonic_s()
            known = {split.path for split in self.splits}
            inodes = {generation.inode for split in self.splits for generation in split.generations}
            paths = {path for pattern in self.patterns for path in glob.glob(pattern, recursive=True)}
            for path in sorted(paths - known):
                inode = inode_of(path)
                if inode is None or inode in inodes or not self.readable(path):
                    continue
                self.splits.append(Followed(path, [Generation(inode, 0)]))
                inodes.add(inode)
            self.remember()

    def look_sometimes(self) -> None:
        if self.clock.monotonic_s() - self.looked_s >= LOOK_FOR_FILES_S:
            self.look()

    def readable(self, path: str) -> bool:
        """Not a directory, not packed, and (Parquet) written to its end."""
        if Path(path).is_dir():
            return False
        if self.format != "parquet":
            return compression_of(Path(path)) is None
        try:
            pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError):
            return False
        return True

    def generation(self, split: int, number: int) -> Generation | None:
        with self.lock:
            generations = self.splits[split].generations
            return generations[number] if number < len(generations) else None

    def succeed(self, split: int, number: int, length: int, inode: int) -> None:
        """The file of generation `number` ended after `length` bytes; another one stands at its path."""
        with self.lock:
            generations = self.splits[split].generations
            if number + 1 == len(generations):
                old = generations[number]
                generations[number] = Generation(old.inode, old.base, length)
                generations.append(Generation(inode, old.base + length))
                self.remember()

    def path(self, split: int) -> Path:
        return Path(self.splits[split].path)

    def start_of(self, split: int, offset: int) -> int:
        """The number of the generation that holds an offset."""
        with self.lock:
            generations = self.splits[split].generations
            return max((at for at, one in enumerate(generations) if one.base <= offset), default=0)

    def end(self) -> dict[int, int]:
        self.look()
        return {split: self.end_of(split) for split in range(len(self.splits))}

    def end_of(self, split: int) -> int:
        """The offset after the last complete line."""
        with self.lock:
            last = self.splits[split].generations[-1]
            path = self.splits[split].path
        try:
            if self.format == "parquet":
                return last.base + int(pq.read_metadata(path).num_rows)
            with open(path, "rb") as file:
                same = os.fstat(file.fileno()).st_ino == last.inode
                return last.base + (complete_end(file.fileno()) if same else 0)
        except OSError:
            return last.base

    def stored(self, since: Positions, until: Positions, part: int, parts: int) -> Iterator[Raw]:
        """What the files hold now, between two positions, files that were rotated away but still stand included."""
        for split in range(len(self.splits)):
            if split % parts != part:
                continue
            first, last = since.get(split, 0), until.get(split, 0)
            for item in self.standing(split, first, last):
                piece = clip(item, first, last)
                if piece is not None:
                    yield piece

    def standing(self, split: int, first: int, last: int) -> Iterator[Raw]:
        now = self.clock.now_us()
        for number, generation in enumerate(tuple(self.splits[split].generations)):
            path = self.standing_path(split, number)
            if path is None or last <= generation.base:
                continue
            if self.format == "parquet":
                yield from parquet_file(path, split, generation.base, now)
                continue
            length = END if generation.length is None else generation.length
            with path.open("rb") as file:
                blocks = plain_blocks(
                    file.fileno(), max(0, first - generation.base), min(length, last - generation.base)
                )
                for at, data in blocks:
                    yield Chunk(split, data, generation.base + at, now)

    def standing_path(self, split: int, number: int) -> Path | None:
        """Where a generation's file stands now: at its path, or beside it under another name; None if it is gone."""
        path = self.path(split)
        with self.lock:
            generation, *later = self.splits[split].generations[number:]
        if any(one.inode == generation.inode for one in later):
            return None
        if inode_of(str(path)) == generation.inode:
            return path
        try:
            with os.scandir(path.parent) as entries:
                return next((Path(entry.path) for entry in entries if entry.inode() == generation.inode), None)
        except FileNotFoundError:
            return None

    def remembered(self) -> list[Followed]:
        """The splits as they were noted before a restart."""
        if self.registry is None or not self.registry.exists():
            return []
        noted = orjson.loads(self.registry.read_bytes())
        return [Followed(one["path"], [Generation(*each) for each in one["generations"]]) for one in noted]

    def remember(self) -> None:
        if self.registry is None or not self.notes:
            return
        noted = [
            {"path": one.path, "generations": [(each.inode, each.base, each.length) for each in one.generations]}
            for one in self.splits
        ]
        self.registry.parent.mkdir(parents=True, exist_ok=True)
        draft = self.registry.with_suffix(".new")
        draft.write_bytes(orjson.dumps(noted))
        draft.replace(self.registry)


@dataclass(slots=True)
class Place:
    """Where a reader is in one split: the generation, its open file (None: yet to be opened), the byte."""

    generation: int
    at: int
    fd: int | None = None


class TailReader:
    """One reader of a followed source. Opens each file once and keeps it until another has taken its place."""

    def __init__(self, tail: Tail, start: From | None, task: int, tasks: int) -> None:
        self.tail = tail
        self.task = task
        self.tasks = tasks
        self.closed = threading.Event()
        self.places: dict[int, Place] = {}
        tail.look()
        positions = tail.end() if start is None else start.positions or {}
        for split in range(task, len(tail.splits), tasks):
            offset = positions.get(split, 0)
            number = tail.start_of(split, offset)
            generation = tail.generation(split, number)
            assert generation is not None
            self.places[split] = Place(number, offset - generation.base)

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        found = self.read_all(max_bytes)
        waited = 0.0
        while not found and waited < timeout_s and not self.closed.is_set():
            pause = min(PAUSE_S, timeout_s - waited)
            self.closed.wait(pause)
            waited += pause
            found = self.read_all(max_bytes)
        return found

    def read_all(self, max_bytes: int) -> Sequence[Raw]:
        """What each split has, fairly: no split gets more than its share of the room."""
        self.tail.look_sometimes()
        for split in range(self.task, len(self.tail.splits), self.tasks):
            self.places.setdefault(split, Place(0, 0))
        share = max(64 << 10, max_bytes // max(1, len(self.places)))
        return [item for split, place in self.places.items() for item in self.read(split, place, share)]

    def read(self, split: int, place: Place, room: int) -> Sequence[Raw]:
        generation = self.tail.generation(split, place.generation)
        assert generation is not None
        if self.tail.format == "parquet":
            return self.read_parquet(split, place, generation)
        if not self.opened(split, place, generation):
            return ()
        assert place.fd is not None
        data = next_lines(place.fd, place.at, room)
        if generation.length is not None:
            data = data[: max(0, generation.length - place.at)]
        if data:
            marked = len(BOM) if place.at == 0 and data.startswith(BOM) else 0
            chunk = Chunk(split, data[marked:], generation.base + place.at + marked, self.tail.clock.now_us())
            place.at += len(data)
            self.tail.learner.see(chunk)
            return (chunk,)
        return self.turn_over(split, place, generation)

    def read_parquet(self, split: int, place: Place, generation: Generation) -> Sequence[Raw]:
        """A Parquet file is whole when it is found, and is read once."""
        if place.at == END:
            return ()
        items = parquet_file(self.tail.path(split), split, generation.base, self.tail.clock.now_us())
        pieces = tuple(piece for piece in (clip(item, place.at) for item in items) if piece is not None)
        place.at = END
        return pieces

    def opened(self, split: int, place: Place, generation: Generation) -> bool:
        """Whether the generation's file is open; one that has gone before we came is passed over."""
        if place.fd is not None:
            return True
        path = self.tail.standing_path(split, place.generation)
        if path is not None:
            place.fd = os.open(path, os.O_RDONLY)
            return True
        successor = inode_of(str(self.tail.path(split)))
        if generation.length is None and successor is not None:
            self.tail.succeed(split, place.generation, place.at, successor)
        if self.tail.generation(split, place.generation + 1) is not None:
            self.next_generation(split, place)
        return False

    def turn_over(self, split: int, place: Place, generation: Generation) -> Sequence[Raw]:
        """At the end of what there is: has another file taken the place, or has this one been cut short?"""
        assert place.fd is not None
        inode = inode_of(str(self.tail.path(split)))
        size = os.fstat(place.fd).st_size
        cut = inode == generation.inode and size < place.at
        replaced = inode is not None and inode != generation.inode
        if not cut and not replaced and generation.length is None:
            return ()
        rest = b"" if cut or generation.length is not None else read_exactly(place.fd, place.at, 1 << 24)
        if rest and not rest.endswith(b"\n"):
            rest += b"\n"
        base, at = generation.base, place.at
        if generation.length is None:
            assert inode is not None
            self.tail.succeed(split, place.generation, at + len(rest), inode)
        self.next_generation(split, place)
        return (Chunk(split, rest, base + at, self.tail.clock.now_us()),) if rest else ()

    def next_generation(self, split: int, place: Place) -> None:
        if place.fd is not None:
            os.close(place.fd)
        place.fd, place.at = None, 0
        place.generation += 1

    @property
    def splits(self) -> tuple[int, ...]:
        return tuple(self.places)

    @property
    def positions(self) -> Positions:
        found = {}
        for split, place in self.places.items():
            generation = self.tail.generation(split, place.generation)
            assert generation is not None
            whole = place.at == END
            found[split] = self.tail.end_of(split) if whole else generation.base + place.at
        return found

    @property
    def ended(self) -> bool:
        return False

    @property
    def trouble(self) -> str | None:
        gone = [
            str(self.tail.path(split)) for split, place in self.places.items() if place.at == 0 and place.fd is None
        ]
        missing = [path for path in gone if not Path(path).exists()]
        if missing:
            return f"the file {missing[0]} is not there"
        return None if self.places else f"no file matches {', '.join(self.tail.patterns)}"

    def close(self) -> None:
        self.closed.set()
        for place in self.places.values():
            if place.fd is not None:
                os.close(place.fd)
                place.fd = None


def next_lines(fd: int, at: int, room: int) -> bytes:
    """The complete lines from `at` on, about `room` bytes of them; a longer line comes whole."""
    data = os.pread(fd, room, at)
    end = data.rfind(b"\n") + 1
    while data and not end:
        more = os.pread(fd, room, at + len(data))
        if not more:
            return b""
        end = len(data) + more.rfind(b"\n") + 1 if b"\n" in more else 0
        data += more
    return data if end == len(data) else data[:end]


def parquet_file(path: Path, split: int, base: int, now_us: int) -> Iterator[Raw]:
    with pq.ParquetFile(path) as file:
        fields = shape_of(file.schema_arrow).fields
        at = base
        for batch in file.iter_batches():
            rows = rows_of(split, conform(batch, fields), at, now_us)
            yield rows
            at = rows.next_offset


def inode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None
