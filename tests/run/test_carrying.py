"""A query that changes goes on with what was kept for the one before: plans compared, and the rows that come of it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.routes import catalog, plan_of, raws, told

from mql.exec.carrying import carried
from mql.exec.drive import Driver
from mql.exec.kernel import Kernel
from mql.exec.state import snapshot_bytes, snapshot_from_bytes
from mql.planner.carrying import carry
from mql.planner.physical import Plan
from mql.schema import BIGINT, DOUBLE, VARCHAR, Field, Shape

KERNEL = Kernel()
SHAPE = Shape((Field("ts", BIGINT), Field("k", VARCHAR), Field("g", VARCHAR), Field("i", BIGINT), Field("f", DOUBLE)))
GROUPED = "SELECT k, count(*) AS n, sum(i) AS s, avg(f) AS a FROM events WINDOW 10s GROUP BY k"
EXACT = "SELECT k, median(i) AS m, count(*) AS n, count(DISTINCT g) AS d FROM events WINDOW 10s GROUP BY k"
SESSIONS = "SELECT k, count(*) AS n, sum(i) AS s FROM events WINDOW SESSION 5s GROUP BY k"
COUNTED = "SELECT k, sum(i) AS s, count(*) AS n FROM events WINDOW 7 EVENTS GROUP BY k"
SERVES = (
    ("the same", GROUPED, GROUPED),
    ("fewer columns", GROUPED, "SELECT k, avg(f) AS a FROM events WINDOW 10s GROUP BY k"),
    ("another order", GROUPED, "SELECT avg(f) AS a, sum(i) AS s, k FROM events WINDOW 10s GROUP BY k"),
    ("of what is kept", GROUPED, "SELECT k, sum(i) / count(*) AS m FROM events WINDOW 10s GROUP BY k"),
    ("HAVING", GROUPED, f"{GROUPED} HAVING n > 2"),
    ("ORDER BY", GROUPED, f"{GROUPED} ORDER BY n DESC, k LIMIT 2 PER WINDOW"),
    ("no ORDER BY", f"{GROUPED} ORDER BY n DESC, k LIMIT 2 PER WINDOW", GROUPED),
    ("bags", EXACT, "SELECT k, count(DISTINCT g) AS d FROM events WINDOW 10s GROUP BY k"),
    ("sessions", SESSIONS, "SELECT sum(i) AS s, k FROM events WINDOW SESSION 5s GROUP BY k HAVING s > 2"),
    ("windows of events", COUNTED, "SELECT k, sum(i) / count(*) AS m FROM events WINDOW 7 EVENTS GROUP BY k"),
    ("rows", "SELECT k, i FROM events", "SELECT i, f AS g FROM events"),
)
OTHERWISE = (
    (GROUPED, GROUPED.replace("WINDOW", "WHERE i > 1 WINDOW"), "WHERE"),
    (GROUPED, GROUPED.replace("FROM events", "FROM events SAMPLE 10%"), "SAMPLE"),
    (GROUPED, f"{GROUPED} LATENESS 9s", "LATENESS: events may be 9 s late, instead of 0 s"),
    ("SELECT k FROM events LIMIT 5", "SELECT k FROM events LIMIT 9", "LIMIT: 9 rows in all, instead of 5"),
    ("SELECT k FROM events WHERE i > 1 LIMIT 5", "SELECT k FROM events WHERE i > 2 LIMIT 5", "WHERE"),
    ("SELECT k FROM events", "SELECT k, i FROM events", "columns: more: i"),
)
REFUSED = (
    (GROUPED, GROUPED.replace("10s", "20s"), "its windows are tumbling of 20 s, and were tumbling of 10 s"),
    (GROUPED, GROUPED.replace("GROUP BY k", "GROUP BY k, i"), "it groups by other keys"),
    (GROUPED, GROUPED.replace("sum(i)", "max(i)"), "it has an aggregate of which nothing was kept so far"),
    (GROUPED, GROUPED.replace("sum(i)", "sum(i) FILTER (WHERE i > 1)"), "nothing was kept"),
    (EXACT, EXACT.replace("median(i)", "median(f)"), "nothing was kept"),
    (GROUPED, SESSIONS, "sessions by other steps than it kept groups in windows"),
    (GROUPED, "SELECT k FROM events", "it keeps nothing by other steps"),
    (GROUPED, f"{GROUPED} EMIT CHANGES", "it tells rows that replace earlier ones, and told rows that stay"),
    (f"{GROUPED} EMIT CHANGES", f"{GROUPED.replace('AS n', 'AS m')} EMIT CHANGES", "these have other columns"),
    ("SELECT k, i FROM events LIMIT 5", "SELECT k, f FROM events LIMIT 5", "computed otherwise before they are kept"),
    (
        "SELECT k, sum(i) OVER (PARTITION BY k ORDER BY event_time() ROWS 2 PRECEDING) AS s FROM events",
        "SELECT k, sum(i) OVER (PARTITION BY k ORDER BY event_time() ROWS 9 PRECEDING) AS s FROM events",
        "window functions would keep something else",
    ),
    (
        "SELECT k, sum(i) OVER (PARTITION BY k ORDER BY event_time() ROWS 2 PRECEDING) AS s FROM events",
        "SELECT k, f, sum(i) OVER (PARTITION BY k ORDER BY event_time() ROWS 2 PRECEDING) AS s FROM events",
        "it reads other properties, and whole events are kept",
    ),
    (
        "SELECT a.i FROM events a JOIN events b ON a.k = b.k WITHIN 5s",
        "SELECT a.i FROM events a JOIN events b ON a.k = b.k WITHIN 9s",
        "the join is another",
    ),
    (
        f"{GROUPED} ANOMALY ON n EMIT ALL",
        f"{GROUPED} ANOMALY ON n WARMUP 5 WINDOWS EMIT ALL",
        "the detector of ANOMALY is another",
    ),
)


def live(text: str) -> Plan:
    return plan_of(text, catalog(SHAPE, bounded=False, lateness_us=0, unit="s"))


def some_rounds(first: int, last: int) -> list[Any]:
    dice = random.Random(first)
    events = []
    for at in range(first, last):
        key, value = dice.choice("abc"), dice.randrange(5)
        events.append((0, at, f'{{"ts": {at // 3}, "k": "{key}", "i": {value}, "f": {value / 2}, "g": "{value}"}}'))
    return [raws(events[at : at + 20]) for at in range(0, len(events), 20)]


@pytest.mark.parametrize(("old", "new"), [pair[1:] for pair in SERVES], ids=[pair[0] for pair in SERVES])
def test_what_was_kept_serves_a_query_that_tells_it_otherwise(old: str, new: str) -> None:
    before, now = live(old), live(new)
    found = carry(before, now)
    assert found.reasons == ()
    assert found.verdict == ("whole" if old == new else "differs")
    rounds = some_rounds(0, 200)
    whole, first = Driver(now, KERNEL, 2), Driver(before, KERNEL, 2)
    for driver in (whole, first):
        driver.expect([0])
        for round in rounds[:5]:
            driver.feed(round)
    told_before = len(whole.out.tables)
    snapshot = carried(snapshot_from_bytes(first.snapshot(1)), found, now)
    second = Driver(now, KERNEL, 3, now_us=first.now_us, restored=snapshot_bytes(snapshot))
    for driver in (whole, second):
        for round in rounds[5:]:
            driver.feed(round)
        driver.finish()
    want, rows = told(now, whole.out.tables[told_before:]), told(now, second.out.tables)
    assert sorted(map(repr, rows)) == sorted(map(repr, want)) != []
    for driver in (whole, first, second):
        driver.close()


@pytest.mark.parametrize(("old", "new", "what"), OTHERWISE)
def test_what_is_otherwise_is_told(old: str, new: str, what: str) -> None:
    found = carry(live(old), live(new))
    assert (found.verdict, found.reasons) == ("differs", ())
    assert any(told.startswith(what) for told in found.differences), found.differences


@pytest.mark.parametrize(("old", "new", "why"), REFUSED)
def test_why_it_does_not_serve_is_told(old: str, new: str, why: str) -> None:
    found = carry(live(old), live(new))
    assert found.verdict == "cannot"
    assert any(why in told for told in found.reasons), found.reasons
