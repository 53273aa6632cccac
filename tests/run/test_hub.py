"""One source, many queries: read once, decoded once, and nobody harms another."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from support.reading import await_true, read_rows, read_until, rows_of

from mql.catalog import TimeRule
from mql.exec import hub as hubs
from mql.exec import launching
from mql.exec.engine import Engine, Options
from mql.exec.feed import From, Positions, Reader
from mql.exec.frames import Gap, Warn
from mql.exec.items import Raw
from sources.memory import MemorySource

SECONDS = TimeRule(("ts",), "s")


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "k": at % 3, "v": at} for at in range(first, last)]


class Shaky(MemorySource):
    """A source whose readers raise when told so, and say why nothing comes while told so."""

    why: str | None = None
    raises = False
    opened: int = 0

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        self.opened += 1
        return ShakyReader(self, super().open(start, task, tasks, columns))


class ShakyReader:
    def __init__(self, source: Shaky, inner: Reader) -> None:
        self.source = source
        self.inner = inner

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        if self.source.raises:
            self.source.raises = False
            raise ConnectionError("the broker hung up")
        return self.inner.poll(timeout_s, max_bytes)

    @property
    def splits(self) -> tuple[int, ...]:
        return self.inner.splits

    @property
    def positions(self) -> Positions:
        return self.inner.positions

    @property
    def ended(self) -> bool:
        return self.inner.ended

    @property
    def trouble(self) -> str | None:
        return self.source.why

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def source() -> Shaky:
    return Shaky("live", events(0, 5), bounded=False, time=SECONDS)


@pytest.fixture
def engine(source: Shaky) -> Iterator[Engine]:
    made = Engine([source], workers=2)
    yield made
    made.close()


def test_queries_on_one_source_share_its_reader_and_its_columns(engine: Engine, source: Shaky) -> None:
    first = engine.start("SELECT v FROM live").subscribe()
    second = engine.start("SELECT k FROM live").subscribe()
    source.push(0, events(5, 8))
    assert read_rows(first, 3) == [{"v": 5}, {"v": 6}, {"v": 7}]
    assert read_rows(second, 3) == [{"k": 2}, {"k": 0}, {"k": 1}]
    assert source.opened == 1


def test_the_reader_stops_some_time_after_the_last_query(
    engine: Engine, source: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "HUB_LINGER_S", 0.1)
    engine.start("SELECT v FROM live").cancel()
    await_true(lambda: not any(thread.name.startswith("mql-hub") for thread in threading.enumerate()))
    subscription = engine.start("SELECT v FROM live").subscribe()
    source.push(0, events(5, 6))
    assert read_rows(subscription, 1) == [{"v": 5}]
    assert source.opened == 2


def test_what_troubles_a_source_is_told_and_forgotten_when_it_is_over(engine: Engine, source: Shaky) -> None:
    running = engine.start("SELECT v FROM live")
    source.why = "no broker answers"
    await_true(lambda: running.status()["trouble"] == "no broker answers")
    source.why = None
    await_true(lambda: running.status()["trouble"] is None)


def test_a_reader_that_raises_is_opened_again_where_it_was(
    engine: Engine, source: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "RETRY_S", 0.05)
    running = engine.start("SELECT v FROM live")
    subscription = running.subscribe()
    source.push(0, events(5, 8))
    read_rows(subscription, 3)
    source.raises = True
    await_true(lambda: not source.raises)
    source.push(0, events(8, 11))
    assert read_rows(subscription, 3) == [{"v": 8}, {"v": 9}, {"v": 10}]
    await_true(lambda: running.status()["trouble"] is None)


def test_a_query_that_is_stuck_loses_rows_is_told_and_holds_nobody_up(
    engine: Engine, source: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "LINGER_MOST_S", 0.005)
    monkeypatch.setattr(hubs, "PATIENCE_S", 0.02)
    stuck, free = engine.start("SELECT v, k FROM live"), engine.start("SELECT v FROM live")
    gate = threading.Event()
    hold(stuck, gate)
    subscription = free.subscribe()
    for at in range(5, 45):
        source.push(0, events(at, at + 1))
        assert read_rows(subscription, 1) == [{"v": at}]
    assert free.ledger()["dropped"] == 0
    ledger = stuck.ledger()
    assert ledger["dropped"] > 0
    assert ledger["events"] == 40 == sum(count for kind, count in ledger.items() if kind != "events")
    gate.set()
    frames = read_until(stuck.subscribe(), lambda found: any(isinstance(frame, Gap) for frame in found))
    assert any(isinstance(frame, Warn) and frame.data["code"] == "dropped" for frame in frames)
    await_true(lambda: stuck.ledger()["in_state"] == 0)
    source.push(0, events(45, 46))
    read_until(stuck.subscribe(), lambda found: any(row["v"] == 45 for row in rows_of(found)))


def test_nobody_waits_for_a_query_of_lower_priority(
    engine: Engine, source: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "LINGER_MOST_S", 0.005)
    monkeypatch.setattr(hubs, "PATIENCE_S", 3_600.0)
    low = engine.start("SELECT v, k FROM live", options=Options(priority="low"))
    high = engine.start("SELECT v FROM live", options=Options(priority="high"))
    gate = threading.Event()
    hold(low, gate)
    subscription = high.subscribe()
    for at in range(5, 45):
        source.push(0, events(at, at + 1))
        assert read_rows(subscription, 1) == [{"v": at}]
    assert (high.ledger()["dropped"], high.status()["priority"]) == (0, "high")
    assert low.ledger()["dropped"] > 0
    # Who shares a plan has it run with the higher priority of both.
    engine.start("SELECT v, k FROM live", options=Options(priority="high"))
    assert {feed.rank for feed in low.execution.feeds} == {2}
    gate.set()


def hold(running: Any, gate: threading.Event) -> None:
    """The first operator of the query waits for the gate."""
    operator = running.execution.graph.tasks[0].operators[0]
    inner = operator.on_batch

    def slow(batch: Any) -> Any:
        gate.wait(20)
        return inner(batch)

    operator.on_batch = slow
