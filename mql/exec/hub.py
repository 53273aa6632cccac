"""One source, many live queries: it is read and decoded once, and every query that is attached gets the batches.

A thread per share of the splits reads, waits a little for more (longer under load), decodes the union of what the
queries want and hands on. A query whose line is full loses the batch; it is counted and it is told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from mql.catalog import SourceInfo
from mql.exec.clock import Clock, SystemClock
from mql.exec.deadletters import DeadLetter, DeadLetters
from mql.exec.exchange import Channel
from mql.exec.feed import From, Reader, Source
from mql.exec.items import ARRIVAL, EARLIER, MIN_US, OFFSET, SPLIT, TIME, Barrier, Batch, End, Item, Raw, Watermark
from mql.exec.kernel import Kernel
from mql.exec.ledger import Tally
from mql.exec.prefilter import Prefilter
from mql.exec.scan import Decoder
from mql.exec.splits import Splits
from mql.exec.state import Snapshot
from mql.planner.physical import Needles, Scan
from mql.planner.sql import column_name
from mql.schema import DataType, Path, PropertyMask

BYTES_MAX = 16 << 20
ROWS_MAX = 65_536
LINGER_LEAST_S = 0.005
LINGER_MOST_S = 0.25
IDLE_POLL_S = 0.05
STEP_S = 0.005
MANY = 4  # one in so many
PATIENCE_S = 1.0
ABSENT_S = 1.0
RETRY_S = 1.0
HELD_BYTES_MAX = 64 << 20
NEEDLES_MAX = 32
STOP_S = 2.0
PLACE = (TIME, SPLIT, OFFSET, ARRIVAL, EARLIER)


@dataclass(slots=True)
class Held:
    """What came for a query while it still reads history: tables with their frontier, by share."""

    shares: list[list[tuple[pa.Table, int]]]
    bytes: int = 0
    overflowed: bool = False
    ended: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Feed:
    """One query's end of a hub. `channels[k]` takes what share k reads.

    `positions`: from where on it gets events, by split, as far as its shares have attached it. `floors`: by split,
    the event time that had been reached before this hub read it, which the hub's own `__m` does not know. `passed`:
    where the last barrier went in, by split. A feed that may not drop makes the hub wait for it, as long as it takes.
    `others`: how far the query's other sources have come, where it has several; `aside_us`: up to where this one, of
    which nothing had come yet, let them go on without it. `rank`: the hub waits for feeds of the highest
    rank alone. `letters`: by share, the letters of what could not be read, and how many there were before it attached;
    `handed`: what each share had handed on when the last barrier went in. `on_border`: asked at each border of a share,
    with the event time before which it has been handing on, for what is to go in there.
    """

    scan: Scan
    channels: Sequence[Channel]
    on_dropped: Callable[[int, str], None]
    on_joined: Callable[[int], None] = lambda not_before_us: None
    on_trouble: Callable[[str | None], None] = lambda trouble: None
    held: Held | None = None
    positions: dict[int, int] = field(default_factory=dict)
    floors: dict[int, int] = field(default_factory=dict)
    on_border: Callable[[int, Mapping[int, int], int], Item | None] | None = None
    names: tuple[str, ...] = ()
    tallies: tuple[Tally, ...] = ()
    watermark_us: int = MIN_US
    joined: threading.Event = field(default_factory=threading.Event)
    shedding: set[int] = field(default_factory=set)
    guard: threading.Lock = field(default_factory=threading.Lock)
    may_drop: bool = True
    rank: int = 0
    others: Callable[[], int] | None = None
    aside_us: int = MIN_US
    passed: dict[int, int] = field(default_factory=dict)
    letters: dict[int, tuple[DeadLetters, int]] = field(default_factory=dict)
    handed: dict[int, Tally] = field(default_factory=dict)
    reached: dict[int, pa.Table] = field(default_factory=dict)
    _barriers: dict[int, int] = field(default_factory=dict)
    _sent: dict[int, int] = field(default_factory=dict)
    _shares_joined: int = 0

    def __post_init__(self) -> None:
        self.names = (*PLACE, *(column_name(path) for path, _ in self.scan.columns))
        self.tallies = tuple(Tally() for _ in self.channels)

    @property
    def seen(self) -> int:
        return sum(tally.seen for tally in self.tallies)

    @property
    def malformed(self) -> int:
        return sum(tally.malformed for tally in self.tallies)

    @property
    def skipped(self) -> int:
        return sum(tally.skipped for tally in self.tallies)

    @property
    def dropped(self) -> int:
        return sum(tally.dropped for tally in self.tallies)

    def unread(self, share: int, first: int, end: int) -> Sequence[DeadLetter]:
        """Letters of its events that could not be read, by their numbers among these."""
        letters, before = self.letters.get(share, (None, 0))
        return () if letters is None else letters.between(before + first, before + end)

    def join(self, positions: Mapping[int, int]) -> None:
        """One more share has attached it, from these positions on."""
        with self.guard:
            self.positions.update(positions)
            self._shares_joined += 1
            if self._shares_joined >= len(self.channels):
                self.joined.set()

    @property
    def from_now(self) -> bool:
        """It has no history before it joined, so the window that it joined in is not whole."""
        return self.scan.since.kind == "live"

    def rejoin(self) -> None:
        """To be attached anew: what came meanwhile is let go of."""
        with self.guard:
            self.held = Held([[] for _ in self.channels])
            self.positions = {}
            self._shares_joined = 0
            self.joined.clear()

    def ask_barrier(self, epoch: int) -> None:
        """Every share puts a barrier in at its next border, and notes where that was."""
        with self.guard:
            self._barriers = dict.fromkeys(range(len(self.channels)), epoch)

    def put_barrier(self, share: int, positions: Mapping[int, int], splits: Splits) -> None:
        """A border of this share: the barrier goes in, if one is asked for; how far its splits had come is noted."""
        if not self._barriers:
            return
        with self.guard:
            epoch = self._barriers.pop(share, None) if self.held is None else None
            if epoch is not None:
                self.passed.update(positions)
                self.handed[share] = replace(self.tallies[share])
                self.reached[share] = splits.snapshot(only=positions, least_us=self.aside_us)
                self.channels[share].put(Barrier(epoch))

    def at_border(self, share: int, positions: Mapping[int, int], newest_us: int) -> None:
        """Where queries share the plan, who of them is in from here on."""
        if self.on_border is not None:
            item = self.on_border(share, positions, newest_us)
            if item is not None:
                self.channels[share].put(item)

    def go_live(self) -> None:
        """What was held is handed on: from now on what comes goes straight to the query. Under its guard."""
        assert self.held is not None
        ended, self.held = self.held.ended, None
        for share in ended:
            self.channels[share].put(End())

    def end(self, share: int) -> None:
        """Nothing more comes from this share."""
        with self.guard:
            if self.held is not None:
                self.held.ended.add(share)
                return
        self.channels[share].put(End())

    def crowded(self, share: int) -> bool:
        """Its line is full and the hub may wait for it."""
        return self.held is None and self.channels[share].full and share not in self.shedding

    def backlog(self, share: int) -> int:
        return 0 if self.held is not None or share in self.shedding else self.channels[share].batches

    def give(self, share: int, table: pa.Table, frontier_us: int) -> None:
        """Hands on a decoded batch and the watermark behind it, or drops the batch where there is no room."""
        if table.num_columns != len(self.names):
            table = table.select(self.names)
        with self.guard:
            if self.held is not None:
                self._hold(share, table, frontier_us)
                return
        channel = self.channels[share]
        if table.num_rows:
            self.tallies[share].seen += table.num_rows
            if channel.full and self.may_drop:
                self.shedding.add(share)
                self.tallies[share].dropped += table.num_rows
                self.on_dropped(table.num_rows, "the query could not keep up")
            else:
                if not channel:
                    self.shedding.discard(share)
                self.send(share, table)
        self.mark(share, frontier_us)

    def send(self, share: int, table: pa.Table) -> None:
        self.channels[share].put(Batch(self._raised(table) if self.floors or self.aside_us > MIN_US else table))

    def stand_aside(self, share: int) -> None:
        """Nothing has ever come: the other sources of the query do not wait for this one. What comes of it after all
        is late for windows that were closed without it."""
        reached = MIN_US if self.others is None else self.others()
        if reached > MIN_US:
            self.aside_us = max(self.aside_us, reached + self.scan.lateness_us)
            self.mark(share, self.aside_us)

    def mark(self, share: int, frontier_us: int) -> None:
        """The watermark, where it has moved."""
        us = frontier_us - self.scan.lateness_us
        if frontier_us > MIN_US and us > self._sent.get(share, MIN_US):
            self._sent[share] = us
            self.watermark_us = max(self.watermark_us, us)
            self.channels[share].put(Watermark(us))

    def _hold(self, share: int, table: pa.Table, frontier_us: int) -> None:
        assert self.held is not None
        if self.held.overflowed:
            return
        self.held.bytes += table.nbytes
        if self.held.bytes > HELD_BYTES_MAX:
            self.held.overflowed = True
            self.held.shares = [[] for _ in self.channels]
            return
        if table.num_rows or frontier_us > MIN_US:
            self.held.shares[share].append((table, frontier_us))

    def _raised(self, table: pa.Table) -> pa.Table:
        """`__m` with what history had reached; once the hub has come so far by itself, that is forgotten."""
        splits = table.column(SPLIT).to_numpy()
        earlier = table.column(EARLIER).to_numpy()
        raised = np.maximum(earlier, self.aside_us)
        for split, floor in list(self.floors.items()):
            mine = splits == split
            if mine.any():
                np.maximum(raised, floor, out=raised, where=mine)
                if earlier[mine].min() >= floor:
                    self.floors.pop(split, None)
        return table.set_column(table.column_names.index(EARLIER), EARLIER, pa.array(raised))


class Hub:
    """Reads one source for the live queries on it; starts with the first, and stops when told. Thread-safe."""

    def __init__(
        self,
        source: Source,
        scan: Scan,
        shares: int,
        kernel: Kernel,
        clock: Clock,
        letters: DeadLetters,
        restored: Snapshot | None = None,
    ):
        self.info: SourceInfo = source.info
        self.source = source
        self.time = scan.time
        self.splits = Splits(scan.idle_timeout_us, scan.max_ahead_us)
        self.clock = clock
        self.kernel = kernel
        self.letters = letters
        self.newest_us = MIN_US
        self.first_told = False
        self.trouble: str | None = None
        self.feeds: tuple[Feed, ...] = ()
        self.events = 0
        self.lingering_since_s: float | None = clock.monotonic_s()
        self._guard = threading.Lock()
        self.is_private = restored is not None
        start = None if restored is None else From(positions=dict(restored.positions))
        readers = [source.open(start, share, shares) for share in range(shares)]
        if restored is not None and restored.splits is not None:
            self.splits.restore(restored.splits, clock.now_us())
        for reader in readers:
            self.splits.expect(reader.splits, clock.now_us())
        self.begun = any(offset for reader in readers for offset in reader.positions.values())
        self.shares = tuple(Share(self, number, reader) for number, reader in enumerate(readers))

    def begin(self) -> None:
        """Starts reading, once there is somebody to read for."""
        for share in self.shares:
            if share.thread.ident is None:
                share.thread.start()

    def takes(self, scan: Scan) -> bool:
        """Whether a query that scans so can be fed by this hub: the same columns by the same types, time read alike."""
        known = dict(self.columns())
        return (
            not self.is_private
            and self.time == scan.time
            and not any(share.ended for share in self.shares)
            and all(known.get(path, type) == type for path, type in scan.columns)
            and (not self.feeds or self.masks() == scan.masks)
        )

    def columns(self) -> Mapping[Path, DataType]:
        """The union of what the attached queries read."""
        return {path: type for feed in self.feeds for path, type in feed.scan.columns}

    def masks(self) -> tuple[PropertyMask, ...]:
        """Those of the attached queries, which are the same for all."""
        return self.feeds[0].scan.masks if self.feeds else ()

    def attach(self, feed: Feed) -> None:
        """From the next border on it gets what comes. `feed.positions` then tell from where."""
        with self._guard:
            if not self.feeds and self.shares[0].thread.ident is not None:
                # Nobody looked while it lingered: how far events have come is not known.
                self.newest_us, self.begun, self.first_told = MIN_US, True, False
            self.lingering_since_s = None
            self.feeds = (*self.feeds, feed)
        feed.on_trouble(self.trouble)
        for share in self.shares:
            share.ask(feed)

    def reattach(self, feed: Feed) -> None:
        """The same for one that is attached already: it gets new positions."""
        feed.rejoin()
        for share in self.shares:
            share.ask(feed)

    def detach(self, feed: Feed) -> None:
        with self._guard:
            self.feeds = tuple(other for other in self.feeds if other is not feed)
            if not self.feeds:
                self.lingering_since_s = self.clock.monotonic_s()
        for share in self.shares:
            share.drop(feed)

    def idle_for_s(self, now_s: float) -> float:
        """For how long there has been no query on it."""
        return 0.0 if self.lingering_since_s is None else now_s - self.lingering_since_s

    def ask_to_close(self) -> None:
        for share in self.shares:
            share.closing.set()

    def close(self) -> None:
        self.ask_to_close()
        for share in self.shares:
            if share.thread.ident is not None:
                share.thread.join(STOP_S)

    def say(self) -> None:
        """Tells the queries why nothing comes, or that all is well again."""
        trouble = next((share.trouble for share in self.shares if share.trouble is not None), None)
        if trouble != self.trouble:
            self.trouble = trouble
            for feed in self.feeds:
                feed.on_trouble(trouble)


class Share:
    """The thread that reads and decodes one share of a hub's splits."""

    def __init__(self, hub: Hub, number: int, reader: Reader) -> None:
        self.hub = hub
        self.number = number
        self.reader = reader
        self.positions = dict(reader.positions)
        self.pace = SystemClock()
        self.closing = threading.Event()
        self.trouble: str | None = None
        self.ended = False
        self.linger_s = LINGER_LEAST_S
        self._feeds: tuple[Feed, ...] = ()
        self._asked: list[Feed] = []
        self._guard = threading.Lock()
        self._row_bytes = 200.0
        self._listened_s = self.pace.monotonic_s()
        self._decoder: Decoder | None = None
        self._known_splits = frozenset(reader.splits)
        self.letters = DeadLetters()
        self.thread = threading.Thread(target=self._run, name=f"mql-hub-{hub.info.name}-{number}", daemon=True)

    def ask(self, feed: Feed) -> None:
        """Attach it at the next border."""
        with self._guard:
            ended = self.ended
            if not ended:
                self._asked.append(feed)
        if ended:
            self._join_ended(feed)

    def drop(self, feed: Feed) -> None:
        with self._guard:
            self._asked = [other for other in self._asked if other is not feed]
            self._feeds = tuple(other for other in self._feeds if other is not feed)

    # --- the loop --------------------------------------------------------------------------------------

    def _run(self) -> None:
        session = self.hub.kernel.session()
        info = self.hub.info
        envelope = tuple(field.name for field in info.envelope)
        self._decoder = Decoder(session, info.encoding, self.hub.time, (), envelope=envelope, splits=self.hub.splits)
        try:
            while not self.closing.is_set() and not self.ended:
                try:
                    self._round(self._decoder)
                except Exception as error:  # the world's trouble: say it, and try again from where we are
                    self._recover(error)
        finally:
            self.reader.close()
            session.close()

    def _round(self, decoder: Decoder) -> None:
        """One batch, or a look at the clock where nothing comes."""
        self._attach()
        bytes_max = min(BYTES_MAX, max(1 << 16, int(self._row_bytes * ROWS_MAX)))
        self._mind_absence()
        raws = list(self.reader.poll(IDLE_POLL_S, bytes_max))
        self._listened_s = self.pace.monotonic_s()
        self._say(self.reader.trouble)
        self._expect()
        if self.trouble is not None:
            self.hub.splits.excuse(self._known_splits, self.hub.clock.now_us())
        if raws:
            self._gather(raws, bytes_max)
            self._attach()
            self._hand_on(decoder, raws)
        else:
            now_us = self.hub.clock.now_us()
            frontier = self.hub.splits.frontier(now_us)
            for feed in self._feeds:
                if feed.held is None:
                    feed.mark(self.number, frontier)
                    if frontier == MIN_US and feed.others is not None and self.hub.splits.silent(now_us):
                        feed.stand_aside(self.number)
        if self.reader.ended:
            self._end()

    def _mind_absence(self) -> None:
        """What took long since it last listened (a busy machine, a process that stood still) makes no split idle."""
        absent_s = self.pace.monotonic_s() - self._listened_s
        if absent_s > ABSENT_S:
            self.hub.splits.not_heard(self._known_splits, round(absent_s * 1e6), self.hub.clock.now_us())

    def _gather(self, raws: list[Raw], bytes_max: int) -> None:
        """Waits a little for more, and as long as patience lasts for queries that are behind."""
        if self.closing.wait(self.linger_s):
            return
        size = sum(bytes_of(raw) for raw in raws)
        began_s = self.pace.monotonic_s()
        while self._is_early(self.pace.monotonic_s() - began_s) and not self.closing.wait(STEP_S):
            pass
        if size < bytes_max:
            raws.extend(self.reader.poll(0, bytes_max - size))

    def _hand_on(self, decoder: Decoder, raws: Sequence[Raw]) -> None:
        feeds = self._feeds
        for raw in raws:
            self.positions[raw.split] = raw.next_offset
        if not feeds:
            return
        began = self.pace.monotonic_s()
        wanted, masks = self.hub.columns(), self.hub.masks()
        if dict(decoder.columns) != wanted or decoder.masks != masks:
            decoder.widen(wanted.items(), masks)
        self._filter(decoder, feeds)
        decoded = decoder.decode(raws)
        for letters in (self.hub.letters, self.letters):
            letters.add(decoded.malformed, decoded.unreadable)
        rows = decoded.table.num_rows
        self._row_bytes = max(20.0, sum(bytes_of(raw) for raw in raws) / max(1, decoded.seen))
        self._note_newest(decoded.table)
        frontier = self.hub.splits.frontier(self.hub.clock.now_us())
        self.hub.events += decoded.seen
        for feed in feeds:
            feed.tallies[self.number].malformed += decoded.unreadable
            feed.tallies[self.number].skipped += decoded.skipped
            if rows or feed.held is None:
                feed.give(self.number, decoded.table, frontier)
        self.linger_s = min(LINGER_MOST_S, max(LINGER_LEAST_S, 2 * (self.pace.monotonic_s() - began)))

    def _filter(self, decoder: Decoder, feeds: Sequence[Feed]) -> None:
        """Events that no query could want are not even decoded, where all of them tell what they must hold."""
        wanted = [feed.scan.needles for feed in feeds if feed.scan.needles is not None]
        if len(wanted) < len(feeds) or self.hub.info.encoding != "json":
            decoder.prefilter = None
            return
        union = Needles(tuple(sorted({needle for needles in wanted for needle in needles.any_of})))
        if len(union.any_of) > NEEDLES_MAX:
            decoder.prefilter = None
        elif decoder.prefilter is None or decoder.prefilter.needles != union:
            decoder.prefilter = Prefilter(union)

    def _is_early(self, waited_s: float) -> bool:
        """Queries are still busy with what they have: a bigger batch later is worth more to them than one now.

        All wait a little for the slowest; longer only where many are behind, for then it is the machine that is. Nobody
        waits for a query of lower priority than another on this source: it is the first that loses events.
        """
        most = max((feed.rank for feed in self._feeds), default=0)
        feeds = [feed for feed in self._feeds if feed.rank == most or not feed.may_drop]
        if waited_s < LINGER_MOST_S:
            return any(feed.backlog(self.number) for feed in feeds)
        if waited_s < PATIENCE_S:
            behind = sum(feed.backlog(self.number) > 1 for feed in feeds)
            return behind * MANY > len(feeds) or any(feed.crowded(self.number) for feed in feeds)
        return any(feed.crowded(self.number) and not feed.may_drop for feed in feeds)

    def _attach(self) -> None:
        """A border: who asked is in from here on, and barriers go in."""
        hub = self.hub
        for feed in self._feeds:
            feed.put_barrier(self.number, self.positions, hub.splits)
        with self._guard:
            asked, self._asked = self._asked, []
            self._feeds = (*self._feeds, *(feed for feed in asked if feed not in self._feeds))
        for feed in asked:
            feed.letters[self.number] = self.letters, self.letters.total - feed.tallies[self.number].malformed
            feed.join(self.positions)
            if hub.first_told and feed.from_now:
                feed.on_joined(hub.newest_us)
        newest_us = hub.newest_us if hub.first_told else MIN_US
        for feed in self._feeds:
            feed.at_border(self.number, self.positions, newest_us)

    def _note_newest(self, table: pa.Table) -> None:
        """The largest event time that is not ahead of its arrival: where those who join later begin."""
        if not table.num_rows:
            return
        times = table.column(TIME).to_numpy()
        if self.hub.begun and not self.hub.first_told:
            first = int(times.min())
            for feed in self._feeds:
                if feed.from_now:
                    feed.on_joined(first)
        believed = times[times <= table.column(ARRIVAL).to_numpy()]
        if len(believed):
            self.hub.newest_us = max(self.hub.newest_us, int(believed.max()) + 1)
        self.hub.begun = self.hub.first_told = True

    def _expect(self) -> None:
        """Splits come and go with a rebalance."""
        now = frozenset(self.reader.splits)
        if now != self._known_splits:
            self.hub.splits.expect(now - self._known_splits, self.hub.clock.now_us())
            self.hub.splits.forget(self._known_splits - now)
            self._known_splits = now

    def _end(self) -> None:
        """The source is over: so are the queries on it."""
        self._attach()
        with self._guard:
            self.ended = True
            feeds, asked = self._feeds, self._asked
        for feed in feeds:
            feed.end(self.number)
        for feed in asked:
            self._join_ended(feed)

    def _join_ended(self, feed: Feed) -> None:
        """It came after the end: there is nothing for it but that."""
        feed.join(self.positions)
        feed.end(self.number)

    def _recover(self, error: Exception) -> None:
        self._say(f"the source cannot be read: {error}")
        if self.closing.wait(RETRY_S):
            return
        try:
            self.reader.close()
            self.reader = self.hub.source.open(From(positions=dict(self.positions)), self.number, len(self.hub.shares))
        except Exception as again:
            self._say(f"the source cannot be opened: {again}")

    def _say(self, trouble: str | None) -> None:
        self.trouble = trouble
        self.hub.say()


def bytes_of(raw: Raw) -> int:
    data = getattr(raw, "data", None)
    return len(data) if data is not None else int(raw.table.nbytes)  # type: ignore[union-attr]


def names_of(scan: Scan) -> tuple[str, ...] | None:
    """The top-level properties that a scan reads, the event's time among them; None for all of them."""
    paths = [path for path, _ in scan.columns]
    if not all(paths):
        return None
    if scan.time.path is not None:
        paths.append(scan.time.path)
    return tuple(sorted({path[0] for path in paths}))
