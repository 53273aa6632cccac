"""Sinks by themselves: each portion is there once, whatever happens between writing it and knowing that."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced
from support.kafka_fixture import Kafka
from support.postgres import postgres, why_not

from mql.exec.clock import ManualClock
from sources.kafka.settings import KafkaSettings
from sources.kafka.source import KafkaSource
from sources.sinks.contract import Away, Fenced, Portion, Refused, Sink
from sources.sinks.duck import DuckSink, DuckTarget
from sources.sinks.kafka import KafkaSink, KafkaTarget
from sources.sinks.parquet import Layout, ParquetSink
from sources.sinks.postgres import PostgresSink, PostgresTarget

pytest_plugins = ["support.kafka_fixture"]

HOUR_US = 3_600_000_000


def portion(first: int, *rows: dict[str, Any], schema: pa.Schema | None = None) -> Portion:
    return Portion(pa.Table.from_pylist(list(rows), schema=schema), first, first + len(rows))


def numbers(first: int, last: int) -> Portion:
    return portion(first, *({"n": n} for n in range(first, last)))


KEYED = pa.schema([("k", pa.string()), ("n", pa.int64()), ("_key", pa.string()), ("_op", pa.string())])


def keyed(first: int, *rows: tuple[str, int, str]) -> Portion:
    """Rows (k, n, op) whose key is k."""
    return portion(first, *({"k": k, "n": n, "_key": k, "_op": op} for k, n, op in rows), schema=KEYED)


# --- Parquet -------------------------------------------------------------------------------------------------


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home / "out")) for path in (home / "out").rglob("*") if path.is_file())


def rows_in(home: Path) -> list[Any]:
    found = [row for path in (home / "out").rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(row["n"] for row in found)


def parquet(home: Path, clock: ManualClock, **layout: Any) -> ParquetSink:
    return ParquetSink(home / "out", "job", Layout(**layout), home / "place.json", clock)


def test_files_appear_whole_by_time_and_by_the_hour_of_their_rows(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = parquet(tmp_path, clock, seconds=10)
    assert sink.open() == 0
    moments = pa.array([0, HOUR_US - 1, HOUR_US], pa.timestamp("us"))
    sink.write(Portion(pa.table({"n": [1, 2, 3], "window_start": moments}), 0, 3))
    assert all(name.endswith(".draft") for name in files(tmp_path))
    clock.advance(10_000_000)
    sink.idle()
    assert files(tmp_path) == [
        "hour=1970-01-01T00/job-000000000000-000.parquet",
        "hour=1970-01-01T01/job-000000000000-001.parquet",
    ]
    assert sink.told() == {"path": "out", "files": 2, "waiting": 0}
    assert rows_in(tmp_path) == [1, 2, 3]


def test_files_are_rolled_by_size_too(tmp_path: Path) -> None:
    sink = parquet(tmp_path, ManualClock(), by="none", bytes=2_000)
    sink.open()
    for at in range(20):
        sink.write(numbers(at * 500, at * 500 + 500))
    assert len([name for name in files(tmp_path) if name.endswith(".parquet")]) > 1


def test_what_was_not_finished_when_it_was_killed_comes_again(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = parquet(tmp_path, clock, by="none", seconds=1)
    sink.open()
    sink.write(numbers(0, 10))
    clock.advance(1_000_000)
    sink.idle()
    sink.write(numbers(10, 20))
    again = parquet(tmp_path, clock, by="none", seconds=1)
    assert again.open() == 10
    again.write(numbers(10, 25))
    clock.advance(1_000_000)
    again.idle()
    assert rows_in(tmp_path) == list(range(25))
    assert len(files(tmp_path)) == 2


def test_renames_that_a_crash_has_left_are_done(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = parquet(tmp_path, clock, by="none", seconds=1)
    sink.open()
    sink.write(numbers(0, 10))
    clock.advance(1_000_000)
    sink.idle()
    [final] = (tmp_path / "out").rglob("*.parquet")
    final.rename(final.with_name(f".{final.name}.draft"))  # as if it had been killed just before the rename
    assert parquet(tmp_path, clock).open() == 10
    assert rows_in(tmp_path) == list(range(10))


def test_more_hours_than_files_may_be_open(tmp_path: Path) -> None:
    sink = parquet(tmp_path, ManualClock(), seconds=0)
    sink.open()
    moments = pa.array([at * HOUR_US for at in range(100)], pa.timestamp("us"))
    sink.write(Portion(pa.table({"n": list(range(100)), "window_start": moments}), 0, 100))
    assert rows_in(tmp_path) == list(range(100))


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.raises(Away, match="Parquet cannot be written"):
        parquet(tmp_path, ManualClock()).open()


# --- tables --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    missing = why_not()
    if missing is not None:
        pytest.skip(missing)
    with postgres() as url:
        yield url


class Tables:
    """A sink into a table, and what is in the table."""

    def __init__(self, kind: str, at: str) -> None:
        self.kind = kind
        self.at = at
        self.table = f"t{uuid4().hex[:8]}"

    def sink(self, key: tuple[str, ...] = ()) -> Sink:
        if self.kind == "duckdb":
            return DuckSink(Path(self.at), DuckTarget(self.table, key), self.table)
        return PostgresSink(self.at, PostgresTarget(self.table, key), self.table)

    def run(self, sql: str) -> None:
        if self.kind == "duckdb":
            with duckdb.connect(self.at) as connection:
                connection.execute(sql)
            return
        engine = sa.create_engine(self.at)
        with engine.begin() as connection:
            connection.execute(sa.text(sql))
        engine.dispose()

    def rows(self, columns: str = "*") -> list[tuple[Any, ...]]:
        sql = f"SELECT {columns} FROM {self.table} ORDER BY 1"
        if self.kind == "duckdb":
            with duckdb.connect(self.at) as connection:
                return list(connection.execute(sql).fetchall())
        engine = sa.create_engine(self.at)
        with engine.connect() as connection:
            found = [tuple(row) for row in connection.execute(sa.text(sql))]
        engine.dispose()
        return found


@pytest.fixture(params=["duckdb", "postgres"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Tables:
    at = str(tmp_path / "out.duckdb") if request.param == "duckdb" else request.getfixturevalue("database")
    return Tables(request.param, at)


def test_rows_without_a_key_are_appended_once(tables: Tables) -> None:
    sink = tables.sink()
    assert sink.open() == 0
    sink.write(numbers(0, 3))
    sink.close()
    again = tables.sink()
    assert again.open() == 3
    again.write(numbers(3, 5))
    with pytest.raises(Away):
        again.write(numbers(3, 5))
    again.close()
    assert tables.rows() == [(0,), (1,), (2,), (3,), (4,)]


def test_the_last_word_on_each_key_is_what_is_there(tables: Tables) -> None:
    sink = tables.sink()
    sink.open()
    sink.write(keyed(0, ("a", 1, "insert"), ("b", 1, "insert"), ("a", 2, "update"), ("c", 9, "insert")))
    sink.write(keyed(4, ("b", 5, "update"), ("c", 9, "delete"), ("d", 1, "insert"), ("d", 1, "delete")))
    sink.close()
    assert tables.rows("k, n") == [("a", 2), ("b", 5)]


def test_a_key_may_be_named(tables: Tables) -> None:
    sink = tables.sink(("a", "b"))
    sink.open()
    sink.write(portion(0, {"a": 1, "b": "x", "n": 1}, {"a": 1, "b": "y", "n": 2}))
    sink.write(portion(2, {"a": 1, "b": "x", "n": 3}))
    sink.close()
    assert tables.rows("b, n") == [("x", 3), ("y", 2)]


def test_new_columns_are_added_and_odd_values_kept(tables: Tables) -> None:
    sink = tables.sink()
    sink.open()
    sink.write(portion(0, {"n": 1}))
    moment = pa.array([1_000_000], pa.timestamp("us"))
    odd = {"n": [2], "at time": moment, 'a"b:c': ["x"], "list": [[1, 2]], "struct": [{"a": 1.5}], "yes": [True]}
    sink.write(Portion(pa.table(odd), 1, 2))
    sink.close()
    first, second = tables.rows()
    assert first == (1, None, None, None, None, None)
    assert (second[0], second[2], second[3], second[4], second[5]) == (2, "x", [1, 2], {"a": 1.5}, True)
    assert second[1].timestamp() == 1 if second[1].tzinfo else str(second[1]) == "1970-01-01 00:00:01"


def test_a_second_writer_does_not_write_what_the_first_has(tables: Tables) -> None:
    first, second = tables.sink(), tables.sink()
    assert (first.open(), second.open()) == (0, 0)
    first.write(numbers(0, 3))
    with pytest.raises(Away):
        second.write(numbers(0, 3))
    first.close()
    second.close()
    assert len(tables.rows()) == 3


@pytest.mark.parametrize(("column", "bad"), [("n INTEGER", 2**40), ("n INTEGER CHECK (n < 10)", 10)])
def test_a_row_that_the_table_cannot_hold_is_refused_and_nothing_of_its_portion_is_there(
    tables: Tables, column: str, bad: int
) -> None:
    tables.run(f"CREATE TABLE {tables.table} ({column}, m BIGINT NOT NULL)")
    sink = tables.sink()
    sink.open()
    good = {"n": 1, "m": 1}
    for poison in ({"n": bad, "m": 1}, {"n": 1, "m": None}):
        with pytest.raises(Refused) as caught:
            sink.write(portion(0, good, poison, good))
        assert list(caught.value.rows) == [1]
    assert tables.rows() == []
    sink.write(portion(0, good))
    sink.close()
    assert tables.rows() == [(1, 1)]


def test_postgres_takes_texts_that_it_has_no_place_for(database: str) -> None:
    tables = Tables("postgres", database)
    sink = tables.sink()
    sink.open()
    schema = pa.schema([("t", pa.string()), ("at", pa.timestamp("us"))])
    sink.write(Portion(pa.table({"t": ["a\x00b"], "at": pa.array([2**62], pa.timestamp("us"))}, schema=schema), 0, 1))
    sink.close()
    assert tables.rows() == [("a\ufffdb", None)]


def test_a_database_that_is_away_is_told_without_its_password() -> None:
    sink = PostgresSink("postgresql+psycopg://me:hush@127.0.0.1:1/x", PostgresTarget("t"), "x")
    with pytest.raises(Away) as caught:
        sink.open()
    sink.close()
    assert "PostgreSQL" in str(caught.value)
    assert "hush" not in str(caught.value)


# --- Kafka ---------------------------------------------------------------------------------------------------


def kafka_sink(kafka: Kafka, topic: str, **target: Any) -> KafkaSink:
    return KafkaSink(KafkaSettings(kafka.address, topic), KafkaTarget(topic, **target), f"job-{topic}", texts)


def texts(rows: pa.Table) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows.to_pylist()]


def messages(kafka: Kafka, topic: str) -> list[Any]:
    """What is committed in the topic."""
    source = KafkaSource("x", KafkaSettings(kafka.address, topic))
    try:
        return sorted(json.loads(text)["n"] for text in source.sample(100_000))
    finally:
        source.close()


def new_topic() -> str:
    return f"sink-{uuid4().hex[:8]}"


def test_a_transaction_holds_the_rows_and_the_place(kafka: Kafka) -> None:
    topic = new_topic()
    sink = kafka_sink(kafka, topic)
    assert sink.open() == 0
    sink.write(numbers(0, 500))
    sink.write(numbers(500, 700))
    sink.close()
    again = kafka_sink(kafka, topic)
    assert again.open() == 700
    again.close()
    assert messages(kafka, topic) == list(range(700))


def test_what_was_begun_and_not_committed_is_never_seen(kafka: Kafka) -> None:
    topic = new_topic()
    sink = kafka_sink(kafka, topic)
    sink.open()
    sink.write(numbers(0, 10))
    producer, loop = sink._producer, sink._loop
    assert producer is not None
    assert loop is not None

    async def half() -> None:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b'{"n": 999}')

    loop.run(half())
    again = kafka_sink(kafka, topic)
    assert again.open() == 10
    again.write(numbers(10, 20))
    sink.close()
    again.close()
    assert messages(kafka, topic) == list(range(20))


def test_a_second_worker_shuts_the_first_out(kafka: Kafka) -> None:
    topic = new_topic()
    first, second = kafka_sink(kafka, topic), kafka_sink(kafka, topic)
    first.open()
    first.write(numbers(0, 10))
    assert second.open() == 10
    second.write(numbers(10, 20))
    with pytest.raises(Fenced, match="another server writes for this job now"):
        first.write(numbers(10, 20))
    first.close()
    second.close()
    assert messages(kafka, topic) == list(range(20))


def test_a_transaction_that_kafka_gave_up_comes_again(kafka: Kafka) -> None:
    topic = new_topic()
    settings = KafkaSettings(kafka.address, topic)
    sink = KafkaSink(settings, KafkaTarget(topic), f"job-{topic}", texts, transaction_s=0.5)
    sink.open()
    sink.write(numbers(0, 10))
    producer, loop = sink._producer, sink._loop
    assert producer is not None
    assert loop is not None

    async def half() -> None:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b'{"n": 999}')

    loop.run(half())
    with closing(KafkaSource("x", settings)) as source:
        until_s = time.monotonic() + 60
        while sum(source.end().values()) < 13:  # ten rows and a marker, one row and a marker
            assert time.monotonic() < until_s, "Kafka did not give it up"
    with pytest.raises((ProducerFenced, InvalidProducerEpoch)):
        loop.run(producer.commit_transaction())
    with pytest.raises(Away):
        sink.write(numbers(10, 20))
    sink.close()
    assert sink.open() == 10
    sink.write(numbers(10, 20))
    sink.close()
    assert messages(kafka, topic) == list(range(20))


def test_who_is_shut_out_by_one_that_wrote_nothing_goes_on(kafka: Kafka) -> None:
    topic = new_topic()
    first, second = kafka_sink(kafka, topic), kafka_sink(kafka, topic)
    first.open()
    first.write(numbers(0, 10))
    second.open()
    second.close()
    with pytest.raises(Away, match="has given up the transaction"):
        first.write(numbers(10, 20))
    first.close()
    assert first.open() == 10
    first.write(numbers(10, 20))
    first.close()
    assert messages(kafka, topic) == list(range(20))


def test_keys_and_rows_that_delete(kafka: Kafka) -> None:
    sink = kafka_sink(kafka, new_topic(), tombstones=True)
    rows = keyed(0, ("a", 1, "insert"), ("b", 1, "delete")).rows
    assert sink._keys(rows) == [b"a", b"b"]
    assert sink._values(rows)[1] is None


def test_a_broker_that_is_away_is_told() -> None:
    settings = KafkaSettings("127.0.0.1:1", "t", request_timeout_s=0.2)
    sink = KafkaSink(settings, KafkaTarget("t"), "job", texts)
    with pytest.raises(Away, match=r"Kafka at 127\.0\.0\.1:1, connecting"):
        sink.open()
    sink.close()


def test_a_place_that_kafka_has_forgotten_is_known_beside(kafka: Kafka, tmp_path: Path) -> None:
    topic, beside = new_topic(), tmp_path / "place"
    settings, target = KafkaSettings(kafka.address, topic), KafkaTarget(topic)
    sink = KafkaSink(settings, target, f"job-{topic}", texts, beside)
    assert sink.open() == 0
    sink.write(numbers(0, 10))
    sink.close()
    forgotten = KafkaSink(settings, target, f"other-{topic}", texts, beside)
    assert forgotten.open() == 10
    forgotten.close()


def test_a_message_that_is_too_large_is_named_and_the_others_are_written(kafka: Kafka) -> None:
    topic = new_topic()
    sink = kafka_sink(kafka, topic)
    sink.open()
    rows = [{"n": 0, "t": ""}, {"n": 1, "t": "x" * (1 << 20)}, {"n": 2, "t": ""}]
    with pytest.raises(Refused, match="more than 1,048,576 bytes") as caught:
        sink.write(portion(0, *rows))
    assert list(caught.value.rows) == [1]
    sink.write(Portion(portion(0, rows[0], rows[2]).rows, 0, 3))
    sink.close()
    again = kafka_sink(kafka, topic)
    assert again.open() == 3
    again.close()
    assert messages(kafka, topic) == [0, 2]


def test_what_the_broker_refuses_ends_the_transaction_and_the_next_is_written(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sources.sinks.kafka.MESSAGE_BYTES_MAX", 4 << 20)
    topic = new_topic()
    sink = kafka_sink(kafka, topic)
    sink.open()
    with pytest.raises(Refused, match="the broker refuses it"):
        sink.write(portion(0, {"n": 0, "t": ""}, {"n": 1, "t": "x" * (2 << 20)}))
    sink.write(portion(0, {"n": 0, "t": ""}))
    sink.write(Portion(pa.table({"n": pa.array([], pa.int64())}), 1, 2))
    sink.close()
    assert messages(kafka, topic) == [0]
