"""Events that a job could not read, or that came too late: dead letters that belong to its checkpoints."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.killing import call, start, wait_until_up
from support.postgres import free_port
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.catalog import TimeRule
from mql.exec.items import Chunk
from server import resultlog
from sources.memory import MemorySource

WINDOW = "SELECT k, count(*) AS n FROM live WINDOW TUMBLING 10s GROUP BY k"


class Live:
    """A source that is pushed events and texts that are none, and a server that reads it."""

    def __init__(self, source: MemorySource, server: Served) -> None:
        self.source = source
        self.server = server

    def push(self, *events: tuple[int, str]) -> None:
        """Events (second, k)."""
        self.source.push(0, [{"ts": ts * 1_000, "k": k} for ts, k in events])

    def text(self, data: bytes) -> int:
        """Gives its offset."""
        first = self.source.end()[0]
        self.source.ring.append(Chunk(0, data, first, self.source.clock.now_us()))
        return first

    def job(self, query: str, guarantee: str = "exactly_once", name: str = "j", **said: Any) -> None:
        body = {"name": name, "query": query, "guarantee": guarantee} | said
        if guarantee != "at_most_once":
            body.setdefault("checkpoint_every", 0.05)
        made = self.server.post("/v1/jobs", body)
        assert made.status == 201, made.body
        wait_for_state(self.server, name, "running")

    def letters(self, kind: str, name: str = "j") -> list[dict[str, Any]]:
        answer = self.server.get(f"/v1/jobs/{name}/dead-letters?kind={kind}&n=1000")
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = answer.json()["letters"]
        return list(reversed(found))

    def counts(self, log: str, name: str = "j") -> dict[str, int]:
        found: dict[str, int] = self.server.get(f"/v1/jobs/{name}/ledger").json()["dead_letters"].get(log, {})
        return found


def as_it_was(source: MemorySource) -> MemorySource:
    """The same events, for another server."""
    found = MemorySource("live", [{"ts": 0, "k": "a"}], time=TimeRule(("ts",), "ms"), bounded=False)
    for raw in source.ring.stored(found.end(), None):
        found.ring.append(raw)
    return found


@contextmanager
def live(home: Path, source: MemorySource | None = None) -> Iterator[Live]:
    if source is None:
        source = MemorySource("live", [{"ts": 0, "k": "a"}], time=TimeRule(("ts",), "ms"), bounded=False)
    with served([source], home=home) as server:
        yield Live(source, server)


@pytest.mark.parametrize("guarantee", ["at_most_once", "at_least_once", "exactly_once"])
def test_what_cannot_be_read_is_a_letter_of_the_job(tmp_path: Path, guarantee: str) -> None:
    with live(tmp_path) as at:
        at.job("SELECT k FROM live", guarantee)
        first = at.text(b'{broken\n{"ts": 1000, "k": "b"}\noops\n{"k": "no time"}\n')
        letters = wait_for(lambda: len(at.letters("unreadable")) == 3 and at.letters("unreadable"))
        assert [(one["reason"], one["offset"] - first, one["payload"]) for one in letters] == [
            ("not JSON", 31, "oops"),
            ("not JSON", 0, "{broken"),
            ('no event time in "ts"', 36, '{"k": "no time"}'),
        ]
        assert {(one["kind"], one["source"], one["split"], one["left_out"]) for one in letters} == {
            ("unreadable", "live", 0, 0)
        }
        ledger = at.server.get("/v1/jobs/j/ledger").json()
        assert ledger["run"]["malformed"] == ledger["dead_letters"]["unreadable"]["total"] == 3
    with live(tmp_path, as_it_was(at.source)) as again:
        assert len(again.letters("unreadable")) == 3
        wait_for_state(again.server, "j", "running")
        again.text(b"more\n")
        wait_for(lambda: len(again.letters("unreadable")) == 4)
        assert again.counts("unreadable")["total"] == 4


def test_a_job_that_reads_history_and_ends_keeps_what_it_could_not_read(tmp_path: Path) -> None:
    with live(tmp_path) as at:
        at.text(b'oops\n{"ts": 1000, "k": "b"}\n{"k": 1}\n')
        body = {"name": "j", "query": "SELECT k FROM live SINCE EARLIEST UNTIL NOW"}
        assert at.server.post("/v1/jobs", body).status == 201
        wait_for_state(at.server, "j", "completed")
        assert {one["payload"] for one in at.letters("unreadable")} == {"oops", '{"k": 1}'}
        assert at.server.get("/v1/jobs/j/ledger").json()["total"]["malformed"] == 2


def test_late_events_are_letters_with_all_that_the_query_read_of_them(tmp_path: Path) -> None:
    with live(tmp_path) as at:
        at.job(WINDOW)
        at.push((5, "a"), (100, "a"), (3, "late"), (101, "b"), (4, "later"))
        letters = wait_for(lambda: len(at.letters("late")) == 2 and at.letters("late"))
        assert [(one["payload"]["k"], one["payload"]["event_time_us"]) for one in letters] == [
            ("late", 3_000_000),
            ("later", 4_000_000),
        ]
        assert {(one["source"], one["reason"]) for one in letters} == {("live", "its windows had closed")}
        assert letters[0]["offset"] == letters[0]["payload"]["offset"]
        answer = at.server.post("/v1/jobs/j/dead-letters:discard", {"ids": [letters[0]["id"]]})
        assert answer.json() == {"discarded": 1}
        assert [one["payload"]["k"] for one in at.letters("late")] == ["later"]


def test_a_property_may_be_called_as_what_is_told_beside_it(tmp_path: Path) -> None:
    events = [{"ts": 0, "split": "s", "k": "a"}]
    source = MemorySource("live", events, time=TimeRule(("ts",), "ms"), bounded=False)
    with live(tmp_path, source) as at:
        at.job("SELECT split, count(*) AS n FROM live WINDOW TUMBLING 10s GROUP BY split")
        source.push(0, [{"ts": 100_000, "split": "x"}, {"ts": 3_000, "split": "late"}])
        (letter,) = wait_for(lambda: at.letters("late"))
        assert (letter["split"], letter["payload"]["split"], letter["payload"]["_split"]) == (0, "late", 0)


def test_letters_behind_the_last_checkpoint_are_taken_back_and_come_again(tmp_path: Path) -> None:
    checkpoints = tmp_path / ".mql" / "jobs" / "j" / "checkpoints"
    with live(tmp_path) as at:
        at.job(WINDOW, checkpoint_every=1)
        first = min(wait_for(lambda: list(checkpoints.glob("*.checkpoint"))))
        before = first.read_bytes()
        at.push((100, "a"), (3, "late"))
        at.text(b"oops\n")
        wait_for(lambda: len(at.letters("unreadable")) == len(at.letters("late")) == 1)
    for path in checkpoints.glob("*.checkpoint"):
        path.unlink()
    first.write_bytes(before)  # as after a crash before the last checkpoint
    with live(tmp_path, as_it_was(at.source)) as again:
        wait_for_state(again.server, "j", "running")
        wait_for(lambda: len(again.letters("unreadable")) == len(again.letters("late")) == 1)
        again.text(b"more\n")
        wait_for(lambda: len(again.letters("unreadable")) == 2)
        assert len(again.letters("late")) == 1
        assert [again.counts(kind)["total"] for kind in ("unreadable", "late")] == [2, 1]


def test_jobs_that_share_a_plan_have_letters_of_their_own(tmp_path: Path) -> None:
    with live(tmp_path) as at:
        at.push(*((at_s, f"d{at_s % 2}") for at_s in range(1, 5)))
        template = """
name: keyed
params: {key: {type: string, required: true}}
query: SELECT k, count(*) AS n FROM live WHERE k = $key WINDOW TUMBLING 10s GROUP BY k
guarantee: exactly_once
"""
        assert at.server.send("PUT", "/v1/templates/keyed", template.encode()).status in (200, 201)
        body = {"params": [{"key": f"d{n}"} for n in range(2)], "name": "j", "checkpoint_every": 0.05}
        assert at.server.post("/v1/templates/keyed/jobs", body).status == 201
        for name in ("j-1", "j-2"):
            wait_for_state(at.server, name, "running")
        at.text(b"oops\n")
        at.push((100, "d0"), (100, "d1"), (1, "d0"), (2, "d0"), (3, "d1"))
        wait_for(lambda: [len(at.letters("late", name)) for name in ("j-1", "j-2")] == [2, 1])
        wait_for(lambda: [len(at.letters("unreadable", name)) for name in ("j-1", "j-2")] == [1, 1])
        assert [one["payload"]["k"] for one in at.letters("late", "j-2")] == ["d1"]
        assert [at.counts("late", name)["total"] for name in ("j-1", "j-2")] == [2, 1]


def test_a_flood_is_counted_and_sampled_and_takes_a_bounded_part_of_the_disk(tmp_path: Path) -> None:
    with live(tmp_path) as at:
        at.job("SELECT k FROM live", dead_letters={"bytes": "1MiB"})
        bad = b"".join(b"no event, number %07d, %s\n" % (n, b"x" * 100) for n in range(1_000))
        for n in range(1_000):
            at.text(bad + b'{"ts": 5000, "k": "good"}\n')
            if n % 250 == 0:
                wait_for(lambda n=n: at.server.get("/v1/jobs/j").json()["results"]["rows"] >= n, 60)
        wait_for(lambda: at.server.get("/v1/jobs/j").json()["results"]["rows"] == 1_000, 60)
        wait_for(lambda: at.server.get("/v1/jobs/j/ledger").json()["run"]["malformed"] == 1_000_000)
        at.text(b"the last\n")
        wait_for(lambda: at.letters("unreadable")[-1:] and at.letters("unreadable")[-1]["payload"] == "the last")
        counts = at.counts("unreadable")
        assert counts["total"] == 1_000_001
        assert counts["bytes"] < 2 << 20
        assert sum(one["left_out"] for one in at.letters("unreadable")) > 0
    size = sum(path.stat().st_size for path in (tmp_path / ".mql" / "jobs" / "j" / "dead").rglob("*") if path.is_file())
    assert size < 2 << 20


def test_a_job_waits_for_a_disk_that_holds_no_letters_and_keeps_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = resultlog.write_all

    def full(out: int, data: bytes) -> None:
        if b"reason" in data:
            os.write(out, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(out, data)

    with live(tmp_path) as at:
        at.job("SELECT k FROM live")
        monkeypatch.setattr(resultlog, "write_all", full)
        at.text(b"oops\n")
        wait_for(lambda: "No space left" in (at.server.get("/v1/jobs/j").json()["trouble"] or ""))
        assert at.letters("unreadable") == []
        monkeypatch.setattr(resultlog, "write_all", whole)
        wait_for(lambda: len(at.letters("unreadable")) == 1)
        at.push((1, "a"))
        wait_for(lambda: at.server.get("/v1/jobs/j").json()["results"]["rows"] == 1)


def test_who_may_not_read_all_of_the_events_reads_no_letters_of_them(tmp_path: Path) -> None:
    with live(tmp_path) as at:
        at.job(WINDOW)
        at.push((100, "a"), (3, "secret"))
        at.text(b"oops\n")
        wait_for(lambda: len(at.letters("unreadable")) == len(at.letters("late")) == 1)
        root = at.server.post("/v1/tokens", {"name": "root", "scope": "admin"}).json()["token"]
        admin = {"Authorization": f"Bearer {root}"}

        def told(name: str, path: str = "", **said: Any) -> tuple[int, Any]:
            body = {"name": name, "scope": "read", **said}
            made = at.server.send("POST", "/v1/tokens", body, admin)
            assert made.status == 201, made.body
            own = {"Authorization": f"Bearer {made.json()['token']}"}
            answer = at.server.send("GET", f"/v1/jobs/j/dead-letters{path}", headers=own)
            return answer.status, answer.json()

        hidden = {"hide": {"live": ["k"]}}
        assert told("a", **hidden)[1]["code"] == "hidden"
        assert told("b", "?kind=late", **hidden)[1]["code"] == "hidden"
        assert told("c", "?kind=unreadable", sources=["job.*"])[1]["code"] == "hidden"
        assert told("d", sources=["live"])[0] == 404
        assert told("e", "?kind=refused", **hidden)[1]["letters"] == []
        assert len(told("f", sources=["live", "job.j"])[1]["letters"]) == 2
        may_not = told("g", "?kind=refused", hide={"job.j": ["k"]})
        assert may_not[1]["code"] == "hidden"


# --- kill -9 -------------------------------------------------------------------------------------------------

KILLS = int(os.environ.get("MQL_TEST_DEAD_KILLS", "2"))
SEED = int(os.environ.get("MQL_TEST_SEED", "11"))
EVENTS = 3_000
CONFIG = """
server: {port: %d, workers: 2}
sources:
  events: {kind: file, path: events.ndjson, format: ndjson, follow: true, time: {field: ts, unit: ms}, lateness: 0s}
"""


def line(at: int) -> bytes:
    """Each 40th can't be read, each 50th comes a minute too late."""
    if at % 40 == 7:
        return b"broken %d\n" % at
    return b'{"ts": %d, "v": %d}\n' % (at * 100 - (60_000 if at % 50 == 13 and at > 1_000 else 0), at)


@pytest.mark.timeout(90 + 20 * KILLS)
def test_each_letter_is_there_once_however_often_the_server_is_killed(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    port = free_port()
    (tmp_path / "mql.yaml").write_text(CONFIG % port)
    events = tmp_path / "events.ndjson"
    events.write_bytes(line(0))
    written = threading.Event()

    def write() -> None:
        with events.open("ab", buffering=0) as file:
            for first in range(1, EVENTS, 50):
                file.write(b"".join(line(at) for at in range(first, min(EVENTS, first + 50))))
                time.sleep(0.02)
        written.set()

    threading.Thread(target=write, daemon=True).start()
    process = start(tmp_path)
    wait_until_up(port, process)
    table = tmp_path / ".mql" / "sinks" / "out.duckdb"
    table.parent.mkdir()
    with duckdb.connect(str(table)) as connection:
        connection.execute("CREATE TABLE t (v BIGINT CHECK (v % 100 <> 53))")
    said = {"guarantee": "exactly_once", "checkpoint_every": 0.1}
    query = "SELECT count(*) AS n, sum(v) AS v FROM events WINDOW TUMBLING 1s SINCE EARLIEST"
    call(port, "POST", "/v1/jobs", {"name": "windowed", "query": query} | said)
    query = "SELECT v FROM events WHERE v % 10 = 3 SINCE EARLIEST"
    sinks = [{"kind": "duckdb", "path": "out.duckdb", "table": "t"}]
    call(port, "POST", "/v1/jobs", {"name": "plain", "query": query, "sinks": sinks} | said)
    for _ in range(KILLS):
        time.sleep(0.3 + dice.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(tmp_path)
        wait_until_up(port, process)
    assert written.wait(60)
    broken = [at for at in range(EVENTS) if at % 40 == 7]
    late = [at for at in range(EVENTS) if at % 40 != 7 and at % 50 == 13 and at > 1_000]

    matching = [at for at in range(EVENTS) if at % 40 != 7 and at % 10 == 3]
    refused = [at for at in matching if at % 100 == 53]

    def letters(kind: str, name: str = "windowed") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        more: str | None = ""
        while more is not None:
            before = f"&before={more}" if more else ""
            page = call(port, "GET", f"/v1/jobs/{name}/dead-letters?kind={kind}&n=1000{before}")
            found += page["letters"]
            more = page["before"]
        return found

    wait_for(lambda: len(letters("unreadable")) >= len(broken) and len(letters("late")) >= len(late), 60)
    wait_for(lambda: call(port, "GET", "/v1/jobs/plain")["sinks"][0]["behind"] == 0, 60)
    wait_for(lambda: len(letters("refused", "plain")) >= len(refused), 60)
    found = sorted(int(one["payload"].split()[1]) for one in letters("unreadable"))
    assert found == broken, f"seed {SEED}"
    assert sorted(one["payload"]["v"] for one in letters("late")) == late, f"seed {SEED}"
    counts = call(port, "GET", "/v1/jobs/windowed/ledger")["dead_letters"]
    assert (counts["unreadable"]["total"], counts["late"]["total"]) == (len(broken), len(late))
    assert sorted(one["payload"]["v"] for one in letters("refused", "plain")) == refused, f"seed {SEED}"
    process.terminate()
    process.wait(30)
    with duckdb.connect(str(table)) as connection:
        rows = [v for (v,) in connection.execute("SELECT v FROM t ORDER BY v").fetchall()]
    assert rows == [v for v in matching if v not in refused], f"seed {SEED}"
