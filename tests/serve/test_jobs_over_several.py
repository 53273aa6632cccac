"""Jobs that read several sources, joined or side by side: what they promise over stops, restarts and SIGKILL."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.killing import call, start, wait_until_up
from support.postgres import free_port
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.catalog import TimeRule
from server.looks import looks_in, looks_of
from sources.memory import MemorySource

SECONDS = TimeRule(("ts",), "s")
WITHIN = "SELECT l.v, r.v AS w FROM a AS l JOIN b AS r ON l.k = r.k WITHIN 5s LATENESS 0s"
COUNTED = (
    "SELECT s, count(*) AS n FROM (SELECT 'a' AS s FROM a UNION ALL SELECT 'b' AS s FROM b) "
    "WINDOW 10s LATENESS 0s GROUP BY s"
)
QUERIES = {"joined": WITHIN, "merged": "SELECT source() AS s, v FROM a, b WHERE v % 2 = 0", "counted": COUNTED}
CONFIG = """
server: {port: %d, workers: 4}
sources:
  a: {kind: file, path: a.ndjson, format: ndjson, follow: true, time: {field: ts, unit: ms}, lateness: 0s}
  b: {kind: file, path: b.ndjson, format: ndjson, follow: true, time: {field: ts, unit: ms}, lateness: 0s}
"""
KILLED = {
    "joined": "SELECT l.v, r.v AS w FROM a AS l JOIN b AS r ON l.k = r.k WITHIN 100ms SINCE EARLIEST",
    "left": "SELECT l.v, r.v AS w FROM a AS l LEFT JOIN b AS r ON l.v = r.v WITHIN 100ms SINCE EARLIEST",
    "merged": "SELECT source() AS s, v FROM a, b WHERE v % 7 = 3 SINCE EARLIEST",
    "counted": "SELECT s, sum(v) AS v FROM (SELECT 'a' AS s, v FROM a UNION ALL SELECT 'b' AS s, v FROM b) "
    "WINDOW TUMBLING 1s GROUP BY s SINCE EARLIEST",
}
ANSWERS = {
    "joined": "SELECT l.v, r.v FROM a l JOIN b r ON l.k = r.k AND abs(l.ts - r.ts) <= 100",
    "left": "SELECT l.v, r.v FROM a l LEFT JOIN b r ON l.v = r.v AND abs(l.ts - r.ts) <= 100",
    "merged": "SELECT s, v FROM (SELECT 'a' s, v FROM a UNION ALL SELECT 'b', v FROM b) WHERE v % 7 = 3",
    "counted": "SELECT s, sum(v)::BIGINT FROM (SELECT 'a' s, * FROM a UNION ALL SELECT 'b', * FROM b) "
    "WHERE v >= 0 GROUP BY s, ts // 1000",
}
KILLS, EVENTS, SEED = 2, 4_000, 11


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "k": at // 5, "v": at} for at in range(first, last)]


def told(server: Served, name: str) -> Counter[tuple[Any, ...]]:
    rows = server.get(f"/v1/jobs/{name}/results?limit=10000").json()["rows"]
    return Counter(tuple(row.values())[-2:] for row in rows)


def wanted(name: str, first: int, last: int) -> Counter[tuple[Any, ...]]:
    """The rows about events with times from `first` to before `last`, on both sides."""
    times = range(first, last)
    match name:
        case "joined":
            return Counter((v, w) for v in times for w in times if v // 5 == w // 5)
        case "merged":
            return Counter((source, v) for source in "ab" for v in times if v % 2 == 0)
        case _:
            return Counter((source, 10) for source in "ab" for at in times if at % 10 == 9)


@pytest.mark.parametrize("name", QUERIES)
def test_a_job_over_several_sources_goes_on_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    a, b = (MemorySource(source, events(0, 10), bounded=False, time=SECONDS) for source in "ab")
    said = {"name": "j", "query": QUERIES[name], "guarantee": "exactly_once", "checkpoint_every": 0.05}
    with served([a, b], home=tmp_path) as server:
        assert server.post("/v1/jobs", said).status == 201
        wait_for_state(server, "j", "running")
        a.push(0, events(10, 23))
        b.push(0, events(10, 21))
        wait_for(lambda: told(server, "j") >= wanted(name, 10, 20))
        assert server.post("/v1/jobs/j:stop").json()["state"] == "stopped"
        positions = server.get("/v1/jobs/j").json()["checkpoint"]["positions"]
        assert len(positions) == 2
        # What one side told before the stop meets what comes of the other while nobody reads.
        b.push(0, events(21, 28))
        assert server.post("/v1/jobs/j:start").status == 200
        a.push(0, events(23, 33))
        b.push(0, events(28, 33))
        wait_for(lambda: told(server, "j") >= wanted(name, 10, 30))
    again = [MemorySource(source, events(0, 63), bounded=False, time=SECONDS) for source in "ab"]
    with served(again, home=tmp_path) as server:
        wait_for(lambda: told(server, "j") == wanted(name, 10, 63))


def test_a_checkpoint_of_an_earlier_version_knows_one_source() -> None:
    info = MemorySource("events", events(0, 3), bounded=False).info
    kept = json.loads(json.dumps({**looks_of(info), "began_us": 1, "scale": None}))
    assert [look["source"] for look in looks_in(kept)["sources"]] == ["events"]
    assert looks_in(looks_in(kept)) == looks_in(kept)


@pytest.mark.timeout(150)
def test_joins_and_unions_lose_and_double_nothing_however_they_are_killed(tmp_path: Path) -> None:
    dice, port = random.Random(SEED), free_port()
    (tmp_path / "mql.yaml").write_text(CONFIG % port)
    for name in "ab":
        (tmp_path / f"{name}.ndjson").write_bytes(lines(name, 0, 1))
    process = start(tmp_path)
    wait_until_up(port, process)
    for name, query in KILLED.items():
        said = {"name": name, "query": query, "guarantee": "exactly_once", "checkpoint_every": 0.1}
        call(port, "POST", "/v1/jobs", said)
    at = 1
    for number in range(1, KILLS + 1):
        while at < EVENTS * number // KILLS:
            due = at + dice.randrange(1, 100)
            for name in dice.sample("ab", 2):  # either side may be ahead, and what comes may end within a line
                append(tmp_path / f"{name}.ndjson", lines(name, at, due), dice)
            at = due
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(tmp_path)
        wait_until_up(port, process)
        time.sleep(dice.random() / 2)
    for name in "ab":  # one event far behind closes all windows
        append(tmp_path / f"{name}.ndjson", b'{"ts": %d, "k": -1, "v": -1}\n' % (EVENTS * 20), dice)
    want = answers(tmp_path)
    for name, rows in want.items():
        wait_for(lambda name=name, rows=rows: rows_so_far(port, name) >= rows.total(), within_s=40)
    found = {name: call(port, "GET", f"/v1/jobs/{name}/results?limit=100000")["rows"] for name in want}
    process.terminate()
    assert process.wait(30) == 0
    for name, rows in want.items():
        told = Counter(tuple(row.values())[-2:] for row in found[name])
        assert not rows - told, f"{name}: lost with seed {SEED}: {list(rows - told)[:5]}"
        assert not told - rows, f"{name}: too many with seed {SEED}: {list(told - rows)[:5]}"


def lines(source: str, first: int, last: int) -> bytes:
    step = 1 if source == "a" else 3
    times = (at for at in range(first, last) if at % step == 0)
    return b"".join(b'{"ts": %d, "k": %d, "v": %d}\n' % (at * 10, at // 4, at) for at in times)


def append(path: Path, data: bytes, dice: random.Random) -> None:
    cut = dice.randrange(len(data) + 1)
    with path.open("ab", buffering=0) as file:
        file.write(data[:cut])
        time.sleep(0.005)
        file.write(data[cut:])


def rows_so_far(port: int, name: str) -> int:
    return int(call(port, "GET", f"/v1/jobs/{name}")["results"]["rows"])


def answers(home: Path) -> dict[str, Counter[Any]]:
    con = duckdb.connect()
    for name in "ab":
        con.execute(f"CREATE TABLE {name} AS SELECT * FROM read_json('{home / name}.ndjson')")
    return {name: Counter(con.execute(sql).fetchall()) for name, sql in ANSWERS.items()}
