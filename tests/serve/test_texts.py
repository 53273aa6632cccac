"""Texts before they run: what may come next, why an event is kept out, and a query that says no FROM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.serving import Served, served

from mql.catalog import TimeRule
from server.cli import main
from sources.memory import MemorySource

EVENT = {"ts": 1_700_000_000_000, "country": "DE", "status": 500, "user": {"id": 7}}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    orders = MemorySource("orders", [EVENT], time=TimeRule(("ts",), "ms"))
    with served([orders, MemorySource("clicks", [{"path": "/a"}])]) as running:
        yield running


def why(server: Served, query: str, event: Any = EVENT, **more: Any) -> dict[str, Any]:
    answer = server.send("POST", "/v1/queries:why", {"query": query, "event": event, **more})
    assert answer.status == 200, answer.json()
    return dict(answer.json())


@pytest.mark.parametrize(
    ("query", "kept", "reason"),
    [
        ("SELECT * FROM orders WHERE status >= 500", True, "nothing keeps it out"),
        (
            "SELECT * FROM orders WHERE status >= 500 AND country IN ('US', 'FR')",
            False,
            "country IN ('US', 'FR') is false: country is \"DE\"",
        ),
        ("SELECT * FROM orders WHERE user.id = $id", False, "user.id = $id is false: user.id is 7"),
        ("SELECT * FROM orders SAMPLE 100 PERCENT BY country", True, "nothing keeps it out"),
        (
            "SELECT * FROM orders SAMPLE 10 PERCENT",
            None,
            "SAMPLE decides by the event's place in its source, which is not known here",
        ),
        (
            "SELECT * FROM orders SINCE '2024-01-01' UNTIL '2024-01-02'",
            False,
            "SINCE and UNTIL leave out that time",
        ),
    ],
)
def test_the_first_thing_that_keeps_an_event_out(server: Served, query: str, kept: bool | None, reason: str) -> None:
    found = why(server, query, params={"id": 8} if "$id" in query else {})
    assert (found["kept"], found["reason"]) == (kept, reason)


def test_what_a_query_asks_is_what_it_answers_with(server: Served) -> None:
    query = "SELECT country, count(*) AS n FROM orders WHERE status > 1 WINDOW HOPPING 1m EVERY 30s GROUP BY country"
    steps = {step["step"]: step for step in why(server, query)["steps"]}
    assert list(steps) == ["decode", "where", "window", "group"]
    assert steps["group"]["key"] == {"country": "DE"}
    asked = [one["window_end"] for one in steps["window"]["windows"]]
    told = server.post(
        "/v1/queries", {"query": query.replace("country,", "country, window_end,", 1)}, accept="text/csv"
    )
    assert [line.split(b",")[1].decode() for line in told.body.split()[1:]] == asked
    assert asked == ["2023-11-14T22:13:30Z", "2023-11-14T22:14:00Z"]


def test_null_is_not_true(server: Served) -> None:
    found = why(server, "SELECT * FROM orders WHERE status > 3", {"ts": 1_700_000_000_000})
    assert found["reason"] == "status > 3 is null: status is null"


def test_an_event_that_is_none_says_so(server: Served) -> None:
    assert why(server, "SELECT * FROM orders", '{"ts":')["reason"] == "it can't be read: not JSON"
    assert why(server, "SELECT * FROM orders", {"a": 1})["reason"] == 'it can\'t be read: no event time in "ts"'


def test_a_wrong_query_and_a_source_that_it_does_not_read_are_refused(server: Served) -> None:
    wrong = server.send("POST", "/v1/queries:why", {"query": "SELECT * FROM orders WHERE", "event": EVENT})
    assert wrong.status == 422
    other = {"query": "SELECT * FROM orders", "event": EVENT, "source": "clicks"}
    assert server.send("POST", "/v1/queries:why", other).json()["code"] == "no-such-source"


@pytest.mark.parametrize(
    ("text", "start", "first"),
    [
        ("SEL", 0, ("SELECT", "keyword")),
        ("SELECT cou", 7, ("country", "property")),
        ("SELECT user.", 7, ("user.id", "property")),
        ("SELECT * FROM cl", 14, ("clicks", "source")),
        ("SELECT * FROM orders WHERE stat", 27, ("status", "property")),
        ("SELECT * FROM orders win", 21, ("WINDOW", "keyword")),
        ("SELECT approx_c", 7, ("approx_count_distinct(", "aggregate")),
    ],
)
def test_what_may_come_next(server: Served, text: str, start: int, first: tuple[str, str]) -> None:
    found = server.send("POST", "/v1/queries:complete", {"query": text, "source": "orders"}).json()
    assert found["start"] == start
    assert (found["items"][0]["text"], found["items"][0]["kind"]) == first


def test_what_comes_behind_tells_the_sources(server: Served) -> None:
    text = "SELECT pa FROM clicks"
    found = server.send("POST", "/v1/queries:complete", {"query": text, "offset": 9}).json()
    assert found["items"][0] == {"text": "path", "kind": "property", "detail": "VARCHAR"}


def test_a_query_may_say_its_source_beside_it(server: Served) -> None:
    asked = {"query": "SELECT path LIMIT 1", "source": "clicks"}
    assert server.post("/v1/queries", asked, accept="text/csv").body.split() == [b"path", b"/a"]
    assert server.send("POST", "/v1/queries:validate", asked).json()["valid"]
    plan = server.send("POST", "/v1/queries:explain", asked).json()["text"]
    assert "clicks" in plan
    unknown = server.send("POST", "/v1/queries", {**asked, "source": "nothing"})
    assert unknown.json()["code"] == "no-such-source"


def test_the_command_line_tells_why(tmp_path: Path) -> None:
    path = tmp_path / "e.ndjson"
    path.write_text(json.dumps(EVENT) + "\n")
    query = f"SELECT * FROM '{path}' WHERE status < 500"
    found = CliRunner().invoke(main, ["why", query, "--event", json.dumps(EVENT)])
    assert found.exit_code == 1
    assert found.output.splitlines()[-1] == "kept out: status < 500 is false: status is 500"
