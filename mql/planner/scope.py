"""What an expression may refer to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mql import syntax
from mql.planner.expressions import Bound
from mql.schema import Path, Shape


class Aggregates(Protocol):
    """Who takes aggregate and window calls: gives what stands for the call in the rows behind the aggregation, or
    None where the call is an ordinary function."""

    def claim(self, call: syntax.Call, scope: Scope) -> Bound | None: ...


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression may refer to.

    `aliases`: names that mean the source itself (`r.status`). `outputs`: names that an earlier step gave (select
    aliases, group keys, columns of a subquery), looked up before the shape if `outputs_first`, else after it.
    `sides`: names of fields of the shape (the sides of a join) under which a bare name is looked up too: an error where
    several have it unless `first_side_wins`; in the last side before the shape's own fields where `sides_first`.
    `shared`: what a bare name means that several sides have and USING named.
    `told`: names of what comes with rows beside their columns, which no column can have.
    `calls`: calls without arguments by name (`window_start`, `source` of merged sources). `opened` collects the names
    that an open shape did not know yet.
    """

    shape: Shape = field(default_factory=Shape)
    source_name: str = "source"
    params: Mapping[str, object] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()
    outputs: Mapping[str, Bound] = field(default_factory=dict)
    outputs_first: bool = True
    sides: tuple[str, ...] = ()
    shared: Mapping[str, Bound] = field(default_factory=dict)
    calls: Mapping[str, Bound] = field(default_factory=dict)
    aggregates: Aggregates | None = None
    opened: set[Path] | None = None
    first_side_wins: bool = False
    sides_first: bool = False
    told: frozenset[str] = frozenset()
