"""What a token may read: sources and tables by name, and which of their properties are hidden from it or masked.

A hidden property is not there for that token: `SELECT *` leaves it out, naming it is refused, and what holds whole
events (samples, dead letters) is refused. A masked one is there in another form (mql/planner/masking.py). It is decided
before anything is read: by the catalog that a query is planned with, and by what its plan would read. Only readers are
limited so: what a token may change runs in the server's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from mql.catalog import Catalog, SourceInfo, TableInfo
from mql.errors import MqlError
from mql.planner.hidden import check_hidden, covers, shape_without
from mql.planner.masking import check_masked, shape_masked
from mql.planner.physical import Plan
from mql.schema import Path, PropertyMask


@dataclass(frozen=True, slots=True)
class Grant:
    """`sources`: patterns of names, such as `requests` and `job.*`; None: all. `hide`: paths by patterns of names;
    `mask`: paths with their masks, likewise."""

    sources: tuple[str, ...] | None = None
    hide: tuple[tuple[str, tuple[str, ...]], ...] = ()
    mask: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()

    @property
    def is_whole(self) -> bool:
        return self.sources is None and not self.hide and not self.mask

    def allows(self, name: str) -> bool:
        return self.sources is None or any(fnmatchcase(name, pattern) for pattern in self.sources)

    def hidden(self, name: str) -> tuple[Path, ...]:
        paths = (path for pattern, paths in self.hide if fnmatchcase(name, pattern) for path in paths)
        return tuple(dict.fromkeys(tuple(path.split(".")) for path in paths))

    def masks(self, name: str) -> tuple[PropertyMask, ...]:
        """Of two for one path the first; what is hidden is not masked."""
        told = ((path, kind) for pattern, masks in self.mask if fnmatchcase(name, pattern) for path, kind in masks)
        kinds: dict[Path, str] = {}
        for path, kind in told:
            kinds.setdefault(tuple(path.split(".")), kind)
        hidden = self.hidden(name)
        return tuple(
            PropertyMask(path, kind)
            for path, kind in kinds.items()
            if not any(covers(path, away) or covers(away, path) for away in hidden)
        )

    def is_limited(self, name: str) -> bool:
        """Whether something of it is hidden or masked, so that whole events may not be told."""
        return bool(self.hidden(name) or self.masks(name))

    def seen(self, catalog: Catalog) -> Catalog:
        """The catalog as far as it may be known."""
        if self.is_whole:
            return catalog
        sources = {name: self._source(info) for name, info in catalog.sources.items() if self.allows(name)}
        tables = {name: self._table(info) for name, info in catalog.tables.items() if self.allows(name)}
        default = catalog.default if catalog.default in sources else None
        return replace(catalog, sources=sources, tables=tables, default=default)

    def may_read(self, plan: Plan) -> bool:
        """Whether the plan is one that could have been made for this token."""
        if not all(self.allows(name) for name in (*(scan.source for scan in plan.scans), *tables_of(plan))):
            return False
        try:
            check_hidden(plan.scans, {scan.source: self.hidden(scan.source) for scan in plan.scans})
            check_masked(plan.scans, {scan.source: self.masks(scan.source) for scan in plan.scans})
        except MqlError:
            return False
        return not any(self.is_limited(name) for name in tables_of(plan))

    def _source(self, info: SourceInfo) -> SourceInfo:
        masked = shape_masked(info.shape, self.masks(info.name))
        hidden = (*self.hidden(info.name), *masked.hidden)
        shape = shape_without(masked.shape, hidden, info.encoding) if hidden else masked.shape
        return replace(info, shape=shape, hidden=hidden, masks=masked.masks)

    def _table(self, info: TableInfo) -> TableInfo:
        """Of a table's columns none is masked: they are hidden instead."""
        limited = (*self.hidden(info.name), *(mask.path for mask in self.masks(info.name)))
        tops = tuple((path[0],) for path in limited)
        return replace(info, shape=shape_without(info.shape, tops, "columns")) if tops else info


WHOLE = Grant()


def grant_of(
    sources: Sequence[str] | None, hide: Mapping[str, Iterable[str]], mask: Mapping[str, Mapping[str, str]]
) -> Grant:
    hidden = tuple((name, tuple(paths)) for name, paths in sorted(hide.items()))
    masked = tuple((name, tuple(sorted(masks.items()))) for name, masks in sorted(mask.items()))
    return Grant(None if sources is None else tuple(sources), hidden, masked)


def tables_of(plan: Plan) -> Sequence[str]:
    """The tables that a plan joins with."""
    return tuple(table for table, _ in plan.lookups)
