"""How often detectors alarm on nothing, what the ratio method finds among 50,000 keys, and how fast all of it is.

    python bench/anomaly.py noise|ratio|explain|speed [--keys N] [--gate]

`noise`: flags per million windows of pure noise, per law and method. `ratio`: an hour of requests of many keys, some of
which break (seed 7): false alarms, and how many of the incidents that a person could have seen are found. `explain`:
how often an incident's sub-group is the first that EXPLAIN BY tells. `speed`: milliseconds for one window of all keys.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.exec.detectors.auto import Auto
from mql.exec.detectors.contributors import Deviation, Usual
from mql.exec.detectors.counting import Count, Ratio
from mql.exec.detectors.cusum import Cusum
from mql.exec.detectors.des import Des
from mql.exec.detectors.episodes import OPENED, Rule
from mql.exec.detectors.frame import Columns, Detector, Seen, neighbours
from mql.exec.detectors.peers import Peers
from mql.exec.detectors.robust_zscore import RobustZScore
from mql.exec.detectors.seasonal import Seasonal
from mql.exec.detectors.watch import Limits, Rows, Watch
from mql.exec.detectors.zscore import ZScore

Floats = npt.NDArray[np.float64]
SEED = 7
FALSE_MAX, FOUND_MIN = 20, 95 / 110
SPEED_MAX_MS = {"auto": 10.0, "ratio": 150.0, "robust_zscore": 150.0}


# --- noise -----------------------------------------------------------------------------------------------

LAWS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, n: rng.normal(100, 10, n),
    "Poisson(3)": lambda rng, n: rng.poisson(3, n).astype(float),
    "Poisson(100)": lambda rng, n: rng.poisson(100, n).astype(float),
    "lognormal σ=.5": lambda rng, n: rng.lognormal(3, 0.5, n),
    "Student t3": lambda rng, n: 100 + rng.standard_t(3, n),
    "AR(1) .9": lambda rng, n: rng.normal(0, 1, n),
}
METHODS: dict[str, Callable[[], Detector]] = {
    "auto": lambda: Auto(window_us=300_000_000),
    "zscore": ZScore,
    "des": Des,
    "seasonal": lambda: Seasonal(window_us=300_000_000),
    "robust_zscore": RobustZScore,
    "cusum": Cusum,
    "count": Count,
    "ratio": Ratio,
    "peers": Peers,
}
RULES = {"peers": Rule(14, 20)}
"""Methods whose episodes need several windows where nothing else is said."""
SIBLINGS = 20
OF = 10_000.0
"""What the laws' numbers are a ratio of."""


def noise(keys: int = 1000, windows: int = 2500, burn_in: int = 500) -> dict[str, dict[str, tuple[float, float]]]:
    """Per law and method: flags and episodes per million windows of a key, after the first `burn_in`. A ratio is
    that of the law's number, rounded, in 10,000; peers are compared among twenty."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for law, draw in LAWS.items():
        found[law] = {}
        for name, make in METHODS.items():
            rng = np.random.default_rng(SEED)
            watch = Watch(make(), RULES.get(name, Rule()), Limits(fill=False))
            names = [f"{key:05d}" for key in range(keys)]
            group = np.arange(keys) // SIBLINGS if name == "peers" else None
            of = np.full(keys, OF) if name == "ratio" else None
            before = rng.normal(0, 1, keys) / np.sqrt(1 - 0.81)
            flags = episodes = 0
            for at in range(windows):
                x = draw(rng, keys)
                if law.startswith("AR"):
                    before = 0.9 * before + x
                    x = 100 + before
                if of is not None:
                    x = np.maximum(np.rint(x), 0)
                told = watch.step(Rows(at, at * 300_000_000, names, x, of, group=group))
                assert told is not None
                if at >= burn_in:
                    flags += int(told.hit.sum())
                    episodes += int((told.phase == OPENED).sum())
            judged = keys * (windows - burn_in) / 1e6
            found[law][name] = flags / judged, episodes / judged
    return found


def show_noise() -> None:
    table = noise()
    print("flags (episodes) per million windows of a key, pure noise, shipped thresholds\n")
    print("| noise | " + " | ".join(METHODS) + " |")
    print("| --- |" + " --- |" * len(METHODS))
    for law, row in table.items():
        print(f"| {law} | " + " | ".join(f"{flags:,.0f} ({opened:,.0f})" for flags, opened in row.values()) + " |")


# --- ratios ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traffic:
    """An hour of windows of ten seconds; `broken` keys fail by 25 points more for twelve windows."""

    keys: int = 50_000
    windows: int = 360
    history: int = 120
    broken: int = 500
    phi: float = 200
    daily: bool = False


@dataclass(frozen=True)
class Outcome:
    false_alarms: int
    keys_falsely_alarmed: int
    visible: int
    found: int
    seconds: float


def simulate(traffic: Traffic, watch: Watch, seed: int = SEED) -> Outcome:
    """Episodes that no incident explains, and the visible incidents (3 more errors a window) that opened one."""
    rng = np.random.default_rng(seed)
    keys = traffic.keys
    size = np.minimum(rng.lognormal(np.log(3), 1.8, keys), 20_000)
    base = rng.beta(8, 392, keys)
    broken = rng.choice(keys, traffic.broken, replace=False)
    starts = traffic.history + rng.integers(0, traffic.windows - 24, traffic.broken)
    begin = np.full(keys, 1 << 40)
    begin[broken] = starts
    visible = np.zeros(keys, np.bool_)
    visible[broken] = size[broken] * 0.25 >= 3
    names = [f"{key:06d}" for key in range(keys)]
    alarmed, found = np.zeros(keys, np.bool_), np.zeros(keys, np.bool_)
    false, spent = 0, 0.0
    for at in range(traffic.history + traffic.windows):
        wave = 1 + 0.6 * np.sin(2 * np.pi * at / 8640) if traffic.daily else 1.0
        n = rng.poisson(size * wave)
        rate = np.clip(base * (wave if traffic.daily else 1.0), 0, 1)
        failing = (at >= begin) & (at < begin + 12)
        p = np.clip(rate + 0.25 * failing, 0, 1)
        k = rng.binomial(n, rng.beta(p * traffic.phi, (1 - p) * traffic.phi))
        there = np.flatnonzero(n > 0)
        rows = Rows(at, 0, [names[i] for i in there], k[there].astype(float), n[there].astype(float))
        started = time.process_time()
        told = watch.step(rows)
        spent += time.process_time() - started
        assert told is not None
        opened = there[told.row[(told.phase == OPENED) & (told.row >= 0)]]
        if at >= traffic.history:
            in_time = (at >= begin[opened]) & (at < begin[opened] + 14)
            found[opened[in_time]] = True
            false += int((~in_time).sum())
            alarmed[opened[~in_time]] = True
    return Outcome(false, int(alarmed.sum()), int(visible.sum()), int((found & visible).sum()), spent)


def ratio_watch() -> Watch:
    return Watch(Ratio(), Rule(rearm=30), Limits(fill=False))


def show_ratio(keys: int, gate: bool) -> None:
    for daily in (False, True):
        outcome = simulate(Traffic(keys=keys, broken=keys // 100, daily=daily), ratio_watch())
        windows = Traffic().windows + Traffic().history
        print(
            f"{keys:,} keys{', with a daily wave of traffic and errors' if daily else ''}: "
            f"{outcome.false_alarms} false episodes an hour on {outcome.keys_falsely_alarmed} keys, "
            f"{outcome.found} of {outcome.visible} incidents found, {1000 * outcome.seconds / windows:.0f} ms a window"
        )
        if gate and (outcome.false_alarms > FALSE_MAX or outcome.found < FOUND_MIN * outcome.visible):
            sys.exit("the ratio method is worse than it was")


# --- explanations ----------------------------------------------------------------------------------------

SUBGROUPS = 50
KINDS = 5


def explained(seed: int) -> str:
    """One incident in one of 50 countries, on all devices or on one of five: `first` where it is told first, `below`
    where others come before it, `silent` where no episode opens. What is right is the very sub-group, not a part."""
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(3, 0.7, (SUBGROUPS, KINDS))
    base = rng.beta(4, 1996, (SUBGROUPS, KINDS))
    country, device = int(rng.integers(SUBGROUPS)), int(rng.integers(KINDS))
    whole = bool(rng.integers(2))
    side = slice(None) if whole else device
    sizes[country, side] = np.maximum(sizes[country, side], 40 if whole else 120)
    planted = f"country={country}" if whole else f"country={country}, device={device}"
    names = [json.dumps([str(i), str(j)]) for i in range(SUBGROUPS) for j in range(KINDS)]
    watch, usual = Watch(Ratio(phi=10_000), Rule(), Limits(fill=False)), Usual(True)
    for at in range(50):
        n = rng.poisson(sizes)
        rate = base.copy()
        if at >= 40:
            rate[country, side] += 0.6
        k = rng.binomial(n, np.minimum(rate, 1))
        told = watch.step(Rows(at, 0, ["all"], np.array([float(k.sum())]), np.array([float(n.sum())])))
        assert told is not None
        amounts, parts = ({name: float(v) for name, v in zip(names, x.ravel(), strict=True) if v} for x in (k, n))
        if told.hit[0]:
            deviation = Deviation(amounts, parts, float(told.expected[0]), int(told.way[0]))
            found = usual.explain("all", deviation, ("country", "device"), 3)
            return "first" if found and found[0].what == planted else "below"
        maps = [pa.array([list(part.items())], pa.map_(pa.string(), pa.float64())) for part in (amounts, parts)]
        usual.learn(at, ["all"], maps[0], maps[1])
    return "silent"


def show_explained(seeds: int, gate: bool) -> None:
    outcomes = [explained(seed) for seed in range(seeds)]
    told = len(outcomes) - outcomes.count("silent")
    print(
        f"an incident in one of {SUBGROUPS} countries, on all or one of {KINDS} devices, {seeds} seeds: "
        f"{told} told, {outcomes.count('first')} of them with the planted sub-group first"
    )
    if gate and outcomes.count("first") < 0.95 * seeds:
        sys.exit("incidents are explained worse than they were")


# --- speed -----------------------------------------------------------------------------------------------


def speeds(keys: int) -> Iterator[tuple[str, float, float]]:
    """Per method: milliseconds of one window in the detector alone, and with keys and episodes."""
    rng = np.random.default_rng(SEED)
    names = [f"key-{key:06d}" for key in range(keys)]
    for name, make in METHODS.items():
        detector = make()
        state = Columns(detector.fields)
        state.grow(keys + 1)
        watch = Watch(detector, Rule(), Limits(fill=False))
        bare, whole = [], []
        for at in range(8):
            x = rng.poisson(40, keys).astype(float)
            of = rng.poisson(1000, keys).astype(float) if name == "ratio" else None
            state["n"][:] = 500
            if "visits" in (field.name for field in detector.fields):
                state["visits"][:] = 9
            seen = Seen(neighbours(np.arange(1, keys + 1)), x, of, None, at * 10_000_000)
            started = time.process_time()
            detector.step(state, seen)
            bare.append(time.process_time() - started)
            rows = Rows(at, at * 10_000_000, list(names), x, of)
            started = time.process_time()
            watch.step(rows)
            whole.append(time.process_time() - started)
        yield name, 1000 * sorted(bare[2:])[len(bare[2:]) // 2], 1000 * sorted(whole[2:])[len(whole[2:]) // 2]


def show_speed(keys: int, gate: bool) -> None:
    print(f"milliseconds for one window of {keys:,} keys: detector alone / with keys and episodes")
    for name, bare, whole in speeds(keys):
        print(f"  {name:14s} {bare:7.1f} / {whole:7.1f}")
        if gate and bare > SPEED_MAX_MS.get(name, 1e9):
            sys.exit(f"{name} is slower than {SPEED_MAX_MS[name]:g} ms")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("noise", "ratio", "explain", "speed"))
    parser.add_argument("--keys", type=int)
    parser.add_argument("--gate", action="store_true", help="exit 1 where a figure is worse than promised")
    given = parser.parse_args(arguments)
    match given.what:
        case "noise":
            show_noise()
        case "ratio":
            show_ratio(given.keys or 50_000, given.gate)
        case "explain":
            show_explained(given.keys or 200, given.gate)
        case _:
            show_speed(given.keys or 100_000, given.gate)


if __name__ == "__main__":
    main()
