"""Jobs that change without losing what they know: other numbers of workers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.catalog import TimeRule
from server.cli import main
from sources.memory import MemorySource

SECONDS = TimeRule(("ts",), "s")
KEYS = 7
COUNTED = "SELECT k, count(*) AS n, sum(v) AS v FROM events WINDOW 10s LATENESS 0s GROUP BY k SINCE EARLIEST"
CHANGING = "SELECT k, count(*) AS n FROM events GROUP BY k EMIT CHANGES EVERY 100ms SINCE EARLIEST"
ONCE = {"guarantee": "exactly_once", "checkpoint_every": 0.05}


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at / 10, "k": f"k{at % KEYS}", "v": at} for at in range(first, last)]


def rows_of(server: Served, name: str) -> list[dict[str, Any]]:
    return list(server.get(f"/v1/jobs/{name}/results?limit=100000").json()["rows"])


def counted(last: int) -> Counter[tuple[str, int, int]]:
    """What COUNTED tells of the windows of a hundred events that are over after so many."""
    found: Counter[tuple[str, int, int]] = Counter()
    for first in range(0, (last - 1) // 100 * 100, 100):
        for key in range(KEYS):
            mine = [at for at in range(first, first + 100) if at % KEYS == key]
            found[f"k{key}", len(mine), sum(mine)] += 1
    return found


def told(server: Served, name: str) -> Counter[tuple[Any, ...]]:
    return Counter((row["k"], row["n"], row["v"]) for row in rows_of(server, name))


def tasks_of(server: Served, name: str) -> list[int]:
    return [len(stage["tasks"]) for stage in server.get(f"/v1/jobs/{name}/topology").json()["stages"]]


def test_a_job_goes_on_with_more_workers_and_with_fewer(tmp_path: Path) -> None:
    source = MemorySource("events", events(0, 130), bounded=False, time=SECONDS)
    with served([source], home=tmp_path) as server:
        assert server.post("/v1/jobs", {"name": "j", "query": COUNTED, **ONCE}).status == 201
        assert server.post("/v1/jobs", {"name": "changing", "query": CHANGING, **ONCE, "workers": 2}).status == 201
        wait_for(lambda: told(server, "j") == counted(130))
        assert (tasks_of(server, "j"), tasks_of(server, "changing")) == ([1, 1], [1, 2])
        with server.stream("GET", "/v1/jobs/j/stream", Accept="text/event-stream") as stream:
            stream.rows(KEYS)
            for number, workers in enumerate((2, 1, 2, None), 1):
                before = 130 * number
                scaled = server.post("/v1/jobs/j:scale", {"workers": workers})
                assert (scaled.status, scaled.json()["workers"]) == (200, workers), scaled.body
                server.post("/v1/jobs/changing:scale", {"workers": workers})
                wait_for_state(server, "j", "running")
                source.push(0, events(before, before + 130))
                wait_for(lambda last=before + 130: told(server, "j") == counted(last))
                assert tasks_of(server, "j") == [1, workers or 1]
            # Who reads stays, and sees each row once.
            assert len(stream.rows(sum(counted(650).values()) - KEYS)) == sum(counted(650).values()) - KEYS
        outcomes = [run["outcome"] for run in server.get("/v1/jobs/j/runs").json()["runs"]]
        assert outcomes == [None, *["changed"] * 4]
        changes = server.get("/v1/changes?name=j").json()["changes"]
        assert [change["action"] for change in changes] == [*["scale"] * 4, "create"]
        wait_for(lambda: sum(row["n"] for row in last_of(rows_of(server, "changing")).values()) == 650)


def last_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last row of each key, whose revisions only grow."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        before = found.get(row["_key"])
        assert before is None or (row["_revision"] > before["_revision"] and row["_op"] == "update")
        found[row["_key"]] = row
    return found


def test_what_cannot_be_scaled_is_told() -> None:
    source = MemorySource("events", events(0, 130), bounded=False, time=SECONDS)
    ended = MemorySource("ended", events(0, 10), time=SECONDS)
    with served([source, ended]) as server:
        server.post("/v1/jobs", {"name": "j", "query": COUNTED, **ONCE})
        refused = server.post("/v1/jobs/j:scale", {"workers": 3})
        assert (refused.status, refused.json()["code"]) == (409, "too-few-workers")
        assert server.post("/v1/jobs/j:scale", {"workers": 0}).status == 422
        assert server.post("/v1/jobs/none:scale", {"workers": 1}).status == 404
        server.post("/v1/jobs", {"name": "over", "query": "SELECT count(*) AS n FROM ended"})
        wait_for_state(server, "over", "completed")
        assert server.post("/v1/jobs/over:scale", {"workers": 1}).json()["code"] == "wrong-state"
        url = f"http://127.0.0.1:{server.port}"
        done = CliRunner().invoke(main, ["job", "scale", "j", "2", "--server", url])
        assert (done.exit_code, done.output) == (0, "j goes on\n")
        assert server.get("/v1/jobs/j").json()["workers"] == 2
