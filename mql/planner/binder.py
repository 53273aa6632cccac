"""From a syntax tree to a logical plan: every clause looked up in the catalog, checked, and put in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mql import syntax
from mql.catalog import Catalog
from mql.errors import MqlError, Span, did_you_mean
from mql.planner.binding import Scope, bind_condition, constant_duration, constant_text
from mql.planner.bounds import bind_bounds, time_bounds
from mql.planner.collecting import Collector, without_aggregates
from mql.planner.expressions import Constant, conjunction
from mql.planner.groups import bind_grouped, is_grouped
from mql.planner.logical import Filter, Logical, Sample
from mql.planner.reading import bind_from
from mql.planner.sampling import bind_sample
from mql.planner.selecting import bind_plain
from mql.planner.speaking import bind_speak, check_order, check_revisions
from mql.planner.windowing import bind_window, window_outputs
from mql.schema import BOOLEAN, DataType, Path

SETTINGS = ("late", "revisions_for")
REVISIONS_FOR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Given:
    """What the asker brings beside the text: parameters, the time it is, whether early values are wanted."""

    params: Mapping[str, object] = field(default_factory=dict)
    now_us: int = 0
    early_us: int | None = None


@dataclass(frozen=True, slots=True)
class BoundQuery:
    """A logical plan with what readers are told beside it. `as_live`: a bounded input is judged as if it came live."""

    plan: Logical
    columns: tuple[tuple[str, DataType], ...]
    as_live: bool
    warnings: tuple[str, ...]


def bind(query: syntax.Query, catalog: Catalog, given: Given) -> BoundQuery:
    """Look up and check everything a query says. MqlError tells what can't be."""
    _refuse_what_is_missing(query)
    read = bind_from(query, catalog, given.params)
    info = read.info
    opened: set[Path] = set()
    scope = read.scope(given.params, opened)
    settings = _settings(query, scope)
    since, until = bind_bounds(query, info, scope, given.now_us)
    lateness = info.lateness_us if query.lateness is None else constant_duration(query.lateness, scope)
    _at_least(lateness, 0, "LATENESS", query.lateness)
    window = bind_window(query, scope)

    plan: Logical = read.input(since, until, lateness)
    if query.sample is not None:
        plan = Sample(plan, bind_sample(query.sample, scope))
    where = [] if query.where is None else [bind_condition(query.where, without_aggregates(scope, "WHERE"))]
    between = conjunction([*time_bounds(since, until), *where])
    if between != Constant(True, BOOLEAN):
        plan = Filter(plan, between)

    collector = Collector()
    inner = replace(scope, aggregates=collector, outputs=window_outputs(window))
    if is_grouped(query):
        plan, columns = bind_grouped(query, plan, window, inner, collector)
    else:
        plan, columns = bind_plain(query, plan, window, scope)
    emit = bind_speak(query, plan, window, is_grouped(query), scope, given.early_us)
    if query.emit is not None and query.emit.revisions:
        check_revisions(query, query.emit, window)
        emit = replace(emit, revise_us=settings.get("revisions_for", REVISIONS_FOR_US))
    elif "revisions_for" in settings:
        raise MqlError('"revisions_for" is for rows that are revised', query.span, "Add EMIT FINAL WITH REVISIONS.")
    check_order(query, since, until, window)
    if emit.kind in ("changes", "every") and not is_grouped(query):
        raise MqlError(
            f'"EMIT {emit.kind.upper()}" needs groups',
            query.emit.span if query.emit else None,
            "Rows without aggregates are told at once; leave EMIT out, or add an aggregate.",
        )
    warnings = tuple(f'"{".".join(path)}" has not been seen in "{info.name}" yet' for path in sorted(opened))
    return BoundQuery(emit, columns, settings.get("late") == "as_live", warnings)


# --- the clauses -----------------------------------------------------------------------------------------


def _refuse_what_is_missing(query: syntax.Query) -> None:
    """Clauses that the grammar knows and this version does not run."""
    refused: list[tuple[object, str, str]] = [
        (query.joins, "JOIN", "Ask each source in a query of its own."),
        (query.ctes, "WITH", "Write the query without it."),
        (query.union, "UNION ALL", "Ask the queries one by one."),
        (query.qualify, "QUALIFY", "Use LIMIT n PER key for the first rows of each group."),
        (query.replay_speed, "REPLAY SPEED", "Leave it out: SINCE with UNTIL answers at once."),
    ]
    for clause, name, hint in refused:
        if clause:
            raise MqlError(f'"{name}" is not supported yet', _span_of(clause), hint, code="not-supported")
    if query.anomaly is None and query.emit is not None and query.emit.kind in ("anomalies", "episodes", "all"):
        raise MqlError(f'"EMIT {query.emit.kind.upper()}" needs an ANOMALY clause', query.emit.span)


def _span_of(clause: object) -> Span | None:
    first = clause[0] if isinstance(clause, tuple) else clause
    if isinstance(first, tuple):
        first = first[1]
    return getattr(first, "span", None)


def _settings(query: syntax.Query, scope: Scope) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in query.settings:
        if name.lower() not in SETTINGS:
            hint = did_you_mean(name, SETTINGS) or f"There are: {', '.join(SETTINGS)}."
            raise MqlError(f'no setting "{name}"', value.span, hint)
        if name.lower() == "revisions_for":
            found[name.lower()] = constant_duration(value, scope)
            _at_least(constant_duration(value, scope), 1, name, value)
            continue
        text = constant_text(value, scope)
        if text not in ("as_live", "never"):
            raise MqlError(f'setting "late" can not be "{text}"', value.span, "Write 'as_live' or 'never'.")
        found[name.lower()] = text
    return found


def _at_least(value: int, least: int, name: str, node: syntax.Expression | None) -> None:
    if value < least:
        what = "can not be negative" if least == 0 else "must be more than nothing"
        raise MqlError(f'"{name}" {what}', None if node is None else node.span)
