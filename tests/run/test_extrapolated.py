"""EXTRAPOLATE is honest: its bounds hold what all rows would have given, about as often as they say."""

from __future__ import annotations

import random

import pytest

import mql

EVENTS = 20_000
WINDOW = 200


def stream(seed: int) -> list[dict[str, object]]:
    """So many events a window, with values of which a few are large, of users of whom some are busy. Windows have
    users of their own, so that each is a draw of its own."""
    rng = random.Random(seed)
    return [
        {"ts": at, "n": round(rng.expovariate(1 / 50)), "user": f"{at // WINDOW} {int(rng.expovariate(1 / 25))}"}
        for at in range(EVENTS)
    ]


@pytest.mark.parametrize("sample", ["10%", "50%", "10% BY user", "40% BY user"])
def test_the_bounds_hold_the_truth(sample: str) -> None:
    events = stream(7)
    truth = sums(events)
    query = f"SELECT count(*) AS c, sum(n) AS s FROM events SAMPLE {sample} EXTRAPOLATE WINDOW {WINDOW}s"
    rows = list(mql.run(query, events, time="ts"))
    held = {"c": 0, "s": 0}
    for row in rows:
        at = int(row["window_start"].timestamp()) // WINDOW
        held["c"] += row["c_low"] <= WINDOW <= row["c_high"]
        held["s"] += row["s_low"] <= truth[at] <= row["s_high"]
    assert held["c"] >= 0.9 * len(rows)
    assert held["s"] >= 0.9 * len(rows)


def test_the_bounds_of_a_rate_hold_the_truth() -> None:
    events = [{**event, "ts": at / 10, "even": int(str(event["n"])) % 2 == 0} for at, event in enumerate(stream(7))]
    asked = "even, count(*) AS c, sum(n) AS s, rate(n) AS r FROM events SAMPLE 3 PER SECOND EXTRAPOLATE"
    query = f"SELECT {asked} WINDOW {WINDOW // 10}s GROUP BY even"
    rows = list(mql.run(query, events, time="ts"))
    truth: dict[tuple[int, object], list[int]] = {}
    for at, event in enumerate(events):
        truth.setdefault((at // WINDOW, event["even"]), []).append(int(str(event["n"])))
    held = {"c": 0, "s": 0}
    for row in rows:
        values = truth[int(row["window_start"].timestamp()) * 10 // WINDOW, row["even"]]
        held["c"] += row["c_low"] <= len(values) <= row["c_high"]
        held["s"] += row["s_low"] <= sum(values) <= row["s_high"]
        assert row["r"] == pytest.approx(row["s"] / 20, abs=0.1)
    assert min(held.values()) >= 0.9 * len(rows)
    assert sum(row["c"] for row in rows) == pytest.approx(EVENTS, rel=0.01)


def test_the_estimates_are_right_on_average() -> None:
    events = stream(11)
    query = f"SELECT count(*) AS c, sum(n) AS s FROM events SAMPLE 10% EXTRAPOLATE WINDOW {WINDOW}s"
    rows = list(mql.run(query, events, time="ts"))
    assert sum(row["c"] for row in rows) == pytest.approx(EVENTS, rel=0.05)
    assert sum(row["s"] for row in rows) == pytest.approx(sum(sums(events)), rel=0.07)


def sums(events: list[dict[str, object]]) -> list[int]:
    found = [0] * (EVENTS // WINDOW)
    for at, event in enumerate(events):
        found[at // WINDOW] += int(str(event["n"]))
    return found
