"""What a token gets in another form: no route and no form of query tells it the values behind."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from support.serving import Reply, Served, served
from support.waiting import wait_for

from mql.exec.kernel import Kernel
from mql.exec.masking import Masking
from mql.planner.masking import shape_masked
from mql.schema import BIGINT, JSON, VARCHAR, Field, PropertyMask, Shape, StructOf
from server.cli import main
from server.routes import ROUTES
from server.secret import mask_key
from sources.http import HttpSource
from sources.memory import MemorySource
from sources.settings import Settings

SECRET, CARD, NUMBER = "hunter2", "4111222233334444", 48151623
EVENTS = [
    {
        "ts": at + 1,
        "id": at,
        "email": SECRET if at != 2 else "somebody else",
        "who": {"name": "ann", "card": CARD, "deep": {"pin": NUMBER, "ok": True}},
        "phone": NUMBER,
        "odd.name": SECRET,
        "gone": SECRET,
        "tags": [{"secret": SECRET}],
    }
    for at in range(3)
]
MASKS = {
    "email": "hash",
    "who.card": "partial",
    "who.deep.pin": "hash",
    "phone": "partial",
    "odd.name": "hash",
    "gone": "null",
    "tags.secret": "hash",
    "later": "hash",
}
EVENTS_STREAM = "text/event-stream"
VALUES = [one.encode() for one in (SECRET, CARD, str(NUMBER))]


@dataclass(frozen=True)
class Limited:
    """A server, and a token that gets `orders`, `kept` and the results of the job `told` masked, and nothing else."""

    server: Served
    admin: str
    token: str

    def ask(self, method: str, path: str, body: Any = None, *, admin: bool = False) -> Reply:
        kind = {"Content-Type": "text/plain"} if isinstance(body, str) else {}
        token = self.admin if admin else self.token
        return self.server.send(method, path, body, {"Authorization": f"Bearer {token}", **kind})

    def rows(self, query: str, *, admin: bool = False) -> list[dict[str, Any]]:
        reply = self.ask("POST", "/v1/replays", f"{query} SINCE EARLIEST UNTIL NOW", admin=admin)
        assert reply.status == 200, reply.body
        rows: list[dict[str, Any]] = reply.json()["rows"]
        return rows


@pytest.fixture(scope="module")
def limited() -> Iterator[Limited]:
    history = MemorySource("kept", EVENTS, bounded=False)
    columns = MemorySource("plain", [{"ts": 1, "id": 7}], bounded=False)
    with served([HttpSource("orders", settings=Settings(open=True)), history, columns]) as server:
        for event in EVENTS:
            server.events("orders", event)
        server.post("/v1/sources/orders/events", b"{not json " + SECRET.encode(), Content_Type="application/x-ndjson")
        root = server.post("/v1/tokens", {"name": "root", "scope": "admin"}).json()["token"]
        said = {
            "name": "guest",
            "sources": ["orders", "kept", "job.told"],
            "mask": {"orders": MASKS, "k*": MASKS, "job.*": {"email": "hash"}},
        }
        bare = Limited(server, root, "")
        one = Limited(server, root, bare.ask("POST", "/v1/tokens", said, admin=True).json()["token"])
        job = {"name": "told", "query": "SELECT id, email FROM orders"}
        assert one.ask("POST", "/v1/jobs", job, admin=True).status == 201
        wait_for(lambda: one.ask("GET", "/v1/jobs/told", admin=True).json()["state"] == "running")
        one.ask("POST", "/v1/sources/orders/events", EVENTS, admin=True)
        wait_for(lambda: SECRET.encode() in one.ask("GET", "/v1/jobs/told/results", admin=True).body)
        yield one


def test_values_come_in_their_other_form(limited: Limited) -> None:
    first, second, third = limited.rows("SELECT * FROM kept")
    assert first["email"] == second["email"] != third["email"]
    assert len(first["email"]) == 16
    assert first["who"]["card"] == "***4444"
    assert (first["who"]["name"], first["who"]["deep"]["ok"]) == ("ann", True)
    assert first["phone"] == "***1623"
    assert first["odd.name"] == first["email"]
    assert first["gone"] is None
    assert not {"tags", "later"} & set(first), "what can't be masked is hidden; what nobody has seen is not there"
    assert [row["id"] for row in limited.rows("SELECT id, email FROM kept", admin=True)] == [0, 1, 2]


def test_they_can_be_counted_grouped_by_compared_and_joined(limited: Limited) -> None:
    [hashed] = {row["email"] for row in limited.rows("SELECT email FROM kept WHERE id = 0")}
    told = limited.rows("SELECT email, count(*) AS n FROM kept GROUP BY email ORDER BY n DESC LIMIT 5")
    assert (told[0]["email"], told[0]["n"]) == (hashed, 2)
    assert limited.rows(f"SELECT id FROM kept WHERE email = '{hashed}'") == [{"id": 0}, {"id": 1}]
    assert limited.rows(f"SELECT id FROM kept WHERE email = '{SECRET}'") == []
    assert limited.rows("SELECT id FROM kept WHERE email LIKE 'h%'") == []
    joined = "SELECT a.id, b.id AS other FROM kept AS a JOIN kept AS b ON a.email = b.email AND a.id < b.id WITHIN 1h"
    assert limited.rows(joined) == [{"a.id": 0, "other": 1}]
    assert (
        limited.rows("SELECT who.card AS c, e['who']['deep']['pin'] AS p FROM kept WHERE id = 0")[0]["c"] == "***4444"
    )
    by_job = limited.rows("SELECT email FROM job.told WHERE id = 0")
    assert by_job[0] == {"email": hashed}


def test_live_they_are_the_same_and_late_rows_are_masked_too(limited: Limited) -> None:
    [hashed] = {row["email"] for row in limited.rows("SELECT email FROM kept WHERE id = 0")}
    plain = "SELECT id, email, who FROM orders"
    windowed = "SELECT email, count(*) AS n FROM orders WINDOW 1s GROUP BY email LATENESS 0s"
    by = {
        who: {"Authorization": f"Bearer {token}"} for who, token in (("guest", limited.token), ("root", limited.admin))
    }
    with (
        limited.server.stream("POST", "/v1/queries", plain, Accept=EVENTS_STREAM, **by["root"]) as everything,
        limited.server.stream("POST", "/v1/queries", plain, Accept=EVENTS_STREAM, **by["guest"]) as masked,
        limited.server.stream("POST", "/v1/queries", windowed, Accept=EVENTS_STREAM, **by["guest"]) as windows,
    ):
        id = json.loads(windows.until("meta")["data"])["id"]
        for stream in (everything, masked):
            stream.until("meta")
        late = {**EVENTS[0], "ts": 1}
        limited.ask("POST", "/v1/sources/orders/events", [*EVENTS, {**EVENTS[0], "ts": 60_000}], admin=True)
        limited.ask("POST", "/v1/sources/orders/events", [late], admin=True)
        first = masked.rows(3)[0]
        assert (first["email"], first["who"]["card"], first["who"]["name"]) == (hashed, "***4444", "ann")
        assert everything.rows(3)[0]["email"] == SECRET
        told = wait_for(lambda: limited.ask("GET", f"/v1/queries/{id}/late").json()["rows"])
        assert hashed in json.dumps(told)
        assert SECRET not in json.dumps(told)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT e FROM kept",
        "SELECT e::VARCHAR FROM kept",
        "SELECT EMAIL AS x FROM kept",
        "SELECT e['Email'] AS x FROM kept",
        "SELECT e['who.card'] AS x FROM kept",
        "SELECT e['email'] AS x FROM kept",
        "SELECT who::JSON AS x FROM kept",
        "SELECT who::VARCHAR AS x FROM kept",
        "SELECT tags FROM kept",
        "SELECT tags[0].secret FROM kept",
        "SELECT e['tags'][*]['secret'] FROM kept",
        "SELECT id FROM kept WHERE e LIKE '%hunter2%'",
        "SELECT max(email) AS m, list(phone) AS l, first(who) AS w FROM kept",
        "SELECT count(*) AS n FROM kept WINDOW 1s GROUP BY email",
        "SELECT x FROM (SELECT email AS x FROM kept)",
        "WITH a AS (SELECT who.card AS x FROM kept) SELECT x FROM a",
        "SELECT email FROM kept UNION ALL SELECT email FROM kept",
        "SELECT a.email, b.who FROM kept a JOIN kept b ON a.id = b.id WITHIN 1s",
        "SELECT id FROM kept WHERE email IN (SELECT email FROM kept) WITHIN 1s",
        "SELECT email, row_number() OVER (PARTITION BY email ORDER BY event_time()) AS n FROM kept",
        "SELECT email FROM kept ORDER BY email LIMIT 2",
        "SELECT concat(email, phone, who.deep.pin, gone) AS x FROM kept",
        "SELECT base64_encode(email) AS x, upper(email) AS u, md5(email) AS m FROM kept",
        "SELECT email FROM kept SAMPLE 100% BY email",
        "SELECT * FROM job.told",
    ],
)
def test_no_form_of_query_tells_them(limited: Limited, query: str) -> None:
    bounded = f"{query} SINCE EARLIEST UNTIL NOW"
    live = query.replace("kept", "orders")
    bodies = [limited.ask("POST", "/v1/queries:validate", live), limited.ask("POST", "/v1/queries:explain", live)]
    for path in ("/v1/queries", "/v1/replays", "/v1/queries:explain", "/v1/queries:estimate"):
        bodies.append(limited.ask("POST", path, {"query": bounded}))
    for reply in bodies:
        assert reply.status < 500, reply.body
        told = reply.body.replace(query.encode(), b"").replace(live.encode(), b"")
        assert not any(value in told for value in VALUES if value not in query.encode()), reply.body


def test_no_route_tells_them(limited: Limited) -> None:
    for route in ROUTES:
        skipped = route.path.endswith(("/stream", "/v1/metrics")) or route.scope not in (None, "read")
        if route.method != "GET" or skipped:
            continue
        for name in ("orders", "kept", "told", "job.told"):
            path = route.path
            for part in ("{name}", "{id}", "{group}"):
                path = path.replace(part, name)
            reply = limited.ask("GET", path.replace("{version}", "1"))
            assert reply.status < 500, path
            assert not any(value in reply.body for value in VALUES), path
    known = limited.ask("GET", "/v1/sources/kept/shape").json()["properties"]
    assert {".".join(one["path"]): one["mask"] for one in known if one["mask"]} == {
        name: kind for name, kind in MASKS.items() if name not in ("tags.secret", "later")
    }
    assert limited.ask("GET", "/v1/sources/kept/sample").status == 403


def test_the_server_s_key_stays_the_same_and_is_nobody_else_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mask_key(tmp_path / "data")
    assert mask_key(tmp_path / "data") == first
    assert stat.S_IMODE((tmp_path / "data" / "mask.key").stat().st_mode) == 0o600
    monkeypatch.setenv("MQL_MASK_KEY", "told by the environment")
    assert mask_key(tmp_path / "data") == "told by the environment"


def test_other_keys_make_other_masks_and_short_values_are_masked_whole() -> None:
    values = pa.array(["a", None, "12345678", "a", "1234567"])
    columns = [(("x",), VARCHAR)]

    def masked(kind: str, key: str) -> list[str | None]:
        session = Kernel(secret=lambda: key).session()
        put = Masking(session, [PropertyMask(("x",), kind)], columns).put_on({"/x": values})
        found: list[str | None] = put["/x"].to_pylist()
        return found

    one, two = masked("hash", "one"), masked("hash", "two")
    assert one[0] == one[3] != two[0]
    assert one[1] is None
    assert masked("partial", "one") == ["***", None, "***5678", "***", "***"]
    assert masked("null", "one") == [None] * 5


def test_what_can_not_be_masked_is_hidden() -> None:
    who = StructOf((("name", VARCHAR), ("card", BIGINT)))
    shape = Shape((Field("id", BIGINT, 1.0, "7"), Field("who", who), Field("raw", JSON)))
    asked = [("id", "hash"), ("who.card", "hash"), ("who.none", "hash"), ("raw.x", "hash"), ("new", "partial")]
    seen = shape_masked(shape, [PropertyMask(tuple(path.split(".")), kind) for path, kind in asked])
    assert [(field.name, str(field.type), field.example) for field in seen.shape.fields] == [
        ("id", "VARCHAR", None),
        ("who", 'STRUCT("name" VARCHAR, "card" VARCHAR)', None),
        ("raw", "JSON", None),
    ]
    assert seen.hidden == (("who", "none"), ("raw", "x"), ("new",))


def test_the_command_line_makes_masks() -> None:
    with served() as server:
        at = ["--server", f"http://127.0.0.1:{server.port}"]
        done = CliRunner().invoke(main, ["token", "new", "root", "--scope", "admin", *at])
        admin = {"MQL_TOKEN": done.output.strip()}
        command = ["token", "new", "guest", "--mask", "orders:who.card=partial", *at]
        assert CliRunner().invoke(main, command, env=admin).exit_code == 0
        listed = server.send("GET", "/v1/tokens", headers={"Authorization": f"Bearer {admin['MQL_TOKEN']}"}).json()
        guest = next(one for one in listed["tokens"] if one["name"] == "guest")
        assert guest["mask"] == {"orders": {"who.card": "partial"}}
        wrong = CliRunner().invoke(main, ["token", "new", "other", "--mask", "orders:who.card", *at], env=admin)
        assert "SOURCE:PATH=KIND" in wrong.output
        wrong = CliRunner().invoke(main, ["token", "new", "other", "--mask", "orders:x=rot13", *at], env=admin)
        assert wrong.exit_code != 0
