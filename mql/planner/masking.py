"""Properties that an asker sees in another form: nulls, keyed hashes, the last characters.

A mask is put on where events are decoded, so that nothing behind that has ever seen the value: not a condition, not a
join, no late row. To the query the property is of the type that the mask gives. What holds a masked property as part of
something whose insides are not known is hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mql.errors import MqlError
from mql.planner.hidden import covers, folded
from mql.planner.physical import Scan
from mql.schema import VARCHAR, DataType, Field, Path, PropertyMask, Shape, StructOf


@dataclass(frozen=True, slots=True)
class Masked:
    """A shape as an asker sees it, the masks that are put on, and paths where none can be, which are to be hidden."""

    shape: Shape
    masks: tuple[PropertyMask, ...]
    hidden: tuple[Path, ...]


def shape_masked(shape: Shape, masks: Iterable[PropertyMask]) -> Masked:
    """Text where a mask makes text of a value. A property that is not known yet is, masked, of an open shape."""
    put: list[PropertyMask] = []
    hidden: list[Path] = []
    for told in masks:
        dotted = (".".join(told.path),)
        mask = told if shape.field(dotted[0]) is None else replace(told, path=dotted)
        top = shape.field(mask.path[0])
        alike = [field for field in shape.fields if folded((field.name,)) == folded(mask.path[:1])]
        type = None if top is None else type_masked(top.type, mask.path[1:], mask.kind)
        if top is None and shape.open and len(mask.path) == 1 and not alike:
            shape = replace(shape, fields=(*shape.fields, Field(mask.path[0], VARCHAR)))
        elif top is None or type is None or len(alike) > 1:
            hidden.append(mask.path)
            continue
        else:
            seen = replace(top, type=type, example=None)
            shape = replace(shape, fields=tuple(seen if field is top else field for field in shape.fields))
        put.append(mask)
    return Masked(shape, tuple(put), tuple(hidden))


def type_masked(type: DataType, path: Path, kind: str) -> DataType | None:
    """The type with the mask at the path; None where it is not known to lead to anything."""
    if not path:
        return type if kind == "null" else VARCHAR
    if not isinstance(type, StructOf) or len({folded((name,)) for name, _ in type.fields}) < len(type.fields):
        return None
    fields = dict(type.fields)
    inner = type_masked(fields[path[0]], path[1:], kind) if path[0] in fields else None
    if inner is None:
        return None
    return StructOf(tuple((name, inner if name == path[0] else of) for name, of in type.fields))


def masks_of(columns: Iterable[tuple[Path, DataType]], masks: Iterable[PropertyMask]) -> tuple[PropertyMask, ...]:
    """Those that lie on what is read."""
    read = [path for path, _ in columns]
    return tuple(mask for mask in masks if any(covers(path, mask.path) or covers(mask.path, path) for path in read))


def check_masked(scans: Iterable[Scan], masks: Mapping[str, Iterable[PropertyMask]]) -> None:
    """MqlError where a scan would read what is masked in a way that the mask does not cover."""
    for scan in scans:
        for mask in masks.get(scan.source, ()):
            for path, type in scan.columns:
                touches = covers(path, mask.path) or covers(mask.path, path)
                if touches and not (mask in scan.masks and is_put_on(mask, path, type)):
                    raise uncovered(scan.source, mask, path)


def is_put_on(mask: PropertyMask, path: Path, type: DataType) -> bool:
    """Whether a column that is decoded so is one that the mask is put on: it is the masked path itself, or a struct
    in whose fields that lies."""
    if mask.path[: len(path)] != path or not path:
        return False
    return type_masked(type, mask.path[len(path) :], mask.kind) == type


def uncovered(source: str, mask: PropertyMask, path: Path) -> MqlError:
    name, read = ".".join(mask.path), ".".join(path)
    whole = f'"{read}"' if path else "a whole event"
    hint = f'Name "{name}" as it is: you get it masked.'
    return MqlError(f'{whole} of "{source}" holds what is masked for you', hint=hint, code="hidden")
