"""Each method against a plain reference of its formulas, one value at a time, and what all have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mql.detectors import METHODS, method_named
from mql.exec.detectors import detector
from mql.exec.detectors.auto import Auto
from mql.exec.detectors.counting import Count, Ratio
from mql.exec.detectors.cusum import Cusum
from mql.exec.detectors.des import Des
from mql.exec.detectors.episodes import Rule
from mql.exec.detectors.fdr import cut
from mql.exec.detectors.frame import BLOCK, Columns, Detector, Seen, neighbours
from mql.exec.detectors.peers import Peers
from mql.exec.detectors.robust_zscore import RobustZScore
from mql.exec.detectors.seasonal import Seasonal
from mql.exec.detectors.tails import binomial_tail, count_tail
from mql.exec.detectors.watch import Limits, Rows, Watch
from mql.exec.detectors.zscore import ZScore

VALUES = st.lists(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)), min_size=30, max_size=90)
ALONE: dict[str, Callable[[], Detector]] = {
    "auto": lambda: Auto(warmup=8),
    "zscore": lambda: ZScore(warmup=8, half_life=20),
    "des": lambda: Des(noise=1.0),
    "seasonal": lambda: Seasonal(warmup=8, window_us=3_600_000_000),
    "robust_zscore": lambda: RobustZScore(warmup=8, window=7),
    "cusum": lambda: Cusum(warmup=8),
}


def run(made: Detector, values: list[float]) -> list[float]:
    """The scores of one key's values in order."""
    state = Columns(made.fields)
    state.grow(2)
    return [
        float(made.step(state, Seen(slice(1, 2), np.array([x]), start_us=at * 3_600_000_000)).score[0])
        for at, x in enumerate(values)
    ]


# --- references --------------------------------------------------------------------------------------------


def zscore_by_hand(values: list[float], half_life: float, threshold: float, warmup: int) -> Iterator[float]:
    m = v = 0.0
    a = 1 - 0.5 ** (1 / half_life)
    for n, x in enumerate(values):
        z = (x - m) / max(math.sqrt(v), 1e-12)
        yield abs(z) / threshold if n >= warmup else math.nan
        w = max(a, 1 / (n + 1))
        d = x - m
        m += w * d
        v = (1 - w) * (v + w * d * d)


def auto_by_hand(values: list[float], warmup: int) -> Iterator[float]:
    """Without a profile of the day: z-score, and the likelihood of the residuals of double exponential smoothing."""
    m = v = level = slope = s = mu = w = 0.0
    ring = [0.0] * 10
    a, c0 = 1 - 0.5 ** (1 / 1000), 1 - 0.5 ** (1 / 2000)
    for n, x in enumerate(values):
        warm = n >= warmup
        al = max(a, 1 / (n + 1))
        z = (x - m) / max(math.sqrt(v), 1e-12) if warm else 0.0
        d = x - m
        m += al * d
        v = (1 - al) * (v + al * d * d)
        p = level + slope if n else x
        e = x - p
        r = e / max(1.2533 * s, 1e-12) if warm else 0.0
        ae = max(0.05, 1 / (n + 1))
        level = p + ae * e
        slope += ae * 0.01 * e
        s += al * (abs(e) - s)
        ring[n % 10] = min(abs(r), 1e6)
        u = sum(ring) / 10
        odd = (u - mu) / max(math.sqrt(w), 0.1) if n >= 2 * warmup else 0.0
        c = max(c0, 1 / (n + 1))
        du = u - mu
        mu += c * du
        w = (1 - c) * (w + c * du * du)
        yield max(odd, abs(z) / 2) / 4 if warm else math.nan


def des_by_hand(values: list[float], training: int = 10) -> Iterator[tuple[float, bool]]:
    """The prediction shown for each value and whether both margins (noise 4, 20 %) are crossed, as Atlas does."""
    s = b = math.nan
    for count, x in enumerate(values):
        shown = s if count >= training else math.nan
        fires = (x < shown - 4 and x < shown * 0.8) or (x > shown + 4 and x > shown * 1.2)
        yield shown, fires
        if count == 0:
            s, b = x, 0.0
        else:
            before = s
            s = 0.1 * x + 0.9 * (s + b)
            b = 0.5 * (s - before) + 0.5 * b


def robust_by_hand(values: list[float], window: int, threshold: float, warmup: int) -> Iterator[float]:
    size = 0.0
    last: list[float] = []
    for n, x in enumerate(values):
        median = float(np.median(last)) if last else 0.0
        mad = float(np.median(np.abs(np.array(last) - median))) if last else 0.0
        spread = max(1.4826 * mad, 1.2533 * size, 1e-12)
        yield abs(x - median) / spread / threshold if n >= warmup else math.nan
        if n:
            size += max(1 - 0.5 ** (1 / 1000), 1 / n) * (abs(x - median) - size)
        last = [*last, x][-window:]


@given(VALUES)
@settings(max_examples=40, deadline=None)
def test_zscore_is_its_formula(values: list[float]) -> None:
    made = ZScore(half_life=20, threshold=6, warmup=8)
    np.testing.assert_allclose(run(made, values), list(zscore_by_hand(values, 20, 6, 8)), rtol=1e-9)


@given(VALUES)
@settings(max_examples=40, deadline=None)
def test_auto_is_its_formula(values: list[float]) -> None:
    found = run(Auto(warmup=8, slots=0), values)
    np.testing.assert_allclose(found, list(auto_by_hand(values, 8)), rtol=1e-7, atol=1e-9)


@given(VALUES.map(lambda values: [abs(x) for x in values]))
@settings(max_examples=40, deadline=None)
def test_des_predicts_and_fires_as_atlas_does(values: list[float]) -> None:
    made = Des(noise=4.0)
    state = Columns(made.fields)
    state.grow(2)
    for x, (shown, fires) in zip(values, des_by_hand(values), strict=True):
        scored = made.step(state, Seen(slice(1, 2), np.array([x])))
        if math.isnan(shown):
            assert math.isnan(scored.score[0])
        else:
            assert scored.expected[0] == pytest.approx(shown, rel=1e-12)
            assert (scored.score[0] >= 1) == fires


def test_des_on_a_vector_worked_out_by_hand() -> None:
    """Atlas' rule, step by step: s' = .1 x + .9 (s + b), b' = .5 (s' - s) + .5 b; what is shown is the s before."""
    watch = Watch(Des(training=2, noise=4.0, warmup=2), limits=Limits(fill=False))
    vector = [
        (10.0, None, False),  # s = 10, b = 0
        (20.0, None, False),  # s = 2 + 9 = 11, b = .5
        (11.0, 11.0, False),  # s = 1.1 + 10.35 = 11.45, b = .225 + .25 = .475
        (math.nan, None, False),  # nothing changes
        (14.0, 11.45, False),  # 14 > 11.45 * 1.2, and yet not above 11.45 + 4; s = 1.4 + 10.7325 = 12.1325
        (18.0, 12.1325, True),  # b = .34125 + .2375 = .57875; s = 1.8 + 11.440125 = 13.240125
        (9.0, 13.240125, True),  # below 13.24 - 4 and below 13.24 * .8
    ]
    for at, (x, shown, fires) in enumerate(vector):
        told = watch.step(Rows(at, at, ["a"], np.array([x])))
        assert told is not None
        if shown is None:
            assert math.isnan(told.score[0])
        else:
            assert told.expected[0] == pytest.approx(shown, rel=1e-12)
            assert (told.score[0] >= 1) == fires


@given(st.lists(st.integers(-1000, 1000).map(float), min_size=30, max_size=60))
@settings(max_examples=30, deadline=None)
def test_robust_zscore_is_its_formula(values: list[float]) -> None:
    made = RobustZScore(window=7, threshold=8, warmup=8)
    np.testing.assert_allclose(run(made, values), list(robust_by_hand(values, 7, 8, 8)), rtol=1e-9)


def test_a_missing_value_changes_nothing() -> None:
    for make in ALONE.values():
        plain, gapped = Watch(make(), limits=Limits(fill=False)), Watch(make(), limits=Limits(fill=False))
        for at, x in enumerate([3.0, 4.0, 5.0, 4.0, 3.0, 9.0] * 4):
            one = plain.step(Rows(2 * at, at, ["a"], np.array([x])))
            gapped.step(Rows(2 * at - 1, at, ["a"], np.array([math.nan])))
            other = gapped.step(Rows(2 * at, at, ["a"], np.array([x])))
            assert one is not None
            assert other is not None
            np.testing.assert_array_equal(one.score, other.score)


# --- what all have in common -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALONE)
def test_many_keys_together_are_as_each_alone(name: str) -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(100, 10, (40, 9)).round(2)
    made = ALONE[name]()
    state = Columns(made.fields)
    state.grow(10)
    together = []
    for at, x in enumerate(values):
        there = np.flatnonzero(rng.random(9) < 2)
        score = made.step(state, Seen(neighbours(there + 1), x[there], start_us=at * 3_600_000_000)).score
        together.append(score)
    alone = np.array([run(made, list(values[:, key])) for key in range(9)]).T
    np.testing.assert_array_equal(np.array(together), alone)


@pytest.mark.parametrize("name", ALONE)
def test_more_keys_than_a_block_are_as_few(name: str) -> None:
    rng = np.random.default_rng(6)
    keys = BLOCK + 7
    made = ALONE[name]()
    many, few = Columns(made.fields), Columns(made.fields)
    many.grow(keys + 1)
    few.grow(keys + 1)
    for at in range(12):
        x = rng.poisson(20, keys).astype(float)
        some = np.array([1, 5, BLOCK, BLOCK + 1, keys])
        whole = made.step(many, Seen(slice(1, keys + 1), x, start_us=at))
        part = made.step(few, Seen(some, x[some - 1], start_us=at))
        np.testing.assert_array_equal(whole.score[some - 1], part.score)
        assert whole.reason(keys - 1) == part.reason(4)


@pytest.mark.parametrize("name", ["auto", "zscore", "robust_zscore", "cusum"])
def test_the_unit_does_not_matter(name: str) -> None:
    rng = np.random.default_rng(8)
    values = list(rng.normal(50, 5, 60).round(3))
    np.testing.assert_array_equal(run(ALONE[name](), values), run(ALONE[name](), [x * 1024 for x in values]))


@pytest.mark.parametrize("method", [method.name for method in METHODS if method.takes == "value"])
def test_the_shipped_method_stays_silent_on_a_constant_and_speaks_of_its_first_change(method: str) -> None:
    row = method_named(method)
    assert row is not None
    given = {parameter.name: parameter.default for parameter in row.parameters} | {"slots": 48}
    made = detector(method, given, row.warmup, 10_000_000, "both")
    scores = run(made, [42.0] * 300 + [42.1] + [42.0] * 5)
    assert not any(score >= 1 for score in scores)
    assert any(score >= 1 for score in run(made, [42.0] * 300 + [84.0] * 5))


# --- counts ------------------------------------------------------------------------------------------------


def by_counting(k: int, n: int, p: float) -> float:
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@given(st.integers(1, 60), st.floats(0.001, 0.9), st.data())
@settings(max_examples=60, deadline=None)
def test_the_binomial_tail_is_the_sum_of_its_terms(n: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    up = binomial_tail(np.array([float(k)]), np.array([float(n)]), np.array([p]), np.array([True]))[0]
    assert up == pytest.approx(by_counting(k, n, p), rel=1e-6, abs=1e-12)
    down = binomial_tail(np.array([float(k)]), np.array([float(n)]), np.array([p]), np.array([False]))[0]
    assert down == pytest.approx(1 - by_counting(k + 1, n, p), rel=1e-6, abs=1e-9)


@given(st.integers(0, 50), st.floats(0.1, 40))
@settings(max_examples=60, deadline=None)
def test_the_tail_of_a_count_is_negative_binomial(k: int, mean: float) -> None:
    phi = 100

    def chance(i: int) -> float:
        log = math.lgamma(i + phi) - math.lgamma(phi) - math.lgamma(i + 1)
        return math.exp(log + phi * math.log(phi / (phi + mean)) + i * math.log(mean / (phi + mean)))

    up = count_tail(np.array([float(k)]), np.array([mean]), np.array([True]), phi)[0]
    assert up == pytest.approx(1 - sum(chance(i) for i in range(k)), rel=1e-6, abs=1e-9)
    down = count_tail(np.array([float(k)]), np.array([mean]), np.array([False]), phi)[0]
    assert down == pytest.approx(sum(chance(i) for i in range(k + 1)), rel=1e-6, abs=1e-9)


def cut_by_hand(p: list[float], share: float) -> float:
    ordered = sorted(p)
    rank = max((i + 1 for i, x in enumerate(ordered) if x <= share * (i + 1) / len(p)), default=1)
    return share * rank / len(p)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0.001, 0.5))
@settings(max_examples=100, deadline=None)
def test_the_cut_is_benjamini_and_hochbergs(p: list[float], share: float) -> None:
    assert cut(np.array(p), share) == pytest.approx(cut_by_hand(p, share))


def steady(watch: Watch, windows: int, k: list[float], n: list[float]) -> int:
    names = [f"{i:03d}" for i in range(len(k))]
    for at in range(windows):
        watch.step(Rows(at, 0, names, np.array(k), np.array(n)))
    return windows


def test_one_of_three_means_nothing_and_thirty_of_a_hundred_do() -> None:
    watch = Watch(Ratio(), limits=Limits(fill=False))
    at = steady(watch, 40, [0.0, 2.0], [3.0, 100.0])
    told = watch.step(Rows(at, 0, ["000", "001"], np.array([1.0, 30.0]), np.array([3.0, 100.0])))
    assert told is not None
    assert told.hit.tolist() == [False, True]
    assert told.reason(1).startswith("30 of 100 (30 %)")


def test_three_windows_together_show_what_one_does_not() -> None:
    watch = Watch(Ratio(), limits=Limits(fill=False))
    names = [f"{i:03d}" for i in range(400)]
    n = np.full(400, 8.0)
    for at in range(40):
        k = np.zeros(400)
        k[at % 400] = 1.0
        watch.step(Rows(at, 0, names, k, n))
    bad = np.r_[3.0, np.zeros(399)]
    first = watch.step(Rows(40, 0, names, bad, n))
    watch.step(Rows(41, 0, names, bad, n))
    third = watch.step(Rows(42, 0, names, bad, n))
    assert first is not None
    assert third is not None
    assert not first.hit[0]
    assert third.hit[0]
    assert "in 3 windows" in third.reason(0)


def test_a_count_that_falls_to_nothing_is_told_as_down() -> None:
    watch = Watch(Count())
    at = steady_counts(watch, 40, 60.0)
    told = watch.step(Rows(at, 0, [], np.empty(0)))
    assert told is not None
    assert told.hit.all()
    assert told.way.tolist() == [-1]


def steady_counts(watch: Watch, windows: int, value: float) -> int:
    for at in range(windows):
        watch.step(Rows(at, 0, ["a"], np.array([value])))
    return windows


# --- peers, seasons ----------------------------------------------------------------------------------------


def test_peers_are_compared_within_their_group_only() -> None:
    x = np.array([10.0, 11, 10, 12, 90, 900, 910, 905, 890, 900])
    group = np.array([0] * 5 + [1] * 5)
    made = Peers()
    scored = made.step(Columns(made.fields), Seen(slice(1, 11), x, None, group))
    assert (scored.score >= 1).tolist() == [False] * 4 + [True] + [False] * 5
    few = made.step(Columns(made.fields), Seen(slice(1, 4), x[:3], None, group[:3]))
    assert np.isnan(few.score).all()


def test_slots_go_by_the_clock_on_the_wall() -> None:
    made = Seasonal(timezone="America/New_York", slots=24)
    hour = 3_600_000_000
    before, after = 1_772_928_000_000_000, 1_773_014_400_000_000  # midnights UTC around the change of 2026-03-08
    assert made.profile.slot_of(before + 6 * hour) == 1
    assert made.profile.slot_of(after + 6 * hour) == 2


def test_a_rhythm_is_expected_after_it_was_seen_twice() -> None:
    made = Seasonal(period_us=10, slots=10, window_us=1, warmup=20)
    state = Columns(made.fields)
    state.grow(2)
    wave = [10.0 * (at % 10) for at in range(120)]
    errors = []
    for at, x in enumerate(wave):
        scored = made.step(state, Seen(slice(1, 2), np.array([x]), start_us=at))
        errors.append(abs(float(scored.expected[0]) - x))
    assert np.mean(errors[60:]) < 0.25 * np.mean(errors[:20])


def test_auto_knows_the_rhythm_of_the_day_and_sees_a_morning_that_does_not_come() -> None:
    """Windows of ten minutes; on the sixth day the night goes on."""
    rng = np.random.default_rng(9)
    made = Auto(window_us=600_000_000)
    state = Columns(made.fields)
    state.grow(2)
    scores = []
    for at in range(6 * 144):
        hour = at % 144 / 6
        busy = 300 + (700 if 6 <= hour < 22 and at < 5 * 144 else 0)
        seen = Seen(slice(1, 2), rng.poisson(busy, 1).astype(float), start_us=at * 600_000_000)
        scores.append(float(made.step(state, seen).score[0]))
    assert max(scores[3 * 144 : 5 * 144]) < 1
    first = next(at for at in range(5 * 144, 6 * 144) if scores[at] >= 1)
    assert 36 <= first - 5 * 144 < 36 + 12


# --- noise -------------------------------------------------------------------------------------------------

FLAGS_MAX = {"auto": 400, "zscore": 20, "cusum": 400, "count": 200}


@pytest.mark.parametrize("name", FLAGS_MAX)
def test_pure_noise_is_told_so_seldom(name: str) -> None:
    row = method_named(name)
    assert row is not None
    made = detector(name, {p.name: p.default for p in row.parameters}, row.warmup, 10_000_000, row.direction)
    rng = np.random.default_rng(11)
    watch = Watch(made, Rule(), Limits(fill=False))
    names = [f"{key:04d}" for key in range(500)]
    flags = 0
    for at in range(700):
        told = watch.step(Rows(at, at, names, rng.poisson(100, 500).astype(float)))
        assert told is not None
        if at >= 300:
            flags += int(told.hit.sum())
    assert flags / (500 * 400 / 1e6) <= FLAGS_MAX[name]
