"""Which partitions a topic has, who reads which of them, and where they begin and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from mql.exec.feed import From
from sources.kafka.connection import away, no_topic, started, stopped
from sources.kafka.settings import KafkaAway, KafkaSettings

T = TypeVar("T")
Partition: TypeAlias = TopicPartition
Offsets: TypeAlias = dict[TopicPartition, int]

TOPIC_STRIDE = 100_000  # split of a partition of the n-th topic: n * TOPIC_STRIDE + partition


@dataclass(frozen=True, slots=True)
class Share:
    """One task's part of the partitions: the same ones whatever partitions come later."""

    task: int
    tasks: int

    def of(self, all: Mapping[Partition, T], topics: Sequence[str]) -> dict[Partition, T]:
        return {one: value for one, value in all.items() if split_of(topics, one) % self.tasks == self.task}


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


def named(start: From, share: Share, topics: Sequence[str]) -> Offsets:
    """The positions of a share that a start names; none where it names no positions."""
    found = {
        TopicPartition(topics[split // TOPIC_STRIDE], split % TOPIC_STRIDE): at
        for split, at in (start.positions or {}).items()
        if split // TOPIC_STRIDE < len(topics)
    }
    return share.of(found, topics)


def split_of(topics: Sequence[str], partition: Partition) -> int:
    """A number for (topic, partition) that stays: the partition itself, where the source is one topic."""
    return topics.index(partition.topic) * TOPIC_STRIDE + int(partition.partition)
