"""Rules: each turns a logical plan into one that means the same and costs less. Applied in the order of RULES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from mql.planner.expressions import Bound, Column, normalise, walk
from mql.planner.logical import (
    Arrange,
    Filter,
    Group,
    Input,
    Logical,
    Merge,
    Project,
    Sample,
    Scan,
    Track,
    chain,
    with_input,
)
from mql.schema import DataType, Path

Rule = Callable[[Logical], Logical]


def normalise_predicates(top: Logical) -> Logical:
    """Conditions that say the same look the same, so that equal queries find each other."""
    if isinstance(top, Input):
        return top
    below = normalise_predicates(top.input)
    if isinstance(top, Filter):
        return Filter(below, normalise(top.predicate))
    return with_input(top, below)


def read_only_what_is_used(top: Logical) -> Logical:
    """The scan decodes the properties that some expression reads, and no others."""
    wanted: dict[Path, DataType] = {}
    for node in chain(top):
        for bound in _expressions(node):
            wanted.update({part.path: part.type for part in walk(bound) if isinstance(part, Column)})
    return _with_columns(top, tuple(sorted(wanted.items(), key=lambda item: item[0])))


RULES: tuple[Rule, ...] = (normalise_predicates, read_only_what_is_used)


def _with_columns(node: Logical, columns: tuple[tuple[Path, DataType], ...]) -> Logical:
    match node:
        case Scan():
            return replace(node, columns=columns)
        case Merge():
            return replace(node, scans=tuple(replace(scan, columns=columns) for scan in node.scans))
        case _:
            return with_input(node, _with_columns(node.input, columns))


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
        case Project():
            yield from (item for _, item in node.items)
        case Arrange():
            yield from (key.expression for key in node.order)
            yield from node.per
        case _:
            return
