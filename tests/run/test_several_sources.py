"""Several sources in one query, as the engine reads them: live, from history on, to an end, from a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from support.reading import read_all, read_rows, read_until, rows_of

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.engine import Engine, Options
from mql.exec.frames import Phase
from mql.exec.state import snapshot_bytes, snapshot_from_bytes
from sources.memory import MemorySource
from sources.settings import Settings

SECONDS = TimeRule(("ts",), "s")
MERGED = "SELECT source() AS s, count(*) AS n FROM a, b WINDOW 10s GROUP BY s"


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "v": at} for at in range(first, last)]


@pytest.fixture
def one() -> MemorySource:
    return MemorySource("a", events(0, 30), bounded=False, time=SECONDS)


@pytest.fixture
def other() -> MemorySource:
    return MemorySource("b", events(0, 30), bounded=False, time=SECONDS, splits=2)


@pytest.fixture
def engine(one: MemorySource, other: MemorySource) -> Iterator[Engine]:
    made = Engine([one, other, MemorySource("stored", events(0, 100), time=SECONDS)], workers=2)
    yield made
    made.close()


def test_merged_sources_are_read_live(engine: Engine, one: MemorySource, other: MemorySource) -> None:
    running = engine.start("SELECT source() AS s, v FROM a, b WHERE v >= 32")
    subscription = running.subscribe()
    one.push(0, events(30, 34))
    other.push(1, events(30, 35))
    rows = read_rows(subscription, 5)
    assert sorted((row["s"], row["v"]) for row in rows) == [("a", 32), ("a", 33), ("b", 32), ("b", 33), ("b", 34)]
    ledger = running.ledger()
    assert (ledger["events"], ledger["filtered"]) == (9, 4)
    assert ledger["events"] == sum(count for kind, count in ledger.items() if kind != "events")


@pytest.mark.parametrize("route", ["batch", "stream"])
def test_merged_history_has_an_end(engine: Engine, route: str) -> None:
    running = engine.start(f"{MERGED} SINCE EARLIEST UNTIL NOW", options=Options(route=route))
    rows = rows_of(read_all(running.subscribe()))
    assert sorted((row["s"], row["window_start"].second, row["n"]) for row in rows) == [
        (name, start, 10) for name in "ab" for start in (0, 10, 20)
    ]
    assert running.ledger()["events"] == 60


def test_merged_sources_cross_the_seam_together(engine: Engine, one: MemorySource, other: MemorySource) -> None:
    reader = engine.start(f"{MERGED} LATENESS 0s SINCE EARLIEST").subscribe()
    frames = read_until(reader, lambda found: any(isinstance(it, Phase) and it.data["phase"] == "live" for it in found))
    one.push(0, events(30, 51))
    other.push(0, events(30, 51))
    other.push(1, events(50, 51))
    frames += read_until(reader, lambda found: len(rows_of(frames + found)) >= 10)
    rows = rows_of(frames)
    assert sorted((row["s"], row["window_start"].second, row["n"]) for row in rows) == [
        (name, start, 10) for name in "ab" for start in (0, 10, 20, 30, 40)
    ]


def test_a_snapshot_holds_the_offsets_of_each_source(engine: Engine, one: MemorySource, other: MemorySource) -> None:
    running = engine.start(f"{MERGED} LATENESS 0s")
    reader = running.subscribe()
    for source in (one, other):
        source.push(0, events(40, 55))
    read_until(reader, lambda found: running.ledger()["events"] == 30)
    snapshot = snapshot_from_bytes(snapshot_bytes(running.execution.snapshot()))
    running.cancel()
    one.push(0, events(55, 71))
    other.push(0, events(55, 71))
    other.push(1, events(70, 71))
    reader = engine.resume(snapshot, f"{MERGED} LATENESS 0s").subscribe()
    rows = rows_of(read_until(reader, lambda found: sum(row["window_start"].minute == 1 for row in rows_of(found)) > 1))
    counted = {(row["s"], row["window_start"].minute * 60 + row["window_start"].second): row["n"] for row in rows}
    assert counted["a", 50] == counted["b", 50] == 10
    assert counted["a", 60] == counted["b", 60] == 10


def test_a_source_of_which_nothing_ever_came_is_not_waited_for(engine: Engine, one: MemorySource) -> None:
    settings = Settings(time=SECONDS, idle_timeout_us=100_000, open=True)
    silent = MemorySource("silent", [], bounded=False, settings=settings)
    engine.add_source(silent)
    reader = engine.start("SELECT count(*) AS n FROM a, silent WINDOW 10s LATENESS 0s").subscribe()
    one.push(0, events(30, 51))
    assert [row["n"] for row in rows_of(read_until(reader, lambda found: len(rows_of(found)) == 2))] == [10, 10]


def test_types_that_differ_are_read_as_json() -> None:
    one = MemorySource("a", [{"ts": 1, "v": "x", "w": 1, "d": {"p": 1}}], time=SECONDS)
    other = MemorySource("b", [{"ts": 2, "v": 5, "w": 1.5, "d": {"q": 2}}], time=SECONDS)
    engine = Engine([one, other])
    running = engine.start("SELECT v, w, d.p AS p, d.q AS q FROM a, b")
    assert dict(running.columns) == {"v": "JSON", "w": "DOUBLE", "p": "BIGINT", "q": "BIGINT"}
    rows = rows_of(read_all(running.subscribe()))
    assert rows == [{"v": '"x"', "w": 1.0, "p": 1, "q": None}, {"v": "5", "w": 1.5, "p": None, "q": 2}]
    engine.close()


def test_columns_of_different_types_are_refused() -> None:
    one = MemorySource("a", [{"ts": 1, "v": "x"}], time=SECONDS)
    other = MemorySource("b", pa.table({"ts": [1], "v": [5]}), time=SECONDS)
    engine = Engine([one, other])
    with pytest.raises(MqlError, match='"v" of "b" is BIGINT'):
        engine.validate("SELECT v FROM a, b")
    engine.close()


def test_what_ends_and_what_does_not_is_refused(engine: Engine) -> None:
    with pytest.raises(MqlError, match='source "stored" ends, and "a" does not'):
        engine.validate("SELECT v FROM a, stored")


def test_what_was_not_waited_for_is_not_waited_for_after_a_snapshot_either(engine: Engine, one: MemorySource) -> None:
    settings = Settings(time=SECONDS, idle_timeout_us=100_000, open=True)
    silent = MemorySource("silent", [], bounded=False, settings=settings)
    engine.add_source(silent)
    text = "SELECT source() AS s, count(*) AS n FROM a, silent WINDOW 10s LATENESS 0s GROUP BY s"
    running = engine.start(text)
    reader = running.subscribe()
    one.push(0, events(30, 41))
    assert [row["n"] for row in read_rows(reader, 1)] == [10]
    snapshot = snapshot_from_bytes(snapshot_bytes(running.execution.snapshot()))
    running.cancel()
    # What comes at last is about a window that was told without it.
    silent.push(0, events(35, 41))
    one.push(0, events(41, 51))
    silent.push(0, events(41, 51))
    again = engine.resume(snapshot, text)
    rows = read_rows(again.subscribe(), 2)
    assert sorted((row["s"], row["window_start"].second, row["n"]) for row in rows) == [
        ("a", 40, 10),
        ("silent", 40, 10),
    ]
    assert again.ledger()["late"] == 5
