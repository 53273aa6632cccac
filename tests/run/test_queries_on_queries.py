"""Queries over the rows of queries, as the engine runs them: live, from history on, to an end, from a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.reading import read_all, read_rows, read_until, rows_of

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.engine import Engine, Options
from mql.exec.frames import Phase
from mql.exec.state import snapshot_bytes, snapshot_from_bytes
from mql.schema import BIGINT, VARCHAR, Field, Shape
from sources.memory import MemorySource
from sources.settings import Settings

SHAPE = Shape((Field("ts", BIGINT), Field("k", VARCHAR), Field("v", BIGINT)))
SECONDS = TimeRule(("ts",), "s")
MOST = (
    "SELECT k, max(c) AS most, count(*) AS windows FROM "
    "(SELECT k, count(*) AS c FROM live WHERE v <> 3 WINDOW 10s GROUP BY k) "
    "WHERE c > 1 WINDOW 1m GROUP BY k LATENESS 0s"
)
BOTH = "SELECT 'low' AS what, v FROM live WHERE v < 2 UNION ALL SELECT 'high', v FROM live WHERE v >= 58"


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "k": "ab"[at % 2], "v": at} for at in range(first, last)]


@pytest.fixture
def source() -> MemorySource:
    return MemorySource("live", [], bounded=False, splits=2, settings=Settings(shape=SHAPE, time=SECONDS))


@pytest.fixture
def engine(source: MemorySource) -> Iterator[Engine]:
    made = Engine([source, MemorySource("stored", events(0, 130), time=SECONDS)], workers=4)
    yield made
    made.close()


def push(source: MemorySource, first: int, last: int) -> None:
    """To both splits, the even ones to one and the odd ones to the other."""
    for split in (0, 1):
        source.push(split, [event for event in events(first, last) if event["ts"] % 2 == split])  # type: ignore[operator]


def test_windows_of_windows_close_as_events_come(engine: Engine, source: MemorySource) -> None:
    running = engine.start(MOST)
    reader = running.subscribe()
    push(source, 0, 62)
    rows = read_rows(reader, 2)
    assert sorted((row["k"], row["most"], row["windows"]) for row in rows) == [("a", 5, 6), ("b", 5, 6)]
    ledger = running.ledger()
    assert ledger["events"] == 62
    assert ledger["filtered"] == 1, "rows that the outer query leaves out are no events"
    assert ledger["events"] == sum(count for kind, count in ledger.items() if kind != "events")


@pytest.mark.parametrize("route", ["batch", "stream"])
def test_windows_of_windows_over_history(engine: Engine, route: str) -> None:
    running = engine.start(MOST.replace("live", "stored"), options=Options(route=route))
    rows = rows_of(read_all(running.subscribe()))
    found = sorted((row["window_start"].minute, row["k"], row["most"], row["windows"]) for row in rows)
    assert found == [(at, k, 5, n) for at, n in ((0, 6), (1, 6), (2, 1)) for k in "ab"]
    ledger = running.ledger()
    assert (ledger["events"], ledger["filtered"]) == (130, 1)


def test_windows_of_windows_across_the_seam(engine: Engine, source: MemorySource) -> None:
    push(source, 0, 35)
    reader = engine.start(f"{MOST} SINCE EARLIEST").subscribe()
    frames = read_until(reader, lambda found: any(isinstance(it, Phase) and it.data["phase"] == "live" for it in found))
    push(source, 35, 122)
    frames += read_until(reader, lambda found: len(rows_of(frames + found)) >= 4)
    found = sorted((row["window_start"].minute, row["k"], row["most"], row["windows"]) for row in rows_of(frames))
    assert found == [(0, "a", 5, 6), (0, "b", 5, 6), (1, "a", 5, 6), (1, "b", 5, 6)]


def test_windows_of_windows_go_on_from_a_snapshot(engine: Engine, source: MemorySource) -> None:
    running = engine.start(MOST)
    reader = running.subscribe()
    push(source, 0, 35)
    read_until(reader, lambda found: running.ledger()["events"] == 35)
    snapshot = snapshot_from_bytes(snapshot_bytes(running.execution.snapshot()))
    running.cancel()
    push(source, 35, 62)
    rows = read_rows(engine.resume(snapshot, MOST).subscribe(), 2)
    assert sorted((row["k"], row["most"], row["windows"]) for row in rows) == [("a", 5, 6), ("b", 5, 6)]


def test_a_union_reads_one_source_twice(engine: Engine, source: MemorySource) -> None:
    running = engine.start(BOTH)
    reader = running.subscribe()
    push(source, 0, 60)
    rows = read_rows(reader, 4)
    assert sorted((row["what"], row["v"]) for row in rows) == [("high", 58), ("high", 59), ("low", 0), ("low", 1)]
    ledger = running.ledger()
    assert ledger["events"] == 120, "each of them, once for each query"
    assert ledger["events"] == sum(count for kind, count in ledger.items() if kind != "events")


@pytest.mark.parametrize("route", ["batch", "stream"])
def test_a_union_over_history(engine: Engine, route: str) -> None:
    text = f"{BOTH.replace('live', 'stored')} ORDER BY v"
    rows = rows_of(read_all(engine.start(text, options=Options(route=route)).subscribe()))
    assert [row["v"] for row in rows] == [0, 1, *range(58, 130)]


def test_a_union_crosses_the_seam_and_goes_on_from_a_snapshot(engine: Engine, source: MemorySource) -> None:
    push(source, 0, 30)
    counted = f"SELECT what, count(*) AS n FROM ({BOTH}) GROUP BY what WINDOW 1m LATENESS 0s"
    running = engine.start(f"{counted} SINCE EARLIEST")
    reader = running.subscribe()
    read_until(reader, lambda found: any(isinstance(it, Phase) and it.data["phase"] == "live" for it in found))
    push(source, 30, 59)
    read_until(reader, lambda found: running.ledger()["events"] == 118)
    snapshot = snapshot_from_bytes(snapshot_bytes(running.execution.snapshot()))
    running.cancel()
    push(source, 59, 62)
    rows = read_rows(engine.resume(snapshot, f"{counted} SINCE EARLIEST").subscribe(), 2)
    assert sorted((row["what"], row["n"]) for row in rows) == [("high", 2), ("low", 2)]


def test_an_inner_query_that_filters_costs_nothing(engine: Engine) -> None:
    """It is the same plan, and so one execution."""
    one = engine.start("SELECT big FROM (SELECT v * 2 AS big, k FROM live WHERE v > 5) AS x WHERE x.k = 'a'")
    other = engine.start("SELECT v * 2 AS big FROM live WHERE k = 'a' AND v > 5")
    assert one.plan_hash == other.plan_hash
    assert other.shared_with == (one.id,)


def test_conditions_on_the_keys_of_groups_are_asked_of_events(engine: Engine) -> None:
    """What they leave out is not even read."""
    text = "SELECT k, max(c) FROM (SELECT k, count(*) AS c FROM live GROUP BY k WINDOW 10s) {} WINDOW 1m GROUP BY k"
    asked = text.format("WHERE k = 'a' AND c > 1")
    early = text.replace("FROM live", "FROM live WHERE k = 'a'").format("WHERE c > 1")
    assert engine.plan(asked).hash == engine.plan(early).hash
    kept = "SELECT n FROM (SELECT count(*) AS n FROM stored) WHERE 1 = 2"
    assert rows_of(read_all(engine.start(kept).subscribe())) == []


def test_queries_stand_in_each_other_so_deep_and_no_deeper(engine: Engine) -> None:
    text = "WITH " + ", ".join(f"q{at} AS (SELECT v FROM q{at - 1})" for at in range(1, 60)).replace("q0", "live")
    assert engine.plan(f"{text} SELECT v FROM q20").result.columns[0][0] == "v"
    with pytest.raises(MqlError, match="more than 32 queries stand in each other"):
        engine.plan(f"{text} SELECT v FROM q59")
    twice = ", ".join(f"q{at} AS (SELECT v FROM q{at - 1} UNION ALL SELECT v FROM q{at - 1})" for at in range(1, 30))
    with pytest.raises(MqlError, match="at most 64 sources"):
        engine.plan(f"WITH {twice.replace('q0', 'live')} SELECT v FROM q29")


def test_an_order_that_changes_nothing_is_warned_of(engine: Engine) -> None:
    text = "SELECT max(c) FROM (SELECT count(*) AS c FROM stored WINDOW 10s ORDER BY c) WINDOW 1m"
    warnings = engine.start(text).execution.plan.warnings
    assert warnings == ("ORDER BY in an inner query changes nothing: write it behind the outermost query",)


def test_what_nobody_asks_of_groups_is_not_computed(engine: Engine) -> None:
    inner = (
        "SELECT k, count(*) AS c, list(v) AS vs, count(DISTINCT v) AS d FROM stored WINDOW 10s GROUP BY k HAVING d > 0"
    )
    plan = engine.plan(f"SELECT max(c) FROM ({inner}) WINDOW 1m")
    assert "list(" not in plan.batch
    assert "DISTINCT" in plan.batch, "HAVING asks for it"
    rows = rows_of(read_all(engine.start(f"SELECT max(c) AS m FROM ({inner}) WINDOW 1m").subscribe()))
    assert [row["m"] for row in rows] == [5, 5, 5]
