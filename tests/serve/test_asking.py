"""Asking over HTTP: the formats, attaching, resuming, leaving, and what happens when the server stops."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pyarrow as pa
import pytest
from support.serving import Served, served

EVENTS = "text/event-stream"
JSON = "application/json"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """One server for the tests that leave nothing behind; its source has learned a shape."""
    with served() as running:
        running.events("orders", {"id": 0, "total": 1.5, "city": "Oslo"})
        yield running


def order(id: int, total: float = 1.5, city: str = "Oslo") -> dict[str, object]:
    return {"id": id, "total": total, "city": city}


def test_rows_come_as_lines_by_default(server: Served) -> None:
    with server.stream("POST", "/v1/queries", "SELECT id, city FROM orders") as stream:
        server.events("orders", order(1), order(2, city='=b"\n'))
        assert stream.lines(2) == [{"id": 1, "city": "Oslo"}, {"id": 2, "city": '=b"\n'}]
    assert stream.headers["content-type"].startswith("application/x-ndjson")


def test_curl_may_send_the_query_as_a_form_or_as_it_is(server: Served) -> None:
    form = "application/x-www-form-urlencoded"
    for body in (b"mql=SELECT+id+FROM+orders+LIMIT+1", b"SELECT id FROM orders LIMIT 1"):
        with server.stream("POST", "/v1/queries", body, Content_Type=form) as stream:
            server.events("orders", order(3))
            assert stream.lines(1) == [{"id": 3}]
            assert stream.line() == b""


def test_events_begin_with_meta_and_end_with_a_reason(server: Served) -> None:
    with server.stream("POST", "/v1/queries?max_rows=2", "SELECT id FROM orders", Accept=EVENTS) as stream:
        meta = stream.event()
        server.events("orders", order(1), order(2), order(3))
        rows = stream.rows(2)
        end = stream.until("end")
    assert meta["event"] == "meta"
    assert json.loads(meta["data"])["id"] == stream.headers["x-mql-query"]
    assert [row["id"] for row in rows] == [1, 2]
    assert json.loads(end["data"])["reason"] == "limit"
    assert stream.headers["x-accel-buffering"] == "no"
    assert stream.headers["cache-control"] == "no-cache"


def test_progress_comes_even_when_nothing_happens(server: Served) -> None:
    with server.stream("POST", "/v1/queries", "SELECT id FROM orders WHERE id < 0", Accept=EVENTS) as stream:
        progress = json.loads(stream.until("progress")["data"])
    assert progress["scanned"] == 0


def test_parameters_come_with_the_body_or_the_address(server: Served) -> None:
    text = "SELECT id FROM orders WHERE city = $city AND id > $least LIMIT 1"
    body = {"query": text, "params": {"city": "Rome"}}
    with server.stream("POST", "/v1/queries?p.least=5", body) as stream:
        server.events("orders", order(9), order(1, city="Rome"), order(7, city="Rome"))
        assert stream.lines(1) == [{"id": 7}]


def test_early_values_of_an_open_window_are_told_where_they_are_asked_for(server: Served) -> None:
    body = {"query": "SELECT count(*) AS n FROM orders WINDOW TUMBLING 1h", "early": "1s"}
    with server.stream("POST", "/v1/queries", body) as stream:
        server.events("orders", order(1))
        (row,) = stream.lines(1)
    assert (row["n"], row["final"]) == (1, False)


def test_csv_has_a_header_and_arrow_has_batches(server: Served) -> None:
    with server.stream("POST", "/v1/queries?max_rows=2&format=csv", "SELECT id, city FROM orders") as stream:
        server.events("orders", order(1), order(2, city="=x"))
        assert stream.rest() == b"id,city\r\n1,Oslo\r\n2,'=x\r\n"
    with server.stream("POST", "/v1/queries?max_rows=2&format=arrow", "SELECT id FROM orders") as stream:
        server.events("orders", order(1), order(2))
        with pa.ipc.open_stream(io.BytesIO(stream.rest())) as reader:
            assert reader.read_all().to_pydict() == {"id": [1, 2]}


def test_a_query_can_be_attached_to_and_resumed(server: Served) -> None:
    asked = server.post("/v1/queries", {"query": "SELECT id FROM orders", "name": "mine"}, Accept=JSON)
    started = asked.json()
    assert asked.status == 201
    assert [column["name"] for column in started["schema"]] == ["id"]
    assert asked.headers["location"] == f"/v1/queries/{started['id']}"
    with server.stream("GET", started["stream_url"], Accept=EVENTS) as first:
        assert first.event()["event"] == "meta"
        server.events("orders", order(1))
        seen = first.until("rows")
    server.events("orders", order(2))
    with server.stream("GET", started["stream_url"], Accept=EVENTS, Last_Event_ID=seen["id"]) as second:
        server.events("orders", order(3))
        assert [row["id"] for row in second.rows(2)] == [2, 3]
    assert server.send("DELETE", f"/v1/queries/{started['id']}").status == 204


def test_a_reader_of_a_query_that_ended_is_told_not_to_come_back(server: Served) -> None:
    started = server.post("/v1/queries", "SELECT id FROM orders", Accept=JSON).json()
    with server.stream("GET", started["stream_url"], Accept=EVENTS) as stream:
        stream.event()
        server.send("DELETE", f"/v1/queries/{started['id']}")
        end = stream.until("end")
    assert json.loads(end["data"])["reason"] == "deleted"
    again = server.send("GET", started["stream_url"], headers={"Accept": EVENTS, "Last-Event-ID": end["id"]})
    assert again.status in (204, 404)  # either ends an EventSource's reconnects


def test_listing_and_one_query(server: Served) -> None:
    started = server.post("/v1/queries", {"query": "SELECT id FROM orders", "name": "shown"}, Accept=JSON).json()
    server.events("orders", order(1))
    listed = server.get("/v1/queries").json()["queries"]
    assert [each["query"] for each in listed if each["name"] == "shown"] == ["SELECT id FROM orders"]
    one = server.get(f"/v1/queries/{started['id']}").json()
    assert one["plan"]
    assert set(one["ledger"]) >= {"filtered", "late", "malformed"}
    assert server.get(f"/v1/queries/{started['id']}/late").json()["rows"] == []
    server.send("DELETE", f"/v1/queries/{started['id']}")


def test_several_queries_share_one_stream(server: Served) -> None:
    ids = [
        server.post("/v1/queries", f"SELECT id AS {name} FROM orders WHERE id = 5", Accept=JSON).json()["id"]
        for name in ("a", "b")
    ]
    with server.stream("GET", f"/v1/stream?q={ids[0]}&q={ids[1]}", Accept=EVENTS) as stream:
        assert {json.loads(stream.until("meta")["data"])["query"] for _ in ids} == set(ids)
        server.events("orders", order(5))
        told = [json.loads(stream.until("rows")["data"]) for _ in ids]
    assert {each["query"]: each["data"] for each in told} == {ids[0]: [{"a": 5}], ids[1]: [{"b": 5}]}
    for id in ids:
        server.send("DELETE", f"/v1/queries/{id}")


def test_a_reader_that_leaves_ends_what_only_it_used(server: Served) -> None:
    with server.stream("POST", "/v1/queries", "SELECT id FROM orders", Accept=EVENTS) as stream:
        stream.event()
        id = stream.headers["x-mql-query"]
        assert is_running(server, id)
    until = time.monotonic() + 5.0  # it takes a moment; the machine may be busy
    while is_running(server, id):
        assert time.monotonic() < until, "the query still runs after its reader has left"


def is_running(server: Served, id: str) -> bool:
    reply = server.get(f"/v1/queries/{id}")
    return reply.status == 200 and reply.json()["status"]["ended_us"] is None


def test_a_mistake_is_drawn_with_its_place(server: Served) -> None:
    reply = server.post("/v1/queries", "SELECT id\nFROM orders WHERE totl > 1")
    problem = reply.json()
    assert (reply.status, reply.headers["content-type"]) == (422, "application/problem+json")
    assert problem["span"] == {"line": 2, "column": 19, "end": 23}
    assert "2 | FROM orders WHERE totl > 1\n  |                   ^^^^" in problem["detail"]
    assert problem["hint"] == 'Did you mean "total"?'
    assert problem["request_id"] == reply.headers["x-request-id"]


def test_validate_tells_what_is_wrong_and_explain_shows_the_plan(server: Served) -> None:
    assert server.post("/v1/queries:validate", "SELECT id FROM orders").json() == {"valid": True, "errors": []}
    wrong = server.post("/v1/queries:validate", {"query": "SELECT totl FROM orders"}).json()
    assert not wrong["valid"]
    assert wrong["errors"][0]["span"] == {"line": 1, "column": 8, "end": 12}
    assert server.post("/v1/queries:explain", "SELECT id FROM orders").json()["text"]
    assert server.post("/v1/queries:explain?form=sql", "SELECT id FROM orders").json()["form"] == "sql"
    assert server.post("/v1/queries:estimate", "SELECT id FROM orders").json()["text"]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_compressed_stream_is_flushed_with_each_frame(server: Served, coding: str) -> None:
    import zlib

    import zstandard

    unpack = zlib.decompressobj(31) if coding == "gzip" else zstandard.ZstdDecompressor().decompressobj()
    with server.stream("POST", "/v1/queries", "SELECT id FROM orders", Accept=EVENTS, Accept_Encoding=coding) as stream:
        assert stream.headers["content-encoding"] == coding
        text = unpack.decompress(stream.answer.read1())
        server.events("orders", order(77))
        while b'[{"id":77}]' not in text:
            text += unpack.decompress(stream.answer.read1())


def test_a_stop_tells_the_readers_and_does_not_wait_for_them() -> None:
    with ExitStack() as stack:
        with served() as server:
            server.events("orders", order(1))
            opened = server.stream("POST", "/v1/queries", "SELECT id FROM orders", Accept=EVENTS)
            stream = stack.enter_context(opened)
            stream.event()
            began = time.monotonic()
        end = stream.until("end")
    assert time.monotonic() - began < 5
    assert json.loads(end["data"])["reason"] == "server stopping"
