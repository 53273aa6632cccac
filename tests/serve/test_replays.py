"""Replays: a bounded query as one document, at once or later."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pytest
from support.serving import Served, served

from server.settings import Limits
from sources.memory import MemorySource

COUNT = "SELECT city, count(*) AS n FROM orders GROUP BY city"
EVENTS = [{"id": id, "city": "Oslo" if id % 2 else "Rome"} for id in range(1_000)]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served([MemorySource("orders", EVENTS), MemorySource("live", EVENTS[:1], bounded=False)]) as running:
        yield running


def test_a_small_replay_is_answered_at_once(server: Served) -> None:
    reply = server.post("/v1/replays?wait=20", COUNT)
    assert reply.status == 200
    found = sorted((row["city"], row["n"]) for row in reply.json()["rows"])
    assert found == [("Oslo", 500), ("Rome", 500)]
    assert {column["name"] for column in reply.json()["columns"]} == set(reply.json()["rows"][0])


@pytest.mark.parametrize("name", ["csv", "ndjson", "arrow", "json"])
def test_the_result_comes_in_any_format(server: Served, name: str) -> None:
    text = "SELECT id FROM orders WHERE id < 3"
    body = server.post(f"/v1/replays?wait=20&format={name}", text).body
    expected = {"csv": b"id\r\n0\r\n1\r\n2\r\n", "ndjson": b'{"id":0}\n{"id":1}\n{"id":2}\n'}
    if name in expected:
        assert body == expected[name]
    elif name == "arrow":
        with pa.ipc.open_stream(io.BytesIO(body)) as reader:
            assert reader.read_all().to_pydict() == {"id": [0, 1, 2]}
    else:
        assert body.endswith(b'"rows":[{"id":0},{"id":1},{"id":2}]}')


def test_a_longer_replay_is_fetched_when_it_is_done(server: Served) -> None:
    reply = server.post("/v1/replays?wait=0", COUNT)
    if reply.status == 202:
        path = reply.headers["location"]
        while server.get(path).json()["state"] == "running":
            assert server.get(f"{path}/result").status in (200, 409)
        assert len(server.get(f"{path}/result").json()["rows"]) == 2
        assert server.send("DELETE", path).status == 204
        assert server.get(path).json()["code"] == "unknown-replay"


def test_a_live_query_is_no_replay(server: Served) -> None:
    reply = server.post("/v1/replays", "SELECT id FROM live")
    assert (reply.status, reply.json()["code"]) == (422, "not-bounded")


def test_a_mistake_is_told_as_for_any_query(server: Served) -> None:
    assert server.post("/v1/replays", "SELECT idd FROM orders").json()["span"] == {"line": 1, "column": 8, "end": 11}


def test_a_result_that_is_too_large_fails_and_says_what_to_do() -> None:
    with served([MemorySource("orders", EVENTS)], limits=Limits(replay_result=1_000)) as server:
        problem = server.post("/v1/replays?wait=20", "SELECT id FROM orders").json()
    assert problem["code"] == "result-too-large"
    assert "stream" in problem["hint"]
