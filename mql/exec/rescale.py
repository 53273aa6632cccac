"""A snapshot for another number of tasks: what the tasks of a stage knew, dealt anew by the hash that its rows go by.

Only stages behind a hash exchange have several tasks with state; each row of that has the hash of its key beside it. A
few numbers are the same in each task, for a barrier passes all of them at the same watermark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mql.errors import MqlError
from mql.exec.exchange import HASH, partition
from mql.exec.items import State
from mql.exec.operators.base import MIXED, number_state
from mql.exec.state import Snapshot
from mql.planner.physical import Plan, Stage

NUMBERS = "numbers"
TOLD = "told"

States = Mapping[int, State]


def rescaled(snapshot: Snapshot, plan: Plan, counts: Sequence[int]) -> Snapshot:
    """The snapshot for `counts[s]` tasks of each stage s. MqlError where it is of other stages, or can't be dealt."""
    if not snapshot.tasks:
        return snapshot
    known = {number: tasks_in(snapshot, number) for number in range(len(plan.stages))}
    if sum(len(tasks) for tasks in known.values()) != len(snapshot.tasks) or not all(known.values()):
        raise OtherPlan()
    tasks: dict[str, States] = {}
    for stage, count in zip(plan.stages, counts, strict=True):
        mine = known[stage.number]
        dealt = mine if len(mine) == count else deal(stage, mine, count)
        tasks.update({f"{stage.number}.{at}": states for at, states in enumerate(dealt)})
    return Snapshot(tasks, snapshot.splits, snapshot.positions)


def tasks_in(snapshot: Snapshot, stage: int) -> list[States]:
    """What each task of a stage knew, in their order."""
    found: list[States] = []
    while f"{stage}.{len(found)}" in snapshot.tasks:
        found.append(snapshot.tasks[f"{stage}.{len(found)}"])
    return found


def deal(stage: Stage, tasks: Sequence[States], count: int) -> list[States]:
    """What `count` tasks of a stage are to know."""
    if stage.input == "scan":
        # Only a query in a family knows something here: its number, in the first of them.
        if any(state for states in tasks[1:] for state in states.values()):
            raise NotDealt(stage)
        return [tasks[0], *({} for _ in range(count - 1))]
    if stage.parallel == "one":
        raise OtherPlan()
    numbers = {number for states in tasks for number in states}
    dealt: list[dict[int, State]] = [{} for _ in range(count)]
    for number in sorted(numbers):
        parts = deal_state(stage, [states[number] for states in tasks if number in states], count)
        for states, part in zip(dealt, parts, strict=True):
            states[number] = part
    return list(dealt)


def deal_state(stage: Stage, states: Sequence[State], count: int) -> Sequence[State]:
    """An operator's state for each of so many tasks."""
    dealt: list[dict[str, pa.Table]] = [{} for _ in range(count)]
    for name in dict.fromkeys(name for state in states for name in state):
        tables = [state[name] for state in states if name in state]
        parts: Sequence[pa.Table]
        if name == NUMBERS:
            parts = [largest(tables)] * count
        elif all(HASH in table.column_names for table in tables):
            parts = partition(pa.concat_tables(tables, promote_options="default").combine_chunks(), count)
        elif name == TOLD:
            # What was told has no hash: each task picks what is of its own groups.
            parts = [pa.concat_tables(tables, promote_options="default")] * count
            for part in dealt:
                part[MIXED] = number_state(tasks=len(states))
        else:
            raise NotDealt(stage)
        for part, table in zip(dealt, parts, strict=True):
            part[name] = table
    return dealt


def largest(tables: Sequence[pa.Table]) -> pa.Table:
    """Numbers that only grow, as far as the furthest task has got."""
    whole = pa.concat_tables(tables)
    return number_state(**{name: pc.max(whole.column(name)).as_py() for name in whole.column_names})


class OtherPlan(MqlError):
    def __init__(self) -> None:
        hint = "Begin anew, or ask what it asked when the snapshot was taken."
        super().__init__("the snapshot is of another plan", hint=hint, code="other-plan")


class NotDealt(MqlError):
    def __init__(self, stage: Stage) -> None:
        kinds = ", ".join(type(spec).__name__ for spec in stage.operators)
        hint = "Run it with as many workers as before, or begin anew."
        told = f"what stage {stage.number} ({kinds}) knows can't be dealt out to another number of tasks"
        super().__init__(told, hint=hint, code="state-not-dealt")
