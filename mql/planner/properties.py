"""Properties looked up: from the steps as written to what they lead to in the shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from mql import syntax
from mql.errors import MqlError, did_you_mean, nearest
from mql.functions import common_type
from mql.planner.calls import widen
from mql.planner.expressions import Apply, Bound, Column, Constant, Convert, Element
from mql.planner.scope import Scope
from mql.planner.sql import json_pointer
from mql.schema import BIGINT, JSON, NULL, VARCHAR, ListOf, Path, StructOf


def lookup(node: syntax.Property, scope: Scope) -> tuple[Bound, tuple[syntax.Step, ...]]:
    """What the first steps of a property lead to, and the steps that are left."""
    try:
        return _looked_up(node, scope)
    except MqlError as error:
        error.span = error.span or node.span
        raise


def _looked_up(node: syntax.Property, scope: Scope) -> tuple[Bound, tuple[syntax.Step, ...]]:
    steps = node.steps
    first = steps[0]
    assert isinstance(first, syntax.Key)
    if _is_root(first, steps, scope):
        if len(steps) == 1:
            _refuse_whole(scope, node)
            return Column((), JSON), ()
        inner = _named(steps[1:], scope)
        if inner is not None:
            return inner
        if scope.shape.field(first.name) is None:
            return _unknown(steps[1:], node, scope)
    if first.name in scope.aliases and len(steps) > 1:
        own = replace(scope, outputs_first=False)
        inner = _named(steps[1:], replace(own, sides=(), sides_first=False) if scope.sides_first else own)
        if inner is not None:
            return inner
    found = _named(steps, scope)
    if found is not None:
        if isinstance(found[0], Column) and len(found[0].path) == 1 and found[0].path[0] in scope.sides:
            return _of_side(found[0], found[1], node, scope)
        return found
    if first.name in scope.aliases:
        return (Column((), JSON), ()) if len(steps) == 1 else _unknown(steps[1:], node, scope)
    return _unknown(steps, node, scope)


def _of_side(
    side: Column, steps: tuple[syntax.Step, ...], node: syntax.Property, scope: Scope
) -> tuple[Bound, tuple[syntax.Step, ...]]:
    """A property of one side of a join, which may have a dot in its name."""
    if not steps:
        _refuse_whole(scope, node)
    first = steps[0]
    if not isinstance(first, syntax.Key):
        return side, steps
    run = 1
    while run < len(steps) and isinstance(step := steps[run], syntax.Key) and step.style == "dot":
        run += 1
    for length in range(1 if first.style == "bracket" else run, 0, -1):
        name = ".".join(step.name for step in steps[:length] if isinstance(step, syntax.Key))
        type = scope.shape.type_of((*side.path, name))
        if type is not None:
            return Column((*side.path, name), type), steps[length:]
    return side, steps


def _refuse_whole(scope: Scope, node: syntax.Property) -> None:
    if scope.sides:
        hint = f"Name a property, as in {scope.sides[0]}.id; in SELECT {scope.sides[0]}.* stands for all of them."
        raise MqlError("a whole event of a join is no value", node.span, hint)


def _is_root(first: syntax.Key, steps: tuple[syntax.Step, ...], scope: Scope) -> bool:
    """Whether `e` means the whole event here: always before brackets, else where nothing has that name."""
    if first.name != "e" or first.style != "bare":
        return False
    bracket = len(steps) > 1 and not (isinstance(steps[1], syntax.Key) and steps[1].style == "dot")
    return bracket or (scope.shape.field("e") is None and "e" not in scope.outputs and "e" not in scope.sides)


def _named(steps: tuple[syntax.Step, ...], scope: Scope) -> tuple[Bound, tuple[syntax.Step, ...]] | None:
    """A property, an output or a side's property whose name the steps begin with: of dotted names the longest."""
    first = steps[0]
    if not isinstance(first, syntax.Key):
        return None
    run = 1
    while run < len(steps) and isinstance(step := steps[run], syntax.Key) and step.style == "dot":
        run += 1
    if first.style == "bracket":
        run = 1
    ways = (_output, _field) if scope.outputs_first else (_field, _output)
    for length in range(run, 0, -1):
        name = ".".join(step.name for step in steps[:length] if isinstance(step, syntax.Key))
        for way in ways:
            found = way(name, scope)
            if found is not None:
                return found, steps[length:]
    return None


def _output(name: str, scope: Scope) -> Bound | None:
    """An output by its name, or by its name but for letter case and spaces (`e['COUNT(a)']` of `count( a )`)."""
    if name in scope.outputs:
        return scope.outputs[name]
    if not scope.outputs:
        return None
    plain = "".join(name.split()).lower()
    return next((bound for key, bound in scope.outputs.items() if "".join(key.split()).lower() == plain), None)


def _field(name: str, scope: Scope) -> Bound | None:
    top = scope.shape.field(name)
    if scope.sides_first:
        inner = scope.sides[-1]
        found_inside = scope.shape.type_of((inner, name))
        if found_inside is not None and name != inner:
            return Column((inner, name), found_inside)
    if top is not None:
        return Column((name,), top.type)
    if name in scope.shared:
        return scope.shared[name]
    held = {side: scope.shape.type_of((side, name)) for side in scope.sides}
    found = [Column((side, name), type) for side, type in held.items() if type is not None]
    if len(found) > 1 and not scope.first_side_wins:
        sides = " or ".join(f'"{column.path[0]}.{name}"' for column in found)
        raise MqlError(f'"{name}" is ambiguous', None, f"Write {sides}.", code="ambiguous-name")
    return first_known(found) if found else None


def first_known(columns: Sequence[Column]) -> Bound:
    """Of columns of the same name the first that is not null, as if their events were one."""
    type = common_type(column.type for column in columns)
    if len(columns) == 1 or type is None:
        return columns[0]
    return Apply("coalesce", tuple(widen(column, type) for column in columns), type)


def _unknown(
    steps: tuple[syntax.Step, ...], node: syntax.Property, scope: Scope
) -> tuple[Bound, tuple[syntax.Step, ...]]:
    """A name that nothing has: null until it appears if the source is open, else the user's mistake."""
    first = steps[0]
    if scope.sides and not scope.sides_first:
        return _unknown_side(steps, node, scope)
    if isinstance(first, syntax.Prefix):
        raise MqlError(f"[^'{first.text}'] stands for several properties", node.span, "Use it in SELECT alone.")
    if isinstance(first, syntax.Index) and scope.shape.open:
        return Constant(None, NULL), ()
    if not isinstance(first, syntax.Key):
        raise MqlError("the event is no list", node.span, "Name the property that holds the list first.")
    if scope.shape.open:
        if scope.opened is not None:
            scope.opened.add((first.name,))
        return Column((first.name,), JSON), steps[1:]
    name = first.name
    if len(steps) > 1 and isinstance(steps[1], syntax.Key) and steps[1].style == "dot":
        name = f"{first.name}.{steps[1].name}"
    raise MqlError(
        f'no property "{name}" in source "{scope.source_name}"',
        node.span,
        did_you_mean(name, _known(scope)) or did_you_mean(first.name, _known(scope)) or _listed(_known(scope)),
        code="unknown-property",
    )


def _unknown_side(
    steps: tuple[syntax.Step, ...], node: syntax.Property, scope: Scope
) -> tuple[Bound, tuple[syntax.Step, ...]]:
    """A name that no side of a join is known to have."""
    first = steps[0]
    name = first.name if isinstance(first, syntax.Key) else "…"
    dotted = len(steps) > 1 and isinstance(steps[1], syntax.Key) and steps[1].style == "dot"
    if dotted and did_you_mean(name, _known(scope)) is None:
        hint = did_you_mean(name, scope.sides) or f"The sides are {', '.join(scope.sides)}."
        raise MqlError(f'no side of the join is called "{name}"', node.span, hint, code="unknown-property")
    sides = ", ".join(f"{side}.{name}" for side in scope.sides)
    hint = did_you_mean(name, _known(scope)) or f"Say of which side it is: {sides}."
    message = f'no property "{name}" in any side of the join'
    raise MqlError(message, node.span, hint, code="unknown-property")


def _known(scope: Scope) -> list[str]:
    """Every name that could have been meant, paths dotted."""
    found = list(scope.outputs)
    for top in scope.shape.fields:
        found.append(top.name)
        if isinstance(top.type, StructOf):
            found.extend(name if top.name in scope.sides else f"{top.name}.{name}" for name, _ in top.type.fields)
    return found


def _listed(names: list[str]) -> str | None:
    if not names:
        return None
    shown = ", ".join(names[:8])
    return f"Known are {shown}{', …' if len(names) > 8 else ''}."


def descend(bound: Bound, steps: tuple[syntax.Step, ...], node: syntax.Property, scope: Scope) -> Bound:
    """Further steps into a value: fields of structs, elements of lists, paths in JSON."""
    for at, step in enumerate(steps):
        type = bound.type
        match step:
            case syntax.Prefix(text):
                raise MqlError(f"[^'{text}'] stands for several properties", node.span, "Use it in SELECT alone.")
            case syntax.AnyElement():
                rest = steps[at + 1 :]
                return _every(items_of(bound, node), rest, node, scope)
            case syntax.Key(name) if isinstance(type, StructOf):
                bound = _struct_field(bound, name, node, scope)
            case syntax.Key(name) if type == JSON:
                bound = _json_step(bound, json_pointer((name,)))
            case syntax.Index(value) if type == JSON:
                bound = _json_step(bound, f"$[{value}]" if value >= 0 else f"$[#{value}]")
            case syntax.Index(value) if isinstance(type, ListOf):
                bound = Apply("element", (bound, Constant(value, BIGINT)), type.item)
            case syntax.Key(name):
                what = "a list" if isinstance(type, ListOf) else str(type)
                hint = f"Write [0].{name} for its first element, [*].{name} for any." if what == "a list" else None
                raise MqlError(f'"{_spelled(node, at, steps)}" is {what}: it has no "{name}"', node.span, hint)
            case syntax.Index():
                raise MqlError(f'"{_spelled(node, at, steps)}" is {type}, no list', node.span)
            case _:
                assert_never(step)
    return bound


def _spelled(node: syntax.Property, at: int, steps: tuple[syntax.Step, ...]) -> str:
    """The property as far as it was followed, dotted."""
    taken = node.steps[: len(node.steps) - len(steps) + at]
    keys = [step.name for step in taken if isinstance(step, syntax.Key)]
    return ".".join(keys[1:] if len(keys) > 1 and keys[0] == "e" else keys)


def _struct_field(bound: Bound, name: str, node: syntax.Property, scope: Scope) -> Bound:
    assert isinstance(bound.type, StructOf)
    fields = dict(bound.type.fields)
    if name in fields:
        if isinstance(bound, Column):
            return Column((*bound.path, name), fields[name])
        return Apply("field", (bound, Constant(name, VARCHAR)), fields[name])
    dotted = ".".join((*bound.path, name)) if isinstance(bound, Column) else name
    if scope.shape.open and isinstance(bound, Column):
        if scope.opened is not None:
            scope.opened.add((*bound.path, name))
        return Column((*bound.path, name), JSON)
    if scope.shape.open:
        return Constant(None, NULL)
    near = nearest(name, fields)
    before = dotted[: len(dotted) - len(name)]
    hint = f'Did you mean "{before}{near}"?' if near else _listed(list(fields))
    raise MqlError(f'no property "{dotted}" in source "{scope.source_name}"', node.span, hint, code="unknown-property")


def inside(bound: Bound, path: Path) -> Bound:
    """The value at a path of names that the value's type is known to have."""
    for name in path:
        assert isinstance(bound.type, StructOf)
        type = dict(bound.type.fields)[name]
        if isinstance(bound, Column):
            bound = Column((*bound.path, name), type)
        else:
            bound = Apply("field", (bound, Constant(name, VARCHAR)), type)
    return bound


def _json_step(bound: Bound, pointer: str) -> Bound:
    """One step down in JSON; steps by name, one after the other, are one look-up."""
    match bound:
        case Apply("json_get", (operand, Constant(str(before)))) if before.startswith("/") and pointer.startswith("/"):
            return Apply("json_get", (operand, Constant(before + pointer, VARCHAR)), JSON)
        case _:
            return Apply("json_get", (bound, Constant(pointer, VARCHAR)), JSON)


def items_of(bound: Bound, node: syntax.Property) -> Bound:
    """What [*] goes through: a list, or the values of an object."""
    if isinstance(bound.type, ListOf):
        return bound
    if bound.type == JSON or isinstance(bound.type, StructOf):
        return Apply("json_items", (bound if bound.type == JSON else Convert(bound, JSON),), ListOf(JSON))
    raise MqlError(f"[*] needs a list, this is {bound.type}", node.span)


def _every(items: Bound, steps: tuple[syntax.Step, ...], node: syntax.Property, scope: Scope) -> Bound:
    """`list[*].field` as a value: the list of that field."""
    for step in steps:
        assert isinstance(items.type, ListOf)
        item = items.type.item
        match step:
            case syntax.Key(name) if isinstance(item, StructOf):
                inner = _struct_field(Element(item), name, node, scope)
                items = Apply("each_field", (items, Constant(name, VARCHAR)), ListOf(inner.type))
            case syntax.Key(name) if item == JSON:
                items = Apply("each_json", (items, Constant(json_pointer((name,)), VARCHAR)), ListOf(JSON))
            case _:
                raise MqlError("after [*] a value takes names of fields alone", node.span)
    return items
