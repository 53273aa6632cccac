"""Tokens: from the first on nobody gets in without; what each may do; and who changed what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from support.serving import Reply, Served, served

from mql.errors import MqlError
from mql.exec.clock import ManualClock
from server.cli import main
from server.keeping import Keeper
from server.routes import ROUTES
from server.settings import Server, Settings, check_reach
from server.tokens import NewToken, Quotas, Tokens


def bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


def made(server: Served, name: str, scope: str, admin: str = "", **more: Any) -> str:
    reply = server.send("POST", "/v1/tokens", {"name": name, "scope": scope, **more}, bearer(admin) if admin else {})
    assert reply.status == 201, reply.body
    return str(reply.json()["token"])


def as_one(server: Served, token: str, method: str, path: str, body: Any = None) -> Reply:
    return server.send(method, path, body, bearer(token))


def test_from_the_first_token_on_nobody_gets_in_without() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        assert server.get("/v1/sources").status == 200
        refused = server.post("/v1/tokens", {"name": "a", "scope": "read"})
        assert (refused.status, refused.json()["code"]) == (422, "first-token")
        admin = made(server, "root", "admin")
        for path in ("/v1/sources", "/v1/jobs", "/metrics", "/", "/readyz", "/v1/nothing"):
            without = server.get(path)
            assert (without.status, without.json()["code"]) == (401, "no-token"), path
            assert without.headers["www-authenticate"] == "Bearer"
            assert without.json()["detail"] == "this server takes no calls without a token"
        wrong = as_one(server, admin[:-1], "GET", "/v1/sources")
        assert (wrong.status, "does not know that token" in wrong.json()["detail"]) == (401, True)
        assert as_one(server, admin, "GET", "/v1/sources").status == 200
        assert server.get("/healthz").status == server.get("/openapi.json").status == 200
        assert admin.encode() not in as_one(server, admin, "GET", "/v1/tokens").body


def test_each_scope_may_do_what_those_before_it_may() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        admin = made(server, "root", "admin")
        reads, writes = made(server, "reader", "read", admin), made(server, "writer", "write", admin)
        job = {"name": "j", "query": "SELECT id FROM orders"}
        assert as_one(server, reads, "POST", "/v1/queries:validate", "SELECT id FROM orders").status == 200
        assert as_one(server, reads, "POST", "/v1/jobs", job).json()["code"] == "scope"
        assert as_one(server, writes, "POST", "/v1/jobs", job).status == 201
        assert as_one(server, writes, "GET", "/v1/tokens").status == 403
        assert as_one(server, writes, "PUT", "/v1/sources/more", {"kind": "http"}).status == 403
        assert as_one(server, admin, "PUT", "/v1/sources/more", {"kind": "http"}).status == 201
        changes = as_one(server, admin, "GET", "/v1/changes?kind=job").json()["changes"]
        assert [(one["who"], one["name"], one["action"]) for one in changes] == [("writer", "j", "create")]
        assert as_one(server, admin, "GET", "/v1/changes?who=nobody").json() == {"changes": []}
        assert as_one(server, writes, "GET", "/v1/changes").status == 403


def test_who_may_only_read_ends_queries_of_its_own() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        admin = made(server, "root", "admin")
        mine, other = made(server, "a", "read", admin, quotas={"queries": 1}), made(server, "b", "read", admin)
        headers = {**bearer(mine), "Accept": "application/json"}
        asked = server.send("POST", "/v1/queries", "SELECT id FROM orders", headers)
        assert asked.status == 201
        second = server.send("POST", "/v1/queries", "SELECT id FROM orders", headers)
        assert (second.status, second.json()["code"]) == (429, "quota")
        path = f"/v1/queries/{asked.json()['id']}"
        assert as_one(server, other, "DELETE", path).json()["code"] == "scope"
        assert as_one(server, mine, "DELETE", path).status == 204


def test_a_token_that_is_taken_away_is_gone_at_once_and_the_last_admin_goes_last(tmp_path: Path) -> None:
    with served(home=tmp_path) as server:
        admin = made(server, "root", "admin")
        reads = made(server, "reader", "read", admin)
        assert as_one(server, admin, "DELETE", "/v1/tokens/root").json()["code"] == "last-admin"
        assert as_one(server, admin, "DELETE", "/v1/tokens/reader").status == 204
        assert as_one(server, reads, "GET", "/v1/jobs").status == 401
        assert as_one(server, admin, "DELETE", "/v1/tokens/reader").status == 404
        assert as_one(server, admin, "POST", "/v1/tokens", {"name": "root", "scope": "read"}).status == 409
    with served(home=tmp_path) as server:
        assert server.get("/v1/jobs").status == 401
        assert as_one(server, admin, "GET", "/v1/jobs").status == 200
        stored = (tmp_path / ".mql" / "mql.db").read_bytes()
        assert admin.encode() not in stored


def test_a_server_that_needs_tokens_makes_the_first_itself(capsys: pytest.CaptureFixture[str]) -> None:
    check_reach(Server(host="0.0.0.0", tokens=True))
    with served(tokens=True) as server:
        assert server.get("/v1/jobs").status == 401
        told = capsys.readouterr().err
        token = told[told.index("mql_") :].split()[0]
        assert as_one(server, token, "GET", "/v1/tokens").json()["tokens"][0]["name"] == "first"


def tokens_at(home: Path, clock: ManualClock) -> Tokens:
    return Keeper(Settings(base_dir=home)).tokens(clock)


def test_a_token_ends_when_it_says_and_requests_are_counted_by_the_minute(tmp_path: Path) -> None:
    clock = ManualClock(1_800_000_000_000_000)
    tokens = tokens_at(tmp_path, clock)
    tokens.create(NewToken(name="root", scope="admin"))
    said = {"name": "a", "expires": "2027-01-15T08:01:00Z", "quotas": {"requests": 2}}
    made, text = tokens.create(NewToken.model_validate(said))
    assert tokens.find(text) == made
    assert [tokens.wait_s(made) for _ in range(3)] == [None, None, 60]
    clock.advance(59_000_000)
    assert tokens.find(text) is not None
    assert tokens.wait_s(made) == 1
    clock.advance(1_000_000)
    assert tokens.wait_s(made) is None
    assert tokens.find(text) is None
    assert made.quotas == Quotas(requests=2)
    with pytest.raises(MqlError, match="expired already"):
        tokens.create(NewToken.model_validate({"name": "b", "scope": "admin", "expires": "2027-01-15T08:01:00Z"}))


def test_what_is_no_token_is_refused(tmp_path: Path) -> None:
    for wrong in ({"name": "../a"}, {"name": "a", "scope": "god"}, {"name": "a", "expires": "2027-01-15T08:00:00"}):
        with pytest.raises(ValidationError):
            NewToken.model_validate(wrong)
    with pytest.raises(MqlError, match="no token"):
        tokens_at(tmp_path, ManualClock()).delete("nobody")


def test_every_route_that_changes_something_needs_more_than_reading() -> None:
    free = {(route.method, route.path) for route in ROUTES if route.scope is None}
    assert free == {("GET", "/healthz"), ("GET", "/openapi.json"), ("GET", "/docs")}
    asking = {route.path for route in ROUTES if route.method != "GET" and route.scope == "read"}
    assert asking == {
        "/v1/queries",
        "/v1/queries/{id}",
        "/v1/queries:validate",
        "/v1/queries:explain",
        "/v1/queries:estimate",
        "/v1/queries:complete",
        "/v1/queries:why",
        "/v1/queries:backtest",
        "/v1/replays",
        "/v1/replays/{id}",
        "/v1/jobs/{name}:backtest",
        "/v1/templates/{name}:test",
    }


def test_the_command_line_makes_tokens_and_sends_them() -> None:
    def mql(*words: str, token: str | None = None) -> str:
        line = [*words, "--server", f"http://127.0.0.1:{server.port}"]
        done = CliRunner().invoke(main, line, env={"MQL_TOKEN": token})
        assert done.exit_code == 0, done.output
        return done.output

    with served() as server:
        admin = mql("token", "new", "root", "--scope", "admin").strip()
        assert admin.startswith("mql_")
        mql("token", "new", "reader", "--queries", "5", token=admin)
        assert mql("token", "list", token=admin) == "reader\tread\nroot\tadmin\n"
        mql("token", "delete", "reader", token=admin)
        assert "root\ttoken reader: delete" in mql("changes", token=admin)
