"""What operators keep: how many rows and bytes, and what is let go of."""

from __future__ import annotations

import pyarrow as pa

from mql.exec.items import TIME
from mql.exec.kernel import Kernel
from mql.exec.operators.base import Pile
from mql.exec.operators.segments import DECIDED, OVER, Segments

SESSION = Kernel().session()


def rows(*times: int) -> pa.Table:
    """Rows that are decided ten microseconds after their time, and over after twenty."""
    at = pa.array(times, pa.int64())
    later = {name: pa.array([time + wait for time in times], pa.int64()) for name, wait in ((DECIDED, 10), (OVER, 20))}
    return pa.table({TIME: at, **later})


def times(table: pa.Table) -> list[int]:
    return list(table.column(TIME).to_pylist())


def test_a_pile_knows_how_many_rows_it_has() -> None:
    pile = Pile(SESSION, None)
    assert (pile.rows, pile.table(), pile.table_or_blank()) == (0, None, None)
    pile.add(rows(1, 2))
    pile.add(rows())
    pile.add(rows(3))
    assert pile.rows == 3
    pile.drop(pa.array([True, False, True]))
    assert pile.rows == 1
    pile.clear()
    assert pile.rows == 0
    blank = pile.table_or_blank()
    assert blank is not None
    assert blank.schema == rows().schema
    pile.add(rows(7, 8))
    assert pile.rows == 2


def test_a_pile_of_many_parts_becomes_one_and_loses_nothing() -> None:
    pile = Pile(SESSION, None)
    for at in range(600):
        pile.add(rows(at))
    table = pile.table()
    assert table is not None
    assert times(table) == list(range(600))
    assert pile.rows == 600


def test_segments_weigh_what_they_hold() -> None:
    side = Segments(rows())
    assert (side.rows, side.bytes) == (0, 0)
    side.add(rows(1, 2, 4))
    side.add(rows(11))
    assert (side.rows, side.bytes) == (4, rows(1, 2, 4).nbytes + rows(11).nbytes)
    side.let_go(22)  # two rows of the first segment are over, but not more than half of its time
    assert times(side.table()) == [1, 2, 4, 11]
    side.let_go(23)
    assert times(side.table()) == [4, 11]
    assert (side.rows, side.bytes) == (2, rows(4).nbytes + rows(11).nbytes)
    side.let_go(31)
    assert (times(side.table()), side.rows, side.bytes) == ([], 0, 0)
    side.add(rows(50))
    side.clear()
    assert (times(side.table()), side.rows, side.bytes) == ([], 0, 0)


def test_segments_give_a_stretch_of_time_and_what_is_decided() -> None:
    side = Segments(rows())
    for at in (10, 20, 30):
        side.add(rows(at, at + 5))
    assert times(side.between(16, 19)) == []
    assert times(side.between(15, 20)) == [10, 15, 20, 25]
    assert times(side.between(35, 99)) == [30, 35]
    assert times(side.decided(20, 30)) == [15, 20]
    assert times(side.decided(45, 99)) == []
