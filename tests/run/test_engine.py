"""Queries as the server and the command line ask them: started, shared, read, ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from support.reading import await_true, read_all, read_rows, read_until, rows_of

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.engine import Engine, Options
from mql.exec.frames import Ended, Failed, Meta, Phase, Progress, RowsFrame, Seal
from sources.memory import MemorySource

SECONDS = TimeRule(("ts",), "s")


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "k": at % 3, "v": at} for at in range(first, last)]


@pytest.fixture
def source() -> MemorySource:
    """A live source of which five events are known."""
    return MemorySource("live", events(0, 5), bounded=False, time=SECONDS)


@pytest.fixture
def engine(source: MemorySource) -> Iterator[Engine]:
    made = Engine([source, MemorySource("stored", events(0, 100), time=SECONDS, splits=3)], workers=2)
    yield made
    made.close()


def test_a_live_query_gives_what_comes_after_it_was_asked(engine: Engine, source: MemorySource) -> None:
    running = engine.start("SELECT v FROM live WHERE k = 1")
    subscription = running.subscribe()
    source.push(0, events(5, 20))
    frames = read_until(subscription, lambda found: len(rows_of(found)) >= 5)
    assert isinstance(frames[0], Meta)
    assert [row["v"] for row in rows_of(frames)] == [7, 10, 13, 16, 19]
    ledger = running.ledger()
    assert ledger["events"] == 15
    assert ledger["filtered"] == 10
    assert ledger["events"] == sum(count for kind, count in ledger.items() if kind != "events")


def test_the_first_row_comes_within_a_quarter_of_a_second(engine: Engine, source: MemorySource) -> None:
    list(engine.rows("SELECT v FROM stored LIMIT 1"))
    began = time.monotonic()
    running = engine.start("SELECT v FROM live WHERE v > 0")
    subscription = running.subscribe()
    source.push(0, events(5, 20))
    read_rows(subscription, 1)
    assert time.monotonic() - began < 0.25


@pytest.mark.parametrize("route", ["batch", "stream"])
def test_a_bounded_query_gives_everything_and_ends(engine: Engine, route: str) -> None:
    running = engine.start(
        "SELECT k, count(*) AS n, median(v) AS m FROM stored WINDOW TUMBLING 50s GROUP BY k",
        options=Options(route=route),
    )
    frames = read_all(running.subscribe())
    rows = sorted((row["window_start"].second, row["k"], row["n"], row["m"]) for row in rows_of(frames))
    assert rows == [
        (0, 0, 17, 24.0),
        (0, 1, 17, 25.0),
        (0, 2, 16, 24.5),
        (50, 0, 17, 75.0),
        (50, 1, 16, 74.5),
        (50, 2, 17, 74.0),
    ]
    last = frames[-1]
    assert isinstance(last, Ended)
    assert last.reason == "done"
    assert running.status()["state"] == "done"
    assert running.ledger()["events"] == 100


def test_the_ledger_of_a_batch_adds_up(engine: Engine) -> None:
    running = engine.start("SELECT v FROM stored WHERE v < 30")
    read_all(running.subscribe())
    ledger = running.ledger()
    assert (ledger["events"], ledger["filtered"], ledger["emitted_from"]) == (100, 70, 30)


def test_equal_queries_share_one_execution(engine: Engine, source: MemorySource) -> None:
    one = engine.start("SELECT v FROM live WHERE k = 1")
    other = engine.start("select v from live where k=1")
    assert one.id != other.id
    assert one.shared_with == (other.id,)
    assert other.shared_with == (one.id,)
    readers = [one.subscribe(), other.subscribe()]
    source.push(0, events(5, 11))
    assert [read_rows(reader, 2) for reader in readers] == [[{"v": 7}, {"v": 10}]] * 2
    one.cancel()
    frames = read_all(readers[0])
    assert frames[-1] == Ended("deleted")
    source.push(0, events(11, 14))
    assert read_rows(readers[1], 1) == [{"v": 13}]
    other.cancel()
    assert isinstance(read_all(readers[1])[-1], Ended)


def test_who_joins_later_gets_rows_from_then_on(engine: Engine, source: MemorySource) -> None:
    first = engine.start("SELECT v FROM live").subscribe()
    source.push(0, events(5, 10))
    read_rows(first, 5)
    second = engine.start("SELECT v FROM live").subscribe()
    source.push(0, events(10, 12))
    assert read_rows(second, 2) == [{"v": 10}, {"v": 11}]


def test_counts_of_everything_are_shared_only_from_equal_starts(engine: Engine, source: MemorySource) -> None:
    text = "SELECT count(*) AS n FROM live EMIT CHANGES EVERY 100ms"
    one, twin = engine.start(text), engine.start(text)
    assert twin.execution is one.execution
    source.push(0, events(5, 10))
    read_until(one.subscribe(), lambda found: any(row["n"] == 5 for row in rows_of(found)))
    later = engine.start(text)
    assert later.execution is not one.execution
    source.push(0, events(10, 12))
    read_until(later.subscribe(), lambda found: any(row["n"] == 2 for row in rows_of(found)))


#   events   0 .. 4 | 5 ......... 30
#   windows  [0,10) | [10,20) [20,30)
#   asked here      ^
def test_a_window_joined_in_its_midst_is_not_told(engine: Engine, source: MemorySource) -> None:
    before = engine.start("SELECT v FROM live").subscribe()
    source.push(0, events(5, 8))
    read_rows(before, 3)
    running = engine.start("SELECT count(*) AS n FROM live WINDOW TUMBLING 10s LATENESS 1s")
    subscription = running.subscribe()
    source.push(0, events(8, 40))
    frames = read_until(subscription, lambda found: len(rows_of(found)) >= 2 and isinstance(found[-1], Seal))
    assert [(row["window_start"].second, row["n"]) for row in rows_of(frames)][:2] == [(10, 10), (20, 10)]
    seal = next(frame for frame in frames if isinstance(frame, Seal))
    assert (seal.data["window_start"], seal.data["rows"]) == (10_000_000, 1)


def test_who_joins_a_windowed_query_gets_the_windows_that_begin_after(engine: Engine, source: MemorySource) -> None:
    text = "SELECT count(*) AS n FROM live WINDOW TUMBLING 10s LATENESS 1s"
    first = engine.start(text).subscribe()
    source.push(0, events(5, 33))
    read_rows(first, 1)
    second = engine.start(text)
    assert second.shared_with
    source.push(0, events(33, 55))
    assert [row["window_start"].second for row in read_rows(second.subscribe(), 1)] == [40]


def test_max_rows_ends_the_query(engine: Engine, source: MemorySource) -> None:
    running = engine.start("SELECT v FROM live", options=Options(max_rows=3))
    source.push(0, events(5, 20))
    frames = read_all(running.subscribe())
    assert rows_of(frames) == [{"v": 5}, {"v": 6}, {"v": 7}]
    last = frames[-1]
    assert isinstance(last, Ended)
    assert last.reason == "limit"


def test_limit_ends_the_query(engine: Engine, source: MemorySource) -> None:
    running = engine.start("SELECT v FROM live LIMIT 2")
    source.push(0, events(5, 20))
    frames = read_all(running.subscribe())
    assert len(rows_of(frames)) == 2
    assert running.status()["state"] == "limit"


def test_timeout_ends_the_query(engine: Engine) -> None:
    frames = read_all(engine.start("SELECT v FROM live", options=Options(timeout_s=0.2)).subscribe())
    last = frames[-1]
    assert isinstance(last, Ended)
    assert last.reason == "timeout"


def test_a_query_that_nobody_reads_any_more_ends_after_its_linger(engine: Engine) -> None:
    running = engine.start("SELECT v FROM live", options=Options(linger_s=0.1))
    subscription = running.subscribe()
    subscription.close()
    await_true(lambda: running.id not in [other.id for other in engine.queries()])
    assert running.status()["state"] == "no readers"


def test_progress_comes_every_second_even_if_nothing_happens(engine: Engine) -> None:
    subscription = engine.start("SELECT v FROM live").subscribe()
    frames = read_until(subscription, lambda found: sum(isinstance(frame, Progress) for frame in found) >= 2)
    progress = [frame for frame in frames if isinstance(frame, Progress)][-1]
    assert progress.data["scanned"] == 0
    assert progress.data["trouble"] is None


def test_a_reader_resumes_from_its_cursor(engine: Engine, source: MemorySource) -> None:
    running = engine.start("SELECT v FROM live")
    subscription = running.subscribe()
    source.push(0, events(5, 6))
    frames = read_until(subscription, lambda found: bool(rows_of(found)))
    cursor = next(frame.cursor for frame in frames if isinstance(frame, RowsFrame))
    subscription.close()
    source.push(0, events(6, 8))
    assert read_rows(running.subscribe(cursor), 2) == [{"v": 6}, {"v": 7}]
    assert [row["v"] for row in read_rows(running.subscribe(), 3)] == [5, 6, 7]


def test_malformed_events_become_dead_letters_and_the_query_goes_on(engine: Engine, source: MemorySource) -> None:
    from mql.exec.items import Chunk

    running = engine.start("SELECT v FROM live")
    subscription = running.subscribe()
    first = source.end()[0]
    source.ring.append(Chunk(0, b'{"ts": 6, "v": 6}\n{broken\n{"ts": 7, "v": 7}\n', first, 0))
    assert read_rows(subscription, 2) == [{"v": 6}, {"v": 7}]
    assert running.ledger()["malformed"] == 1
    letter = engine.dead_letters("live")[0]
    assert letter["text"] == "{broken"
    assert letter["offset"] == first + 18


def test_an_error_ends_its_query_and_no_other(engine: Engine, source: MemorySource) -> None:
    good, bad = engine.start("SELECT v FROM live"), engine.start("SELECT v, k FROM live")
    graph = bad.execution.graph
    assert graph is not None

    def fail(batch: object) -> Sequence[object]:
        raise RuntimeError("broken on purpose")

    graph.tasks[0].operators[0].on_batch = fail  # type: ignore[method-assign, assignment]
    subscription = good.subscribe()
    source.push(0, events(5, 8))
    failed = read_all(bad.subscribe())[-1]
    assert isinstance(failed, Failed)
    assert "broken on purpose" in failed.data["detail"]
    assert len(read_rows(subscription, 3)) == 3
    source.push(0, events(8, 9))
    assert read_rows(subscription, 1) == [{"v": 8}]


def test_a_source_that_ends_ends_its_queries(engine: Engine, source: MemorySource) -> None:
    running = engine.start("SELECT count(*) AS n FROM live WINDOW TUMBLING 10s")
    subscription = running.subscribe()
    source.push(0, events(5, 25))
    source.finish()
    frames = read_all(subscription)
    assert [row["n"] for row in rows_of(frames)][-2:] == [10, 5]
    last = frames[-1]
    assert isinstance(last, Ended)
    assert last.reason == "done"


def test_explain_is_a_query_too(engine: Engine) -> None:
    frames = read_all(engine.start("EXPLAIN SELECT v FROM live WHERE k = 1").subscribe())
    text = "\n".join(row["plan"] for row in rows_of(frames))
    assert "filter" in text.lower()
    assert "worker" in engine.explain("SELECT v FROM live", form="physical")


def test_what_is_wrong_is_the_users_error(engine: Engine) -> None:
    with pytest.raises(MqlError, match="kk"):
        engine.validate("SELECT kk FROM live")
    with pytest.raises(MqlError) as caught:
        engine.query("q-none")
    assert caught.value.code == "no-such-query"
    with pytest.raises(MqlError) as caught:
        engine.source("non")
    assert caught.value.code == "no-such-source"


def test_a_source_that_is_read_cannot_be_dropped(engine: Engine) -> None:
    running = engine.start("SELECT v FROM live")
    with pytest.raises(MqlError) as caught:
        engine.drop_source("live")
    assert caught.value.code == "source-in-use"
    running.cancel()
    engine.drop_source("live")
    assert "live" not in engine.catalog().sources


def test_rows_gives_tables_until_the_end(engine: Engine) -> None:
    tables = list(engine.rows("SELECT v FROM stored WHERE v >= $least", {"least": 97}))
    assert [row["v"] for table in tables for row in table.to_pylist()] == [97, 98, 99]


def test_closing_stops_everything_soon_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    source = MemorySource("live", events(0, 5), bounded=False, time=SECONDS, splits=4)
    engine = Engine([source], workers=3)
    subscriptions = [
        engine.start("SELECT v FROM live").subscribe(),
        engine.start("SELECT count(*) FROM live WINDOW TUMBLING 10s").subscribe(),
        engine.start("SELECT v FROM live SINCE EARLIEST").subscribe(),
    ]
    source.push(0, events(5, 1000))
    read_rows(subscriptions[0], 1)
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 2
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("mql-")]
    assert left == []
    for subscription in subscriptions:
        last = read_all(subscription)[-1]
        assert isinstance(last, Ended)
        assert last.reason == "server stopping"


def test_history_then_live_tells_its_phases(engine: Engine, source: MemorySource) -> None:
    running = engine.start("SELECT v FROM live SINCE EARLIEST")
    subscription = running.subscribe()
    frames = read_until(subscription, lambda found: any(is_live(frame) for frame in found))
    source.push(0, events(5, 7))
    frames += read_until(subscription, lambda found: len(rows_of(found)) >= 2)
    assert [row["v"] for row in rows_of(frames)] == [0, 1, 2, 3, 4, 5, 6]
    assert [frame.data["phase"] for frame in frames if isinstance(frame, Phase)] == ["backfill", "live"]


def is_live(frame: object) -> bool:
    return isinstance(frame, Phase) and frame.data["phase"] == "live"
