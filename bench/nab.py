"""The detectors on the Numenta Anomaly Benchmark, scored by its own rules (Lavin and Ahmad, 2015), re-implemented here.

    python bench/nab.py --data DIR [--method auto] [--gate]

DIR holds `nab_half.csv.gz` or `nab.csv.gz` (file, timestamp, value) and the label windows beside it as
`windows_half.json` or `windows.json`, or a checkout of the benchmark (data/, labels/combined_windows.json).
Nothing is tuned per file: one set of parameters, all series in lock-step, each value judged before it is learned.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mql.detectors import method_named
from mql.exec.detectors import detector
from mql.exec.detectors.episodes import EPISODE_FIELDS, OPENED, Rule
from mql.exec.detectors.frame import Columns, Detector, Seen, neighbours

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One file: its values, the first rows that are not scored, and its label windows as rows [a, b]."""

    name: str
    times: tuple[str, ...]
    values: Floats
    probation: int
    windows: tuple[tuple[int, int], ...]
    start_s: int
    step_s: int


@dataclass(frozen=True)
class Profile:
    name: str
    hit: float
    false_alarm: float
    miss: float


PROFILES = (Profile("standard", 1, 0.11, 1), Profile("low_fp", 1, 0.22, 1), Profile("low_fn", 1, 0.11, 2))


# --- reading -----------------------------------------------------------------------------------------------


def load(folder: Path) -> list[Series]:
    """The series of a folder, by name."""
    if (folder / "labels" / "combined_windows.json").exists():
        rows = {path.relative_to(folder / "data").as_posix(): path for path in (folder / "data").rglob("*.csv")}
        labels = json.loads((folder / "labels" / "combined_windows.json").read_text())
        texts = {name: list(csv.reader(path.open()))[1:] for name, path in rows.items()}
    else:
        packed = next((path for path in sorted(folder.glob("*.csv.gz"))), None)
        windows = next((path for path in sorted(folder.glob("windows*.json"))), None)
        if packed is None or windows is None:
            sys.exit(f"no benchmark data in {folder}: it needs a *.csv.gz and windows*.json, see the top of this file")
        labels = json.loads(windows.read_text())
        texts = {}
        for name, at, value in list(csv.reader(io.StringIO(gzip.decompress(packed.read_bytes()).decode())))[1:]:
            texts.setdefault(name, []).append([at, value])
    return [_series(name, texts[name], labels.get(name, [])) for name in sorted(texts)]


def _series(name: str, rows: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> Series:
    times = tuple(row[0] for row in rows)
    first = {at: row for row, at in reversed(list(enumerate(times)))}
    bounds = tuple((first[start.split(".")[0]], first[end.split(".")[0]]) for start, end in labels)
    probation = min(math.floor(0.15 * len(rows)), math.floor(0.15 * 5000))
    seconds = [int(datetime.fromisoformat(f"{at}+00:00").timestamp()) - MONDAY_S for at in times]
    step = int(np.median(np.diff(seconds)))
    values = np.array([float(row[1]) for row in rows])
    return Series(name, times, values, probation, bounds, seconds[0], step)


# --- scoring -----------------------------------------------------------------------------------------------


def sigmoid(y: Floats | float) -> Floats:
    return np.where(np.asarray(y) > 3.0, -1.0, 2 / (1 + np.exp(5 * np.minimum(np.asarray(y, np.float64), 3.0))) - 1)


def score_at(series: Sequence[Series], scores: Sequence[Floats], profile: Profile, threshold: float) -> float:
    """The raw score of the corpus where every row at or above the threshold is an alert."""
    return sum(_file_score(one, np.flatnonzero(s >= threshold), profile) for one, s in zip(series, scores, strict=True))


def best(series: Sequence[Series], scores: Sequence[Floats], profile: Profile) -> tuple[float, float]:
    """The normalised score at the one threshold that is best for the corpus, and that threshold. All are tried."""
    values: list[Floats] = []
    gains: list[Floats] = []
    kinds: list[npt.NDArray[np.int64]] = []
    for one, s in zip(series, scores, strict=True):
        rows = np.arange(one.probation, len(s))
        worth, window = _row_worth(one, rows, profile)
        values.append(s[rows])
        gains.append(worth)
        kinds.append(np.where(window >= 0, window + 1000 * (1 + len(kinds)), -1))
    value, gain, kind = (np.concatenate(parts) for parts in (values, gains, kinds))
    order = np.argsort(-value, kind="stable")
    value, gain, kind = value[order], gain[order], kind[order]
    total = -profile.miss * sum(len(one.windows) for one in series)
    found: dict[int, float] = {}
    top, at = total, math.inf
    for i in range(len(value)):
        if not value[i] > 0:
            break
        key = int(kind[i])
        if key < 0:
            total += gain[i]
        else:
            before = found.get(key, -profile.miss)
            if gain[i] > before:
                total += gain[i] - before
                found[key] = gain[i]
        if (i + 1 == len(value) or value[i + 1] < value[i]) and total > top:
            top, at = total, float(value[i])
    return normalised(series, top, profile), at


def normalised(series: Sequence[Series], raw: float, profile: Profile) -> float:
    windows = sum(len(one.windows) for one in series)
    null, perfect = -profile.miss * windows, profile.hit * windows
    return 100 * (raw - null) / (perfect - null)


def _row_worth(one: Series, rows: npt.NDArray[np.int64], profile: Profile) -> tuple[Floats, npt.NDArray[np.int64]]:
    """What an alert at each row is worth, and the label window that it lies in (-1: none)."""
    worth = np.full(len(rows), -profile.false_alarm)
    inside = np.full(len(rows), -1)
    for a, b in one.windows:
        after = rows > b
        if after.any():
            worth[after] = profile.false_alarm * sigmoid((rows[after] - b) / max(b - a, 1))
    for at, (a, b) in enumerate(one.windows):
        within = (rows >= a) & (rows <= b)
        inside[within] = at
        worth[within] = profile.hit * sigmoid(-(b - rows[within] + 1) / (b - a + 1)) / sigmoid(-1.0)
    return worth, inside


def _file_score(one: Series, alerts: npt.NDArray[np.int64], profile: Profile) -> float:
    rows = alerts[alerts >= one.probation]
    worth, window = _row_worth(one, rows, profile)
    found = float(worth[window < 0].sum())
    for at in range(len(one.windows)):
        hits = worth[window == at]
        found += float(hits.max()) if len(hits) else -profile.miss
    return found


def results(series: Sequence[Series], scores: Sequence[Floats]) -> Mapping[str, float]:
    """Per profile the score at the shipped threshold (1) and at the best one; windows found and false alarms."""
    found: dict[str, float] = {}
    for profile in PROFILES:
        found[profile.name] = normalised(series, score_at(series, scores, profile, 1.0), profile)
        found[f"{profile.name}_best"], found[f"{profile.name}_at"] = best(series, scores, profile)
    hits = false = 0
    for one, s in zip(series, scores, strict=True):
        rows = np.flatnonzero(s >= 1)
        _, window = _row_worth(one, rows[rows >= one.probation], PROFILES[0])
        hits += len(set(window[window >= 0].tolist()))
        false += int((window < 0).sum())
    return {**found, "windows_hit": hits, "false_alarms": false}


# --- running -----------------------------------------------------------------------------------------------

REARM = 50
GATE = {"auto": (55.0, 45.0)}
"""Per method the standard and the low-false-alarms score at shipped defaults that must be reached."""
WEEK_S, MONDAY_S = 7 * 86_400, 4 * 86_400


def shipped(method: str, step_s: int) -> Detector:
    """A method as it is shipped: all of its defaults."""
    row = method_named(method)
    assert row is not None, method
    given = {parameter.name: parameter.default for parameter in row.parameters}
    if method == "seasonal":
        given["slots"] = 24
    return detector(row.name, given, row.warmup, step_s * 1_000_000, row.direction)


def detected(series: Sequence[Series], method: str, rule: Rule) -> list[Floats]:
    """For each row the score if it opens an episode there, else 0. Series with rows as far apart run in lock-step, each
    in its own slot, and join at their own time of the week, so that methods with a clock see the right one."""
    found = [np.zeros(len(one.values)) for one in series]
    for step_s in sorted({one.step_s for one in series}):
        mine = [at for at, one in enumerate(series) if one.step_s == step_s]
        _run([series[at] for at in mine], [found[at] for at in mine], shipped(method, step_s), rule, step_s)
    return found


def _run(series: Sequence[Series], found: Sequence[Floats], method: Detector, rule: Rule, step_s: int) -> None:
    state, episodes = Columns(method.fields), Columns(EPISODE_FIELDS)
    for part in (state, episodes):
        part.grow(len(series) + 1)
    begins = np.array([one.start_s % WEEK_S // step_s for one in series])
    ends = begins + np.array([len(one.values) for one in series])
    for at_step in range(int(begins.min()), int(ends.max())):
        there = np.flatnonzero((begins <= at_step) & (at_step < ends))
        if not len(there):
            continue
        at = neighbours(there + 1)
        places = [(i, at_step - int(begins[i])) for i in there.tolist()]
        value = np.array([series[i].values[row] for i, row in places])
        scored = method.step(state, Seen(at, value, None, None, (MONDAY_S + at_step * step_s) * 1_000_000))
        with np.errstate(invalid="ignore"):
            hit = scored.score >= 1
        turn = rule.step(episodes, at, at_step, scored.score, hit)
        rule.admit(episodes, at, turn, scored.score, scored.direction, np.zeros(len(there), np.bool_))
        for line in np.flatnonzero(turn.phase == OPENED).tolist():
            i, row = places[line]
            found[i][row] = scored.score[line]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the benchmark's data")
    parser.add_argument("--method", action="append", help="one of the methods, or several; else all that fit")
    parser.add_argument("--gate", action="store_true", help="exit 1 where a score is below what is promised")
    given = parser.parse_args(arguments)
    series = load(given.data)
    print(f"{len(series)} series, {sum(len(one.windows) for one in series)} label windows")
    print("at shipped defaults; in brackets at the threshold that is best for this corpus\n")
    print("| method | standard | low FP | low FN | windows hit | false alarms | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    failed = []
    for name in given.method or ("auto", "zscore", "des", "seasonal", "robust_zscore", "cusum"):
        started = time.perf_counter()
        scores = detected(series, name, Rule(rearm=REARM))
        seconds = time.perf_counter() - started
        r = results(series, scores)
        columns = (f"{r[profile.name]:.1f} ({r[profile.name + '_best']:.1f})" for profile in PROFILES)
        print(f"| {name} | {' | '.join(columns)} | {r['windows_hit']:.0f} | {r['false_alarms']:.0f} | {seconds:.1f} |")
        least = GATE.get(name)
        if least is not None and (r["standard"] < least[0] or r["low_fp"] < least[1]):
            failed.append(name)
    if given.gate and failed:
        sys.exit(f"below what is promised: {', '.join(failed)}")


if __name__ == "__main__":
    main()
