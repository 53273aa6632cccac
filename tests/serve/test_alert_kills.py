"""Alerts of a server that is killed at random instants: each fires and is resolved, under one name."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.killing import call, start, wait_until_up
from support.postgres import free_port
from support.receiver import receiver

KILLS = int(os.environ.get("MQL_TEST_ALERT_KILLS", "3"))
WINDOWS_A_ROUND = 30
SEED = int(os.environ.get("MQL_TEST_SEED", "7"))
CONFIG = """
server: {port: %d, workers: 2, webhooks: {allowed: [127.0.0.0/8], plain: true}}
sources:
  events: {kind: file, path: events.ndjson, format: ndjson, follow: true, time: {field: ts, unit: ms}, lateness: 0s}
"""
QUERY = "SELECT k, sum(v) AS v FROM events WINDOW TUMBLING 1s GROUP BY k SINCE EARLIEST"
KEYS = 3


def value(window: int, key: int) -> int:
    return (window * 7 + key * 3) % 11


@pytest.mark.timeout(200)
def test_every_alert_is_told_once_under_one_name(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    port = free_port()
    (tmp_path / "mql.yaml").write_text(CONFIG % port)
    events = tmp_path / "events.ndjson"
    last = (KILLS + 1) * WINDOWS_A_ROUND
    with receiver() as other, events.open("ab", buffering=0) as file:

        def more(first: int, end: int) -> None:
            """The events of these windows; alerts of windows not yet closed wait for the next."""
            for window in range(first, end):
                lines = [{"ts": window * 1000, "k": f"k{key}", "v": value(window, key)} for key in range(KEYS)]
                file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

        more(0, 1)
        process = start(tmp_path)
        wait_until_up(port, process)
        sink = {"kind": "alertmanager", "url": other.base, "when": "v > 5", "repeat": "1h"}
        said = {"name": "j", "query": QUERY, "guarantee": "at_least_once", "checkpoint_every": 0.1, "sinks": [sink]}
        call(port, "POST", "/v1/jobs", said)
        for number in range(KILLS):
            for window in range(number * WINDOWS_A_ROUND, (number + 1) * WINDOWS_A_ROUND):
                more(max(1, window), window + 1)
                time.sleep(dice.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = start(tmp_path)
            wait_until_up(port, process)
        more(KILLS * WINDOWS_A_ROUND, last + 1)
        want = wanted(last)
        until = time.monotonic() + 60
        while len(found := told(other.bodies)) < len(want) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)
        found = told(other.bodies)
        process.terminate()
        assert process.wait(30) == 0
    assert {turn[1:] for turn in found} == want
    assert len(found) == len(want), "an alert has two names"


def told(bodies: list[Any]) -> set[tuple[str, str, str, int]]:
    """What was said: name, key, whether it fires, and the second at which it began. What was said again is one."""
    alerts = [alert for body in bodies for alert in body]
    return {
        (
            alert["labels"]["episode"],
            alert["labels"]["k"],
            "over" if alert["endsAt"] < "2000" else "open",
            int(alert["startsAt"][14:16]) * 60 + int(alert["startsAt"][17:19]),
        )
        for alert in alerts
    }


def wanted(last: int) -> set[tuple[str, str, int]]:
    """Of each key, the windows in which it becomes true; and that it is over where it becomes false again."""
    found: set[tuple[str, str, int]] = set()
    for key in range(KEYS):
        began: int | None = None
        for before, window in pairwise(range(-1, last)):
            is_high = value(window, key) > 5
            was_high = before >= 0 and value(before, key) > 5
            if is_high and not was_high:
                began = window
                found.add((f"k{key}", "open", window))
            elif was_high and not is_high and began is not None:
                found.add((f"k{key}", "over", began))
    return found
