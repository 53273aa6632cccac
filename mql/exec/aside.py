"""What a query has set aside of its events, source by source: for whoever keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from mql.exec.deadletters import DeadLetter, LateRows, Marks
from mql.exec.graph import Graph
from mql.planner.physical import Plan, Stage


@dataclass(frozen=True, slots=True)
class Aside:
    """What was set aside of one source. `unreadable` and `late` are those that are kept still, the oldest first; of
    each kind so many more were `…_left_out`."""

    source: str
    unreadable: tuple[DeadLetter, ...] = ()
    unreadable_left_out: int = 0
    late: pa.Table | None = None
    late_left_out: int = 0


@dataclass(frozen=True, slots=True)
class Late:
    """The late rows of one operator: what counts them in marks, its task, and the scan whose events they are."""

    mark: str
    task: str
    scan: int
    rows: LateRows


def late_rows(plan: Plan, graph: Graph | None) -> Iterator[Late]:
    """Where late rows are set aside: in operators that take events in."""
    for stage, tasks in zip(plan.stages, () if graph is None else graph.stages, strict=False):
        for task in tasks:
            for at, operator in enumerate(task.operators):
                rows = getattr(operator, "late", None)
                if isinstance(rows, LateRows):
                    yield Late(f"late.{task.name}.{at}", task.name, scan_of(plan, stage), rows)


def unread_mark(scan: int, share: int) -> str:
    return f"unread.{scan}.{share}"


def scan_of(plan: Plan, stage: Stage) -> int:
    """The scan whose events come to a stage; the first of them where several do."""
    while stage.input != "scan":
        stage = plan.stages[stage.inputs[0]]
    return stage.scan


def late_between(one: Late, since: Marks, until: Marks) -> tuple[pa.Table | None, int] | None:
    """An operator's late rows, those that are kept, and how many there were; None where there were none."""
    first, end = since.get(one.mark, 0), until.get(one.mark, 0)
    return (one.rows.between(first, end), end - first) if end > first else None


def aside_of(
    source: str, unread: Sequence[tuple[Sequence[DeadLetter], int]], late: Sequence[tuple[pa.Table | None, int]]
) -> Aside:
    """What was set aside of one source, of parts with how many events they are of."""
    letters = tuple(letter for part, _ in unread for letter in part)
    tables = [rows for rows, _ in late if rows is not None]
    rows = renamed_late(pa.concat_tables(tables, promote_options="default")) if tables else None
    kept = 0 if rows is None else rows.num_rows
    unread_left_out = sum(count for _, count in unread) - len(letters)
    return Aside(source, letters, unread_left_out, rows, sum(count for _, count in late) - kept)


def renamed_late(rows: pa.Table) -> pa.Table:
    """Late rows by the names that people know."""
    shown = {"__t": "event_time_us", "__s": "split", "__o": "offset", "__a": "arrival_us", "__m": "reached_us"}
    return rows.rename_columns([shown.get(name, name.lstrip("/") or "event") for name in rows.column_names])
