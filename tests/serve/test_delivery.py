"""A log on its way to a sink: in order, each row once, again after trouble, and what is gone is counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlalchemy as sa
from support.kafka_broker import Broker
from support.postgres import postgres, why_not
from support.receiver import LOOPBACK, receiver
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.catalog import TimeRule
from server.deadletters import DeadLogs
from server.delivery import Delivery
from server.messengers import texts_of
from server.resultlog import Keep, ResultLog
from sources.kafka.settings import KafkaSettings
from sources.kafka.source import KafkaSource
from sources.memory import MemorySource
from sources.sinks.contract import Away, Fenced, Portion
from sources.sinks.kafka import KafkaSink, KafkaTarget

pytest_plugins = ["support.kafka_fixture"]


class Shelf:
    """A sink that keeps its place with its rows, as a database does, and fails as it is told."""

    rows_max = 3
    whole_frames = False

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.place = 0
        self.failures: list[Exception] = []
        self.opened = 0
        self.idles = 0
        self.missing: list[str] = []

    def open(self) -> int:
        self.opened += 1
        return self.place

    def write(self, portion: Portion) -> None:
        if self.failures:
            raise self.failures.pop(0)
        assert portion.first == self.place
        assert portion.rows.num_rows <= self.rows_max
        self.rows += portion.rows.column("n").to_pylist()
        self.place = portion.end

    def missed(self, why: str) -> None:
        self.missing.append(why)

    def idle(self) -> None:
        self.idles += 1

    def told(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        """It stays as it is."""


@contextmanager
def delivered(log: ResultLog, shelf: Shelf, said: list[str] | None = None) -> Iterator[Delivery]:
    def say(level: str, text: str) -> None:
        if said is not None:
            said.append(text)

    dead = DeadLogs(log.directory / "dead", Keep(), log.clock)
    delivery = Delivery("j", log, shelf, {"kind": "shelf"}, threading.Event(), say, dead.of_sink("0"))
    delivery.start()
    try:
        yield delivery
    finally:
        delivery.close()


def told(log: ResultLog, *numbers: int) -> None:
    log.append(pa.table({"n": list(numbers)}))
    log.commit()


def test_rows_come_in_order_in_portions_that_the_sink_can_take(tmp_path: Path) -> None:
    log, shelf = ResultLog(tmp_path), Shelf()
    told(log, *range(10))
    log.note("warn", {"code": "x"})
    told(log, 10)
    with delivered(log, shelf) as delivery:
        wait_for(lambda: shelf.place == 11)
        told(log, 11, 12)
        wait_for(lambda: shelf.place == 13)
        assert delivery.told() == {"kind": "shelf", "sent": 13, "lost": 0, "behind": 0, "dead": 0, "trouble": None}
    assert shelf.rows == list(range(13))


class Slow(Shelf):
    """It takes rows when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()

    def write(self, portion: Portion) -> None:
        self.begun.set()
        assert self.may_end.wait(30)
        super().write(portion)


def test_who_is_amid_a_write_has_not_ended(tmp_path: Path) -> None:
    log, slow = ResultLog(tmp_path), Slow()
    told(log, 0, 1)
    with delivered(log, slow) as delivery:
        assert slow.begun.wait(30)
        assert not delivery.close(for_good="the sink was taken away", within_s=0.05)
        told(log, 2)
        slow.may_end.set()
        assert delivery.close(for_good="the sink was taken away")
    assert slow.rows == [0, 1]


def test_after_trouble_it_goes_on_where_the_sink_says(tmp_path: Path) -> None:
    log, shelf, said = ResultLog(tmp_path), Shelf(), list[str]()
    shelf.failures = [Away("the shelf is full"), Away("the shelf is full"), ValueError("ours")]
    told(log, *range(7))
    with delivered(log, shelf, said) as delivery:
        wait_for(lambda: shelf.place == 7)
        wait_for(lambda: delivery.trouble is None)
    assert shelf.rows == list(range(7))
    assert shelf.opened == 4
    assert said[0] == "sink shelf: the shelf is full"
    assert len(said) == 2


def test_who_is_shut_out_stops_for_good(tmp_path: Path) -> None:
    log, shelf = ResultLog(tmp_path), Shelf()
    shelf.failures = [Fenced("another server writes for this job now")]
    told(log, 1)
    with delivered(log, shelf) as delivery:
        wait_for(lambda: delivery.trouble == "another server writes for this job now")
        delivery._thread.join(5)
        assert not delivery._thread.is_alive()
    assert shelf.rows == []


def test_what_the_log_no_longer_keeps_is_counted(tmp_path: Path) -> None:
    log, shelf, said = ResultLog(tmp_path, Keep(bytes=0, segment_bytes=1)), Shelf(), list[str]()
    for at in range(5):
        told(log, at, at)
    with delivered(log, shelf, said) as delivery:
        wait_for(lambda: shelf.place == 10)
        assert delivery.told()["lost"] == 8
    assert shelf.rows == [4, 4]
    assert shelf.missing == ["results are not kept that long"]
    assert said == ["sink shelf: 8 rows were not sent: results are not kept that long"]


def test_a_stretch_without_the_job_is_told_to_the_sink(tmp_path: Path) -> None:
    log, shelf = ResultLog(tmp_path), Shelf()
    told(log, 1)
    log.note("gap", {"rows": None, "why": "the job began anew"})
    told(log, 2)
    with delivered(log, shelf) as delivery:
        wait_for(lambda: shelf.place == 2)
        assert delivery.lost == 0
    assert shelf.missing == ["the job began anew"]


def test_a_place_amid_a_record_is_gone_on_from(tmp_path: Path) -> None:
    log, shelf = ResultLog(tmp_path), Shelf()
    told(log, *range(6))
    told(log, 6, 7)
    shelf.place = 4
    with delivered(log, shelf):
        wait_for(lambda: shelf.place == 8)
    assert shelf.rows == [4, 5, 6, 7]


# --- of a job ------------------------------------------------------------------------------------------------


def orders(last: int) -> list[dict[str, Any]]:
    return [{"ts": at * 1000, "who": f"w{at % 3}", "n": at} for at in range(last)]


def job(server: Served, query: str, *sinks: dict[str, Any]) -> None:
    said = {"name": "j", "query": query, "guarantee": "exactly_once", "checkpoint_every": 0.05, "sinks": list(sinks)}
    made = server.post("/v1/jobs", said)
    assert made.status == 201, made.body
    wait_for_state(server, "j", "running")


@pytest.fixture
def database() -> Iterator[str]:
    missing = why_not()
    if missing is not None:
        pytest.skip(missing)
    with postgres() as url:
        yield url


def test_the_newest_value_of_each_group_stands_in_postgres(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQL_POSTGRES_TEST", database.replace("+psycopg", ""))
    source = MemorySource("events", orders(1), time=TimeRule(("ts",), "ms"), bounded=False)
    with served([source]) as server:
        query = "SELECT who, count(*) AS n, sum(n) AS total FROM events GROUP BY who EMIT CHANGES EVERY 100ms"
        job(server, f"{query} SINCE EARLIEST", {"kind": "postgres", "url_env": "MQL_POSTGRES_TEST", "table": "totals"})
        for first in range(1, 301, 100):
            source.push(0, orders(first + 100)[first:])
        engine = sa.create_engine(database)

        def found() -> list[tuple[Any, ...]]:
            with engine.connect() as connection:
                if not sa.inspect(connection).has_table("totals"):
                    return []
                return [
                    tuple(row) for row in connection.execute(sa.text("SELECT who, n, total FROM totals ORDER BY 1"))
                ]

        want = [(f"w{at}", len(range(at, 301, 3)), sum(range(at, 301, 3))) for at in range(3)]
        wait_for(lambda: found() == want)
        engine.dispose()
        told = server.get("/v1/jobs/j").json()["sinks"][0]
        assert database.rpartition("@")[2] not in str(told)


def test_a_condition_chooses_rows_and_places_go_on(tmp_path: Path) -> None:
    source = MemorySource("events", orders(1), time=TimeRule(("ts",), "ms"), bounded=False)
    with receiver() as other, served([source], home=tmp_path, webhooks=LOOPBACK) as server:
        sinks = (
            {"kind": "webhook", "url": other.url, "when": "who = 'w1' AND n < 10"},
            {"kind": "duckdb", "path": "out.duckdb", "table": "t", "when": "n % 2 = 0", "key": ["n"]},
            {"kind": "parquet", "path": "files", "by": "none", "roll_every": 0.1},
        )
        job(server, "SELECT who, n FROM events", *sinks)
        source.push(0, orders(100)[1:])

        def sent() -> list[int]:
            return [sink["sent"] - sink.get("waiting", 0) for sink in server.get("/v1/jobs/j").json()["sinks"]]

        wait_for(lambda: sent() == [3, 49, 99])
    assert [row["n"] for body in other.bodies for row in body["rows"]] == [1, 4, 7]
    home = tmp_path / ".mql" / "sinks"
    assert duckdb.connect(str(home / "out.duckdb")).execute("SELECT count(*), sum(n) FROM t").fetchall() == [(49, 2450)]
    assert duckdb.sql(f"SELECT count(*) FROM '{home}/files/*.parquet'").fetchall() == [(99,)]


def test_a_broker_that_is_killed_and_comes_back_has_each_row_once(broker: Broker, tmp_path: Path) -> None:
    log = ResultLog(tmp_path / "log")
    settings = KafkaSettings(broker.address, "out", request_timeout_s=2)
    sink = KafkaSink(settings, KafkaTarget("out"), "job-out", texts_of)
    letters = DeadLogs(tmp_path / "dead", Keep(), log.clock).of_sink("0")
    delivery = Delivery("j", log, sink, {"kind": "kafka"}, threading.Event(), lambda level, text: None, letters)
    delivery.start()
    for first in range(0, 3_000, 100):
        told(log, *range(first, first + 100))
        if first == 1_000:
            wait_for(lambda: delivery.sent > 0)
            broker.kill()
        if first == 2_000:
            wait_for(lambda: delivery.trouble)
            broker.start()
    wait_for(lambda: delivery.told()["behind"] == 0, within_s=90)
    delivery.close()
    source = KafkaSource("out", settings)
    rows = [json.loads(text)["n"] for text in source.sample(10_000)]
    source.close()
    assert sorted(rows) == list(range(3_000))
