"""Sinks that come, go and change while a job runs: each has its rows once, and the others notice nothing."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner
from support.receiver import LOOPBACK, Receiver, receiver
from support.serving import Served, served
from support.waiting import wait_for

from mql.catalog import TimeRule
from server.cli import main
from server.store import Store
from sources.memory import MemorySource

QUERY = "SELECT v FROM events SINCE EARLIEST"
ONCE = {"guarantee": "exactly_once", "checkpoint_every": 0.05}


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at / 10, "v": at} for at in range(first, last)]


def table(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "duckdb", "path": f"{name}.duckdb", "table": "rows", **more}


def files(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "parquet", "path": name, "by": "none", "roll_every": 3_600, **more}


def of_table(home: Path, name: str) -> list[int]:
    with duckdb.connect(str(next(home.rglob(f"{name}.duckdb")))) as connection:
        return [v for (v,) in connection.execute("SELECT v FROM rows ORDER BY v").fetchall()]


def of_files(home: Path, name: str) -> list[int]:
    there = next(path for path in home.rglob(name) if path.is_dir() and path.parent.name == "sinks")
    assert not list(there.glob(".*.draft"))
    return [v for (v,) in duckdb.sql(f"SELECT v FROM '{there}/*.parquet' ORDER BY v").fetchall()]


def patched(server: Served, said: dict[str, Any], query: str = "") -> list[str]:
    answer = server.send("PATCH", f"/v1/jobs/j{query}", said)
    assert answer.status == 200, answer.body
    return list(answer.json()["change"]["sinks"])


def sinks_of(server: Served) -> dict[int, dict[str, Any]]:
    return {sink["number"]: sink for sink in server.get("/v1/jobs/j").json()["sinks"]}


def posted(hooks: Receiver) -> list[int]:
    return sorted({row["v"] for body in hooks.taken for row in body["rows"]})


def wait_until_gone(server: Served, number: int) -> None:
    wait_for(lambda: number not in sinks_of(server))


def wait_until_sent(server: Served, rows: int) -> None:
    """All that there are to be are in the results, and all sinks have them."""
    wait_for(lambda: server.get("/v1/jobs/j").json()["results"]["rows"] == rows)
    wait_for(lambda: all(sink["behind"] == 0 for sink in sinks_of(server).values()))


def test_sinks_come_and_go_and_each_has_its_rows_once(tmp_path: Path) -> None:
    source = MemorySource("events", events(0, 100), bounded=False, time=TimeRule(("ts",), "s"))
    with served([source], home=tmp_path) as server:
        said = {"name": "j", "query": QUERY, "sinks": [table("kept"), files("gone")], **ONCE}
        assert server.post("/v1/jobs", said).status == 201
        wait_until_sent(server, 100)
        told = patched(server, {"add_sinks": [table("late")]}, "?dry_run=true")
        assert told[2] == "sink 2 (duckdb) is new: it begins with row 100"
        assert set(sinks_of(server)) == {0, 1}
        patched(server, {"add_sinks": [table("late")]})
        patched(server, {"add_sinks": [table("early")], "sinks_from": "earliest"})
        assert "sink 1 (parquet) is taken away" in patched(server, {"drop_sinks": [1]})
        wait_until_gone(server, 1)
        assert of_files(tmp_path, "gone") == list(range(100))
        source.push(0, events(100, 150))
        wait_until_sent(server, 150)
        changed = [files("again"), table("early"), table("late", when="v > 160"), table("kept")]
        assert patched(server, {"sinks": changed}) == [
            "sink 4 (parquet) is new: it begins with row 150",
            "sink 3 (duckdb) stays as it is",
            "sink 2 (duckdb) keeps its place, with other settings",
            "sink 0 (duckdb) stays as it is",
        ]
        source.push(0, events(150, 200))
        wait_until_sent(server, 200)
    again = MemorySource("events", events(0, 220), bounded=False, time=TimeRule(("ts",), "s"))
    with served([again], home=tmp_path) as server:
        assert list(sinks_of(server)) == [4, 3, 2, 0]
        wait_until_sent(server, 220)
        patched(server, {"drop_sinks": [4]})
        wait_until_gone(server, 4)
    assert of_table(tmp_path, "kept") == of_table(tmp_path, "early") == list(range(220))
    assert of_table(tmp_path, "late") == [*range(100, 150), *range(161, 220)]
    assert of_files(tmp_path, "again") == list(range(150, 220))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_leaves_the_sinks_from_before_or_those_from_after(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk just before the change is noted, and just after, is what a server goes on from."""
    change = Store.change_job
    home, crashed = tmp_path / "home", tmp_path / "crashed"

    def change_job(store: Store, *said: Any) -> None:
        if moment == "before":
            shutil.copytree(home, crashed)
        change(store, *said)
        if moment == "after":
            shutil.copytree(home, crashed)

    source = MemorySource("events", events(0, 100), bounded=False, time=TimeRule(("ts",), "s"))
    with served([source], home=home) as server:
        said = {"name": "j", "query": QUERY, "sinks": [table("kept"), files("gone")], **ONCE}
        assert server.post("/v1/jobs", said).status == 201
        wait_until_sent(server, 100)
        monkeypatch.setattr(Store, "change_job", change_job)
        patched(server, {"sinks": [table("kept"), files("came")], "sinks_from": "earliest"})
        monkeypatch.undo()
    again = MemorySource("events", events(0, 150), bounded=False, time=TimeRule(("ts",), "s"))
    with served([again], home=crashed) as server:
        wait_until_sent(server, 150)
        numbers = list(sinks_of(server))
        assert numbers == ([0, 1] if moment == "before" else [0, 2])
        patched(server, {"sinks": [table("kept")]})
        for number in (1, 2):
            wait_until_gone(server, number)
    assert of_table(crashed, "kept") == list(range(150))
    if moment == "before":
        assert of_files(crashed, "gone") == list(range(150))
        assert not list(crashed.rglob("came/*"))
    else:
        assert of_files(crashed, "gone") == list(range(100))
        assert of_files(crashed, "came") == list(range(150))
    assert not list((crashed / ".mql" / "jobs" / "j" / "sinks").glob("[12]"))


def test_nobody_waits_for_a_sink_that_leaves(tmp_path: Path) -> None:
    """The one system does not answer: the sink gets the rows that were there by then when it does."""
    source = MemorySource("events", events(0, 100), bounded=False, time=TimeRule(("ts",), "s"))
    answers = threading.Event()
    with receiver() as hooks, served([source], home=tmp_path, webhooks=LOOPBACK) as server:
        hooks.refuses = lambda body: not answers.wait(20)
        hook = {"kind": "webhook", "url": hooks.url}
        assert server.post("/v1/jobs", {"name": "j", "query": QUERY, "sinks": [hook], **ONCE}).status == 201
        wait_for(lambda: server.get("/v1/jobs/j").json()["results"]["rows"] == 100)
        assert patched(server, {"sinks": [{**hook, "when": "v >= 0"}]}) == [
            "sink 0 (webhook) keeps its place, with other settings"
        ]
        changed = server.send("PATCH", "/v1/jobs/j", {"drop_sinks": [0]}).json()
        assert [(sink["number"], sink["leaving"], sink["behind"]) for sink in changed["sinks"]] == [(0, True, 100)]
        source.push(0, events(100, 150))
        assert server.send("PATCH", "/v1/jobs/j", {"labels": {"team": "a"}}).status == 200
        assert [server.post(f"/v1/jobs/j:{action}").status for action in ("pause", "resume")] == [200, 200]
        again = server.send("PATCH", "/v1/jobs/j", {"add_sinks": [hook]})
        assert (again.status, again.json()["code"]) == (409, "conflict")
        assert server.send("PATCH", "/v1/jobs/j", {"drop_sinks": [0]}).status == 409
        wait_for(lambda: server.get("/v1/jobs/j").json()["results"]["rows"] == 150)
        answers.set()
        wait_for(lambda: sinks_of(server) == {})
        assert posted(hooks) == list(range(100))
        patched(server, {"add_sinks": [hook], "sinks_from": "earliest"})
        wait_until_sent(server, 150)
        assert posted(hooks) == list(range(150))


def test_a_sink_that_leaves_when_the_server_stops_goes_on_leaving(tmp_path: Path) -> None:
    with receiver() as hooks:
        hooks.answers = [503] * 1_000
        for first, last in ((0, 100), (0, 150)):
            source = MemorySource("events", events(first, last), bounded=False, time=TimeRule(("ts",), "s"))
            with served([source], home=tmp_path, webhooks=LOOPBACK) as server:
                if last == 100:
                    said = {"name": "j", "query": QUERY, "sinks": [{"kind": "webhook", "url": hooks.url}], **ONCE}
                    assert server.post("/v1/jobs", said).status == 201
                    wait_for(lambda: server.get("/v1/jobs/j").json()["results"]["rows"] == 100)
                    patched(server, {"drop_sinks": [0]})
                    assert sinks_of(server)[0]["leaving"]
                else:
                    hooks.answers = []
                    wait_for(lambda: sinks_of(server) == {})
        assert posted(hooks) == list(range(100))
        assert not list((tmp_path / ".mql" / "jobs" / "j" / "sinks").glob("*"))


def test_a_sink_begins_behind_a_cursor_and_by_the_command_line() -> None:
    source = MemorySource("events", events(0, 10), bounded=False, time=TimeRule(("ts",), "s"))
    with served([source]) as server:
        assert server.post("/v1/jobs", {"name": "j", "query": QUERY, **ONCE}).status == 201
        wait_until_sent(server, 10)
        port = ["--server", f"http://127.0.0.1:{server.port}"]
        sink = '{"kind": "stdout"}'
        done = CliRunner().invoke(main, ["job", "change", "j", *port, "--sink", sink, "--sinks-from", "earliest"])
        assert (done.exit_code, "sink 0 (stdout) is new: it begins with row 0" in done.output) == (0, True), done.output
        done = CliRunner().invoke(main, ["job", "change", "j", *port, "--drop-sink", "0"])
        assert "sink 0 (stdout) is taken away" in done.output
        wait_until_gone(server, 0)
        assert CliRunner().invoke(main, ["job", "change", "j", *port, "--sink", "{"]).exit_code == 2
        for said in (
            {"drop_sinks": [7]},
            {"add_sinks": [{"kind": "stdout"}], "sinks_from": "elsewhere.1.2"},
            {"add_sinks": [{"kind": "stdout"}], "sinks": []},
            {"add_sinks": [{"kind": "stdout"}] * 6},
            {"add_sinks": [{"kind": "parquet", "path": "../out"}]},
            {"add_sinks": [{"kind": "stdout"}], "params": {"a": 1}},
        ):
            assert server.send("PATCH", "/v1/jobs/j", said).status == 422, said
        for sink, told in (
            ({"kind": "slak"}, '/add_sinks/0: there is no kind "slak". Did you mean "slack"?'),
            ({}, "/add_sinks/0: kind is missing"),
            ({"kind": "stdout", "when": "v >"}, "/add_sinks/0/when: no condition"),
        ):
            assert server.send("PATCH", "/v1/jobs/j", {"add_sinks": [sink]}).json()["detail"].startswith(told)
        assert sinks_of(server) == {}
