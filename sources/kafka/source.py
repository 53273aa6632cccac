"""Kafka topics: read live, alone or as a member of a consumer group; the topic's log is its history.

Each source has an event loop in a thread of its own; the calls of the engine's threads wait for it. Everything
of the classes `Directory` and `Reading` happens on that loop, one step at a time. Positions are ours: a record
counts as read when `poll` has handed it over, and every disturbance (a broker that is away, a consumer made anew,
a rebalance) goes on at what was handed over last.

What limits is the client: it makes an object of each message (1.9 µs; columns take 0.2), so that one source gives
about half a million messages of 200 bytes a second.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from mql.catalog import SourceInfo
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader
from mql.exec.items import Raw, Rows
from mql.learn import learn
from mql.schema import Shape
from sources.kafka.connection import LoopThread
from sources.kafka.directory import Directory, Offsets, Partition, Share, split_of
from sources.kafka.messages import batch_of, before
from sources.kafka.reading import Got, Reading, Tails
from sources.kafka.settings import AS_JSON, Form, KafkaAway, KafkaSettings, check_security, envelope_of
from sources.learning import parsed
from sources.settings import DEFAULTS, Settings, describe

LEARN_EVENTS = 1_000
LEARN_AGAIN_S = 5.0  # while a topic is empty or away, it is looked at no more often than this
HISTORY_BYTES = 16 << 20
HISTORY_WAIT_MS = 100  # how long a broker waits at the end of a log before it says that nothing is there


class KafkaSource:
    """One declared Kafka source.

    `tombstones` and `lost_offsets` count, over all its readers, the messages without a value, which are no
    events, and the offsets that retention took away before they were read.
    """

    def __init__(
        self,
        name: str,
        kafka: KafkaSettings,
        settings: Settings = DEFAULTS,
        *,
        clock: Clock | None = None,
        form: Form = AS_JSON,
    ) -> None:
        self.name = name
        self.kafka = kafka
        self.settings = settings
        self.form = form
        self.clock = clock or SystemClock()
        self.tombstones = 0
        self.lost_offsets = 0
        self._envelope = envelope_of(kafka)
        check_security(kafka)
        self._loop = LoopThread(f"kafka-{name}")
        self._directory = Directory(kafka)
        self._readings: set[Reading] = set()
        self._learning = threading.Lock()
        self._counting = threading.Lock()
        self._shape: Shape | None = None if settings.shape is None and form.json else Shape()
        self._looked_s = -math.inf

    @property
    def info(self) -> SourceInfo:
        """Learns the shape at first use, from the newest messages. An empty topic's shape is open."""
        shape = self._looked()
        splits = max(1, len(self._directory.known()))
        info = describe(self.name, "kafka", shape, self.settings, history=True, splits=splits)
        fields = (*info.shape.fields, *(one for one in self._envelope if info.shape.field(one.name) is None))
        return replace(info, shape=replace(info.shape, fields=fields), envelope=self._envelope)

    def refresh(self) -> None:
        """Learns the shape anew from the newest messages, with a new version where it has changed."""
        texts = self.sample(LEARN_EVENTS)
        with self._learning:
            if texts:
                self._shape = learn(parsed(texts), self._shape, self.settings.open)

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        """Returns when its positions are known, or the broker could not be had (then it goes on trying)."""
        in_group = self.kafka.group is not None and start is None
        share = Share(0, 1) if in_group else Share(task, tasks)
        reading = self._reading(self.kafka, None if start is None else self._earlier(start), share, in_group)
        self._loop.run(reading.begin())
        return KafkaReader(self, reading, self._wanted(columns))

    def end(self) -> Positions:
        ends = self._loop.run(self._directory.ends())
        return {self._split(partition): offset for partition, offset in ends.items()}

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        """Its end is fixed when it is called. KafkaAway where the broker leaves for longer than a request's time."""
        first, last = self._loop.run(self._bounds(self._earlier(since), until, Share(part, parts)))
        return self._stored(first, last, self._wanted(columns))

    def sample(self, n: int) -> Sequence[bytes]:
        """The newest values, about as many of each partition; fewer than n where partitions are uneven."""
        first, last = self._loop.run(self._bounds(From(), None, Share(0, 1)))
        each = math.ceil(n / max(1, len(last)))
        first = {partition: max(first[partition], last[partition] - each) for partition in last}
        found: list[tuple[int, bytes]] = []
        for rows in self._stored(first, last, ()):
            times, values = rows.table.column("_time").to_pylist(), rows.table.column("_raw").cast(pa.binary())
            found += ((time or 0, value) for time, value in zip(times, values.to_pylist(), strict=True))
        found.sort(key=lambda one: one[0])
        return tuple(text for _, text in found[-n:])

    def close(self) -> None:
        """Readers that are still open end with it."""
        for reading in tuple(self._readings):
            self._close_reading(reading)
        if not self._loop.closed:
            self._loop.run(self._directory.close())
            self._loop.close()

    def _looked(self) -> Shape:
        """The shape, learned once, and on the way the partitions; a broker that is away is asked again later."""
        with self._learning:
            now = self.clock.monotonic_s()
            lacking = self._shape is None or not self._directory.known()
            if lacking and not self._loop.closed and now - self._looked_s >= LEARN_AGAIN_S:
                self._looked_s = now
                with contextlib.suppress(KafkaAway):
                    if self._shape is not None:
                        self._loop.run(self._directory.partitions())
                    elif texts := self.sample(LEARN_EVENTS):
                        self._shape = learn(parsed(texts), None, self.settings.open)
            return self._shape or Shape(open=True, events=0)

    def _wanted(self, columns: Sequence[str] | None) -> tuple[str, ...]:
        names = tuple(one.name for one in self._envelope)
        return names if columns is None else tuple(name for name in names if name in columns)

    def _split(self, partition: Partition) -> int:
        return split_of(self.kafka.topics, partition)

    def _earlier(self, start: From) -> From:
        """A message may be late, so a time is looked for that much earlier."""
        if start.positions is not None or start.time_us is None:
            return start
        return From(time_us=start.time_us - self.settings.lateness_us)

    def _reading(self, kafka: KafkaSettings, start: From | Offsets | None, share: Share, in_group: bool) -> Reading:
        reading = Reading(kafka, self._directory, start, share, in_group)
        self._readings.add(reading)
        return reading

    def _close_reading(self, reading: Reading) -> None:
        if reading in self._readings:
            self._readings.discard(reading)
            self._loop.run(reading.close())

    async def _bounds(self, since: From, until: Positions | None, share: Share) -> tuple[Offsets, Offsets]:
        """The first and the last (not read) offset of each partition of a share that has anything in between."""
        topics = self.kafka.topics
        ends = share.of(await self._directory.ends(), topics)
        last = {
            partition: end if until is None else min(end, until.get(split_of(topics, partition), 0))
            for partition, end in ends.items()
        }
        begins = await self._directory.beginnings(tuple(last))
        asked = await self._directory.starts(since, tuple(last))
        first = {partition: max(asked[partition], begins[partition]) for partition in last}
        some = [partition for partition in last if first[partition] < last[partition]]
        return {one: first[one] for one in some}, {one: last[one] for one in some}

    def _stored(self, first: Offsets, last: Offsets, columns: Sequence[str]) -> Iterator[Rows]:
        if not last:
            return
        reading = self._reading(replace(self.kafka, fetch_wait_ms=HISTORY_WAIT_MS), first, Share(0, 1), False)
        tails = Tails(last)
        try:
            while tails.left:
                taken = self._loop.run(reading.take(self.kafka.request_timeout_s, HISTORY_BYTES, tails))
                for got in taken.records:
                    kept = before(got.records, last[got.partition])
                    rows = self._rows(replace(got, records=kept, next=min(got.next, last[got.partition])), columns)
                    if rows is not None:
                        yield rows
                self._count(lost=taken.lost)
                if taken.away is not None and not taken.records:
                    raise KafkaAway(taken.away)
        finally:
            self._close_reading(reading)

    def _count(self, tombstones: int = 0, lost: int = 0) -> None:
        if tombstones or lost:
            with self._counting:
                self.tombstones += tombstones
                self.lost_offsets += lost

    def _rows(self, got: Got, columns: Sequence[str]) -> Rows | None:
        """The messages as a batch; None where none has a value."""
        table, tombstones = batch_of(got.records, columns, self.form)
        self._count(tombstones=tombstones)
        if table.num_rows == 0:
            return None
        return Rows(self._split(got.partition), table, self.clock.now_us(), got.next)


class KafkaReader:
    """A live reading of some partitions. What it has and where it stands is as of the last poll."""

    ended = False

    def __init__(self, source: KafkaSource, reading: Reading, columns: tuple[str, ...]) -> None:
        self._source = source
        self._reading = reading
        self._columns = columns
        self._state = reading.state()

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        taken = self._source._loop.run(self._reading.take(timeout_s, max_bytes))
        self._source._count(lost=taken.lost)
        self._state = taken
        rows = (self._source._rows(got, self._columns) for got in taken.records)
        return tuple(one for one in rows if one is not None)

    @property
    def splits(self) -> tuple[int, ...]:
        return tuple(sorted(self.positions))

    @property
    def positions(self) -> Positions:
        return {self._source._split(partition): at for partition, at in self._state.positions.items()}

    @property
    def trouble(self) -> str | None:
        return self._state.away or self._state.notice

    def close(self) -> None:
        self._source._close_reading(self._reading)
