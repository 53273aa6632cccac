"""FROM: which sources a query reads, by themselves or through the queries that it is made of, and what may be named
of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mql import syntax
from mql.catalog import Catalog, SourceInfo, TableInfo
from mql.errors import MqlError, Span, did_you_mean
from mql.functions import common_type, is_number
from mql.planner.expressions import Apply, Bound, Choose, Constant, EventMeta
from mql.planner.logical import Input, Merge, Scan
from mql.planner.physical import SPLITS_MAX, Start
from mql.planner.scope import Scope
from mql.schema import BIGINT, BOOLEAN, JSON, NULL, VARCHAR, DataType, Field, Path, Shape, StructOf

SOURCES_MAX = 64
DEPTH_MAX = 32
"""So many queries may stand in each other."""
STATE_BYTES_MAX = 1 << 30
"""What each task of a join may hold, if the query does not say."""

_OWN_SPLIT = Apply("%", (EventMeta("split"), Constant(SPLITS_MAX, BIGINT)), BIGINT)
"""A split's number as its own source counts it."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a query may read by name: the catalog's sources, and before them the queries of WITH, each with the names
    that it knows itself."""

    catalog: Catalog
    params: Mapping[str, object]
    queries: Mapping[str, tuple[syntax.Query, Names]] = field(default_factory=dict)

    def also(self, query: syntax.Query) -> Names:
        """The names inside a query: those of its WITH too, each of which knows the ones before it."""
        names = self
        for name, written in query.ctes:
            names = replace(names, queries={**names.queries, name: (written, names.also(written))})
        return names

    def query(self, ref: syntax.From) -> tuple[syntax.Query, Names] | None:
        """The query that stands here, itself or by its name."""
        if isinstance(ref, syntax.SubqueryRef):
            return ref.query, self.also(ref.query)
        return self.queries.get(ref.name or "")

    def table(self, ref: syntax.From) -> TableInfo | None:
        """The declared table that stands here."""
        if isinstance(ref, syntax.SubqueryRef) or ref.name in self.queries:
            return None
        return self.catalog.tables.get(ref.name or ref.path or "")


@dataclass(frozen=True, slots=True)
class Reading:
    """What all parts of a text have in common: names, the stretch of time that is read, and what is found on the way:
    names of open shapes (`opened`), and things to warn of. `several`: more than one scan reads it.
    `ttl_us`: how long state of what is silent is kept; `state_ttl_us`: where the query says so itself.
    `state_bytes_max`: how much each task of a join may hold. `keys_max`, `key_ttl_us`: what detectors
    remember, where the text says it.
    """

    names: Names
    since: Start
    until: Start
    lateness_us: int
    several: bool
    ttl_us: int
    opened: dict[Path, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    as_live: bool = False
    state_ttl_us: int | None = None
    state_bytes_max: int = STATE_BYTES_MAX
    keys_max: int | None = None
    key_ttl_us: int | None = None

    @property
    def ends(self) -> bool:
        return self.until.kind != "live"


@dataclass(frozen=True, slots=True)
class Read:
    """What a query reads, which looks like the source `info`."""

    input: Input
    info: SourceInfo
    aliases: frozenset[str]
    calls: Mapping[str, Bound] = field(default_factory=dict)
    sides: tuple[str, ...] = ()
    first_side_wins: bool = False
    shared: Mapping[str, Bound] = field(default_factory=dict)

    def scope(self, params: Mapping[str, object], opened: set[Path]) -> Scope:
        """What the clauses may name."""
        return Scope(
            shape=self.info.shape,
            source_name=self.info.name,
            params=params,
            aliases=self.aliases,
            calls=self.calls,
            sides=self.sides,
            first_side_wins=self.first_side_wins,
            shared=self.shared,
            opened=opened,
        )


def sources_of(query: syntax.Query, names: Names) -> list[SourceInfo]:
    """The sources of a text, as often as they are read. MqlError tells what can't be read, or not together."""
    found: list[SourceInfo] = []
    for info, span in _leaves(query, names, 1):
        if len(found) == SOURCES_MAX:
            raise MqlError(f"at most {SOURCES_MAX} sources can be merged", span)
        if found and info.bounded != found[0].bounded:
            one, other = (info, found[0]) if info.bounded else (found[0], info)
            hint = "Declare what ends as a table, or ask both for a stretch of history."
            raise MqlError(f'source "{one.name}" ends, and "{other.name}" does not', span, hint)
        found.append(info)
    if not found:
        name = next((ref.alias or getattr(ref, "name", None) for ref in query.sources), None)
        raise MqlError(f'"{name}" is a table, and has no events', query.sources[0].span, "Join a source with it.")
    return found


def _leaves(query: syntax.Query, names: Names, depth: int) -> Iterator[tuple[SourceInfo, Span]]:
    if depth > DEPTH_MAX:
        raise MqlError(f"more than {DEPTH_MAX} queries stand in each other", query.span, "Put some of them together.")
    for part in (query, *query.union):
        if not part.sources:
            yield _default(part, names.catalog), part.span
        for inner_query in asked_by(part.where):
            yield from _leaves(inner_query, names.also(inner_query), depth + 1)
        for ref in (*part.sources, *(join.right for join in part.joins)):
            if names.table(ref) is not None:
                continue
            inner = names.query(ref)
            if inner is not None:
                yield from _leaves(*inner, depth + 1)
            else:
                yield _named(ref, names), ref.span


def asked_by(where: syntax.Expression | None) -> Iterator[syntax.Query]:
    """The queries that conditions ask, by IN or EXISTS."""
    waiting: list[object] = [where]
    while waiting:
        node = waiting.pop()
        if isinstance(node, syntax.InQuery | syntax.Exists):
            yield node.query
        if isinstance(node, tuple):
            waiting.extend(node)
        elif hasattr(node, "__dataclass_fields__") and not isinstance(node, syntax.Query):
            waiting.extend(getattr(node, name) for name in node.__dataclass_fields__)


def bind_sources(query: syntax.Query, reading: Reading) -> Read:
    """What a query reads that names sources alone."""
    names = reading.names
    refs = query.sources

    def scan(info: SourceInfo) -> Scan:
        return Scan(info, reading.since, reading.until, reading.lateness_us)

    def alone(info: SourceInfo, aliases: frozenset[str]) -> Read:
        calls: dict[str, Bound] = {"source": Constant(info.name, VARCHAR)}
        return Read(scan(info), info, aliases, {**calls, "split": _OWN_SPLIT} if reading.several else calls)

    if not refs:
        info = _default(query, names.catalog)
        return alone(info, frozenset((info.name,)))
    infos = tuple(_named(ref, names) for ref in refs)
    aliases = frozenset(
        name for ref in refs if isinstance(ref, syntax.SourceRef) for name in (ref.alias, ref.name) if name
    )
    if len(infos) == 1:
        return alone(infos[0], aliases)
    united = _united(infos, refs)
    return Read(Merge(tuple(scan(info) for info in infos), united), united, aliases, _told_apart(infos))


def _default(query: syntax.Query, catalog: Catalog) -> SourceInfo:
    implied = catalog.default or (next(iter(catalog.sources)) if len(catalog.sources) == 1 else None)
    if implied is None:
        raise MqlError("the query names no source", query.span, _known_sources(catalog) or "Add FROM and a source.")
    return catalog.sources[implied]


def _named(ref: syntax.From, names: Names) -> SourceInfo:
    assert isinstance(ref, syntax.SourceRef)
    catalog = names.catalog
    name = ref.name or ref.path or ""
    if ref.param is not None:
        value = names.params.get(ref.param)
        if not isinstance(value, str):
            raise MqlError(f'parameter "{ref.param}" must name a source', ref.span)
        name = value
    found = catalog.sources.get(name)
    if found is None and catalog.piped is not None and ref.path is None:
        found = catalog.sources[catalog.piped]
    if found is not None:
        return found
    if names.table(ref) is not None:
        joined = f"Join a source with it: FROM events JOIN {name} ON …."
        raise MqlError(f'"{name}" is a table, and has no events', ref.span, joined)
    if ref.path is not None:
        declared = "A server opens only what its operator declared; ask a declared source, or use the command line."
        raise MqlError(f'no source "{name}"', ref.span, declared, code="unknown-source")
    hint = did_you_mean(name, [*catalog.sources, *catalog.tables, *names.queries]) or _known_sources(catalog)
    raise MqlError(f'no source "{name}"', ref.span, hint, code="unknown-source")


def _known_sources(catalog: Catalog) -> str | None:
    names = ", ".join(f'"{name}"' for name in sorted(catalog.sources)[:10])
    return f"There are: {names}." if names else "No source is declared yet."


# --- several as one ------------------------------------------------------------------------------------------


def _told_apart(infos: Sequence[SourceInfo]) -> dict[str, Bound]:
    """`source()` and `split()` of merged events, by the numbers of their splits."""

    def below(at: int) -> Bound:
        return Apply("<", (EventMeta("split"), Constant((at + 1) * SPLITS_MAX, BIGINT)), BOOLEAN)

    names = [Constant(info.name, VARCHAR) for info in infos]
    whens = tuple((below(at), name) for at, name in enumerate(names[:-1]))
    return {
        "source": Choose(whens, names[-1], VARCHAR),
        "split": _OWN_SPLIT,
    }


def _united(infos: Sequence[SourceInfo], refs: Sequence[syntax.From]) -> SourceInfo:
    """One source with the properties of all; of those with different types, as JSON."""
    fields: dict[str, Field] = {}
    for info, ref in zip(infos, refs, strict=True):
        for each in info.shape.fields:
            known = fields.get(each.name)
            fields[each.name] = each if known is None else replace(known, type=either_type(known.type, each.type))
        _check_types(infos, fields, ref)
    shape = Shape(tuple(fields.values()), open=any(info.shape.open for info in infos))
    return as_one(", ".join(info.name for info in infos), shape, infos)


def as_one(name: str, shape: Shape, infos: Sequence[SourceInfo]) -> SourceInfo:
    """A source of this shape that is as patient as the most patient of those that it is made of."""
    return replace(
        infos[0],
        name=name,
        shape=shape,
        lateness_us=max(info.lateness_us for info in infos),
        idle_timeout_us=max(info.idle_timeout_us for info in infos),
        history=all(info.history for info in infos),
        splits=sum(info.splits for info in infos),
    )


def _check_types(infos: Sequence[SourceInfo], fields: Mapping[str, Field], ref: syntax.From) -> None:
    """Columns that are no JSON texts can't be read as JSON beside others."""
    for info in infos:
        for each in info.shape.fields if info.encoding == "columns" else ():
            if fields[each.name].type == JSON != each.type:
                message = f'"{each.name}" of "{info.name}" is {each.type}, and has another type in the other sources'
                raise MqlError(message, ref.span, "Ask the sources one by one.")


def either_type(one: DataType, other: DataType) -> DataType:
    """The type of a column that is of this type here, and of that one there."""
    if one == other or NULL in (one, other):
        return other if one == NULL else one
    if is_number(one) and is_number(other):
        return _wider(one, other)
    if isinstance(one, StructOf) and isinstance(other, StructOf):
        inner = dict(one.fields)
        for name, type in other.fields:
            inner[name] = either_type(inner[name], type) if name in inner else type
        return StructOf(tuple(inner.items()))
    return JSON


def _wider(one: DataType, other: DataType) -> DataType:
    found = common_type((one, other))
    assert found is not None
    return found
