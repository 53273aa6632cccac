"""EXPLAIN: every form of a query, as text for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import assert_never

from mql import syntax
from mql.detectors import method_named
from mql.errors import MqlError, did_you_mean
from mql.planner.compile import Compiled
from mql.planner.joins import sides_of
from mql.planner.logical import Derived, Detect, Frame, Input, Joined, Logical, Over, Union, inputs_of, scans_of
from mql.planner.over_sql import rows_after, rows_back
from mql.planner.parts import Parts, parts_of
from mql.planner.physical import (
    Ahead,
    Anomaly,
    Arranging,
    AsEvents,
    AsofJoin,
    CountWindows,
    Expand,
    Fill,
    Final,
    Held,
    Join,
    JoinSide,
    Lookup,
    OperatorSpec,
    Partial,
    Plan,
    RateSample,
    Renumber,
    Running,
    RunningMedian,
    SelectRows,
    Sessions,
    Stage,
    TakeFirst,
    Window,
)
from mql.planner.showing import show, show_start, show_us, show_window
from mql.schema import DataType, ListOf, MapOf, Scalar, StructOf

SHOWN_MAX = 5
VALUE_SHOWN_MAX = 40
FORMS = ("plan", "logical", "physical", "sql", "estimate")


def explain(compiled: Compiled, form: str = "plan", placement: str | None = None) -> str:
    """One form of the query. `placement` (which task runs where) is added to the forms that tell how it runs."""
    plan = compiled.plan
    match form.lower():
        case "logical":
            return show(compiled.logical)
        case "physical":
            return _with_placement(physical(plan), placement)
        case "sql":
            judged = (f"-- {one.table}, judged by a detector:\n{laid_out(one.sql)}\n\n" for one in plan.judged)
            return "".join(judged) + laid_out(plan.batch)
        case "estimate":
            return estimate(compiled)
        case "plan":
            return _with_placement(f"{summary(compiled)}\n\n{show(compiled.logical)}\n\n{stages(plan)}", placement)
        case _:
            hint = did_you_mean(form, FORMS) or f"There are: {', '.join(FORMS)}."
            raise MqlError(f'no form "{form}" of EXPLAIN', hint=hint)


def summary(compiled: Compiled) -> str:
    """What is read, what comes out and when, in a few lines."""
    plan = compiled.plan
    scan = plan.scan
    sources = ", ".join(_times(Counter(one.source for one in plan.scans)))
    paths = dict.fromkeys("/".join(path) for one in plan.scans for path, _ in one.columns)
    names = ", ".join(paths) or "none"
    columns = ", ".join(f"{name} {type}" for name, type in plan.result.columns)
    needles = ""
    if scan.needles is not None:
        shown = " or ".join(needle.decode("utf-8", "replace") for needle in scan.needles.any_of[:3])
        needles = f"\nprefilter  only texts that hold {shown}"
    notes = "".join(f"\nnote       {warning}" for warning in plan.warnings)
    told = {
        "rows": "each row at once",
        "final": "each group once, when its window closes",
        "changes": "each group that changed",
        "every": "all open groups",
    }[plan.result.emit]
    return (
        f"source     {sources}, since {show_start(scan.since)}, until {show_start(scan.until)}, "
        f"lateness {show_us(scan.lateness_us)}\n"
        f"{_named(compiled.tree)}reads      {names}{needles}\n"
        f"gives      {columns}\n"
        f"speaks     {told}\n"
        f"{_shares(compiled)}"
        f"plan hash  {plan.hash}{notes}"
    )


def _shares(compiled: Compiled) -> str:
    """The literals in which others may differ that run by the same plan."""
    sibling = compiled.sibling
    if sibling is None:
        return ""
    values = [value for value in sibling.values if not isinstance(value, tuple)]
    values += [item for value in sibling.values if isinstance(value, tuple) for item in value]
    shown = ", ".join(show_value(value) for value in values[:SHOWN_MAX])
    more = f" and {len(values) - SHOWN_MAX} more" if len(values) > SHOWN_MAX else ""
    return f"shares     one plan with queries that differ from it only in {shown}{more}\n"


def show_value(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= VALUE_SHOWN_MAX else f"{text[:VALUE_SHOWN_MAX]}…"


def _times(counts: Counter[str]) -> list[str]:
    return [name if times == 1 else f"{name} ({times} times)" for name, times in counts.items()]


def _named(tree: syntax.Query) -> str:
    """Which queries of WITH are used more than once: each use computes its own."""
    uses = Counter(ref.name for ref in _refs(tree) if ref.name is not None)
    twice = [f"{name} {uses[name]} times" for name, _ in tree.ctes if uses[name] > 1]
    return f"computes   {', '.join(twice)}: once for each place that names it\n" if twice else ""


def _refs(tree: syntax.Query) -> Iterator[syntax.SourceRef]:
    """What a text names in FROM, at any depth."""
    for part in (tree, *tree.union):
        for ref in part.sources:
            if isinstance(ref, syntax.SubqueryRef):
                yield from _refs(ref.query)
            else:
                yield ref
    for _, query in tree.ctes:
        yield from _refs(query)


def stages(plan: Plan) -> str:
    """The stages with their exchanges, a line each."""
    return "\n".join(_stage_line(stage) for stage in plan.stages)


def physical(plan: Plan) -> str:
    """The stages with the statements that their operators run."""
    lines = []
    for stage in plan.stages:
        lines.append(_stage_line(stage))
        for spec in stage.operators:
            lines.extend(f"    {line}" for title, sql in statements(spec) for line in (f"-- {title}", laid_out(sql)))
    return "\n".join(lines).replace("\n    -- ", "\n\n    -- ")


def statements(spec: OperatorSpec) -> list[tuple[str, str]]:
    """The SQL that an operator runs, with what it is for."""
    match spec:
        case SelectRows():
            return [("each batch", spec.sql)]
        case Partial():
            return [("each batch", spec.sql), *((f"each batch, bag {i}", sql) for i, sql in enumerate(spec.bags))]
        case RateSample() | Renumber() | AsEvents():
            return []
        case Expand():
            return [("each batch", spec.sql)]
        case CountWindows():
            return [("as rows are released", spec.number), ("then", spec.partial), ("full windows", spec.close)]
        case Final():
            return [("when state grows", spec.merge), ("when a window closes", spec.close)]
        case Fill():
            return [("when a window closes", spec.close)]
        case Held():
            return [("when rows are final", spec.close)]
        case Ahead():
            return [("as the watermark passes rows", spec.judge)]
        case Running():
            return [("as the watermark passes rows", spec.close), *(("what goes on", sql) for sql in spec.carry)]
        case Sessions():
            return [("which meet", spec.spans), ("when a session is over", spec.close), ("the others", spec.fold)]
        case Arranging():
            return [("when rows are complete", spec.sql)]
        case TakeFirst() | RunningMedian():
            return []
        case JoinSide():
            return [(f"each batch of the {spec.port} side", spec.sql)]
        case Join():
            told = [
                ("rows that meet", spec.pairs),
                ("rows of the left side alone", spec.alone_left),
                ("rows of the right side alone", spec.alone_right),
                ("rows of the left side that had none", spec.met_left),
                ("rows of the right side that had none", spec.met_right),
            ]
            return [(title, sql) for title, sql in told if sql is not None]
        case AsofJoin():
            return [("when the watermark has passed rows", spec.joined), ("when state grows", spec.newest)]
        case Lookup():
            return [("each batch", spec.sql)]
        case Anomaly():
            return [("what is told of a window", spec.project)]
        case _:
            assert_never(spec)


def estimate(compiled: Compiled) -> str:
    """What the query will hold, in bytes per group, with the arithmetic."""
    lines = [
        f"decodes {len(scan.columns)} of {len(scan.info.shape.fields)} properties of each event"
        + ("" if len(compiled.plan.scans) == 1 else f' of "{scan.info.name}"')
        for scan in scans_of(compiled.logical)
    ]
    lines.extend(line for parts in _queries(compiled.logical) for line in _kept(parts, compiled.plan.scan.lateness_us))
    return "\n".join(lines)


def _queries(top: Logical) -> Iterator[Parts]:
    """All queries of a plan, the outermost first, less those that only hand on what another one gives."""
    parts = parts_of(top)
    if parts.group is not None or not isinstance(parts.scan, Derived | Union):
        yield parts
    waiting: list[Input] = [parts.scan]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, Derived):
            yield from _queries(node.query)
        else:
            waiting.extend(inputs_of(node))


def _kept(parts: Parts, lateness_us: int) -> list[str]:
    """What one of its queries keeps."""
    lines: list[str] = []
    group = parts.group
    if group is None and parts.over is not None:
        return _over_state(parts.over)
    joins = joins_estimate(parts.scan)
    if group is None:
        return joins or ["keeps no state: every row is told at once"]
    lines.extend(joins)
    key_bytes = sum(_bytes(key.type) for key in group.keys)
    partial_bytes = sum(_bytes(call.type) for call in group.aggregates) + 24
    row = key_bytes + partial_bytes
    lines.append(f"keeps {row} bytes for each group and pane: {key_bytes} of keys, {partial_bytes} of partials")
    if group.window.kind in ("tumbling", "hopping", "cumulate"):
        open_us = group.window.size + lateness_us
        panes = -(-open_us // group.window.pane)
        lines.append(
            f"{show_window(group.window)}: {panes} panes of {show_us(group.window.pane)} are open at a time "
            f"(size {show_us(group.window.size)} and lateness {show_us(lateness_us)})"
        )
        lines.append(f"state of 1,000 groups: {panes} x {row} x 1,000 = {panes * row * 1000 / 1e6:,.1f} MB")
    else:
        lines.append(f"state of 1,000 groups: {row} x 1,000 = {row * 1000 / 1e6:,.1f} MB")
    if parts.detect is not None:
        lines.append(_detector_state(parts.detect, group.window))
    exact = [call.name for call in group.aggregates if call.distinct or call.name in _VALUES]
    if exact:
        lines.append(f"and every distinct value with its count, for {', '.join(sorted(set(exact)))}")
    return lines


def _over_state(over: Over) -> list[str]:
    """What window functions over events keep: partials of each partition, and the rows that frames reach."""
    if any(call.scope != "run" for call in over.calls):
        return ["keeps rows until all that are looked at together are there"]
    rows = max((rows_back(call) or 0) + (rows_after(call) or 0) for call in over.calls)
    spans = [call.frame for call in over.calls if call.frame is not None and call.frame.unit == "range"]
    reach = max((int(span_of(frame)) for frame in spans), default=0)
    lines = [f"keeps about {32 + 16 * len(over.calls)} bytes for each partition"]
    if rows:
        lines.append(f"and the last {rows:,} rows of each")
    if reach:
        lines.append(f"and the rows of the last {show_us(reach)}")
    if any(call.forgets for call in over.calls):
        lines.append(f"a partition that is silent for {show_us(over.ttl_us)} is forgotten")
    return lines


def span_of(frame: Frame) -> int | float:
    """How far a frame of time reaches from its row; from the first row on it is the rows that are not in it yet."""
    end = frame.end or 0
    start = min(0, end) if frame.start is None else frame.start
    return max(0, end) - min(0, start)


def joins_estimate(node: Input) -> list[str]:
    """What the joins that a query reads keep: rows of both sides, for as long as partners can come."""
    if isinstance(node, Derived | Union):
        return []
    lines = [line for one in inputs_of(node) for line in joins_estimate(one)]
    if not isinstance(node, Joined):
        return lines
    for side, name in zip(sides_of(node), ("left", "right"), strict=True):
        row = sum(_bytes(type) for _, type in side.columns) + sum(_bytes(key.type) for key in side.keys) + META_BYTES
        lines.append(f"the {node.kind} join keeps {row} bytes for each row of its {name} side")
    kept_us = max(node.before_us, node.after_us) + node.lateness_us
    kept = "all rows to the end" if node.before_us >= ENDLESS_US else f"rows of {show_us(kept_us)} or more"
    lines.append(f"it keeps {kept}; each task may hold {node.bytes_max / 1e6:,.0f} MB (SETTINGS state_max)")
    return lines


META_BYTES = 52
ENDLESS_US = 2**60


def _series_of(window: Window) -> int:
    """How many histories a detector has of each group."""
    return window.size // window.slide if window.kind == "cumulate" else 1


def _detector_state(detect: Detect, window: Window) -> str:
    method = method_named(detect.method)
    assert method is not None
    grown = dict(detect.parameters).get(method.grows_with) if method.grows_with else None
    each = method.bytes + EPISODE_BYTES + (method.bytes_each * int(grown) if isinstance(grown, int | float) else 0)
    windows = sum(_series_of(pace.window) for pace in detect.paces) or _series_of(window)
    many = f" and each of {windows} {'windows' if detect.paces else 'steps'}" if windows > 1 else ""
    return (
        f"{detect.method} keeps {each} bytes for each group{many}, without its name: "
        f"{detect.max_keys:,} groups, the most it keeps, take {windows * each * detect.max_keys / 1e6:,.0f} MB"
    )


EPISODE_BYTES = 50
_VALUES = frozenset(("quantile", "quantile_disc", "quantile_cont", "median", "mode", "histogram", "top_k", "list"))


def laid_out(sql: str) -> str:
    """A statement with a line for each CTE."""
    return re.sub(r"\), (\w+) AS \(", r"),\n     \1 AS (", re.sub(r"\) (SELECT )", r")\n\1", sql, count=0))


def _stage_line(stage: Stage) -> str:
    tasks = {"splits": "one task a split", "any": "one task a worker", "one": "one task"}[stage.parallel]
    operators = " -> ".join(operator_name(spec) for spec in stage.operators) or "decode"
    of = f"  (of {' and '.join(str(number) for number in stage.of)})" if stage.of else ""
    return f"stage {stage.number}  {stage.input:7s}{tasks:18s}{operators}{of}"


def operator_name(spec: OperatorSpec) -> str:
    match spec:
        case Renumber(first):
            return f"number splits from {first}"
        case AsEvents():
            return "rows as events"
        case Expand():
            return "join with the roster of queries"
        case SelectRows():
            return "filter and project"
        case Partial(window):
            return f"pre-aggregate by {_panes(window.pane)}"
        case RateSample(per_second):
            return f"keep {per_second} a second"
        case CountWindows(window):
            return f"number rows, aggregate {show_window(window)}"
        case Final(window):
            return f"merge, close {show_window(window)}" if window.kind != "none" else "merge"
        case Fill():
            return "fill windows"
        case Held(window):
            return f"hold rows, aggregate {show_window(window)}"
        case Ahead():
            return "wait for later rows"
        case Running():
            return "go on from row to row"
        case Sessions(window):
            return f"merge, close {show_window(window)}"
        case Arranging():
            return "sort and cut"
        case TakeFirst(count):
            return f"first {count}"
        case RunningMedian():
            return "track the median"
        case JoinSide():
            return f"{spec.port} side"
        case Join():
            return f"{spec.kind} join"
        case AsofJoin():
            return f"{spec.kind} asof join"
        case Lookup():
            return f"{spec.kind} join with table {spec.table}"
        case Anomaly():
            return f"detect by {spec.method}, tell {spec.emit}"
        case _:
            assert_never(spec)


def _panes(pane_us: int) -> str:
    return f"panes of {show_us(pane_us)}" if pane_us else "group"


def _bytes(type: DataType) -> int:
    match type:
        case Scalar("BOOLEAN"):
            return 1
        case Scalar("VARCHAR" | "JSON"):
            return 32
        case Scalar():
            return 8
        case ListOf() | MapOf() | StructOf():
            return 64
        case _:
            assert_never(type)


def _with_placement(text: str, placement: str | None) -> str:
    return text if placement is None else f"{text}\n\n{placement}"
