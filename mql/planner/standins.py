"""Parameters that stand for a property: `$field`, given as a syntax.Property, is that property in the tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from mql import syntax

T = TypeVar("T")


def with_properties(tree: T, params: Mapping[str, object]) -> T:
    """The tree with properties where their parameters stood; all other parameters stay as they are."""
    named = {name: value for name, value in params.items() if isinstance(value, syntax.Property)}
    return _replaced(tree, named) if named else tree


def params_in(tree: Any) -> Iterator[syntax.Param]:
    """All parameters that a tree names, those for a source among them, in no particular order."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        match node:
            case syntax.Param():
                yield node
            case syntax.SourceRef(param=str(name), span=span):
                yield syntax.Param(name, span)
            case tuple():
                waiting.extend(node)
            case _ if is_dataclass(node):
                waiting.extend(getattr(node, field.name) for field in fields(node))
            case _:
                pass


def _replaced(node: Any, named: Mapping[str, syntax.Property]) -> Any:
    match node:
        case syntax.Param(name, span) if name in named:
            return replace(named[name], span=span)
        case tuple():
            return tuple(_replaced(inner, named) for inner in node)
        case _ if is_dataclass(node) and not isinstance(node, type):
            old = {field.name: getattr(node, field.name) for field in fields(node) if field.init}
            new = {name: _replaced(value, named) for name, value in old.items()}
            changed = {name: value for name, value in new.items() if value is not old[name] and value != old[name]}
            return replace(node, **changed) if changed else node
        case _:
            return node
