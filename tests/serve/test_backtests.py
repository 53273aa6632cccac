"""Backtests over HTTP and at the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from support.serving import served
from support.waiting import wait_for_state

from mql.catalog import TimeRule
from server.cli import main
from sources.memory import MemorySource

QUERY = (
    "SELECT k, count(*) AS n FROM events WINDOW 10s GROUP BY k "
    "ANOMALY ON n USING zscore(min_spread => 0.5) WARMUP 3 WINDOWS REARM AFTER 2 WINDOWS EMIT EPISODES"
)


def events() -> list[dict[str, Any]]:
    """Two keys, one event every ten seconds; a burst of `a` at 60 s."""
    quiet = [{"ts": at, "k": k} for at in range(0, 120, 10) for k in "ab"]
    return sorted([*quiet, *({"ts": 60 + at / 10, "k": "a"} for at in range(30))], key=lambda event: event["ts"])


def source() -> MemorySource:
    return MemorySource("events", events(), bounded=False, time=TimeRule(("ts",), "s"))


def test_a_query_and_a_job_are_tried_over_history() -> None:
    with served([source()]) as server:
        labels = [{"start": 60, "end": 70, "k": "a"}, {"start": 100, "end": 110}]
        told = server.post("/v1/queries:backtest", {"query": QUERY, "since": "earliest", "labels": labels})
        assert told.status == 200, told.body
        found = told.json()
        assert (found["alerts"], found["offenders"][0]["keys"]) == (1, {"k": "a"})
        assert (found["labels"]["precision"], found["labels"]["recall"]) == (1.0, 0.5)
        assert server.post("/v1/jobs", {"name": "j", "query": QUERY}).status == 201
        wait_for_state(server, "j", "running")
        again = server.post("/v1/jobs/j:backtest", {"since": "earliest"}).json()
        assert (again["alerts"], again["labels"]) == (1, None)
        assert again["episodes"] == found["episodes"]
        for body, code in (
            ({"query": QUERY}, "invalid-query"),
            ({"query": "SELECT 1 FROM events", "since": "earliest"}, "invalid-query"),
            ({"query": QUERY, "since": "earliest", "labels": [{"start": 1}]}, "invalid-labels"),
        ):
            refused = server.post("/v1/queries:backtest", body)
            assert (refused.status, refused.json()["code"]) == (422, code), refused.body
        assert server.post("/v1/jobs/nobody:backtest", {"since": "earliest"}).status == 404


def test_a_backtest_at_the_terminal(tmp_path: Path) -> None:
    file, labels = tmp_path / "events.ndjson", tmp_path / "labels.csv"
    file.write_text("".join(json.dumps(event) + "\n" for event in events()))
    labels.write_text("start,end,k\n1970-01-01T00:01:00Z,1970-01-01T00:01:10Z,a\n")
    query = QUERY.replace("FROM events", f"FROM '{file}'")
    said = CliRunner().invoke(main, ["backtest", query, "--time-field", "ts", "--labels", str(labels)])
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0].startswith("1970-01-01T00:00:00Z .. 1970-01-01T00:01:50")
    assert lines[1].startswith("1 alerts, ")
    assert "       1  k=a  (worst score " in said.output
    assert "1 of 1 labels found (recall 100 %); told after 10 s (median), 10 s (at most)" in lines
    as_json = CliRunner().invoke(main, ["backtest", query, "--time-field", "ts", "-o", "json"])
    assert json.loads(as_json.output)["alerts"] == 1


def test_at_the_terminal_a_server_is_asked_too() -> None:
    with served([source()]) as server:
        at = ["--server", f"http://127.0.0.1:{server.port}", "--since", "earliest"]
        assert "\n1 alerts" in CliRunner().invoke(main, ["backtest", QUERY, *at]).output
        server.post("/v1/jobs", {"name": "j", "query": QUERY})
        assert "\n1 alerts" in CliRunner().invoke(main, ["backtest", "--job", "j", *at]).output
        assert CliRunner().invoke(main, ["backtest", "--job", "j", QUERY, *at]).exit_code == 2
