"""Queries over several sources: how the stages and the statement for one become those for several."""

from __future__ import annotations

from dataclasses import replace

from mql.planner.logical import Input, Merge, Scan
from mql.planner.physical import SPLITS_MAX, Renumber, Stage


def over_sources(stages: tuple[Stage, ...], read: Input) -> tuple[Stage, ...]:
    """The stages of a query over one source, for what it really reads."""
    match read:
        case Scan():
            return stages
        case Merge(scans):
            return _merged(stages, len(scans))


def _merged(stages: tuple[Stage, ...], scans: int) -> tuple[Stage, ...]:
    """Each source has a first stage of its own; what these give comes together at the next exchange."""
    first, *others = stages
    heads = tuple(
        replace(first, number=scan, scan=scan, operators=(Renumber(scan * SPLITS_MAX), *first.operators))
        for scan in range(scans)
    )
    rest = others or [Stage(1, "gather", "one", ())]
    moved = [replace(stage, number=stage.number + scans - 1) for stage in rest]
    return (*heads, replace(moved[0], of=tuple(range(scans))), *moved[1:])


def events_sql(read: Input) -> list[str]:
    """The CTE `events` where the statement over stored events has a table for each scan."""
    match read:
        case Scan():
            return []
        case Merge(scans):
            tables = (
                f'SELECT * REPLACE (("__s" + {scan * SPLITS_MAX})::INTEGER AS "__s") FROM events{scan}'
                for scan in range(len(scans))
            )
            return [f"events AS ({' UNION ALL '.join(tables)})"]
