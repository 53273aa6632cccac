"""Drift: the events' shape changes while a query runs. The query keeps the shape that it was bound to, and says so."""

from __future__ import annotations

from mql.planner.physical import Scan
from mql.schema import Shape

NAMES_MAX = 10


class Drift:
    """Compares the shape that a source has now with the one that a query was bound to; tells each change once."""

    def __init__(self, scan: Scan, shape: Shape) -> None:
        self._columns = scan.columns
        self._version = scan.shape_version
        self._names = {field.name for field in shape.fields}
        self._told: set[str] = set()

    def look(self, shape: Shape) -> str | None:
        """What has changed since the last look, in sentences; None where nothing has that concerns the query."""
        if shape.version == self._version:
            return None
        self._version = shape.version
        changed = []
        for path, type in self._columns:
            now = shape.type_of(path) if path else None
            name = ".".join(path)
            if now is not None and now != type and name not in self._told:
                self._told.add(name)
                changed.append(f'"{name}" has values of {now} now; this query goes on reading it as {type}')
        fresh = [field.name for field in shape.fields if field.name not in self._names]
        self._names.update(fresh)
        if fresh:
            more = f" and {len(fresh) - NAMES_MAX} more" if len(fresh) > NAMES_MAX else ""
            changed.append(f"new properties, unknown to this query: {', '.join(fresh[:NAMES_MAX])}{more}")
        return "; ".join(changed) or None
