"""A server in a process of its own, to be killed at any instant and started again."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def call(port: int, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    request.method = method
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        error.add_note(error.read().decode())
        raise


def start(home: Path) -> subprocess.Popen[bytes]:
    """The server of the mql.yaml in that directory; what it says goes to server.log there. A test that fails may leave
    it behind: it goes with the tests' process."""
    command = [sys.executable, "-m", "server.cli", "serve", "--config", str(home / "mql.yaml")]
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    atexit.register(process.kill)
    return process


def wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            call(port, "GET", "/readyz")
            return
        except OSError:
            assert process.poll() is None, "the server has ended by itself"
            time.sleep(0.02)
    raise AssertionError("the server did not come up")
