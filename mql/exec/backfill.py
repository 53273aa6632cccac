"""History: bounded queries in one statement or through their stages, and the way from history into the live stream.

    #  offsets   0 ............ attach .................>
    #  history   |--------------|
    #  the hub                  |---held---|---handed on---
    #  the query |--------------|----------|---------------

A query with SINCE is attached to the hub first. History is fed up to the offsets at which it was attached, then what
the hub held for it meanwhile, and then it goes on live: nothing lost, nothing twice.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.errors import MqlError
from mql.exec.afterwards import Afterwards
from mql.exec.clock import Clock, SystemClock
from mql.exec.deadletters import DeadLetters
from mql.exec.exchange import Channel
from mql.exec.feed import From, Positions, Source
from mql.exec.hub import Feed, Held, Hub, names_of
from mql.exec.items import MAX_US, MIN_US, OFFSET, SPLIT, TIME, Barrier, Batch, Chunk, End, Raw, Watermark
from mql.exec.kernel import Kernel, Session
from mql.exec.operators.renumber import renumbered
from mql.exec.prefilter import Prefilter
from mql.exec.scan import Decoded, Decoder
from mql.exec.splits import Splits
from mql.planner.physical import SPLITS_MAX, AsEvents, JoinSide, Lookup, Partial, Plan, Scan, SelectRows, Start

QUEUE_PER_WORKER = 2
READ_BYTES = 16 << 20
WAIT_S = 0.05
PLAY_S = 0.05
PLAY_BYTES_MAX = 1 << 30
BATCH_ROWS = 65_536
JOIN_S = 10.0
SEAM = 0


class Stopped(Exception):
    """The query was ended while it read history."""


class Backfill:
    """One query's reading of a source's history, for one of its scans. Its methods block, on a thread of the query's
    own; `cancel` ends them."""

    def __init__(
        self, plan: Plan, scan: int, source: Source, kernel: Kernel, letters: DeadLetters, workers: int
    ) -> None:
        self.events = 0
        self.malformed = 0
        self.letters = DeadLetters()
        self.skipped = 0
        self.decoded = 0
        self.filtered = 0
        self.sampled = 0
        self.ended = False
        self.room = threading.Event()
        self._plan = plan
        self._scan = plan.scans[scan]
        self._number = scan
        self._source = source
        self._info = source.info
        self._kernel = kernel
        self._letters = letters
        self._workers = workers
        self._stopping = threading.Event()
        self._running: Session | None = None
        self.errors: list[Exception] = []
        self._guard = threading.Lock()
        self._covered = Covered()
        self._surveyed = 0.0
        self._played: float | None = None
        self._clock: Clock = SystemClock()
        self._began_s = self._clock.monotonic_s()

    # --- how far it is ---------------------------------------------------------------------------------

    @property
    def share(self) -> float:
        """What part of the history has been read, 0 to 1."""
        if self._played is not None:
            return self._played
        return 1.0 if self.ended else max(self._surveyed, self._covered.share())

    @property
    def eta_s(self) -> float | None:
        """How long it will take still, by the pace so far."""
        share = self.share
        if share < 0.01:
            return None
        return round((self._clock.monotonic_s() - self._began_s) * (1 - share) / share, 1)

    def cancel(self) -> None:
        self._stopping.set()
        self.room.set()
        running = self._running
        if running is not None:
            running.interrupt()

    def runs(self, session: Session | None) -> None:
        """The session of the statement that reads this, to be interrupted by `cancel`."""
        self._running = session

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def scan(self) -> Scan:
        return self._scan

    @property
    def source(self) -> Source:
        return self._source

    def surveyed(self, events: int, share: float) -> None:
        """What is known of the reading where the kernel does it by itself."""
        self.events = self.decoded = events
        self._surveyed = share

    # --- in one statement ------------------------------------------------------------------------------

    @contextmanager
    def decoding(self) -> Iterator[pa.RecordBatchReader]:
        """All of the history, decoded by several threads while it is read; they have ended when this has."""
        since, until = self.bounds()
        parts = 1 if self._plan.as_live else self._workers
        decoded: queue.Queue[pa.Table | None] = queue.Queue(QUEUE_PER_WORKER * self._workers)
        with self._session(self._kernel) as session:
            schema = self._decoder(session, None).decode(()).table.schema
        threads = [
            threading.Thread(
                target=self._decode_part,
                args=(since, until, part, parts, decoded),
                name=f"mql-history-{part}",
                daemon=True,
            )
            for part in range(parts)
        ]
        for thread in threads:
            thread.start()
        try:
            yield pa.RecordBatchReader.from_batches(schema, self._drained(decoded, parts))
        finally:
            if self.errors:
                self._stopping.set()
            for thread in threads:
                thread.join(JOIN_S)

    def _decode_part(
        self, since: From, until: Positions | None, part: int, parts: int, decoded: queue.Queue[pa.Table | None]
    ) -> None:
        splits = Splits(MAX_US, self._scan.max_ahead_us) if self._plan.as_live else None
        try:
            with self._session(self._kernel) as session:
                for found in self._history(session, since, until, part, parts, splits):
                    if found.table.num_rows:
                        self._count(session, found.table)
                        self._put(decoded, found.table)
        except Stopped:
            pass
        except Exception as error:  # told by the thread that runs the statement
            self.errors.append(error)
        finally:
            try:
                self._put(decoded, None)
            except Stopped:
                pass

    def _count(self, session: Session, table: pa.Table) -> None:
        """What the statement will leave out of these rows; it does not tell."""
        intake = intake_of(self._plan, self._number)
        if intake is None or (intake.predicate is None and intake.sampling is None):
            return
        table = renumbered(table, self._number * SPLITS_MAX)
        sampling, predicate = intake.sampling or "true", intake.predicate or "true"
        sql = (
            f"SELECT count(*) FILTER (WHERE ({sampling}) IS NOT TRUE) AS s, "
            f"count(*) FILTER (WHERE ({sampling}) AND ({predicate}) IS NOT TRUE) AS f FROM batch"
        )
        row = session.run(sql, {"batch": table}).to_pylist()[0]
        with self._guard:
            self.sampled += row["s"]
            self.filtered += row["f"]

    def _put(self, decoded: queue.Queue[pa.Table | None], table: pa.Table | None) -> None:
        while not self.stopping:
            try:
                decoded.put(table, timeout=WAIT_S)
                return
            except queue.Full:
                continue
        raise Stopped

    def _drained(self, decoded: queue.Queue[pa.Table | None], parts: int) -> Iterator[pa.RecordBatch]:
        """What the threads decode, until all of them are through."""
        left = parts
        while left:
            try:
                table = decoded.get(timeout=WAIT_S)
            except queue.Empty:
                if self.stopping:
                    raise Stopped from None
                continue
            if table is None:
                left -= 1
                continue
            yield from table.to_batches()

    def _raise_own(self) -> None:
        if self.errors:
            raise self.errors[0]
        if self.stopping:
            raise Stopped

    # --- through the stages ----------------------------------------------------------------------------

    def stream(self, entries: Sequence[Channel]) -> None:
        """All of the history into the first stage's tasks, then the end.

        Lateness is judged only where the query asks for it; else nothing is late, and what is final only the end tells.
        """
        since, until = self.bounds()
        if self._plan.speed is not None:
            self._play(entries, since, until, self._plan.speed)
        elif self._plan.as_live:
            self._feed(entries, since, until, Splits(MAX_US, self._scan.max_ahead_us))
        else:
            threads = [
                threading.Thread(target=self._feed_part, args=(channel, since, until, part, len(entries)), daemon=True)
                for part, channel in enumerate(entries)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self._raise_own()
        self.ended = True
        for channel in entries:
            channel.put(End())

    def _feed_part(self, channel: Channel, since: From, until: Positions | None, part: int, parts: int) -> None:
        channel.on_room = self.room.set
        try:
            with self._session(self._kernel) as session:
                for found in self._history(session, since, until, part, parts, None):
                    self.wait_while(lambda: channel.full)
                    if found.table.num_rows:
                        channel.put(Batch(found.table))
        except Stopped:
            pass
        except Exception as error:  # told by the thread that waits for this one
            self.errors.append(error)

    def _play(self, entries: Sequence[Channel], since: From, until: Positions | None, speed: float) -> None:
        """History by its events' times, `speed` times as fast as they came.

        It is sorted first, so that nothing is late and rows are those of a statement over all of it.
        """
        for channel in entries:
            channel.on_room = self.room.set
        whole = self._sorted(since, until)
        times = whole.column(TIME).to_numpy()
        if not len(times):
            return
        first_us = since.time_us if since.time_us is not None else int(times[0])
        began_s, at, turn = self._clock.monotonic_s(), 0, 0
        while at < len(times):
            reached_us = first_us + int((self._clock.monotonic_s() - began_s) * 1e6 * speed)
            end = int(np.searchsorted(times, reached_us, side="right"))
            if end - at > BATCH_ROWS:
                end, reached_us = at + BATCH_ROWS, int(times[at + BATCH_ROWS - 1])
            if end > at:
                channel = entries[turn % len(entries)]
                turn += 1
                self.wait_while(lambda: channel.full)  # noqa: B023 - waits at once
                channel.put(Batch(whole.take(pa.array(np.arange(at, end)))))
                at = end
            for each in entries:
                each.put(Watermark(reached_us))
            self._played = at / len(times)
            if at < len(times) and self._stopping.wait(PLAY_S):
                raise Stopped

    def _sorted(self, since: From, until: Positions | None) -> pa.Table:
        """All of the history by time, split and offset; refused where it is too large to be held."""
        tables, held = [], 0
        with self._session(self._kernel) as session:
            tables.append(self._decoder(session, None).decode(()).table)
            for found in self._history(session, since, until, 0, 1, None):
                tables.append(found.table)
                held += found.table.nbytes
                if held > PLAY_BYTES_MAX:
                    raise MqlError(
                        f"more than {PLAY_BYTES_MAX >> 20:,} MiB would be played",
                        hint="Take a shorter stretch, or leave REPLAY SPEED out: all of it is answered at once.",
                        code="too-large",
                    )
        whole = pa.concat_tables(tables)
        order = pc.sort_indices(whole, [(name, "ascending") for name in (TIME, SPLIT, OFFSET)])
        return whole.take(order)

    def _feed(self, entries: Sequence[Channel], since: From, until: Positions | None, splits: Splits) -> None:
        """History in order, dealt to the entries in turn, with the watermarks that come of it."""
        for channel in entries:
            channel.on_room = self.room.set
        turn = 0
        with self._session(self._kernel) as session:
            for found in self._history(session, since, until, 0, 1, splits):
                channel = entries[turn % len(entries)]
                turn += 1
                self.wait_while(lambda: channel.full)  # noqa: B023 - waits at once
                if found.table.num_rows:
                    channel.put(Batch(found.table))
                frontier = splits.frontier(0)
                if frontier > MIN_US:
                    for each in entries:
                        each.put(Watermark(frontier - self._scan.lateness_us))

    # --- into the live stream --------------------------------------------------------------------------

    def seam(
        self, hub: Hub, feed: Feed, on_phase: Callable[[Mapping[str, Any]], None], others: threading.Barrier
    ) -> None:
        """History up to where the hub has attached the query, what the hub held meanwhile, and on live.

        Behind the last row of that a barrier with the number SEAM goes through the tasks; `feed.positions` are its
        offsets. Where the query has several sources, the first of them to have read its history waits for the others,
        for behind the seam what comes can not wait.
        """
        since, _ = self.bounds()
        splits = Splits(MAX_US, self._scan.max_ahead_us)
        first = True
        while True:
            self._wait_until(feed.joined)
            until = dict(feed.positions)
            splits.expect([split for split, offset in until.items() if offset > 0], 0)
            on_phase({"phase": "backfill", "share": round(self.share, 3), "until": until})
            self._feed(feed.channels, since, until, splits)
            feed.floors = {
                row["split"]: row["reached"] for row in splits.snapshot().to_pylist() if row["reached"] > MIN_US
            }
            if first:
                self._meet(others)
                first = False
            if self._drain(feed):
                break
            # More came meanwhile than can be held: read on from here until we have caught up.
            hub.reattach(feed)
            since = From(positions=until)
        self.ended = True

    def _meet(self, others: threading.Barrier) -> None:
        try:
            others.wait()
        except threading.BrokenBarrierError:
            raise Stopped from None

    def _drain(self, feed: Feed) -> bool:
        """What was held goes on in its order; False where some of it had to be let go of."""
        for share, channel in enumerate(feed.channels):
            self.wait_while(lambda: channel.full)  # noqa: B023 - waits at once
            while True:
                with feed.guard:
                    assert feed.held is not None
                    if feed.held.overflowed:
                        return False
                    waiting = feed.held.shares[share]
                    if not waiting:
                        break
                    table, frontier = waiting.pop(0)
                    feed.held.bytes -= table.nbytes
                self.wait_while(lambda: channel.full)  # noqa: B023 - waits at once
                self._pass(feed, share, table, frontier)
        with feed.guard:
            assert feed.held is not None
            if feed.held.overflowed:
                return False
            for share, waiting in enumerate(feed.held.shares):
                for table, frontier in waiting:
                    self._pass(feed, share, table, frontier)
                feed.channels[share].put(Barrier(SEAM))
            feed.go_live()
        return True

    def _pass(self, feed: Feed, share: int, table: pa.Table, frontier: int) -> None:
        if table.num_rows:
            feed.tallies[share].seen += table.num_rows
            feed.send(share, table)
        feed.mark(share, frontier)

    # --- reading ---------------------------------------------------------------------------------------

    def bounds(self) -> tuple[From, Positions | None]:
        """Where to begin and where to end, as the source understands it."""
        scan = self._scan
        since = from_of(scan.since, self._source)
        if scan.until.kind == "offset":
            assert scan.until.offset is not None
            return since, dict.fromkeys(self._source.end(), scan.until.offset)
        return since, self._source.end() if self._info.history else None

    def _history(
        self, session: Session, since: From, until: Positions | None, part: int, parts: int, splits: Splits | None
    ) -> Iterator[Decoded]:
        """Decoded history, counted."""
        decoder = self._decoder(session, splits)
        if until:
            self._covered.expect(since, until)
        for raw in self._raws(since, until, part, parts):
            if self.stopping:
                raise Stopped
            found = decoder.decode((raw,))
            for letters in (self._letters, self.letters):
                letters.add(found.malformed, found.unreadable)
            with self._guard:
                self.events += found.seen
                self.malformed += found.unreadable
                self.skipped += found.skipped
                self.decoded += found.table.num_rows
                self._covered.saw(part, raw)
            yield found

    def _raws(self, since: From, until: Positions | None, part: int, parts: int) -> Iterator[Raw]:
        """Stored events; where a source ends but keeps nothing, what its reader gives until it has ended."""
        names = names_of(self._scan) if self._info.encoding == "columns" else None
        if self._info.history:
            yield from self._source.history(since, until, part, parts, names)
            return
        reader = self._source.open(None, part, parts, names)
        try:
            while not reader.ended and not self.stopping:
                yield from reader.poll(WAIT_S, READ_BYTES)
        finally:
            reader.close()

    def _decoder(self, session: Session, splits: Splits | None) -> Decoder:
        scan = self._scan
        envelope = tuple(field.name for field in self._info.envelope)
        prefilter = Prefilter(scan.needles) if scan.needles is not None and scan.encoding == "json" else None
        return Decoder(
            session,
            scan.encoding,
            scan.time,
            scan.columns,
            envelope=envelope,
            splits=splits,
            prefilter=prefilter,
            masks=scan.masks,
        )

    @contextmanager
    def _session(self, kernel: Kernel) -> Iterator[Session]:
        session = kernel.session()
        try:
            yield session
        finally:
            session.close()

    # --- waiting ---------------------------------------------------------------------------------------

    def wait_while(self, full: Callable[[], bool]) -> None:
        while full():
            if self.stopping:
                raise Stopped
            self.room.clear()
            if full():
                self.room.wait(WAIT_S)
        if self.stopping:
            raise Stopped

    def _wait_until(self, event: threading.Event) -> None:
        while not event.wait(WAIT_S):
            if self.stopping:
                raise Stopped


def answer(
    plan: Plan,
    readings: Sequence[Backfill],
    bulk: Kernel,
    tell: Callable[[pa.Table], None],
    is_full: Callable[[], bool],
    declared: Mapping[str, pa.Table],
) -> None:
    """The answer to a query in one statement over the history that all of its scans read, and `declared` tables."""
    session, other = bulk.session(), bulk.session()
    with ExitStack() as stack:
        stack.callback(session.close)
        stack.callback(other.close)
        tables = {name: stack.enter_context(one.decoding()) for name, one in zip(plan.tables, readings, strict=True)}
        for one in readings:
            one.runs(session)
            stack.callback(one.runs, None)
        try:
            for table in results_of(plan, session, other, {**tables, **declared}):
                readings[0].wait_while(is_full)
                tell(table)
        except (duckdb.Error, pa.ArrowException) as error:
            why = _trouble(readings)
            _cancel(readings)
            raise (why or error) from error
        except BaseException:
            _cancel(readings)
            raise
    why = _trouble(readings)
    if why is not None:
        raise why
    for one in readings:
        one.ended = True


def results_of(plan: Plan, session: Session, other: Session, tables: Mapping[str, Any]) -> Iterator[pa.Table]:
    """The rows of the plan's statement, as they are told."""
    tables = judged_of(plan, session, other, tables)
    afterwards = Afterwards(plan.after_batch, other)
    for batch in session.stream(plan.batch, tables):
        for table in afterwards.take(pa.Table.from_batches([batch])):
            yield _as_told(plan, table)
    for table in afterwards.end():
        yield _as_told(plan, table)


def judged_of(plan: Plan, session: Session, other: Session, tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tables with those that the plan's inner detectors make of them."""
    known = dict(tables)
    for judged in plan.judged:
        afterwards = Afterwards(judged.operators, other)
        batches = session.stream(judged.sql, known)
        found = [one for batch in batches for one in afterwards.take(pa.Table.from_batches([batch]))]
        found += afterwards.end()
        known[judged.table] = pa.concat_tables(found) if found else session.run(judged.blank, {})
    return known


def _trouble(readings: Sequence[Backfill]) -> Exception | None:
    """What went wrong while the scans were read."""
    own = next((error for one in readings for error in one.errors), None)
    return own or (Stopped() if any(one.stopping for one in readings) else None)


def _cancel(readings: Sequence[Backfill]) -> None:
    for one in readings:
        one.runs(None)
        one.cancel()


def _as_told(plan: Plan, table: pa.Table) -> pa.Table:
    """With the columns that the same rows have when they come out of the stages."""
    if not plan.result.keyed:
        return table.drop_columns(["_key"]) if "_key" in table.column_names else table
    rows = table.num_rows
    table = table.append_column("_revision", pa.array([0] * rows, pa.int64()))
    table = table.append_column("_op", pa.array(["insert"] * rows, pa.string()))
    return table.append_column("final", pa.array([True] * rows, pa.bool_()))


class Covered:
    """How much of the offsets between start and end has been read."""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._begun: dict[tuple[int, int], int] = {}
        self._reached: dict[tuple[int, int], int] = {}

    def expect(self, since: From, until: Positions) -> None:
        self._last.update(until)
        for split in until:
            if since.positions is not None:
                self._first.setdefault(split, since.positions.get(split, 0))
            elif since.time_us is None:
                self._first.setdefault(split, 0)

    def saw(self, part: int, raw: Raw) -> None:
        first = raw.base if isinstance(raw, Chunk) else first_offset(raw.table, raw.next_offset)
        self._begun.setdefault((part, raw.split), first)
        self._first.setdefault(raw.split, first)
        self._reached[part, raw.split] = raw.next_offset

    def share(self) -> float:
        whole = sum(max(0, last - self._first[split]) for split, last in self._last.items() if split in self._first)
        done = sum(reached - self._begun[key] for key, reached in list(self._reached.items()))
        return min(1.0, done / whole) if whole else 0.0


def first_offset(table: pa.RecordBatch, otherwise: int) -> int:
    return int(pc.min(table.column("_offset")).as_py()) if table.num_rows else otherwise


INTAKES = SelectRows | Partial | JoinSide


def intake_of(plan: Plan, scan: int) -> SelectRows | Partial | JoinSide | None:
    """The operator that filters the events of a scan: the first that does, on their way through the stages."""
    stage = next((one for one in plan.stages if one.input == "scan" and one.scan == scan), None)
    while stage is not None:
        found = next((spec for spec in stage.operators if isinstance(spec, INTAKES | AsEvents | Lookup)), None)
        if found is not None:
            return None if isinstance(found, AsEvents | Lookup) else found
        number = stage.number
        stage = next((one for one in plan.stages if number in one.inputs), None)
    return None


def from_of(start: Start, source: Source) -> From:
    """Where a query begins, in the source's terms."""
    match start.kind:
        case "live" | "earliest":
            return From()
        case "time":
            return From(time_us=start.us)
        case "offset":
            assert start.offset is not None
            return From(positions=dict.fromkeys(source.end(), start.offset))
        case "now":
            return From(positions=source.end())
        case kind:
            raise AssertionError(kind)


def held_for(shares: int) -> Held:
    return Held([[] for _ in range(shares)])
