"""How many groups a detector remembers, and what /metrics tells of it."""

from __future__ import annotations

from typing import Any

import pytest
from support.serving import Served, served
from support.waiting import wait_for

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.engine import Engine
from sources.memory import MemorySource

QUERY = "SELECT k, count(*) AS n FROM events WINDOW 10s GROUP BY k LATENESS 0s ANOMALY ON n SKIP MISSING {more}"


def source() -> MemorySource:
    return MemorySource("events", [{"ts": 0, "k": "a"}], bounded=False, time=TimeRule(("ts",), "s"))


def events(first: int, last: int, keys: str) -> list[dict[str, Any]]:
    return [{"ts": at, "k": k} for at in range(first, last, 10) for k in keys]


def told(server: Served, name: str) -> float | None:
    for line in server.get("/metrics").body.decode().splitlines():
        if line.startswith(f"mql_detector_{name}{{"):
            return float(line.rpartition(" ")[2])
    return None


def test_too_many_groups_are_forgotten_and_that_is_counted() -> None:
    events_of = source()
    with served([events_of]) as server:
        query = QUERY.format(more="WARMUP 100 WINDOWS EMIT ALL SETTINGS max_keys = 2, key_ttl = 100s")
        assert server.post("/v1/queries", {"query": query}, Accept="application/json").status == 201
        events_of.push(0, events(10, 60, "abcd"))
        wait_for(lambda: told(server, "evicted_keys_total"))
        assert told(server, "keys") == 2
        assert told(server, "warming_keys") == 2
        assert told(server, "late_rows_total") == 0
        events_of.push(0, events(60, 200, "d"))
        wait_for(lambda: told(server, "keys") == 1)
        assert told(server, "warming_keys") == 1
        assert told(server, "open_episodes") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (QUERY.format(more="SETTINGS max_keys = 0"), "0 is out of bounds"),
        (QUERY.format(more="SETTINGS key_ttl = 0s"), "must be more than nothing"),
        ("SELECT count(*) FROM events WINDOW 10s SETTINGS max_keys = 5", '"max_keys" is for detectors'),
    ],
)
def test_settings_that_do_not_fit_are_refused(text: str, message: str) -> None:
    engine = Engine([source()])
    try:
        with pytest.raises(MqlError, match=message):
            engine.plan(text)
    finally:
        engine.close()
