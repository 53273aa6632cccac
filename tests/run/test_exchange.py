"""Lines between tasks, and how tasks align what comes in."""

from __future__ import annotations

import pyarrow as pa

from mql.exec.exchange import Channel, Forward, Hash, Outlet, partition
from mql.exec.items import Barrier, Batch, End, Item, Tick, Watermark
from mql.exec.task import Task


def table(*hashes: int) -> pa.Table:
    return pa.table({"__h": pa.array(hashes, pa.int64()), "v": [f"r{at}" for at in range(len(hashes))]})


def drained(channel: Channel) -> list[Item]:
    found = []
    while (item := channel.take()) is not None:
        found.append(item)
    return found


def test_equal_hashes_go_to_the_same_part_and_nothing_is_lost() -> None:
    rows = table(5, 2, 5, 3, 2, 8)
    parts = partition(rows, 3)
    assert [part.column("__h").to_pylist() for part in parts] == [[3], [], [5, 2, 5, 2, 8]]
    assert sum(part.num_rows for part in parts) == rows.num_rows


def test_hash_keeps_the_port_and_tells_all_of_what_is_no_batch() -> None:
    lines = [Channel(), Channel()]
    exchange = Hash(lines)
    exchange.send(Batch(table(0, 1, 3), "bag0"))
    exchange.send(Watermark(5))
    exchange.send(Barrier(1))
    exchange.send(End())
    first, second = drained(lines[0]), drained(lines[1])
    assert [item.port for item in (first[0], second[0]) if isinstance(item, Batch)] == ["bag0", "bag0"]
    assert first[1:] == second[1:] == [Watermark(5), Barrier(1), End()]


def test_a_full_line_stops_its_writer_and_tells_it_when_there_is_room() -> None:
    line = Channel(batches_max=2)
    told: list[str] = []
    line.on_room = lambda: told.append("room")
    exchange = Forward(line)
    for _ in range(2):
        exchange.send(Batch(table(1)))
    assert exchange.full
    line.take()
    assert not exchange.full
    assert told == ["room"]


def test_bytes_fill_a_line_too() -> None:
    line = Channel(bytes_max=100)
    line.put(Batch(table(*range(100))))
    assert line.full


def test_what_is_no_batch_weighs_nothing() -> None:
    batch = Batch(table(*range(100)))
    line = Channel(bytes_max=batch.table.nbytes)
    line.put(Watermark(1))
    assert not line.full
    line.put(batch)
    assert line.full
    line.take()
    assert line.full
    line.take()
    assert not line.full


def test_watermarks_that_wait_behind_each_other_become_one() -> None:
    line = Channel()
    line.put(Batch(table(1)))
    for us in range(1, 100):
        line.put(Watermark(us))
        line.put(Tick(us))
    assert drained(line)[1:] == [Watermark(99), Tick(99)]
    line.put(Watermark(1))
    line.put(Batch(table(1)))
    line.put(Watermark(2))
    assert [item for item in drained(line) if isinstance(item, Watermark)] == [Watermark(1), Watermark(2)]


def task_of(inputs: int) -> tuple[Task, list[Channel], list[Item]]:
    lines = [Channel() for _ in range(inputs)]
    out: list[Item] = []
    return Task("0.0", (), lines, Outlet(out.append, lambda: False)), lines, out


def run(task: Task) -> None:
    while task.ready:
        task.step()


#   input 0   w5 ------- w9
#   input 1   ---- w3 -------- w20
#   the task       w3    w3    w9
def test_the_watermark_of_a_task_is_the_smallest_of_its_inputs() -> None:
    task, (first, second), out = task_of(2)
    for line, us in ((first, 5), (second, 3), (first, 9), (second, 20)):
        line.put(Watermark(us))
        run(task)
    assert out == [Watermark(3), Watermark(9)]


def test_a_barrier_holds_its_input_back_until_all_have_it() -> None:
    task, (first, second), out = task_of(2)
    seen: list[tuple[str, int]] = []
    task.on_snapshot = lambda name, epoch, states: seen.append((name, epoch))
    first.put(Barrier(1))
    first.put(Batch(table(1)))
    second.put(Batch(table(2, 2)))
    run(task)
    assert [item.table.num_rows for item in out if isinstance(item, Batch)] == [2]
    second.put(Barrier(1))
    run(task)
    assert [type(item) for item in out] == [Batch, Barrier, Batch]
    assert seen == [("0.0", 1)]


def test_an_input_that_ends_holds_nothing_up() -> None:
    task, (first, second), out = task_of(2)
    second.put(Watermark(4))
    first.put(Barrier(1))
    run(task)
    second.put(End())
    first.put(Watermark(8))
    run(task)
    assert out == [Barrier(1), Watermark(8)]
    first.put(End())
    run(task)
    assert out[-1] == End()
    assert task.ended
    assert not task.ready


def test_a_task_does_not_run_while_there_is_no_room_behind_it() -> None:
    line, behind = Channel(), Channel(batches_max=1)
    task = Task("0.0", (), [line], Forward(behind))
    for _ in range(2):
        line.put(Batch(table(1)))
    run(task)
    assert behind.batches == 1
    assert line.batches == 1
    behind.take()
    run(task)
    assert behind.batches == 1
