"""A server whose jobs read Kafka and write Kafka, while brokers and the way to them are disturbed.

The server knows the brokers by links alone; events are sent, and what came of them is read, beside these. Two jobs are
exactly_once (windows, and single rows), one is at_least_once. What they have written is compared with what DuckDB
says of the events that are in the topic.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from support.kafka_broker import Broker, cluster
from support.killing import call, start, wait_until_up
from support.link import Link
from support.postgres import free_port

from mql.exec.checkpoint import Checkpoints
from server.messengers import texts_of
from server.resultlog import Length, ResultLog
from sources.kafka.settings import KafkaSettings
from sources.sinks.contract import Portion
from sources.sinks.kafka import KafkaSink, KafkaTarget

PARTITIONS = 2
ON_BOTH = {0: [2, 1], 1: [2, 1]}
BURST = 100
ROUND_MS = 1_000_000
REQUEST_TIMEOUT_S = 1.0
WITHIN_S = 90.0
CONFIG = """
server: {port: %d, workers: 4}
sources:
  events:
    kind: kafka
    bootstrap_servers: "%s"
    topic: %s
    request_timeout_s: %s
    time: {field: ts, unit: ms}
    lateness: 0s
    idle_timeout: 1h
    shape: {ts: BIGINT, k: VARCHAR, v: BIGINT}
"""
WINDOWED = "SELECT window_start, k, count(*) AS n, sum(v) AS v FROM events WINDOW 10s GROUP BY k SINCE EARLIEST"
PLAIN = "SELECT ts, v FROM events WHERE v % 5 = 3 SINCE EARLIEST"
JOBS: Mapping[str, tuple[str, str]] = {
    "windowed": (WINDOWED, "exactly_once"),
    "plain": (PLAIN, "exactly_once"),
    "atleast": (PLAIN, "at_least_once"),
}
Rows = Counter[tuple[Any, ...]]


@dataclass(slots=True)
class World:
    """The brokers, the links to them, the server and the topics. `rounds`: how often events have been sent."""

    brokers: tuple[Broker, Broker]
    links: tuple[Link, Link]
    home: Path
    port: int
    topics: Mapping[str, str]
    server: subprocess.Popen[bytes]
    rounds: int = 0

    @property
    def addresses(self) -> str:
        """For whoever is not to be disturbed by links."""
        return ",".join(broker.address for broker in self.brokers)

    def job(self, name: str) -> Any:
        try:
            return call(self.port, "GET", f"/v1/jobs/{name}")
        except OSError as error:
            raise AssertionError(f"the server does not answer; its exit code is {self.server.poll()}") from error

    def jobs(self) -> dict[str, Any]:
        return {name: self.job(name) for name in JOBS}

    def restart_server(self) -> None:
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()
        self.server = start(self.home)
        wait_until_alive(self.port, self.server)

    @contextmanager
    def coming(self, events: int) -> Iterator[None]:
        """So many events come while the body runs; behind it, the last windows are closed."""
        sender = Sender(self.addresses, self.topics["events"], self.rounds * ROUND_MS, events)
        self.rounds += 1
        sender.start()
        try:
            yield
        finally:
            sender.hurry.set()
            sender.join()
        if sender.failed is not None:
            raise sender.failed

    def check(self) -> str:
        """All that was to be told stands in the topics, once, or at least once. Waits for it."""
        want = wanted(asyncio.run(read(self.addresses, self.topics["events"])))
        self.wait_until_told({name: sum(rows.values()) for name, rows in want.items()})
        for name, rows in want.items():
            found = Counter(shown(row) for row in asyncio.run(read(self.addresses, self.topics[name])))
            lost, doubled = rows - found, found - rows
            assert not lost, f"{name}: {sum(lost.values())} lost: {list(lost)[:5]}"
            if JOBS[name][1] == "exactly_once":
                assert not doubled, f"{name}: {sum(doubled.values())} too many: {list(doubled)[:5]}"
        return f"{sum(map(len, want.values()))} rows: 0 lost, 0 doubled"

    def wait_until_told(self, rows: Mapping[str, int]) -> None:
        until_s = time.monotonic() + WITHIN_S
        while time.monotonic() < until_s:
            jobs = self.jobs()
            if all(jobs[name]["results"]["rows"] >= rows[name] for name in rows) and not any(
                sink["behind"] or sink["dead"] for job in jobs.values() for sink in job["sinks"]
            ):
                return
            time.sleep(0.1)
        told = {name: (job["results"]["rows"], rows[name]) for name, job in jobs.items()}
        raise AssertionError(f"told, wanted: {told}; {[(job['trouble'], job['sinks']) for job in jobs.values()]}")

    def wait_for(self, what: Callable[[dict[str, Any]], object], within_s: float = WITHIN_S) -> dict[str, Any]:
        """The jobs, once that is true of them."""
        until_s = time.monotonic() + within_s
        while True:
            jobs = self.jobs()
            if what(jobs):
                return jobs
            if time.monotonic() > until_s:
                raise AssertionError(str([(job["state"], job["trouble"], job["sinks"]) for job in jobs.values()]))
            time.sleep(0.05)

    def wait_until_it_leads(self) -> None:
        """The second broker, of all partitions of the topics again."""
        asyncio.run(until_led_by(2, self.addresses, set(self.topics.values())))

    def cpu_s(self) -> float:
        """How long the server has computed."""
        parts = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / 100


def second_worker(world: World, name: str, home: Path) -> int:
    """What another server would do that believes the job to be its own: while the first stands still, it takes over
    the job's sink and writes what the log has for it. Returns how many rows."""
    world.server.send_signal(signal.SIGSTOP)
    try:
        shutil.copytree(world.home / ".mql" / "jobs" / name, home)
        last = Checkpoints(home / "checkpoints").newest()
        assert last is not None
        log = ResultLog(home / "results")
        log.commit(Length(*last.notes["log"]))
        settings = KafkaSettings(world.addresses, world.topics[name])
        sink = KafkaSink(settings, KafkaTarget(world.topics[name]), f"mql-{name}-{log.id}-0", texts_of)
        place = sink.open()
        for first, rows in log.parts(range(place, log.committed.rows)):
            sink.write(Portion(rows, first, first + rows.num_rows))
        sink.close()
        log.close()
        return max(0, log.committed.rows - place)
    finally:
        world.server.send_signal(signal.SIGCONT)


@contextmanager
def world(home: Path) -> Iterator[World]:
    with ExitStack() as own:
        links = own.enter_context(Link()), own.enter_context(Link())
        brokers = own.enter_context(cluster(links[0].port, links[1].port))
        for link, broker in zip(links, brokers, strict=True):
            link.leads_to(broker.link_address)
        run, port = uuid4().hex[:8], free_port()
        topics = {name: f"{name}-{run}" for name in ("events", *JOBS)}
        addresses = ",".join(broker.address for broker in brokers)
        asyncio.run(make_topics(addresses, topics.values()))
        bootstrap = ",".join(link.address for link in links)
        (home / "mql.yaml").write_text(CONFIG % (port, bootstrap, topics["events"], REQUEST_TIMEOUT_S))
        made = World(brokers, links, home, port, topics, start(home))
        try:
            wait_until_up(port, made.server)
            for name, (query, guarantee) in JOBS.items():
                sink = {"kind": "kafka", "source": "events", "topic": topics[name]}
                said = {"name": name, "query": query, "guarantee": guarantee, "checkpoint_every": 0.1, "sinks": [sink]}
                call(port, "POST", "/v1/jobs", said)
            yield made
        finally:
            made.server.kill()
            made.server.wait()


def wait_until_alive(port: int, process: subprocess.Popen[bytes]) -> None:
    """It answers; its sources may be away."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        try:
            call(port, "GET", "/healthz")
            return
        except OSError:
            assert process.poll() is None, "the server has ended by itself"
            time.sleep(0.02)
    raise AssertionError("the server did not come up")


class Sender(threading.Thread):
    """Sends events to both partitions: at leisure until so many are sent, and on until it is to hurry. What is sent
    twice, since a broker went away, are two events: they are counted where they stand."""

    def __init__(self, addresses: str, topic: str, base_ms: int, events: int) -> None:
        super().__init__(daemon=True)
        self.hurry = threading.Event()
        self.failed: BaseException | None = None
        self._addresses = addresses
        self._topic = topic
        self._base_ms = base_ms
        self._events = events

    def run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:
            self.failed = error

    async def _send(self) -> None:
        """A producer that fails is made anew, and the burst comes again: its messages' order must not suffer, or some
        would be late."""
        at, until_s = 0, time.monotonic() + WITHIN_S
        while True:
            try:
                async with AIOKafkaProducer(
                    bootstrap_servers=self._addresses, linger_ms=2, request_timeout_ms=2_000, enable_idempotence=True
                ) as producer:
                    while at < self._events or not self.hurry.is_set():
                        numbers = range(at, at + BURST)
                        await self._burst(producer, [(event(self._base_ms, one), one % 2) for one in numbers])
                        at, until_s = at + BURST, time.monotonic() + WITHIN_S
                        await asyncio.sleep(0.0 if self.hurry.is_set() else 0.05 if at < self._events else 0.5)
                    last = {"ts": self._base_ms + ROUND_MS - 20_000, "k": "end", "v": 0}
                    await self._burst(producer, [(last, partition) for partition in range(PARTITIONS)])
                    return
            except KafkaError:
                if time.monotonic() > until_s:
                    raise
                await asyncio.sleep(0.1)

    async def _burst(self, producer: AIOKafkaProducer, events: list[tuple[dict[str, Any], int]]) -> None:
        sent = [await producer.send(self._topic, json.dumps(one).encode(), partition=at) for one, at in events]
        await asyncio.gather(*sent)


def event(base_ms: int, at: int) -> dict[str, Any]:
    return {"ts": base_ms + at * 20, "k": f"k{at * 7919 % 13}", "v": at * 31 % 1000}


async def make_topics(addresses: str, names: Any, copies: Mapping[int, list[int]] = ON_BOTH) -> None:
    """`copies`: the brokers of each partition; the first of them leads as long as it is there."""
    admin = AIOKafkaAdminClient(bootstrap_servers=addresses)
    await admin.start()
    try:
        while len((await admin.describe_cluster())["brokers"]) < 2:
            await asyncio.sleep(0.05)
        await admin.create_topics([NewTopic(name, -1, -1, replica_assignments=dict(copies)) for name in names])
    finally:
        await admin.close()


async def until_led_by(number: int, addresses: str, topics: set[str]) -> None:
    until_s = time.monotonic() + WITHIN_S
    async with AIOKafkaConsumer(bootstrap_servers=addresses) as consumer:
        partitions = [TopicPartition(name, at) for name in topics for at in range(PARTITIONS)]
        consumer.assign(partitions)
        cluster = consumer._client.cluster
        while {cluster.leader_for_partition(one) for one in partitions} != {number}:
            assert time.monotonic() < until_s, f"broker {number} does not lead"
            await consumer._client.force_metadata_update()
            await asyncio.sleep(0.1)


async def read(addresses: str, topic: str) -> list[dict[str, Any]]:
    """What is committed in the topic, from its beginning to its end. Kafka tells who commits that it is done just
    before it is seen, so the end is that of everything, and it is waited for."""
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    async with AIOKafkaConsumer(bootstrap_servers=addresses, isolation_level="read_uncommitted") as consumer:
        ends = await consumer.end_offsets(partitions)
    async with AIOKafkaConsumer(
        bootstrap_servers=addresses, enable_auto_commit=False, isolation_level="read_committed"
    ) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        found: list[dict[str, Any]] = []
        until_s = time.monotonic() + WITHIN_S
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            assert time.monotonic() < until_s, f"a transaction stays open in {topic}"
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += (json.loads(record.value or b"null") for record in records)
        return found


def wanted(events: list[dict[str, Any]]) -> dict[str, Rows]:
    """What the jobs are to have told of these events; the newest window is still open."""
    con = duckdb.connect()
    con.register("e", pa.Table.from_pylist(events))
    newest = "SELECT max(ts) // 10000 * 10 FROM e"
    grouped = "SELECT ts // 10000 * 10 AS w, k, count(*), sum(v)::BIGINT FROM e GROUP BY ALL"
    windows = f"SELECT * FROM ({grouped}) WHERE w < ({newest})"
    plain = Counter(con.execute("SELECT ts, v FROM e WHERE v % 5 = 3").fetchall())
    return {"windowed": Counter(con.execute(windows).fetchall()), "plain": plain, "atleast": plain}


def shown(row: Mapping[str, Any]) -> tuple[Any, ...]:
    if "k" in row:
        return (seconds(row["window_start"]), row["k"], row["n"], row["v"])
    return (row["ts"], row["v"])


def seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())
