"""From text to a plan, by way of every form that EXPLAIN can show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mql import syntax
from mql.catalog import Catalog, SourceInfo
from mql.errors import MqlError
from mql.parser import parse
from mql.planner import logical
from mql.planner.batch import batch_sql, judged_tables
from mql.planner.binder import BoundQuery, Given, bind
from mql.planner.digest import digest
from mql.planner.hidden import check_hidden
from mql.planner.logical import Derived, Enriched, Input, Joined, Logical, inputs_of
from mql.planner.lower import after_batch, stages_of
from mql.planner.masking import check_masked, masks_of
from mql.planner.needles import needles
from mql.planner.parts import Parts, parts_of
from mql.planner.physical import Needles, Plan, Result, Scan
from mql.planner.rules import RULES
from mql.planner.sharing import Sibling, sibling_of
from mql.planner.standins import with_properties
from mql.planner.told import is_ordered, keeps_top


@dataclass(frozen=True, slots=True)
class Compiled:
    """Every form of one query, for EXPLAIN and for tests. `sibling`: as one of those that differ in literals only."""

    tree: syntax.Query
    logical: Logical
    plan: Plan
    sibling: Sibling | None = None


def compile_query(
    text: str,
    catalog: Catalog,
    params: Mapping[str, object] | None = None,
    *,
    now_us: int = 0,
    early_us: int | None = None,
) -> Plan:
    """The plan of a query. `now_us` is what '-1h' counts from; `early_us` asks for early values of windows where
    the query does not say when it speaks. MqlError, drawn in its text, where the query is wrong."""
    return compile_forms(text, catalog, params, now_us=now_us, early_us=early_us).plan


def compile_forms(
    text: str,
    catalog: Catalog,
    params: Mapping[str, object] | None = None,
    *,
    now_us: int = 0,
    early_us: int | None = None,
    scale: float | None = None,
) -> Compiled:
    """The same, with the forms in between. `scale`: what an ALERT BUDGET has picked."""
    try:
        tree = with_properties(parse(text), params or {})
        bound = bind(tree, catalog, Given(params or {}, now_us, early_us, scale))
    except MqlError as error:
        raise error.in_text(text) from None
    top = bound.plan
    for rule in RULES:
        top = rule(top)
    plan = _plan(text, tree, top, bound)
    check_hidden(plan.scans, {name: info.hidden for name, info in catalog.sources.items() if info.hidden})
    check_masked(plan.scans, {name: info.masks for name, info in catalog.sources.items() if info.masks})
    return Compiled(tree, top, plan, sibling_of(top, plan))


def _plan(text: str, tree: syntax.Query, top: Logical, bound: BoundQuery) -> Plan:
    parts = parts_of(top)
    ends = parts.scan.until.kind != "live"
    late_matters = not ends or bound.as_live
    speak = parts.speak
    replaces = speak.kind in ("changes", "every") or speak.early_us is not None or speak.revise_us > 0
    keyed = keeps_top(parts) or parts.retracts or (parts.group is not None and replaces)
    return Plan(
        text=text,
        hash=digest(repr((top, bound.as_live, bound.speed))),
        scans=tuple(_scans(top, late_matters)),
        stages=stages_of(top, late_matters),
        result=Result(bound.columns, keyed, _is_windowed(parts), speak.kind),
        batch=batch_sql(top, bound.as_live),
        judged=judged_tables(top, bound.as_live),
        after_batch=after_batch(parts),
        as_live=bound.as_live,
        speed=bound.speed,
        warnings=bound.warnings,
        explain=tree.explain,
    )


def _is_windowed(parts: Parts) -> bool:
    """Whether rows belong to windows that groups share, which can be sealed and joined."""
    return parts.window is not None and parts.window.kind not in ("none", "session", "sliding")


def _scans(top: Logical, late_matters: bool, above: bool = False) -> Iterator[Scan]:
    """What is read, in the order of the scans' numbers. `above`: to the queries above it, time matters."""
    parts = parts_of(top)
    needs_time = above or parts.window is not None or is_ordered(parts)

    def of(node: Input, joined: bool = False) -> Iterator[Scan]:
        match node:
            case logical.Scan():
                scan = _scan(parts, node, late_matters, needs_time)
                # What WHERE says of joined rows, no single event holds.
                yield replace(scan, needles=None) if joined else scan
            case Derived(query):
                yield from _scans(query, late_matters, needs_time or joined)
            case _:
                for one in inputs_of(node):
                    yield from of(one, joined or isinstance(node, Joined | Enriched))

    yield from of(parts.scan)


def _scan(parts: Parts, scan: logical.Scan, late_matters: bool, needs_time: bool) -> Scan:
    info = scan.info
    masks = masks_of(scan.columns, info.masks)
    return Scan(
        source=info.name,
        encoding=info.encoding,
        columns=scan.columns,
        time=info.time,
        lateness_us=scan.lateness_us,
        idle_timeout_us=info.idle_timeout_us,
        max_ahead_us=info.max_ahead_us,
        since=scan.since,
        until=scan.until,
        needles=None if masks else _needles(parts, info, late_matters, needs_time),
        shape_version=info.shape.version,
        masks=masks,
    )


def _needles(parts: Parts, info: SourceInfo, late_matters: bool, needs_time: bool) -> Needles | None:
    """What lets the scan skip events unread. One that is skipped has no known time, and is in no rate sample."""
    filled = late_matters and parts.group is not None and parts.group.filled is not None
    by_rate = parts.sampled is not None and parts.sampled.per_second is not None
    if parts.where is None or info.encoding != "json" or by_rate or filled:
        return None
    time_matters = late_matters and needs_time
    envelope = frozenset(field.name for field in info.envelope)
    return needles(parts.where, time_matters and info.time.path is not None, envelope)
