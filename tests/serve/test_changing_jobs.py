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


def changed(server: Served, name: str, said: dict[str, Any], query: str = "") -> dict[str, Any]:
    answer = server.send("PATCH", f"/v1/jobs/{name}{query}", said)
    assert answer.status == 200, answer.body
    return dict(answer.json()["change"])


def test_a_changed_query_goes_on_with_what_was_kept(tmp_path: Path) -> None:
    source = MemorySource("events", events(0, 150), bounded=False, time=SECONDS)
    with served([source], home=tmp_path) as server:
        server.post("/v1/jobs", {"name": "j", "query": COUNTED, **ONCE})
        wait_for(lambda: told(server, "j") == counted(150))
        text = COUNTED.replace("sum(v) AS v", "sum(v) AS v, avg(v) AS mean").replace(" SINCE", " HAVING n > 14 SINCE")
        fate = changed(server, "j", {"query": text}, "?dry_run=true")
        assert (fate["state"], fate["restarts"], fate["reasons"]) == ("cannot", True, [NOT_KEPT])
        kept = COUNTED.replace("count(*) AS n, sum(v) AS v", "sum(v) AS v, count(*) AS n, sum(v) / count(*) AS mean")
        fate = changed(server, "j", {"query": kept.replace(" SINCE", " HAVING n > 14 SINCE")}, "?dry_run=true")
        assert fate["state"] == "differs"
        assert fate["differences"] == ["what is told of groups: SELECT, HAVING, ORDER BY", "columns: more: mean"]
        assert server.get("/v1/jobs/j").json()["query"] == COUNTED
        url = f"http://127.0.0.1:{server.port}"
        done = CliRunner().invoke(main, ["job", "change", "j", text, "--dry-run", "--server", url])
        assert done.output == f"j would be changed; its state: cannot\ncolumns: more: mean\ncannot: {NOT_KEPT}\n"
        with server.stream("GET", "/v1/jobs/j/stream", Accept="text/event-stream") as stream:
            stream.rows(KEYS)
            fate = changed(server, "j", {"query": kept.replace(" SINCE", " HAVING n > 14 SINCE"), "labels": {"a": "b"}})
            assert fate["state"] == "differs"
            source.push(0, events(150, 230))
            rows = stream.rows(2)
        # Half of that window was counted by the query before.
        want = {(k, n, v) for k, n, v in counted(230) - counted(150) if n > 14}
        assert {(row["k"], row["n"], row["v"]) for row in rows} == want
        assert all(row["mean"] == row["v"] / row["n"] for row in rows)
        assert server.get("/v1/jobs/j").json()["labels"] == {"a": "b"}
    with served([MemorySource("events", events(0, 330), bounded=False, time=SECONDS)], home=tmp_path) as server:
        wait_for(lambda: len(rows_of(server, "j")) == KEYS + 2 + 2)


NOT_KEPT = "it has an aggregate of which nothing was kept so far"


def test_a_query_that_what_is_known_does_not_serve_is_refused_or_begins_without_it() -> None:
    source = MemorySource("events", events(0, 150), bounded=False, time=SECONDS)
    other = MemorySource("other", events(0, 10), bounded=False, time=SECONDS)
    with served([source, other]) as server:
        server.post("/v1/jobs", {"name": "j", "query": COUNTED, **ONCE})
        wait_for(lambda: told(server, "j") == counted(150))
        for text, reason in (
            (COUNTED.replace("10s", "5s"), "its windows are tumbling of 5 s, and were tumbling of 10 s"),
            (COUNTED.replace("GROUP BY k", "GROUP BY k, v % 2"), "it groups by other keys"),
            (COUNTED.replace("sum(v)", "max(v)"), NOT_KEPT),
            (COUNTED.replace("events", "other"), "it reads other instead of events"),
            ("SELECT k FROM events", "it keeps nothing by other steps than it kept groups in windows"),
        ):
            refused = server.send("PATCH", "/v1/jobs/j", {"query": text})
            assert (refused.status, refused.json()["code"]) == (409, "state-not-carried")
            assert reason in refused.json()["detail"]
            assert changed(server, "j", {"query": text}, "?dry_run=true")["reasons"][0] == reason
        assert server.send("PATCH", "/v1/jobs/j", {"begin": "now"}).status == 422
        assert server.send("PATCH", "/v1/jobs/j", {"version": 2}).status == 422
        five = COUNTED.replace("10s", "5s")
        assert changed(server, "j", {"query": five, "state": "discard"})["state"] == "discarded"
        source.push(0, events(150, 210))
        wait_for(lambda: sum(row["n"] for row in rows_of(server, "j")) == 100 + 50)
        text = COUNTED.replace("events", "other")
        kept = {"query": text, "state": "discard"}
        assert server.send("PATCH", "/v1/jobs/j", kept).json()["code"] == "state-not-carried"
        assert changed(server, "j", {**kept, "begin": "earliest"})["state"] == "discarded"
        other.push(0, events(10, 110))
        wait_for(lambda: sum(row["n"] for row in rows_of(server, "j")) == 100 + 50 + 100)


TEMPLATE = """
name: counts
params:
  least: {type: number, default: 0}
query: SELECT k, count(*) AS n FROM events WHERE v >= $least WINDOW 10s LATENESS 0s GROUP BY k
"""


def test_a_job_of_a_template_takes_other_params_and_a_newer_version() -> None:
    source = MemorySource("events", events(0, 10), bounded=False, time=SECONDS)
    with served([source]) as server:
        for text in (TEMPLATE, TEMPLATE.replace("AS n", "AS n, count(*) * 2 AS twice")):
            server.send("PUT", "/v1/templates/counts", text.encode(), {"Content-Type": "application/yaml"})
        made = {"name": "j", "params": [{"least": 0}, {"least": 50}], "version": 1, **ONCE}
        assert server.post("/v1/templates/counts/jobs", made).status == 201
        for name in ("j-1", "j-2"):
            wait_for_state(server, name, "running")
        source.push(0, events(10, 70))
        wait_for(lambda: server.get("/v1/jobs/j-1/ledger").json()["run"]["in_state"] == 60)
        fate = changed(server, "j-1", {"params": {"least": 90}})
        assert (fate["state"], fate["differences"]) == ("differs", [NOW_WHERE])
        fate = changed(server, "j-2", {"version": 2, "workers": 2})
        assert (fate["state"], fate["reasons"]) == ("differs", [])
        source.push(0, events(70, 130))
        # Of 10 to 70 by the condition before, of the rest by the one since.
        wait_for(lambda: sum(row["n"] for row in rows_of(server, "j-1")) == 60 + 10)
        wait_for(lambda: sum(row["twice"] for row in rows_of(server, "j-2")) == 2 * 50)
        assert server.get("/v1/jobs/j-2").json()["version"] == 2
        assert server.send("PATCH", "/v1/jobs/j-2", {"query": "SELECT k FROM events"}).json()["code"] == "of-a-template"


NOW_WHERE = "WHERE: what it says now holds for events that come from now on"


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
