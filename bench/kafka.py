"""How many events a second go through Kafka into a windowed aggregate, and what limits it.

    python bench/kafka.py [events]

Against a real broker in a JVM of its own (tests/support/kafka_broker.py; MQL_TEST_KAFKA=host:port takes a running
one). One topic, four partitions, events of 188 bytes. The broker works on the same cores, so the columns are: events
per second by the wall clock, microseconds of our own processor time an event, and how many cores we used.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import events
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from support.kafka_broker import Broker

from mql.catalog import TimeRule
from mql.exec.engine import Engine, Options
from mql.exec.feed import From
from mql.exec.items import Raw, Rows
from mql.exec.kernel import Kernel
from mql.exec.scan import Decoder
from mql.learn import parse_type
from mql.planner.compile import compile_query
from mql.schema import Field, Shape
from sources.kafka.settings import KafkaSettings
from sources.kafka.source import KafkaSource
from sources.settings import Settings

PARTITIONS = 4
POLL_BYTES = 16 << 20
PATIENCE_S = 60.0
WINDOW = "SELECT host, count(*) AS n, avg(latency_ms) AS latency FROM events {} WINDOW TUMBLING 10s GROUP BY host"
SETTINGS = Settings(
    shape=Shape(tuple(Field(name, parse_type(type), 1.0) for name, type in events.SHAPE.items())),
    time=TimeRule(("ts",), "ms"),
)


def main(count: int) -> None:
    running = os.environ.get("MQL_TEST_KAFKA")
    with nullcontext() if running else Broker() as broker:
        address = running or broker.address
        topic = f"bench-{uuid.uuid4().hex[:8]}"
        asyncio.run(fill(address, topic, count))
        print(f"{count:,} events in {PARTITIONS} partitions")
        print(f"{'what':<44}{'events/s':>10}{'us cpu':>8}{'cores':>7}")
        with closing(KafkaSource("events", KafkaSettings(address, topic, start="earliest"), SETTINGS)) as source:
            raws: list[Raw] = []
            report("poll alone", count, lambda: raws.extend(polled(source, count)))
            report("decode and pre-aggregate alone", count, lambda: decoded(source, raws))
            raws.clear()
        for name, more, route in (
            ("live, from the first event on", "", "auto"),
            ("history, through the stages", "SINCE EARLIEST UNTIL NOW", "stream"),
            ("history, in one statement", "SINCE EARLIEST UNTIL NOW", "batch"),
        ):
            source = KafkaSource("events", KafkaSettings(address, topic, start="earliest"), SETTINGS)
            engine = Engine((source,))
            try:
                report(name, count, lambda: answered(engine, WINDOW.format(more), route, count))  # noqa: B023
            finally:
                engine.close()


def report(name: str, count: int, run: Callable[[], object]) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:<44}{count / wall:>10,.0f}{cpu / count * 1e6:>8.2f}{cpu / wall:>7.2f}", flush=True)


def polled(source: KafkaSource, count: int) -> Sequence[Raw]:
    found: list[Raw] = []
    got = 0
    with closing(source.open(From())) as reader:
        while got < count:
            for raw in reader.poll(1.0, POLL_BYTES):
                assert isinstance(raw, Rows)
                got += raw.table.num_rows
                found.append(raw)
    return found


def decoded(source: KafkaSource, raws: Sequence[Raw]) -> None:
    from mql.catalog import Catalog
    from mql.planner.physical import Partial

    plan = compile_query(WINDOW.format(""), Catalog({"events": source.info}))
    partial = plan.stages[0].operators[0]
    assert isinstance(partial, Partial)
    kernel = Kernel()
    session = kernel.session()
    decoder = Decoder(session, "json", plan.scan.time, plan.scan.columns)
    for raw in raws:
        session.run(partial.sql, {"batch": decoder.decode((raw,)).table})
    kernel.close()


def answered(engine: Engine, text: str, route: str, count: int) -> None:
    """Until the query has seen all events."""
    running = engine.start(text, options=Options(route=route))
    ends = time.monotonic() + PATIENCE_S
    while running.ledger()["events"] < count:
        assert time.monotonic() < ends, running.status()
        time.sleep(0.01)
    running.cancel()


async def fill(address: str, topic: str, count: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=address, max_batch_size=1 << 18, linger_ms=20)
    await producer.start()
    sent: list[Any] = []
    number = 0
    for block in events.blocks(count):
        for line in block.splitlines():
            sent.append(await producer.send(topic, line, partition=number % PARTITIONS))
            number += 1
    await producer.flush()
    await producer.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)
