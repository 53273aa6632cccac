"""A reader that is cut off at random bytes, of a server that is killed in between, has each row once and in order.

The reader does as a browser's EventSource: it takes what is whole and comes again with the id of the last event.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.killing import call, start, wait_until_up
from support.postgres import free_port

CUTS = int(os.environ.get("MQL_TEST_CUTS", "40"))
KILL_EVERY = 8
EVENTS = 300 * CUTS
SEED = int(os.environ.get("MQL_TEST_SEED", "11"))
CONFIG = """
server: {port: %d, workers: 2}
sources:
  events: {kind: file, path: events.ndjson, format: ndjson, follow: true, time: {field: ts, unit: ms}, lateness: 0s}
"""
JOB = {"name": "odd", "query": "SELECT ts, v FROM events WHERE v % 3 > 0 SINCE EARLIEST", "guarantee": "exactly_once"}
STREAM = "/v1/jobs/odd/stream"


class Follower:
    """Reads the job's stream; `rows` is what it has been told in events that were whole."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.rows: list[Any] = []
        self.gaps: list[str] = []
        self._last_id: str | None = None

    def read(self, limit: int) -> None:
        """So many bytes at most, then the connection is cut; what is left of an event is thrown away."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        resumed = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
        try:
            connection.request("GET", STREAM, headers={"Accept": "text/event-stream", **resumed})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            self._take(answer, limit)
        except OSError:  # nothing new for two seconds, or the server is gone
            pass
        finally:
            connection.close()

    def _take(self, answer: http.client.HTTPResponse, limit: int) -> None:
        taken = b""
        while limit > 0 and (got := answer.read1(limit)):
            limit -= len(got)
            *whole, taken = (taken + got).split(b"\n\n")
            for event in whole:
                self._told(dict(line.partition(": ")[::2] for line in event.decode().split("\n")))

    def _told(self, event: dict[str, str]) -> None:
        match event.get("event"):
            case "rows":
                self.rows += json.loads(event["data"])
            case "gap":
                self.gaps.append(event["data"])
        self._last_id = event.get("id", self._last_id)


@pytest.mark.timeout(0 if CUTS > 100 else 200)
def test_a_reader_that_is_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    port = free_port()
    (tmp_path / "mql.yaml").write_text(CONFIG % port)
    events = [{"ts": 10 * at, "v": dice.randrange(1000)} for at in range(EVENTS)]
    wanted = [event for event in events if event["v"] % 3]
    lines = [json.dumps(event).encode() + b"\n" for event in events]
    process = start_with(lines[:1], tmp_path)
    wait_until_up(port, process)
    call(port, "POST", "/v1/jobs", {**JOB, "checkpoint_every": 0.2})
    follower = Follower(port)
    for cut in range(CUTS):
        append(tmp_path, lines[1 + cut * (EVENTS - 1) // CUTS : 1 + (cut + 1) * (EVENTS - 1) // CUTS])
        follower.read(dice.randrange(1, 12_000))
        if cut % KILL_EVERY == KILL_EVERY - 1:
            process.send_signal(signal.SIGTERM if dice.random() < 0.2 else signal.SIGKILL)
            process.wait(30)
            process = start(tmp_path)
            wait_until_up(port, process)
    until = time.monotonic() + 60
    while len(follower.rows) < len(wanted) and time.monotonic() < until:
        follower.read(1 << 20)
    process.terminate()
    assert process.wait(30) == 0
    assert not follower.gaps
    assert follower.rows == wanted, f"{len(follower.rows)} rows of {len(wanted)}, seed {SEED}"


def start_with(lines: list[bytes], home: Path) -> Any:
    append(home, lines)
    return start(home)


def append(home: Path, lines: list[bytes]) -> None:
    with (home / "events.ndjson").open("ab") as file:
        file.write(b"".join(lines))
