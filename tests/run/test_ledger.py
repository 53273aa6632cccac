"""The ledger adds up: whenever it is looked at, over faults, and when a query goes on from a snapshot."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping

from support.waiting import wait_for

from mql.catalog import TimeRule
from mql.exec.engine import Engine, Running
from mql.exec.frames import Progress
from sources.http import HttpSource
from sources.settings import Settings

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
