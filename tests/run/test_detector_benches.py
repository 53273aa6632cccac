"""The benches of detectors are right in small: how NAB is scored, and what the ratio method finds among many keys."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"


def bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_nab_gives_100_for_the_first_row_of_each_window_and_0_for_silence() -> None:
    nab = bench("nab")
    one = nab.Series("one", (), np.zeros(1000), 150, ((400, 449), (800, 899)), 0, 300)
    standard = nab.PROFILES[0]
    silent, perfect = np.zeros(1000), np.zeros(1000)
    perfect[[400, 800]] = 2.0
    assert nab.normalised([one], nab.score_at([one], [silent], standard, 1.0), standard) == 0
    assert nab.normalised([one], nab.score_at([one], [perfect], standard, 1.0), standard) == pytest.approx(100)
    assert nab.best([one], [perfect], standard) == (pytest.approx(100), 2.0)


def test_nab_takes_the_earliest_hit_and_charges_for_false_alarms() -> None:
    nab = bench("nab")
    one = nab.Series("one", (), np.zeros(1000), 150, ((400, 499),), 0, 300)
    standard = nab.PROFILES[0]

    def score(*rows: int) -> float:
        s = np.zeros(1000)
        s[list(rows)] = 1.0
        return float(nab.score_at([one], [s], standard, 1.0))

    assert score(420, 480) == pytest.approx(score(420))
    assert score(400) > score(450) > score(499) > 0
    assert score(400, 200) == pytest.approx(score(400) - 0.11)
    assert score(400, 100) == pytest.approx(score(400))
    assert score(400, 500) > score(400, 700)


def test_most_visible_incidents_are_found_and_next_to_nothing_else_is_told() -> None:
    anomaly = bench("anomaly")
    traffic = anomaly.Traffic(keys=4000, windows=100, history=40, broken=100)
    outcome = anomaly.simulate(traffic, anomaly.ratio_watch())
    assert outcome.visible >= 15
    assert outcome.found >= 0.86 * outcome.visible
    assert outcome.false_alarms <= 2


def test_an_incident_is_explained_by_its_own_sub_group_first() -> None:
    anomaly = bench("anomaly")
    assert [anomaly.explained(seed) for seed in range(20)].count("first") >= 19
