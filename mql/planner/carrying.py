"""Whether a job whose query has changed can go on with what it knows: the plan that it had against the one it gets.

Both are compared step by step as far as state reaches: scans, what events pass on their way, and the operators that
keep something. What these keep must mean the same; what stands behind the last of them may be anything. Nothing is
guessed: a difference that is not known to be harmless is a reason why state can't be carried over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mql.planner.physical import (
    Anomaly,
    Arranging,
    AsEvents,
    AsofJoin,
    CountWindows,
    Expand,
    Final,
    Join,
    JoinSide,
    Kept,
    Lookup,
    OperatorSpec,
    Partial,
    Plan,
    RateSample,
    Renumber,
    Scan,
    SelectRows,
    Sessions,
    TakeFirst,
    Window,
)
from mql.planner.sql import column_name

STATELESS = (Renumber, AsEvents, Expand, SelectRows, Partial, JoinSide, Lookup)
Grouped = Final | CountWindows | Sessions
NAMES = {
    "Final": "groups in windows",
    "CountWindows": "windows of events",
    "Sessions": "sessions",
    "Held": "windows that lie where events do",
    "Anomaly": "a detector",
    "Arranging": "an order of rows",
    "TakeFirst": "a LIMIT",
    "Running": "window functions",
    "Ahead": "window functions that look ahead",
    "Join": "a join",
    "AsofJoin": "an ASOF join",
    "Fill": "FILL",
    "RunningMedian": "anomalous()",
    "RateSample": "a sample by rate",
}


@dataclass(frozen=True, slots=True)
class Move:
    """An operator's state and where it goes: stage and number before, and now. `columns`: of each partial that groups
    have now the name that it had before; `bags`: of each bag the number that it had."""

    before: tuple[int, int]
    now: tuple[int, int]
    columns: tuple[tuple[str, str], ...] = ()
    bags: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Carry:
    """What becomes of a state under a changed query. `reasons`: why it can't be carried over; empty where it can.
    `differences`: what is otherwise from now on."""

    moves: tuple[Move, ...] = ()
    differences: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """whole, differs or cannot."""
        return "cannot" if self.reasons else "differs" if self.differences else "whole"


@dataclass(slots=True)
class Findings:
    """What a comparison has come to so far."""

    moves: list[Move] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a plan on the way of its rows; `of`: how rows come to its stage, and of which scan."""

    at: tuple[int, int]
    spec: OperatorSpec
    of: tuple[str, str, int]


def carry(old: Plan, new: Plan) -> Carry:
    """Whether the state of the old plan serves the new one, and what is otherwise then."""
    if (old.scans, old.stages, old.result) == (new.scans, new.stages, new.result):
        return Carry()
    found = Findings()
    compare_scans(old.scans, new.scans, found)
    if not found.reasons:
        compare_steps(old, new, found)
        compare_results(old, new, found)
    differences = tuple(dict.fromkeys(found.differences))
    if not found.reasons and not differences:
        differences = ("what is computed of the rows that are told",)
    return Carry(tuple(found.moves), differences, tuple(dict.fromkeys(found.reasons)))


# --- what is read ---------------------------------------------------------------------------------------------


def compare_scans(old: Sequence[Scan], new: Sequence[Scan], found: Findings) -> None:
    before, now = ([scan.source for scan in scans] for scans in (old, new))
    if before != now:
        found.reasons.append(f"it reads {' and '.join(now)} instead of {' and '.join(before)}")
        return
    for one, other in zip(old, new, strict=True):
        if one.time != other.time:
            found.reasons.append(f'the time of events of "{one.source}" is read from another property')
        types = dict(one.columns)
        for path, type in other.columns:
            if types.get(path, type) != type:
                found.reasons.append(f"{column_name(path)[1:]} is {type}, and was {types[path]}")
        if one.lateness_us != other.lateness_us:
            found.differences.append(
                f"LATENESS: events may be {other.lateness_us / 1e6:g} s late, instead of {one.lateness_us / 1e6:g} s"
            )
        if (one.idle_timeout_us, one.max_ahead_us) != (other.idle_timeout_us, other.max_ahead_us):
            found.differences.append(f'how long "{one.source}" is waited for, and how far ahead events may be')


# --- what is done with it -----------------------------------------------------------------------------------


def steps_of(plan: Plan) -> list[Step]:
    """The operators as far as something behind them, or they themselves, keep anything."""
    specs = [spec for stage in plan.stages for spec in stage.operators]
    in_time = all(isinstance(spec, (*STATELESS, Final, Anomaly, Join, Arranging)) for spec in specs)
    in_time = in_time and not any(isinstance(spec, Final) and spec.hold_us for spec in specs)
    steps = [
        Step((stage.number, at), spec, (stage.input, stage.parallel, stage.scan if stage.input == "scan" else -1))
        for stage in plan.stages
        for at, spec in enumerate(stage.operators)
        if not (in_time and is_empty_at_barriers(spec))
    ]
    while steps and isinstance(steps[-1].spec, STATELESS):
        steps.pop()
    return steps


def is_empty_at_barriers(spec: OperatorSpec) -> bool:
    """Rows of windows that are final go on with the watermark that they come with, where that is not held back."""
    return isinstance(spec, Arranging) and spec.kind == "final" and spec.per_window and not spec.revise_us


def compare_steps(old: Plan, new: Plan, found: Findings) -> None:
    before, now = steps_of(old), steps_of(new)
    if shape_of(before) != shape_of(now):
        found.reasons.append(f"it keeps {told_of(now)} by other steps than it kept {told_of(before)}")
        return
    if [scan.columns for scan in old.scans] != [scan.columns for scan in new.scans] and keeps_events(now):
        found.reasons.append("it reads other properties, and whole events are kept")
    for one, other in zip(before, now, strict=True):
        found.reasons.extend(compare_step(one, other, found))


def shape_of(steps: Sequence[Step]) -> list[tuple[type, tuple[str, str, int]]]:
    return [(type(step.spec), step.of) for step in steps]


def keeps_events(steps: Sequence[Step]) -> bool:
    """Whether rows are kept with all that was read of them."""
    specs = [step.spec for step in steps]
    selected = [spec.sql.split(" FROM (", 1) for spec in specs if isinstance(spec, SelectRows)]
    whole = any(all(part.startswith("SELECT *") for part in parts) for parts in selected)
    return whole or any(isinstance(spec, RateSample | Lookup) for spec in specs)


def told_of(steps: Sequence[Step]) -> str:
    """What is kept, in words."""
    kinds = [NAMES[type(step.spec).__name__] for step in steps if not isinstance(step.spec, STATELESS)]
    return " and ".join(dict.fromkeys(kinds)) or "nothing"


def compare_step(one: Step, other: Step, found: Findings) -> Iterator[str]:
    """Why the state of this step does not serve the other; notes what does, and what is otherwise."""
    before, now = one.spec, other.spec
    match before, now:
        case (Partial(), Partial()):
            found.differences.extend(chosen_otherwise(before, now))
        case (SelectRows() | JoinSide(), SelectRows() | JoinSide()):
            if bare(before) != bare(now):
                yield "events are computed otherwise before they are kept"
            found.differences.extend(chosen_otherwise(before, now))
        case (Final(), Final()) | (CountWindows(), CountWindows()) | (Sessions(), Sessions()):
            yield from compare_groups(one, other, before, now, found)
        case (Anomaly(), Anomaly()):
            found.moves.append(Move(one.at, other.at))
            if judging(before) != judging(now):
                yield "the detector of ANOMALY is another, or looks at something else"
            elif before != now:
                found.differences.append("what ANOMALY tells")
        case (TakeFirst(), TakeFirst()) if before.ordered == now.ordered:
            found.moves.append(Move(one.at, other.at))
            if before != now:
                found.differences.append(f"LIMIT: {now.count} rows in all, instead of {before.count}")
        case (Join(), Join()) | (AsofJoin(), AsofJoin()):
            found.moves.append(Move(one.at, other.at))
            if before != now:
                yield "the join is another: its condition, its WITHIN, or what it keeps of its rows"
        case _:
            if not isinstance(before, STATELESS):
                found.moves.append(Move(one.at, other.at))
            if before != now:
                yield f"{NAMES.get(type(before).__name__, 'what comes before')} would keep something else"


def chosen_otherwise(before: Partial | SelectRows | JoinSide, now: Partial | SelectRows | JoinSide) -> Iterator[str]:
    if before.predicate != now.predicate:
        yield "WHERE: what it says now holds for events that come from now on"
    if before.sampling != now.sampling:
        yield "SAMPLE: what it says now holds for events that come from now on"


def bare(spec: SelectRows | JoinSide) -> SelectRows | JoinSide:
    """The step apart from which events it takes."""
    sql = spec.sql
    for condition in (spec.sampling, spec.predicate):
        if condition:
            sql = sql.replace(f"({condition})", "?")
    sql = sql.replace(" AND ?", "").replace("(SELECT * FROM batch WHERE ?)", "batch")
    return replace(spec, sql=sql, predicate=None, sampling=None, late=None, lateness_us=0)


def judging(spec: Anomaly) -> Anomaly:
    """The detector apart from what is told of its judgement."""
    return replace(spec, project="", limit=None, emit="", seed="", ends_us=None, told_after_us=None)


# --- groups ---------------------------------------------------------------------------------------------------


def compare_groups(one: Step, other: Step, before: OperatorSpec, now: OperatorSpec, found: Findings) -> Iterator[str]:
    assert isinstance(before, Grouped)
    assert isinstance(now, Grouped)
    if before.window != now.window:
        yield f"its windows are {shown(now.window)}, and were {shown(before.window)}"
    if before.kept.keys != now.kept.keys:
        yield "it groups by other keys"
        return
    columns = columns_kept(before.kept, now.kept)
    bags = tuple(before.kept.bags.index(bag) for bag in now.kept.bags if bag in before.kept.bags)
    if columns is None or len(bags) < len(now.kept.bags):
        yield "it has an aggregate of which nothing was kept so far"
        return
    found.moves.append(Move(one.at, other.at, columns, bags))
    if before.close != now.close:
        found.differences.append("what is told of groups: SELECT, HAVING, ORDER BY")
    if isinstance(before, Final) and isinstance(now, Final):
        if before.hold_us != now.hold_us:
            yield "its windows wait for late rows otherwise before they are judged"
        rhythm = [(spec.emit, spec.every_us, spec.early_us, spec.revise_us) for spec in (before, now)]
        if rhythm[0] != rhythm[1]:
            found.differences.append("when groups are told: EMIT, REVISIONS")
    elif not isinstance(before, Final) and not isinstance(now, Final) and before.retold != now.retold:
        found.differences.append("when groups are told: EMIT, REVISIONS")


def columns_kept(before: Kept, now: Kept) -> tuple[tuple[str, str], ...] | None:
    """Where each partial that is needed now was kept before; None where one was not."""
    known = {meaning: f"f{i}" for i, meaning in reversed(list(enumerate(before.columns)))}
    known.setdefault("count(*) by sum((count(*)))", "n")
    if any(meaning not in known for meaning in now.columns):
        return None
    return tuple((f"f{i}", known[meaning]) for i, meaning in enumerate(now.columns))


def shown(window: Window) -> str:
    if window.kind == "none":
        return "none at all"
    unit, of = (1, "events") if window.kind == "count" else (1e6, "s")
    size = f" of {window.size / unit:g} {of}" if window.size else ""
    step = f" every {window.slide / unit:g} {of}" if window.slide not in (0, window.size) else ""
    return f"{window.kind}{size}{step}"


# --- what is told ---------------------------------------------------------------------------------------------


def compare_results(old: Plan, new: Plan, found: Findings) -> None:
    if old.result.keyed != new.result.keyed:
        kinds = {True: "rows that replace earlier ones", False: "rows that stay"}
        found.reasons.append(f"it tells {kinds[new.result.keyed]}, and told {kinds[old.result.keyed]}")
    elif old.result.columns != new.result.columns:
        before, now = ([name for name, _ in plan.result.columns] for plan in (old, new))
        if new.result.keyed:
            found.reasons.append("its rows replace earlier ones, and these have other columns")
            return
        more, fewer = [one for one in now if one not in before], [one for one in before if one not in now]
        told = [f"more: {', '.join(more)}"] if more else []
        told += [f"fewer: {', '.join(fewer)}"] if fewer else []
        found.differences.append(f"columns: {'; '.join(told) or 'in another order, or of other types'}")
