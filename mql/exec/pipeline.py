"""The operators of one task, wired by Rx: an item goes in and all that comes of it is out before the call returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, assert_never

import reactivex
from reactivex import Observable, abc
from reactivex.subject import Subject

from mql.exec.items import Barrier, Batch, Done, End, Item, Operator, Roster, State, Tick, Watermark


class Pipeline:
    """One task's operators in a row. `emit` gets what the last of them lets out, on the thread that pushed.

    As a barrier passes, each operator is snapshotted in its place; `snapshot` then gives what they said, by number.
    """

    def __init__(self, operators: Sequence[Operator], emit: Callable[[Item], None]) -> None:
        self.operators = tuple(operators)
        self._states: dict[int, State] = {}
        self._head: Subject[Item] = Subject()
        steps = [self._step(number, operator) for number, operator in enumerate(self.operators)]
        self._wires = self._head.pipe(*steps).subscribe(on_next=emit, on_error=_raise)

    def push(self, item: Item) -> None:
        """Raises what an operator raises; the pipeline is of no use after that."""
        self._head.on_next(item)

    def snapshot(self) -> Mapping[int, State]:
        """The states as the last barrier found them."""
        return dict(self._states)

    def restore(self, states: Mapping[int, State]) -> None:
        """Takes over a snapshot; several calls merge."""
        for number, state in states.items():
            self.operators[number].restore(state)

    def in_state(self, first: int | None = None) -> int:
        """How many rows the operators, or the first of them, hold back."""
        return sum(operator.in_state() for operator in self.operators[:first])

    def close(self) -> None:
        self._wires.dispose()

    def _step(self, number: int, operator: Operator) -> Callable[[Observable[Item]], Observable[Item]]:
        """The operator as an Rx operator function."""

        def barrier(item: Barrier) -> Iterable[Item]:
            self._states[number] = operator.snapshot()
            return (item,)

        def wired(source: Observable[Item]) -> Observable[Item]:
            def subscribe(
                observer: abc.ObserverBase[Item], scheduler: abc.SchedulerBase | None = None
            ) -> abc.DisposableBase:
                def on_next(item: Item) -> None:
                    for out in answer(operator, item, barrier):
                        observer.on_next(out)

                return source.subscribe(on_next, observer.on_error, observer.on_completed, scheduler=scheduler)

            return reactivex.Observable(subscribe)

        return wired


def answer(operator: Operator, item: Item, barrier: Callable[[Barrier], Iterable[Item]]) -> Iterable[Item]:
    """What an operator says to an item."""
    match item:
        case Batch():
            return operator.on_batch(item)
        case Watermark(us):
            return operator.on_watermark(us)
        case Tick(us):
            return operator.on_tick(us)
        case Barrier():
            return barrier(item)
        case Roster():
            return operator.on_roster(item)
        case End():
            return operator.on_end()
        case Done():
            return (item,)
        case _:
            assert_never(item)


def _raise(error: Any) -> None:
    raise error
