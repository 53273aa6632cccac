"""Values in formats of their own, through a real broker and a real registry over HTTP, to rows."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from support.reading import await_true, read_all, read_rows, rows_of
from support.schema_registry import SchemaRegistry, framed, schema_registry

from mql.exec.engine import Engine
from sources.declared import declare

if TYPE_CHECKING:
    from support.kafka_fixture import Kafka

ONE = {
    "type": "record",
    "name": "Click",
    "fields": [{"name": "id", "type": "long"}, {"name": "page", "type": "string"}],
}
TWO = {**ONE, "fields": [*ONE["fields"], {"name": "took", "type": ["null", "double"], "default": None}]}
UNLIKE = {**ONE, "fields": [{"name": "id", "type": "string"}, {"name": "page", "type": "string"}]}


def avro(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


class Topic:
    """A topic of the test's own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = f"f-{uuid.uuid4().hex[:8]}"

    def send(self, values: Iterable[bytes | tuple[bytes | None, bytes | None] | None]) -> None:
        """Values, or keys and values, to the one partition."""

        async def run() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.address, linger_ms=5) as producer:
                for one in values:
                    key, value = one if isinstance(one, tuple) else (None, one)
                    await producer.send_and_wait(self.name, value, key)

        asyncio.run(run())


@pytest.fixture
def topic(kafka: Kafka) -> Topic:
    made = Topic(kafka.address)

    async def create() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(made.name, 1, 1)])
        finally:
            await admin.close()

    asyncio.run(create())
    return made


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


@contextmanager
def asking(topic: Topic, directory: Path, **said: Any) -> Iterator[Engine]:
    mapping = {"kind": "kafka", "bootstrap_servers": topic.address, "topic": topic.name, "start": "earliest", **said}
    with closing(Engine((declare("clicks", mapping, directory, data_dir=directory),))) as engine:
        yield engine


def answer(engine: Engine, text: str) -> list[dict[str, Any]]:
    return rows_of(read_all(engine.start(text).subscribe()))


def columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def test_avro_values_are_rows_live_in_history_and_over_the_seam(
    topic: Topic, registry: SchemaRegistry, tmp_path: Path
) -> None:
    number = registry.add(f"{topic.name}-value", json.dumps(ONE))
    topic.send(framed(number, avro(ONE, {"id": at, "page": f"/{at % 3}"})) for at in range(6))
    format = {"type": "avro", "registry": registry.url}
    with asking(topic, tmp_path, format=format) as engine:
        assert answer(engine, "SELECT id, page FROM clicks SINCE EARLIEST UNTIL NOW ORDER BY id") == [
            {"id": at, "page": f"/{at % 3}"} for at in range(6)
        ]
        live = engine.start("SELECT id FROM clicks SINCE EARLIEST")
        reading = live.subscribe()
        assert [row["id"] for row in read_rows(reading, 6)] == list(range(6))
        topic.send([framed(number, avro(ONE, {"id": 6, "page": "/6"}))])
        assert [row["id"] for row in read_rows(reading, 1)] == [6]
        live.cancel()
    assert registry.asked.count(f"/schemas/ids/{number}") <= 1  # what was fetched is kept


def test_a_query_is_checked_before_the_first_event(topic: Topic, registry: SchemaRegistry, tmp_path: Path) -> None:
    registry.add(f"{topic.name}-value", json.dumps(ONE))
    with asking(topic, tmp_path, format={"type": "avro", "registry": registry.url}) as engine:
        engine.validate("SELECT page, count(*) FROM clicks GROUP BY page")
        with pytest.raises(Exception, match='no property "pgae"'):
            engine.validate("SELECT pgae FROM clicks")


def test_a_new_schema_in_mid_stream_widens_the_shape(topic: Topic, registry: SchemaRegistry, tmp_path: Path) -> None:
    one = registry.add(f"{topic.name}-value", json.dumps(ONE))
    with asking(topic, tmp_path, format={"type": "avro", "registry": registry.url}) as engine:
        two = registry.add("elsewhere", json.dumps(TWO))
        unlike = registry.add("elsewhere", json.dumps(UNLIKE))
        old = engine.start("SELECT id FROM clicks SINCE EARLIEST")
        values = [
            framed(one, avro(ONE, {"id": 1, "page": "a"})),
            framed(two, avro(TWO, {"id": 2, "page": "b", "took": 0.5})),
            framed(unlike, avro(UNLIKE, {"id": "x", "page": "c"})),
            framed(one, avro(ONE, {"id": 4, "page": "d"})),
        ]
        topic.send(values)
        # An old plan keeps its types: what does not fit them is null.
        assert [row["id"] for row in read_rows(old.subscribe(), 4)] == [1, 2, None, 4]
        old.cancel()
        assert answer(engine, "SELECT page, took FROM clicks WHERE took > 0 SINCE EARLIEST UNTIL NOW") == [
            {"page": "b", "took": 0.5}
        ]
        info = engine.source("clicks").info
        assert {field.name: str(field.type) for field in info.shape.fields} == {
            "id": "JSON",
            "page": "VARCHAR",
            "took": "DOUBLE",
        }
        assert answer(engine, "SELECT page FROM clicks WHERE id = 'x' SINCE EARLIEST UNTIL NOW") == [{"page": "c"}]


def test_what_cannot_be_read_goes_to_the_dead_letters(topic: Topic, registry: SchemaRegistry, tmp_path: Path) -> None:
    one = registry.add(f"{topic.name}-value", json.dumps(ONE))
    good = framed(one, avro(ONE, {"id": 1, "page": "a"}))
    topic.send([good, b"{}", framed(99, b"abc"), framed(one, b"\x02"), (b"k", None), good])
    with asking(topic, tmp_path, format={"type": "avro", "registry": registry.url}) as engine:
        run = engine.start("SELECT id FROM clicks SINCE EARLIEST UNTIL NOW")
        assert rows_of(read_all(run.subscribe())) == [{"id": 1}, {"id": 1}]
        letters = {letter["offset"]: (letter["reason"], letter["text"]) for letter in engine.dead_letters("clicks")}
        assert letters[1] == ("it names no schema: the first byte is not 0", "{}")
        assert letters[2][0] == "schema 99 is not in the schema registry"
        assert letters[3][0] == "unexpected end of buffer"
        assert sorted(letters) == [1, 2, 3]
        assert run.ledger()["malformed"] == 3


def test_while_the_registry_is_away_a_query_waits_and_says_why(
    topic: Topic, registry: SchemaRegistry, tmp_path: Path
) -> None:
    registry.status = 503
    one = registry.add(f"{topic.name}-value", json.dumps(ONE))
    with asking(topic, tmp_path, format={"type": "avro", "registry": registry.url}) as engine:
        run = engine.start("SELECT * FROM clicks")
        reading = run.subscribe()
        topic.send([framed(one, avro(ONE, {"id": 7, "page": "z"}))])
        await_true(lambda: "answered 503" in str(run.status()["trouble"]))
        registry.status = None
        read_rows(reading, 1)
        assert engine.dead_letters("clicks") == ()
        run.cancel()


def test_keys_have_a_format_of_their_own(topic: Topic, registry: SchemaRegistry, tmp_path: Path) -> None:
    key = {"type": "record", "name": "K", "fields": [{"name": "shop", "type": "string"}, {"name": "n", "type": "int"}]}
    value = registry.add(f"{topic.name}-value", json.dumps(ONE))
    number = registry.add(f"{topic.name}-key", json.dumps(key))
    body = framed(value, avro(ONE, {"id": 1, "page": "a"}))
    topic.send([(framed(number, avro(key, {"shop": "s", "n": 5})), body), (None, body), (b"?", body)])
    format = {"type": "avro", "registry": registry.url}
    with asking(topic, tmp_path, format=format, key_format=format) as engine:
        assert answer(
            engine, "SELECT _kafka_key.shop AS shop, _kafka_key.n + 1 AS n FROM clicks SINCE EARLIEST UNTIL NOW"
        ) == [
            {"shop": "s", "n": 6},
            {"shop": None, "n": None},
        ]
        assert [one["reason"] for one in engine.dead_letters("clicks")] == [
            "its key: it names no schema: the first byte is not 0"
        ]


def test_what_is_recorded_is_the_bytes_and_reads_the_same(
    topic: Topic, registry: SchemaRegistry, tmp_path: Path
) -> None:
    one = registry.add(f"{topic.name}-value", json.dumps(ONE))
    two = registry.add("elsewhere", json.dumps(UNLIKE))
    format = {"type": "avro", "registry": registry.url}
    topic.send([framed(one, avro(ONE, {"id": 1, "page": "a"}))])
    text = "SELECT id::BIGINT AS id, page FROM clicks SINCE EARLIEST UNTIL NOW"
    with asking(topic, tmp_path, format=format, record=True, time={"field": "id", "unit": "s"}) as engine:
        topic.send([framed(two, avro(UNLIKE, {"id": "2", "page": "b"})), b"bad"])
        first = answer(engine, text)
    with asking(topic, tmp_path, format=format, record=True, time={"field": "id", "unit": "s"}) as engine:
        again = answer(engine, text)
        assert [one["reason"] for one in engine.dead_letters("clicks")] == [
            "it names no schema: the first byte is not 0"
        ]
    assert first == again == [{"id": 1, "page": "a"}, {"id": 2, "page": "b"}]


def test_protobuf_messages_name_their_type(topic: Topic, registry: SchemaRegistry, tmp_path: Path) -> None:
    shared = 'syntax = "proto3"; package shop; message Place { string city = 1; }'
    text = """syntax = "proto3"; package shop; import "place.proto";
    message Other { int64 n = 1; message Inner { string s = 1; } }
    message Order { int64 id = 1; Place place = 2; map<string, int64> counts = 3; }"""
    registry.add("place", shared, "PROTOBUF")
    number = registry.add(
        f"{topic.name}-value",
        text,
        "PROTOBUF",
        [{"name": "place.proto", "subject": "place", "version": 1}],
    )
    order = b"\x08\x07\x12\x06\x0a\x04Rome\x1a\x05\x0a\x01a\x10\x02"
    topic.send([framed(number, order, b"\x02\x02"), framed(number, b"\x0a\x01x", b"\x04\x00\x00")])
    with asking(topic, tmp_path, format={"type": "protobuf", "registry": registry.url}) as engine:
        found = answer(
            engine, "SELECT id, place.city AS city, counts['a']::BIGINT AS a, s FROM clicks SINCE EARLIEST UNTIL NOW"
        )
        assert found == [
            {"id": 7, "city": "Rome", "a": 2, "s": None},
            {"id": None, "city": None, "a": None, "s": "x"},
        ]


def test_json_of_a_registry_has_the_shape_of_its_schema(topic: Topic, registry: SchemaRegistry, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}},
    }
    number = registry.add(f"{topic.name}-value", json.dumps(schema), "JSON")
    topic.send([framed(number, b'{"id": 3, "tags": ["a"]}'), framed(number, b"{")])
    with asking(topic, tmp_path, format={"type": "json", "registry": registry.url}) as engine:
        assert answer(engine, "SELECT id, tags[0] AS tag FROM clicks SINCE EARLIEST UNTIL NOW") == [
            {"id": 3, "tag": "a"}
        ]
        assert [letter["reason"] for letter in engine.dead_letters("clicks")] == ["not JSON"]


def test_headers_and_text_keys_come_beside(topic: Topic, tmp_path: Path) -> None:
    topic.send([(b"k1", b"1,x"), (None, b"2,"), (b"k3", b"3")])
    format = {"type": "csv", "columns": {"n": "BIGINT", "name": "VARCHAR"}}
    with asking(topic, tmp_path, format=format, envelope=["key", "headers"]) as engine:
        assert answer(
            engine, "SELECT n, name, _kafka_key AS k, _kafka_headers AS h FROM clicks SINCE EARLIEST UNTIL NOW"
        ) == [
            {"n": 1, "name": "x", "k": "k1", "h": "{}"},
            {"n": 2, "name": None, "k": None, "h": "{}"},
        ]
        assert [letter["reason"] for letter in engine.dead_letters("clicks")] == ["1 cells instead of 2"]


def test_messagepack_is_learned_from_events(topic: Topic, tmp_path: Path) -> None:
    topic.send([b"\x82\xa1a\x01\xa1b\xa1x", b"\xc1", b"\x05"])
    with asking(topic, tmp_path, format="msgpack") as engine:
        assert answer(engine, "SELECT a + 1 AS a, b FROM clicks SINCE EARLIEST UNTIL NOW") == [{"a": 2, "b": "x"}]
        assert len(engine.dead_letters("clicks")) == 2
