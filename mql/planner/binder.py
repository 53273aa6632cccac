"""From a syntax tree to a logical plan: every clause looked up in the catalog, checked, and put in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from mql import syntax
from mql.catalog import Catalog
from mql.errors import MqlError, did_you_mean
from mql.planner.binding import Scope, bind_condition, bind_constant, constant_duration, constant_int, constant_text
from mql.planner.bounds import bind_bounds, time_bounds
from mql.planner.collecting import Collector, without_aggregates
from mql.planner.composing import check_as_live, check_inner, check_times, first_of_union, of_the_whole, united
from mql.planner.distinct import distinct_around
from mql.planner.expressions import Constant, conjunction
from mql.planner.extrapolating import check_extrapolated
from mql.planner.grouping import can_take_back
from mql.planner.groups import bind_grouped, is_grouped
from mql.planner.joining import bind_joins, bind_memberships, memberships, met_in, with_source, with_stream_first
from mql.planner.logical import (
    Derived,
    Filter,
    Group,
    Joined,
    Logical,
    Merge,
    Over,
    Sample,
    Scan,
    Speak,
    Union,
    find,
    has_detector,
    input_of,
    scans_of,
)
from mql.planner.overs import Around, Overs, bind_over_speak, calls_over, told_of_forgetting
from mql.planner.physical import Start
from mql.planner.reading import STATE_BYTES_MAX, Names, Read, Reading, as_one, bind_sources, sources_of
from mql.planner.sampling import bind_sample
from mql.planner.selecting import TOLD, bind_plain
from mql.planner.speaking import bind_speak, check_order, check_revisions, revised
from mql.planner.warming import bounded, scaled, told_after, warmed_since
from mql.planner.windowing import bind_window, window_outputs
from mql.schema import BOOLEAN, VARCHAR, DataType, Field, Path, Shape

SETTINGS = ("late", "revisions_for", "state_ttl", "max_keys", "key_ttl", "state_max")
STATE_TTL_US = 3_600_000_000
SPEED_MAX = 1_000_000
Columns = tuple[tuple[str, DataType], ...]


@dataclass(frozen=True, slots=True)
class Given:
    """What the asker brings beside the text: parameters, the time it is, whether early values are wanted; `scale`: by
    how much an ALERT BUDGET raises the threshold, once that is picked."""

    params: Mapping[str, object] = field(default_factory=dict)
    now_us: int = 0
    early_us: int | None = None
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class BoundQuery:
    """A logical plan with what readers are told beside it. `as_live`: a bounded input is judged as if it came live.
    `speed`: it is played by its events' times, so many times as fast."""

    plan: Logical
    columns: tuple[tuple[str, DataType], ...]
    as_live: bool
    warnings: tuple[str, ...]
    speed: float | None = None


def bind(query: syntax.Query, catalog: Catalog, given: Given) -> BoundQuery:
    """Look up and check everything a query says. MqlError tells what can't be."""
    names = Names(catalog, given.params).also(query)
    infos = sources_of(query, names)
    whole = as_one(infos[0].name, infos[0].shape, infos)
    scope = Scope(params=given.params)
    settings = _settings(query, scope)
    since, until = bind_bounds(query, whole, scope, given.now_us)
    lateness = whole.lateness_us if query.lateness is None else constant_duration(query.lateness, scope)
    _at_least(lateness, 0, "LATENESS", query.lateness)
    since, after_us = warmed_since(query, whole, scope, since, given.now_us)
    as_live = settings.get("late") == "as_live"
    reading = Reading(
        names,
        since,
        until,
        lateness,
        several=len(infos) > 1,
        ttl_us=settings.get("state_ttl", STATE_TTL_US),
        as_live=as_live,
        state_ttl_us=settings.get("state_ttl"),
        state_bytes_max=settings.get("state_max", STATE_BYTES_MAX),
        keys_max=settings.get("max_keys"),
        key_ttl_us=settings.get("key_ttl"),
    )
    top, columns = _bind_query(query, reading, settings, given.early_us)
    if after_us is not None:
        top = told_after(top, after_us)
    if given.scale is not None:
        top = scaled(top, given.scale)
    _check_bounds(query, top)
    if as_live:
        check_as_live(top, query.span)
    unseen = (f'"{".".join(path)}" has not been seen in "{name}" yet' for path, name in sorted(reading.opened.items()))
    speed = None if query.replay_speed is None else _speed(query.replay_speed, scope, until, as_live)
    return BoundQuery(top, columns, as_live, (*unseen, *dict.fromkeys(reading.warnings)), speed)


def _bind_query(
    query: syntax.Query,
    reading: Reading,
    settings: Mapping[str, Any],
    early_us: int | None,
    inner: bool = False,
) -> tuple[Speak, Columns]:
    """One query, from what it reads up to when it speaks."""
    if query.anomaly is None and query.emit is not None and query.emit.kind in ("anomalies", "episodes", "all"):
        raise MqlError(f'"EMIT {query.emit.kind.upper()}" needs an ANOMALY clause', query.emit.span)
    query = with_stream_first(distinct_around(query), reading.names)
    read = _read(query, reading)
    if query.union:
        query = of_the_whole(query)
    opened: set[Path] = set()
    window = bind_window(query, read.scope(reading.names.params, opened))

    def one(ref: syntax.From) -> Read:
        return _read(syntax.Query((), sources=(ref,)), reading)

    arranged = is_grouped(query) or bool(query.order_by or query.limit or query.anomaly or query.windows)
    looks_over = any(calls_over(item.expression) for item in query.select)
    arranged = arranged or query.qualify is not None or looks_over
    takes_back = is_grouped(query) and not (query.windows or query.anomaly or query.qualify or looks_over)
    read = bind_joins(query, read, reading, one, window, arranged and not takes_back)
    window = met_in(read.input, window)
    scope = read.scope(reading.names.params, opened)
    if not inner and (is_grouped(query) or query.order_by or query.joins):
        scope = replace(scope, told=TOLD)
    check_times(query, read.input)
    asking, condition = memberships(query.where)

    plan: Logical = read.input
    if query.sample is not None:
        plan = Sample(plan, bind_sample(query.sample, scope))
        check_extrapolated(query.sample, plan.sampled, is_grouped(query))
    where = [] if condition is None else [bind_condition(condition, without_aggregates(scope, "WHERE"))]
    bounds = time_bounds(reading.since, reading.until) if isinstance(read.input, Scan | Merge) and not asking else []
    between = conjunction([*bounds, *where])
    if asking:
        read = bind_memberships(asking, read, scope, between, reading, one)
        plan = with_source(plan, read.input)
    elif between != Constant(True, BOOLEAN):
        plan = Filter(plan, between)

    collector = Collector()
    behind = replace(scope, aggregates=collector, outputs=window_outputs(window))
    around = Around(is_grouped(query), window, read.input)
    if is_grouped(query):
        plan, columns = bind_grouped(query, plan, window, behind, collector, Overs(collector, around), reading.ttl_us)
    else:
        plan, columns = bind_plain(query, plan, window, scope, around, reading.ttl_us)
    _check_taken_back(query, plan)
    emit = bind_speak(query, plan, window, is_grouped(query), scope, early_us)
    over = find(plan, Over)
    if isinstance(over, Over):
        if isinstance(read.input, Joined) and read.input.retracts:
            hint = "Say how far apart rows may be: add WITHIN 5m behind the condition."
            raise MqlError("OVER can not follow rows that can be withdrawn", query.joins[-1].span, hint)
        emit = bind_over_speak(query, over, emit)
        reading.warnings.extend(told_of_forgetting(over))
    if query.emit is not None and query.emit.revisions:
        check_revisions(query, query.emit, window, plan)
        emit = revised(query, query.emit, emit, settings.get("revisions_for"))
    elif "revisions_for" in settings:
        raise MqlError('"revisions_for" is for rows that are revised', query.span, "Add EMIT FINAL WITH REVISIONS.")
    check_order(query, reading.until, window)
    reading.opened.update(dict.fromkeys(opened, read.info.name))
    return bounded(emit, reading.keys_max, reading.key_ttl_us), columns


def _check_taken_back(query: syntax.Query, plan: Logical) -> None:
    """Refuses aggregates that can not do without rows that a join withdraws."""
    group, read = find(plan, Group), input_of(plan)
    if not isinstance(group, Group) or not isinstance(read, Joined) or not read.retracts:
        return
    lasting = next((call.name for call in group.aggregates if not can_take_back(call)), None)
    if lasting is not None:
        hint = "Add WITHIN 5m behind the condition; or count: count(*), count(DISTINCT x)."
        raise MqlError(f'"{lasting}" can not take rows back that the join withdraws', query.joins[-1].span, hint)


# --- what it reads ---------------------------------------------------------------------------------------


def _read(query: syntax.Query, reading: Reading) -> Read:
    """What FROM names: sources, a query, or the queries of a union."""
    if query.union:
        return _union(query, reading)
    inner = [reading.names.query(ref) for ref in query.sources]
    if not any(inner):
        return bind_sources(query, reading)
    if len(inner) > 1:
        hint = "Put them together by UNION ALL: FROM (SELECT … FROM a UNION ALL SELECT … FROM b)."
        raise MqlError("a query can not stand beside others in FROM", query.sources[1].span, hint)
    ref = query.sources[0]
    assert inner[0] is not None
    written, names = inner[0]
    name = ref.alias or (ref.name if isinstance(ref, syntax.SourceRef) else None) or "query"
    below = _rows_of(written, replace(reading, names=names), name)
    aliases = frozenset(told for told in (ref.alias, getattr(ref, "name", None)) if told)
    return Read(below, below.info, aliases, {"source": Constant(name, VARCHAR)})


def _rows_of(query: syntax.Query, reading: Reading, name: str) -> Derived | Union:
    """The rows of a query as what another one reads."""
    if query.union and query.limit is None:
        check_inner(of_the_whole(query), False, reading)
        united = _union(query, reading).input
        assert isinstance(united, Union)
        return replace(united, info=replace(united.info, name=name))
    return _derived(query, reading, name)


def _derived(query: syntax.Query, reading: Reading, name: str) -> Derived:
    check_inner(query, not query.union and is_grouped(query), reading)
    emit = None if query.anomaly is None else query.emit
    query = replace(query, emit=emit, order_by=() if query.limit is None else query.order_by)
    top, columns = _bind_query(query, reading, {}, None, inner=True)
    read = input_of(top)
    if isinstance(read, Joined) and read.retracts:
        hint = "Say how far apart rows may be: add WITHIN 5m behind the condition."
        raise MqlError("rows that can be withdrawn can not be read by another query", query.joins[-1].span, hint)
    shape = Shape(tuple(Field(column, type) for column, type in columns))
    info = as_one(name, shape, [scan.info for scan in scans_of(top)])
    if top.kind != "rows":
        top = replace(top, kind="final", every_us=None)
    return Derived(replace(top, inner=True), replace(info, encoding="columns", envelope=()))


def _union(query: syntax.Query, reading: Reading) -> Read:
    """The rows of all queries of a union."""
    parts = (first_of_union(query), *query.union)
    together = united([_derived(part, reading, "query") for part in parts], parts)
    return Read(together, together.info, frozenset(), {"source": Constant(together.info.name, VARCHAR)})


# --- the clauses -----------------------------------------------------------------------------------------


def _speed(node: syntax.Expression, scope: Scope, until: Start, as_live: bool) -> float:
    """How many times as fast as they came stored events are played."""
    value = bind_constant(node, scope).value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not 0 < value <= SPEED_MAX:
        hint = "Write how many times as fast: REPLAY SPEED 10x."
        raise MqlError(f"the speed is no number above 0 and up to {SPEED_MAX:,}", node.span, hint)
    if until.kind == "live":
        hint = "Add an end, such as UNTIL NOW: what comes live sets its own pace."
        raise MqlError("REPLAY SPEED plays a stretch of history", node.span, hint)
    if as_live:
        hint = "Leave one of them out: what is played comes in the order of its times, so that nothing is late."
        raise MqlError("""REPLAY SPEED does not go with late = 'as_live'""", node.span, hint)
    return float(value)


def _settings(query: syntax.Query, scope: Scope) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in query.settings:
        if name.lower() not in SETTINGS:
            hint = did_you_mean(name, SETTINGS) or f"There are: {', '.join(SETTINGS)}."
            raise MqlError(f'no setting "{name}"', value.span, hint)
        if name.lower() == "max_keys":
            found[name.lower()] = constant_int(value, scope, 1, 100_000_000)
            continue
        if name.lower() in ("revisions_for", "state_ttl", "key_ttl"):
            found[name.lower()] = constant_duration(value, scope)
            _at_least(constant_duration(value, scope), 1, name, value)
            continue
        if name.lower() == "state_max":
            found[name.lower()] = _bytes(value, scope)
            continue
        text = constant_text(value, scope)
        if text not in ("as_live", "never"):
            raise MqlError(f'setting "late" can not be "{text}"', value.span, "Write 'as_live' or 'never'.")
        found[name.lower()] = text
    return found


def _check_bounds(query: syntax.Query, top: Speak) -> None:
    """What a text says of detectors needs one, in any of its queries."""
    for name, value in query.settings:
        if name.lower() in ("max_keys", "key_ttl") and not has_detector(top):
            raise MqlError(f'"{name}" is for detectors', value.span, "Leave it out, or add ANOMALY ON ….")


def _bytes(node: syntax.Expression, scope: Scope) -> int:
    """`'512MB'`, `'2GiB'` or a number of bytes."""
    bound = bind_constant(node, scope)
    text = str(bound.value).strip().lower()
    found = re.fullmatch(r"(\d{1,15})\s*([kmgt]?)(i?)b?", text)
    if found is None or not isinstance(bound.value, str | int) or int(found[1]) == 0:
        raise MqlError("an amount of memory must stand here", node.span, "Write it as '512MB' or '2GB'.")
    power = " kmgt".index(found[2] or " ")
    return int(found[1]) * int((1024 if found[3] else 1000) ** power)


def _at_least(value: int, least: int, name: str, node: syntax.Expression | None) -> None:
    if value < least:
        what = "can not be negative" if least == 0 else "must be more than nothing"
        raise MqlError(f'"{name}" {what}', None if node is None else node.span)
