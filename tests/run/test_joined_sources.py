"""Joins as the engine runs them: live, over history, across the seam, from a snapshot; with tables that change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.reading import read_all, read_rows, read_until, rows_of

import mql
from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.engine import Engine, Options
from mql.exec.frames import Failed, Meta, Phase
from mql.exec.state import snapshot_bytes, snapshot_from_bytes
from sources.declared_tables import declare_table
from sources.memory import MemorySource
from sources.tables import DeclaredTable

SECONDS = TimeRule(("ts",), "s")
JOINED = "SELECT a.v, b.v AS w FROM a JOIN b ON a.k = b.k WITHIN 3s LATENESS 0s"


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "k": at // 5, "v": at} for at in range(first, last)]


def pairs(first: int, last: int) -> list[tuple[int, int]]:
    """What JOINED gives of the events from `first` to `last` on both sides."""
    times = range(first, last)
    return [(v, w) for v in times for w in times if v // 5 == w // 5 and abs(v - w) <= 3]


def found(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return sorted((row["v"] if "v" in row else row["a.v"], row["w"]) for row in rows)


@pytest.fixture
def a() -> MemorySource:
    return MemorySource("a", events(0, 30), bounded=False, time=SECONDS)


@pytest.fixture
def b() -> MemorySource:
    return MemorySource("b", events(0, 30), bounded=False, time=SECONDS, splits=2)


@pytest.fixture
def users() -> DeclaredTable:
    return declare_table("users", {"kind": "rows", "rows": [{"id": 6, "name": "six"}], "key": "id"})


@pytest.fixture
def engine(a: MemorySource, b: MemorySource, users: DeclaredTable) -> Iterator[Engine]:
    made = Engine([a, b], workers=2, tables=[users])
    yield made
    made.close()


def test_streams_are_joined_live_and_the_ledger_adds_up(engine: Engine, a: MemorySource, b: MemorySource) -> None:
    running = engine.start(f"{JOINED}")
    reader = running.subscribe()
    a.push(0, events(30, 50))
    b.push(1, events(30, 50))
    rows = read_rows(reader, len(pairs(30, 50)))
    assert found(rows) == pairs(30, 50)
    ledger = running.ledger()
    assert ledger["events"] == 40 == sum(count for kind, count in ledger.items() if kind != "events")


@pytest.mark.parametrize("route", ["batch", "stream"])
def test_joined_history_has_an_end(engine: Engine, route: str) -> None:
    running = engine.start(f"{JOINED} SINCE EARLIEST UNTIL NOW", options=Options(route=route))
    assert found(rows_of(read_all(running.subscribe()))) == pairs(0, 30)
    assert running.ledger()["events"] == 60


def test_since_and_until_are_about_the_events_of_both_sides(engine: Engine) -> None:
    text = f"{JOINED} SINCE TIMESTAMP '1970-01-01T00:00:06Z' UNTIL TIMESTAMP '1970-01-01T00:00:13Z'"
    assert found(rows_of(read_all(engine.start(text).subscribe()))) == pairs(6, 13)


def test_a_join_crosses_the_seam(engine: Engine, a: MemorySource, b: MemorySource) -> None:
    reader = engine.start(f"{JOINED} SINCE EARLIEST").subscribe()
    frames = read_until(reader, lambda seen: any(isinstance(it, Phase) and it.data["phase"] == "live" for it in seen))
    a.push(0, events(30, 42))
    b.push(0, events(30, 42))
    want = pairs(0, 42)
    frames += read_until(reader, lambda more: len(rows_of(frames + more)) >= len(want))
    assert found(rows_of(frames)) == want


def test_a_join_goes_on_from_a_snapshot(engine: Engine, a: MemorySource, b: MemorySource) -> None:
    running = engine.start(JOINED)
    reader = running.subscribe()
    a.push(0, events(40, 43))
    read_until(reader, lambda more: running.ledger()["events"] == 3)
    snapshot = snapshot_from_bytes(snapshot_bytes(running.execution.snapshot()))
    running.cancel()
    b.push(0, events(42, 44))
    reader = engine.resume(snapshot, JOINED).subscribe()
    assert found(read_rows(reader, 6)) == [(v, w) for v in range(40, 43) for w in (42, 43)]


def test_a_table_is_looked_up_as_it_is_when_events_come(engine: Engine, a: MemorySource, users: DeclaredTable) -> None:
    running = engine.start("SELECT a.v, users.name FROM a LEFT JOIN users ON a.k = users.id")
    reader = running.subscribe()
    a.push(0, events(30, 31))
    assert read_rows(reader, 1) == [{"a.v": 30, "users.name": "six"}]
    users.replace([{"id": 6, "name": "half a dozen"}])
    a.push(0, events(31, 32))
    assert read_rows(reader, 1) == [{"a.v": 31, "users.name": "half a dozen"}]
    with pytest.raises(MqlError, match="is read by 1 queries"):
        engine.drop_table("users")
    running.cancel()
    engine.drop_table("users")
    with pytest.raises(MqlError, match='no source "users"'):
        engine.start("SELECT a.v FROM a JOIN users ON a.k = users.id")


def test_a_join_without_a_bound_says_for_how_long_it_keeps_rows(engine: Engine, b: MemorySource) -> None:
    running = engine.start("SELECT a.v, b.v AS w FROM a LEFT JOIN b ON a.k = b.k")
    (meta,) = [frame for frame in running.subscribe().take() if isinstance(frame, Meta)]
    assert "rows wait 1h for partners" in str(meta.data["warnings"])


def test_too_much_state_ends_the_query_and_says_what_to_do(engine: Engine, a: MemorySource) -> None:
    reader = engine.start(f"{JOINED} SETTINGS state_max = 500").subscribe()
    a.push(0, events(30, 60))
    frames = read_until(reader, lambda seen: any(isinstance(frame, Failed) for frame in seen))
    (failed,) = [frame.data for frame in frames if isinstance(frame, Failed)]
    assert failed["code"] == "state-too-large"
    assert "WITHIN" in failed["hint"]


def test_mql_run_takes_tables() -> None:
    rows = mql.run(
        "SELECT e.n, t.v FROM events e JOIN t ON e.n = t.n",
        [{"n": 1}, {"n": 2}],
        tables={"t": [{"n": 2, "v": "x"}]},
    )
    assert list(rows) == [{"e.n": 2, "t.v": "x"}]


def test_explain_tells_the_kind_the_keys_and_the_bound(engine: Engine) -> None:
    text = "SELECT a.v, b.v AS w FROM a LEFT JOIN b ON a.k = b.k AND b.v > 1 WITHIN (0s, 5m)"
    assert 'left join on "/a/k" = "/b/k" within (0s, 5m)' in engine.explain(text, form="logical")
    told = engine.explain(text, form="estimate")
    assert "the left join keeps 68 bytes for each row of its left side" in told
    assert "it keeps rows of 305s or more" in told
    looked_up = engine.explain("SELECT a.v FROM a JOIN users ON a.k = users.id", form="plan")
    assert "inner join with table users" in looked_up
