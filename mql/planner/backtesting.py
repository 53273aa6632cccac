"""What a query's detector would have told, as plans: of its episodes, or of the windows that it found unusual."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from mql.errors import MqlError
from mql.planner.compile import Compiled
from mql.planner.expressions import Output
from mql.planner.logical import Project, chain, has_detector
from mql.planner.parts import parts_of
from mql.planner.physical import Anomaly, Plan, Result, Window
from mql.planner.showing import show_bound
from mql.planner.sql import quote_string
from mql.schema import BIGINT, DOUBLE, VARCHAR, DataType

EPISODES: tuple[tuple[str, str, DataType], ...] = (
    ("start_us", '"__ws"', BIGINT),
    ("end_us", '"__we"', BIGINT),
    ("phase", "phase", VARCHAR),
    ("score", "score", DOUBLE),
    ("since_us", '"__since"', BIGINT),
    ("duration", "duration", DOUBLE),
    ("direction", "direction", VARCHAR),
    ("episode", "episode", VARCHAR),
    ("reason", "reason", VARCHAR),
)
HITS: tuple[tuple[str, str, DataType], ...] = (
    ("start_us", '"__ws"', BIGINT),
    ("end_us", '"__we"', BIGINT),
    ("score", "score", DOUBLE),
)


def detector_of(compiled: Compiled) -> Anomaly | None:
    """The query's detector; None where it has no ANOMALY clause (of its own: not in a query that it reads)."""
    return next((spec for spec in compiled.plan.after_batch if isinstance(spec, Anomaly)), None)


def episodes_plan(compiled: Compiled) -> tuple[Plan, tuple[str, ...]]:
    """A plan that tells the query's episodes and nothing else, and the names of the keys k0, k1, … of its rows."""
    return _telling(compiled, "episodes", EPISODES), key_names(compiled)


def hits_plan(compiled: Compiled) -> Plan:
    """A plan that tells each unusual window of each group: keys, start, end and score."""
    return _telling(compiled, "hits", HITS)


def _telling(compiled: Compiled, emit: str, columns: tuple[tuple[str, str, DataType], ...]) -> Plan:
    detector = detector_of(compiled)
    plan = compiled.plan
    if detector is None:
        inside = has_detector(compiled.logical)
        hint = "Try the inner query that has one by itself." if inside else "Add one: ANOMALY ON count(*)."
        raise MqlError("there is nothing to be tried: no ANOMALY clause", hint=hint)
    group = parts_of(compiled.logical).group
    assert group is not None
    if not plan.scan.bounded:
        raise MqlError("this query would never end", hint="Say from when to when: SINCE … UNTIL ….")
    keys = [(f"k{i}", _key_sql(group.window, f"k{i}"), VARCHAR) for i in range(len(group.keys))]
    shown = ", ".join(f"{sql} AS {name}" for name, sql, _ in (*keys, *columns))
    order = ", ".join(['"__we"', *(f"k{i} NULLS LAST" for i in range(len(group.keys)))])
    spec = replace(detector, emit=emit, project=f'SELECT {shown}, "__ws", "__we" FROM rows ORDER BY {order}')
    return replace(
        plan,
        hash=hashlib.sha256(f"{plan.hash} {emit}".encode()).hexdigest()[:32],
        result=Result(tuple((name, type) for name, _, type in (*keys, *columns)), False, True, "final"),
        after_batch=(spec,),
        explain=None,
    )


def _key_sql(window: Window, key: str) -> str:
    """A key as text; of several windows the name."""
    if key != window.by:
        return f"CAST({key} AS VARCHAR)"
    names = " ".join(f"WHEN {at} THEN {quote_string(one.name)}" for at, one in enumerate(window.of))
    return f"CASE {key} {names} END"


def key_names(compiled: Compiled) -> tuple[str, ...]:
    """What the select list calls the keys of the groups; those that it leaves out are called by their text."""
    parts = parts_of(compiled.logical)
    assert parts.group is not None
    items = next(node.items for node in chain(compiled.logical) if isinstance(node, Project))
    called = {bound: name for name, bound in reversed(items)}
    window = parts.group.window
    if window.by:
        called[Output(window.by, BIGINT)] = "window_name"
    return tuple(
        called.get(Output(f"k{i}", key.type), show_bound(key).replace('"', "").lstrip("/"))
        for i, key in enumerate(parts.group.keys)
    )
