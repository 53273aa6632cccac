"""Tables over HTTP: declaring, looking, joining, refreshing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.serving import Served, served

from sources.memory import MemorySource

USERS = {"kind": "rows", "key": "id", "rows": [{"id": 1, "name": "ann"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served([MemorySource("known", [{"id": 1}, {"id": 2}])]) as running:
        yield running


def test_a_table_is_declared_joined_and_taken_away(server: Served) -> None:
    made = server.send("PUT", "/v1/tables/users", USERS)
    assert (made.status, made.json()["rows"], made.headers["location"]) == (201, 1, "/v1/tables/users")
    assert made.json()["columns"] == [{"name": "id", "type": "BIGINT"}, {"name": "name", "type": "VARCHAR"}]
    assert server.send("PUT", "/v1/tables/users", USERS).status == 409
    assert server.send("PUT", "/v1/tables/known", USERS).status == 409
    assert [one["name"] for one in server.get("/v1/tables").json()["tables"]] == ["users"]
    assert server.send("POST", "/v1/tables/users/refresh").json()["trouble"] is None
    text = "SELECT k.id, u.name FROM known AS k JOIN users AS u ON k.id = u.id"
    answered = server.send("POST", "/v1/replays", {"query": text})
    assert answered.status == 200
    assert answered.json()["rows"] == [{"k.id": 1, "u.name": "ann"}]
    assert server.send("DELETE", "/v1/tables/users").status == 204
    assert server.send("DELETE", "/v1/tables/users").status == 404


def test_a_server_reads_nothing_that_its_operator_did_not_declare(server: Served) -> None:
    for mapping in ({"kind": "csv", "path": "/etc/passwd"}, {"kind": "http", "url": "http://127.0.0.1/"}):
        reply = server.send("PUT", "/v1/tables/evil", mapping)
        assert (reply.status, reply.json()["code"]) == (422, "invalid-table")
    assert server.get("/v1/tables/evil").status == 404
