"""Bounds that the language sets: what lies just within is planned, what lies just outside is refused."""

from __future__ import annotations

import pytest
from support.random_queries import SHAPE
from support.routes import catalog, plan_of

from mql.errors import MqlError

CATALOG = catalog(SHAPE, bounded=True, lateness_us=0, unit="s", names=("events", "others"))
LIVE = catalog(SHAPE, bounded=False, lateness_us=0, unit="s", names=("events", "others"))
COUNT = "SELECT count(*) AS n FROM events WINDOW {}"
PAIRS = "SELECT a.n AS n FROM events AS a JOIN others AS b ON a.k = b.k WITHIN {}"
NEWEST = "SELECT a.n AS n FROM events AS a ASOF JOIN others AS b ON a.k = b.k AND {}"
USING = "SELECT a.n AS n FROM events AS a JOIN others AS b USING (k) WITHIN 1s JOIN others AS c USING ({}) WITHIN 1s"
MANY = "SELECT e.n AS n FROM events AS e " + "JOIN others AS o{0} ON e.k = o{0}.k WITHIN 1s "


def joins(count: int) -> str:
    first, rest = MANY.split("JOIN")
    return first + " ".join(f"JOIN{rest}".format(number) for number in range(count))


@pytest.mark.parametrize(
    ("within", "outside", "told"),
    [
        (COUNT.format("1ms"), COUNT.format("999us"), "a window is from 1ms to 400d long"),
        (COUNT.format("TUMBLING 400d"), COUNT.format("TUMBLING 401d"), "a window is from 1ms to 400d long"),
        (COUNT.format("SESSION 400d"), COUNT.format("SESSION 401d"), "a window is from 1ms to 400d long"),
        (COUNT.format("SLIDING 1ms"), COUNT.format("SLIDING 999us"), "a window is from 1ms to 400d long"),
        (COUNT.format("1 EVENTS"), COUNT.format("0 EVENTS"), None),
        (COUNT.format("10000000 EVENTS"), COUNT.format("10000001 EVENTS"), None),
        (COUNT.format("5 EVENTS EVERY 1"), COUNT.format("5 EVENTS EVERY 0"), None),
        (COUNT.format("5 EVENTS EVERY 5"), COUNT.format("5 EVENTS EVERY 6"), None),
        (
            COUNT.format("HOPPING 100000ms EVERY 1ms"),
            COUNT.format("HOPPING 100001ms EVERY 1ms"),
            "each row would lie in 100,001 windows",
        ),
        (
            COUNT.format("TUMBLING 10s FILL 0 FOR 10s"),
            COUNT.format("TUMBLING 10s FILL 0 FOR 9s"),
            "FILL is for too short or too long",
        ),
        (
            COUNT.format("TUMBLING 1s FILL 0 FOR 100000s"),
            COUNT.format("TUMBLING 1s FILL 0 FOR 100001s"),
            "FILL is for too short or too long",
        ),
        (PAIRS.format("366d"), PAIRS.format("31622401s"), "a join's bound is from 0s to 366 days"),
        (PAIRS.format("0s"), PAIRS.format("(-1s, 0s)"), None),
        (NEWEST.format("a.ts >= b.ts"), NEWEST.format("a.ts >= b.ts AND a.ts > b.ts"), "compares the times once"),
        (USING.format("k"), USING.format("n"), '"n" is ambiguous'),
        (joins(16), joins(17), "at most 16 joins can stand in one query"),
    ],
)
def test_a_bound_is_where_it_is_said_to_be(within: str, outside: str, told: str | None) -> None:
    plan_of(within, CATALOG)
    with pytest.raises(MqlError, match=told):
        plan_of(outside, CATALOG)


def test_without_a_bound_rows_of_streams_wait_for_an_hour() -> None:
    text = "SELECT a.n AS n FROM events AS a {}JOIN others AS b ON a.k = b.k"
    for how in ("", "ASOF "):
        (warning,) = plan_of(text.format(how), LIVE).warnings
        assert " 1h " in warning
        assert not plan_of(text.format(how), CATALOG).warnings
