"""Rules: each turns a logical plan into one that means the same and costs less. Applied in the order of RULES."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import assert_never

from mql.planner.expressions import Aggregate, Bound, Column, EventMeta, Output, conjunction, conjuncts, normalise, walk
from mql.planner.logical import (
    Arrange,
    Derived,
    Detect,
    Enriched,
    Filter,
    Group,
    Input,
    Joined,
    Logical,
    Merge,
    Over,
    Project,
    Sample,
    Scan,
    Track,
    Union,
    chain,
    find,
    with_input,
)
from mql.planner.merging import merge_queries, value_of
from mql.planner.sql import column_name
from mql.schema import BIGINT, DataType, Path

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


def filter_before_joins(top: Logical) -> Logical:
    """What WHERE says of one side of a join is judged before rows meet, so that fewer wait."""
    if isinstance(top, Input):
        return _over(top, filter_before_joins)
    if isinstance(top, Filter) and isinstance(top.input, Joined | Enriched):
        read, rest = _with_filter(top.input, conjuncts(top.predicate))
        below = _over(read, filter_before_joins)
        return Filter(below, conjunction(rest)) if rest else below
    return with_input(top, filter_before_joins(top.input))


RULES: tuple[Rule, ...] = (merge_queries, filter_before_joins, normalise_predicates, read_only_what_is_used)


def _with_filter(node: Joined | Enriched, conditions: Sequence[Bound]) -> tuple[Joined | Enriched, list[Bound]]:
    """The join with the conditions that can be judged before it, and the others."""
    before: tuple[list[Bound], list[Bound]] = ([], [])
    rest: list[Bound] = []
    may = (
        node.kind in ("inner", "left", "semi", "anti"),
        node.kind in ("inner", "right") and not (isinstance(node, Joined) and node.how == "asof"),
    )
    for condition in conditions:
        parts = list(walk(condition))
        of_right = {part.path[:1] == (node.right_name,) for part in parts if isinstance(part, Column)}
        of_rows = any(isinstance(part, EventMeta) for part in parts)
        side = of_right == {True}
        if of_rows or len(of_right) != 1 or not may[side]:
            rest.append(condition)
        else:
            before[side].append(condition)
    if not before[0] and not before[1]:
        return node, rest
    lefts = [one for one in (node.left_where, *before[0]) if one is not None]
    rights = [one for one in (node.right_where, *before[1]) if one is not None]
    left, right = (conjunction(ones) if ones else None for ones in (lefts, rights))
    return replace(node, left_where=left, right_where=right), rest


def _over(node: Input, rule: Rule) -> Input:
    """An input with the rule applied to the queries that it is made of."""
    match node:
        case Scan() | Merge():
            return node
        case Derived():
            return replace(node, query=rule(node.query))
        case Union(queries):
            return replace(node, queries=tuple(replace(one, query=rule(one.query)) for one in queries))
        case Joined(left, right):
            return replace(node, left=_over(left, rule), right=_over(right, rule))
        case Enriched(left):
            return replace(node, left=_over(left, rule))
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
        case Joined():
            left, right = _read_of_sides(node, columns)
            return replace(
                node, left=_columns_of(node.left, left), right=_columns_of(node.right, right), columns=columns
            )
        case Enriched():
            left, _ = _read_of_sides(node, columns)
            return replace(node, left=_columns_of(node.left, left), columns=columns)
        case _:
            return with_input(node, _with_columns(node.input, columns))


def _columns_of(node: Input, columns: Columns) -> Input:
    found = _with_columns(node, columns)
    assert isinstance(found, Input)
    return found


def _read_of_sides(node: Joined | Enriched, columns: Columns) -> tuple[Columns, Columns]:
    """What is read of each side of a join that gives these columns, as the sides call it."""
    wanted: tuple[dict[Path, DataType], dict[Path, DataType]] = ({}, {})
    wheres = [one for one in (node.rest, node.left_where, node.right_where) if one is not None]
    bounds = [*wheres, *(side for key in node.keys for side in (key.left, key.right))]
    read = {part.path: part.type for bound in bounds for part in walk(bound) if isinstance(part, Column)}
    for path, type in {**dict(columns), **read}.items():
        is_right = path[0] == node.right_name
        named = is_right or node.left_name is not None
        wanted[is_right][path[1:] if named else path] = type
    left, right = (tuple(sorted(one.items(), key=lambda item: item[0])) for one in wanted)
    return left, right


def _giving(node: Derived, columns: Columns) -> Derived:
    """The rows of a query that gives these columns, by the names that decoded ones have."""

    def select(below: Logical) -> Logical:
        if isinstance(below, Project):
            items = dict(below.items)
            found = tuple((column_name(path), value_of(items, Column(path, type))) for path, type in columns)
            return Project(below.input, found)
        assert not isinstance(below, Input)
        return with_input(below, select(below.input))

    return replace(node, query=read_only_what_is_used(compute_what_is_used(select(node.query))), columns=columns)


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


_LITTLE = Aggregate("count", (), BIGINT)
"""What stands where nobody asks for an aggregate: the least that can be computed."""


def compute_what_is_used(query: Logical) -> Logical:
    """The groups of an inner query compute the aggregates that the select list and the nodes below it still name. A
    detector's stay as they are written: the names of its episodes are made of them."""
    if find(query, Detect) is not None:
        return query
    above = [node for node in chain(query) if not isinstance(node, Input | Group)]
    named = {name for node in above for name in _outputs(node)}

    def computing(node: Logical) -> Logical:
        match node:
            case Group():
                calls = (call if f"a{i}" in named else _LITTLE for i, call in enumerate(node.aggregates))
                return replace(node, aggregates=tuple(calls))
            case _ if isinstance(node, Input):
                return node
            case _:
                return with_input(node, computing(node.input))

    return computing(query)


def _outputs(node: object) -> Iterator[str]:
    """The columns of the rows before that a node names, itself and not its input, without recursion."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        match found:
            case Output(name):
                yield name
            case tuple():
                waiting.extend(found)
            case _ if is_dataclass(found) and not isinstance(found, type):
                names = (field.name for field in fields(found))
                waiting.extend(getattr(found, name) for name in names if name != "input")
            case _:
                pass
