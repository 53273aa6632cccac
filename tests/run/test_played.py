"""REPLAY SPEED: the same rows as at once, but each when its time has come."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from support.reading import read_all, read_until, rows_of

from mql.catalog import TimeRule
from mql.exec import backfill
from mql.exec.engine import Engine, Options
from mql.exec.frames import Failed, RowsFrame
from sources.memory import MemorySource

BOUNDS = "SINCE EARLIEST UNTIL NOW"


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Three splits of events over ten seconds, out of order by up to two, and some that share a time."""
    chance = random.Random(3)
    events = [{"ts": 1_700_000_000_000 + at * 10 - chance.randrange(2000), "k": at % 3, "v": at} for at in range(1000)]
    made = Engine([MemorySource("stored", events, time=TimeRule(("ts",), "ms"), splits=3)], workers=2)
    yield made
    made.close()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT k, count(*) AS n, sum(v) AS s, first(v) AS f FROM stored WINDOW 1s GROUP BY k",
        "SELECT k, count(*) AS n FROM stored WINDOW HOPPING 2s EVERY 500ms GROUP BY k",
        "SELECT count(*) AS n FROM stored WINDOW SESSION 20ms",
        "SELECT ts, v FROM stored WHERE v % 7 = 0",
        "SELECT max(n) AS m FROM (SELECT k, count(*) AS n FROM stored WINDOW 1s GROUP BY k) WINDOW 5s",
    ],
)
def test_what_is_played_is_what_is_answered_at_once(engine: Engine, text: str) -> None:
    at_once = rows_of(read_all(engine.start(f"{text} {BOUNDS}").subscribe()))
    played = rows_of(read_all(engine.start(f"{text} {BOUNDS} REPLAY SPEED 40x").subscribe()))
    assert at_once
    assert sorted(map(repr, played)) == sorted(map(repr, at_once))


def test_rows_come_when_their_time_has_come(engine: Engine) -> None:
    text = f"SELECT count(*) AS n FROM stored WINDOW 1s {BOUNDS} REPLAY SPEED 10x"
    running, began = engine.start(text), time.monotonic()
    subscription = running.subscribe()
    first = read_until(subscription, lambda frames: any(isinstance(frame, RowsFrame) for frame in frames))
    assert len(rows_of(first)) < 10
    assert running.ledger()["dropped"] == 0
    rows = rows_of(first) + rows_of(read_all(subscription))
    assert sum(row["n"] for row in rows) == 1000
    assert time.monotonic() - began > 0.9


def test_a_play_can_be_ended(engine: Engine) -> None:
    running = engine.start(f"SELECT v FROM stored {BOUNDS} REPLAY SPEED 1x")
    subscription = running.subscribe()
    read_until(subscription, lambda frames: any(isinstance(frame, RowsFrame) for frame in frames))
    running.cancel("enough")
    assert read_all(subscription)


def test_what_is_too_large_to_be_held_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "PLAY_BYTES_MAX", 100)
    last = read_all(engine.start(f"SELECT v FROM stored {BOUNDS} REPLAY SPEED 9x", options=Options()).subscribe())[-1]
    assert isinstance(last, Failed)
    assert "would be played" in str(last)
