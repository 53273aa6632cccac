"""Dead letters: what is refused for good is kept once, told, sent again or let go of, and the rest goes on."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from support.receiver import LOOPBACK, receiver
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.exec.clock import ManualClock
from mql.exec.conditions import Condition
from mql.exec.kernel import Kernel
from server.cli import main
from server.deadletters import DeadLog, DeadLogs
from server.delivery import Delivery
from server.resultlog import Keep, ResultLog
from sources.sinks.contract import Away, Portion, Refused

DAY_US = 86_400_000_000


class Choosy:
    """A sink that keeps its place with its rows, and refuses some numbers for good."""

    rows_max = 1_000
    whole_frames = False

    def __init__(self, *refused: int) -> None:
        self.refused = set(refused)
        self.rows: list[int] = []
        self.place = 0
        self.writes = 0
        self.broken: int | None = None
        self.lost_after: int | None = None

    def open(self) -> int:
        return self.place

    def write(self, portion: Portion) -> None:
        self.writes += 1
        assert portion.first == self.place
        numbers = portion.rows.column("n").to_pylist()
        if self.broken in numbers:
            raise ValueError("ours")
        if self.refused & set(numbers):
            raise Refused("it does not like a number")
        if self.lost_after in numbers and portion.end > self.place:
            self.lost_after = None
            raise Away("just now")
        self.rows += numbers
        self.place = portion.end

    def missed(self, why: str) -> None:
        raise AssertionError(why)

    def idle(self) -> None:
        """All is done."""

    def told(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        """It stays as it is."""


@contextmanager
def delivered(home: Path, log: ResultLog, sink: Choosy, only: Condition | None = None) -> Iterator[Delivery]:
    letters = DeadLogs(home / "dead", Keep(), log.clock).of_sink("0")
    about = {"kind": "choosy"}
    delivery = Delivery("j", log, sink, about, threading.Event(), lambda level, text: None, letters, only)
    delivery.start()
    try:
        yield delivery
    finally:
        delivery.close()


def told(log: ResultLog, *numbers: int) -> None:
    log.append(pa.table({"n": list(numbers)}))
    log.commit()


def payloads(letters: DeadLog) -> list[int]:
    return [letter["payload"]["n"] for letter in reversed(letters.newest(None, 1_000))]


def test_the_rows_that_are_refused_are_found_and_all_others_are_written(tmp_path: Path) -> None:
    log, sink = ResultLog(tmp_path / "results"), Choosy(7, 500, 501, 999)
    told(log, *range(1_000))
    with delivered(tmp_path, log, sink) as delivery:
        wait_for(lambda: sink.place == 1_000)
        assert payloads(delivery.letters) == [7, 500, 501, 999]
        assert delivery.told()["dead"] == 4
        assert delivery.sent == 996
    assert sink.rows == [n for n in range(1_000) if n not in sink.refused]
    assert sink.writes < 100


def test_a_letter_tells_the_reason_the_sink_the_row_and_its_number(tmp_path: Path) -> None:
    log, sink = ResultLog(tmp_path / "results"), Choosy(12)
    told(log, 10, 11, 12)
    with delivered(tmp_path, log, sink) as delivery:
        wait_for(lambda: sink.place == 3)
        (letter,) = delivery.letters.newest(None, 10)
    at_us = letter.pop("at_us")
    assert abs(at_us - log.clock.now_us()) < DAY_US
    about = {"id": "sink-0:0", "kind": "refused", "sink": "0", "row": 2, "left_out": 0}
    assert letter == about | {"reason": "it does not like a number", "payload": {"n": 12}}


def test_of_rows_that_are_chosen_the_letters_have_their_numbers_among_all(tmp_path: Path) -> None:
    log, sink = ResultLog(tmp_path / "results"), Choosy(4, 5, 8)
    told(log, *range(10))
    kernel = Kernel()
    only = Condition("n % 2 = 0", (("n", "BIGINT"),), kernel.session())
    with delivered(tmp_path, log, sink, only) as delivery:
        wait_for(lambda: sink.place == 10)
        letters = delivery.letters.newest(None, 10)
    kernel.close()
    assert [(letter["row"], letter["payload"]["n"]) for letter in letters] == [(8, 8), (4, 4)]
    assert sink.rows == [0, 2, 6]


def test_a_crash_between_the_letter_and_the_place_makes_no_second_letter(tmp_path: Path) -> None:
    log, sink = ResultLog(tmp_path / "results"), Choosy(3, 4)
    told(log, *range(6))
    sink.lost_after = 5  # what is written behind the letters is lost once
    with delivered(tmp_path, log, sink):
        wait_for(lambda: sink.place == 6)
    sink.place, sink.rows = 0, []  # the sink has lost its place altogether
    with delivered(tmp_path, log, sink) as delivery:
        wait_for(lambda: sink.place == 6)
        assert payloads(delivery.letters) == [3, 4]
    assert sink.rows == [0, 1, 2, 5]


def test_a_row_over_which_the_sink_stumbles_is_set_aside_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.delivery.WAITS_S", (0.001,))
    log, sink = ResultLog(tmp_path / "results"), Choosy()
    sink.broken = 5
    told(log, *range(10))
    with delivered(tmp_path, log, sink) as delivery:
        wait_for(lambda: sink.place == 10)
        assert payloads(delivery.letters) == [5]
        (letter,) = delivery.letters.newest(None, 1)
        assert letter["reason"] == "an error of ours, see the server's log: ValueError"
    assert sink.rows == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_letters_are_sent_again_and_what_is_refused_again_stays(tmp_path: Path) -> None:
    log, sink = ResultLog(tmp_path / "results"), Choosy(1, 2, 3)
    told(log, *range(5))
    with delivered(tmp_path, log, sink) as delivery:
        wait_for(lambda: sink.place == 5)
        sink.refused = {2}
        again = delivery.again([0, 1, 2, 17])
        assert again.done.wait(10)
        assert (again.sent, again.refused, again.gone, again.waiting) == (2, 1, 1, 0)
        assert payloads(delivery.letters) == [2]
        assert delivery.letters.numbers()["sent"] == 2
        second = delivery.again([0, 2])
        assert second.done.wait(10)
        assert (second.sent, second.gone) == (0, 2)
    assert sorted(sink.rows) == [0, 1, 3, 4]


def test_letters_that_the_sink_stumbles_over_do_not_keep_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.delivery.WAITS_S", (0.001,))
    log, sink = ResultLog(tmp_path / "results"), Choosy(1)
    told(log, *range(3))
    with delivered(tmp_path, log, sink) as delivery:
        wait_for(lambda: sink.place == 3)
        sink.refused, sink.broken = set(), 1
        again = delivery.again([0])
        told(log, 3)
        wait_for(lambda: sink.place == 4)
        assert again.done.wait(10)
        assert (again.sent, again.refused) == (0, 1)
        assert payloads(delivery.letters) == [1]


def test_a_row_that_is_too_large_to_be_kept_twice_is_sent_again_from_the_results(tmp_path: Path) -> None:
    log, letters = ResultLog(tmp_path / "results"), DeadLog(tmp_path / "dead", "refused", Keep(), ManualClock())
    rows = pa.table({"n": [1, 2], "text": ["x" * 200_000, "y"]})
    log.append(rows)
    log.commit()
    letters.bury(rows, np.array([0, 1]), ["too large", "too large"])
    second, first = letters.newest(None, 10)
    assert (first["payload"], second["row"]) == ({"n": 2, "text": "y"}, 0)
    assert len(second["payload"]) == 4_096
    kept = [(numbers.tolist(), "event" in found.column_names) for numbers, found in letters.letters([0, 1])]
    assert kept == [([0], True), ([1], False)]


def test_letters_and_what_became_of_them_are_there_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    logs = DeadLogs(tmp_path, Keep(), clock)
    for n in range(5):
        logs.of_sink("0").bury(pa.table({"n": [n]}), np.array([n]), ["no"])
    assert logs.of_sink("0").close_letters([1, 3], "discarded") == 2
    assert logs.of_sink("0").close_letters([3], "discarded") == 0
    logs.close()
    again = DeadLogs(tmp_path, Keep(), clock).of_sink("0")
    assert payloads(again) == [0, 2, 4]
    assert again.numbers() | {"bytes": 0} == {"total": 5, "open": 3, "sent": 0, "discarded": 2, "bytes": 0}
    again.bury(pa.table({"n": [5]}), np.array([5]), ["no"])
    assert again.numbers()["total"] == 6


def test_a_letter_that_could_not_be_synced_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = DeadLog(tmp_path / "dead", "refused", Keep(), ManualClock())
    letters.bury(pa.table({"n": [1]}), np.array([1]), ["no"])

    def full(log: ResultLog) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ResultLog, "sync", full)
        with pytest.raises(OSError, match="No space"):
            letters.bury(pa.table({"n": [2]}), np.array([2]), ["no"])
    letters.bury(pa.table({"n": [2]}), np.array([2]), ["no"])
    assert payloads(letters) == [1, 2]
    assert letters.numbers()["total"] == 2


def test_half_a_letter_that_a_crash_left_is_cut_off(tmp_path: Path) -> None:
    logs = DeadLogs(tmp_path, Keep(), ManualClock())
    for n in range(3):
        logs.of_sink("0").bury(pa.table({"n": [n]}), np.array([n]), ["no"])
    logs.close()
    (segment,) = tmp_path.rglob("*.log")
    segment.write_bytes(segment.read_bytes()[:-10])
    again = DeadLogs(tmp_path, Keep(), ManualClock()).of_sink("0")
    assert payloads(again) == [0, 1]
    assert again.numbers()["total"] == 2


def test_pages_go_back_through_all_logs_and_hold_each_letter_once(tmp_path: Path) -> None:
    clock = ManualClock()
    logs = DeadLogs(tmp_path, Keep(), clock)
    for n in range(20):
        clock.advance(1_000_000)
        logs.of_sink(str(n % 3)).bury(pa.table({"n": [n]}), np.array([n]), ["no"])
    found: list[int] = []
    before: dict[str, int] = {}
    while True:
        letters, before = logs.page(logs.chosen(), before, 6)
        found += [letter["payload"]["n"] for letter in letters]
        if not before:
            break
    assert found == list(range(19, -1, -1))


def test_letters_are_kept_by_size_and_age(tmp_path: Path) -> None:
    clock = ManualClock()
    letters = DeadLog(tmp_path / "dead", "refused", Keep(age_s=100, bytes=100_000, segment_bytes=20_000), clock)
    for n in range(300):
        letters.bury(pa.table({"n": [n]}), np.array([n]), ["no"])
    numbers = letters.numbers()
    assert numbers["total"] == 300
    assert numbers["open"] < 100
    assert numbers["bytes"] < 130_000
    assert payloads(letters)[-1] == 299
    clock.advance(101_000_000)
    assert payloads(letters) == []


def test_what_has_come_since_is_told_the_oldest_first(tmp_path: Path) -> None:
    clock = ManualClock()
    logs = DeadLogs(tmp_path, Keep(), clock)
    reached: dict[str, int] = {}
    found: list[int] = []
    for n in range(12):
        clock.advance(1)
        logs.of_sink(str(n % 2)).bury(pa.table({"n": [n]}), np.array([n]), ["no"])
        if n % 4 == 3:
            for most in (3, 100):
                letters, reached = logs.following(logs.chosen(), reached, most)
                found += [letter["payload"]["n"] for letter in letters]
    assert found == list(range(12))
    assert logs.following(logs.chosen(), reached, 10)[0] == []


def test_letters_that_are_too_old_go_though_no_others_come(tmp_path: Path) -> None:
    clock = ManualClock(time.time_ns() // 1_000)
    logs = DeadLogs(tmp_path, Keep(age_s=100), clock)
    logs.of_sink("0").bury(pa.table({"n": [1]}), np.array([1]), ["no"])
    clock.advance(90_000_000)
    logs.expire()
    assert logs.of_sink("0").numbers()["open"] == 1
    clock.advance(20_000_000)
    logs.expire()
    counts = {"total": 1, "open": 0, "sent": 0, "discarded": 0, "bytes": 0}
    assert logs.of_sink("0").numbers() == counts
    logs.close()
    again = DeadLogs(tmp_path, Keep(age_s=100), clock)
    assert again.of_sink("0").numbers() == counts
    again.of_sink("0").bury(pa.table({"n": [2]}), np.array([2]), ["no"])
    assert again.of_sink("0").numbers()["total"] == 2
    assert payloads(again.of_sink("0")) == [2]


# --- of a job ------------------------------------------------------------------------------------------------


def job(server: Served, query: str, *sinks: dict[str, Any]) -> None:
    made = server.post("/v1/jobs", {"name": "j", "query": query, "sinks": list(sinks)})
    assert made.status == 201, made.body
    wait_for_state(server, "j", "running")


def letters_of(server: Served, query: str = "") -> list[dict[str, Any]]:
    answer = server.get(f"/v1/jobs/j/dead-letters{query}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["letters"]
    return found


def test_what_a_table_refuses_is_told_mended_and_sent_again(tmp_path: Path) -> None:
    home = tmp_path / ".mql" / "sinks"
    home.mkdir(parents=True)
    with duckdb.connect(str(home / "out.duckdb")) as connection:
        connection.execute("CREATE TABLE t (n BIGINT CHECK (n < 100))")
    with served(home=tmp_path) as server:
        server.events("orders", {"n": 0})
        job(server, "SELECT n FROM orders", {"kind": "duckdb", "path": "out.duckdb", "table": "t"})
        server.events("orders", *({"n": n} for n in (1, 200, 2, 300, 3)))
        wait_for(lambda: server.get("/v1/jobs/j").json()["sinks"][0]["sent"] == 3)
        assert [letter["payload"] for letter in letters_of(server)] == [{"n": 300}, {"n": 200}]
        assert "CHECK" in letters_of(server, "?kind=refused&n=1")[0]["reason"]
        assert letters_of(server, "?sink=1") == letters_of(server, "?kind=late") == []
        refused = server.post("/v1/jobs/j/dead-letters:retry", {"sink": "0"})
        assert refused.json() == {"sent": 0, "refused": 2, "gone": 0, "waiting": 0}
        with duckdb.connect(str(home / "out.duckdb")) as connection:
            connection.execute("CREATE TABLE u AS FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t")
        newest = letters_of(server)[0]["id"]
        assert b'mql_job_dead_letters{job="j"} 2.0' in server.get("/metrics").body

        def mql(*words: str) -> str:
            done = CliRunner().invoke(main, ["job", "dead-letters", "j", *words, "--server", server_url])
            assert done.exit_code == 0, done.output
            return done.output

        server_url = f"http://127.0.0.1:{server.port}"
        assert mql(newest, "--retry") == "1 sent, 0 refused, 0 gone, 0 waiting\n"
        (line,) = mql("--kind", "refused").splitlines()
        assert json.loads(line)["payload"] == {"n": 200}
        assert server.post("/v1/jobs/j/dead-letters:discard", {"kind": "refused"}).json() == {"discarded": 1}
        answer = server.get("/v1/jobs/j/dead-letters").json()
        assert answer["letters"] == []
        counts = answer["counts"]["sink-0"]
        assert counts | {"bytes": 0} == {"total": 2, "open": 0, "sent": 1, "discarded": 1, "bytes": 0}
        changes = [(one["action"], one["detail"]) for one in server.get("/v1/changes?name=j").json()["changes"][:2]]
        assert changes[0] == ("discard-dead-letters", {"kind": "refused", "letters": 1})
        assert changes[1] == ("retry-dead-letters", {"ids": [newest], "letters": 1})
    with duckdb.connect(str(home / "out.duckdb")) as connection:
        assert connection.execute("FROM t ORDER BY n").fetchall() == [(1,), (2,), (3,), (300,)]


def test_of_a_body_that_is_refused_the_bad_row_is_found(tmp_path: Path) -> None:
    with receiver() as other, served(home=tmp_path, webhooks=LOOPBACK) as server:
        other.refuses = lambda body: any(row["n"] == 3 for row in json.loads(body).get("rows", ()))
        server.events("orders", {"n": 0})
        job(server, "SELECT n FROM orders", {"kind": "webhook", "url": other.url})
        server.events("orders", *({"n": n} for n in range(1, 9)))
        wait_for(lambda: server.get("/v1/jobs/j").json()["sinks"][0]["sent"] == 7)
        assert [letter["payload"] for letter in letters_of(server)] == [{"n": 3}]
        taken = [row["n"] for body in other.taken for row in body["rows"]]
        assert sorted(taken) == [1, 2, 4, 5, 6, 7, 8]
        keys = [headers["idempotency-key"] for headers, _ in other.got]
        assert len(set(keys)) == len(keys)
        other.refuses = lambda body: False
        assert server.post("/v1/jobs/j/dead-letters:retry", {"kind": "refused"}).json()["sent"] == 1
        assert other.taken[-1]["rows"] == [{"n": 3}]
        assert other.got[-1][0]["idempotency-key"] not in keys


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({}, "invalid-body"),
        ({"ids": ["x:1"], "kind": "late"}, "invalid-body"),
        ({"ids": ["sink-9:1"]}, "unknown-letters"),
        ({"ids": ["late:1"]}, "not-a-row"),
        ({"kind": "unreadable"}, "not-a-row"),
    ],
)
def test_what_cannot_be_sent_again_is_told(said: dict[str, Any], code: str) -> None:
    with served() as server:
        server.events("orders", {"n": 0})
        job(server, "SELECT n FROM orders")
        assert server.post("/v1/jobs/j/dead-letters:retry", said).json()["code"] == code
        assert server.get("/v1/jobs/j/dead-letters?before=x").status == 422
