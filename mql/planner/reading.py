"""FROM: which sources a query reads, and what may be named of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mql import syntax
from mql.catalog import Catalog, SourceInfo
from mql.errors import MqlError, did_you_mean
from mql.functions import common_type, is_number
from mql.planner.expressions import Apply, Bound, Choose, Constant, EventMeta
from mql.planner.logical import Input, Merge, Scan
from mql.planner.physical import SPLITS_MAX, Start
from mql.planner.scope import Scope
from mql.schema import BIGINT, BOOLEAN, JSON, NULL, VARCHAR, DataType, Field, Path, Shape, StructOf

SOURCES_MAX = 64


@dataclass(frozen=True, slots=True)
class Read:
    """What a query reads: `infos`, one after the other, which look like the one source `info`."""

    infos: tuple[SourceInfo, ...]
    info: SourceInfo
    aliases: frozenset[str]
    calls: Mapping[str, Bound] = field(default_factory=dict)

    def scope(self, params: Mapping[str, object], opened: set[Path]) -> Scope:
        """What the clauses may name."""
        return Scope(
            shape=self.info.shape,
            source_name=self.info.name,
            params=params,
            aliases=self.aliases,
            calls=self.calls,
            opened=opened,
        )

    def input(self, since: Start, until: Start, lateness_us: int) -> Input:
        """Where the rows of the plan come from."""
        scans = tuple(Scan(info, since, until, lateness_us) for info in self.infos)
        return scans[0] if len(scans) == 1 else Merge(scans, self.info)


def bind_from(query: syntax.Query, catalog: Catalog, params: Mapping[str, object]) -> Read:
    """The sources that a query names. MqlError tells what can't be read, or not together."""
    if not query.sources:
        info = _default(query, catalog)
        return Read((info,), info, frozenset((info.name,)), {"source": Constant(info.name, VARCHAR)})
    if len(query.sources) > SOURCES_MAX:
        raise MqlError(f"at most {SOURCES_MAX} sources can be merged", query.sources[SOURCES_MAX].span)
    infos = tuple(_named(ref, catalog, params) for ref in query.sources)
    refs = [ref for ref in query.sources if isinstance(ref, syntax.SourceRef)]
    aliases = frozenset(name for ref in refs for name in (ref.alias, ref.name) if name)
    if len(infos) == 1:
        return Read(infos, infos[0], aliases, {"source": Constant(infos[0].name, VARCHAR)})
    check_together(infos, query.sources)
    return Read(infos, _united(infos, query.sources), aliases, _told_apart(infos))


def check_together(infos: Sequence[SourceInfo], refs: Sequence[syntax.From]) -> None:
    """Sources that end and sources that do not have no common end."""
    for info, ref in zip(infos, refs, strict=True):
        if info.bounded != infos[0].bounded:
            one, other = (info, infos[0]) if info.bounded else (infos[0], info)
            hint = "Declare what ends as a table, or ask both for a stretch of history."
            raise MqlError(f'source "{one.name}" ends, and "{other.name}" does not', ref.span, hint)


def _default(query: syntax.Query, catalog: Catalog) -> SourceInfo:
    implied = catalog.default or (next(iter(catalog.sources)) if len(catalog.sources) == 1 else None)
    if implied is None:
        raise MqlError("the query names no source", query.span, _known_sources(catalog) or "Add FROM and a source.")
    return catalog.sources[implied]


def _named(ref: syntax.From, catalog: Catalog, params: Mapping[str, object]) -> SourceInfo:
    if isinstance(ref, syntax.SubqueryRef):
        raise MqlError("a query in FROM is not supported yet", ref.span, code="not-supported")
    name = ref.name or ref.path or ""
    if ref.param is not None:
        value = params.get(ref.param)
        if not isinstance(value, str):
            raise MqlError(f'parameter "{ref.param}" must name a source', ref.span)
        name = value
    found = catalog.sources.get(name)
    if found is None and catalog.piped is not None and ref.path is None:
        found = catalog.sources[catalog.piped]
    if found is not None:
        return found
    if ref.path is not None:
        declared = "A server opens only what its operator declared; ask a declared source, or use the command line."
        raise MqlError(f'no source "{name}"', ref.span, declared, code="unknown-source")
    hint = did_you_mean(name, catalog.sources) or _known_sources(catalog)
    raise MqlError(f'no source "{name}"', ref.span, hint, code="unknown-source")


def _known_sources(catalog: Catalog) -> str | None:
    names = ", ".join(f'"{name}"' for name in sorted(catalog.sources)[:10])
    return f"There are: {names}." if names else "No source is declared yet."


# --- several as one ------------------------------------------------------------------------------------------


def _told_apart(infos: Sequence[SourceInfo]) -> dict[str, Bound]:
    """`source()` and `split()` of merged events, by the numbers of their splits."""
    number = EventMeta("split")

    def below(at: int) -> Bound:
        return Apply("<", (number, Constant((at + 1) * SPLITS_MAX, BIGINT)), BOOLEAN)

    names = [Constant(info.name, VARCHAR) for info in infos]
    whens = tuple((below(at), name) for at, name in enumerate(names[:-1]))
    return {
        "source": Choose(whens, names[-1], VARCHAR),
        "split": Apply("%", (number, Constant(SPLITS_MAX, BIGINT)), BIGINT),
    }


def _united(infos: Sequence[SourceInfo], refs: Sequence[syntax.From]) -> SourceInfo:
    """One source with the properties of all; of those with different types, as JSON."""
    fields: dict[str, Field] = {}
    for info, ref in zip(infos, refs, strict=True):
        for each in info.shape.fields:
            known = fields.get(each.name)
            fields[each.name] = each if known is None else replace(known, type=_either(known.type, each.type))
        _check_types(infos, fields, ref)
    first = infos[0]
    return replace(
        first,
        name=", ".join(info.name for info in infos),
        shape=Shape(tuple(fields.values()), open=any(info.shape.open for info in infos)),
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


def _either(one: DataType, other: DataType) -> DataType:
    if one == other or NULL in (one, other):
        return other if one == NULL else one
    if is_number(one) and is_number(other):
        return _wider(one, other)
    if isinstance(one, StructOf) and isinstance(other, StructOf):
        inner = dict(one.fields)
        for name, type in other.fields:
            inner[name] = _either(inner[name], type) if name in inner else type
        return StructOf(tuple(inner.items()))
    return JSON


def _wider(one: DataType, other: DataType) -> DataType:
    found = common_type((one, other))
    assert found is not None
    return found
