"""Queries tried over history: backtests, and the thresholds that budgets of alerts ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

import pyarrow as pa

from mql import syntax
from mql.errors import MqlError
from mql.exec.backtest import DAY_US, HITS_MAX, Episodes, Hits, Label, Picked, report
from mql.formatter import format_query
from mql.parser import parse
from mql.planner.backtesting import detector_of, episodes_plan, hits_plan
from mql.planner.compile import Compiled
from mql.planner.physical import Anomaly, Budget, Plan
from mql.planner.showing import show_us

Run = Callable[[Compiled], Iterator[pa.Table]]
Compile = Callable[[str], Compiled]


@dataclass(frozen=True, slots=True)
class Trial:
    """How queries are compiled and run here: `compile` takes a text, with the parameters and the time given; `run`
    gives a bounded query's tables."""

    compile: Compile
    run: Run


def backtest(
    trial: Trial, text: str, since: str | None, until: str | None, labels: Sequence[Label] | None
) -> dict[str, Any]:
    """What the query's detector would have told in that stretch: see `mql.exec.backtest.report`."""
    over = bounded_text(text, since, until)
    compiled = trial.compile(over)
    plan, names = episodes_plan(compiled)
    unknown = sorted({name for label in labels or () for name in label.keys} - set(names))
    if unknown:
        hint = f"The groups have {', '.join(names) or 'none'}."
        raise MqlError(f'labels name "{unknown[0]}", which is no key of the groups', hint=hint, code="invalid-labels")
    found = Episodes(names)
    for table in trial.run(replace(compiled, plan=plan)):
        found.take(table)
    span = stretch(trial, over, plan, detector_of(compiled))
    notes = list(compiled.plan.warnings)
    return {**report(found.all(), *(span or (0, 0)), labels), "notes": notes}


def pick(trial: Trial, text: str, compiled: Compiled, now_us: int) -> Picked | None:
    """The threshold with which the query would have kept to its budget; None where there is no history yet."""
    spec = detector_of(compiled)
    assert spec is not None
    budget = spec.budget
    assert budget is not None
    over = text
    if not compiled.plan.scan.bounded:
        start_us = compiled.plan.scan.since.us
        point_us = spec.told_after_us or start_us or now_us
        over = bounded_text(text, iso(point_us - budget.over_us), iso(point_us), replaces=True)
        try:
            compiled = trial.compile(over)
        except MqlError as error:
            hint = "Its threshold is picked from history: declare the source with record: true, or leave it out."
            raise MqlError(f"ALERT BUDGET can not be kept: {error.message}", hint=hint, code=error.code) from None
    plan = hits_plan(compiled)
    span = stretch(trial, over, plan, detector_of(compiled))
    if span is None:
        return None
    hits = Hits(spec)
    for table in trial.run(replace(compiled, plan=plan)):
        hits.take(table)
    if hits.count > HITS_MAX:
        hint = "Raise the method's threshold, add FOR n OF m or MINIMUM, or take a shorter history."
        raise MqlError(f"more than {HITS_MAX:,} windows of history are unusual", hint=hint, code="too-many-hits")
    length_us = span[1] - span[0]
    return hits.pick(ceil(budget.alerts * length_us / budget.per_us), length_us / DAY_US)


def stretch(trial: Trial, text: str, plan: Plan, spec: Anomaly | None) -> tuple[int, int] | None:
    """From when to when the history has events, within the bounds of the query; None where it has none."""
    tree = parse(text)
    asked = parse("SELECT min(event_time()) AS first, max(event_time()) AS last FROM x")
    asked = replace(asked, sources=tree.sources, joins=tree.joins, ctes=tree.ctes, since=tree.since, until=tree.until)
    for table in trial.run(trial.compile(format_query(asked))):
        for row in table.to_pylist():
            if row["first"] is None:
                return None
            first, last = (us_of(row[name]) for name in ("first", "last"))
            since, until = plan.scan.since, plan.scan.until
            after_us = None if spec is None else spec.told_after_us
            if after_us is not None:
                first = max(first, after_us)
            elif since.kind == "time" and since.us is not None:
                first = max(first, since.us)
            return first, max(first + 1, last if until.us is None else min(until.us, last + 1))
    return None


def told_of(picked: Picked | None, budget: Budget, spec: Anomaly) -> str:
    """What is said of a threshold that was picked."""
    allowed = f"at most {budget.alerts} in {show_us(budget.per_us)}"
    if picked is None:
        return f"alert budget ({allowed}): there is no history yet, so the method's own threshold stands"
    own = dict(spec.parameters)
    threshold = own.get("threshold", own.get("times"))
    value = f" ({threshold * picked.scale:g})" if isinstance(threshold, int | float) else ""
    return (
        f"alert budget ({allowed}): {picked.scale:g} times the method's threshold{value}; in {picked.days:.3g} days of "
        f"history that opens {picked.alerts} episodes, the method's own {picked.unscaled}"
    )


def bounded_text(text: str, since: str | None, until: str | None, *, replaces: bool = False) -> str:
    """The query over a stretch of history. What it says itself counts, unless it is replaced; it ends now at the
    latest."""
    tree = parse(text)
    for name, given, own in (("since", since, tree.since), ("until", until, tree.until)):
        if given is not None and own is not None and not replaces:
            raise MqlError(f'the query says "{name}" itself', hint=f"Leave {name} out, here or there.")
    since_point = tree.since if since is None else point_of("SINCE", since)
    until_point = tree.until if until is None else point_of("UNTIL", until)
    if since_point is not None and until_point is None:
        until_point = point_of("UNTIL", "now")
    return format_query(replace(tree, since=since_point, until=until_point, explain=None))


def point_of(word: str, said: str) -> syntax.Point | None:
    quoted = said.replace("'", "''")
    tree = parse(f"SELECT 1 FROM x {word} '{quoted}'")
    return tree.since if word == "SINCE" else tree.until


def labels_of(said: Sequence[Mapping[str, Any]]) -> list[Label]:
    """Labels as people write them: `start` and `end` (times, or seconds since the epoch), and values of keys."""
    found = []
    for at, one in enumerate(said):
        try:
            start_us, end_us = (moment_us(one[name]) for name in ("start", "end"))
        except (KeyError, TypeError, ValueError):
            hint = 'Each has a start and an end: {"start": "2026-01-31T12:00:00Z", "end": "2026-01-31T12:10:00Z"}.'
            raise MqlError(f"label {at + 1} has no times", hint=hint, code="invalid-labels") from None
        if end_us <= start_us:
            raise MqlError(f"label {at + 1} ends before it starts", code="invalid-labels")
        keys = {name: str(value) for name, value in one.items() if name not in ("start", "end") and value is not None}
        found.append(Label(start_us, end_us, keys))
    return found


def moment_us(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    if isinstance(value, int | float):
        return round(value * 1e6)
    return us_of(datetime.fromisoformat(value))


def us_of(at: datetime) -> int:
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def iso(us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat()
