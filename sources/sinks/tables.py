"""What sinks into tables share: which of a portion's rows are the last word on their key, and how names are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEY, OP = "_key", "_op"
ATTEMPTS_MAX = 1_000
"""Before what is found until then is told."""
PLACES = "_mql_places"
"""The table of places: one row for each sink that writes into the database."""


@dataclass(frozen=True, slots=True)
class Split:
    """What to do with a portion: `put` these rows (in place of those with their keys), `drop` those of these keys."""

    put: pa.Table
    drop: pa.Table


def last_words(rows: pa.Table, key: tuple[str, ...]) -> Split:
    """Of each key the last row, told apart by whether it deletes. Without a key every row is put."""
    if not key or not rows.num_rows:
        return Split(rows, rows.slice(0, 0).select(list(key)))
    at = pa.array(np.arange(rows.num_rows))
    last = rows.select(list(key)).append_column("__at", at).group_by(list(key)).aggregate([("__at", "max")])
    found = rows.take(pa.array(np.sort(last.column("__at_max").to_numpy())))
    if OP not in found.column_names:
        return Split(found, found.slice(0, 0).select(list(key)))
    gone = pc.fill_null(pc.equal(found.column(OP), "delete"), False)
    return Split(found.filter(pc.invert(gone)), found.filter(gone).select(list(key)))


def key_of(rows: pa.Table, key: tuple[str, ...]) -> tuple[str, ...]:
    """What rows are told apart by: the columns that are named, else `_key` where they have it."""
    return key or ((KEY,) if KEY in rows.column_names else ())


def refused_among(rows: pa.Table, attempt: Callable[[pa.Table], str | None]) -> dict[int, str]:
    """Which rows are refused, and why, of a portion that was; at least the first of them, if they are refused alone.

    `attempt` tries some of the rows, in order, and says why they are refused: None where they are taken."""
    found: dict[int, str] = {}
    waiting = list(reversed(halves(range(rows.num_rows))))
    for _ in range(ATTEMPTS_MAX):
        if not waiting:
            break
        part = waiting.pop()
        why = attempt(rows.slice(part.start, len(part)))
        if why is not None and len(part) == 1:
            found[part.start] = why
        elif why is not None:
            waiting += reversed(halves(part))
    return found


def halves(rows: range) -> list[range]:
    middle = rows.start + len(rows) // 2
    return [half for half in (range(rows.start, middle), range(middle, rows.stop)) if len(half)]


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
