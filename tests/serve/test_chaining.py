"""`FROM job.name`: a job's results are a source, live and over history, and each row of it comes once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.feed import From
from server.chaining import JobSource, check_cycle
from server.outline import Outline
from server.resultlog import Keep, ResultLog
from sources.memory import MemorySource

FIRST = "SELECT service, window_start, window_end, count(*) AS n FROM events WINDOW 10s GROUP BY service"
SECOND = "SELECT window_start, sum(n) AS n, count(*) AS rows FROM job.first WINDOW 1m GROUP BY ALL"
TWICE = {"guarantee": "exactly_once", "checkpoint_every": 0.05}


def events(first: int, last: int) -> list[dict[str, Any]]:
    """Two events a second, of two services."""
    return [{"ts": at * 1000, "service": f"s{part}"} for at in range(first, last) for part in range(2)]


def story(*seen: dict[str, Any]) -> MemorySource:
    return MemorySource("events", seen or events(0, 1), time=TimeRule(("ts",), "ms"), bounded=False)


def job(server: Served, name: str, query: str, **more: Any) -> None:
    made = server.post("/v1/jobs", {"name": name, "query": query, **TWICE, **more})
    assert made.status == 201, made.body
    wait_for_state(server, name, "running")


def rows_of(server: Served, name: str) -> list[Any]:
    return list(server.get(f"/v1/jobs/{name}/results").json()["rows"])


def test_windows_of_windows_have_the_times_of_the_events() -> None:
    source = story()
    with served([source]) as server:
        job(server, "first", FIRST)
        job(server, "second", SECOND.replace("GROUP BY ALL", "GROUP BY service").replace("SELECT", "SELECT service,"))
        source.push(0, events(1, 200))
        wait_for(lambda: len(rows_of(server, "second")) == 6)
        rows = rows_of(server, "second")
    assert {(row["service"], row["window_start"][14:16], row["n"], row["rows"]) for row in rows} == {
        (service, minute, n, 6) for service in ("s0", "s1") for minute, n in (("00", 59), ("01", 60), ("02", 60))
    }


def test_since_reads_what_the_job_has_told_and_then_goes_on() -> None:
    source = story()
    with served([source]) as server:
        job(server, "first", FIRST)
        source.push(0, events(1, 36))
        wait_for(lambda: len(rows_of(server, "first")) == 6)
        query = "SELECT service, n FROM job.first SINCE EARLIEST"
        with server.stream("POST", "/v1/queries", {"query": query}, Accept="text/event-stream") as stream:
            assert len(stream.rows(6)) == 6
            source.push(0, events(36, 46))
            assert len(stream.rows(2)) == 2
        replay = server.post("/v1/replays", {"query": "SELECT sum(n) AS n FROM job.first SINCE EARLIEST UNTIL NOW"})
        assert replay.json()["rows"][0]["n"] == 78  # the first event of each was there before the job
        described = server.get("/v1/sources/job.first").json()
        assert (described["kind"], described["history"], described["lateness"]) == ("job", True, 0)
        shape = server.get("/v1/sources/job.first/shape").json()["properties"]
        assert ["n", "BIGINT"] in [[*one["path"], one["type"]] for one in shape]
        assert server.send("DELETE", "/v1/sources/job.first").json()["code"] == "source-of-a-job"


def test_the_chain_goes_on_after_restarts_of_either_and_of_the_server(tmp_path: Path) -> None:
    whole = events(0, 400)
    source = story()
    with served([source], home=tmp_path) as server:
        job(server, "first", FIRST)
        job(server, "plain", "SELECT service, window_start, n FROM job.first")
        source.push(0, whole[2:100])
        wait_for(lambda: len(rows_of(server, "plain")) >= 8)
        server.post("/v1/jobs/first:stop")
        source.push(0, whole[100:200])
        server.post("/v1/jobs/first:start")
        wait_for_state(server, "first", "running")
        server.post("/v1/jobs/plain:stop")
        source.push(0, whole[200:300])
        server.post("/v1/jobs/plain:start")
        wait_for(lambda: len(rows_of(server, "plain")) >= 26)
    source = story(*whole[:300])
    with served([source], home=tmp_path) as server:
        wait_for_state(server, "plain", "running")
        source.push(0, whole[300:])
        wait_for(lambda: len(rows_of(server, "plain")) >= 78)
        first, plain = rows_of(server, "first"), rows_of(server, "plain")
    assert [(row["service"], row["window_start"], row["n"]) for row in plain] == [
        (row["service"], row["window_start"], row["n"]) for row in first
    ]
    assert len(plain) == len({json.dumps(row) for row in plain}) == 78


def test_who_reads_a_job_that_is_deleted_fails_and_says_why() -> None:
    with served([story()]) as server:
        job(server, "first", FIRST)
        job(server, "second", "SELECT n FROM job.first")
        with server.stream(
            "POST", "/v1/queries", {"query": "SELECT n FROM job.first"}, Accept="text/event-stream"
        ) as stream:
            stream.until("meta")
            assert server.send("DELETE", "/v1/jobs/first").status == 204
            assert json.loads(stream.until("error")["data"])["code"] == "upstream-deleted"
        wait_for_state(server, "second", "failed")
        told = server.get("/v1/jobs/second").json()
        assert told["reason"] == 'job "first", whose results it reads, was deleted'
        job(server, "first", FIRST)
        server.post("/v1/jobs/second:start")
        wait_for_state(server, "second", "running")


def test_jobs_do_not_read_each_other_in_a_circle() -> None:
    with served([story()]) as server:
        job(server, "first", FIRST)
        job(server, "second", "SELECT service, n FROM job.first")
        server.send("DELETE", "/v1/jobs/first")
        wait_for_state(server, "second", "failed")
        made = server.post("/v1/jobs", {"name": "first", "query": "SELECT n FROM job.second"})
        assert made.json()["code"] == "cycle"
        assert "first from second from first" in made.json()["detail"]
        made = server.post("/v1/jobs", {"name": "second", "query": "SELECT n FROM job.second"})
        assert made.json()["code"] in ("cycle", "job-exists")


def test_a_reader_of_a_job_that_stands_still_is_told_so() -> None:
    with served([story()]) as server:
        job(server, "first", FIRST)
        server.post("/v1/jobs/first:pause")
        said = {"query": "SELECT n FROM job.first"}
        made = server.post("/v1/queries", said, Accept="application/json").json()
        wait_for(lambda: server.get(f"/v1/queries/{made['id']}").json()["status"]["trouble"])
        status = server.get(f"/v1/queries/{made['id']}").json()["status"]
        assert status["trouble"] == "job first is paused"


def test_names_of_jobs_results_cannot_be_declared() -> None:
    with served([story()]) as server:
        assert server.send("PUT", "/v1/sources/job.x", {"kind": "http"}).status == 422


# --- the source by itself ------------------------------------------------------------------------------------


def nothing(level: str, text: str) -> None:
    """Nobody looks."""


OUTLINE = Outline((("n", "BIGINT"),), False, False, None, None, 0, ("events",))


def test_a_place_in_an_earlier_jobs_results_is_none_in_these(tmp_path: Path) -> None:
    first, second = (JobSource("j", OUTLINE, ResultLog(tmp_path / name), lambda: None, nothing) for name in "ab")
    assert first.split != second.split
    assert first.info.name == "job.j"


def test_circles_are_found_however_long() -> None:
    def reads(*names: str) -> Outline:
        return Outline((), False, False, None, None, 0, tuple(f"job.{name}" for name in names))

    known = {"b": reads("c"), "c": reads("d", "e"), "d": reads(), "e": reads("a")}
    check_cycle("x", reads("b"), known)
    with pytest.raises(MqlError, match="a from b from c from e from a"):
        check_cycle("a", reads("b"), known)
    with pytest.raises(MqlError, match="a from a"):
        check_cycle("a", reads("a"), known)


def test_rows_that_are_not_kept_are_counted(tmp_path: Path) -> None:
    log = ResultLog(tmp_path, Keep(bytes=0, segment_bytes=1))
    said: list[str] = []
    source = JobSource("j", OUTLINE, log, lambda: None, lambda level, text: said.append(text))
    for at in range(5):
        log.append(pa.table({"n": [at, at]}))
        log.commit()
    reader = source.open(From({source.split: 1}))
    [rows] = reader.poll(0, 1 << 20)
    assert rows.next_offset == 10
    assert reader.trouble == "7 rows of job j were gone before they were read"
    assert reader.poll(0, 1 << 20) == []
    assert reader.trouble is None
    assert said == ["7 rows were gone before job.j gave them"]
    reader.close()
