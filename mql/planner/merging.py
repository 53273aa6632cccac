"""Queries that filter and compute, and no more, become one with the query around them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import assert_never

from mql.planner.expressions import (
    TRUE,
    Aggregate,
    Apply,
    Bound,
    Column,
    Constant,
    EventMeta,
    Output,
    conjunction,
    conjuncts,
    rewrite,
    walk,
)
from mql.planner.logical import (
    Arrange,
    Derived,
    Enriched,
    Filter,
    Group,
    Input,
    Joined,
    Logical,
    Merge,
    Over,
    OverCall,
    Project,
    Sample,
    Scan,
    Speak,
    Track,
    Union,
    chain,
    find,
    input_of,
    with_input,
)
from mql.planner.properties import inside
from mql.schema import JSON, VARCHAR

Items = Mapping[str, Bound]
Change = Callable[[Bound], Bound]


def merge_queries(top: Logical) -> Logical:
    """The same rows without a table in between: the columns of the inner query are its expressions."""
    read = input_of(top)
    match read:
        case Scan() | Merge():
            return top
        case Union():
            return _upon(top, _inside(read))
        case Derived(query):
            below = merge_queries(query)
            if _is_plain(below) and not _samples_twice(top, below):
                return _merged(top, below)
            return _pushed(top, replace(read, query=below))
        case Joined() | Enriched():
            return _upon(top, _inside(read))
        case _:
            assert_never(read)


def _inside(node: Input) -> Input:
    """An input with the queries that it is made of merged, each by itself."""
    match node:
        case Scan() | Merge():
            return node
        case Derived(query):
            return replace(node, query=merge_queries(query))
        case Union(queries):
            return replace(node, queries=tuple(replace(one, query=merge_queries(one.query)) for one in queries))
        case Joined(left, right):
            return replace(node, left=_inside(left), right=_inside(right))
        case Enriched(left):
            return replace(node, left=_inside(left))
        case _:
            assert_never(node)


def _is_plain(query: Logical) -> bool:
    """Each of its rows is an event that it reads."""
    return all(isinstance(node, Speak | Project | Filter | Sample | Input) for node in chain(query))


def _samples_twice(top: Logical, below: Logical) -> bool:
    """Whether what one of them samples depends on the other: both do, or one of a rate comes behind a condition."""
    outer, inner = find(top, Sample), find(below, Sample)
    if outer is None:
        return False
    assert isinstance(outer, Sample)
    return inner is not None or (outer.sampled.per_second is not None and find(below, Filter) is not None)


def _merged(top: Logical, below: Logical) -> Logical:
    project = find(below, Project)
    assert isinstance(project, Project)
    items = dict(project.items)

    def column(bound: Bound) -> Bound:
        return value_of(items, bound) if isinstance(bound, Column) else bound

    return _upon(top, project.input, lambda bound: rewrite(bound, column))


def _pushed(top: Logical, read: Derived) -> Logical:
    """The conditions that the groups of the inner query decide by their keys alone are asked before they are made: so
    events are left out as early as can be, unread where their texts tell."""
    group, project = find(read.query, Group), find(read.query, Project)
    where = next((node for node in chain(top) if isinstance(node, Filter) and node.input is input_of(top)), None)
    if not isinstance(group, Group) or where is None or not _tells_each(group, read.query):
        return _upon(top, read)
    assert isinstance(project, Project)
    keys = {Output(f"k{i}", key.type): key for i, key in enumerate(group.keys)}
    items = dict(project.items)

    def by_keys(condition: Bound) -> Bound | None:
        """The condition on events, where it asks for keys alone."""
        over = rewrite(condition, lambda bound: value_of(items, bound) if isinstance(bound, Column) else bound)
        told = [part for part in walk(over) if isinstance(part, Output | EventMeta)]
        if not told or any(part not in keys for part in told):
            return None
        found = rewrite(over, lambda bound: keys.get(bound, bound) if isinstance(bound, Output) else bound)
        return None if any(isinstance(part, Output) for part in walk(found)) else found

    asked = {one: by_keys(one) for one in conjuncts(where.predicate)}
    early = [found for found in asked.values() if found is not None]
    if not early:
        return _upon(top, read)
    later = conjunction(one for one, found in asked.items() if found is None)
    read = replace(read, query=_below_group(read.query, conjunction(early)))
    return _without(top, where, read if later == TRUE else Filter(read, later))


def _tells_each(group: Group, query: Logical) -> bool:
    """Whether a query tells each group by itself, whatever other groups there are."""
    above = itertools.takewhile(lambda node: node is not group, chain(query))
    return group.filled is None and all(isinstance(node, Speak | Project | Filter) for node in above)


def _below_group(query: Logical, condition: Bound) -> Logical:
    assert not isinstance(query, Input)
    if isinstance(query, Group):
        return with_input(query, Filter(query.input, condition))
    return with_input(query, _below_group(query.input, condition))


def _without(top: Logical, where: Filter, below: Logical) -> Logical:
    """The chain over another node than its WHERE."""
    assert not isinstance(top, Input)
    return below if top is where else with_input(top, _without(top.input, where, below))


def value_of(items: Items, column: Column) -> Bound:
    """What a column of a query's rows is, by the query's own expressions."""
    if column.path:
        return inside(items[column.path[0]], column.path[1:])
    named = (part for name, item in items.items() for part in (Constant(name, VARCHAR), item))
    return Apply("row", tuple(named), JSON)


def _upon(top: Logical, below: Logical, change: Change | None = None) -> Logical:
    """A query's chain over another input, its expressions changed."""
    if isinstance(top, Input):
        return below
    found = with_input(top, _upon(top.input, below, change))
    return found if change is None else with_expressions(found, change)


def with_expressions(node: Logical, change: Change) -> Logical:
    """The node with each of its expressions over events changed."""
    match node:
        case Filter():
            return replace(node, predicate=change(node.predicate))
        case Sample():
            return replace(node, sampled=replace(node.sampled, by=tuple(map(change, node.sampled.by))))
        case Group():
            return replace(
                node,
                keys=tuple(map(change, node.keys)),
                aggregates=tuple(_aggregate(call, change) for call in node.aggregates),
                begins=None if node.begins is None else change(node.begins),
                ends=None if node.ends is None else change(node.ends),
            )
        case Over():
            return replace(node, calls=tuple(_over(call, change) for call in node.calls))
        case Track():
            return replace(node, value=change(node.value))
        case Project():
            return replace(node, items=tuple((name, change(item)) for name, item in node.items))
        case Arrange():
            order = tuple(replace(key, expression=change(key.expression)) for key in node.order)
            return replace(node, order=order, per=tuple(map(change, node.per)))
        case _:
            return node


def _aggregate(call: Aggregate, change: Change) -> Aggregate:
    only = None if call.filter is None else change(call.filter)
    return replace(call, args=tuple(map(change, call.args)), filter=only)


def _over(over: OverCall, change: Change) -> OverCall:
    order = tuple(replace(key, expression=change(key.expression)) for key in over.order)
    return replace(over, call=_aggregate(over.call, change), partition=tuple(map(change, over.partition)), order=order)
