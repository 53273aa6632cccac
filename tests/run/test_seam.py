"""From history into the live stream, and from a snapshot on: nothing lost, nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.reading import await_true, read_rows, read_until, rows_of

from mql.catalog import TimeRule
from mql.exec import hub
from mql.exec.engine import Engine
from mql.exec.frames import Phase
from mql.exec.state import snapshot_bytes, snapshot_from_bytes
from sources.memory import MemorySource

MILLIS = TimeRule(("ts",), "ms")


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "k": at % 7, "v": at} for at in range(first, last)]


@pytest.fixture
def source() -> MemorySource:
    return MemorySource("live", events(0, 5000), bounded=False, time=MILLIS, splits=2)


@pytest.fixture
def engine(source: MemorySource) -> Iterator[Engine]:
    made = Engine([source], workers=4)
    yield made
    made.close()


def pushed(source: MemorySource, first: int, last: int, step: int) -> threading.Thread:
    """Pushes events while the query starts: of each `step`, half to each split."""

    def push() -> None:
        for at in range(first, last, step):
            source.push(0, events(at, at + step // 2))
            source.push(1, events(at + step // 2, at + step))

    thread = threading.Thread(target=push)
    thread.start()
    return thread


def test_rows_cross_the_seam_once_each(engine: Engine, source: MemorySource) -> None:
    pusher = pushed(source, 5000, 25_000, 50)
    rows = read_rows(engine.start("SELECT v FROM live SINCE EARLIEST").subscribe(), 25_000)
    pusher.join()
    assert sorted(row["v"] for row in rows) == list(range(25_000))


def test_windows_across_the_seam_are_whole(engine: Engine, source: MemorySource) -> None:
    pusher = pushed(source, 5000, 25_000, 50)
    text = "SELECT k, count(*) AS n, sum(v) AS s FROM live WINDOW TUMBLING 1s GROUP BY k LATENESS 1s SINCE EARLIEST"
    rows = read_rows(engine.start(text).subscribe(), 7 * 23)
    pusher.join()
    counts: dict[int, int] = {}
    for row in rows:
        second = row["window_start"].second
        counts[second] = counts.get(second, 0) + row["n"]
    assert {second: counts[second] for second in range(23)} == dict.fromkeys(range(23), 1000)


def test_window_functions_go_on_across_the_seam(engine: Engine, source: MemorySource) -> None:
    pusher = pushed(source, 5000, 15_000, 1000)
    text = (
        "SELECT v, row_number() OVER (ORDER BY event_time()) AS r, "
        "lag(v) OVER (PARTITION BY k ORDER BY event_time()) AS l FROM live LATENESS 1s SINCE EARLIEST"
    )
    rows = read_rows(engine.start(text).subscribe(), 13_000)
    pusher.join()
    assert [row["r"] for row in rows[:13_000]] == list(range(1, 13_001))
    assert all(row["v"] == row["r"] - 1 and row["l"] == (row["v"] - 7 if row["v"] >= 7 else None) for row in rows)


def test_a_query_that_cannot_hold_what_comes_reads_it_for_itself(
    engine: Engine, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HELD_BYTES_MAX", 1000)
    pusher = pushed(source, 5000, 25_000, 50)
    running = engine.start("SELECT v FROM live SINCE EARLIEST")
    frames = read_until(running.subscribe(), lambda found: len(rows_of(found)) >= 25_000)
    pusher.join()
    assert sorted(row["v"] for row in rows_of(frames)) == list(range(25_000))
    assert sum(isinstance(frame, Phase) for frame in frames) >= 2


def test_a_late_row_after_the_seam_is_late_by_what_history_reached(engine: Engine, source: MemorySource) -> None:
    running = engine.start("SELECT count(*) AS n FROM live WINDOW TUMBLING 1s LATENESS 0s SINCE EARLIEST")
    subscription = running.subscribe()
    read_until(subscription, lambda found: any(isinstance(f, Phase) and f.data["phase"] == "live" for f in found))
    source.push(0, [{"ts": 1500, "k": 1, "v": 0}])
    await_true(lambda: running.ledger()["late"] == 1)
    assert running.late().column("event_time_us").to_pylist() == [1_500_000]
    ledger = running.ledger()
    assert ledger["events"] == 5001
    assert ledger["events"] == sum(count for kind, count in ledger.items() if kind != "events")


def test_a_query_goes_on_from_the_bytes_of_its_snapshot(source: MemorySource) -> None:
    text = "SELECT k, count(*) AS n FROM live WINDOW TUMBLING 1s GROUP BY k LATENESS 0s"
    engine = Engine([source], workers=4)
    running = engine.start(text)
    subscription = running.subscribe()
    source.push(0, events(10_000, 11_500))
    source.push(1, events(10_000, 11_500))
    await_true(lambda: running.ledger()["events"] == 3000)
    data = snapshot_bytes(running.execution.snapshot())
    source.push(0, events(11_500, 11_600))
    before = rows_of(subscription.take())
    running.cancel()
    source.push(0, events(11_600, 12_001))
    source.push(1, events(11_500, 12_001))
    again = engine.resume(snapshot_from_bytes(data), text)
    rows = before + read_rows(again.subscribe(), 7)
    engine.close()
    counts: dict[int, int] = {}
    for row in rows:
        counts[row["window_start"].second] = counts.get(row["window_start"].second, 0) + row["n"]
    assert counts[11] == 2000
