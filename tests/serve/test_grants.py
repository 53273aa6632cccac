"""What a token may read: a secret that stands in hidden properties and in other sources comes back by no route."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner
from support.serving import Reply, Served, served
from support.waiting import wait_for

from mql.planner.hidden import shape_without
from mql.schema import BIGINT, JSON, VARCHAR, Field, Shape, StructOf
from server.cli import main
from server.routes import ROUTES
from server.tokens import NewToken
from sources.http import HttpSource
from sources.memory import MemorySource
from sources.settings import Settings

SECRET = "hunter2"
EVENT = {
    "ts": 1,
    "id": 7,
    "email": SECRET,
    "who": {"name": "ann", "card": SECRET},
    "tags": [{"secret": SECRET}],
    "odd.name": SECRET,
}
HIDDEN = ["email", "who.card", "tags", "odd.name"]


@dataclass(frozen=True)
class Limited:
    """A server, and a token that may read `orders` less what is hidden, the job `plain`, and nothing else."""

    server: Served
    admin: str
    token: str

    def ask(self, method: str, path: str, body: Any = None, *, admin: bool = False) -> Reply:
        kind = {"Content-Type": "text/plain"} if isinstance(body, str) else {}
        token = self.admin if admin else self.token
        return self.server.send(method, path, body, {"Authorization": f"Bearer {token}", **kind})


@pytest.fixture(scope="module")
def limited() -> Iterator[Limited]:
    payroll = MemorySource("payroll", [{"ts": 1, "salary": SECRET}], bounded=False)
    history = MemorySource("kept", [EVENT], bounded=False)
    with served([HttpSource("orders", settings=Settings(open=True)), payroll, history]) as server:
        server.events("orders", EVENT)
        server.post("/v1/sources/orders/events", b"{not json " + SECRET.encode(), Content_Type="application/x-ndjson")
        root = server.post("/v1/tokens", {"name": "root", "scope": "admin"}).json()["token"]
        said = {
            "name": "guest",
            "scope": "read",
            "sources": ["orders", "kept", "job.plain", "job.holds-hidden"],
            "hide": {"orders": HIDDEN, "kept": HIDDEN, "job.holds-*": ["email"]},
        }
        bare = Limited(server, root, "")
        token = bare.ask("POST", "/v1/tokens", said, admin=True).json()["token"]
        one = Limited(server, root, token)
        jobs = {
            "plain": "SELECT id FROM orders",
            "private": "SELECT email FROM orders",
            "holds-hidden": "SELECT id, email FROM orders",
        }
        for name, query in jobs.items():
            assert one.ask("POST", "/v1/jobs", {"name": name, "query": query}, admin=True).status == 201
            wait_for(lambda name=name: one.ask("GET", f"/v1/jobs/{name}", admin=True).json()["state"] == "running")  # type: ignore[misc]
        one.ask("POST", "/v1/sources/orders/events", [EVENT], admin=True)
        wait_for(lambda: SECRET.encode() in one.ask("GET", "/v1/jobs/private/results", admin=True).body)
        yield one


REFUSED = [
    "SELECT email FROM kept",
    "SELECT EMAIL FROM kept",
    "SELECT e['email'] FROM kept",
    "SELECT e['Email'] AS x FROM kept",
    "SELECT who.card FROM kept",
    "SELECT e['who']['card'] FROM kept",
    "SELECT e['who.card'] FROM kept",
    "SELECT tags FROM kept",
    "SELECT tags[0].secret FROM kept",
    "SELECT e['tags'][*]['secret'] FROM kept",
    "SELECT e['odd.name'] FROM kept",
    "SELECT e FROM kept",
    "SELECT e::VARCHAR FROM kept",
    "SELECT id FROM kept WHERE email = 'hunter2'",
    "SELECT id FROM kept WHERE e LIKE '%hunter2%'",
    "SELECT count(*) FROM kept WINDOW 1s GROUP BY email",
    "SELECT count(*) FROM kept WINDOW 1s HAVING max(email) > 'h'",
    "SELECT id FROM kept ORDER BY email LIMIT 1",
    "SELECT x FROM (SELECT email AS x FROM kept)",
    "WITH a AS (SELECT who.card AS x FROM kept) SELECT x FROM a",
    "SELECT id FROM kept UNION ALL SELECT email FROM kept",
    "SELECT a.id FROM kept a JOIN kept b ON a.id = b.id AND a.email = b.email WITHIN 1s",
    "SELECT a.email FROM kept a JOIN kept b ON a.id = b.id WITHIN 1s",
    "SELECT id FROM kept WHERE email IN (SELECT email FROM kept) WITHIN 1s",
    "SELECT row_number() OVER (PARTITION BY email) AS n FROM kept",
    "SELECT salary FROM payroll",
    "SELECT * FROM payroll",
    "SELECT email FROM job.private",
    "SELECT email FROM job.holds-hidden",
    "SELECT id FROM kept, payroll",
]


@pytest.mark.parametrize("query", REFUSED)
def test_a_query_that_would_read_what_is_hidden_is_refused(limited: Limited, query: str) -> None:
    bounded = f"{query} SINCE EARLIEST UNTIL NOW"
    live = query.replace("kept", "orders")  # an open source: names that nobody knows are taken there
    told = {admin: limited.ask("POST", "/v1/queries:validate", live, admin=admin).json() for admin in (True, False)}
    assert told[True]["valid"], told[True]
    assert told[False]["errors"][0]["code"] in ("hidden", "unknown-source", "unknown-property"), told[False]
    for path in ("/v1/queries", "/v1/replays", "/v1/queries:explain", "/v1/queries:estimate", "/v1/queries:backtest"):
        reply = limited.ask("POST", path, {"query": bounded, "since": "1970-01-01T00:00:00Z"})
        assert 400 <= reply.status < 500, (path, reply.body)
        assert SECRET.encode() not in reply.body.replace(query.encode(), b"")


def test_all_else_of_the_source_is_there(limited: Limited) -> None:
    rows = limited.ask("POST", "/v1/replays", "SELECT * FROM kept SINCE EARLIEST UNTIL NOW").json()["rows"]
    assert rows == [{"ts": 1, "id": 7, "who": {"name": "ann"}}]
    rows = limited.ask("POST", "/v1/replays", "SELECT who, who.name AS n FROM kept SINCE EARLIEST UNTIL NOW").json()[
        "rows"
    ]
    assert rows == [{"who": {"name": "ann"}, "n": "ann"}]
    assert limited.ask("GET", "/v1/jobs/plain/results").json()["rows"] == [{"id": 7}]
    known = limited.ask("GET", "/v1/sources/kept/shape").json()["properties"]
    assert [one["path"] for one in known] == [["ts"], ["id"], ["who"], ["who", "name"]]


def test_the_same_text_of_others_is_not_shared_with_who_may_not_read_it(limited: Limited) -> None:
    everything = {"query": "SELECT * FROM kept SINCE EARLIEST UNTIL NOW"}
    for admin in (True, False, True):
        told = limited.ask("POST", "/v1/replays", everything, admin=admin).body
        assert (SECRET.encode() in told) is admin


def test_no_route_tells_it(limited: Limited) -> None:
    """Each route that may be called, with each name that there is."""
    made = limited.server.send(
        "POST",
        "/v1/queries",
        {"query": "SELECT email FROM orders"},
        {"Authorization": f"Bearer {limited.admin}", "Accept": "application/json"},
    ).json()
    limited.ask("POST", "/v1/sources/orders/events", [EVENT], admin=True)
    names = (
        "orders",
        "payroll",
        "kept",
        "plain",
        "private",
        "holds-hidden",
        "job.private",
        "job.holds-hidden",
        made["id"],
    )
    streams = ("/stream", "/v1/metrics")
    for route in ROUTES:
        if route.method != "GET" or route.path.endswith(streams) or route.scope not in (None, "read"):
            continue
        for name in names:
            path = (
                route.path.replace("{name}", name)
                .replace("{id}", name)
                .replace("{group}", "g")
                .replace("{version}", "1")
            )
            reply = limited.ask("GET", path)
            assert reply.status < 500, path
            assert SECRET.encode() not in reply.body, path
    for name in ("private", "holds-hidden"):
        assert limited.ask("GET", f"/v1/jobs/{name}/stream").status in (403, 404)
        assert limited.ask("POST", f"/v1/jobs/{name}:backtest", {}).status in (403, 404)
    assert limited.ask("GET", f"/v1/queries/{made['id']}/stream").status == 404
    assert limited.ask("GET", f"/v1/stream?q={made['id']}").status == 404
    assert limited.ask("DELETE", f"/v1/queries/{made['id']}").status == 404
    listed = limited.ask("GET", "/v1/queries").json()["queries"]
    assert made["id"] not in [one["id"] for one in listed]
    assert limited.ask("GET", "/v1/sources/kept/sample").json()["code"] == "hidden"
    assert limited.ask("GET", "/metrics").json()["code"] == "hidden"
    assert "private" not in limited.ask("GET", "/readyz").body.decode()
    complete = limited.ask("POST", "/v1/queries:complete", {"query": "SELECT e FROM kept", "at": 8})
    assert b"email" not in complete.body


def test_a_token_s_own_queries_are_its_own(limited: Limited) -> None:
    asked = {"Authorization": f"Bearer {limited.token}", "Accept": "application/json"}
    made = limited.server.send("POST", "/v1/queries", {"query": "SELECT * FROM orders"}, asked).json()
    assert limited.ask("GET", f"/v1/queries/{made['id']}").status == 200
    assert limited.ask("DELETE", f"/v1/queries/{made['id']}").status == 204


def test_limits_are_for_readers_and_told() -> None:
    with pytest.raises(ValueError, match="scope read"):
        NewToken.model_validate({"name": "a", "scope": "write", "sources": ["x"]})
    with served() as server:
        at = ["--server", f"http://127.0.0.1:{server.port}"]
        done = CliRunner().invoke(main, ["token", "new", "root", "--scope", "admin", *at])
        admin = {"MQL_TOKEN": done.output.strip()}
        command = ["token", "new", "guest", "--source", "orders", "--source", "job.*", "--hide", "orders:email", *at]
        assert CliRunner().invoke(main, command, env=admin).exit_code == 0
        listed = server.send("GET", "/v1/tokens", headers={"Authorization": f"Bearer {admin['MQL_TOKEN']}"}).json()
        guest = next(one for one in listed["tokens"] if one["name"] == "guest")
        assert (guest["sources"], guest["hide"]) == (["orders", "job.*"], {"orders": ["email"]})


def test_a_shape_without_what_is_hidden() -> None:
    who = StructOf((("name", VARCHAR), ("card", VARCHAR)))
    shape = Shape((Field("id", BIGINT), Field("who", who, 1.0, "x"), Field("raw", JSON, 1.0, "x"), Field("a.b", JSON)))
    seen = shape_without(shape, [("WHO", "card"), ("raw", "x"), ("a", "b")], "json")
    assert [(field.name, str(field.type), field.example) for field in seen.fields] == [
        ("id", "BIGINT", None),
        ("who", 'STRUCT("name" VARCHAR)', None),
    ]
    assert [field.name for field in shape_without(shape, [("who", "card")], "columns").fields] == ["id", "raw", "a.b"]
