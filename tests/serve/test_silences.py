"""Silences and maintenance windows: when they hold, about what, and that episodes are recorded none the less."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.exec.clock import ManualClock
from server.cli import main
from server.settings import read_settings
from server.silences import SILENCED, Silence, Silences, us_of
from sources.memory import MemorySource
from sources.strict_yaml import ConfigError

HOUR_US = 3_600_000_000


def us(text: str) -> int:
    return us_of(datetime.fromisoformat(text))


def holds(said: dict[str, Any], at: str) -> bool:
    return Silence.model_validate({"name": "s", **said}).holds(us(at), us(at) + 1)


def silences(*declared: dict[str, Any], now: str = "2026-03-01T00:00:00Z") -> Silences:
    kept: dict[str, Any] = {}
    return Silences(
        [Silence.model_validate(one) for one in declared],
        ManualClock(us(now)),
        lambda: tuple(kept.values()),
        lambda name, spec: kept.update({name: spec}),
        lambda name: kept.pop(name) and None,
    )


def test_a_silence_holds_from_its_start_until_before_its_end() -> None:
    said = {"starts": "2026-01-31T02:00:00Z", "for": "2h"}
    assert not holds(said, "2026-01-31T01:59:59Z")
    assert holds(said, "2026-01-31T02:00:00Z")
    assert holds(said, "2026-01-31T03:59:59Z")
    assert not holds(said, "2026-01-31T04:00:00Z")


def test_a_maintenance_window_keeps_its_place_on_the_wall_when_clocks_change() -> None:
    said = {"every": ["sun"], "at": "03:30", "for": "1h", "timezone": "Europe/Berlin"}
    assert holds(said, "2026-03-22T02:45:00Z")
    assert not holds(said, "2026-03-22T03:45:00Z")
    assert holds(said, "2026-04-05T01:45:00Z")
    assert not holds(said, "2026-04-05T02:45:00Z")
    assert not holds(said, "2026-04-04T01:45:00Z")


def test_one_that_begins_late_in_the_evening_goes_on_after_midnight() -> None:
    said = {"every": ["mon"], "at": "23:00", "for": "26h"}
    assert holds(said, "2026-03-04T00:30:00Z")
    assert not holds(said, "2026-03-04T01:00:00Z")


def test_jobs_labels_and_keys_must_all_fit() -> None:
    always = {"starts": "2026-01-01T00:00:00Z", "ends": "2027-01-01T00:00:00Z"}
    found = silences(
        {"name": "s", "jobs": ["errors-*"], "labels": {"team": "a"}, "keys": {"host": "edge-4?"}, **always}
    )
    row = {"host": "edge-41", "n": 3}
    assert found.silenced_by("errors-eu", {"team": "a", "tier": "1"}, row) == "s"
    assert found.silenced_by("latency", {"team": "a"}, row) is None
    assert found.silenced_by("errors-eu", {"team": "b"}, row) is None
    assert found.silenced_by("errors-eu", {"team": "a"}, {"host": "edge-5"}) is None
    assert found.silenced_by("errors-eu", {"team": "a"}, {"host": None}) is None
    assert found.silenced_by("errors-eu", {"team": "a"}, {}) is None


def test_the_time_is_that_of_the_rows_window() -> None:
    found = silences({"name": "s", "starts": "2026-01-31T02:00:00Z", "for": "1h"})
    at = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)
    starts = [at.replace(hour=hour, tzinfo=None) for hour in (1, 2, 3)]
    ends = [at.replace(hour=hour, minute=31, tzinfo=None) for hour in (1, 2, 3)]
    rows = pa.table({"window_start": starts, "window_end": ends, "n": [1, 2, 3]})
    assert found.marked("j", {}, rows).column(SILENCED).to_pylist() == [None, "s", None]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "say when it ends"),
        ({"for": "1h", "ends": "2026-01-01T00:00:00Z"}, "not both"),
        ({"every": ["day"]}, "what comes every day says when"),
        ({"at": "02:00", "for": "1h"}, "at goes with every"),
        ({"every": ["day"], "at": "02:00", "for": "8d"}, "at most a week"),
        ({"starts": "2026-01-02T00:00:00Z", "ends": "2026-01-01T00:00:00Z"}, "ends before it starts"),
        ({"for": "1h", "timezone": "Europe/Berlyn"}, "no time zone"),
        ({"for": "soon"}, "valid number"),
        ({"every": ["noon"], "at": "02:00", "for": "1h"}, "input should be"),
    ],
)
def test_what_does_not_fit_together_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=f"(?i){why}"):
        Silence.model_validate({"name": "s", **said})


def test_the_file_declares_maintenance_windows() -> None:
    settings = read_settings('silences:\n  - {name: nightly, every: [day], at: "02:00", for: 2h}\n')
    assert settings.silences[0].holds(us("2026-01-31T03:00:00Z"), us("2026-01-31T03:00:01Z"))
    with pytest.raises(ConfigError, match='silence "s" says no starts'):
        read_settings("silences: [{name: s, for: 2h}]")
    with pytest.raises(ConfigError, match=r'unknown setting "end"\. Did you mean "ends"'):
        read_settings("silences: [{name: s, end: 2h}]")


QUERY = (
    "SELECT k, count(*) AS n FROM events WINDOW 10 GROUP BY k LATENESS 1s "
    "ANOMALY ON n USING zscore(min_spread => 0.5) WARMUP 3 WINDOWS REARM AFTER 2 WINDOWS EMIT EPISODES"
)


def burst(at: int, k: str, n: int) -> list[dict[str, Any]]:
    return [{"ts": at + i / 100, "k": k} for i in range(n)]


def quiet(seconds: range, *keys: str) -> list[dict[str, Any]]:
    return [{"ts": at, "k": k} for at in seconds for k in keys]


def rows_of(server: Served, job: str) -> list[dict[str, Any]]:
    return list(server.get(f"/v1/jobs/{job}/results").json()["rows"])


def test_silenced_episodes_are_recorded_and_marked(tmp_path: Path) -> None:
    source = MemorySource("events", quiet(range(0, 50, 10), "a", "b"), bounded=False)
    with served([source], home=tmp_path) as server:
        made = server.post(
            "/v1/silences", {"name": "b-is-known", "keys": {"k": "b"}, "starts": "1970-01-01", "for": "1h"}
        )
        assert made.status == 201, made.body
        assert made.json()["ends"] == "1970-01-01T01:00:00Z"
        assert server.post("/v1/silences", {"name": "b-is-known", "for": "1h"}).status == 409
        said = {"name": "j", "query": QUERY + " SINCE EARLIEST", "guarantee": "at_least_once", "checkpoint_every": 0.05}
        assert server.post("/v1/jobs", said).status == 201
        wait_for_state(server, "j", "running")
        source.push(0, [*burst(50, "a", 30), *burst(50, "b", 30), *quiet(range(60, 120, 10), "a", "b")])
        wait_for(lambda: len(rows_of(server, "j")) == 4)
        told = {(row["k"], row["phase"]): row["silenced"] for row in rows_of(server, "j")}
        assert told == {
            ("a", "open"): None,
            ("b", "open"): "b-is-known",
            ("a", "close"): None,
            ("b", "close"): "b-is-known",
        }
        assert server.send("DELETE", "/v1/silences/b-is-known").status == 204
        assert server.get("/v1/silences/b-is-known").status == 404
        source.push(0, [*burst(120, "b", 60), *quiet(range(130, 160, 10), "a", "b")])
        wait_for(lambda: len(rows_of(server, "j")) >= 5)
        assert rows_of(server, "j")[4]["silenced"] is None


def test_silences_outlive_the_server(tmp_path: Path) -> None:
    with served(home=tmp_path) as server:
        assert server.get("/v1/silences").json() == {"silences": []}
        server.post("/v1/silences", {"name": "deploy", "jobs": ["errors-*"], "for": "2h"})
    with served(home=tmp_path) as server:
        (kept,) = server.get("/v1/silences").json()["silences"]
        assert kept["holds"]
        assert kept["jobs"] == ["errors-*"]
        assert server.get("/v1/silences?job=latency").json() == {"silences": []}
        assert server.post("/v1/silences", {"name": "x", "for": "1h", "every": ["day"]}).status == 422
        assert server.post("/v1/silences", {"name": "x", "ends": "2001-01-01T00:00:00Z"}).json()["code"] == "over"
        assert server.post("/v1/silences", {"name": "x", "starts": "9999-12-31", "for": "1d"}).status == 422


def test_silences_at_the_terminal() -> None:
    with served() as server:
        at = ["--server", f"http://127.0.0.1:{server.port}"]
        run = CliRunner().invoke
        made = run(main, ["silence", "new", "deploy", "--job", "errors-*", "--key", "host=a*", "--for", "2h", *at])
        assert made.output == "deploy is made, and on now\n"
        again = ["--every", "sun", "--at", "03:00", "--for", "90m", "--timezone", "Europe/Berlin", "--label", "team=a"]
        assert run(main, ["silence", "new", "sundays", *again, *at]).exit_code == 0
        told = run(main, ["silence", "list", *at]).output.splitlines()
        assert told[0].startswith("deploy\ton\t")
        assert told[1].split("\t")[2:] == ["sun at 03:00 Europe/Berlin for 1 h 30 min", "* team=a"]
        assert run(main, ["silence", "delete", "deploy", *at]).exit_code == 0
        assert run(main, ["silence", "delete", "deploy", *at]).exit_code != 0
        assert len(run(main, ["silence", "list", *at]).output.splitlines()) == 1
