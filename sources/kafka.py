"""Kafka topics: read live, alone or as a member of a consumer group; the topic's log is its history.

Each source has an event loop in a thread of its own; the calls of the engine's threads wait for it. Everything
of the classes `Directory` and `Reading` happens on that loop, one step at a time. Positions are ours: a record
counts as read when `poll` has handed it over, and every disturbance (a broker that is away, a consumer made anew,
a rebalance) goes on at what was handed over last.

What limits is the client: it makes an object of each message (1.9 µs; columns take 0.2), so that one source gives
about half a million messages of 200 bytes a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import orjson
import pyarrow as pa
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from mql.catalog import SourceInfo
from mql.errors import MqlError, did_you_mean
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader
from mql.exec.items import Raw, Rows
from mql.learn import learn
from mql.schema import BIGINT, JSON, TIMESTAMP, VARCHAR, Field, Shape
from sources.learning import parsed
from sources.settings import DEFAULTS, Settings, describe

T = TypeVar("T")
Partition: TypeAlias = TopicPartition
Offsets: TypeAlias = dict[TopicPartition, int]

ENVELOPE = (
    Field("_kafka_key", VARCHAR),
    Field("_kafka_headers", JSON),
    Field("_kafka_partition", BIGINT),
    Field("_kafka_topic", VARCHAR),
    Field("_kafka_timestamp", TIMESTAMP),
)
"""What Kafka knows of a message beside its value, for the sources that ask for it."""

LEARN_EVENTS = 1_000
LEARN_AGAIN_S = 5.0  # while a topic is empty or away, it is looked at no more often than this
TOPIC_STRIDE = 100_000  # split of a partition of the n-th topic: n * TOPIC_STRIDE + partition
HISTORY_BYTES = 16 << 20
HISTORY_WAIT_MS = 100  # how long a broker waits at the end of a log before it says that nothing is there
SILENT_S = 3.0  # a broker answers an idle fetch every half second; after so long it counts as away
RENEW_S = 20.0  # and after so long the consumer is made anew: whatever it waits for may never come
NOTICE_S = 30.0  # how long a loss by retention stays in `trouble`
RETRY_S = 2.0  # between attempts to connect, after some quicker ones
COMMIT_S = 5.0
CLOSE_S = 5.0
EMPTY_ANSWERS = 3  # so many answers without anything: the rest of a log was compacted away
FIRST_RECORD_BYTES = 512


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """What names a topic and the way to it. The names are those of mql.yaml.

    `bootstrap_servers`: `host:port`, several with commas. `topic`: one or several; splits are numbered by the
    order given. `group`: readers that start from now are members of it, go on where it has committed, and share
    the partitions by Kafka's rebalance; readers that are told a start (a restored job, SINCE) read beside it.
    `start`: where a reader begins that is not told (in a group: where nothing is committed). `envelope`: the
    columns of `ENVELOPE` to give, with or without `_kafka_`. `password_env`, `password_file`: where the password
    stands, so that it need not stand in the YAML. `history_slack_s`: a topic is searched by Kafka's timestamps, and
    so much earlier than asked, since an event's own time may be earlier than its message's.
    """

    bootstrap_servers: str
    topic: str | tuple[str, ...]
    group: str | None = None
    start: Literal["latest", "earliest"] = "latest"
    envelope: tuple[str, ...] = ()
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_env: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    check_hostname: bool = True
    client_id: str = "mql"
    fetch_bytes: int = 32 << 20
    partition_bytes: int = 2 << 20
    fetch_wait_ms: int = 500
    metadata_refresh_s: float = 30.0
    request_timeout_s: float = 10.0
    session_timeout_s: float = 10.0
    history_slack_s: float = 600.0

    @property
    def topics(self) -> tuple[str, ...]:
        return (self.topic,) if isinstance(self.topic, str) else tuple(self.topic)


@dataclass(frozen=True, slots=True)
class Form:
    """How messages are given: values as JSON texts (else as bytes), keys as texts (else as bytes)."""

    json: bool = True
    text_keys: bool = True


class KafkaAway(ConnectionError):
    """The broker does not answer, or not as hoped; the message is a sentence for people."""


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
        form: Form = Form(),
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


# --- on the loop -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """One task's part of the partitions: the same ones whatever partitions come later."""

    task: int
    tasks: int

    def of(self, all: Mapping[Partition, T], topics: Sequence[str]) -> dict[Partition, T]:
        return {one: value for one, value in all.items() if split_of(topics, one) % self.tasks == self.task}


@dataclass(frozen=True, slots=True)
class Got:
    """Records of one partition as they follow each other; `next` is the position after them."""

    partition: Partition
    records: Sequence[ConsumerRecord[bytes, bytes]]
    next: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What a `take` brought and how things stand after it."""

    records: tuple[Got, ...]
    positions: Offsets
    away: str | None
    notice: str | None
    lost: int


class Directory:
    """Which partitions there are, and their first and last offsets: one connection for the whole source."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._consumer: AIOKafkaConsumer | None = None
        self._one_at_a_time = asyncio.Lock()

    def known(self) -> tuple[Partition, ...]:
        """As far as has been heard; the consumer refreshes it by itself. Safe in any thread."""
        consumer = self._consumer
        if consumer is None:
            return ()
        return tuple(
            TopicPartition(topic, number)
            for topic in self._kafka.topics
            for number in sorted(consumer.partitions_for_topic(topic) or ())
        )

    async def partitions(self) -> tuple[Partition, ...]:
        async def known(consumer: AIOKafkaConsumer) -> tuple[Partition, ...]:
            for topic in self._kafka.topics:
                if not consumer.partitions_for_topic(topic):
                    raise KafkaAway(no_topic(self._kafka, topic))
            return self.known()

        return await self._ask("its partitions", known)

    async def ends(self) -> Offsets:
        """Just after the newest message; with read_committed, before the first one whose fate is open."""

        async def ends(consumer: AIOKafkaConsumer) -> Offsets:
            return dict(await consumer.end_offsets(self.known()))

        return await self._ask("its end", ends)

    async def beginnings(self, partitions: Sequence[Partition]) -> Offsets:
        async def beginnings(consumer: AIOKafkaConsumer) -> Offsets:
            return dict(await consumer.beginning_offsets(partitions))

        return await self._ask("its beginning", beginnings) if partitions else {}

    async def starts(self, start: From | None, partitions: Sequence[Partition]) -> Offsets:
        """Where a reading begins that is told to start so. A partition that `positions` lacks: at its beginning."""
        if not partitions:
            return {}
        if start is None:
            if self._kafka.start == "earliest":
                return await self.beginnings(partitions)
            ends = await self.ends()
            return {one: ends.get(one, 0) for one in partitions}
        if start.positions is not None:
            begins = await self.beginnings(partitions)
            topics = self._kafka.topics
            return {one: start.positions.get(split_of(topics, one), begins[one]) for one in partitions}
        if start.time_us is not None:
            return await self._at(start.time_us, partitions)
        return await self.beginnings(partitions)

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stopped(consumer)

    async def _at(self, time_us: int, partitions: Sequence[Partition]) -> Offsets:
        """Kafka's first message of that time; the end, as it was before asking, where all are earlier."""
        ends = await self.ends()
        at_ms = max(0, (time_us - round(self._kafka.history_slack_s * 1e6)) // 1000)

        async def at(consumer: AIOKafkaConsumer) -> Offsets:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, at_ms))
            return {one: ends.get(one, 0) if hit is None else hit.offset for one, hit in found.items()}

        return await self._ask("its offsets by time", at)

    async def _ask(self, what: str, question: Callable[[AIOKafkaConsumer], Awaitable[T]]) -> T:
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(self._kafka.request_timeout_s):
                    if self._consumer is None:
                        self._consumer = await self._connected()
                    return await question(self._consumer)
            except (KafkaError, OSError, TimeoutError) as error:
                await self.close()
                if isinstance(error, KafkaAway):
                    raise
                raise KafkaAway(away(self._kafka, error, f"asked for {what}")) from error

    async def _connected(self) -> AIOKafkaConsumer:
        """A consumer that knows the topics' partitions and fetches nothing: it holds one of each topic, paused."""
        consumer = await started(self._kafka)
        try:
            missing = [topic for topic in self._kafka.topics if topic not in await consumer.topics()]
            if missing:
                raise KafkaAway(no_topic(self._kafka, missing[0]))
            held = [TopicPartition(topic, 0) for topic in self._kafka.topics]
            consumer.assign(held)
            for partition in held:
                consumer.seek(partition, 0)
            consumer.pause(*held)
            while any(not consumer.partitions_for_topic(topic) for topic in self._kafka.topics):
                await asyncio.sleep(0.01)
        except BaseException:
            await stopped(consumer)
            raise
        return consumer


class Tails:
    """What a bounded reading has still to read: partitions that stand before their last offset.

    A log may end before its last offset: compaction takes messages away, and a transaction's marker is none.
    A position passes markers by itself. Where every partition that is left has answered several times and had
    nothing, there is nothing.
    """

    def __init__(self, last: Offsets) -> None:
        self.left: dict[Partition, int] = dict(last)
        self._empty = 0
        self._seen: tuple[object, object] = (None, None)

    def reached(self, positions: Offsets) -> tuple[Partition, ...]:
        """The partitions that now stand at their last offset; no longer left."""
        done = tuple(one for one, last in self.left.items() if positions.get(one, 0) >= last)
        for one in done:
            del self.left[one]
        return done

    def see(self, positions: Offsets, answers: object) -> None:
        """Told after each fetch where things stand and which answers came."""
        at = tuple(positions.get(one) for one in self.left)
        if at != self._seen[0]:
            self._empty = 0
        elif answers != self._seen[1]:
            self._empty += 1
        self._seen = (at, answers)
        if self._empty >= EMPTY_ANSWERS:
            self.left.clear()


class Reading:
    """A consumer, its partitions and where it stands in them; made anew when it falls silent."""

    def __init__(
        self, kafka: KafkaSettings, directory: Directory, start: From | Offsets | None, share: Share, in_group: bool
    ) -> None:
        self._kafka = kafka
        self._directory = directory
        self._start = start
        self._share = share
        self._in_group = in_group
        self._positions: Offsets = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[Mapping[Partition, list[ConsumerRecord[bytes, bytes]]]] | None = None
        self._tried = asyncio.Event()
        self._failed = False
        self._asides: set[asyncio.Task[None]] = set()
        self._away: str | None = None
        self._notice: tuple[float, str] | None = None
        self._lost = 0
        self._heard: tuple[int | None, ...] = ()
        self._heard_s = 0.0
        self._committed_s = 0.0
        self._committed: Offsets = {}
        self._one_commit = asyncio.Lock()
        self._handed: Offsets = {}
        self._record_bytes = float(FIRST_RECORD_BYTES)

    def state(self) -> Taken:
        return Taken((), dict(self._positions), self._away, None, 0)

    async def ready(self, timeout_s: float) -> None:
        """Waits for the consumer and its positions, no longer than so."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        await asyncio.wait({self._connecting}, timeout=timeout_s)
        if self._connecting.done():
            self._connecting.result()

    async def begin(self) -> None:
        """Waits until there is a consumer, or the first try to get one has failed."""
        while self._consumer is None and not self._tried.is_set():
            await self.ready(0.02)

    async def take(self, timeout_s: float, max_bytes: int, tails: Tails | None = None) -> Taken:
        """What has come, of at most about that many bytes. Between the fetch and the hand-over nothing waits."""
        ends_s = now_s() + timeout_s
        records: tuple[Got, ...] = ()
        while True:
            if self._consumer is None:
                await self.ready(max(0.0, ends_s - now_s()))
            if self._consumer is not None:
                records = await self._fetch(self._consumer, max(0.0, ends_s - now_s()), max_bytes, tails)
            if records or now_s() >= ends_s or (tails is not None and not tails.left):
                break
        lost, self._lost = self._lost, 0
        recent = self._notice is not None and now_s() - self._notice[0] < NOTICE_S
        notice = self._notice[1] if self._notice is not None and recent else None
        return Taken(records, dict(self._positions), self._away, notice, lost)

    async def close(self) -> None:
        await self._drop(commit=True)
        while self._asides:
            await asyncio.wait(tuple(self._asides))

    # the consumer

    async def _connect(self) -> None:
        """Tries until it has a consumer at its positions."""
        pause_s = 0.25
        patience_s = self._kafka.request_timeout_s
        if self._in_group:
            patience_s += 2 * self._kafka.session_timeout_s  # the other members have so long to join again
        while self._consumer is None:
            try:
                async with asyncio.timeout(patience_s):
                    self._consumer = await (self._join() if self._in_group else self._assign())
            except (KafkaError, OSError, TimeoutError) as error:
                told = str(error) if isinstance(error, KafkaAway) else away(self._kafka, error, "connected")
                self._away = f"{told}; trying again"
                self._tried.set()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_S)
        self._away = None
        self._heard, self._heard_s = (), now_s()
        self._tried.set()

    async def _assign(self) -> AIOKafkaConsumer:
        partitions = await self._directory.partitions()
        if isinstance(self._start, dict):
            self._positions = self._positions or dict(self._start)
        else:
            mine = tuple(self._share.of(dict.fromkeys(partitions), self._kafka.topics))
            if not self._positions:
                self._positions = await self._directory.starts(self._start, mine)
        consumer = await started(self._kafka)
        self._hold(consumer)
        return consumer

    async def _join(self) -> AIOKafkaConsumer:
        await self._directory.partitions()
        consumer = await started(
            self._kafka,
            group_id=self._kafka.group,
            session_timeout_ms=round(self._kafka.session_timeout_s * 1000),
            heartbeat_interval_ms=round(self._kafka.session_timeout_s * 300),
        )
        member = Member(self, consumer)
        self._failed = False
        try:
            consumer.subscribe(self._kafka.topics, listener=member)
            await member.joined.wait()
            if self._failed:
                raise KafkaAway(self._away)
        except BaseException:
            await stopped(consumer)
            raise
        return consumer

    def _hold(self, consumer: AIOKafkaConsumer) -> None:
        """Assigns the partitions of our positions, and each goes on where it stands."""
        self._forget_what_is_fetched()
        consumer.assign(list(self._positions))
        for partition, offset in self._positions.items():
            consumer.seek(partition, offset)

    def _forget_what_is_fetched(self) -> None:
        """Before a seek: what was fetched and not handed over will be fetched again. (A fetch that is under way
        has nothing yet; what it brings will be what the new positions ask for.)"""
        if self._fetching is not None and self._fetching.done():
            self._fetching = None

    async def _drop(self, commit: bool = False) -> None:
        """Lets the consumer go; what it had fetched and not handed over will be fetched again."""
        for task in (self._connecting, self._fetching):
            if task is not None:
                await ended(task)
        self._connecting = self._fetching = None
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            if self._in_group:
                handed, self._positions = self._positions, {}
                self._handed |= handed
                if commit:
                    await self._commit(consumer, handed)
            self._aside(stopped(consumer))

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that a poll does not wait for; `close` does."""
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    # fetching

    async def _fetch(
        self, consumer: AIOKafkaConsumer, timeout_s: float, max_bytes: int, tails: Tails | None
    ) -> tuple[Got, ...]:
        if self._failed:
            await self._drop()
            return ()
        if not self._in_group and tails is None:
            await self._take_new_partitions(consumer)
        if self._fetching is None:
            most = max(1, int(max_bytes / self._record_bytes))
            wait_ms = min(round(timeout_s * 1000), self._kafka.fetch_wait_ms)
            self._fetching = asyncio.create_task(consumer.getmany(timeout_ms=wait_ms, max_records=most))
        fetching = self._fetching
        await asyncio.wait({fetching}, timeout=timeout_s)
        if self._fetching is not fetching or not fetching.done():
            await self._mind_silence(consumer)
            return ()
        self._fetching = None
        try:
            fetched = fetching.result()
        except NoOffsetForPartitionError:
            return ()  # the rebalance is about to give it one
        except OffsetOutOfRangeError as error:
            await self._skip_what_is_gone(consumer, dict(error.args[0]))
            return ()
        except KafkaError as error:
            self._away = away(self._kafka, error, "asked for messages")
            self._rewind(consumer, self._positions)
            await asyncio.sleep(min(timeout_s, 0.25))
            return ()
        got = await self._hand_over(consumer, fetched)
        if not got:
            await self._mind_silence(consumer)
        if tails is not None:
            consumer.pause(*tails.reached(self._positions))
            tails.see(self._positions, self._answers(consumer))
        if self._in_group and now_s() - self._committed_s > COMMIT_S:
            self._committed_s = now_s()
            self._aside(self._commit(consumer, dict(self._positions)))
        return got

    async def _hand_over(
        self, consumer: AIOKafkaConsumer, fetched: Mapping[Partition, list[ConsumerRecord[bytes, bytes]]]
    ) -> tuple[Got, ...]:
        """Moves our positions on, past records and also past what is none (markers, gaps). Never really waits:
        each of our partitions has a position. Records of a partition that has none yet will come again."""
        for partition in consumer.assignment() & self._positions.keys():
            with contextlib.suppress(IllegalStateError):
                self._positions[partition] = await consumer.position(partition)
        got = tuple(
            Got(one, records, self._positions[one])
            for one, records in fetched.items()
            if records and one in self._positions
        )
        if got:
            records = got[0].records
            size = sum(max(0, one.serialized_value_size) for one in records[:100]) / min(100, len(records))
            self._record_bytes = max(1.0, 0.8 * self._record_bytes + 0.2 * size)
            self._away, self._heard_s = None, now_s()
        return got

    async def _take_new_partitions(self, consumer: AIOKafkaConsumer) -> None:
        """Partitions that came to be while we read are read from their beginning."""
        known = self._share.of(dict.fromkeys(self._directory.known()), self._kafka.topics)
        new = tuple(one for one in known if one not in self._positions)
        if not new:
            return
        try:
            begins = await self._directory.beginnings(new)
        except KafkaAway as error:
            self._away = str(error)
            return
        self._positions |= begins
        self._hold(consumer)

    async def _skip_what_is_gone(self, consumer: AIOKafkaConsumer, gone: Offsets) -> None:
        """Retention was faster than we: go on with the oldest that is left; or with what comes now, where the
        offset is beyond the end (the topic was made anew)."""
        try:
            begins, ends = await self._directory.beginnings(tuple(gone)), await self._directory.ends()
        except KafkaAway as error:
            self._away = str(error)
            self._rewind(consumer, gone)
            return
        for partition, offset in gone.items():
            if partition not in self._positions or partition not in consumer.assignment():
                continue
            to = begins[partition] if offset < begins[partition] else ends[partition]
            self._positions[partition] = to
            consumer.seek(partition, to)
            self._lost += max(0, to - offset)
            self._notice = (
                now_s(),
                f"offsets {offset} to {to} of {partition.topic}-{partition.partition} are gone (retention, or the "
                f"topic was made anew); reading on at {to}",
            )

    def _rewind(self, consumer: AIOKafkaConsumer, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            if partition in self._positions and partition in consumer.assignment():
                consumer.seek(partition, self._positions[partition])

    # trouble

    def _answers(self, consumer: AIOKafkaConsumer) -> tuple[int | None, ...]:
        """When each partition was last answered for: it changes with every answer."""
        held = sorted(consumer.assignment())
        return tuple(consumer.last_poll_timestamp(one) for one in held if one not in consumer.paused())

    async def _mind_silence(self, consumer: AIOKafkaConsumer) -> None:
        heard = self._answers(consumer)
        if heard != self._heard or not heard:
            self._heard, self._heard_s = heard, now_s()
            self._away = None
            return
        silent_s = now_s() - self._heard_s
        if silent_s > SILENT_S:
            self._away = f"Kafka at {self._kafka.bootstrap_servers} has not answered for {silent_s:.0f} s; still trying"
        if silent_s > RENEW_S:
            await self._drop()

    # the group

    async def leave(self, consumer: AIOKafkaConsumer, revoked: Iterable[Partition]) -> None:
        """Commits what was handed over. What was fetched and not handed over belongs to who comes next."""
        self._forget_what_is_fetched()
        await self._commit(consumer, {one: self._positions[one] for one in revoked if one in self._positions})
        self._handed |= self._positions
        self._positions = {}

    async def enter(self, consumer: AIOKafkaConsumer, assigned: Iterable[Partition]) -> None:
        """Each partition goes on where the group has committed, or where we know that we have handed over more
        (a commit may have failed)."""
        asked = tuple(assigned)
        found = dict(zip(asked, await asyncio.gather(*map(consumer.committed, asked)), strict=True))
        begins = await self._directory.starts(None, tuple(one for one, at in found.items() if at is None))
        self._forget_what_is_fetched()
        for partition in consumer.assignment() & found.keys():
            at = found[partition]
            at = begins[partition] if at is None else at
            self._positions[partition] = max(at, self._handed.get(partition, at))
            consumer.seek(partition, self._positions[partition])

    def fail(self, why: str) -> None:
        """The partitions have no positions: the next poll joins the group anew."""
        self._away = why
        self._failed = True

    async def _commit(self, consumer: AIOKafkaConsumer, offsets: Offsets) -> None:
        """As good as it goes: who takes over after a failed commit reads from the one before. One after the other,
        so that an old one that is tried again can't undo a newer."""
        try:
            async with asyncio.timeout(CLOSE_S), self._one_commit:
                changed = {one: at for one, at in offsets.items() if self._committed.get(one) != at}
                if changed:
                    await consumer.commit(changed)
                    self._committed |= changed
        except (KafkaError, TimeoutError) as error:
            self._notice = (now_s(), away(self._kafka, error, f'committed for group "{self._kafka.group}"'))


class Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """A reading's part in its group: the client calls it when the partitions are dealt anew."""

    def __init__(self, reading: Reading, consumer: AIOKafkaConsumer) -> None:
        self.joined = asyncio.Event()
        self._reading = reading
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[Partition]) -> None:
        await self._reading.leave(self._consumer, revoked)

    async def on_partitions_assigned(self, assigned: Iterable[Partition]) -> None:
        try:
            await self._reading.enter(self._consumer, assigned)
        except (KafkaError, OSError, TimeoutError) as error:
            self._reading.fail(str(error))
        self.joined.set()


# --- messages as columns -----------------------------------------------------------------------------


def batch_of(
    records: Sequence[ConsumerRecord[bytes, bytes]], columns: Sequence[str], form: Form = Form()
) -> tuple[pa.RecordBatch, int]:
    """The messages as columns, and how many had no value (tombstones, left out)."""
    values = pa.array([one.value for one in records], pa.binary())
    tombstones = int(values.null_count)
    if tombstones:
        records = [one for one in records if one.value is not None]
        values = values.drop_null()
    built: dict[str, pa.Array] = {
        "_raw": texts_of(values) if form.json else values,
        "_offset": pa.array(numbers(records, "offset")),
        "_time": times_of(records),
    }
    for name in columns:
        if name == "_kafka_key" and not form.text_keys:
            built[name] = pa.array([one.key for one in records], pa.binary())
        else:
            built[name] = envelope_column(name, records, built["_time"])
    return pa.RecordBatch.from_pydict(built), tombstones


def texts_of(values: pa.Array) -> pa.Array:
    """JSON is UTF-8. What is not becomes a text that no JSON parser takes and that says why: had the bad bytes
    been replaced in place, `{"a": "\\xff"}` would pass as an event that nobody sent."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([text_of(one) for one in values.to_pylist()], pa.string())


def text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}: {value.decode(errors='backslashreplace')}"


def times_of(records: Sequence[ConsumerRecord[bytes, bytes]]) -> pa.Array:
    """Kafka's milliseconds as microseconds, null where a message has none."""
    ms = numbers(records, "timestamp")
    return pa.array(ms * 1000, mask=ms < 0)


def numbers(records: Sequence[ConsumerRecord[bytes, bytes]], name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.fromiter(map(attrgetter(name), records), np.int64, len(records))


def envelope_column(name: str, records: Sequence[ConsumerRecord[bytes, bytes]], times: pa.Array) -> pa.Array:
    match name:
        case "_kafka_key":
            return pa.array([None if one.key is None else plain(one.key) for one in records], pa.string())
        case "_kafka_headers":
            return pa.array([headers_text(one.headers) for one in records], pa.string())
        case "_kafka_partition":
            return pa.array(numbers(records, "partition"))
        case "_kafka_topic":
            return pa.array([one.topic for one in records], pa.string())
        case "_kafka_timestamp":
            return times.cast(pa.timestamp("us"))
        case _:
            raise AssertionError(f"no such column: {name}")


def headers_text(headers: Sequence[tuple[str, bytes | None]]) -> str:
    """A JSON object of texts; of a name that comes twice the last one counts, as Kafka's own `lastHeader`."""
    return orjson.dumps({name: None if value is None else plain(value) for name, value in headers}).decode()


def plain(value: bytes) -> str:
    """Bytes as text; other bytes than UTF-8 as `\\xff`, so that unlike keys stay unlike."""
    return value.decode(errors="backslashreplace")


def before(records: Sequence[ConsumerRecord[bytes, bytes]], last: int) -> Sequence[ConsumerRecord[bytes, bytes]]:
    """Those with an offset less than `last`."""
    if not records or records[-1].offset < last:
        return records
    return [one for one in records if one.offset < last]


def split_of(topics: Sequence[str], partition: Partition) -> int:
    """A number for (topic, partition) that stays: the partition itself, where the source is one topic."""
    return topics.index(partition.topic) * TOPIC_STRIDE + int(partition.partition)


# --- settings, connections, the thread ---------------------------------------------------------------


def envelope_of(kafka: KafkaSettings) -> tuple[Field, ...]:
    fields = {one.name: one for one in ENVELOPE}
    asked = tuple(name if name.startswith("_kafka_") else f"_kafka_{name}" for name in kafka.envelope)
    for name in asked:
        if name not in fields:
            hint = did_you_mean(name, fields) or f"There are {', '.join(fields)}."
            raise MqlError(f'Kafka has no "{name}" beside a message', hint=hint, code="invalid-source")
    return tuple(fields[name] for name in dict.fromkeys(asked))


def check_security(kafka: KafkaSettings) -> None:
    """The mistakes that can be seen before a broker is asked."""
    if not kafka.topics:
        raise MqlError("a Kafka source needs a topic", hint="Name one, or a list of them.", code="invalid-source")
    passwords = [one for one in (kafka.password, kafka.password_env, kafka.password_file) if one is not None]
    if kafka.security_protocol.startswith("SASL") and (kafka.username is None or len(passwords) != 1):
        raise MqlError(
            f'"{kafka.security_protocol}" needs a username and one password',
            hint="Give `username` and one of `password_env`, `password_file` and `password`.",
            code="invalid-source",
        )
    for file in (kafka.ca_file, kafka.cert_file, kafka.key_file, kafka.password_file):
        if file is not None and not Path(file).is_file():
            raise MqlError(f'there is no file "{file}"', hint="Check the path.", code="invalid-source")


def password_of(kafka: KafkaSettings) -> str | None:
    """Read for each connection, since a file or a variable may be changed while we run."""
    if kafka.password_file is not None:
        return Path(kafka.password_file).read_text().rstrip("\r\n")
    if kafka.password_env is not None:
        if kafka.password_env not in os.environ:
            raise KafkaAway(f"the password's environment variable {kafka.password_env} is not set")
        return os.environ[kafka.password_env]
    return kafka.password


def tls_of(kafka: KafkaSettings) -> ssl.SSLContext | None:
    if not kafka.security_protocol.endswith("SSL"):
        return None
    context = ssl.create_default_context(cafile=kafka.ca_file)
    context.check_hostname = kafka.check_hostname
    if kafka.cert_file is not None:
        context.load_cert_chain(kafka.cert_file, kafka.key_file)
    return context


async def started(kafka: KafkaSettings, **more: Any) -> AIOKafkaConsumer:
    """A consumer that is connected, holds no partition yet, commits nothing and resets nothing by itself."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        client_id=kafka.client_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=kafka.isolation_level,
        fetch_max_wait_ms=kafka.fetch_wait_ms,
        fetch_max_bytes=kafka.fetch_bytes,
        max_partition_fetch_bytes=kafka.partition_bytes,
        request_timeout_ms=round(kafka.request_timeout_s * 1000),
        metadata_max_age_ms=round(kafka.metadata_refresh_s * 1000),
        retry_backoff_ms=200,
        security_protocol=kafka.security_protocol,
        ssl_context=tls_of(kafka),
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_plain_username=kafka.username,
        sasl_plain_password=password_of(kafka),
        **more,
    )
    try:
        await consumer.start()
    except BaseException:
        await stopped(consumer)
        raise
    return consumer


async def stopped(consumer: AIOKafkaConsumer) -> None:
    """Lets a consumer go, whether or not the broker is there to hear it."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await consumer.stop()


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def away(kafka: KafkaSettings, error: BaseException, doing: str) -> str:
    said = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return f"Kafka at {kafka.bootstrap_servers}, {doing}: {said}"


def no_topic(kafka: KafkaSettings, topic: str) -> str:
    return f'Kafka at {kafka.bootstrap_servers} has no topic "{topic}"'


def now_s() -> float:
    """The loop's own time: seconds that never go back."""
    return asyncio.get_running_loop().time()


class LoopThread:
    """An event loop in a thread of its own; started with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result; waits as long as it takes."""
        with self._lock:
            assert not self.closed, "the source is closed"
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self.closed = True
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
