"""WARMUP FROM HISTORY: a detector that begins now knows what it would know, had the query been running for so long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support.reading import await_true, read_until, rows_of

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.clock import ManualClock
from mql.exec.engine import Engine, Running
from mql.exec.frames import Frame
from sources.memory import MemorySource
from sources.settings import Settings

NOW_S = 1_200
QUERY = (
    "SELECT k, count(*) AS n, phase, contributors FROM live WINDOW 10s GROUP BY k LATENESS 1s ANOMALY ON n "
    "USING zscore(min_spread => 0.5) WARMUP 20 WINDOWS REARM AFTER 3 WINDOWS EXPLAIN BY v {warm} EMIT {emit} {since}"
)
FROM_HISTORY = "WARMUP FROM HISTORY 10m"


def events(first_s: int, last_s: int) -> list[dict[str, Any]]:
    """A few a second, of two keys; at 1,190 s and at 1,250 s a burst of `a`."""
    found = []
    for at in range(first_s, last_s):
        many = 40 if at in (1_190, 1_250) else 1 + at * at % 3
        found += [{"ts": at * 1000 + i, "k": "a", "v": i % 2} for i in range(many)]
        found += [{"ts": at * 1000, "k": "b", "v": 0}]
    return found


@pytest.fixture
def source() -> MemorySource:
    return MemorySource("live", events(0, NOW_S), bounded=False, time=TimeRule(("ts",), "ms"))


@pytest.fixture
def engine(source: MemorySource) -> Iterator[Engine]:
    made = Engine([source], clock=ManualClock(NOW_S * 1_000_000))
    yield made
    made.close()


def rows_until(running: Running, end_s: int) -> list[dict[str, Any]]:
    def holds(found: list[Frame]) -> bool:
        return any(seconds(row["window_end"]) >= end_s for row in rows_of(found))

    return rows_of(read_until(running.subscribe(), holds))


def seconds(at: datetime) -> float:
    return at.replace(tzinfo=UTC).timestamp()


def test_its_state_and_its_rows_are_those_of_a_query_that_had_been_running(
    engine: Engine, source: MemorySource
) -> None:
    texts = [
        QUERY.format(warm="", emit="ALL", since="SINCE TIMESTAMP '1970-01-01T00:10:00Z'"),
        QUERY.format(warm=FROM_HISTORY, emit="ALL", since=""),
    ]
    running, warmed = (engine.start(text) for text in texts)
    await_true(lambda: all(one.status()["state"] == "running" for one in (running, warmed)))
    source.push(0, events(NOW_S, 1_400))
    all_rows, rows = rows_until(running, 1_390), rows_until(warmed, 1_390)
    assert rows == [row for row in all_rows if seconds(row["window_end"]) > NOW_S]
    assert {row["phase"] for row in rows if row["k"] == "a"} > {"open", "close"}
    assert all(row["phase"] is None for row in rows if row["k"] == "b")
    states, warm_states = (one.execution.snapshot().tasks for one in (running, warmed))
    assert states.keys() == warm_states.keys()
    detectors = [
        (states[task][at], warm_states[task][at])
        for task in states
        for at in states[task]
        if "watch" in states[task][at]
    ]
    assert len(detectors) == 1
    for before, after in detectors:
        assert before.keys() == after.keys()
        assert all(before[name].equals(after[name]) for name in before)


def test_an_episode_of_before_is_not_told_again_but_its_end_is(engine: Engine, source: MemorySource) -> None:
    warmed = engine.start(QUERY.format(warm=FROM_HISTORY, emit="EPISODES", since=""))
    await_true(lambda: warmed.status()["state"] == "running")
    source.push(0, events(NOW_S, 1_400))
    starts = [(seconds(row["window_start"]), row["phase"]) for row in rows_until(warmed, 1_290)]
    assert starts == [(1_220, "close"), (1_250, "open"), (1_280, "close")]


def test_it_needs_history(engine: Engine) -> None:
    text = QUERY.format(warm="WARMUP FROM HISTORY 0s", emit="EPISODES", since="")
    with pytest.raises(MqlError, match="takes a length of time"):
        engine.plan(text)


def test_over_what_ends_it_begins_with_the_first_event(engine: Engine) -> None:
    text = QUERY.format(warm=FROM_HISTORY, emit="EPISODES", since="")
    bounded = Engine([MemorySource("live", events(0, 100), time=TimeRule(("ts",), "ms"), settings=Settings())])
    try:
        assert bounded.plan(text).scan.since.kind == "earliest"
    finally:
        bounded.close()
