"""Properties that an asker may not read: out of the shape, and refused where a plan would read them none the less.

A query reaches events through the columns of its scans and in no other way, so those are what is judged. Letter case
and dots in names are not told apart: `e['User.ID']` is `user.id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mql.errors import MqlError
from mql.planner.physical import Scan
from mql.schema import DataType, Field, Path, Shape, StructOf


def shape_without(shape: Shape, hidden: Sequence[Path], encoding: str) -> Shape:
    """The shape as an asker sees it who may not read these paths, nor the examples of what holds them.

    Where events come as columns, one that holds a hidden path goes as a whole: it would be read as a whole.
    """
    fields: list[Field] = []
    for field in shape.fields:
        inside = [path for path in hidden if folded(path[:1]) == folded((field.name,))]
        if not inside and not any(covers((field.name,), path) or covers(path, (field.name,)) for path in hidden):
            fields.append(field)
            continue
        type = None if encoding != "json" or not inside else type_without(field.type, [path[1:] for path in inside])
        if type is not None:
            fields.append(replace(field, type=type, example=None))
    return replace(shape, fields=tuple(fields))


def type_without(type: DataType, hidden: Sequence[Path]) -> DataType | None:
    """The type without what lies at these paths; None where nothing is left of it, or its insides are not known."""
    if () in hidden or not isinstance(type, StructOf):
        return None
    kept: list[tuple[str, DataType]] = []
    for name, inner in type.fields:
        below = [path[1:] for path in hidden if folded(path[:1]) == folded((name,))]
        left = inner if not below else type_without(inner, below)
        if left is not None:
            kept.append((name, left))
    return StructOf(tuple(kept)) if kept else None


def check_hidden(scans: Iterable[Scan], hidden: Mapping[str, Sequence[Path]]) -> None:
    """MqlError where a scan would read what is hidden, or something that may hold it."""
    for scan in scans:
        for path, type in scan.columns:
            for away in hidden.get(scan.source, ()):
                if covers(away, path) or (covers(path, away) and not is_without(path, type, away, scan.encoding)):
                    raise masked(scan.source, away, path)


def is_without(path: Path, type: DataType, away: Path, encoding: str) -> bool:
    """Whether a column is decoded into named fields alone, and what is hidden is none of them."""
    return encoding == "json" and isinstance(type, StructOf) and type_without(type, [away[len(path) :]]) == type


def covers(path: Path, other: Path) -> bool:
    """Whether the second path is the first or lies in it."""
    own, others = folded(path), folded(other)
    return others == own or others.startswith(own + ".") or not path


def folded(path: Path) -> str:
    return ".".join(path).casefold()


def masked(source: str, away: Path, path: Path) -> MqlError:
    name = ".".join(away)
    said = f'"{name}" of "{source}" is hidden from you'
    if folded(path) != folded(away):
        whole = f'"{".".join(path)}"' if path else "a whole event"
        return MqlError(f"{whole} holds what is hidden from you", hint=f'"{name}" is: name others.', code="hidden")
    return MqlError(said, hint="Leave it out, or ask with another token.", code="hidden")
