"""The Kafka source against a real broker. Each test has topics of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from support.kafka_broker import PASSWORD, USER, Broker

from mql.errors import MqlError
from mql.exec.feed import From, Reader
from mql.exec.items import Raw, Rows
from mql.schema import BIGINT, VARCHAR, Field, Shape
from sources.kafka.reading import Tails
from sources.kafka.settings import KafkaAway, KafkaSettings
from sources.kafka.source import KafkaSource
from sources.settings import Settings

if TYPE_CHECKING:
    from support.kafka_fixture import Kafka


POLL_S = 0.2
BYTES = 1 << 20
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Message:
    value: bytes | None
    key: bytes | None = None
    partition: int = 0
    timestamp_ms: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Topic:
    """A topic of a test's own, and what a test does to it."""

    address: str
    name: str

    def send(self, messages: Iterable[Message]) -> None:
        asyncio.run(self._send(tuple(messages)))

    def events(self, numbers: Iterable[int], partitions: int = 1) -> None:
        """Sends `{"i": n}`, dealt out to the partitions in turn."""
        self.send(Message(b'{"i": %d}' % n, partition=n % partitions) for n in numbers)

    def source(self, settings: Settings | None = None, **more: Any) -> closing[KafkaSource]:
        kafka = KafkaSettings(self.address, **({"topic": self.name} | more))
        return closing(KafkaSource(self.name, kafka, settings or Settings()))

    async def _send(self, messages: Sequence[Message]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.address, linger_ms=5) as producer:
            for m in messages:
                await producer.send(
                    self.name, m.value, m.key, m.partition, timestamp_ms=m.timestamp_ms, headers=list(m.headers)
                )


Make = Callable[..., Topic]


@pytest.fixture
def make(kafka: Kafka) -> Make:
    return lambda partitions=1, **config: made(kafka.address, partitions, **config)


def made(address: str, partitions: int = 1, name: str | None = None, **config: str) -> Topic:
    name = name or f"t-{uuid.uuid4().hex[:8]}"
    settings = {key.replace("_", "."): value for key, value in config.items()}

    async def create(admin: AIOKafkaAdminClient) -> None:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])

    administer(address, create)
    return Topic(address, name)


def administer(address: str, act: Callable[[AIOKafkaAdminClient], Any]) -> None:
    async def run() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        try:
            await act(admin)
        finally:
            await admin.close()

    asyncio.run(run())


@contextmanager
def reading(source: KafkaSource, start: From | None, task: int = 0, tasks: int = 1) -> Iterator[Reader]:
    with closing(source.open(start, task, tasks)) as reader:
        yield reader


def read(reader: Reader, count: int) -> list[Rows]:
    """Polls until so many events have come, and once more to see that no more come."""
    found: list[Rows] = []
    deadline = time.monotonic() + PATIENCE_S
    while sum(one.table.num_rows for one in found) < count:
        assert time.monotonic() < deadline, f"only {sum(one.table.num_rows for one in found)} of {count} came"
        found += rows(reader.poll(POLL_S, BYTES))
    return found + rows(reader.poll(0, BYTES))


def rows(items: Iterable[Raw]) -> list[Rows]:
    found = list(items)
    assert all(isinstance(one, Rows) for one in found)
    return [one for one in found if isinstance(one, Rows)]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"


def numbers(found: Iterable[Raw]) -> list[int]:
    return [json.loads(text)["i"] for one in rows(found) for text in one.table.column("_raw").to_pylist()]


def column(found: Iterable[Rows], name: str) -> list[Any]:
    return [value for one in found for value in one.table.column(name).to_pylist()]


# --- what a message becomes --------------------------------------------------------------------------


def test_a_message_is_its_value_with_offset_and_time(make: Make) -> None:
    topic = make()
    topic.send([Message(b'{"i": 1}', timestamp_ms=1_000), Message(b'{"i": 2}', timestamp_ms=2_000)])
    with topic.source() as source, reading(source, From()) as reader:
        (batch,) = read(reader, 2)
        assert batch.table.schema.names == ["_raw", "_offset", "_time"]
        assert column([batch], "_raw") == ['{"i": 1}', '{"i": 2}']
        assert column([batch], "_offset") == [0, 1]
        assert column([batch], "_time") == [1_000_000, 2_000_000]
        assert (batch.split, batch.next_offset) == (0, 2)
        assert reader.positions == {0: 2}
        assert reader.trouble is None
        assert not reader.ended


def test_the_envelope_comes_as_columns_where_it_is_asked_for(make: Make) -> None:
    topic = make()
    topic.send(
        [
            Message(b"{}", b"k1", timestamp_ms=1_000, headers=(("trace", b"a"), ("trace", b"b"), ("raw", b"\xff"))),
            Message(b"{}"),
        ]
    )
    envelope = ("key", "headers", "partition", "_kafka_topic", "timestamp")
    with topic.source(envelope=envelope) as source:
        assert [one.name for one in source.info.envelope] == [
            "_kafka_key", "_kafka_headers", "_kafka_partition", "_kafka_topic", "_kafka_timestamp",
        ]  # fmt: skip
        assert source.info.shape.type_of(("_kafka_key",)) == VARCHAR
        found = [one for one in source.history(From()) if isinstance(one, Rows)]
        assert column(found, "_kafka_key") == ["k1", None]
        assert column(found, "_kafka_headers") == [r'{"trace":"b","raw":"\\xff"}', "{}"]
        assert column(found, "_kafka_partition") == [0, 0]
        assert column(found, "_kafka_topic") == [topic.name] * 2
        assert column(found, "_kafka_timestamp")[0].isoformat() == "1970-01-01T00:00:01"
        (batch,) = rows(source.history(From(), columns=["i", "_kafka_key"]))
        assert batch.table.schema.names == ["_raw", "_offset", "_time", "_kafka_key"]


def test_a_value_that_is_not_utf8_can_never_pass_as_an_event(make: Make) -> None:
    topic = make()
    topic.send([Message(b'{"i": 1}'), Message(b'{"i": "\xff"}'), Message(b'{"i": "\xc3\xa4"}')])
    with topic.source() as source, reading(source, From()) as reader:
        good, bad, umlaut = column(read(reader, 3), "_raw")
        assert (good, umlaut) == ('{"i": 1}', '{"i": "ä"}')
        assert bad == r'not UTF-8 at byte 7: {"i": "\xff"}'
        with pytest.raises(json.JSONDecodeError):
            json.loads(bad)


def test_a_tombstone_is_no_event_but_positions_pass_it(make: Make) -> None:
    topic = make()
    topic.send([Message(b'{"i": 1}'), Message(None, b"gone"), Message(b'{"i": 2}'), Message(None, b"gone")])
    with topic.source() as source, reading(source, From()) as reader:
        found = read(reader, 2)
        assert column(found, "_offset") == [0, 2]
        assert source.tombstones == 2
        assert reader.positions == {0: 4} == source.end()


def test_samples_are_the_newest_values_and_teach_the_shape(make: Make) -> None:
    topic = make(2)
    topic.events(range(100), partitions=2)
    with topic.source() as source:
        assert sorted(json.loads(one)["i"] for one in source.sample(10)) == list(range(90, 100))
        assert source.info.shape.type_of(("i",)) == BIGINT
        assert (source.info.splits, source.info.history, source.info.kind) == (2, True, "kafka")
    with topic.source(Settings(shape=Shape((Field("i", VARCHAR),)))) as source:
        assert source.info.shape.type_of(("i",)) == VARCHAR


# --- where a reader begins ---------------------------------------------------------------------------


def test_without_a_start_only_what_comes_from_now_on(make: Make) -> None:
    topic = make()
    topic.events(range(5))
    with topic.source() as source, reading(source, None) as reader:
        assert reader.positions == {0: 5}
        topic.events(range(5, 8))
        assert numbers(read(reader, 3)) == [5, 6, 7]
    with topic.source(start="earliest") as source, reading(source, None) as reader:
        assert numbers(read(reader, 8)) == list(range(8))


def test_a_reader_begins_at_the_positions_it_is_given(make: Make) -> None:
    topic = make(2)
    topic.events(range(10), partitions=2)
    with topic.source() as source, reading(source, From({0: 3, 1: 4})) as reader:
        assert reader.positions == {0: 3, 1: 4}
        assert sorted(numbers(read(reader, 3))) == [6, 8, 9]
    with topic.source() as source, reading(source, From({0: 5})) as reader:
        assert sorted(numbers(read(reader, 5))) == [1, 3, 5, 7, 9]


def test_a_time_is_looked_for_with_room_for_lateness_and_slack(make: Make) -> None:
    # ms        1000  2000  3000 ... 20000
    # asked for 12000, lateness 5 s, slack 2 s: from 5000 on
    topic = make()
    topic.send(Message(b'{"i": %d}' % n, timestamp_ms=n * 1000) for n in range(1, 21))
    with topic.source(history_slack_s=2) as source:
        since = From(time_us=12_000_000)
        assert numbers(source.history(since)) == list(range(5, 21))
        with reading(source, since) as reader:
            assert numbers(read(reader, 16)) == list(range(5, 21))
        with reading(source, From(time_us=60_000_000)) as reader:
            assert reader.positions == {0: 20}


def test_tasks_share_the_partitions(make: Make) -> None:
    topic = make(3)
    topic.events(range(30), partitions=3)
    with topic.source() as source, reading(source, From(), 0, 2) as first, reading(source, From(), 1, 2) as second:
        assert (first.splits, second.splits) == ((0, 2), (1,))
        assert sorted(numbers(read(first, 20)) + numbers(read(second, 10))) == list(range(30))
    with topic.source() as source, reading(source, From(), 3, 4) as idle:
        assert idle.poll(0, BYTES) == ()
        assert (idle.splits, idle.trouble) == ((), None)


def test_several_topics_are_one_source(make: Make) -> None:
    one, two = make(), make(2)
    one.events([1, 2])
    two.events([3, 4], partitions=2)
    with one.source(topic=(one.name, two.name)) as source, reading(source, From()) as reader:
        assert sorted(numbers(read(reader, 4))) == [1, 2, 3, 4]
        assert reader.positions == {0: 2, 100_000: 1, 100_001: 1} == source.end()


def test_partitions_that_are_added_are_read_from_their_beginning(make: Make) -> None:
    topic = make()
    with topic.source(metadata_refresh_s=0.2) as source, reading(source, None) as reader:
        topic.events([0])

        async def grow(admin: AIOKafkaAdminClient) -> None:
            await admin.create_partitions({topic.name: NewPartitions(2)})

        administer(topic.address, grow)
        topic.send([Message(b'{"i": 1}', partition=1)])
        assert sorted(numbers(read(reader, 2))) == [0, 1]
        assert reader.splits == (0, 1)


# --- history -----------------------------------------------------------------------------------------


def test_history_ends_where_the_log_ended_when_it_was_called(make: Make) -> None:
    topic = make(4)  # partition 3 stays empty
    topic.send(Message(b'{"i": %d}' % n, partition=n % 3) for n in range(3000))
    with topic.source() as source:
        stored = source.history(From())
        topic.events([9999], partitions=1)
        found = rows(stored)
        assert sorted(numbers(found)) == list(range(3000))
        for split in range(3):
            offsets = column([one for one in found if one.split == split], "_offset")
            assert offsets == list(range(1000))


def test_history_is_exact_between_positions_and_in_parts(make: Make) -> None:
    topic = make(3)
    topic.events(range(300), partitions=3)
    with topic.source() as source:
        between = numbers(source.history(From({0: 10, 1: 99, 2: 0}), {0: 20, 1: 100, 2: 0}))
        assert sorted(between) == sorted([*range(30, 60, 3), 298])
        parts = [numbers(source.history(From(), part=part, parts=2)) for part in range(2)]
        assert [len(one) for one in parts] == [200, 100]
        assert sorted(itertools.chain(*parts)) == list(range(300))
        assert numbers(source.history(From(source.end()))) == []
        assert numbers(source.history(From(), {})) == []


def test_history_and_live_meet_without_a_gap(make: Make) -> None:
    topic = make(2)
    topic.events(range(100), partitions=2)
    with topic.source() as source, reading(source, None) as reader:
        seam = dict(reader.positions)
        topic.events(range(100, 150), partitions=2)
        assert sorted(numbers(source.history(From(), seam)) + numbers(read(reader, 50))) == list(range(150))


def test_a_compacted_topic_has_gaps_and_still_ends(make: Make) -> None:
    topic = make(
        cleanup_policy="compact", segment_ms="50", min_cleanable_dirty_ratio="0.01", max_compaction_lag_ms="100"
    )
    first_ms = round(time.time() * 1000) - 60_000  # a segment ends where a message is 50 ms newer than its first
    for n in range(3):
        topic.send(
            Message(b'{"i": %d}' % (n * 10 + k), b"key%d" % k, timestamp_ms=first_ms + n * 100) for k in range(10)
        )
    topic.send([Message(b'{"i": 99}', b"last")])
    with topic.source() as source:
        until(lambda: len(numbers(source.history(From()))) == 11)
        found = rows(source.history(From()))
        assert numbers(found) == [*range(20, 30), 99]
        assert column(found, "_offset") == list(range(20, 31))
        assert found[-1].next_offset == 31
        assert numbers(source.history(From({0: 5}), {0: 25})) == [20, 21, 22, 23, 24]


def test_a_log_whose_tail_was_taken_away_is_read_to_its_end() -> None:
    # The last offset is 10 and nothing is left after 4: answers come, and nothing with them.
    partition = TopicPartition("t", 0)
    tails = Tails({partition: 10})
    for answer in range(5):
        assert tails.reached({partition: 4}) == ()
        tails.see({partition: 4}, answer)
    assert not tails.left
    tails = Tails({partition: 10})
    for at in range(10):
        tails.see({partition: at}, at)
        assert tails.left
    assert tails.reached({partition: 10}) == (partition,)


# --- transactions ------------------------------------------------------------------------------------


def test_only_committed_transactions_are_read(make: Make) -> None:
    topic = make()

    async def transactions() -> None:
        options = {"bootstrap_servers": topic.address, "transactional_id": topic.name}
        async with AIOKafkaProducer(**options) as producer:
            for n, good in ((1, True), (2, False), (3, True), (4, False)):
                await producer.begin_transaction()
                await producer.send_and_wait(topic.name, b'{"i": %d}' % n)
                await (producer.commit_transaction() if good else producer.abort_transaction())

    asyncio.run(transactions())
    with topic.source() as source, reading(source, From()) as reader:
        assert numbers(source.history(From())) == [1, 3]  # the log ends with a marker
        found = read(reader, 2)
        assert numbers(found) == [1, 3]
        until(lambda: not reader.poll(POLL_S, BYTES) and reader.positions == {0: 8})
        assert source.end() == {0: 8}
    with topic.source(isolation_level="read_uncommitted") as source:
        assert numbers(source.history(From())) == [1, 2, 3, 4]


def test_an_open_transaction_holds_back_what_follows_it(make: Make) -> None:
    topic = make()

    async def transaction(source: KafkaSource, reader: Reader) -> None:
        options = {"bootstrap_servers": topic.address, "transactional_id": topic.name}
        async with AIOKafkaProducer(**options) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic.name, b'{"i": 1}')
            await topic._send([Message(b'{"i": 2}')])
            assert await asyncio.to_thread(reader.poll, POLL_S, BYTES) == ()
            assert await asyncio.to_thread(source.end) == {0: 0}
            assert await asyncio.to_thread(lambda: numbers(source.history(From()))) == []
            await producer.commit_transaction()

    with topic.source() as source, reading(source, From()) as reader:
        asyncio.run(transaction(source, reader))
        assert numbers(read(reader, 2)) == [1, 2]


# --- groups ------------------------------------------------------------------------------------------


def test_a_group_reads_each_message_once_while_members_come_and_go(make: Make) -> None:
    topic = make(4)
    topic.events(range(1000), partitions=4)
    options: dict[str, Any] = {"group": topic.name, "start": "earliest", "session_timeout_s": 6.0}
    with topic.source(**options) as source:
        first = source.open(None)
        found = numbers(first.poll(POLL_S, 1000))  # a little of it
        second = background(lambda: source.open(None))
        while not second.done():
            found += numbers(first.poll(0.05, 1000))
        joined = second.result()
        topic.events(range(1000, 1400), partitions=4)
        until(lambda: bool(extend(found, first, joined)) or (len(first.splits), len(joined.splits)) == (2, 2))
        first.close()
        topic.events(range(1400, 2000), partitions=4)
        until(lambda: bool(extend(found, joined)) and len(found) >= 2000)
        extend(found, joined)
        assert joined.splits == (0, 1, 2, 3)
        joined.close()
        assert sorted(found) == list(range(2000))
        topic.events([2000])
        with reading(source, None) as later:
            assert numbers(read(later, 1)) == [2000]
        with reading(source, From()) as beside:
            assert len(numbers(read(beside, 2001))) == 2001


def extend(found: list[int], *readers: Reader) -> list[int]:
    for reader in readers:
        found += numbers(reader.poll(0.02, 2000))
    return found


def background(act: Callable[[], Any]) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    future = pool.submit(act)
    pool.shutdown(wait=False)
    return future


# --- a world that is away ----------------------------------------------------------------------------


def test_a_broker_that_goes_and_comes_back_costs_nothing(broker: Broker) -> None:
    topic = made(broker.address, 2)
    topic.events(range(1000), partitions=2)
    with topic.source(request_timeout_s=2) as source, reading(source, From()) as reader:
        found = numbers(reader.poll(5, 2000))
        assert 0 < len(found) < 1000
        broker.kill()
        until(lambda: bool(extend(found, reader)) and reader.trouble is not None)
        assert reader.trouble is not None
        assert "has not answered for" in reader.trouble
        with reading(source, None) as waiting:
            assert waiting.poll(0, BYTES) == ()
            assert waiting.trouble is not None
            assert "trying again" in waiting.trouble
            with pytest.raises(KafkaAway, match="asked for its end"):
                source.end()
            broker.start()
            until(lambda: not waiting.poll(POLL_S, BYTES) and waiting.trouble is None)
        topic.events(range(1000, 1200), partitions=2)
        while len(found) < 1200:
            found += numbers(reader.poll(POLL_S, 2000))
        found += numbers(reader.poll(POLL_S, 2000))
        assert sorted(found) == list(range(1200))
        assert reader.trouble is None
        broker.pause()
        until(lambda: not reader.poll(POLL_S, 2000) and reader.trouble is not None)
        broker.resume()
        topic.events(range(1200, 1300), partitions=2)
        assert sorted(numbers(read(reader, 100))) == list(range(1200, 1300))
        assert reader.trouble is None
        assert source.lost_offsets == 0


def test_what_retention_took_is_counted_and_told(make: Make) -> None:
    topic = make()
    topic.events(range(100))

    async def delete(admin: AIOKafkaAdminClient) -> None:
        await admin.delete_records({TopicPartition(topic.name, 0): RecordsToDelete(before_offset=40)})

    with topic.source() as source, reading(source, From({0: 10})) as reader:
        administer(topic.address, delete)
        with reading(source, From({0: 10})) as late:
            assert numbers(read(late, 60)) == list(range(40, 100))
            assert source.lost_offsets == 30
            assert late.trouble is not None
            assert "offsets 10 to 40" in late.trouble
        reader.poll(0, BYTES)
        assert numbers(source.history(From({0: 10}))) == list(range(40, 100))
        with reading(source, From({0: 500})) as beyond:
            until(lambda: not beyond.poll(POLL_S, BYTES) and beyond.trouble is not None)
            assert beyond.positions == {0: 100}


def test_a_topic_that_is_not_there_is_awaited_and_not_made(kafka: Kafka) -> None:
    topic = Topic(kafka.address, f"t-{uuid.uuid4().hex[:8]}")
    with topic.source(request_timeout_s=1) as source, reading(source, From()) as reader:
        assert reader.poll(0, BYTES) == ()
        assert reader.trouble is not None
        assert f'has no topic "{topic.name}"' in reader.trouble
        assert source.info.shape.open
        with pytest.raises(KafkaAway, match="has no topic"):
            source.end()
        made(kafka.address, 1, topic.name)
        topic.events([1])
        assert numbers(read(reader, 1)) == [1]


# --- security ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_and_a_password_open_the_door(kafka: Kafka, mechanism: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kafka.sasl_address is None:
        pytest.skip("the broker of MQL_TEST_KAFKA need not have a SASL listener; unset it to run this")
    topic = made(kafka.address)
    topic.events([1])
    monkeypatch.setenv("SECRET", PASSWORD)
    options: dict[str, Any] = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "username": USER,
        "request_timeout_s": 1.0,
    }
    inside = Topic(kafka.sasl_address, topic.name)
    with inside.source(**options, password_env="SECRET") as source:
        assert numbers(source.history(From())) == [1]
    with inside.source(**options, password="wrong") as source, reading(source, From()) as reader:
        assert reader.poll(0, BYTES) == ()
        assert reader.trouble is not None
        assert "wrong" not in reader.trouble


def test_tls_is_checked_against_the_ca(kafka: Kafka) -> None:
    if kafka.tls_address is None:
        pytest.skip("the broker of MQL_TEST_KAFKA need not have a TLS listener; unset it to run this")
    topic = made(kafka.address)
    topic.events([1])
    inside = Topic(kafka.tls_address, topic.name)
    with inside.source(security_protocol="SSL", ca_file=kafka.ca_file) as source:
        assert numbers(source.history(From())) == [1]
    with inside.source(security_protocol="SSL", request_timeout_s=1) as source, pytest.raises(KafkaAway):
        source.end()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topic": ()}, "needs a topic"),
        ({"envelope": ("kee",)}, 'no "_kafka_kee"'),
        ({"security_protocol": "SASL_SSL"}, "needs a username and one password"),
        ({"ca_file": "/nowhere.pem"}, 'no file "/nowhere.pem"'),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MqlError, match=message):
        KafkaSource("k", KafkaSettings(**({"bootstrap_servers": "127.0.0.1:1", "topic": "t"} | settings)))


def test_a_password_is_not_printed() -> None:
    assert "hush" not in repr(KafkaSettings("127.0.0.1:1", "t", password="hush"))
