"""EXPLAIN ANALYZE: what a query's operators did with the events while it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mql.exec.graph import Graph
from mql.exec.items import Counts
from mql.planner.explain import operator_name
from mql.planner.physical import Plan

LIVE_S = 5.0
"""A query over a stream without end is watched for so long."""


def analyzed(plan: Plan, graph: Graph, ledger: Mapping[str, int], rows: int, seconds: float) -> list[str]:
    """The stages with what each operator got and gave, over all of its tasks, then the ledger."""
    events = ledger["events"]
    lines = [
        f"ran        {seconds:.2f} s, {events:,} events, {events / max(seconds, 1e-3):,.0f} a second, {rows:,} rows"
    ]
    for stage, tasks in zip(plan.stages, graph.stages, strict=True):
        plural = "" if len(tasks) == 1 else "s"
        lines.append(f"stage {stage.number}    {stage.input}, {len(tasks)} task{plural}")
        for number, spec in enumerate(stage.operators):
            counts = [task.counts[number] for task in tasks]
            held = sum(task.operators[number].in_state() for task in tasks)
            lines.append(f"  {operator_name(spec)}: {told(counts, held)}")
    gone = ", ".join(f"{name} {count:,}" for name, count in ledger.items() if count and name != "events")
    lines.append(f"ledger     {events:,} events = {gone or 'nothing'}")
    return lines


def told(counts: Sequence[Counts], held: int) -> str:
    """`in 1,000, out 12, filtered 988`: what became of rows in one operator."""
    names = ("seen", "emitted", "filtered", "late", "sampled")
    shown = {"seen": "in", "emitted": "out"}
    sums = {name: sum(getattr(one, name) for one in counts) for name in names}
    parts = [f"{shown.get(name, name)} {sums[name]:,}" for name in names if sums[name]]
    return ", ".join([*parts, *([f"holding {held:,}"] if held else [])]) or "nothing came"
