"""Jobs over HTTP: made, started, stopped, brought back; and what their readers see."""

from __future__ import annotations

import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.serving import Served, served
from support.waiting import state_of, wait_for, wait_for_state

from server.cli import main
from server.job_spec import TRANSITIONS
from server.looks import as_it_looked, looks_of
from sources.http import HttpSource
from sources.memory import MemorySource

TEMPLATE = """
name: big-orders
params:
  least: {type: number, default: 10, min: 0}
labels: {team: shop}
query: SELECT id FROM orders WHERE total >= $least
"""


def rows_of(server: Served, name: str, query: str = "") -> list[Any]:
    found = server.get(f"/v1/jobs/{name}/results{query}")
    assert found.status == 200, found.body
    return list(found.json()["rows"])


def memory() -> MemorySource:
    return MemorySource("events", [{"ts": 1, "n": 1}], bounded=False)


def test_a_job_outlives_its_readers_and_they_go_on_from_their_cursor() -> None:
    with served() as server:
        server.events("orders", {"id": 0, "total": 1})
        made = server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders", "labels": {"team": "a"}})
        assert made.status == 201, made.body
        wait_for_state(server, "j", "running")
        server.events("orders", {"id": 1}, {"id": 2})
        with server.stream("GET", "/v1/jobs/j/stream", Accept="text/event-stream") as stream:
            assert stream.event()["event"] == "meta"
            first = stream.until("rows")
        server.events("orders", {"id": 3}, {"id": 4})
        with server.stream("GET", "/v1/jobs/j/stream", Accept="text/event-stream", Last_Event_ID=first["id"]) as stream:
            rest = stream.rows(2)
        assert first["data"] == '[{"id":1},{"id":2}]'
        assert rest == [{"id": 3}, {"id": 4}]
        wait_for(lambda: len(rows_of(server, "j")) == 4)
        assert rows_of(server, "j", "?from=1&to=3") == [{"id": 2}, {"id": 3}]
        assert server.get("/v1/jobs?label=team=a").json()["jobs"][0]["results"]["rows"] == 4
        assert server.get("/v1/jobs?label=team=b").json()["jobs"] == []


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_a_job_that_was_stopped_misses_nothing(guarantee: str) -> None:
    source = memory()
    with served([source]) as server:
        said = {"name": "j", "query": "SELECT n FROM events", "guarantee": guarantee, "checkpoint_every": 0.05}
        assert server.post("/v1/jobs", said).status == 201
        wait_for_state(server, "j", "running")
        source.push(0, [{"ts": 2, "n": 2}])
        wait_for(lambda: len(rows_of(server, "j")) == 1)
        query = server.get("/v1/queries").json()["queries"][0]
        assert server.get(query["stream_url"]).json()["code"] == "query-of-a-job"
        assert server.post("/v1/jobs/j:pause").json()["state"] == "paused"
        source.push(0, [{"ts": 3, "n": 3}])
        assert server.post("/v1/jobs/j:resume").status == 200
        wait_for(lambda: len(rows_of(server, "j")) == 2)
        assert server.post("/v1/jobs/j:stop").json()["state"] == "stopped"
        source.push(0, [{"ts": 4, "n": 4}])
        assert server.post("/v1/jobs/j:start").status == 200
        wait_for(lambda: len(rows_of(server, "j")) == 3)
        assert rows_of(server, "j") == [{"n": 2}, {"n": 3}, {"n": 4}]
        assert [run["outcome"] for run in server.get("/v1/jobs/j/runs").json()["runs"]] == [None, "stopped", "paused"]


def test_jobs_survive_the_server(tmp_path: Path) -> None:
    source = memory()
    said = {"query": "SELECT n FROM events", "guarantee": "exactly_once", "checkpoint_every": 0.05}
    with served([source], home=tmp_path) as server:
        server.post("/v1/jobs", {"name": "a", **said})
        server.post("/v1/jobs", {"name": "b", **said, "start": False})
        wait_for_state(server, "a", "running")
        source.push(0, [{"ts": 2, "n": 2}])
        wait_for(lambda: len(rows_of(server, "a")) == 1)
        cursor = server.get("/v1/jobs/a").json()["results"]
        with server.stream("GET", "/v1/jobs/a/stream", Accept="text/event-stream") as stream:
            id = stream.until("rows")["id"]
    source = MemorySource("events", [{"ts": at, "n": at} for at in range(1, 6)], bounded=False)
    with served([source], home=tmp_path) as server:
        assert state_of(server, "b") == "stopped"
        wait_for(lambda: len(rows_of(server, "a")) == 4)
        assert cursor["rows"] == 1
        with server.stream("GET", "/v1/jobs/a/stream", Accept="text/event-stream", Last_Event_ID=id) as stream:
            assert stream.rows(3) == [{"n": 3}, {"n": 4}, {"n": 5}]


def test_a_job_over_what_ends_is_completed() -> None:
    source = MemorySource("events", [{"ts": at, "n": at} for at in range(10)])
    with served([source]) as server:
        said = {"name": "j", "query": "SELECT count(*) AS n FROM events"}
        assert server.post("/v1/jobs", {**said, "guarantee": "exactly_once"}).json()["code"] == "no-guarantee"
        server.post("/v1/jobs", said)
        wait_for_state(server, "j", "completed")
        assert rows_of(server, "j")[-1]["n"] == 10
        with server.stream("GET", "/v1/jobs/j/stream", Accept="text/event-stream") as stream:
            assert stream.until("end")["data"].startswith('{"reason":"completed"')
        assert server.post("/v1/jobs/j:start").json()["code"] == "wrong-state"


def test_many_jobs_of_one_template() -> None:
    with served() as server:
        server.send("PUT", "/v1/templates/big-orders", TEMPLATE.encode(), {"Content-Type": "application/yaml"})
        server.events("orders", {"id": 1, "total": 5})
        made = server.post("/v1/templates/big-orders/jobs", {"name": "x", "params": [{"least": 1}, {"least": 9}]})
        assert [job["name"] for job in made.json()["jobs"]] == ["x-1", "x-2"]
        assert made.json()["jobs"][0]["labels"] == {"team": "shop"}
        wrong = server.post("/v1/templates/big-orders/jobs", {"params": [{"least": 1}, {"leest": 9}]})
        assert wrong.status == 422
        assert 'Did you mean "least"?' in wrong.json()["errors"][0]["message"]
        assert wrong.json()["errors"][0]["pointer"] == "/params/1/leest"
        assert len(server.get("/v1/jobs").json()["jobs"]) == 2
        for name in ("x-1", "x-2"):
            wait_for_state(server, name, "running")
        server.events("orders", {"id": 2, "total": 5}, {"id": 3, "total": 50})
        wait_for(lambda: len(rows_of(server, "x-1")) == 2)
        wait_for(lambda: rows_of(server, "x-2") == [{"id": 3}])


def test_a_job_outlives_its_template() -> None:
    yaml = {"Content-Type": "application/yaml"}
    with tempfile.TemporaryDirectory() as home:
        with served(home=Path(home)) as server:
            server.send("PUT", "/v1/templates/big-orders", TEMPLATE.encode(), yaml)
            server.events("orders", {"id": 1, "total": 5})
            server.post("/v1/templates/big-orders/jobs", {"name": "x", "params": {"least": 1}})
            wait_for_state(server, "x", "running")
            server.events("orders", {"id": 2, "total": 5})
            wait_for(lambda: rows_of(server, "x") == [{"id": 2}])
            assert server.send("DELETE", "/v1/templates/big-orders").status == 204
            wait_for_state(server, server.post("/v1/jobs/x:restart").json()["name"], "running")
            again = server.post("/v1/jobs/x:restart")
            assert again.status == 200, again.body
        with served(home=Path(home)) as server:
            wait_for_state(server, "x", "running")
            assert rows_of(server, "x") == [{"id": 2}]
            made = server.send("PATCH", "/v1/jobs/x", {"version": 2})
            assert (made.status, made.json()["code"]) == (404, "unknown-template")
            assert server.post("/v1/templates/big-orders/jobs", {"params": {"least": 1}}).status == 404
            server.send("PUT", "/v1/templates/big-orders", TEMPLATE.replace(">=", ">").encode(), yaml)
            assert server.get("/v1/templates/big-orders").json()["versions"] == [2]
            assert server.send("PATCH", "/v1/jobs/x", {"version": 2, "state": "discard"}).status == 200
            wait_for(lambda: server.get("/v1/jobs/x").json()["version"] == 2)


def test_stored_rows_beyond_the_limit_are_told_of() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders"})
        wait_for_state(server, "j", "running")
        server.events("orders", *({"id": at} for at in range(1, 8)))
        wait_for(lambda: len(rows_of(server, "j")) == 7)
        first = server.get("/v1/jobs/j/results?limit=3")
        assert (first.json()["next"], first.headers["mql-next"]) == (3, "3")
        rest = server.get(f"/v1/jobs/j/results?from={first.json()['next']}&limit=4")
        assert [row["id"] for row in first.json()["rows"] + rest.json()["rows"]] == list(range(1, 8))
        assert "next" not in rest.json()
        assert "mql-next" not in rest.headers
        assert server.get("/v1/jobs/j/results?to=2&limit=2&format=csv").headers.get("mql-next") is None
        assert server.get("/v1/jobs/j/results?limit=2&format=csv").headers["mql-next"] == "2"


def test_filters_that_nobody_knows_are_refused() -> None:
    with served() as server:
        for asked, hint in (
            ("lable=team=a", 'Did you mean "label"?'),
            ("state=runing", None),
            ("label=team", "Write ?label=team=playback."),
        ):
            found = server.get(f"/v1/jobs?{asked}")
            assert (found.status, found.json()["code"]) == (422, "invalid-parameter"), asked
            assert found.json().get("hint") == hint
        assert server.get("/v1/jobs?state=running").json()["jobs"] == []


def test_a_running_query_becomes_a_job_with_all_of_its_rows() -> None:
    with served() as server:
        server.events("orders", {"id": 0, "total": 1})
        asked = server.post("/v1/queries", "SELECT id FROM orders WHERE total > 3", Accept="application/json").json()
        server.events("orders", {"id": 1, "total": 5})
        with server.stream("GET", asked["stream_url"]) as stream:
            assert stream.lines(1) == [{"id": 1}]
        assert server.post(f"/v1/queries/{asked['id']}:promote", {"name": "kept"}).status == 201
        server.events("orders", {"id": 2, "total": 5})
        wait_for(lambda: rows_of(server, "kept") == [{"id": 1}, {"id": 2}])


def test_what_cannot_be_is_refused_before_it_begins() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        wrong = server.post("/v1/jobs", {"name": "j", "query": "SELECT idd FROM orders"})
        assert (wrong.status, wrong.json()["span"]["column"]) == (422, 8)
        promised = server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders", "guarantee": "exactly_once"})
        assert promised.json()["code"] == "no-guarantee"
        assert server.post("/v1/jobs", {"name": "../j", "query": "SELECT id FROM orders"}).status == 422
        assert server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders"}).status == 201
        assert server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders"}).status == 409
        assert server.get("/v1/jobs/nobody").json()["code"] == "unknown-job"


def test_an_action_that_the_state_does_not_allow_changes_nothing() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders", "start": False})
        for action, states in TRANSITIONS.items():
            if "stopped" not in states:
                refused = server.post(f"/v1/jobs/j:{action}")
                assert (refused.status, refused.json()["code"]) == (409, "wrong-state")
                assert refused.json()["hint"] == "It can start or restart."
        assert state_of(server, "j") == "stopped"


def test_a_job_whose_query_is_ended_runs_again() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders"})
        wait_for_state(server, "j", "running")
        query = server.get("/v1/queries").json()["queries"][0]
        assert query["name"] == "job j"
        server.send("DELETE", f"/v1/queries/{query['id']}")
        wait_for(lambda: state_of(server, "j") == "restarting")
        wait_for_state(server, "j", "running")
        lines = [line["text"] for line in server.get("/v1/jobs/j/logs").json()["lines"]]
        assert lines[0] == "failed: its query was ended: deleted"
        assert lines[1].startswith("runs again in 1 s")


def test_the_command_line_makes_and_moves_jobs() -> None:
    def mql(*words: str) -> str:
        done = CliRunner().invoke(main, [*words, "--server", f"http://127.0.0.1:{server.port}"])
        assert done.exit_code == 0, done.output
        return done.output

    with served() as server:
        server.events("orders", {"id": 0})
        mql("job", "new", "j", "SELECT id FROM orders WHERE id > $least", "-p", "least=3")
        wait_for_state(server, "j", "running")
        assert mql("jobs") == "j\trunning\t0 rows\tat_most_once\n"
        assert mql("job", "pause", "j") == "j is paused\n"
        assert mql("job", "restart", "j") == "j is starting\n" or state_of(server, "j") == "running"
        assert mql("job", "stop", "j") == "j is stopped\n"
        assert "info: stopped" in mql("job", "logs", "j")
        assert '"total"' in mql("job", "show", "j", "ledger")
        mql("job", "change", "j", "--owner", "ann", "--schedule", "0 2 * * *", "--timezone", "Europe/Berlin")
        assert json.loads(mql("job", "show", "j"))["schedule"]["timezone"] == "Europe/Berlin"
        assert mql("jobs", "--owner", "bob") == "no such jobs\n"
        mql("job", "delete", "j")
        assert mql("jobs") == "no jobs\n"


def test_what_may_be_known_of_a_job() -> None:
    source = memory()
    with served([source]) as server:
        query = "SELECT n FROM events WHERE n > 2"
        said = {"name": "j", "query": query, "guarantee": "exactly_once", "checkpoint_every": 0.05, "owner": "ann"}
        assert server.post("/v1/jobs", said).status == 201
        wait_for_state(server, "j", "running")
        source.push(0, [{"ts": 2, "n": 2}, {"ts": 3, "n": 3}])
        wait_for(lambda: len(rows_of(server, "j")) == 1)
        ledger = server.get("/v1/jobs/j/ledger").json()
        assert ledger["run"] == ledger["total"]
        assert (ledger["run"]["events"], ledger["run"]["filtered"], ledger["run"]["emitted_from"]) == (2, 1, 1)
        checkpoints = wait_for(lambda: server.get("/v1/jobs/j/checkpoints").json()["checkpoints"])
        assert [one["number"] for one in checkpoints] == sorted((one["number"] for one in checkpoints), reverse=True)
        topology = server.get("/v1/jobs/j/topology").json()
        assert (topology["sources"], topology["stages"][0]["operators"]) == (["events"], ["SelectRows"])
        numbers = server.get("/v1/jobs/j/metrics").json()
        assert (numbers["state"], numbers["rows"], numbers["trouble"]) == ("running", 1, None)
        assert server.get("/v1/jobs/j/late").json()["rows"] == []
        none = {"letters": [], "before": None, "after": "late:0~unreadable:0", "counts": {}}
        assert server.get("/v1/jobs/j/dead-letters").json() == none
        assert [job["name"] for job in server.get("/v1/jobs?owner=ann").json()["jobs"]] == ["j"]
        assert server.get("/v1/jobs?owner=bob").json()["jobs"] == []
        assert b'mql_job_rows{job="j"} 1.0' in server.get("/metrics").body
        server.post("/v1/jobs/j:stop")
        assert server.get("/v1/jobs/j/ledger").json()["run"] is None
        assert server.get("/v1/jobs/j/topology").json()["stages"][0]["tasks"] == []
        assert server.get("/v1/jobs/j/ledger").json()["total"]["events"] == 2


def test_submit_and_connect() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        said = {"name": "j", "query": "SELECT id FROM orders", "if_exists": "connect", "transient": "30s"}
        with server.stream("POST", "/v1/jobs", said, Accept="text/event-stream") as stream:
            assert stream.event()["event"] == "meta"
            wait_for_state(server, "j", "running")
            with server.stream("POST", "/v1/jobs", said, Accept="text/event-stream") as other:
                server.events("orders", {"id": 1})
                assert stream.rows(1) == other.rows(1) == [{"id": 1}]
        assert server.post("/v1/jobs", said).status == 200
        assert server.post("/v1/jobs", {**said, "if_exists": "refuse"}).status == 409
        assert server.post("/v1/jobs", {**said, "query": "SELECT 1 AS one FROM orders"}).json()["code"] == "job-exists"
        changed = server.send("PATCH", "/v1/jobs/j", {"transient": None, "limits": {"runtime": "1h"}}).json()
        assert (changed["transient"], changed["limits"]) == (None, {"runtime": 3600.0})


def test_labels_change_while_it_runs_and_deleting_takes_all_of_it(tmp_path: Path) -> None:
    with served([HttpSource("orders")], home=tmp_path) as server:
        server.events("orders", {"id": 0})
        server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders"})
        changed = server.send("PATCH", "/v1/jobs/j", {"labels": {"team": "b"}, "owner": "me"})
        assert (changed.json()["labels"], changed.json()["owner"]) == ({"team": "b"}, "me")
        assert (tmp_path / ".mql" / "jobs" / "j").is_dir()
        assert server.send("DELETE", "/v1/jobs/j").status == 204
        assert server.get("/v1/jobs/j").status == 404
        assert not (tmp_path / ".mql" / "jobs" / "j").exists()


def test_what_a_source_looked_like_goes_through_a_checkpoint() -> None:
    events = [{"ts": 1, "n": 1.5, "tags": ["a"], "who": {"id": 1, "at": "2026-01-31T12:00:00Z"}, "any": None}]
    info = MemorySource("events", events, bounded=False).info
    other = MemorySource("events", [{"ts": "x", "n": "text"}], bounded=False).info
    again = as_it_looked(other, json.loads(json.dumps(looks_of(info))))
    assert [(field.name, field.type) for field in again.shape.fields] == [
        (field.name, field.type) for field in info.shape.fields
    ]
    assert again.time == info.time


def test_a_job_with_a_guarantee_begins_warm_and_stays_so_over_a_stop() -> None:
    start = int(time.time()) - 300
    source = MemorySource("events", [{"ts": start + at, "n": 1} for at in range(300)], bounded=False)
    query = (
        "SELECT count(*) AS n, score FROM events WINDOW 10s LATENESS 0s "
        "ANOMALY ON n WARMUP 5 WINDOWS WARMUP FROM HISTORY 4m EMIT ALL"
    )
    with served([source]) as server:
        said = {"name": "j", "query": query, "guarantee": "at_least_once", "checkpoint_every": 0.05}
        assert server.post("/v1/jobs", said).status == 201
        wait_for_state(server, "j", "running")
        source.push(0, [{"ts": start + 300 + at, "n": 1} for at in range(22)])
        wait_for(lambda: len(rows_of(server, "j")) >= 2)
        assert all(row["score"] is not None for row in rows_of(server, "j"))
        assert rows_of(server, "j")[0]["window_end"] > datetime.fromtimestamp(start + 299, UTC).isoformat()
        wait_for(lambda: server.get("/v1/jobs/j").json()["checkpoint"]["number"] > 2)
        assert server.post("/v1/jobs/j:stop").status == 200
        source.push(0, [{"ts": start + 330 + at, "n": 1} for at in range(22)])
        assert server.post("/v1/jobs/j:start").status == 200
        wait_for(lambda: len(rows_of(server, "j")) >= 4)
        starts = [row["window_start"] for row in rows_of(server, "j")]
        assert starts == sorted(set(starts))
