"""What the rows of a batch statement go through still, before they are told: operators that no SQL says.

The rows come in the order of their windows, so every batch of them tells up to where they are complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import assert_never

import pyarrow as pa

from mql.exec.items import Barrier, Batch, Done, End, Item, Operator, Roster, Tick, Watermark
from mql.exec.kernel import Session
from mql.exec.operators import build
from mql.planner.physical import OperatorSpec

WINDOW_END = "__we"


class Afterwards:
    """A chain of operators over a batch statement's rows."""

    def __init__(self, specs: Sequence[OperatorSpec], session: Session) -> None:
        self._operators = [build(spec, session) for spec in specs]

    def take(self, table: pa.Table) -> Iterator[pa.Table]:
        """More rows of the statement; what can be told now."""
        if not self._operators:
            yield table
        elif WINDOW_END not in table.column_names:
            yield from self._through((Batch(table),))
        elif table.num_rows:
            complete_us = table.column(WINDOW_END)[-1].as_py() - 1
            yield from self._through((Batch(table), Watermark(complete_us)))

    def end(self) -> Iterator[pa.Table]:
        """What is left when there are no more rows."""
        if self._operators:
            yield from self._through((End(),))

    def _through(self, items: Iterable[Item]) -> Iterator[pa.Table]:
        for operator in self._operators:
            items = [out for item in items for out in _passed(operator, item)]
        yield from (item.table for item in items if isinstance(item, Batch))


def _passed(operator: Operator, item: Item) -> Iterable[Item]:
    match item:
        case Batch():
            return operator.on_batch(item)
        case Watermark(us):
            return operator.on_watermark(us)
        case End():
            return operator.on_end()
        case Tick() | Barrier() | Roster() | Done():
            return (item,)
        case _:
            assert_never(item)
