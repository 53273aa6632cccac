"""A consumer, its partitions and where it stands in them, through silence, retention and rebalances."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from mql.exec.feed import From
from sources.kafka.connection import CLOSE_S, away, ended, now_s, patience_s, started, stopped
from sources.kafka.directory import Directory, Offsets, Partition, Share, named
from sources.kafka.settings import KafkaAway, KafkaSettings
from sources.kafka.silence import Silence

SILENT_S = 3.0  # a broker answers an idle fetch every half second; after so long it counts as away
RENEW_LEAST_S = 4.0
RENEW_TIMEOUTS = 2  # and after so many requests' time the consumer is made anew: what it waits for may never come
SLOWNESS_MAX = 3
FASTER_S = 300.0  # what has come over a slow way for so long may come faster by now
NOTICE_S = 30.0  # how long a loss by retention stays in `trouble`
RETRY_S = 2.0  # between attempts to connect, after some quicker ones
COMMIT_S = 5.0
EMPTY_ANSWERS = 3  # so many answers without anything: the rest of a log was compacted away
FIRST_RECORD_BYTES = 512


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
        # Known before a broker is: a checkpoint that is taken until then must not forget them.
        self._positions = named(start, share, kafka.topics) if isinstance(start, From) and not in_group else {}
        self._is_first = True
        self._consumer: AIOKafkaConsumer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[Mapping[Partition, list[ConsumerRecord[bytes, bytes]]]] | None = None
        self._tried = asyncio.Event()
        self._failed = False
        self._asides: set[asyncio.Task[None]] = set()
        self._away: str | None = None
        self._notice: tuple[float, str] | None = None
        self._lost = 0
        self._silence = Silence(0.0)
        self._slowness = 0
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
        self._silence = Silence(now_s())
        self._tried.set()

    async def _assign(self) -> AIOKafkaConsumer:
        partitions = await self._directory.partitions()
        if isinstance(self._start, dict):
            self._positions = self._positions or dict(self._start)
        else:
            mine = tuple(self._share.of(dict.fromkeys(partitions), self._kafka.topics))
            if self._is_first:
                self._positions = {one: at for one, at in self._positions.items() if one in mine}
            if not self._positions:
                self._positions = await self._directory.starts(self._start, mine)
        self._is_first = False
        consumer = await started(self._kafka, self._slowness)
        self._hold(consumer)
        return consumer

    async def _join(self) -> AIOKafkaConsumer:
        await self._directory.partitions()
        consumer = await started(
            self._kafka,
            self._slowness,
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
            await self._mind_silence(consumer, ())
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
        await self._mind_silence(consumer, got)
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

    async def _mind_silence(self, consumer: AIOKafkaConsumer, got: Sequence[Got]) -> None:
        """Says which partitions are not answered for, and makes the consumer anew where none is for long. One that is
        connected and never hears anything asks for more than comes in time on a slow way."""
        silence = self._silence
        silence.look(consumer, [one.partition for one in got], now_s())
        self._away = silence.told(self._kafka.bootstrap_servers, SILENT_S)
        if silence.least_s() > max(RENEW_LEAST_S, RENEW_TIMEOUTS * patience_s(self._kafka, self._slowness)):
            if not silence.answered:
                self._slowness = min(SLOWNESS_MAX, self._slowness + 1)
            await self._drop()
        elif self._slowness and now_s() - silence.made_s > FASTER_S:
            self._slowness -= 1
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
