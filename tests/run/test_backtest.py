"""Backtests, and the thresholds that budgets of alerts ask for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.clock import ManualClock
from mql.exec.engine import Engine
from mql.exec.trials import labels_of
from sources.memory import MemorySource

DAY_S = 86_400
HOURS = 24 * 4
BURSTS = {("a", 60): 90, ("a", 80): 90, ("b", 70): 60, ("c", 90): 45}
"""By key and hour: so many more events; the worst of `a`."""
QUERY = (
    "SELECT k, count(*) AS n FROM live WINDOW 1h GROUP BY k ANOMALY ON n "
    "USING zscore(min_spread => 2) WARMUP 24 WINDOWS REARM AFTER 3 WINDOWS {more} EMIT EPISODES"
)


def events() -> list[dict[str, Any]]:
    """Four days of three keys, about ten events an hour each, and four bursts."""
    draw = random.Random(7)
    found = []
    for hour in range(HOURS):
        for k in "abc":
            many = draw.randint(8, 12) + BURSTS.get((k, hour), 0)
            found += [{"ts": hour * 3600 + at, "k": k} for at in range(many)]
    return sorted(found, key=lambda event: event["ts"])


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    source = MemorySource("live", events(), bounded=False, time=TimeRule(("ts",), "s"))
    made = Engine([source], clock=ManualClock(4 * DAY_S * 1_000_000))
    yield made
    made.close()


def test_a_backtest_tells_alerts_their_delay_and_who_is_worst(engine: Engine) -> None:
    told = engine.backtest(QUERY.format(more=""), since="earliest", until="now")
    assert (told["since"], told["days"]) == ("1970-01-01T00:00:00Z", pytest.approx(4, abs=0.05))
    assert told["alerts"] == 4
    assert [day["alerts"] for day in told["by_day"]] == [0, 0, 2, 2]
    assert told["delay"] == {"median_s": 3600.0, "mean_s": 3600.0, "max_s": 3600.0}
    assert [(one["keys"], one["alerts"]) for one in told["offenders"]] == [
        ({"k": "a"}, 2),
        ({"k": "b"}, 1),
        ({"k": "c"}, 1),
    ]
    assert told["episodes"][0]["since"] == "1970-01-03T12:00:00Z"
    assert told["labels"] is None


@pytest.mark.parametrize("window", ["1h TIMEZONE 'Asia/Kolkata'", "1h FILL 0 FOR 2h"])
def test_a_clock_or_fill_changes_nothing_where_all_is_as_usual(engine: Engine, window: str) -> None:
    told = engine.backtest(QUERY.format(more="").replace("1h GROUP", f"{window} GROUP"), since="earliest", until="now")
    worst = told["offenders"][0]
    assert (worst["keys"], worst["alerts"]) == ({"k": "a"}, 2)


def test_of_several_windows_each_alert_says_which(engine: Engine) -> None:
    text = QUERY.format(more="").replace("WINDOW 1h", "WINDOWS (hour AS TUMBLING 1h, half AS TUMBLING 30m)")
    told = engine.backtest(text, since="earliest", until="now")
    of = {(one["keys"]["k"], one["keys"]["window_name"]): one["alerts"] for one in told["offenders"]}
    assert of[("a", "hour")] == 2
    assert ("a", "half") in of


def test_labels_give_precision_and_recall(engine: Engine) -> None:
    said = [
        {"start": 60 * 3600 + 600, "end": 60 * 3600 + 1200, "k": "a"},
        {"start": "1970-01-03T22:00:00Z", "end": "1970-01-03T23:00:00Z"},
        {"start": 30 * 3600, "end": 31 * 3600},
        {"start": 80 * 3600, "end": 81 * 3600, "k": "c"},
    ]
    told = engine.backtest(QUERY.format(more=""), since="earliest", until="now", labels=labels_of(said))["labels"]
    assert (told["labels"], told["found"], told["right"]) == (4, 2, 2)
    assert (told["precision"], told["recall"]) == (0.5, 0.5)
    assert told["delay"]["max_s"] == 3600.0
    assert [one["keys"] for one in told["missed"]] == [{}, {"k": "c"}]
    with pytest.raises(MqlError, match='labels name "kk", which is no key of the groups'):
        engine.backtest(QUERY.format(more=""), since="earliest", labels=labels_of([{"start": 1, "end": 2, "kk": 1}]))


@pytest.mark.parametrize(
    "said", [{}, {"start": 1}, {"start": "soon", "end": 3}, {"start": 3, "end": 3}, {"start": True, "end": 9}]
)
def test_labels_without_times_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(MqlError) as caught:
        labels_of([said])
    assert caught.value.code == "invalid-labels"


def test_what_can_not_be_tried_is_refused(engine: Engine) -> None:
    with pytest.raises(MqlError, match="no ANOMALY clause"):
        engine.backtest("SELECT count(*) FROM live", since="earliest")
    with pytest.raises(MqlError, match="would never end"):
        engine.backtest(QUERY.format(more=""))
    with pytest.raises(MqlError, match='says "since" itself'):
        engine.backtest(QUERY.format(more="") + " SINCE EARLIEST", since="earliest")


def test_a_budget_raises_the_threshold_until_history_keeps_to_it(engine: Engine) -> None:
    text = QUERY.format(more="ALERT BUDGET 1 PER DAY WARMUP FROM HISTORY 2d")
    plan = engine.plan(text)
    (note,) = plan.warnings
    assert note.startswith("alert budget (at most 1 in 1d): ")
    assert "opens 2 episodes, the method's own 4" in note
    assert note in engine.explain(text)
    within = engine.backtest(QUERY.format(more="ALERT BUDGET 1 PER DAY"), since="earliest", until="now")
    assert within["alerts"] == 4
    one = engine.backtest(QUERY.format(more="ALERT BUDGET 1 PER WEEK"), since="earliest", until="now")
    assert one["alerts"] == 1
    assert one["offenders"][0]["keys"] == {"k": "a"}


def test_a_budget_that_is_kept_anyway_changes_nothing(engine: Engine) -> None:
    text = QUERY.format(more="ALERT BUDGET 100 PER HOUR WARMUP FROM HISTORY 2d")
    assert "1 times the method's threshold (6);" in engine.plan(text).warnings[0]


def test_without_history_the_methods_own_threshold_stands() -> None:
    source = MemorySource("live", [{"ts": 1, "k": "a"}], bounded=False, time=TimeRule(("ts",), "s"))
    engine = Engine([source], clock=ManualClock(400 * DAY_S * 1_000_000))
    try:
        assert "there is no history yet" in engine.plan(QUERY.format(more="ALERT BUDGET 2 PER DAY")).warnings[0]
    finally:
        engine.close()
