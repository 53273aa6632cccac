"""A snapshot for a plan that has changed: each operator's state where it is looked for now, its columns as they are
numbered now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from mql.errors import MqlError
from mql.exec.exchange import HASH
from mql.exec.family import not_before_in
from mql.exec.items import State
from mql.exec.kernel import Session
from mql.exec.operators.base import number_state
from mql.exec.rescale import NUMBERS, TOLD, largest, tasks_in
from mql.exec.state import Snapshot
from mql.planner.carrying import Carry, Move
from mql.planner.grouping import hash_sql
from mql.planner.physical import Final, Plan

BAG = "bag"
PARTIALS = ("rows", "state")
"""What operators that keep groups call their main table."""


def carried(snapshot: Snapshot, carry: Carry, plan: Plan) -> Snapshot:
    """The snapshot as `plan` restores it, for as many tasks as before."""
    assert not carry.reasons
    if not snapshot.tasks or carry.verdict == "whole":
        return snapshot
    taken: dict[str, dict[int, State]] = {}
    for stage in plan.stages:
        mine = [move for move in carry.moves if move.now[0] == stage.number]
        counts = [len(tasks_in(snapshot, move.before[0])) for move in mine]
        for task in range(max(counts, default=1)):
            taken[f"{stage.number}.{task}"] = {
                move.now[1]: moved(snapshot.tasks[name][move.before[1]], move)
                for move in mine
                if (name := f"{move.before[0]}.{task}") in snapshot.tasks and move.before[1] in snapshot.tasks[name]
            }
    return Snapshot(taken, snapshot.splits, snapshot.positions)


def moved(state: State, move: Move) -> State:
    """The state with its partials and bags numbered as they are now."""
    found = {name: table for name, table in state.items() if not name.startswith(BAG)}
    for name in PARTIALS:
        if name in found:
            found[name] = renumbered(found[name], dict(move.columns))
    for now, before in enumerate(move.bags):
        if f"{BAG}{before}" in state:
            found[f"{BAG}{now}"] = state[f"{BAG}{before}"]
    return found


def renumbered(table: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """The table with these columns, each by the name that it had, in the place where partials stand."""
    rest = [name for name in table.column_names if not is_partial(name)]
    if not any(is_partial(name) for name in table.column_names) and not columns:
        return table
    at = rest.index("__h") if "__h" in rest else len(rest)
    names = [*rest[:at], *columns, *rest[at:]]
    return pa.table([table.column(columns.get(name, name)) for name in names], names=names)


def is_partial(name: str) -> bool:
    return name[:1] == "f" and name[1:].isdigit()


def by_itself(snapshot: Snapshot, shared: Plan, own: Plan, session: Session) -> Snapshot:
    """What a query knew in a family, as it would know it by itself, in one task of each stage: without its number among
    the keys. MqlError where that can't be told apart."""
    taken: dict[str, dict[int, State]] = {}
    for stage, alone in zip(shared.stages, own.stages, strict=True):
        states = tasks_in(snapshot, stage.number)
        taken[f"{stage.number}.0"] = {
            at: freed([known[at] for known in states if at in known], spec, not_before_in(snapshot), session)
            for at, (spec, same) in enumerate(zip(stage.operators, alone.operators, strict=False))
            if isinstance(spec, Final) and isinstance(same, Final) and len(spec.kept.columns) == len(same.kept.columns)
        }
    return Snapshot(taken, snapshot.splits, snapshot.positions)


def freed(states: Sequence[State], spec: Final, not_before_us: int, session: Session) -> State:
    """The groups of one query of a family, without its number."""
    if any(table.num_rows for state in states for name, table in state.items() if name == TOLD):
        hint = "Begin anew."
        raise MqlError("it has told rows under a number that its family gave it", hint=hint, code="state-not-dealt")
    tables: dict[str, list[pa.Table]] = {}
    for state in states:
        for name, table in state.items():
            tables.setdefault(name, []).append(table)
    keys = [f"k{i}" for i in range(spec.keys) if f"k{i}" != spec.query]
    named = [f"{key} AS k{i}" for i, key in enumerate(keys)]
    found: dict[str, pa.Table] = {}
    for name, parts in tables.items():
        if name == NUMBERS:
            numbers = largest(parts).to_pylist()[0]
            found[name] = number_state(**{**numbers, "not_before": not_before_us})
        elif name != TOLD:
            whole = pa.concat_tables(parts)
            at = min(whole.column_names.index(f"k{i}") for i in range(spec.keys))
            others = [one for one in whole.column_names if one not in {spec.query, HASH, *keys}]
            columns = [*others[:at], *named, *others[at:], f'{hash_sql(keys)} AS "{HASH}"']
            found[name] = session.run(f"SELECT {', '.join(columns)} FROM state", {"state": whole})
    return found
