"""Sinks that come and go while the server is killed: whose removal was answered gets nothing more, and each has its
rows once, from the row that it begins with to the one at which it was taken away.

One sink of an exactly-once job takes the place of the other, of every kind, and the server is killed (SIGKILL) at a
random instant of each change; whoever asked asks again until there is an answer. One sink stays all the time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from support.kafka_fixture import Kafka
from support.killing import call, start, wait_until_up
from support.postgres import free_port
from support.receiver import Receiver, receiver
from support.waiting import wait_for

from mql.exec.feed import From
from mql.exec.items import Rows
from sources.kafka.settings import KafkaSettings
from sources.kafka.source import KafkaSource

pytest_plugins = ["support.kafka_fixture"]

CHANGES = int(os.environ.get("MQL_TEST_CHANGE_KILLS", "3"))
SEED = int(os.environ.get("MQL_TEST_SEED", "3"))
KINDS = ("webhook", "kafka", "parquet", "webhook", "duckdb", "kafka", "duckdb", "parquet")
"""After the last the first comes again, so each kind takes the place of another, and none that of its own kind."""
CONFIG = """
server:
  port: %d
  workers: 2
  webhooks: {allowed: [127.0.0.0/8], plain: true}
  sinks: {kafka: ["%s"]}
sources:
  events: {kind: file, path: events.ndjson, format: ndjson, follow: true, time: {field: ts, unit: ms}, lateness: 0s}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A sink: what is said of it, what is there of its rows, where it began, and whether a row may be there twice."""

    said: dict[str, Any]
    rows: Callable[[], list[int]]
    begins: str
    may_repeat: bool = False


class World:
    """Where sinks write to, each somewhere else."""

    def __init__(self, home: Path, kafka: str, hooks: Receiver) -> None:
        self.sinks = home / ".mql" / "sinks"
        self.kafka = kafka
        self.hooks = hooks
        self.run = uuid4().hex[:8]

    def target(self, kind: str, number: int, begins: str) -> Target:
        match kind:
            case "webhook":
                path = f"/{number}"
                said = {"kind": kind, "url": self.hooks.base + path}
                return Target(said, lambda: self.posted(path), begins, may_repeat=True)
            case "kafka":
                topic = f"changes-{self.run}-{number}"
                asyncio.run(make_topic(self.kafka, topic))
                return Target({"kind": kind, "brokers": self.kafka, "topic": topic}, lambda: self.sent(topic), begins)
            case "parquet":
                files = self.sinks / f"p{number}"
                said = {"kind": kind, "path": files.name, "by": "none", "roll_every": 0.3}
                return Target(said, lambda: of_files(files), begins)
            case _:
                file = self.sinks / f"d{number}.duckdb"
                return Target({"kind": kind, "path": file.name, "table": "t"}, lambda: of_table(file), begins)

    def posted(self, path: str) -> list[int]:
        bodies = [
            json.loads(body) for to, (_, body) in zip(self.hooks.paths, self.hooks.got, strict=False) if to == path
        ]
        return [row["v"] for body in bodies for row in body["rows"]]

    def sent(self, topic: str) -> list[int]:
        source = KafkaSource("out", KafkaSettings(self.kafka, topic))
        try:
            items = [item for item in source.history(From()) if isinstance(item, Rows)]
            return [json.loads(text)["v"] for item in items for text in item.table.column("_raw").to_pylist()]
        finally:
            source.close()


async def make_topic(address: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1)])
    finally:
        await admin.close()


def of_files(home: Path) -> list[int]:
    if not list(home.glob("*.parquet")):
        return []
    return [v for (v,) in duckdb.connect().execute(f"SELECT v FROM '{home}/*.parquet'").fetchall()]


def of_table(path: Path) -> list[int]:
    with duckdb.connect(str(path)) as connection:
        if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 't'").fetchall():
            return []
        return [v for (v,) in connection.execute("SELECT v FROM t").fetchall()]


class Writer(threading.Thread):
    """Appends events all the time, until it is told to end."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.ends = threading.Event()
        self.at = 0

    def run(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            while not self.ends.wait(0.02):
                file.write(b"".join(b'{"ts": %d, "v": %d}\n' % (at, at) for at in range(self.at, self.at + 10)))
                self.at += 10


@pytest.mark.timeout(100 + 25 * CHANGES)
def test_who_is_taken_away_gets_nothing_more_and_who_comes_has_each_row_once(kafka: Kafka, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    port = free_port()
    (tmp_path / "mql.yaml").write_text(CONFIG % (port, kafka.address))
    writer = Writer(tmp_path / "events.ndjson")
    (tmp_path / "events.ndjson").touch()
    writer.start()
    with receiver() as hooks:
        world = World(tmp_path, kafka.address, hooks)
        kept = world.target("duckdb", 0, "earliest")
        changing = [world.target(KINDS[0], 1, "earliest")]
        process = start(tmp_path)
        wait_until_up(port, process)
        said = {"guarantee": "exactly_once", "checkpoint_every": 0.1, "query": "SELECT v FROM events SINCE EARLIEST"}
        call(port, "POST", "/v1/jobs", {"name": "j", **said, "sinks": [kept.said, changing[0].said]})
        left: list[list[int]] = []
        sinks = lambda: call(port, "GET", "/v1/jobs/j")["sinks"]  # noqa: E731
        for number in range(CHANGES):
            begins = dice.choice(("now", "earliest"))
            target = world.target(KINDS[(number + 1) % len(KINDS)], number + 2, begins)
            changes = {"sinks": [kept.said, target.said], "sinks_from": begins}
            asking = threading.Thread(target=asked, args=(port, changes), daemon=True)
            time.sleep(dice.random() * 0.5)
            asking.start()
            time.sleep(dice.random() * dice.choice((0.05, 0.5)))
            process.send_signal(signal.SIGKILL)
            process.wait()
            asking.join()
            process = start(tmp_path)
            wait_until_up(port, process)
            assert asked(port, changes), f"seed {SEED}"
            wait_for(lambda: not any(sink["leaving"] for sink in sinks()), 90)
            left.append(changing[-1].rows())
            changing.append(target)
        writer.ends.set()
        writer.join()
        wait_for(lambda: call(port, "GET", "/v1/jobs/j")["results"]["rows"] == writer.at, 30)
        wait_for(lambda: all(sink["behind"] + sink.get("waiting", 0) == 0 for sink in sinks()), 30)
        process.terminate()
        assert process.wait(30) == 0
        assert sorted(kept.rows()) == list(range(writer.at)), f"seed {SEED}"
        for target, rows in zip(changing, left, strict=False):
            assert target.rows() == rows, f"{target.said} got more after it was taken away; seed {SEED}"
        left.append(changing[-1].rows())
        assert max(left[-1]) == writer.at - 1, f"seed {SEED}"
        for target, rows in zip(changing, left, strict=True):
            assert is_whole(rows, target), f"{target.said}, seed {SEED}: {len(rows)} rows, {len(set(rows))} different"


def asked(port: int, changes: dict[str, Any]) -> bool:
    """Whether it was answered."""
    with suppress(OSError, HTTPException):
        call(port, "PATCH", "/v1/jobs/j", changes)
        return True
    return False


def is_whole(rows: list[int], target: Target) -> bool:
    """Each row is there, from the first on, and not twice where that is promised."""
    found = sorted(set(rows) if target.may_repeat else rows)
    if not found:
        return target.begins == "now"
    return found == list(range(found[0], found[-1] + 1)) and (found[0] == 0 or target.begins == "now")
