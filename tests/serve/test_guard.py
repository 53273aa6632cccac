"""Who may call, how much and for how long: each bound answers with a problem, and nothing is cut silently."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
import zlib
from collections.abc import Iterator

import pytest
import zstandard
from support.serving import Served, served

from server.guard import decoded, hostname, parse_json, request_id
from server.problems import Refusal
from server.routes import ROUTES
from server.settings import Limits


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    limits = Limits(queries=2, readers=3, body=20_000, events_body=2_000, events_decoded=50_000, body_timeout=0.5)
    with served(limits=limits) as running:
        running.events("orders", {"id": 0})
        yield running


def problem_code(head_and_body: bytes) -> str:
    return str(json.loads(head_and_body.split(b"\r\n\r\n", 1)[1])["code"])


def raw(server: Served, data: bytes) -> bytes:
    """What comes back for bytes as they are, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
        return answer


# --- where a request comes from ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
def test_no_route_answers_to_a_foreign_name(server: Served, path: str) -> None:
    reply = server.get(path.replace("{id}", "x").replace("{name}", "x"), Host="rebound.example")
    assert (reply.status, reply.json()["code"]) == (421, "unknown-host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8642"])
def test_this_machines_names_are_answered(server: Served, host: str) -> None:
    assert server.get("/healthz", Host=host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://["},
    ],
)
def test_another_sites_page_changes_nothing(server: Served, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/v1/queries"), ("DELETE", "/v1/queries/x"), ("PUT", "/v1/sources/x")):
        reply = server.send(method, path, "SELECT id FROM orders", headers)
        assert (reply.status, reply.json()["code"]) == (403, "foreign-origin")


def test_the_servers_own_page_may_ask(server: Served) -> None:
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"}
    assert server.send("POST", "/v1/queries:validate", "SELECT id FROM orders", own).status == 200


def test_every_answer_has_an_id_and_the_headers_that_keep_browsers_honest(server: Served) -> None:
    for path in ("/healthz", "/nowhere", "/docs"):
        reply = server.get(path, X_Request_Id="mine-1")
        assert reply.headers["x-request-id"] == "mine-1"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "access-control-allow-origin" not in reply.headers


def test_a_request_id_that_could_do_harm_is_replaced() -> None:
    assert request_id("ok-1.2_3") == "ok-1.2_3"
    for given in (None, "", "a b", "x" * 65, 'a"b', "ä"):
        assert request_id(given) != given


def test_a_host_is_a_name_without_its_port() -> None:
    assert [hostname(host) for host in ("A:80", "[::1]:80", "[::1]", "a", "")] == ["a", "[::1]", "[::1]", "a", ""]


# --- what the framework refuses -----------------------------------------------------------------------------


def test_what_is_not_there_or_not_so_is_a_problem(server: Served) -> None:
    for method, path, status, code in (
        ("GET", "/v2", 404, "no-such-path"),
        ("PATCH", "/v1/queries", 405, "method-not-allowed"),
        ("TRACE", "/healthz", 405, "method-not-allowed"),
        ("GET", "/v1/queries/x", 404, "unknown-query"),
        ("GET", "/v1/sources/x", 404, "unknown-source"),
    ):
        reply = server.send(method, path)
        assert (reply.status, reply.json()["code"]) == (status, code)
        assert reply.headers["content-type"] == "application/problem+json"
    assert server.send("PATCH", "/v1/queries").headers["allow"] == "GET,HEAD,POST"


def test_what_is_not_http_is_a_problem_too(server: Served) -> None:
    for data in (b"\x16\x03\x01hello\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 10_000 + b"\r\n\r\n"):
        answer = raw(server, data)
        assert b" 400 Bad Request\r\n" in answer.splitlines(keepends=True)[0]
        assert problem_code(answer) == "broken-request"


def test_a_format_that_is_not_to_be_had_is_406(server: Served) -> None:
    assert server.post("/v1/queries", "SELECT id FROM orders", Accept="image/png").json()["code"] == "not-acceptable"
    assert server.post("/v1/queries?format=xml", "SELECT id FROM orders").json()["code"] == "unknown-format"


# --- bodies ---------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_413_by_its_length_and_by_its_chunks(server: Served) -> None:
    assert server.post("/v1/queries", "x" * 30_000).json()["code"] == "body-too-large"
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    head = b"POST /v1/queries HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(server, head + chunk * 3 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_half_a_body_is_given_up(server: Served) -> None:
    began = time.monotonic()
    answer = raw(server, b"POST /v1/queries HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nSELECT")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 5


def test_a_small_body_that_unpacks_to_a_large_one_is_413(server: Served) -> None:
    bomb = gzip.compress(b" " * 1_000_000)
    reply = server.post("/v1/sources/orders/events", bomb, Content_Type="application/json", Content_Encoding="gzip")
    assert len(bomb) < 2_000
    assert (reply.status, reply.json()["code"]) == (413, "body-too-large")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_bodies_are_unpacked_up_to_a_bound(pack: object) -> None:
    coding = "gzip" if pack is gzip.compress else "zstd"
    packed = pack(b"a" * 1_000)  # type: ignore[operator]
    assert decoded(packed, coding, 1_000) == b"a" * 1_000
    assert decoded(packed + packed, coding, 2_000) == b"a" * 2_000
    for wrong, most in ((packed, 999), (b"none of it", 1_000), (packed[:-5], 1_000)):
        with pytest.raises(Refusal):
            decoded(wrong, coding, most)


def test_an_unknown_coding_is_refused() -> None:
    with pytest.raises(Refusal, match="are not taken"):
        decoded(zlib.compress(b"x"), "br", 100)


def test_json_that_is_deep_or_broken_is_refused() -> None:
    for body in (b"{", b"[" * 2_000 + b"]" * 2_000, b"[" * 100 + b"]" * 100, b'"\xff"', b"NaN"):
        with pytest.raises(Refusal):
            parse_json(body)


# --- how much -------------------------------------------------------------------------------------------------


def test_more_queries_or_readers_than_the_limit_are_told_to_come_back(server: Served) -> None:
    ids = [server.post("/v1/queries", "SELECT id FROM orders", Accept="application/json").json()["id"] for _ in "ab"]
    refused = server.post("/v1/queries", "SELECT id FROM orders", Accept="application/json")
    assert (refused.status, refused.json()["code"]) == (429, "too-many-queries")
    assert int(refused.headers["retry-after"]) > 0
    url = f"/v1/queries/{ids[0]}/stream"
    with server.stream("GET", url) as a, server.stream("GET", url) as b, server.stream("GET", url) as c:
        assert [each.status for each in (a, b, c)] == [200, 200, 200]
        assert server.get(url).json()["code"] == "too-many-readers"
    for id in ids:
        assert server.send("DELETE", f"/v1/queries/{id}").status == 204


def test_connections_beyond_the_limit_are_turned_away() -> None:
    with served(limits=Limits(connections=3)) as server:
        held = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(3)]
        try:
            for connection in held:
                connection.request("GET", "/healthz")
                assert connection.getresponse().read()
            assert server.get("/healthz").json()["code"] == "too-many-connections"
        finally:
            for connection in held:
                connection.close()
