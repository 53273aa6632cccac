"""The webhook sink: signed, sent again until it is taken, and never to an address that is not public."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.receiver import LOOPBACK, receiver
from support.serving import served
from support.waiting import wait_for, wait_for_state

from server.settings import Webhooks
from server.webhook import signature
from sources.reach import Reach


def test_rows_are_signed_and_sent_again_with_the_same_key_until_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQL_WEBHOOK_TEST", "hush")
    with receiver() as other, served(webhooks=LOOPBACK) as server:
        other.answers = [503, 429]
        server.events("orders", {"id": 0})
        sink = {"kind": "webhook", "url": other.url, "secret_env": "MQL_WEBHOOK_TEST"}
        said = {"name": "j", "query": "SELECT id FROM orders", "sinks": [sink]}
        assert server.post("/v1/jobs", said).status == 201
        wait_for_state(server, "j", "running")
        server.events("orders", {"id": 1}, {"id": 2})
        wait_for(lambda: len(other.got) == 3)
        headers, body = other.got[2]
        assert json.loads(body) == {"job": "j", "rows": [{"id": 1}, {"id": 2}]}
        assert len({got["idempotency-key"] for got, _ in other.got}) == 1
        assert headers["x-mql-signature"] == signature("hush", int(headers["x-mql-timestamp"]), body)
        told = wait_for(lambda: server.get("/v1/jobs/j").json()["sinks"][0]["sent"] and server.get("/v1/jobs/j").json())
        told["sinks"][0].pop("behind")
        counts = {"number": 0, "sent": 2, "dead": 0, "lost": 0, "trouble": None, "leaving": False}
        assert told["sinks"] == [{"kind": "webhook", "url": other.url, **counts}]
        assert "hush" not in json.dumps(told)


def test_what_is_refused_for_good_is_buried_and_the_rest_goes_on(tmp_path: Path) -> None:
    with receiver() as other, served(home=tmp_path, webhooks=LOOPBACK) as server:
        other.answers = [400, 302]
        server.events("orders", {"id": 0})
        said = {"name": "j", "query": "SELECT id FROM orders", "sinks": [{"kind": "webhook", "url": other.url}]}
        server.post("/v1/jobs", said)
        wait_for_state(server, "j", "running")
        for at in (1, 2, 3):
            server.events("orders", {"id": at})
            wait_for(lambda at=at: len(other.got) == at)
        wait_for(lambda: server.get("/v1/jobs/j").json()["sinks"][0]["sent"] == 1)
        letters = server.get("/v1/jobs/j/dead-letters").json()["letters"]
    assert [letter["payload"] for letter in letters] == [{"id": 2}, {"id": 1}]
    assert [letter["reason"] for letter in letters] == ["it answered 302", "it answered 400"]


def test_it_goes_on_where_it_was_after_a_stop_and_after_the_server(tmp_path: Path) -> None:
    with receiver() as other:
        for round in (1, 2):
            with served(home=tmp_path, webhooks=LOOPBACK) as server:
                if round == 1:
                    server.events("orders", {"id": 0})
                    sink = {"kind": "webhook", "url": other.url}
                    server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders", "sinks": [sink]})
                wait_for_state(server, "j", "running")
                server.events("orders", {"id": round * 10})
                wait_for(lambda n=round: len(other.got) == 2 * n - 1)
                server.post("/v1/jobs/j:stop")
                server.post("/v1/jobs/j:start")
                wait_for_state(server, "j", "running")
                server.events("orders", {"id": round * 10 + 1})
                wait_for(lambda n=round: len(other.got) == 2 * n)
                wait_for(lambda: server.get("/v1/jobs/j").json()["sinks"][0]["sent"] == 2)
    rows = [row for _, body in other.got for row in json.loads(body)["rows"]]
    assert [int(row["id"]) for row in rows] == [10, 11, 20, 21]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "ff02::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_not_dialled(address: str) -> None:
    assert not Reach().permits(address)


def test_public_addresses_and_those_that_the_operator_allows_are_dialled() -> None:
    assert Reach().permits("93.184.216.34")
    assert Reach().permits("2606:2800:220:1:248:1893:25c8:1946")
    assert Reach(("10.0.0.0/8",)).permits("10.1.2.3")
    assert not Reach(("10.0.0.0/8",)).permits("192.168.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_no_way_of_writing_it_reaches_this_machine(host: str) -> None:
    with receiver() as other, served(webhooks=Webhooks(plain=True)) as server:
        server.events("orders", {"id": 0})
        url = other.url.replace("127.0.0.1", host)
        made = server.post(
            "/v1/jobs", {"name": "j", "query": "SELECT id FROM orders", "sinks": [{"kind": "webhook", "url": url}]}
        )
        assert made.status == 201
        wait_for_state(server, "j", "running")
        server.events("orders", {"id": 1})
        wait_for(lambda: server.get("/v1/jobs/j").json()["sinks"][0]["trouble"])
        assert other.got == []


def test_plain_http_and_unknown_secrets_are_refused_at_once() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        said = {"name": "j", "query": "SELECT id FROM orders"}
        plain = server.post("/v1/jobs", {**said, "sinks": [{"kind": "webhook", "url": "http://example.org/"}]})
        assert plain.json()["code"] == "invalid-sink"
        sink = {"kind": "webhook", "url": "https://example.org/", "secret_env": "MQL_WEBHOOK_NONE"}
        assert server.post("/v1/jobs", {**said, "sinks": [sink]}).json()["code"] == "invalid-sink"
        sink["secret_env"] = "PATH"
        assert server.post("/v1/jobs", {**said, "sinks": [sink]}).status == 422
