"""A server that is killed at random instants loses nothing and tells nothing twice.

The events go on being appended to a followed file while the server is killed (SIGKILL) and started again. In the end
the results of an exactly-once job are compared with what DuckDB says of the whole file, row by row.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.killing import call, start, wait_until_up
from support.postgres import free_port

KILLS = int(os.environ.get("MQL_TEST_KILLS", "20"))
EVENTS = 100_000
BURSTS_A_ROUND = 150
SEED = int(os.environ.get("MQL_TEST_SEED", "7"))
CONFIG = """
server: {port: %d, workers: 4}
sources:
  events: {kind: file, path: events.ndjson, format: ndjson, follow: true, time: {field: ts, unit: ms}, lateness: 0s}
"""
WINDOWED = (
    "SELECT window_start, k, count(*) AS n, sum(v) AS v FROM events WINDOW TUMBLING 10s GROUP BY k SINCE EARLIEST"
)
PLAIN = "SELECT ts, v FROM events WHERE v % 10 = 3 SINCE EARLIEST"


def event(at: int) -> bytes:
    return b'{"ts": %d, "k": "k%d", "v": %d}\n' % (at * 10, at * 7919 % 13, at * 31 % 1000)


class Writer(threading.Thread):
    """Appends events in small bursts, often half a line at their end, as far as it has been allowed to."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.dice = dice
        self.allowed = 0

    def run(self) -> None:
        at, burst = 1, EVENTS // KILLS // BURSTS_A_ROUND + 1
        with self.path.open("ab", buffering=0) as file:
            while at < EVENTS:
                due = max(at, min(self.allowed, at + burst))
                data = b"".join(event(one) for one in range(at, due))
                cut = self.dice.randrange(len(data) + 1)
                file.write(data[:cut])
                time.sleep(0.005)
                file.write(data[cut:])
                at = due


@pytest.mark.timeout(280)
def test_nothing_is_lost_or_doubled_however_often_it_is_killed(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    port = free_port()
    (tmp_path / "mql.yaml").write_text(CONFIG % port)
    events = tmp_path / "events.ndjson"
    events.write_bytes(event(0))
    writer = Writer(events, dice)
    writer.start()
    process = start(tmp_path)
    wait_until_up(port, process)
    for name, query, every in (("windowed", WINDOWED, 0.1), ("plain", PLAIN, 0.4)):
        said = {"name": name, "query": query, "guarantee": "exactly_once", "checkpoint_every": every}
        call(port, "POST", "/v1/jobs", said)
    for number in range(1, KILLS + 1):
        writer.allowed = EVENTS * number // KILLS
        time.sleep(dice.random() * 1.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(tmp_path)
        if dice.random() < 0.8:  # else it is killed while it starts, or goes back
            wait_until_up(port, process)
    writer.join()
    # One event far behind closes all windows.
    with events.open("ab") as file:
        file.write(b'{"ts": %d, "k": "end", "v": 0}\n' % (EVENTS * 10 + 60_000))
    wait_until_up(port, process)
    want = wanted(events)
    found = {name: results(port, name, sum(want[name].values())) for name in want}
    again = [line["text"] for name in want for line in call(port, "GET", f"/v1/jobs/{name}/logs?n=1000")["lines"]]
    process.terminate()
    assert process.wait(30) == 0
    for name, rows in want.items():
        lost, doubled = rows - found[name], found[name] - rows
        assert not lost, f"{name}: {sum(lost.values())} lost, seed {SEED}: {list(lost)[:5]}"
        assert not doubled, f"{name}: {sum(doubled.values())} too many, seed {SEED}: {list(doubled)[:5]}"
    # How many kills came between a row and the checkpoint behind it is the machine's chance: told, not asked for.
    print(f"{sum('come again' in text for text in again)} of {KILLS} kills took rows back")


def wanted(events: Path) -> dict[str, Counter[Any]]:
    con = duckdb.connect()
    con.execute(f"CREATE TABLE e AS SELECT * FROM read_json('{events}', format = 'newline_delimited')")
    assert con.execute("SELECT count(*) FROM e").fetchall() == [(EVENTS + 1,)]
    windows = "SELECT ts // 10000 * 10, k, count(*), sum(v)::BIGINT FROM e WHERE k <> 'end' GROUP BY ALL"
    plain = "SELECT ts, v FROM e WHERE v % 10 = 3"
    return {name: Counter(con.execute(sql).fetchall()) for name, sql in (("windowed", windows), ("plain", plain))}


def results(port: int, name: str, expected: int) -> Counter[Any]:
    until = time.monotonic() + 40
    while call(port, "GET", f"/v1/jobs/{name}")["results"]["rows"] < expected and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.3)
    rows = call(port, "GET", f"/v1/jobs/{name}/results?limit=100000")["rows"]
    if name == "plain":
        return Counter((row["ts"], row["v"]) for row in rows)
    return Counter((seconds(row["window_start"]), row["k"], row["n"], row["v"]) for row in rows)


def seconds(moment: str) -> int:
    return duckdb.execute("SELECT epoch(?::TIMESTAMP)::BIGINT", [moment.removesuffix("Z")]).fetchall()[0][0]  # type: ignore[no-any-return]
