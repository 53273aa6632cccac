"""Sources over HTTP: declaring, looking, and the way in for events."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from support.serving import Served, served

from server.settings import Limits
from sources.archive import Archive
from sources.http import HttpSource
from sources.memory import MemorySource

LINES = "application/x-ndjson"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    known = MemorySource("known", [{"id": 1, "device": {"id": 7}, "tags": [{"k": "a"}]}])
    with served([HttpSource("orders"), known], limits=Limits(event=5_000)) as running:
        yield running


def test_a_source_is_declared_used_and_taken_away(server: Served) -> None:
    made = server.send("PUT", "/v1/sources/fresh", {"kind": "http", "lateness": "10s"})
    assert (made.status, made.json()["lateness"], made.headers["location"]) == (201, 10.0, "/v1/sources/fresh")
    assert server.send("PUT", "/v1/sources/fresh", {"kind": "http"}).status == 409
    assert server.events("fresh", {"id": 5}).json()["accepted"] == 1
    assert server.get("/v1/sources/fresh/sample").json() == {"events": [{"id": 5}]}
    assert server.send("DELETE", "/v1/sources/fresh").status == 204
    assert server.send("DELETE", "/v1/sources/fresh").status == 404
    assert server.send("DELETE", "/v1/sources/orders").json()["code"] == "default-source"


def test_a_server_opens_no_file_that_its_operator_did_not_declare(server: Served) -> None:
    for mapping in ({"kind": "file", "path": "/etc/passwd"}, {"kind": "http", "record": {"directory": "/tmp/x"}}):
        reply = server.send("PUT", "/v1/sources/evil", mapping)
        assert (reply.status, reply.json()["code"]) == (422, "invalid-source")


def test_all_that_is_wrong_with_a_declaration_is_told(server: Served) -> None:
    reply = server.send("PUT", "/v1/sources/x", {"kind": "http", "latenes": 1, "buffer": "big"})
    assert {each["pointer"] for each in reply.json()["errors"]} == {"/latenes", "/buffer"}
    assert server.send("PUT", "/v1/sources/bad%20name", {"kind": "http"}).status == 422


def test_the_shape_tells_each_path(server: Served) -> None:
    shape = server.get("/v1/sources/known/shape").json()
    paths = {tuple(each["path"]): each["type"] for each in shape["properties"]}
    assert paths[("id",)] == "BIGINT"
    assert paths[("device", "id")] == "BIGINT"
    assert paths[("tags", "*", "k")] == "VARCHAR"
    assert server.get("/v1/sources").json()["sources"][0]["default"] is True


@pytest.mark.parametrize(
    ("body", "kind", "coding"),
    [
        (b'{"id": 1}\n{"id": 2}\n', LINES, None),
        (b'{"id": 1}\n{"id": 2}', LINES, None),
        (b'[{"id": 1}, {"id": 2}]', "application/json", None),
        (gzip.compress(b'[{"id": 1}, {"id": 2}]'), "application/json", "gzip"),
        (zstandard.compress(b'{"id": 1}\n{"id": 2}\n'), LINES, "zstd"),
    ],
    ids=["lines", "no last newline", "array", "gzip", "zstd"],
)
def test_events_come_as_lines_or_arrays_plain_or_packed(
    server: Served, body: bytes, kind: str, coding: str | None
) -> None:
    headers = {"Content_Type": kind} | ({"Content_Encoding": coding} if coding else {})
    with server.stream("POST", "/v1/queries?max_rows=2", "SELECT id FROM orders") as stream:
        reply = server.post("/v1/sources/orders/events", body, **headers)
        assert (reply.status, reply.json()["accepted"], reply.json()["stored"]) == (202, 2, "memory")
        assert stream.lines(2) == [{"id": 1}, {"id": 2}]


def test_one_object_is_one_event(server: Served) -> None:
    assert server.post("/v1/sources/orders/events", {"id": 1}).json()["accepted"] == 1


def test_the_same_key_stores_once(server: Served) -> None:
    replies = [server.post("/v1/sources/orders/events", {"id": 8}, Idempotency_Key="k-1").json() for _ in range(2)]
    assert [reply["repeated"] for reply in replies] == [False, True]
    assert replies[0]["positions"] == replies[1]["positions"]


def test_events_of_a_recorded_source_are_on_disk_before_the_answer(tmp_path: Path) -> None:
    source = HttpSource("kept", archive=Archive(tmp_path / "kept"))
    with served([source]) as server:
        reply = server.events("kept", {"id": 1})
        assert (reply.status, reply.json()["stored"]) == (200, "archive")


def test_what_cannot_be_taken_in_says_why(server: Served) -> None:
    path = "/v1/sources/orders/events"
    for reply, status, code in (
        (server.post(path, b"[{", Content_Type="application/json"), 400, "malformed-body"),
        (server.post(path, b"\x00\x01", Content_Type="application/json", Content_Encoding="gzip"), 400, "broken-body"),
        (server.post(path, b"x", Content_Type="image/png"), 415, "unknown-body"),
        (server.post(path, b"x", Content_Encoding="br", Content_Type=LINES), 415, "unknown-coding"),
        (server.post(path, {"id": "x" * 6_000}), 413, "event-too-large"),
        (server.post(path, {"id": 1}, Idempotency_Key="k" * 300), 422, "invalid-key"),
        (server.post("/v1/sources/known/events", {"id": 1}), 409, "not-for-events"),
        (server.post("/v1/sources/none/events", {"id": 1}), 404, "unknown-source"),
    ):
        assert (reply.status, reply.json()["code"]) == (status, code)


def test_a_full_source_says_when_to_come_back() -> None:
    source = HttpSource("small", buffer_bytes=1_000)
    source.put(b'{"id": 0}\n')
    slow = source.open(None)  # a reader that takes nothing
    with served([source]) as server:
        replies = [server.events("small", {"id": "x" * 400}) for _ in range(3)]
        slow.close()
    assert [reply.status for reply in replies] == [202, 202, 429]
    assert replies[-1].json()["code"] == "source-full"
    assert int(replies[-1].headers["retry-after"]) >= 1


def test_what_cannot_be_read_becomes_a_dead_letter(server: Served) -> None:
    with server.stream("POST", "/v1/queries?max_rows=1", "SELECT id FROM orders") as stream:
        server.post("/v1/sources/orders/events", b'{"id": \n{"id": 4}\n', Content_Type=LINES)
        assert stream.lines(1) == [{"id": 4}]
    (letter,) = server.get("/v1/sources/orders/deadletters?n=1").json()["events"]
    assert json.dumps(letter).count('{\\"id\\": ') == 1
