"""The ledger adds up: whenever it is looked at, over faults, and when a query goes on from a snapshot."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping

import pytest
from support.reading import read_all
from support.waiting import wait_for

from mql.catalog import TimeRule
from mql.exec.engine import Engine, Options, Running
from mql.exec.frames import Progress
from sources.http import HttpSource
from sources.memory import MemorySource
from sources.settings import Settings
from sources.tables import memory_table

CLASSES = ("emitted_from", "filtered", "late", "malformed", "sampled", "skipped", "dropped", "in_state")
QUERY = "SELECT k, count(*) AS n FROM events WHERE k <> 'no' WINDOW 10s LATENESS 0s GROUP BY k"


def checked(running: Running) -> Mapping[str, int]:
    ledger = running.ledger()
    assert ledger["events"] == sum(ledger[kind] for kind in CLASSES), ledger
    assert min(ledger.values()) >= 0, ledger
    return ledger


def counted(running: Running, events: int) -> None:
    wait_for(lambda: checked(running)["events"] == events)


def body(dice: random.Random, at_s: int, told: dict[str, int]) -> bytes:
    """Some events of about that time: good, filtered, late, malformed."""
    lines = []
    for _ in range(dice.randrange(1, 40)):
        match dice.randrange(10):
            case 0:
                lines.append("{broken")
                told["malformed"] += 1
            case 1:
                lines.append(json.dumps({"ts": at_s, "k": "no"}))
                told["filtered"] += 1
            case _:
                lines.append(json.dumps({"ts": at_s + dice.randrange(3), "k": dice.choice("abc")}))
                told["good"] += 1
    return "\n".join(lines).encode()


def test_the_ledger_adds_up_at_every_look_and_over_snapshots() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    source = HttpSource("events", settings=Settings(time=TimeRule(("ts",), "s")))
    source.put(b'{"ts": 1000, "k": "a"}')
    engine = Engine([source])
    told = {"malformed": 0, "filtered": 0, "good": 0}
    before = 0
    try:
        running = engine.start(QUERY)
        subscription = running.subscribe()
        for turn in range(60):
            source.put(body(dice, 1_000 + turn, told), content_type="application/x-ndjson")
            checked(running)
            for frame in subscription.take():
                if isinstance(frame, Progress):
                    data = frame.data
                    kinds = ("matched", "filtered", "late", "malformed", "sampled", "skipped")
                    assert data["scanned"] == sum(data[kind] for kind in kinds)
            if turn % 20 == 19:
                counted(running, sum(told.values()) - before)
                snapshot = running.execution.snapshot()  # type: ignore[union-attr]
                ledger = checked(running)
                before += ledger["events"] - ledger["in_state"]
                subscription.close()
                running.cancel()
                running = engine.resume(snapshot, QUERY)
                subscription = running.subscribe()
                assert checked(running)["in_state"] == checked(running)["events"] == ledger["in_state"]
                assert snapshot.ledger == ledger
        counted(running, sum(told.values()) - before)
    finally:
        engine.close()


HUNDRED = [{"ts": at, "k": "ab"[at % 2], "v": at} for at in range(100)]


@pytest.mark.parametrize("route", ["batch", "stream"])
@pytest.mark.parametrize(
    ("query", "emitted_from", "filtered"),
    [
        ("SELECT v FROM stored WHERE v < 0", 0, 100),
        ("SELECT k, count(*) AS n FROM stored WHERE v < 0 WINDOW 10s GROUP BY k", 0, 100),
        ("SELECT k, count(*) AS n FROM stored WHERE v < 30 WINDOW 10s GROUP BY k", 30, 70),
        ("SELECT count(*) AS n FROM stored WHERE v < 30 WINDOWS (a AS TUMBLING 10s, b AS TUMBLING 5s)", 30, 70),
        ("SELECT k, count(*) AS n FROM stored WHERE v < 30 WINDOW SESSION 5s GROUP BY k", 30, 70),
        ("SELECT k, count(*) AS n FROM stored WHERE v < 30 WINDOW SLIDING 5s GROUP BY k", 30, 70),
        ("SELECT k, count(*) AS n FROM stored WHERE v < 30 WINDOW 4 EVENTS GROUP BY k", 30, 70),
        # In the windows of a join a row stands once for each that holds it, and counts once.
        ("SELECT a.v FROM stored AS a JOIN stored AS b ON a.v = b.v AND a.v < 30 WITHIN 1s", 130, 70),
        (
            "SELECT count(*) AS n FROM stored a JOIN stored b ON a.v = b.v AND a.v < 30 WINDOW HOPPING 4s EVERY 2s",
            130,
            70,
        ),
    ],
)
def test_what_became_of_a_hundred_events(query: str, emitted_from: int, filtered: int, route: str) -> None:
    stored = MemorySource("stored", HUNDRED, time=TimeRule(("ts",), "s"), splits=3)
    engine = Engine([stored])
    try:
        running = engine.start(query, options=Options(route=route))
        read_all(running.subscribe())
        ledger = checked(running)
        assert (ledger["emitted_from"], ledger["filtered"]) == (emitted_from, filtered)
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["SEMI", "ANTI"])
def test_what_a_table_leaves_out_is_filtered(kind: str) -> None:
    stored = MemorySource("stored", HUNDRED[:99], time=TimeRule(("ts",), "s"))
    engine = Engine([stored], tables=[memory_table("names", [{"k": "a"}])])
    try:
        query = f"SELECT v FROM stored {kind} JOIN names ON stored.k = names.k"
        running = engine.start(query, options=Options(route="stream"))
        read_all(running.subscribe())
        ledger = checked(running)
        kept = {"SEMI": 50, "ANTI": 49}[kind]
        assert (ledger["emitted_from"], ledger["filtered"]) == (kept, 99 - kept)
    finally:
        engine.close()


#  event    0 ............ 90 ......... 98 | 99
#  passed   all up to here                 |
@pytest.mark.parametrize(
    ("query", "in_state"),
    [
        ("SELECT count(*) AS n FROM live WINDOW 10s", 10),
        ("SELECT count(*) AS n FROM live WINDOW HOPPING 20s EVERY 10s", 20),
        ("SELECT count(*) AS n FROM live WINDOWS (a AS TUMBLING 10s, b AS TUMBLING 50s)", 50),
        ("SELECT count(*) AS n FROM live WINDOW SESSION 5s", 100),
        ("SELECT count(*) AS n FROM live WINDOW SLIDING 5s", 5),
        # of two groups with 50 and 49 rows that are numbered two and one are left, and one waits for the watermark
        ("SELECT k, count(*) AS n FROM live WINDOW 4 EVENTS GROUP BY k", 4),
        ("SELECT v FROM live", 0),
    ],
)
def test_so_many_of_a_hundred_live_events_are_in_state(query: str, in_state: int) -> None:
    source = MemorySource("live", HUNDRED[:1], bounded=False, time=TimeRule(("ts",), "s"))
    engine = Engine([source])
    try:
        running = engine.start(query + (" LATENESS 0s" if "WINDOW" in query else ""))
        running.subscribe()
        source.push(0, HUNDRED)
        wait_for(lambda: checked(running)["events"] == 100 and running.ledger()["in_state"] == in_state)
    finally:
        engine.close()
