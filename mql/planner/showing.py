"""How a logical plan reads: a line for each of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from mql.planner.expressions import Aggregate, Bound
from mql.planner.logical import (
    Arrange,
    Derived,
    Detect,
    Enriched,
    Filter,
    Frame,
    Group,
    Joined,
    Key,
    Logical,
    Merge,
    Over,
    OverCall,
    Project,
    Sample,
    Sampled,
    Scan,
    Speak,
    Track,
    Union,
    Windowed,
    chain,
    input_of,
    inputs_of,
)
from mql.planner.physical import Budget, Pace, Start, Window


def show(node: Logical) -> str:
    """The plan as EXPLAIN LOGICAL prints it: one node a line, inputs indented."""
    return "\n".join(_shown(node, 0))


def _shown(node: Logical, depth: int) -> Iterator[str]:
    for found in chain(node):
        yield f"{'  ' * depth}{show_line(found)}"
        depth += 1
    read = input_of(node)
    for below in (read.query,) if isinstance(read, Derived) else inputs_of(read):
        yield from _shown(below, depth)


def show_line(node: Logical) -> str:
    """One node."""
    match node:
        case Scan():
            columns = ", ".join("/".join(path) for path, _ in node.columns) or "nothing but the time"
            return f"scan {node.info.name} [{columns}] since {show_start(node.since)} until {show_start(node.until)}"
        case Merge():
            return "merge"
        case Derived():
            return f"rows of {node.info.name} [{', '.join('/'.join(path) for path, _ in node.columns)}]"
        case Union():
            return "union"
        case Joined():
            return show_join(node)
        case Enriched():
            meets = show_meeting(node.keys, node.rest)
            return f"{node.kind} join with table {node.table.name} on {meets}"
        case Sample():
            return f"sample {show_sampled(node.sampled)}"
        case Filter():
            return f"filter {show_bound(node.predicate)}"
        case Group():
            keys = ", ".join(show_bound(key) for key in node.keys) or "everything"
            calls = ", ".join(show_aggregate(call) for call in node.aggregates)
            begins = "" if node.begins is None else f" start when {show_bound(node.begins)}"
            ends = "" if node.ends is None else f" end when {show_bound(node.ends)}"
            fill = node.filled
            filled = "" if fill is None else f" filled with {show_bound(fill.value)} for {show_us(fill.for_us)}"
            window = f"{show_window(node.window)}{begins}{ends}{filled}"
            return f"group by {keys} window {window} computing {calls or 'nothing'}"
        case Windowed():
            return f"window {show_window(node.window)}"
        case Detect():
            return show_detect(node)
        case Track():
            return f"track {show_bound(node.value)} by steps of {node.step:g}, anomalous above {node.times:g} times"
        case Over():
            calls = ", ".join(f"w{i} := {show_over(call)}" for i, call in enumerate(node.calls))
            forgets = any(call.forgets for call in node.calls)
            return f"over {calls}{f', silent partitions kept for {show_us(node.ttl_us)}' if forgets else ''}"
        case Project():
            return "project " + ", ".join(f"{name} := {show_bound(item)}" for name, item in node.items)
        case Arrange():
            order = ", ".join(show_bound(key.expression) + (" desc" if key.descending else "") for key in node.order)
            limit = "" if node.limit is None else f" limit {node.limit}"
            per = "" if not node.per else " per " + ", ".join(show_bound(item) for item in node.per)
            scope = " in each window" if node.per_window else ""
            return f"arrange by [{order}]{limit}{per}{scope}"
        case Speak():
            every = "" if node.every_us is None else f" every {show_us(node.every_us)}"
            early = "" if node.early_us is None else f" with early {show_us(node.early_us)}"
            revised = "" if not node.revise_us else f" with revisions for {show_us(node.revise_us)}"
            held = "" if not node.hold_us else f" once late rows were waited for {show_us(node.hold_us)}"
            return f"emit {node.kind}{every}{early}{revised}{held}"
        case _:
            assert_never(node)


def show_join(node: Joined) -> str:
    """What a join does, how far apart its rows may be, and so for how long it keeps them."""
    before, after = show_us(node.before_us), show_us(node.after_us)
    match node.how:
        case "window":
            assert node.window is not None
            bound = f"in the same window {show_window(node.window)}"
        case "asof":
            bound = f"the newest {'before' if node.strict else 'up to'} each row, at most {before} older"
        case _:
            bound = f"within {before}" if node.before_us == node.after_us else f"within ({before}, {after})"
    kept = ", as long as state is kept" if node.unbounded else ""
    withdrawn = ", telling rows without partners at once" if node.retracts else ""
    kind = f"{node.kind} asof" if node.how == "asof" else node.kind
    return f"{kind} join on {show_meeting(node.keys, node.rest)} {bound}{kept}{withdrawn}"


def show_meeting(keys: tuple[Key, ...], rest: Bound | None) -> str:
    """Which rows meet."""
    equal = [f"{show_bound(key.left)} {'==' if key.nulls else '='} {show_bound(key.right)}" for key in keys]
    return " and ".join([*equal, *([] if rest is None else [show_bound(rest)])]) or "everything"


def show_start(start: Start) -> str:
    match start.kind:
        case "time":
            return f"{start.us} us"
        case "offset":
            return f"offset {start.offset}"
        case kind:
            return kind


def show_us(us: int) -> str:
    """A length of time as a person writes it."""
    if not us:
        return "0s"
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if us % size == 0:
            return f"{us // size}{unit}"
    return f"{us / 1000:g}ms"


def show_window(window: Window) -> str:
    match window.kind:
        case "none":
            return "none"
        case "count":
            step = "" if window.slide == window.size else f" every {window.slide}"
            return f"{window.size} events{step}"
        case "several":
            return ", ".join(f"{one.name}: {show_window(one)}" for one in window.of)
        case "session" | "sliding":
            most = "" if not window.most else f" max {show_us(window.most)}"
            return f"{window.kind} {show_us(window.size)}{most}"
        case kind:
            step = "" if window.slide == window.size else f" every {show_us(window.slide)}"
            offset = "" if not window.offset else f" offset {show_us(window.offset)}"
            zone = "" if window.zone is None else f" in {window.zone}"
            met = " that the rows met in" if window.single else ""
            return f"{kind} {show_us(window.size)}{step}{offset}{zone}{met}"


def show_sampled(sampled: Sampled) -> str:
    by = "" if not sampled.by else " by " + ", ".join(show_bound(item) for item in sampled.by)
    scaled = ", extrapolated" if sampled.extrapolate else ""
    if sampled.per_second is not None:
        return f"{sampled.per_second} per second{by}{scaled}"
    return f"{100 * (sampled.share or 0):g} %{by}{scaled}"


def show_bound(bound: Bound) -> str:
    """A bound expression as a person reads it."""
    from mql.planner.sql import expression_sql

    return expression_sql(bound)


def show_detect(node: Detect) -> str:
    """A detector with what the query sets, and what its windows become."""
    given = ", ".join(f"{name} {value}" for name, value in node.parameters if value is not None)
    measure = show_bound(node.value) + ("" if node.of is None else f" of {show_bound(node.of)}")
    share = " of the window's sum" if node.relative else ""
    limit = "" if node.limit is None else f", at most {node.limit} a window"
    by = node.explained
    explained = "" if by is None else f", explained by the top {by.top} of {', '.join(by.dimensions)}"
    budget = "" if node.budget is None else f", {show_budget(node.budget)}"
    if node.scale is not None:
        budget += f": {node.scale:g} times the threshold"
    silent = "" if node.told_after_us is None else f", silent until {node.told_after_us} us"
    paced = f"({given}), {node.needed} of {node.out_of} windows, rearm after {node.rearm}"
    if node.paces:
        paced = f"for each window, {node.needed} of {node.out_of}"
    return (
        f"detect {node.direction} in {measure}{share} by {node.method} {paced}{limit}, tell {node.emit}"
        f"{explained}{silent}{budget}{''.join(map(_show_pace, node.paces))}"
    )


def _show_pace(pace: Pace) -> str:
    given = ", ".join(f"{name} {value}" for name, value in pace.parameters if value is not None)
    return f"; {pace.window.name} ({given}), rearm after {pace.rearm}"


def show_budget(budget: Budget) -> str:
    return f"at most {budget.alerts} alerts in {show_us(budget.per_us)}"


def show_aggregate(call: Aggregate) -> str:
    inside = ", ".join([*(show_bound(arg) for arg in call.args), *(str(extra.value) for extra in call.extra)])
    distinct = "distinct " if call.distinct else ""
    only = "" if call.filter is None else f" filter ({show_bound(call.filter)})"
    return f"{call.name}({distinct}{inside or '*'}){only}"


def show_over(over: OverCall) -> str:
    partition = [f"partition by {', '.join(show_bound(item) for item in over.partition)}"] if over.partition else []
    order = ", ".join(show_bound(key.expression) + (" desc" if key.descending else "") for key in over.order)
    frame = [show_frame(over.frame)] if over.frame is not None else []
    inside = " ".join([*partition, *([f"order by {order}"] if order else []), *frame])
    told = {"run": "as rows come", "window": "in each window", "all": "of all rows"}[over.scope]
    call = show_aggregate(over.call) if over.call.args or over.call.extra else f"{over.call.name}()"
    return f"{call} over ({inside}) {told}"


def show_frame(frame: Frame) -> str:
    def bound(value: int | float | None, side: str) -> str:
        if value is None:
            return f"unbounded {side}"
        if value == 0:
            return "current row"
        return f"{abs(value)} {'preceding' if value < 0 else 'following'}"

    return f"{frame.unit} between {bound(frame.start, 'preceding')} and {bound(frame.end, 'following')}"
