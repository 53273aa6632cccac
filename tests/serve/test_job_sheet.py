"""What the command line tells people about jobs."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner
from support.receiver import LOOPBACK, receiver
from support.serving import Served, served
from support.waiting import wait_for

from mql.catalog import TimeRule
from server.cli import main
from server.job_sheet import size, span
from sources.memory import MemorySource

TEMPLATE = """
name: big
params: {least: {type: number, default: 3}}
query: |
  SELECT v FROM events
  WHERE v >= $least SINCE EARLIEST
sla: {max: 7}
"""


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-3, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min"), (61, "1 min 1 s"), (7_200, "2 h"), (90_061, "1 d 1 h")],
)
def test_a_length_of_time_is_told_in_two_units(seconds: float, told: str) -> None:
    assert span(seconds) == told


def test_bytes_are_told_in_the_unit_that_fits() -> None:
    assert [size(count) for count in (0, 1_023, 1_536, 5 << 30, 1 << 52)] == [
        "0 B",
        "1,023 B",
        "1.5 KiB",
        "5.0 GiB",
        "4,096.0 TiB",
    ]


def told(server: Served, *arguments: str) -> str:
    done = CliRunner().invoke(main, ["job", *arguments, "--server", f"http://127.0.0.1:{server.port}"])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_who_is_woken_by_a_job_is_told_what_is_wrong_and_what_it_is() -> None:
    events = [{"ts": at, "v": at} for at in range(6)]
    source = MemorySource("events", events, bounded=False, time=TimeRule(("ts",), "s"))
    with receiver() as hooks, served([source], webhooks=LOOPBACK) as server:
        hooks.answers = [503] * 1_000
        assert server.send("PUT", "/v1/templates/big", TEMPLATE.encode(), {"Content-Type": "application/yaml"}).status
        said = {"name": "j", "params": {"least": 2}, "owner": "an\x1b[31mna", "labels": {"team": "a"}, "start": True}
        said |= {"schedule": {"cron": "0 2 * * *"}, "limits": {"runtime": "2h"}, "guarantee": "exactly_once"}
        made = server.post("/v1/templates/big/jobs", {**said, "sinks": [{"kind": "webhook", "url": hooks.url}]})
        assert made.status == 201, made.body
        assert server.post("/v1/silences", {"name": "deploy", "jobs": ["j"], "for": "1h"}).status == 201
        wait_for(lambda: server.get("/v1/jobs/j").json()["results"]["rows"] == 4)
        wait_for(lambda: server.get("/v1/jobs/j").json()["trouble"])
        lines = told(server, "show", "j", "-o", "text").splitlines()
        found = [re.sub(r"\d{4}-.*?Z|\([\d.]+ [smK][^)]*\)", "…", line) for line in lines]
        for line in (
            "state       running since … …",
            "template    big, version 1",
            "query       SELECT v FROM events",
            "            WHERE v >= $least SINCE EARLIEST",
            "params      least = 2",
            "rows        4, 4 of them kept ("
            + size(server.get("/v1/jobs/j/metrics").json()["log_bytes"])
            + "); 0 readers",
            "limits      runtime 2 h",
            "sla         at most 7 jobs of this template",
            "labels      team=a",
            r"owner       an\x1b[31mna",
            "alerts      SILENCED by deploy until …",
        ):
            assert line in found or line in lines, "\n".join(lines)
        assert any(re.match(r"trouble +sink webhook: .*503", line) for line in lines), lines
        assert any(re.match(r"sinks +0 webhook: 0 sent, 4 wait; TROUBLE: .*503.*url=http", line) for line in lines)
        assert any(re.match(r"schedule +0 2 \* \* \* \(UTC, keep_existing\)", line) for line in lines)
        assert any(re.match(r" +next 2.*Z, in \d+", line) for line in lines)
        assert json.loads(told(server, "show", "j"))["since_us"] > 0
        assert json.loads(told(server, "show", "j", "ledger"))["total"]["events"] == 6
        head, line = told(server, "list", "-o", "table").splitlines()
        assert head.split() == ["NAME", "STATE", "SINCE", "FRESH", "EVENTS/S", "ROWS", "FAILURES", "WHY"]
        assert line.startswith("j     running  ")
        assert told(server, "list") == told(server, "list", "-o", "lines")
        assert json.loads(told(server, "list", "-o", "json"))[0]["name"] == "j"


def test_why_a_job_fails_is_told_with_when() -> None:
    source = MemorySource("events", [{"ts": 1, "v": "x"}], bounded=False, time=TimeRule(("ts",), "s"))
    with served([source]) as server:
        said = {"name": "j", "query": "SELECT v FROM events SINCE EARLIEST", "restart": "never"}
        assert server.post("/v1/jobs", {**said, "guarantee": "exactly_once", "limits": {"state": 1024}}).status == 201
        wait_for(lambda: server.get("/v1/jobs/j").json()["state"] == "failed")
        lines = told(server, "show", "j", "-o", "text").splitlines()
        assert any(re.match(r"state +failed since 2", line) for line in lines), lines
        assert any(re.match(r"failures +2.*ago\): .*bytes", line) for line in lines), lines
        assert not any(line.startswith("fresh") for line in lines)
