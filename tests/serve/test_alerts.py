"""Alerts: an episode fires once when it opens and is resolved once when it is over, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.receiver import LOOPBACK, Receiver, receiver
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.catalog import TimeRule
from mql.errors import MqlError
from server.settings import Settings
from server.wording import filled, names_in
from sources.memory import MemorySource

QUERY = """SELECT service, count(*) AS n FROM events WINDOW 10s GROUP BY service
ANOMALY ON n USING count DIRECTION UP WARMUP 5 WINDOWS REARM AFTER 2 WINDOWS EMIT EPISODES"""
PLAIN = "SELECT service, count(*) AS n FROM events WINDOW 10s GROUP BY service"


def window(number: int, n: int, service: str = "api") -> list[dict[str, Any]]:
    """The events of one window of ten seconds."""
    return [{"ts": number * 10_000 + at % 9_000, "service": service} for at in range(n)]


class Story:
    """A service of ten events a window, with an incident in window 11."""

    def __init__(self) -> None:
        self.source = MemorySource("events", window(0, 10), time=TimeRule(("ts",), "ms"), bounded=False)

    def calm(self, *numbers: int) -> None:
        for number in numbers:
            self.source.push(0, window(number, 10))

    def incident(self, number: int) -> None:
        self.source.push(0, window(number, 200))


def job(server: Served, *sinks: dict[str, Any], query: str = QUERY, **more: Any) -> Any:
    said = {"name": "busy", "query": query, "guarantee": "exactly_once", "checkpoint_every": 0.05, **more}
    made = server.post("/v1/jobs", {**said, "sinks": list(sinks)})
    assert made.status == 201, made.body
    wait_for_state(server, "busy", "running")
    return made.json()


def told(server: Served) -> Any:
    return server.get("/v1/jobs/busy").json()["sinks"][0]


def alerts_in(other: Receiver) -> list[Any]:
    return [alert for body in other.bodies for alert in body["alerts"]]


def test_an_episode_fires_and_is_resolved_once() -> None:
    story = Story()
    with receiver() as other, served([story.source], webhooks=LOOPBACK, url="https://mql.example/") as server:
        sink = {
            "kind": "webhook",
            "url": other.url,
            "when": "anomaly",
            "severity": "warning",
            "summary": "{service} has {n} {{events}}",
            "annotations": {"runbook": "https://wiki.example/{service}"},
        }
        job(server, sink)
        story.calm(*range(1, 11))
        story.incident(11)
        story.calm(12, 13)
        wait_for(lambda: len(alerts_in(other)) == 1)
        wait_for(lambda: told(server)["open"] == 1)
        story.calm(*range(14, 30))
        wait_for(lambda: len(alerts_in(other)) == 2)
    fired, resolved = alerts_in(other)
    assert fired["status"], resolved["status"] == ("firing", "resolved")
    assert fired["id"] == resolved["id"] == fired["row"]["episode"]
    assert fired["summary"] == "api has 200 {events}"
    assert fired["severity"] == "warning"
    assert fired["labels"] == {"service": "api"}
    assert fired["annotations"] == {"runbook": "https://wiki.example/api"}
    assert fired["link"] == "https://mql.example/v1/jobs/busy"
    assert fired["since"] == "1970-01-01T00:01:50Z"
    assert fired["until"] is None
    assert resolved["until"] > fired["since"]


def test_a_restart_between_firing_and_resolving_tells_nothing_twice(tmp_path: Path) -> None:
    story = Story()
    with receiver() as other:
        sink = {"kind": "webhook", "url": other.url, "when": "anomaly"}
        with served([story.source], home=tmp_path, webhooks=LOOPBACK) as server:
            job(server, sink, guarantee="at_least_once")
            story.calm(*range(1, 11))
            story.incident(11)
            story.calm(12, 13)
            wait_for(lambda: len(alerts_in(other)) == 1)
        book = json.loads((tmp_path / ".mql" / "jobs" / "busy" / "sinks" / "0" / "alerts.json").read_bytes())
        assert [alert["id"] for alert in book["open"]] == [alerts_in(other)[0]["id"]]
        story = Story()
        story.calm(*range(1, 11))
        story.incident(11)
        story.calm(12, 13)
        with served([story.source], home=tmp_path, webhooks=LOOPBACK) as server:
            wait_for_state(server, "busy", "running")
            story.calm(*range(14, 30))
            wait_for(lambda: len(alerts_in(other)) == 2)
    assert [alert["status"] for alert in alerts_in(other)] == ["firing", "resolved"]


def test_a_job_that_begins_anew_leaves_no_alert_open(tmp_path: Path) -> None:
    story = Story()
    with receiver() as other, served([story.source], webhooks=LOOPBACK) as server:
        job(server, {"kind": "webhook", "url": other.url, "when": "anomaly"}, guarantee="at_most_once")
        story.calm(*range(1, 11))
        story.incident(11)
        story.calm(12, 13)
        wait_for(lambda: len(alerts_in(other)) == 1)
        server.post("/v1/jobs/busy:restart")
        wait_for(lambda: len(alerts_in(other)) == 2)
    assert alerts_in(other)[1]["status"] == "resolved"
    assert alerts_in(other)[1]["why"].startswith("it is not known how it went on")


def test_a_job_that_is_deleted_leaves_no_alert_open() -> None:
    story = Story()
    with receiver() as other, served([story.source], webhooks=LOOPBACK) as server:
        job(server, {"kind": "webhook", "url": other.url, "when": "anomaly"})
        story.calm(*range(1, 11))
        story.incident(11)
        story.calm(12, 13)
        wait_for(lambda: told(server)["open"] == 1)
        assert server.send("DELETE", "/v1/jobs/busy").status == 204
        assert [alert["status"] for alert in alerts_in(other)] == ["firing", "resolved"]


def test_a_condition_opens_and_closes_alerts_too() -> None:
    story = Story()
    with receiver() as other, served([story.source], webhooks=LOOPBACK) as server:
        sink = {"kind": "alertmanager", "url": other.base, "when": "n > 100"}
        job(server, sink, query=PLAIN)
        story.incident(1)
        story.incident(2)
        story.calm(3)
        story.source.push(0, window(4, 500, "auth"))
        story.calm(5, 6, 7)
        wait_for(lambda: len([one for body in other.bodies for one in body]) >= 3)
    said = [one for body in other.bodies for one in body]
    assert [one["labels"]["service"] for one in said] == ["api", "api", "auth"]
    assert said[0]["labels"] == said[1]["labels"]
    assert other.paths[0] == "/api/v2/alerts"
    assert said[0]["startsAt"] < said[0]["endsAt"]
    assert said[1]["endsAt"].startswith("1970")


def test_alertmanager_is_told_again_what_is_open() -> None:
    story = Story()
    with receiver() as other, served([story.source], webhooks=LOOPBACK) as server:
        job(server, {"kind": "alertmanager", "url": other.base, "when": "n > 100", "repeat": 1}, query=PLAIN)
        story.incident(1)
        story.calm(2)
        story.incident(3)
        story.calm(4)
        story.incident(5)
        story.source.push(0, window(7, 1, "other"))
        wait_for(lambda: len([body for body in other.bodies if "1970-01-01T00:00:50Z" in str(body)]) >= 2)
    last = [one for one in other.bodies[-1] if one["startsAt"] == "1970-01-01T00:00:50Z"]
    assert last[0]["endsAt"] > "2020"


def test_slack_and_pagerduty_are_told_as_they_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQL_PAGERDUTY_TEST", "routing-secret")
    monkeypatch.setenv("MQL_WEBHOOK_SLACK", "")
    story = Story()
    with receiver() as slack, receiver() as pager, served([story.source], webhooks=LOOPBACK) as server:
        monkeypatch.setenv("MQL_WEBHOOK_SLACK", slack.url)
        pager.answers = [400]
        sinks = (
            {
                "kind": "slack",
                "url_env": "MQL_WEBHOOK_SLACK",
                "when": "n > 100",
                "summary": "<!channel> {service} & co",
            },
            {"kind": "pagerduty", "url": pager.url, "key_env": "MQL_PAGERDUTY_TEST", "when": "n > 100"},
        )
        job(server, *sinks, query=PLAIN)
        story.incident(1)
        story.calm(2, 3, 4)
        wait_for(lambda: len(slack.got) >= 1)
        wait_for(lambda: len(pager.got) == 2)
        shown = server.get("/v1/jobs/busy").body.decode()
    texts = "\n".join(body["text"] for body in slack.bodies)
    assert "*firing* [critical] &lt;!channel&gt; api &amp; co" in texts
    fired, resolved = pager.bodies
    assert fired["routing_key"] == "routing-secret"
    assert (fired["event_action"], resolved["event_action"]) == ("trigger", "resolve")
    assert fired["dedup_key"] == resolved["dedup_key"]
    assert fired["payload"]["severity"] == "critical"
    assert fired["payload"]["summary"] == "busy: api"
    assert "routing-secret" not in shown
    assert slack.url not in shown


def test_the_secret_of_pagerduty_is_in_no_dead_letter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MQL_PAGERDUTY_TEST", "routing-secret")
    story = Story()
    with receiver() as pager, served([story.source], home=tmp_path, webhooks=LOOPBACK) as server:
        pager.answers = [400]
        job(
            server,
            {"kind": "pagerduty", "url": pager.url, "key_env": "MQL_PAGERDUTY_TEST", "when": "n > 100"},
            query=PLAIN,
        )
        story.incident(1)
        story.calm(2, 3, 4)
        wait_for(lambda: told(server)["dead"] == 1)
        (letter,) = server.get("/v1/jobs/busy/dead-letters?kind=refused").json()["letters"]
        again = server.post("/v1/jobs/busy/dead-letters:retry", {"ids": [letter["id"]]}).json()
    assert "trigger" in letter["payload"]
    assert again == {"sent": 0, "refused": 0, "gone": 1, "waiting": 0}
    for path in (tmp_path / ".mql" / "jobs" / "busy" / "dead").rglob("*.log"):
        assert b"routing-secret" not in path.read_bytes()


def test_alerts_on_the_servers_own_output(capfd: pytest.CaptureFixture[str]) -> None:
    story = Story()
    with served([story.source]) as server:
        job(server, {"kind": "stdout", "when": "anomaly", "summary": "{service}: {n}"})
        story.calm(*range(1, 11))
        story.incident(11)
        story.calm(*range(12, 30))
        wait_for(lambda: told(server)["open"] == 0 and told(server)["sent"] >= 2)
    lines = [line for line in capfd.readouterr().out.splitlines() if "api: 200" in line]
    assert [line.split()[0] for line in lines] == ["FIRING", "RESOLVED"]


def test_what_is_silenced_opens_no_alert() -> None:
    story = Story()
    with receiver() as other, served([story.source], webhooks=LOOPBACK) as server:
        span = {"starts": "1970-01-01T00:00:00Z", "for": "1h", "keys": {"service": "api"}}
        assert server.post("/v1/silences", {"name": "deploy", **span}).status == 201
        job(server, {"kind": "webhook", "url": other.url, "when": "anomaly"})
        story.calm(*range(1, 11))
        story.incident(11)
        story.calm(*range(12, 30))
        wait_for(lambda: told(server)["sent"] >= 2)
        assert other.got == []


@pytest.mark.parametrize(
    ("sink", "query", "said"),
    [
        ({"when": "anomaly"}, PLAIN, 'sinks[0]: the query has no ANOMALY clause'),
        ({"when": "anomaly"}, QUERY.replace("EPISODES", "ANOMALIES"), "never tells that an episode is over"),
        ({"when": "m > 3"}, PLAIN, 'no property "m"'),
        ({"when": "n + 3"}, PLAIN, "a condition is true or false"),
        ({"when": "n > 3", "summary": "{service} {nn}"}, PLAIN, 'the rows have no column "nn"'),
        ({"when": "always", "kind": "slack"}, PLAIN, "slack is told alerts, not rows"),
        ({"kind": "pagerduty", "key_env": "MQL_PAGERDUTY_NONE"}, QUERY, "the server has no MQL_PAGERDUTY_NONE"),
        ({"kind": "kafka", "topic": "x", "source": "events"}, PLAIN, 'source "events" is no Kafka source'),
        ({"kind": "kafka", "topic": "x", "brokers": "b:9092"}, PLAIN, 'rows are not sent to "b:9092"'),
        ({"kind": "parquet", "path": "a", "time": "n"}, PLAIN, 'column "n" is no TIMESTAMP'),
        ({"kind": "postgres", "url_env": "MQL_POSTGRES_NONE", "table": "t"}, PLAIN, "has no MQL_POSTGRES_NONE"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(sink: dict[str, Any], query: str, said: str) -> None:
    story = Story()
    with served([story.source], webhooks=LOOPBACK) as server:
        whole = {"kind": "webhook", "url": "http://127.0.0.1:1/", **sink}
        if whole["kind"] not in ("webhook", "slack"):
            del whole["url"]
        made = server.post("/v1/jobs", {"name": "j", "query": query, "sinks": [whole]})
        assert made.status == 422, made.body
        assert made.json()["code"] == "invalid-sink"
        assert said in made.json()["detail"]


def test_what_is_no_sink_is_told_with_its_place() -> None:
    with served() as server:
        for sink, pointer in (({"kind": "slack", "urll": "x"}, "/sinks/0/urll"), ({"kind": "fax"}, "/sinks/0")):
            made = server.post("/v1/jobs", {"name": "j", "query": "SELECT id FROM orders", "sinks": [sink]})
            assert made.status == 422
            assert made.json()["errors"][0]["pointer"] == pointer


def test_kinds_that_the_operator_does_not_allow_are_refused() -> None:
    story = Story()
    settings = Settings.model_validate({"server": {"sinks": {"kinds": ["webhook"]}}}).server.sinks
    with served([story.source], sinks=settings) as server:
        made = server.post("/v1/jobs", {"name": "j", "query": PLAIN, "sinks": [{"kind": "stdout"}]})
        assert 'sinks of the kind "stdout" are not allowed here' in made.json()["detail"]


def test_a_text_takes_values_and_nothing_else() -> None:
    assert filled("{a} and {{a}} and {b}", {"a": "{b}", "b": 2.50}) == "{b} and {a} and 2.5"
    assert filled("{a.__class__}", {"a": 1}) == ""
    assert list(names_in("{a} {b c}")) == ["a", "b c"]
    for wrong in ("{", "a}", "{}", "{a"):
        with pytest.raises(MqlError):
            list(names_in(wrong))
