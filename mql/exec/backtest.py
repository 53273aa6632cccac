"""What a detector would have told of a stretch of history: alerts a day, how late, of which keys, and how many rightly.

And the other way round: the threshold with which it would have told no more than a budget allows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import mean, median
from typing import Any

import pyarrow as pa

from mql.planner.grid import Grid
from mql.planner.physical import Anomaly

DAY_US = 86_400_000_000
OFFENDERS = 10
EPISODES_MAX = 1_000
HITS_MAX = 5_000_000
STEP = 1.05
"""Thresholds are tried in steps of this factor."""
STEPS_MAX = 400


@dataclass(frozen=True, slots=True)
class Label:
    """A stretch of time in which something was wrong, as a person knows; of these keys where some are named."""

    start_us: int
    end_us: int
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Episode:
    """One episode as it would have been told. `told_us`: the end of the window whose row opens it."""

    name: str
    keys: Mapping[str, str | None]
    since_us: int
    told_us: int
    worst: float
    direction: str
    reason: str
    ended_us: int | None = None

    def meets(self, label: Label) -> bool:
        end_us = self.told_us if self.ended_us is None else self.ended_us
        fits = all(str(self.keys.get(name)) == value for name, value in label.keys.items())
        return fits and self.since_us < label.end_us and max(end_us, self.told_us) > label.start_us


class Episodes:
    """The episodes in the rows of a plan of `episodes_plan`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._found: dict[str, Episode] = {}

    def take(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            if row["phase"] == "open":
                keys = {name: row[f"k{i}"] for i, name in enumerate(self.names)}
                self._found[row["episode"]] = Episode(
                    row["episode"], keys, row["since_us"], row["end_us"], row["score"], row["direction"], row["reason"]
                )
                continue
            known = self._found.get(row["episode"])
            if known is None:
                continue  # it was open before
            known.worst = max(known.worst, row["score"] or 0.0)
            if row["phase"] == "close":
                known.ended_us = row["since_us"] + round(row["duration"] * 1e6)

    def all(self) -> Sequence[Episode]:
        return tuple(self._found.values())


def report(
    episodes: Sequence[Episode], since_us: int, until_us: int, labels: Sequence[Label] | None = None
) -> dict[str, Any]:
    """All that is told of a backtest, as JSON. Times are texts, lengths seconds."""
    days = max((until_us - since_us) / DAY_US, 1e-9)
    by_day = Counter(text_of(one.told_us)[:10] for one in episodes)
    all_days = [text_of(us)[:10] for us in range(since_us // DAY_US * DAY_US, until_us, DAY_US)]
    delays = [(one.told_us - one.since_us) / 1e6 for one in episodes]
    found: dict[str, Any] = {
        "since": text_of(since_us),
        "until": text_of(until_us),
        "days": round(days, 4),
        "alerts": len(episodes),
        "alerts_per_day": round(len(episodes) / days, 3),
        "by_day": [{"day": day, "alerts": by_day.get(day, 0)} for day in all_days[:400]],
        "delay": spread(delays),
        "offenders": offenders(episodes),
        "episodes": [episode_of(one) for one in episodes[:EPISODES_MAX]],
        "labels": None,
    }
    if labels is not None:
        found["labels"] = judged(episodes, labels)
    return found


def judged(episodes: Sequence[Episode], labels: Sequence[Label]) -> dict[str, Any]:
    """How many of the alerts were right, and how many of the labelled stretches were found, how late."""
    right = [one for one in episodes if any(one.meets(label) for label in labels)]
    delays: list[float] = []
    missed: list[dict[str, Any]] = []
    for label in labels:
        first = min((one.told_us for one in episodes if one.meets(label)), default=None)
        if first is None:
            missed.append({"start": text_of(label.start_us), "end": text_of(label.end_us), "keys": dict(label.keys)})
        else:
            delays.append(max(0.0, (first - label.start_us) / 1e6))
    return {
        "labels": len(labels),
        "found": len(delays),
        "right": len(right),
        "precision": round(len(right) / len(episodes), 4) if episodes else None,
        "recall": round(len(delays) / len(labels), 4) if labels else None,
        "delay": spread(delays),
        "missed": missed[:EPISODES_MAX],
    }


def offenders(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """The keys with the most alerts."""
    of: dict[tuple[tuple[str, str | None], ...], list[Episode]] = defaultdict(list)
    for one in episodes:
        of[tuple(one.keys.items())].append(one)
    worst = sorted(of.items(), key=lambda item: (-len(item[1]), -max(one.worst for one in item[1]), str(item[0])))
    return [
        {"keys": dict(keys), "alerts": len(mine), "worst_score": round(max(one.worst for one in mine), 3)}
        for keys, mine in worst[:OFFENDERS]
    ]


def spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median_s": round(median(values), 3), "mean_s": round(mean(values), 3), "max_s": round(max(values), 3)}


def episode_of(one: Episode) -> dict[str, Any]:
    return {
        "episode": one.name,
        "keys": dict(one.keys),
        "since": text_of(one.since_us),
        "told": text_of(one.told_us),
        "ended": None if one.ended_us is None else text_of(one.ended_us),
        "worst_score": round(one.worst, 3),
        "direction": one.direction,
        "reason": one.reason,
    }


def text_of(us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


# --- a budget of alerts ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picked:
    """The threshold that a budget asks for, in units of the method's own, and what it would have told."""

    scale: float
    alerts: int
    unscaled: int
    days: float


class Hits:
    """The unusual windows of each key, in the rows of a plan of `hits_plan`."""

    def __init__(self, spec: Anomaly) -> None:
        self._spec = spec
        self._grid = Grid(spec.window)
        self._of: dict[tuple[str | None, ...], list[tuple[int, float]]] = defaultdict(list)
        self.count = 0

    def take(self, table: pa.Table) -> None:
        self.count += table.num_rows
        if self.count > HITS_MAX:
            return
        keys = [table.column(f"k{i}").to_pylist() for i in range(self._spec.keys)]
        told = (table.column(name).to_pylist() for name in ("start_us", "end_us", "score"))
        for row, (start, end, score) in enumerate(zip(*told, strict=True)):
            self._of[tuple(column[row] for column in keys)].append((self._grid.number_at(start, end), score))

    def pick(self, allowed: float, days: float) -> Picked:
        """The least threshold with which no more than so many episodes would have opened."""
        most = int(allowed + 1e-9)
        worst = max((score for hits in self._of.values() for _, score in hits), default=1.0)
        grid = [1.0]
        while grid[-1] <= worst and len(grid) < STEPS_MAX:
            grid.append(grid[-1] * STEP)
        counts: dict[float, int] = {}

        def fits(scale: float) -> bool:
            counts[scale] = self.opened(scale)
            return counts[scale] <= most

        at = bisect_left(grid, True, key=fits)
        scale = round(grid[min(at, len(grid) - 1)], 3)
        return Picked(scale, self.opened(scale), self.opened(1.0), days)

    def opened(self, scale: float) -> int:
        """How many episodes would have opened at so many times the threshold."""
        return sum(self._opened(hits, scale) for hits in self._of.values())

    def _opened(self, hits: Iterable[tuple[int, float]], scale: float) -> int:
        needed, of, rearm = self._spec.needed, self._spec.out_of, self._spec.rearm
        count, is_open = 0, False
        last: int | None = None
        recent: list[int] = []
        for number, score in hits:
            if score < scale:
                continue
            if is_open and last is not None and number - last > rearm:
                is_open, recent = False, []
            recent = [*(one for one in recent if one > number - of), number]
            if not is_open and len(recent) >= needed:
                is_open, count = True, count + 1
            last = number
        return count
