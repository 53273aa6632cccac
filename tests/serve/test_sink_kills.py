"""From Kafka into Kafka, Parquet and tables, exactly once, however often the server is killed.

Events go on coming while the server is killed (SIGKILL) at random instants and started again: between rows and the
checkpoint behind them, between a sink's write and its place, amid a transaction or a rename, while it goes back. In
the end what stands in the topics, files and tables is compared, row by row, with what DuckDB says of the events.
One job reads what another tells, so the chain is tested too; and one has a sink more when the server is killed.

MQL_TEST_SINK_KILLS and MQL_TEST_SINK_EVENTS make it longer: `make soak` asks for 200 kills over a million events.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from support.kafka_fixture import Kafka
from support.killing import call, start, wait_until_up
from support.postgres import free_port, postgres, why_not

from mql.exec.feed import From
from mql.exec.items import Rows
from sources.kafka.settings import KafkaSettings
from sources.kafka.source import KafkaSource

pytest_plugins = ["support.kafka_fixture"]

KILLS = int(os.environ.get("MQL_TEST_SINK_KILLS", "8"))
EVENTS = int(os.environ.get("MQL_TEST_SINK_EVENTS", "24000"))
SEED = int(os.environ.get("MQL_TEST_SEED", "7"))
PARTITIONS = 2
BURST = 200
SINKS_OF_PLAIN = 2
CONFIG = """
server: {port: %d, workers: 4}
sources:
  events:
    kind: kafka
    bootstrap_servers: "%s"
    topic: %s
    time: {field: ts, unit: ms}
    lateness: 0s
    idle_timeout: 1h
    shape: {ts: BIGINT, k: VARCHAR, v: BIGINT}
"""
WINDOWED = "SELECT window_start, k, count(*) AS n, sum(v) AS v FROM events WINDOW 10s GROUP BY k SINCE EARLIEST"
PLAIN = "SELECT ts, v FROM events WHERE v % 10 = 3 SINCE EARLIEST"
CHAINED = "SELECT k, n, v FROM job.windowed SINCE EARLIEST"


def event(at: int) -> dict[str, Any]:
    return {"ts": at * 10, "k": f"k{at * 7919 % 13}", "v": at * 31 % 1000}


class Producer(threading.Thread):
    """Sends events in small bursts to both partitions, as far as it has been allowed to."""

    def __init__(self, address: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.topic = topic
        self.allowed = 0

    def run(self) -> None:
        asyncio.run(self.send())

    async def send(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.address, linger_ms=2, acks="all", enable_idempotence=True)
        async with producer:
            at = 0
            while at < EVENTS:
                until = min(self.allowed, at + BURST)
                sent = []
                for one in range(at, until):
                    sent.append(await producer.send(self.topic, json.dumps(event(one)).encode(), partition=one % 2))
                await asyncio.gather(*sent)
                at = until
                await asyncio.sleep(0.005)
            # Far behind the others, so that all windows close.
            last = json.dumps({"ts": EVENTS * 10 + 60_000, "k": "end", "v": 0}).encode()
            for partition in range(PARTITIONS):
                await producer.send_and_wait(self.topic, last, partition=partition)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[str | None]:
    """A PostgreSQL that servers know, where there is one here."""
    if why_not() is not None:
        yield None
        return
    with postgres() as url:
        monkeypatch.setenv("MQL_POSTGRES_TEST", url.replace("+psycopg", ""))
        yield url


@pytest.mark.timeout(280 if KILLS <= 20 else 0)
def test_nothing_is_lost_or_doubled_in_any_sink(kafka: Kafka, database: str | None, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    run, port = uuid4().hex[:8], free_port()
    topics = {name: f"{name}-{run}" for name in ("events", "windowed", "plain")}
    asyncio.run(make_topic(kafka.address, topics["events"]))
    (tmp_path / "mql.yaml").write_text(CONFIG % (port, kafka.address, topics["events"]))
    producer = Producer(kafka.address, topics["events"])
    producer.start()
    process = start(tmp_path)
    wait_until_up(port, process)
    files = {"kind": "parquet", "roll_every": 0.3}
    table = {"kind": "duckdb", "path": "out.duckdb"}
    for name, query, every in (("windowed", WINDOWED, 0.1), ("plain", PLAIN, 0.4), ("chained", CHAINED, 0.1)):
        sinks: list[dict[str, Any]] = [{**files, "path": name}, {**table, "table": name}]
        if name in topics:
            sinks.append({"kind": "kafka", "source": "events", "topic": topics[name]})
        if name != "windowed":
            del sinks[1]
        if name in topics and database is not None:
            sinks.append({"kind": "postgres", "url_env": "MQL_POSTGRES_TEST", "table": name})
        said = {"name": name, "query": query, "guarantee": "exactly_once", "checkpoint_every": every, "sinks": sinks}
        call(port, "POST", "/v1/jobs", said)
    began_s = time.monotonic()
    for number in range(1, KILLS + 1):
        producer.allowed = EVENTS * number // KILLS
        time.sleep(dice.random() * 2.0)
        if number == KILLS // 2:
            threading.Thread(target=add_late, args=(port,), daemon=True).start()
            time.sleep(dice.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(tmp_path)
        if dice.random() < 0.85:  # else it is killed while it starts, or goes back
            wait_until_up(port, process)
    producer.join()
    wait_until_up(port, process)
    add_late(port)
    want = wanted()
    wait_until_told(port, {name: sum(rows.values()) for name, rows in want.items()})
    process.terminate()
    assert process.wait(60) == 0
    found = {f"{name} in Kafka": Counter(of_topic(kafka.address, topics[name])) for name in ("windowed", "plain")}
    found |= {f"{name} in Parquet": Counter(of_files(tmp_path / ".mql" / "sinks" / name)) for name in want}
    found["windowed in DuckDB"] = Counter(of_table(tmp_path / ".mql" / "sinks" / "out.duckdb"))
    found["plain in Parquet, of the late sink"] = Counter(of_files(tmp_path / ".mql" / "sinks" / "late" / "plain"))
    if database is not None:
        found |= {f"{name} in PostgreSQL": Counter(of_database(database, name)) for name in ("windowed", "plain")}
    for where, rows in found.items():
        expected = want[where.split()[0]]
        lost, doubled = expected - rows, rows - expected
        assert not lost, f"{where}: {sum(lost.values())} lost, seed {SEED}: {list(lost)[:5]}"
        assert not doubled, f"{where}: {sum(doubled.values())} too many, seed {SEED}: {list(doubled)[:5]}"
    seconds = time.monotonic() - began_s
    print(f"{KILLS} kills, {EVENTS} events, {sum(map(len, want.values()))} rows, {seconds:.0f} s: 0 lost, 0 doubled")


def add_late(port: int) -> None:
    """A sink more for all that the job keeps, unless it is there; the server may be killed meanwhile."""
    late = {"kind": "parquet", "path": "late/plain", "roll_every": 0.3}
    with suppress(OSError, HTTPException):
        if len(call(port, "GET", "/v1/jobs/plain")["sinks"]) < SINKS_OF_PLAIN + (why_not() is None) + 1:
            call(port, "PATCH", "/v1/jobs/plain", {"add_sinks": [late], "sinks_from": "earliest"})


def of_database(url: str, table: str) -> list[tuple[Any, ...]]:
    names = {"windowed": "extract(epoch FROM window_start)::bigint, k, n, v", "plain": "ts, v"}[table]
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(f"SELECT {names} FROM {table}"))]


async def make_topic(address: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
    finally:
        await admin.close()


def wait_until_told(port: int, rows: dict[str, int]) -> None:
    """Each job has told so many rows, and its sinks have all of them."""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        jobs = {name: call(port, "GET", f"/v1/jobs/{name}") for name in rows}
        told = {name: job["results"]["rows"] for name, job in jobs.items()}
        left = [sink.get("waiting", 0) + sink["behind"] for job in jobs.values() for sink in job["sinks"]]
        if told == rows and not any(left):
            return
        time.sleep(0.1)
    raise AssertionError(f"told {told} of {rows}; left {left}; {[job['sinks'] for job in jobs.values()]}")


def wanted() -> dict[str, Counter[Any]]:
    con = duckdb.connect()
    events = f"SELECT i * 10 AS ts, 'k' || (i * 7919 % 13) AS k, i * 31 % 1000 AS v FROM range({EVENTS}) t(i)"
    con.execute(f"CREATE TABLE e AS {events}")
    windows = "SELECT ts // 10000 * 10 AS w, k, count(*) AS n, sum(v)::BIGINT AS v FROM e GROUP BY ALL"
    sql = {
        "windowed": windows,
        "plain": "SELECT ts, v FROM e WHERE v % 10 = 3",
        "chained": f"SELECT k, n, v FROM ({windows})",
    }
    return {name: Counter(con.execute(one).fetchall()) for name, one in sql.items()}


def of_topic(address: str, topic: str) -> Iterator[tuple[Any, ...]]:
    """What is committed in the topic."""
    source = KafkaSource("out", KafkaSettings(address, topic))
    try:
        for item in source.history(From()):
            assert isinstance(item, Rows)
            for text in item.table.column("_raw").to_pylist():
                row = json.loads(text)
                yield (
                    (seconds(row["window_start"]), row["k"], row["n"], row["v"])
                    if "k" in row
                    else (row["ts"], row["v"])
                )
    finally:
        source.close()


def seconds(moment: str) -> int:
    minutes, rest = moment[:17], float(moment[17:].rstrip("Z"))
    return int(time.mktime(time.strptime(minutes + "00", "%Y-%m-%dT%H:%M:%S")) - time.timezone + rest)


def of_files(home: Path) -> list[tuple[Any, ...]]:
    rows = f"read_parquet('{home}/**/*.parquet', hive_partitioning = false, union_by_name = true)"
    names = {"windowed": "epoch(window_start)::BIGINT, k, n, v", "plain": "ts, v", "chained": "k, n, v"}[home.name]
    return duckdb.connect().execute(f"SELECT {names} FROM {rows}").fetchall()


def of_table(path: Path) -> list[tuple[Any, ...]]:
    return duckdb.connect(str(path)).execute("SELECT epoch(window_start)::BIGINT, k, n, v FROM windowed").fetchall()
