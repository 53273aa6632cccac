"""Sessions as a stream: when they are told, and how their panes are put together."""

from __future__ import annotations

import random

import pytest
from support.random_queries import SHAPE, normal
from support.routes import batched, catalog, plan_of, raws, streamed

from mql.exec.drive import Driver
from mql.exec.kernel import Kernel
from mql.exec.operators.sessions import SessionsOperator

KERNEL = Kernel()


def told_after(text: str, times: list[float]) -> list[list[int]]:
    """How many events each session had that was told after each event; no lateness."""
    driver = Driver(plan_of(text, catalog(SHAPE, bounded=False, lateness_us=0, unit="s")), KERNEL)
    driver.expect([0])
    found: list[list[int]] = []
    for at, time in enumerate(times):
        driver.feed(raws([(0, at, f'{{"ts": {time}, "ok": {str(time == 3).lower()}}}')]))
        rows = [row["n"] for table in driver.out.tables for row in table.to_pylist()]
        found.append(rows[sum(map(len, found)) :])
    driver.close()
    return found


def test_a_session_is_told_when_no_event_in_time_can_join_it() -> None:
    # gap 5: an event at 6.5 is in time up to 11.5, and would join what ends with 1.6
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 5s"
    assert told_after(text, [1, 1.5, 11.4, 11.5, 20]) == [[], [], [], [2], []]


def test_a_session_that_an_event_ends_is_told_a_gap_later() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 5s END WHEN ok"
    assert told_after(text, [1, 3, 7, 8, 9]) == [[], [], [], [2], []]


def test_a_session_that_lasts_its_maximum_is_told_a_gap_later() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 5s MAX 6s"
    assert told_after(text, [1, 4, 6, 8, 11, 12]) == [[], [], [], [], [], [3]]


def test_a_session_with_a_maximum_is_told_when_no_event_in_time_can_join_it() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 5s MAX 60s"
    assert told_after(text, [1, 1.5, 11, 11.5, 20]) == [[], [], [], [2], []]


@pytest.mark.parametrize("seed", range(6))
def test_short_sessions_are_folded_into_the_ones_they_meet(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionsOperator, "FOLD_ROWS", 4)
    rng = random.Random(seed)
    events = [
        (0, at, f'{{"ts": {max(0, at - rng.randint(0, 30))}, "k": "{rng.choice("abc")}", "n": {rng.randint(0, 5)}}}')
        for at in range(150)
    ]
    rng.shuffle(events)
    rounds = [raws(sorted(events[at : at + 5], key=lambda event: event[1])) for at in range(0, 150, 5)]
    text = "SELECT k, count(*) AS n, sum(n) AS s, median(n) AS m, list(n) AS l FROM events WINDOW SESSION 3s GROUP BY k"
    plan = plan_of(text, catalog(SHAPE, bounded=True, lateness_us=0, unit="s"))
    want = normal(batched(plan, rounds, KERNEL))
    assert len(want) > 5
    assert normal(streamed(plan, rounds, KERNEL, 2)) == want
    assert normal(streamed(plan, rounds, KERNEL, 2, restart_every=4)) == want


def told_early(text: str, times: list[float], lateness_s: int = 2) -> list[list[tuple[object, ...]]]:
    """What was told after each event, a second apart, and at the end: when it begins and ends, how many events, what
    it does, the how manieth time, and whether it is final."""
    driver = Driver(plan_of(text, catalog(SHAPE, bounded=False, lateness_us=lateness_s * 1_000_000, unit="s")), KERNEL)
    driver.expect([0])
    found: list[list[tuple[object, ...]]] = []

    def look() -> None:
        rows = [row for table in driver.out.tables for row in table.to_pylist()][sum(map(len, found)) :]
        shown = ("n", "_op", "_revision", "final")
        found.append(
            [(row["__ws"] // 1_000_000, row["__we"] // 1_000_000, *(row[name] for name in shown)) for row in rows]
        )

    for at, time in enumerate(times):
        driver.feed(raws([(0, at, f'{{"ts": {time}}}')]))
        look()
    driver.finish()
    look()
    driver.close()
    return found


def test_an_open_session_is_told_again_as_it_grows_and_taken_back_when_it_meets_an_earlier_one() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 3s EMIT FINAL WITH EARLY 1s"
    assert told_early(text, [10, 15, 14, 12, 30]) == [
        [(10, 13, 1, "insert", 0, False)],
        [(15, 18, 1, "insert", 0, False)],
        [(14, 18, 2, "insert", 0, False), (15, 18, 1, "delete", 1, False)],
        [(10, 18, 4, "update", 1, False), (14, 18, 2, "delete", 1, False)],
        [(10, 18, 4, "update", 2, True), (30, 33, 1, "insert", 0, False)],
        [(30, 33, 1, "update", 1, True)],
    ]


def test_what_having_no_longer_lets_pass_at_the_end_is_taken_back() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 3s HAVING count(*) < 2 EMIT CHANGES"
    assert told_early(text, [10, 11, 30, 31])[:3] == [
        [(10, 13, 1, "insert", 0, False)],
        [(10, 13, 1, "delete", 1, False)],
        [(30, 33, 1, "insert", 0, False)],
    ]


def test_open_windows_of_events_and_sliding_ones_are_told_before_rows_have_their_places() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW 2 EVENTS EMIT EVERY 1s"
    assert told_early(text, [10, 12, 11]) == [
        [(10, 10, 1, "insert", 0, False)],
        [(10, 12, 2, "update", 1, False)],
        [(10, 11, 2, "update", 2, False), (12, 12, 1, "insert", 0, False)],
        [(10, 11, 2, "update", 3, True), (12, 12, 1, "update", 1, True)],
    ]
    text = "SELECT count(*) AS n FROM events WINDOW SLIDING 5s EMIT CHANGES"
    assert told_early(text, [10, 12, 11])[:3] == [
        [(5, 10, 1, "insert", 0, False)],
        [(7, 12, 2, "insert", 0, False)],
        [(6, 11, 2, "insert", 0, False), (7, 12, 3, "update", 1, False)],
    ]


def test_a_late_row_changes_sessions_that_were_told_and_puts_them_together() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 3s EMIT FINAL WITH REVISIONS"
    assert told_early(text, [10, 15, 40, 12.5, 41, 41.05, 42]) == [
        [],
        [],
        [(10, 13, 1, "insert", 0, True), (15, 18, 1, "insert", 0, True)],
        [],
        [(10, 18, 3, "update", 1, True), (15, 18, 1, "delete", 1, True)],
        [],
        [],
        [(40, 45, 4, "insert", 0, True)],
    ]


def test_a_session_that_a_late_row_opens_again_stays_as_it_was_told_until_it_is_over() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 10s EMIT FINAL WITH REVISIONS"
    assert told_early(text, [10, 32, 19, 33, 41], lateness_s=0) == [
        [],
        [(10, 20, 1, "insert", 0, True)],
        [],
        [],
        [(10, 29, 2, "update", 1, True)],
        [(32, 51, 3, "insert", 0, True)],
    ]


def test_with_early_values_a_session_that_is_open_again_is_told_as_not_final() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 10s EMIT FINAL WITH EARLY 1s WITH REVISIONS"
    assert told_early(text, [10, 32, 19, 41], lateness_s=0) == [
        [(10, 20, 1, "insert", 0, False)],
        [(10, 20, 1, "update", 1, True), (32, 42, 1, "insert", 0, False)],
        [(10, 29, 2, "update", 2, False)],
        [(10, 29, 2, "update", 3, True), (32, 51, 2, "update", 1, False)],
        [(32, 51, 2, "update", 2, True)],
    ]


def test_every_so_often_open_sessions_are_told_and_not_those_that_are_over() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 3s EMIT EVERY 1s WITH REVISIONS"
    assert told_early(text, [10, 32, 32], lateness_s=0)[1:] == [
        [(10, 13, 1, "update", 1, True), (32, 35, 1, "insert", 0, False)],
        [(32, 35, 2, "update", 1, False)],
        [(32, 35, 2, "update", 2, True)],
    ]


def test_sessions_are_settled_after_the_time_that_revisions_are_made_for() -> None:
    text = (
        "SELECT k, count(*) AS n FROM events WINDOW SESSION 3s GROUP BY k EMIT FINAL WITH REVISIONS "
        "SETTINGS revisions_for = '10s'"
    )
    plan = plan_of(text, catalog(SHAPE, bounded=False, lateness_us=0, unit="s"))
    driver = Driver(plan, KERNEL)
    driver.expect([0])
    for at, time in enumerate([10, 15.9, 25.8, 12.9, 26, 12.9, 60]):
        driver.feed(raws([(0, at, f'{{"ts": {time}, "k": "a"}}')]))
    rows = [row for table in driver.out.tables for row in table.to_pylist()]
    assert [(row["n"], row["_op"]) for row in rows] == [(1, "insert"), (1, "insert"), (2, "update"), (2, "insert")]
    assert driver.finish().late == 1
    driver.close()


def test_windows_of_events_and_sliding_ones_are_revised() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW 2 EVENTS EMIT FINAL WITH REVISIONS"
    assert told_early(text, [10, 12, 20, 11, 30], lateness_s=0) == [
        [],
        [],
        [(10, 12, 2, "insert", 0, True)],
        [],
        [(10, 11, 2, "update", 1, True), (12, 20, 2, "insert", 0, True)],
        [(30, 30, 1, "insert", 0, True)],
    ]
    text = "SELECT count(*) AS n FROM events WINDOW SLIDING 5s EMIT FINAL WITH REVISIONS"
    assert told_early(text, [10, 12, 20, 11, 30], lateness_s=0) == [
        [],
        [(5, 10, 1, "insert", 0, True)],
        [(7, 12, 2, "insert", 0, True)],
        [],
        [(6, 11, 2, "insert", 0, True), (7, 12, 3, "update", 1, True), (15, 20, 1, "insert", 0, True)],
        [(25, 30, 1, "insert", 0, True)],
    ]


def test_a_session_that_comes_back_after_it_was_taken_back_goes_on_with_its_revisions() -> None:
    for emit in ("EMIT CHANGES", "EMIT FINAL WITH EARLY 1s WITH REVISIONS"):
        text = f"SELECT count(*) AS n FROM events WINDOW SESSION 5s MAX 4s {emit}"
        told = told_early(text, [10, 13, 8, 5.5], lateness_s=100)
        assert [sorted(rows) for rows in told[1:4]] == [
            [(10, 14, 2, "update", 1, False)],
            [(8, 12, 2, "insert", 0, False), (10, 14, 2, "delete", 2, False), (13, 17, 1, "insert", 0, False)],
            [
                (5, 9, 2, "insert", 0, False),
                (8, 12, 2, "delete", 1, False),
                (10, 14, 2, "insert", 3, False),
                (13, 17, 1, "delete", 1, False),
            ],
        ]


def test_what_was_not_told_when_a_snapshot_was_taken_is_told_after_it() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 9s EMIT CHANGES EVERY 5s"
    assert told_around_a_restart(text, [1, 2, 3, 4], 6) == [(1, "insert", False), (4, "update", False)]


def test_what_was_told_as_final_stays_so_after_a_restart() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW SESSION 9s EMIT FINAL WITH EARLY 1s WITH REVISIONS"
    assert told_around_a_restart(text, [1, 50], 3) == [
        (1, "insert", False),
        (1, "update", True),
        (1, "insert", False),
    ]


def told_around_a_restart(text: str, times: list[float], seconds: int) -> list[tuple[object, ...]]:
    """What is told of these events, of a snapshot behind them, and for so long after it."""
    plan = plan_of(text, catalog(SHAPE, bounded=False, lateness_us=0, unit="s"))
    driver = Driver(plan, KERNEL)
    driver.expect([0])
    for at, time in enumerate(times):
        driver.feed(raws([(0, at, f'{{"ts": {time}}}')]))
    again = Driver(plan, KERNEL, now_us=driver.now_us, restored=driver.snapshot(1))
    for _ in range(seconds):
        again.feed([], watermarks=False)
    rows = [row for one in (driver, again) for table in one.out.tables for row in table.to_pylist()]
    driver.close()
    again.close()
    return [(row["n"], row["_op"], row["final"]) for row in rows]


def test_windows_of_events_are_told_again_when_they_change_and_else_not() -> None:
    text = "SELECT count(*) AS n FROM events WINDOW 3 EVENTS EMIT CHANGES"
    assert told_around_a_restart(text, [1, 2], 2) == [(1, "insert", False), (2, "update", False)]
