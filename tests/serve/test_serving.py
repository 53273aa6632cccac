"""The server as a process and under readers that are slow: it stops when told, and nobody holds it up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.serving import Served, served

from server.settings import Limits

PROGRAM = """
import logging, sys
from pathlib import Path
from server.app import serve
from server.settings import read_config
logging.basicConfig(level=logging.INFO, format="%(message)s")
serve(*read_config(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_gracefully(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "mql.yaml"
    file.write_text("server: {port: 0}\ndefault: orders\nsources: {orders: {kind: http}}\n")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)], stderr=subprocess.PIPE, cwd=tmp_path, env=os.environ
    ) as process:
        assert process.stderr is not None
        found = re.search(rb"listening on http://127.0.0.1:(\d+)", process.stderr.readline())
        assert found is not None
        server = Served(int(found[1]), None)
        assert server.events("orders", {"id": 1}).status == 202
        with server.stream("POST", "/v1/queries", "SELECT id FROM orders", Accept="text/event-stream") as stream:
            stream.event()
            process.send_signal(number)
            assert "server stopping" in stream.until("end")["data"]
        assert process.wait(10) == 0


def test_a_reader_that_takes_nothing_is_cut_off_and_the_others_go_on() -> None:
    with served(limits=Limits(write_timeout=0.3)) as server:
        server.events("orders", {"id": 0, "pad": ""})
        text = "SELECT id, pad FROM orders"
        started = server.post("/v1/queries", text, Accept="application/json").json()
        path = started["stream_url"]
        with server.stream("GET", path), server.stream("GET", path) as well:
            until = time.monotonic() + 20
            sent = 0
            while b'mql_stream_cut_total{why="slow"} 1.0' not in server.get("/metrics").body:
                assert time.monotonic() < until, "the slow reader was not cut off"
                server.events("orders", *({"id": sent + at, "pad": "x" * 50_000} for at in range(10)))
                assert [row["id"] for row in well.lines(10)] == list(range(sent, sent + 10))
                sent += 10
