"""Jobs from Kafka to Kafka go on by themselves, and lose and double nothing, whatever happens to brokers and links.

One server and two brokers for all of it. MQL_TEST_BROKER_FAULTS says how many faults are drawn at random behind the
ones by name, MQL_TEST_BROKER_EVENTS how many events come during each: `make soak` asks for more.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from support.faults import WITHIN_S, World, make_topics, second_worker, world
from support.kafka_broker import Broker, BrokerUnavailable
from support.killing import call

from mql.exec.feed import From
from mql.exec.items import Rows
from server.messengers import texts_of
from sources.kafka.place import newest_place
from sources.kafka.settings import KafkaSettings
from sources.kafka.source import KafkaSource
from sources.sinks.contract import Away, Portion
from sources.sinks.kafka import KafkaSink, KafkaTarget, let_go

FAULTS = int(os.environ.get("MQL_TEST_BROKER_FAULTS", "0"))
EVENTS = int(os.environ.get("MQL_TEST_BROKER_EVENTS", "2000"))
SEED = int(os.environ.get("MQL_TEST_SEED", "7"))
IDLE_SHARE = 0.6


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    try:
        with world(tmp_path_factory.mktemp("faults")) as made:
            yield made
    except BrokerUnavailable as unavailable:
        pytest.skip(str(unavailable))


def test_brokers_that_are_killed_are_awaited_also_by_a_server_that_starts_meanwhile(jobs: World) -> None:
    with jobs.coming(EVENTS):
        wait_until_some_came(jobs)
        for broker in jobs.brokers:
            broker.kill()
        wait_until_all_say(jobs)
        assert 'mql_job_trouble{job="plain"} 1.0' in metrics(jobs)
        assert "Kafka at" in listed(jobs)
        jobs.restart_server()
        wait_until_all_say(jobs, "trying again")
        make_job(jobs, "begins", "SELECT ts FROM events")
        jobs.wait_for(lambda _: "asked for its end" in (jobs.job("begins")["trouble"] or ""))
        assert jobs.job("begins")["state"] == "starting"
        call(jobs.port, "POST", "/v1/jobs/plain:stop")  # its checkpoint is from where no broker was heard of
        call(jobs.port, "POST", "/v1/jobs/plain:start")
        for broker in jobs.brokers:
            broker.launch()
        for broker in jobs.brokers:
            broker.wait_until_it_answers()
        jobs.wait_for(lambda _: jobs.job("begins")["state"] == "running")
    jobs.check()
    assert_all_is_well(jobs)
    assert jobs.job("begins")["attempts"] == 0
    call(jobs.port, "POST", "/v1/jobs/begins:stop")


def test_a_broker_that_stands_still_and_a_way_that_swallows_what_is_sent(jobs: World) -> None:
    with jobs.coming(EVENTS):
        wait_until_some_came(jobs)
        jobs.brokers[1].pause()
        jobs.links[0].swallows = True
        with rests(jobs):
            wait_until_all_say(jobs)
        jobs.brokers[1].resume()
        jobs.links[0].heal()
    jobs.check()
    assert_all_is_well(jobs)


def test_a_place_that_is_asked_of_a_broker_that_has_stood_still_is_the_newest(jobs: World) -> None:
    """It believes for a while to keep the group's place yet, and tells an old one."""
    stands, goes_on = jobs.brokers[1], jobs.brokers[0]
    topic = f"place-{uuid4().hex[:8]}"
    asyncio.run(make_topics(jobs.addresses, [topic]))
    groups = [f"{topic}-{number}" for number in range(4)]  # about half of them are kept by either broker
    kept: Counter[str] = Counter()

    def adds(broker: Broker, group: str) -> None:
        sink = KafkaSink(KafkaSettings(broker.address, topic), KafkaTarget(topic), group, texts_of)
        with closing(sink):
            kept[group] = write(sink, sink.open(), kept[group] + 10)

    async def ask() -> None:
        settings = KafkaSettings(jobs.addresses, topic, request_timeout_s=20)
        sinks = [KafkaSink(settings, KafkaTarget(topic), f"asks-{group}", texts_of) for group in groups]
        producers = [await sink._started() for sink in sinks]
        slot = TopicPartition(topic, 0)
        for producer, group in zip(producers, groups, strict=True):
            assert await newest_place(producer, group, slot) == kept[group]
        stands.pause()
        for group in groups:
            await asyncio.to_thread(until_done, adds, goes_on, group)
        stands.resume()
        told = await asyncio.gather(*map(newest_place, producers, groups, repeat(slot)))
        assert told == [kept[group] for group in groups]
        await asyncio.gather(*map(let_go, producers))

    for group in groups:
        adds(stands, group)
    asyncio.run(ask())
    jobs.wait_until_it_leads()


def test_a_way_that_is_slow_and_breaks_again_and_again(jobs: World) -> None:
    dice = random.Random(SEED)
    with jobs.coming(EVENTS):
        for link in jobs.links:
            link.latency_s, link.bytes_per_s = 0.05, 200_000
        for _ in range(10):
            time.sleep(dice.random() * 0.4)
            dice.choice(jobs.links).cut(0.5, dice)
        for link in jobs.links:
            link.heal()
    jobs.check()
    assert_all_is_well(jobs)


def test_a_leader_that_is_killed_and_comes_back(jobs: World) -> None:
    """The topics, the place of the sinks and their transactions are led by the second broker, then by the first. A
    partition that only the second one has is missed by name, and read when it is back; its siblings go on."""
    leader = jobs.brokers[1]
    topic = f"lonely-{uuid4().hex[:8]}"
    asyncio.run(make_topics(jobs.addresses, [topic], {0: [1], 1: [2]}))
    with Reading(KafkaSettings(jobs.addresses, topic)) as alone, jobs.coming(EVENTS):
        asyncio.run(sent(jobs.addresses, topic, 0, 10))
        asyncio.run(sent(jobs.addresses, topic, 1, 10))
        alone.polls_until(lambda: len(alone.found) == 20)
        wait_until_some_came(jobs)
        leader.kill()
        asyncio.run(sent(jobs.addresses, topic, 0, 10))
        alone.polls_until(lambda: f"{topic}-1, whose leader" in (alone.reader.trouble or ""))
        assert len(alone.found) == 30
        sink = KafkaSink(replace(alone.source.kafka, request_timeout_s=0.5), KafkaTarget(topic, "n"), topic, texts_of)
        with closing(sink), pytest.raises(Away, match=f"without a leader: {topic}-1"):
            write(sink, sink.open(), 100)
        wait_until_some_came(jobs)
        leader.start()
        asyncio.run(sent(jobs.addresses, topic, 1, 10))
        alone.polls_until(lambda: len(alone.found) == 40 and alone.reader.trouble is None)
        jobs.wait_until_it_leads()
        wait_until_some_came(jobs)
    jobs.check()
    assert_all_is_well(jobs)


def test_a_way_that_is_too_narrow_for_what_is_asked_at_once(jobs: World) -> None:
    """Neither a fetch nor a transaction comes through in time as large as it is at first."""
    rows = 600
    run = uuid4().hex[:8]
    full, empty = f"full-{run}", f"empty-{run}"
    asyncio.run(make_topics(jobs.addresses, [full, empty], {0: [1]}))
    with closing(KafkaSink(KafkaSettings(jobs.addresses, full), KafkaTarget(full), full, texts_of)) as sink:
        write(sink, sink.open(), rows)
    jobs.links[0].bytes_per_s = 80_000
    writing = ThreadPoolExecutor().submit(
        written, KafkaSettings(jobs.links[0].address, empty, request_timeout_s=1), rows
    )
    with Reading(KafkaSettings(jobs.links[0].address, full, request_timeout_s=1)) as alone:
        alone.polls_until(lambda: len(alone.found) >= rows)
    assert alone.found == list(range(rows))
    assert any("no answer in time" in why for why in writing.result(WITHIN_S))
    jobs.links[0].heal()
    with Reading(KafkaSettings(jobs.addresses, empty)) as alone:
        alone.polls_until(lambda: len(alone.found) >= rows)
    assert alone.found == list(range(rows))


def written(kafka: KafkaSettings, rows: int) -> list[str]:
    """Rows in as large portions as the sink takes, and what went wrong until they were all there."""
    sink = KafkaSink(kafka, KafkaTarget(kafka.topics[0]), kafka.topics[0], texts_of, transaction_s=1)
    why: list[str] = []
    place = 0
    while place < rows:
        with closing(sink):
            try:
                place = sink.open()
                while place < rows:
                    place = write(sink, place, min(rows, place + sink.rows_max))
            except Away as away:
                why.append(str(away))
    return why


def test_a_second_worker_shuts_out_the_first_which_begins_again(jobs: World, tmp_path: Path) -> None:
    with jobs.coming(EVENTS):
        jobs.links[1].latency_s = 0.1  # so that rows are waiting when the second one comes
        copies = (tmp_path / str(number) for number in range(100))
        while not second_worker(jobs, "plain", next(copies)):
            wait_until_some_came(jobs)
        told = jobs.wait_for(lambda now: now["plain"]["attempts"] == 1)
        assert [told[name]["attempts"] for name in ("windowed", "atleast")] == [0, 0]
        jobs.links[1].heal()
    jobs.check()
    lines = call(jobs.port, "GET", "/v1/jobs/plain/logs")["lines"]
    assert any("another server writes for this job now" in line["text"] for line in lines)
    assert jobs.job("plain")["state"] == "running"


if FAULTS:

    @pytest.mark.timeout(0)
    def test_faults_drawn_at_random(jobs: World) -> None:
        dice = random.Random(SEED)
        for number in range(FAULTS):
            fault = dice.choice(RANDOM)
            with jobs.coming(EVENTS):
                time.sleep(dice.random())
                fault(jobs, dice)
            print(f"{number + 1} of {FAULTS}, seed {SEED}, {fault.__name__}: {jobs.check()}", flush=True)


def broker_away(jobs: World, dice: random.Random) -> None:
    gone = dice.sample(jobs.brokers, dice.choice((1, 2)))
    for broker in gone:
        broker.kill()
    time.sleep(dice.random() * 8)
    for broker in gone:
        broker.launch()
    for broker in gone:
        broker.wait_until_it_answers()


def broker_silent(jobs: World, dice: random.Random) -> None:
    broker = dice.choice(jobs.brokers)
    broker.pause()
    time.sleep(dice.random() * 5)
    broker.resume()


def link_swallows(jobs: World, dice: random.Random) -> None:
    link = dice.choice(jobs.links)
    link.swallows = True
    time.sleep(dice.random() * 6)
    link.heal()


def link_breaks(jobs: World, dice: random.Random) -> None:
    for link in jobs.links:
        link.latency_s, link.bytes_per_s = dice.random() * 0.2, 50_000 + dice.random() * 500_000
    for _ in range(dice.randrange(30)):
        time.sleep(dice.random() * 0.3)
        dice.choice(jobs.links).cut(0.5, dice)
    for link in jobs.links:
        link.heal()


def server_killed(jobs: World, dice: random.Random) -> None:
    time.sleep(dice.random())
    jobs.restart_server()


RANDOM: tuple[Callable[[World, random.Random], None], ...] = (
    broker_away,
    broker_silent,
    link_swallows,
    link_breaks,
    server_killed,
)


class Reading:
    """One source by itself, and the numbers that it has read."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.source = KafkaSource("alone", kafka)
        self.found: list[int] = []

    def __enter__(self) -> Reading:
        self.reader = self.source.open(From())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.source.close()

    def polls_until(self, what: Callable[[], bool]) -> None:
        until_s = time.monotonic() + WITHIN_S
        while not what():
            assert time.monotonic() < until_s, f"{len(self.found)} came; {self.reader.trouble}"
            for rows in self.reader.poll(0.1, 1 << 20):
                assert isinstance(rows, Rows)
                self.found += (json.loads(text)["n"] for text in rows.table.column("_raw").to_pylist())


def until_done(work: Callable[..., None], *with_what: object) -> None:
    until_s = time.monotonic() + WITHIN_S
    while True:
        try:
            return work(*with_what)
        except Away:
            assert time.monotonic() < until_s
            time.sleep(0.1)


def make_job(jobs: World, name: str, query: str) -> None:
    call(jobs.port, "POST", "/v1/jobs", {"name": name, "query": query, "guarantee": "exactly_once"})


def write(sink: KafkaSink, first: int, last: int) -> int:
    """Rows of those numbers, about 200 bytes each."""
    rows = pa.table({"n": range(first, last), "filler": ["x" * 180] * (last - first)})
    sink.write(Portion(rows, first, last))
    return last


async def sent(addresses: str, topic: str, partition: int, events: int) -> None:
    async with AIOKafkaProducer(bootstrap_servers=addresses) as producer:
        for at in range(events):
            await producer.send_and_wait(topic, b'{"n": %d}' % at, partition=partition)


def wait_until_some_came(jobs: World) -> None:
    before = {name: job["sinks"][0]["sent"] for name, job in jobs.jobs().items()}
    jobs.wait_for(lambda now: all(now[name]["sinks"][0]["sent"] > sent for name, sent in before.items()))


def wait_until_all_say(jobs: World, of_source: str = "Kafka at") -> None:
    """Each job runs and says what is wrong with its source; a sink that has rows to send, what is wrong with it."""

    def said(now: dict[str, Any]) -> bool:
        sinks = [job["sinks"][0] for job in now.values()]
        return (
            all(job["state"] == "running" and of_source in (job["trouble"] or "") for job in now.values())
            and all(sink["behind"] == 0 or sink["trouble"] for sink in sinks)
            and any("Kafka at" in (sink["trouble"] or "") for sink in sinks)
        )

    jobs.wait_for(said)


def assert_all_is_well(jobs: World) -> None:
    """Nothing is left of the trouble, and no job had to begin again."""
    told = jobs.wait_for(
        lambda now: not any(job["trouble"] or job["sinks"][0]["trouble"] for job in now.values()), within_s=20
    )
    assert [(job["state"], job["attempts"]) for job in told.values()] == [("running", 0)] * len(told)
    assert not any(job["sinks"][0]["lost"] for job in told.values())


@contextmanager
def rests(jobs: World) -> Iterator[None]:
    """No loop spins while there is nothing to be done."""
    began_s, computed_s = time.monotonic(), jobs.cpu_s()
    yield
    share = (jobs.cpu_s() - computed_s) / (time.monotonic() - began_s)
    assert share < IDLE_SHARE, f"{share:.0%} of a core"


def metrics(jobs: World) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{jobs.port}/metrics", timeout=20) as answer:
        return str(answer.read(), "utf-8")


def listed(jobs: World) -> str:
    """What `mql jobs` prints."""
    command = [sys.executable, "-m", "server.cli", "jobs", "--server", f"http://127.0.0.1:{jobs.port}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return done.stdout
