"""Windows have the same numbers, starts and ends in arrays as they have borders in SQL, whatever a clock does."""

from __future__ import annotations

import random

import pytest

from mql.exec.kernel import Kernel
from mql.planner import windows
from mql.planner.grid import Grid
from mql.planner.physical import Window

SESSION = Kernel().session()
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
ZONES = (None, "America/New_York", "America/Havana", "Asia/Kolkata")
SHAPES = (
    (15 * MINUTE, 15 * MINUTE),
    (2 * HOUR, HOUR),
    (6 * HOUR, 6 * HOUR),
    (DAY, DAY),
    (7 * DAY, DAY),
    (DAY, 2 * HOUR),
)


def borders(window: Window, times: list[int]) -> list[tuple[int, int]]:
    """The windows that hold these times, as the statements of queries have them."""
    values = ", ".join(f"({time}::BIGINT)" for time in times)
    panes = f"SELECT {windows.pane_sql(window, 't')} AS p FROM (VALUES {values}) v(t)"
    sql = f"SELECT DISTINCT ws, we FROM ({windows.expanded_sql(window, f'({panes})')}) WHERE we > ws ORDER BY we, ws"
    table = SESSION.run(sql, {})
    return list(zip(table.column("ws").to_pylist(), table.column("we").to_pylist(), strict=True))


@pytest.mark.parametrize("zone", ZONES)
def test_numbers_fit_the_borders_of_windows(zone: str | None) -> None:
    rng = random.Random(f"grid {zone}")
    for size, slide in SHAPES:
        offset = rng.choice((0, 0, slide // 2 // HOUR * HOUR))
        window = windows.hopping(size, slide, offset, zone)
        grid = Grid(window)
        begin = (30 + rng.randrange(24)) * 365 * DAY
        step = max(slide // 2, 7 * HOUR)
        found = borders(window, list(range(begin, begin + 366 * DAY, step)))
        numbers = [grid.number_of(start) for start, _ in found]
        assert numbers == sorted(set(numbers)), (zone, size, slide)
        for (start, end), number in zip(found, numbers, strict=True):
            assert (grid.start(number), grid.end(number)) == (start, end), (zone, size, slide)
            assert (grid.last_by(end), grid.last_by(end - 1)) == (number, number - 1)


def test_cumulating_windows_are_counted_by_their_ends() -> None:
    # steps  0    10   20   30   40
    #        |-0--|-1--|-2--|-3--|     a window begins every 20, and ends after each step
    grid = Grid(windows.cumulate(20, 10, 0, None))
    assert [(grid.start(number), grid.end(number)) for number in range(-1, 4)] == [
        (-20, 0),
        (0, 10),
        (0, 20),
        (20, 30),
        (20, 40),
    ]
    for number in range(-5, 9):
        assert grid.number_at(grid.start(number), grid.end(number)) == number
        assert grid.last_by(grid.end(number) + 9) == number
    assert [grid.news(number) for number in (0, 1, 2)] == [0, 10, 20]
