"""EMIT … WITH REVISIONS: what is told, and in which order."""

from __future__ import annotations

from support.random_queries import SHAPE
from support.routes import catalog, plan_of, raws

from mql.exec.drive import Driver
from mql.exec.kernel import Kernel


def test_a_window_is_told_once_then_only_when_a_late_row_changes_it() -> None:
    text = "SELECT k, count(*) AS n FROM events WINDOW 10 GROUP BY k EMIT FINAL WITH REVISIONS"
    plan = plan_of(text, catalog(SHAPE, bounded=False, lateness_us=0, unit="s"))
    driver = Driver(plan, Kernel())
    driver.expect([0])
    told = []
    # ts     1  2  13      5        14       3601    6 (an hour after the window closed: late)
    for at, (ts, k) in enumerate([(1, "a"), (2, "b"), (13, "a"), (5, "a"), (14, "a"), (3611, "a"), (6, "a")]):
        driver.feed(raws([(0, at, f'{{"ts": {ts}, "k": "{k}"}}')]))
        rows = [row for table in driver.out.tables for row in table.to_pylist()]
        told.append(sorted((row["k"], row["n"], row["_op"], row["_revision"]) for row in rows[sum(map(len, told)) :]))
    assert told == [
        [],
        [],
        [("a", 1, "insert", 0), ("b", 1, "insert", 0)],
        [("a", 2, "update", 1)],
        [],
        [("a", 2, "insert", 0)],
        [],
    ]
    assert driver.finish().late == 1
