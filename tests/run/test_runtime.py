"""Tasks on threads: in turns, stopped when there is no room, released at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest
from support.reading import await_true

from mql.exec.exchange import Channel, Forward, Outlet
from mql.exec.items import Batch, End, Item
from mql.exec.kernel import Kernel
from mql.exec.runtimes.local import LocalRuntime
from mql.exec.task import Task


@pytest.fixture
def runtime() -> Iterator[LocalRuntime]:
    kernel = Kernel()
    made = LocalRuntime(kernel, 2)
    yield made
    made.close()
    kernel.close()


def batch(value: int) -> Batch:
    return Batch(pa.table({"v": [value]}))


def host(runtime: LocalRuntime, task: Task, worker: int = 0) -> None:
    runtime.host(task, worker, runtime.session())


def test_a_chain_over_two_workers_keeps_the_order_and_loses_nothing(runtime: LocalRuntime) -> None:
    first, second = Channel(), Channel(batches_max=2)
    out: list[Item] = []
    ended = threading.Event()

    def tell(item: Item) -> None:
        out.append(item)
        if isinstance(item, End):
            ended.set()

    host(runtime, Task("0.0", (), [first], Forward(second)), 0)
    host(runtime, Task("1.0", (), [second], Outlet(tell, lambda: False)), 1)
    for value in range(500):
        first.put(batch(value))
    first.put(End())
    assert ended.wait(10)
    assert [item.table.column("v")[0].as_py() for item in out if isinstance(item, Batch)] == list(range(500))


def test_tasks_of_one_worker_take_turns(runtime: LocalRuntime) -> None:
    gate = threading.Event()
    order: list[str] = []

    def teller(name: str) -> Outlet:
        def tell(item: Item) -> None:
            gate.wait(10)
            order.append(name)

        return Outlet(tell, lambda: False)

    lines = {name: Channel() for name in "ab"}
    for name, line in lines.items():
        for value in range(40):
            line.put(batch(value))
        host(runtime, Task(name, (), [line], teller(name)), 0)
    gate.set()
    await_true(lambda: len(order) == 80)
    assert "b" in order[:20]


def test_the_highest_rank_goes_first_and_nobody_stands_still(runtime: LocalRuntime) -> None:
    gate, begun = threading.Event(), threading.Event()
    order: list[str] = []

    def teller(name: str) -> Outlet:
        def tell(item: Item) -> None:
            begun.set()
            gate.wait(10)
            order.append(name)

        return Outlet(tell, lambda: False)

    for name, rank in (("busy", 1), ("low", 0), ("normal", 1), ("high", 2)):
        line = Channel()
        for value in range(8 if name == "busy" else 160):
            line.put(batch(value))
        host(runtime, Task(name, (), [line], teller(name), rank=rank), 0)
        assert begun.wait(10)  # the first holds the worker while the others come
    gate.set()
    await_true(lambda: len(order) == 488)
    last = {name: len(order) - order[::-1].index(name) for name in ("low", "normal", "high")}
    assert last["high"] < last["normal"] < last["low"]
    assert "low" in order[: last["high"]]


def test_results_that_are_full_hold_their_tasks_until_they_are_woken(runtime: LocalRuntime) -> None:
    line = Channel()
    full = True
    out: list[Item] = []
    task = Task("0.0", (), [line], Outlet(out.append, lambda: full))
    host(runtime, task)
    line.put(batch(1))
    assert not task.ready
    full = False
    task.wake()
    await_true(lambda: len(out) == 1)


def test_what_a_task_raises_stops_it_and_not_the_worker(runtime: LocalRuntime) -> None:
    errors: list[Exception] = []
    out: list[Item] = []

    def fail(item: Item) -> None:
        raise ValueError("no")

    bad_line, good_line = Channel(), Channel()
    bad = Task("0.0", (), [bad_line], Outlet(fail, lambda: False))
    bad.on_failure = errors.append
    host(runtime, bad)
    host(runtime, Task("1.0", (), [good_line], Outlet(out.append, lambda: False)))
    bad_line.put(batch(1))
    await_true(lambda: len(errors) == 1)
    good_line.put(batch(1))
    await_true(lambda: len(out) == 1)
    assert bad.stopped


def test_load_is_the_number_of_tasks(runtime: LocalRuntime) -> None:
    tasks = [Task(str(at), (), [Channel()], Outlet(lambda item: None, lambda: False)) for at in range(3)]
    for task in tasks:
        host(runtime, task, 1)
    assert runtime.load() == (0.0, 3.0)
    runtime.release(tasks)
    assert runtime.load() == (0.0, 0.0)
