"""A job's ledger counts each event once, however often the server is killed.

Events go on being appended while the server is killed (SIGKILL) at random instants and started again: some can't be
read, some are late, some nobody wants. Whenever somebody looks, each ledger adds up; in the end it is that of a job
of the same query that is made then, and was never killed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from support.killing import call, start, wait_until_up
from support.postgres import free_port
from support.waiting import wait_for

from server.books import CLASSES

KILLS = int(os.environ.get("MQL_TEST_LEDGER_KILLS", "2"))
SEED = int(os.environ.get("MQL_TEST_SEED", "5"))
EVENTS = 4_000
CONFIG = """
server: {port: %d, workers: 2}
sources:
  events: {kind: file, path: events.ndjson, format: ndjson, follow: true, time: {field: ts, unit: ms}, lateness: 0s}
"""
QUERIES = {
    "windows": "SELECT k, count(*) AS n FROM events WHERE v % 7 <> 0 WINDOW 1s GROUP BY k SINCE EARLIEST",
    "rows": "SELECT v FROM events WHERE k = 'k3' SINCE EARLIEST",
    "sessions": "SELECT k, count(*) AS n FROM events SAMPLE 50% BY v WINDOW SESSION 2s GROUP BY k SINCE EARLIEST",
    "joined": "SELECT a.v AS v FROM events AS a JOIN events AS b ON a.v = b.v + 1 WITHIN 1s SINCE EARLIEST",
}
SHARED = {
    "name": "of",
    "params": {"k": {"type": "string"}},
    "query": "SELECT count(*) AS n FROM events WHERE k = $k WINDOW 1s",
}
ONCE = {"guarantee": "exactly_once", "checkpoint_every": 0.1}
LEAST = {"guarantee": "at_least_once", "checkpoint_every": 0.2}


def line(at: int) -> bytes:
    """Each 40th can't be read, each 50th comes a minute too late."""
    if at % 40 == 7:
        return b"broken %d\n" % at
    late = 60_000 if at % 50 == 13 and at > 1_000 else 0
    return b'{"ts": %d, "k": "k%d", "v": %d}\n' % (at * 20 - late, at % 5, at)


def ledger(port: int, name: str) -> Mapping[str, int]:
    total: dict[str, int] = call(port, "GET", f"/v1/jobs/{name}/ledger")["total"]
    assert total["events"] == sum(total[kind] for kind in CLASSES), (name, total)
    assert min(total.values()) >= 0, (name, total)
    return total


def settled(port: int, names: list[str]) -> Mapping[str, Mapping[str, int]]:
    """The ledgers, once all events have been counted and none is on its way any more."""
    found: dict[str, Mapping[str, int]] = {}

    def is_still() -> bool:
        before = dict(found)
        found.update({name: ledger(port, name) for name in names})
        return found == before and all(one["events"] >= EVENTS - 1 for one in found.values())

    wait_for(is_still, 60)
    return found


@pytest.mark.timeout(150 + 20 * KILLS)
def test_each_event_is_counted_once_however_often_the_server_is_killed(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    port = free_port()
    (tmp_path / "mql.yaml").write_text(CONFIG % port)
    events = tmp_path / "events.ndjson"
    events.write_bytes(line(0))
    allowed, done, wrong = [1], threading.Event(), list[Any]()

    def write() -> None:
        at = 1
        with events.open("ab", buffering=0) as file:
            while at < EVENTS:
                until = min(allowed[0], at + 40)
                file.write(b"".join(line(one) for one in range(at, until)))
                at = until
                time.sleep(0.01)

    def look() -> None:
        """Whoever asks is told what adds up, as long as there is a server."""
        while not done.is_set():
            with suppress(OSError, HTTPException):
                for name in names:
                    try:
                        ledger(port, name)
                    except AssertionError as error:
                        wrong.append(error)
            time.sleep(0.02)

    process = start(tmp_path)
    wait_until_up(port, process)
    call(port, "PUT", "/v1/templates/of", SHARED)
    made: dict[str, dict[str, Any]] = {name: {"query": query, **ONCE} for name, query in QUERIES.items()}
    made["least"] = {"query": QUERIES["windows"], **LEAST}
    sharing = {f"of-{k}": {"params": {"k": f"k{k}"}, **ONCE} for k in range(4)}
    for name, said in made.items():
        call(port, "POST", "/v1/jobs", {"name": name, **said})
    for name, said in sharing.items():
        call(port, "POST", "/v1/templates/of/jobs", {"name": name, **said})
    names = [*made, *sharing]
    wait_for(lambda: all(call(port, "GET", f"/v1/jobs/{name}")["state"] == "running" for name in names))
    writer, looker = threading.Thread(target=write), threading.Thread(target=look)
    writer.start()
    looker.start()
    for number in range(1, KILLS + 1):
        allowed[0] = EVENTS * number // KILLS
        time.sleep(0.2 + dice.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(tmp_path)
        if dice.random() < 0.8:  # else it is killed while it starts, or goes back
            wait_until_up(port, process)
    writer.join()
    wait_until_up(port, process)
    found = settled(port, names)
    done.set()
    looker.join()
    assert not wrong, wrong[:3]
    for name, said in made.items():
        call(port, "POST", "/v1/jobs", {"name": f"{name}-again", **said})
    again = settled(port, [f"{name}-again" for name in made])
    process.terminate()
    assert process.wait(30) == 0
    for name in made:
        assert found[name] == again[f"{name}-again"], f"{name}, seed {SEED}"
        read = EVENTS * (2 if name == "joined" else 1)
        assert (found[name]["events"], found[name]["dropped"]) == (read, 0), f"{name}, seed {SEED}"
    broken = sum(at % 40 == 7 for at in range(EVENTS))
    for k, name in enumerate(sharing):  # these share a plan, and begin behind the first event
        total, own = found[name], sum(at % 5 == k and at % 40 != 7 for at in range(1, EVENTS))
        told = (total["events"], total["malformed"], total["emitted_from"] + total["late"] + total["in_state"])
        assert told == (EVENTS - 1, broken, own), f"{name}, seed {SEED}: {total}"
