"""What a token may read: sources and tables by name, and which of their properties are hidden from it.

A hidden property is not there for that token: `SELECT *` leaves it out, naming it is refused, and what holds whole
events (samples, dead letters) is refused. It is decided before anything is read: by the catalog that a query is planned
with, and by what its plan would read. Only readers are limited so: what a token may change runs in the server's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from mql.catalog import Catalog, SourceInfo, TableInfo
from mql.errors import MqlError
from mql.planner.hidden import check_hidden, shape_without
from mql.planner.physical import Plan
from mql.schema import Path


@dataclass(frozen=True, slots=True)
class Grant:
    """`sources`: patterns of names, such as `requests` and `job.*`; None: all. `hide`: paths by patterns of names."""

    sources: tuple[str, ...] | None = None
    hide: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def is_whole(self) -> bool:
        return self.sources is None and not self.hide

    def allows(self, name: str) -> bool:
        return self.sources is None or any(fnmatchcase(name, pattern) for pattern in self.sources)

    def hidden(self, name: str) -> tuple[Path, ...]:
        paths = (path for pattern, paths in self.hide if fnmatchcase(name, pattern) for path in paths)
        return tuple(dict.fromkeys(tuple(path.split(".")) for path in paths))

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
        except MqlError:
            return False
        return not any(self.hidden(name) for name in tables_of(plan))

    def _source(self, info: SourceInfo) -> SourceInfo:
        hidden = self.hidden(info.name)
        return replace(info, shape=shape_without(info.shape, hidden, info.encoding), hidden=hidden) if hidden else info

    def _table(self, info: TableInfo) -> TableInfo:
        tops = tuple((path[0],) for path in self.hidden(info.name))
        return replace(info, shape=shape_without(info.shape, tops, "columns")) if tops else info


WHOLE = Grant()


def grant_of(sources: Sequence[str] | None, hide: Mapping[str, Iterable[str]]) -> Grant:
    told = tuple((name, tuple(paths)) for name, paths in sorted(hide.items()))
    return Grant(None if sources is None else tuple(sources), told)


def tables_of(plan: Plan) -> Sequence[str]:
    """The tables that a plan joins with."""
    return tuple(table for table, _ in plan.lookups)
