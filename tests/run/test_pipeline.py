"""What passes a task's operators."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pytest

from mql.exec.items import Barrier, Batch, Counts, Done, End, Item, State, Tick, Watermark
from mql.exec.pipeline import Pipeline


class Doubler:
    """Holds rows back until the watermark, then lets each out twice."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.held: list[int] = []

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        self.held += batch.table.column("v").to_pylist()
        return ()

    def in_state(self) -> int:
        return len(self.held)

    def on_watermark(self, us: int) -> Iterable[Item]:
        if self.held:
            yield batch(*self.held, *self.held)
        self.held = []
        yield Watermark(us)

    def on_tick(self, us: int) -> Iterable[Item]:
        yield Tick(us)

    def on_end(self) -> Iterable[Item]:
        yield from list(self.on_watermark(0))[:-1]
        yield End()

    def snapshot(self) -> State:
        return {"held": pa.table({"v": pa.array(self.held, pa.int64())})}

    def restore(self, state: State) -> None:
        self.held += state["held"].column("v").to_pylist()


class Failing(Doubler):
    def on_batch(self, batch: Batch) -> Iterable[Item]:
        raise ValueError("no such luck")


def batch(*values: int) -> Batch:
    return Batch(pa.table({"v": pa.array(values, pa.int64())}))


def shown(items: Iterable[Item]) -> list[object]:
    return [item.table.column("v").to_pylist() if isinstance(item, Batch) else item for item in items]


def test_what_goes_in_is_out_before_push_returns() -> None:
    out: list[Item] = []
    pipeline = Pipeline([Doubler(), Doubler()], out.append)
    pipeline.push(batch(1, 2))
    assert out == []
    assert pipeline.in_state() == 2
    pipeline.push(Watermark(10))
    assert shown(out) == [[1, 2, 1, 2, 1, 2, 1, 2], Watermark(10)]


def test_a_barrier_finds_each_operator_as_it_passes() -> None:
    out: list[Item] = []
    pipeline = Pipeline([Doubler(), Doubler()], out.append)
    pipeline.push(batch(1))
    pipeline.push(Barrier(7))
    assert out == [Barrier(7)]
    states = pipeline.snapshot()
    assert [states[at]["held"].column("v").to_pylist() for at in (0, 1)] == [[1], []]
    again: list[Item] = []
    restored = Pipeline([Doubler(), Doubler()], again.append)
    restored.restore(states)
    restored.push(End())
    assert shown(again) == [[1, 1, 1, 1], End()]


def test_without_operators_everything_passes() -> None:
    out: list[Item] = []
    pipeline = Pipeline([], out.append)
    for item in (Tick(1), Done(), End()):
        pipeline.push(item)
    assert out == [Tick(1), Done(), End()]


def test_what_an_operator_raises_comes_out_of_push() -> None:
    pipeline = Pipeline([Failing()], lambda item: None)
    with pytest.raises(ValueError, match="no such luck"):
        pipeline.push(batch(1))
