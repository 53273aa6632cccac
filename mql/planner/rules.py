"""Rules: each turns a logical plan into one that means the same and costs less. Applied in the order of RULES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import assert_never

from mql.planner.expressions import Bound, Column, conjunction, normalise, walk
from mql.planner.logical import (
    Arrange,
    Derived,
    Filter,
    Group,
    Input,
    Logical,
    Merge,
    Over,
    Project,
    Sample,
    Scan,
    Track,
    Union,
    chain,
    with_input,
)
from mql.planner.merging import merge_queries, value_of
from mql.planner.sql import column_name
from mql.schema import DataType, Path

Rule = Callable[[Logical], Logical]
Columns = tuple[tuple[Path, DataType], ...]


def normalise_predicates(top: Logical) -> Logical:
    """Conditions that say the same look the same, so that equal queries find each other."""
    if isinstance(top, Input):
        return _over(top, normalise_predicates)
    below = normalise_predicates(top.input)
    if isinstance(top, Filter) and isinstance(below, Filter):
        return Filter(below.input, normalise(conjunction([below.predicate, top.predicate])))
    if isinstance(top, Filter):
        return Filter(below, normalise(top.predicate))
    return with_input(top, below)


def read_only_what_is_used(top: Logical) -> Logical:
    """An input gives the properties that some expression reads, and no others."""
    wanted: dict[Path, DataType] = {}
    for node in chain(top):
        for bound in _expressions(node):
            wanted.update({part.path: part.type for part in walk(bound) if isinstance(part, Column)})
    return _with_columns(top, tuple(sorted(wanted.items(), key=lambda item: item[0])))


RULES: tuple[Rule, ...] = (merge_queries, normalise_predicates, read_only_what_is_used)


def _over(node: Input, rule: Rule) -> Input:
    """An input with the rule applied to the queries that it is made of."""
    match node:
        case Scan() | Merge():
            return node
        case Derived():
            return replace(node, query=rule(node.query))
        case Union(queries):
            return replace(node, queries=tuple(replace(one, query=rule(one.query)) for one in queries))
        case _:
            assert_never(node)


def _with_columns(node: Logical, columns: Columns) -> Logical:
    match node:
        case Scan():
            return replace(node, columns=columns)
        case Merge():
            return replace(node, scans=tuple(replace(scan, columns=columns) for scan in node.scans))
        case Derived():
            return _giving(node, columns)
        case Union(queries):
            return replace(node, queries=tuple(_giving(one, columns) for one in queries), columns=columns)
        case _:
            return with_input(node, _with_columns(node.input, columns))


def _giving(node: Derived, columns: Columns) -> Derived:
    """The rows of a query that gives these columns, by the names that decoded ones have."""

    def select(below: Logical) -> Logical:
        if isinstance(below, Project):
            items = dict(below.items)
            found = tuple((column_name(path), value_of(items, Column(path, type))) for path, type in columns)
            return Project(below.input, found)
        assert not isinstance(below, Input)
        return with_input(below, select(below.input))

    return replace(node, query=read_only_what_is_used(select(node.query)), columns=columns)


def _expressions(node: Logical) -> Iterator[Bound]:
    match node:
        case Filter():
            yield node.predicate
        case Sample():
            yield from node.sampled.by
        case Group():
            yield from node.keys
            for call in node.aggregates:
                yield from call.args
                if call.filter is not None:
                    yield call.filter
            yield from (cut for cut in (node.begins, node.ends) if cut is not None)
        case Track():
            yield node.value
        case Over():
            for over in node.calls:
                yield from (*over.call.args, *over.partition, *(key.expression for key in over.order))
                if over.call.filter is not None:
                    yield over.call.filter
        case Project():
            yield from (item for _, item in node.items)
        case Arrange():
            yield from (key.expression for key in node.order)
            yield from node.per
        case _:
            return
