"""What is to be known of a job's results without planning its query: kept beside them, so that a restart needs no plan.

Sinks and those who read `FROM job.name` go by it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mql.catalog import Catalog, TimeRule
from mql.exec.files import replace_file
from mql.planner.physical import Anomaly, OperatorSpec, Plan
from server.silences import SILENCED

FILE = "outline.json"
KEYED = (("_key", "VARCHAR"), ("_revision", "BIGINT"), ("_op", "VARCHAR"), ("final", "BOOLEAN"))
"""What rows that replace earlier ones have beside the columns that were asked for."""
WINDOW_TIMES = ("window_end", "window_start")
MOMENT = "event_time"


@dataclass(frozen=True, slots=True)
class Outline:
    """`columns`: names and types. `episodes`: how an ANOMALY clause tells, where there is one.

    `time`: the column that holds a row's event time, and its unit (a window's row has the last moment of its window).
    `lateness_us`: how much later than others a row may come. `sources`: what the query reads.
    """

    columns: tuple[tuple[str, str], ...]
    keyed: bool
    windowed: bool
    episodes: str | None
    time: tuple[str, str] | None
    lateness_us: int
    sources: tuple[str, ...]

    @property
    def names(self) -> dict[str, str]:
        return dict(self.columns) | (dict(KEYED) if self.keyed else {})

    def write(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        replace_file(home / FILE, json.dumps(asdict(self)).encode())


def read_outline(home: Path) -> Outline | None:
    path = home / FILE
    if not path.exists():
        return None
    told = json.loads(path.read_bytes())
    columns = tuple((name, type) for name, type in told.pop("columns"))
    time = told.pop("time")
    sources = tuple(told.pop("sources"))
    return Outline(columns=columns, time=None if time is None else (time[0], time[1]), sources=sources, **told)


def forget_outline(home: Path) -> None:
    (home / FILE).unlink(missing_ok=True)


def outline_of(plan: Plan, catalog: Catalog) -> Outline:
    columns = tuple((name, str(type)) for name, type in plan.result.columns)
    specs: list[OperatorSpec] = [spec for stage in plan.stages for spec in stage.operators]
    episodes = next((spec.emit for spec in specs if isinstance(spec, Anomaly)), None)
    if episodes is not None and SILENCED not in dict(columns):
        columns = (*columns, (SILENCED, "VARCHAR"))
    windowed = any(name in WINDOW_TIMES and type == "TIMESTAMP" for name, type in columns)
    lateness_us = 0 if windowed else max(scan.lateness_us for scan in plan.scans)
    sources = tuple(dict.fromkeys(scan.source for scan in plan.scans))
    time = time_of(columns, plan, catalog)
    return Outline(columns, plan.result.keyed, plan.result.windowed, episodes, time, lateness_us, sources)


def time_of(columns: tuple[tuple[str, str], ...], plan: Plan, catalog: Catalog) -> tuple[str, str] | None:
    """The window's border, else a column `event_time`, else the source's own time where it was selected by its name."""
    types = dict(columns)
    for name in (*WINDOW_TIMES, MOMENT):
        if types.get(name) == "TIMESTAMP":
            return name, "auto"
    rules = {rule_of(catalog, scan.source) for scan in plan.scans}
    for rule in rules if len(rules) == 1 else ():
        if rule.path is not None and len(rule.path) == 1 and rule.path[0] in types and not plan.result.windowed:
            return rule.path[0], rule.unit
    return None


def rule_of(catalog: Catalog, source: str) -> TimeRule:
    info = catalog.sources.get(source)
    return TimeRule() if info is None else info.time
