"""Result rows into a Kafka topic, as JSON; each once, for readers of what is committed.

One transaction holds a portion of rows and the place behind them: the place is committed as the offset of a consumer
group that nobody joins. A sink that is opened takes over the transactional id:
Kafka then ends what an earlier holder left undone, and refuses that holder from then on.

Portions fit the way to the broker: one that takes too long comes again in smaller ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFenced,
)

from mql.exec.files import replace_file
from sources.kafka.connection import CLOSE_S, LoopThread, away, tls_of
from sources.kafka.place import NOTHING, newest_place, place_told
from sources.kafka.settings import KafkaSettings, password_of
from sources.sinks.contract import Away, Fenced, Portion, Refused

T = TypeVar("T")
log = logging.getLogger("sources")

ROWS_MAX = 20_000
ROWS_LEAST = 50
BATCH_BYTES = 256 << 10
BATCH_BYTES_LEAST = 16 << 10
TRANSACTION_S = 60.0
MESSAGE_BYTES_MAX = 1 << 20
"""A message is no larger, with its key and what the client adds."""
OVERHEAD_BYTES = 128
INVALID_RECORD = 87
NARROWER = 4
GROWTH = 4
NAMED_MAX = 3
WRITE_TIMEOUTS = 3
"""A portion takes no longer than so many requests may; then the broker counts as away."""


@dataclass(frozen=True, slots=True)
class KafkaTarget:
    """Where rows go. `key`: the column that becomes a message's key; `_key` where rows have that. `tombstones`: a row
    that deletes (`_op`) is a message without a value, as compacted topics want it."""

    topic: str
    key: str | None = None
    tombstones: bool = False
    compression: str | None = None


class KafkaSink:
    """`id`: what the transactional id and the group of places are called; the same for whoever writes for this job.

    `texts`: rows as JSON texts. `beside`: a file for the place, too: Kafka forgets the offsets of a group that has
    committed nothing for a week. `transaction_s`: so long after its beginning Kafka gives up a transaction; what a
    server has left open holds back readers of what is committed until then, or until the sink is opened again.
    """

    whole_frames = False

    def __init__(
        self,
        kafka: KafkaSettings,
        target: KafkaTarget,
        id: str,
        texts: Callable[[pa.Table], Sequence[bytes]],
        beside: Path | None = None,
        transaction_s: float = TRANSACTION_S,
    ) -> None:
        self.kafka = kafka
        self.target = target
        self.id = id
        self.texts = texts
        self.beside = beside
        self.transaction_s = transaction_s
        self.rows_max = ROWS_MAX
        self._at = 0
        self._loop: LoopThread | None = None
        self._producer: AIOKafkaProducer | None = None

    def open(self) -> int:
        self._loop = LoopThread(f"kafka-sink-{self.id}")
        self._producer = self._run("connecting", self._started())
        place = self._run("asking for its place", self._place())
        self._at = self._noted() if place == NOTHING else place
        return self._at

    def write(self, portion: Portion) -> None:
        self._run("writing", self._write(portion))
        self.rows_max = min(ROWS_MAX, self.rows_max + self.rows_max // GROWTH)
        self._at = portion.end
        if self.beside is not None:
            replace_file(self.beside, str(self._at).encode())

    def missed(self, why: str) -> None:
        """What is gone is told by who drives the sink."""

    def idle(self) -> None:
        """All that it took is written."""

    def told(self) -> Mapping[str, Any]:
        return {"topic": self.target.topic, "brokers": self.kafka.bootstrap_servers}

    def close(self) -> None:
        loop, producer = self._loop, self._producer
        self._loop = self._producer = None
        if loop is None:
            return
        if producer is not None:
            loop.run(let_go(producer))
        loop.close()

    def _run(self, doing: str, work: Coroutine[Any, Any, T]) -> T:
        """What the client raises is the world's, also where it is an assertion of its own about the brokers."""
        assert self._loop is not None, "it is not open"
        try:
            return self._loop.run(work)
        except (KafkaError, OSError, TimeoutError, AssertionError) as error:
            raise Away(f"{away(self.kafka, error, doing)}{self._lacking()}") from error

    def _noted(self) -> int:
        return int(self.beside.read_text()) if self.beside is not None and self.beside.exists() else 0

    async def _taken_over(self) -> Away | Fenced:
        """Somebody else has written since. Else Kafka gave up a transaction which took too long, or has heard late of
        an earlier attempt of ours to take over, or somebody else has, and may write yet."""
        assert self._producer is not None
        if await place_told(self._producer.client, self.id, self._slot) not in (NOTHING, self._at):
            return Fenced(f'another server writes for this job now: it has taken over "{self.id}" in Kafka')
        return Away(f"Kafka at {self.kafka.bootstrap_servers} has given up the transaction")

    def _lacking(self) -> str:
        """What the brokers have told of the topic that explains why they don't answer."""
        if self._producer is None:
            return ""
        topic, cluster = self.target.topic, self._producer.client.cluster
        numbers = cluster.partitions_for_topic(topic)
        if not numbers:
            return f'; it has told of no topic "{topic}"'
        orphans = [
            one for one in sorted(numbers) if cluster.leader_for_partition(TopicPartition(topic, one)) in (None, -1)
        ]
        return f"; without a leader: {', '.join(f'{topic}-{one}' for one in orphans[:NAMED_MAX])}" if orphans else ""

    async def _started(self) -> AIOKafkaProducer:
        """Connected, and the only one with its transactional id: what an earlier one left undone is undone."""
        kafka = self.kafka
        asyncio.get_running_loop().set_exception_handler(noted)
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap_servers,
            client_id=kafka.client_id,
            transactional_id=self.id,
            transaction_timeout_ms=round(self.transaction_s * 1000),
            enable_idempotence=True,
            acks="all",
            linger_ms=5,
            max_batch_size=max(BATCH_BYTES_LEAST, BATCH_BYTES * self.rows_max // ROWS_MAX),
            max_request_size=MESSAGE_BYTES_MAX,
            compression_type=self.target.compression,
            request_timeout_ms=round(kafka.request_timeout_s * 1000),
            security_protocol=kafka.security_protocol,
            ssl_context=tls_of(kafka),
            sasl_mechanism=kafka.sasl_mechanism,
            sasl_plain_username=kafka.username,
            sasl_plain_password=password_of(kafka),
        )
        try:
            async with asyncio.timeout(WRITE_TIMEOUTS * kafka.request_timeout_s):
                await producer.start()
        except BaseException:
            await let_go(producer)
            raise
        return producer

    async def _place(self) -> int:
        """The committed place. Read after the producer's start, so nothing of an earlier one can still be added."""
        assert self._producer is not None
        async with asyncio.timeout(WRITE_TIMEOUTS * self.kafka.request_timeout_s):
            return await newest_place(self._producer, self.id, self._slot)

    @property
    def _slot(self) -> TopicPartition:
        """Where the place stands among the group's offsets."""
        return TopicPartition(self.target.topic, 0)

    async def _write(self, portion: Portion) -> None:
        """What fails half-way is undone by the next `open`. What takes too long will come in smaller portions."""
        producer = self._producer
        assert producer is not None
        keys, values = self._keys(portion.rows), self._values(portion.rows)
        sizes = [len(key or b"") + len(value or b"") for key, value in zip(keys, values, strict=True)]
        large = [row for row, size in enumerate(sizes) if size + OVERHEAD_BYTES > MESSAGE_BYTES_MAX]
        if large:
            why = f"a message of more than {MESSAGE_BYTES_MAX:,} bytes"
            raise Refused(why, dict.fromkeys(large, why))
        try:
            async with asyncio.timeout(min(WRITE_TIMEOUTS * self.kafka.request_timeout_s, self.transaction_s)):
                await self._transact(producer, keys, values, portion.end)
        except TimeoutError:
            self.rows_max = max(ROWS_LEAST, min(self.rows_max, len(values)) // NARROWER)
            raise
        except (ProducerFenced, InvalidProducerEpoch):
            raise await self._taken_over() from None

    async def _transact(
        self, producer: AIOKafkaProducer, keys: Sequence[bytes | None], values: Sequence[bytes | None], end: int
    ) -> None:
        await producer.begin_transaction()
        sent = []
        try:
            for key, value in zip(keys, values, strict=True):
                sent.append(await producer.send(self.target.topic, value=value, key=key))
                sent[-1].add_done_callback(looked_at)
            await asyncio.gather(*sent)
        except KafkaError as error:
            if not is_of_rows(error):
                raise
            await let_go(producer)  # its messages' numbers have a gap now: another begins anew
            self._producer = await self._started()
            raise Refused(f"the broker refuses it: {type(error).__name__}") from None
        await producer.send_offsets_to_transaction({self._slot: end}, self.id)
        await producer.commit_transaction()

    def _keys(self, rows: pa.Table) -> Sequence[bytes | None]:
        name = self.target.key or ("_key" if "_key" in rows.column_names else None)
        if name is None or name not in rows.column_names:
            return [None] * rows.num_rows
        return [None if value is None else str(value).encode() for value in rows.column(name).to_pylist()]

    def _values(self, rows: pa.Table) -> Sequence[bytes | None]:
        texts = self.texts(rows)
        if not self.target.tombstones or "_op" not in rows.column_names:
            return texts
        ops = rows.column("_op").to_pylist()
        return [None if op == "delete" else text for op, text in zip(ops, texts, strict=True)]


def is_of_rows(error: KafkaError) -> bool:
    """Whether it is the messages that are refused, whoever sends them."""
    is_invalid = getattr(error, "errno", None) == INVALID_RECORD
    return is_invalid or isinstance(error, (MessageSizeTooLargeError, InvalidTimestampError))


def noted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The client leaves futures behind whose errors nobody asks for; what matters is raised where it was waited for."""
    log.debug("a Kafka sink: %s (%r)", context.get("message"), context.get("exception"))


def looked_at(sent: asyncio.Future[Any]) -> None:
    """Of many messages that fail together, one is told; asyncio is not to complain of the others."""
    if not sent.cancelled():
        sent.exception()


async def let_go(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await producer.stop()
