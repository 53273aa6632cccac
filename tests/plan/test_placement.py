"""Which task runs where."""

from __future__ import annotations

from mql.catalog import Catalog, SourceInfo
from mql.planner.compile import compile_query
from mql.planner.physical import Plan
from mql.planner.placement import Placement, place, show_placement
from mql.schema import BIGINT, Field, Shape

CATALOG = Catalog({"s": SourceInfo("s", Shape((Field("k", BIGINT), Field("v", BIGINT))))})


def plan(text: str) -> Plan:
    return compile_query(text, CATALOG)


GROUPED = plan("SELECT k, count(*) AS n FROM s WINDOW TUMBLING 1s GROUP BY k ORDER BY n LIMIT 3")


def test_tasks_that_hand_to_each_other_sit_together() -> None:
    assert place(GROUPED, 2, 4) == Placement(((0, 1), (0, 1), (0,)))


def test_the_worker_with_the_least_load_comes_first() -> None:
    assert place(GROUPED, 2, 3, [5, 0, 2]) == Placement(((1, 2), (1, 2), (1,)))


def test_there_are_no_more_tasks_than_splits_or_workers() -> None:
    assert place(GROUPED, 8, 2).tasks == 5
    assert place(GROUPED, 1, 8).tasks == 3


def test_a_placement_prints() -> None:
    assert show_placement(place(GROUPED, 1, 2, [1, 0])) == "\n".join(
        f"stage {number}: task 0 on worker 1" for number in range(3)
    )
