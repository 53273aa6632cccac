"""EMIT: when rows are told, and what can not be."""

from __future__ import annotations

from dataclasses import replace

from mql import syntax
from mql.errors import MqlError
from mql.planner.binding import Scope, constant_duration
from mql.planner.groups import is_grouped
from mql.planner.logical import Arrange, Input, Logical, Speak, find
from mql.planner.physical import Start, Window

DEFAULT_EVERY_US = 1_000_000
REVISIONS_FOR_US = 3_600_000_000
UNORDERED = "the order of windows of events needs rows that are final"
ORDERED_ABOVE = "Leave EMIT out, or put the windows into a query in FROM."


def bind_speak(
    query: syntax.Query, plan: Logical, window: Window, grouped: bool, scope: Scope, early_us: int | None
) -> Speak:
    """When the rows of the plan are told. MqlError tells what has no meaning."""
    emit = query.emit
    every = early = None
    if emit is not None and emit.every is not None:
        every = _positive(emit.every, scope)
    if emit is not None and emit.early is not None:
        early = _positive(emit.early, scope)
    if not grouped:
        listed = bool(query.order_by) and query.limit is not None and window.kind == "none"
        if emit is None or emit.kind == "final" or (listed and emit.kind == "changes"):
            return Speak(plan, "rows", every, None)
        hint = "Rows without aggregates are told at once; leave EMIT out, or add an aggregate."
        raise MqlError(f'"EMIT {emit.kind.upper()}" needs groups', emit.span, hint)
    kind = emit.kind if emit is not None else ("changes" if window.kind == "none" else "final")
    if query.anomaly is not None:
        if emit is not None and (kind in ("changes", "every") or early is not None):
            hint = "Write EMIT EPISODES, EMIT ANOMALIES or EMIT ALL."
            raise MqlError("ANOMALY judges windows that are final", emit.span, hint)
        return Speak(plan, "final", None, None)
    if kind == "final" and window.kind == "none" and not _ends(plan):
        hint = "Add a WINDOW, or write EMIT CHANGES EVERY 1s."
        raise MqlError("a stream without windows never has final groups", emit.span if emit else None, hint)
    early_told = kind != "final" or early is not None
    if early_told and emit is not None and not may_be_early(window, plan):
        raise MqlError(UNORDERED, emit.span, ORDERED_ABOVE)
    if kind in ("changes", "every"):
        every = every or DEFAULT_EVERY_US
    if emit is None and window.kind not in ("none", "sliding") and may_be_early(window, plan):
        early = None if query.windows[0].fill is not None or counts_rows(plan) else early_us
    return Speak(plan, kind, every, early if kind == "final" else None)


def may_be_early(window: Window, plan: Logical) -> bool:
    """Whether values can be told before their time. A window of events that fills slowly ends before the watermark,
    and has its place among rows only when it is full."""
    return window.kind != "count" or find(plan, Arrange) is None


def counts_rows(plan: Logical) -> bool:
    """Whether LIMIT holds in total, and the query then ends."""
    arrange = find(plan, Arrange)
    return isinstance(arrange, Arrange) and not (arrange.order or arrange.per or arrange.per_window)


def _ends(plan: Logical) -> bool:
    node = plan
    while not isinstance(node, Input):
        node = node.input
    return node.until.kind != "live"


def check_revisions(query: syntax.Query, emit: syntax.Emit, window: Window, plan: Logical) -> None:
    """Rows are revised where each window has rows of its own that nothing else rests on."""
    if window.kind == "none" or not is_grouped(query):
        hint = "Add an aggregate and a window such as WINDOW TUMBLING 10s; without a window EMIT CHANGES tells them."
        raise MqlError("REVISIONS needs groups in windows", emit.span, hint)
    if not may_be_early(window, plan):
        raise MqlError(UNORDERED, emit.span, ORDERED_ABOVE)


def revised(query: syntax.Query, emit: syntax.Emit, speak: Speak, for_us: int | None) -> Speak:
    """Rows are told anew for so long after their window; a detector, which learns from each window once and whose
    verdict stands, waits for that long instead."""
    if query.anomaly is None:
        return replace(speak, revise_us=REVISIONS_FOR_US if for_us is None else for_us)
    if for_us is None:
        hint = "A verdict is given once, after so long: add SETTINGS revisions_for = '30s', or leave REVISIONS out."
        raise MqlError("ANOMALY WITH REVISIONS has to know how long late rows are waited for", emit.span, hint)
    return replace(speak, hold_us=for_us)


def _positive(node: syntax.Expression, scope: Scope) -> int:
    us = constant_duration(node, scope)
    if us < 50_000:
        raise MqlError("rows are told at most every 50ms", node.span)
    return us


def check_order(query: syntax.Query, until: Start, window: Window) -> None:
    """Refuses an order of rows that never ends."""
    if query.order_by and query.limit is None and window.kind == "none" and until.kind == "live":
        hint = "Add LIMIT n for a list of the top that is kept up to date, or a WINDOW."
        raise MqlError("ORDER BY over a stream without end needs a LIMIT", query.order_by[0].expression.span, hint)
