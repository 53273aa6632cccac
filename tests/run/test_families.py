"""Queries of a family come and go while it runs, and each is as it would be alone: rows, seals, ledger, end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from support.reading import await_true, read_all, read_rows, read_until, rows_of

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec import engine as engines
from mql.exec import family as families
from mql.exec.engine import Engine, Options, Running
from mql.exec.family import Member
from mql.exec.frames import Ended, Gap, Progress, Seal
from server.metrics import Metrics
from sources.memory import MemorySource

SECONDS = TimeRule(("ts",), "s")
FILTER = "SELECT v, k FROM live WHERE k = '{}'"
WINDOW = (
    "SELECT count(*) AS n, sum(v) AS s FROM live WHERE k = '{}' AND v >= {} WINDOW TUMBLING 10s HAVING count(*) > {}"
)


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "k": f"d{at % 5}", "v": at} for at in range(first, last)]


@pytest.fixture
def source() -> MemorySource:
    return MemorySource("live", events(0, 5), bounded=False, time=SECONDS)


@pytest.fixture
def engine(source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(engines, "ALONE_MAX", 0)
    made = Engine([source], workers=2)
    yield made
    made.close()


def has_seen(running: Running, events: int) -> Callable[[], bool]:
    return lambda: running.ledger()["events"] >= events and running.ledger()["in_state"] < events


def is_in(running: Running) -> Callable[[], bool]:
    return lambda: bool(running.execution.positions)  # type: ignore[union-attr]


def test_the_first_few_run_alone_and_those_that_follow_share_a_plan(source: MemorySource) -> None:
    engine = Engine([source], workers=1)
    running = [engine.start(FILTER.format(at)) for at in range(engines.ALONE_MAX + 3)]
    shared = [one for one in running if isinstance(one.execution, Member)]
    assert len(shared) == 3
    assert shared[0].shared_with == (shared[1].id, shared[2].id)
    assert not running[0].shared_with
    assert engine.start("SELECT v FROM live WHERE v > 3").shared_with == ()
    engine.close()


def test_rows_go_to_the_queries_that_they_are_of(engine: Engine, source: MemorySource) -> None:
    readers = [engine.start(FILTER.format(f"d{at}")).subscribe() for at in range(7)]
    source.push(0, events(5, 20))
    for at, reader in enumerate(readers[:5]):
        assert read_rows(reader, 3) == [{"v": v, "k": f"d{at}"} for v in range(5 + at, 20, 5)]
    source.finish()
    for at, reader in enumerate(readers):
        frames = read_all(reader)
        assert not rows_of(frames)
        assert isinstance(frames[-1], Ended)
        assert frames[-1].data["matched"] == (3 if at < 5 else 0)


#   events   5 ....... 25 | 25 ...... 60      joined at |: its first window is the one that starts after it
#   windows    [10,20) [20,30) [30,40) [40,50)
def test_a_window_that_began_before_a_query_joined_is_not_told_to_it(engine: Engine, source: MemorySource) -> None:
    early = engine.start(WINDOW.format("d1", 0, 0))
    first = early.subscribe()
    source.push(0, events(5, 25))
    await_true(has_seen(early, 20))
    later = engine.start(WINDOW.format("d2", 0, 1))
    assert later.shared_with == (early.id,)
    await_true(is_in(later))
    source.push(0, events(25, 61))
    source.finish()
    starts = [row["window_start"].timestamp() % 86_400 for row in rows_of(read_all(first))]
    later_frames = read_all(later.subscribe())
    assert [row["n"] for row in rows_of(later_frames)] == [2, 2, 2]
    assert starts == [10, 20, 30, 40, 50]
    assert [frame.data["window_start"] // 10**6 for frame in later_frames if isinstance(frame, Seal)] == [30, 40, 50]


def test_a_query_that_joins_counts_what_comes_from_then_on(engine: Engine, source: MemorySource) -> None:
    text = "SELECT k, count(*) AS n FROM live WHERE v > {} GROUP BY k EMIT CHANGES EVERY 100ms"
    first = engine.start(text.format(0))
    source.push(0, events(5, 10))
    read_until(first.subscribe(), lambda found: len(rows_of(found)) >= 5)
    second = engine.start(text.format(12))
    await_true(is_in(second))
    source.push(0, events(10, 20))
    found = rows_of(read_until(second.subscribe(), lambda found: sum(row["n"] for row in last(found)) == 7))
    assert all(row["_revision"] == 0 or row["_op"] == "update" for row in found)
    ledger = second.ledger()
    assert (ledger["events"], ledger["filtered"]) == (10, 3)
    assert ledger["events"] == sum(ledger.values()) - ledger["events"]


def last(frames: Sequence[Any]) -> list[dict[str, Any]]:
    return list({row["_key"]: row for row in rows_of(frames)}.values())


def test_a_query_that_leaves_harms_nobody_and_with_the_last_the_family_ends(
    engine: Engine, source: MemorySource
) -> None:
    running = [engine.start(WINDOW.format(f"d{at}", 0, 0)) for at in range(5)]
    reader = running[4].subscribe()
    source.push(0, events(5, 15))
    await_true(has_seen(running[4], 10))
    for one in running[:4]:
        one.cancel()
    source.push(0, events(15, 40))
    assert [row["n"] for row in read_rows(reader, 2)] == [2, 2]
    family = running[4].execution.family  # type: ignore[union-attr]
    await_true(lambda: family.finals[0]._piles["rows"].table().num_rows <= 3)
    running[4].cancel()
    await_true(lambda: family.core.over)
    again = engine.start(WINDOW.format("d1", 0, 0))
    assert again.execution.family is not family  # type: ignore[union-attr]


def test_metrics_tell_how_many_queries_share_how_many_plans(engine: Engine) -> None:
    for at in range(3):
        engine.start(FILTER.format(f"d{at}"))
        engine.start(WINDOW.format(f"d{at}", at, at))
    text = Metrics(engine.queries).text().decode()
    assert "mql_shared_queries 6.0" in text
    assert "mql_shared_plans 2.0" in text


def test_limits_and_times_are_each_querys_own(engine: Engine, source: MemorySource) -> None:
    limited = [engine.start(f"SELECT v FROM live WHERE k = 'd{at}' LIMIT {at + 1}") for at in range(3)]
    bounded = engine.start("SELECT v FROM live WHERE k = 'd4' LIMIT 99", options=Options(max_rows=1))
    timed = engine.start("SELECT v FROM live WHERE k = 'd3' LIMIT 5", options=Options(timeout_s=0.3))
    readers = [one.subscribe() for one in (*limited, bounded, timed)]
    source.push(0, events(5, 40))
    frames = [read_all(reader) for reader in readers]
    assert [len(rows_of(found)) for found in frames] == [1, 2, 3, 1, 5]
    assert [found[-1].reason for found in frames] == ["limit"] * 5
    waiting = engine.start("SELECT v FROM live WHERE k = 'none' LIMIT 5", options=Options(timeout_s=0.3))
    assert read_all(waiting.subscribe())[-1].reason == "timeout"


def test_late_rows_are_each_querys_own(engine: Engine, source: MemorySource) -> None:
    one, other = (engine.start(WINDOW.format(f"d{at}", 0, 0)) for at in range(2))
    source.push(0, events(5, 60))
    source.push(0, [{"ts": 10, "k": "d0", "v": 10}, {"ts": 12, "k": "d0", "v": 12}, {"ts": 13, "k": "d1", "v": -1}])
    await_true(lambda: one.ledger()["late"] == 2 and one.ledger()["events"] == 58)
    await_true(lambda: other.ledger()["filtered"] == 11 * 4 + 3)
    assert other.ledger()["late"] == 0
    assert one.late(10).column("v").to_pylist() == [10, 12]
    assert other.late(10).num_rows == 0


def test_equal_queries_of_a_family_share_their_part_of_it(engine: Engine, source: MemorySource) -> None:
    one, twin, other = (engine.start(FILTER.format(key)) for key in ("d1", "d1", "d2"))
    assert twin.execution is one.execution
    assert set(one.shared_with) == {twin.id, other.id}
    source.push(0, events(5, 8))
    assert [read_rows(each.subscribe(), 1) for each in (one, twin)] == [[{"v": 6, "k": "d1"}]] * 2


def test_progress_and_status_tell_of_the_query_alone(engine: Engine, source: MemorySource) -> None:
    running = [engine.start(FILTER.format(f"d{at}")) for at in range(2)]
    reader = running[0].subscribe()
    source.push(0, events(5, 25))
    frames = read_until(reader, lambda found: any(isinstance(one, Progress) and one.data["rows"] for one in found))
    told = next(one.data for one in frames if isinstance(one, Progress) and one.data["rows"])
    assert (told["scanned"], told["matched"], told["rows"]) == (20, 4, 4)
    assert running[0].status()["shared_with"] == [running[1].id]
    assert "shares" in running[0].explain()


def test_what_nobody_reads_is_let_go_of_and_told_as_a_gap(
    engine: Engine, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "KEPT_BYTES_MAX", 500)
    running = [engine.start(FILTER.format(f"d{at}")) for at in range(2)]
    reader = running[0].subscribe()
    for at in range(5, 105, 10):
        source.push(0, events(at, at + 10))
        await_true(has_seen(running[0], at + 5))
    source.finish()
    frames = read_all(reader)
    gap = next(frame for frame in frames if isinstance(frame, Gap))
    assert gap.data["rows"] + len(rows_of(frames)) == 20


def test_a_statement_that_fails_ends_all_of_the_family(engine: Engine, source: MemorySource) -> None:
    running = [engine.start(FILTER.format(f"d{at}")) for at in range(2)]
    readers = [one.subscribe() for one in running]
    family = running[0].execution.family  # type: ignore[union-attr]
    family.core.fail(MqlError("broken"))
    assert [read_all(reader)[-1].data["detail"] for reader in readers] == ["broken"] * 2  # type: ignore[union-attr]
    assert engine.start(FILTER.format("d0")).execution.family is not family  # type: ignore[union-attr]


def test_a_thousand_queries_join_at_once_and_each_gets_its_own(source: MemorySource) -> None:
    engine = Engine([source], workers=2)
    running = [engine.start("SELECT v FROM live WHERE v = $v", {"v": v}) for v in range(5, 1005)]
    readers = [one.subscribe() for one in running]
    await_true(lambda: all(isinstance(one.execution, Member) and one.execution.positions for one in running[3:]))
    source.push(0, events(5, 1005))
    began = time.monotonic()
    assert [read_rows(reader, 1) for reader in readers] == [[{"v": v}] for v in range(5, 1005)]
    assert time.monotonic() - began < 20
    engine.close()
