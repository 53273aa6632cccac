"""What sources looked like when a job first began: it keeps to that, for what is learned may change with a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mql.catalog import SourceInfo, TimeRule
from mql.exec.feed import Source
from mql.learn import parse_type
from mql.planner.physical import SPLITS_MAX
from mql.schema import Field as Property


def ends_of(sources: Sequence[Source]) -> dict[int, int]:
    """Where each of the sources that a plan reads ends now, by split as the plan numbers them."""
    return {
        split + scan * SPLITS_MAX: offset
        for scan, source in enumerate(sources)
        for split, offset in source.end().items()
    }


def looks_in(kept: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint's notes say of what sources looked like; older ones know of a single source."""
    return kept if "sources" in kept else {**kept, "sources": [kept]}


def looks_of(info: SourceInfo) -> Mapping[str, Any]:
    """What a source looks like now, as JSON."""
    return {
        "source": info.name,
        "open": info.shape.open,
        "fields": [[field.name, str(field.type)] for field in info.shape.fields],
        "time": [None if info.time.path is None else list(info.time.path), info.time.unit],
    }


def as_it_looked(info: SourceInfo, looks: Mapping[str, Any]) -> SourceInfo:
    path, unit = looks["time"]
    fields = tuple(Property(name, parse_type(type)) for name, type in looks["fields"])
    shape = replace(info.shape, fields=fields, open=looks["open"])
    return replace(info, shape=shape, time=TimeRule(None if path is None else tuple(path), unit))


def looks_with(looks: Mapping[str, Any], infos: Sequence[SourceInfo]) -> Mapping[str, Any]:
    """The same for another query: sources as they looked, with what is known of them beside that by now."""
    before = {look["source"]: look for look in looks["sources"]}
    now = {info.name: looks_of(info) for info in infos}
    return {**looks, "sources": [widened(before.get(name), look) for name, look in now.items()]}


def widened(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Mapping[str, Any]:
    if before is None:
        return now
    known = {name for name, _ in before["fields"]}
    return {**before, "fields": [*before["fields"], *(field for field in now["fields"] if field[0] not in known)]}
