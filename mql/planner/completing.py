"""What may be written at a place in a text: keywords, and the names of sources, properties, functions and methods."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mql.aggregates import AGGREGATES
from mql.catalog import Catalog, SourceInfo
from mql.functions import SCALARS
from mql.parser import expected_at
from mql.schema import DataType, StructOf

ITEMS_MAX = 200
_WRITTEN = re.compile(r"[A-Za-z_][\w.]*$")
_READS = re.compile(r"\b(?:from|join)\s+([A-Za-z_][\w.]*(?:\s*,\s*[A-Za-z_][\w.]*)*)", re.IGNORECASE)
_NESTED_MAX = 4


@dataclass(frozen=True, slots=True)
class Completion:
    """`kind`: keyword, source, property, function or aggregate. `detail`: a type, or what it does."""

    text: str
    kind: str
    detail: str = ""


def complete(text: str, offset: int, catalog: Catalog) -> tuple[int, tuple[Completion, ...]]:
    """Where what is being written begins, and what it may become, names first.

    Wrong text before the place gives nothing; what comes behind it only tells the sources."""
    offset = max(0, min(offset, len(text)))
    written = _WRITTEN.search(text[:offset])
    start = written.start() if written else offset
    expected = expected_at(text, start)
    begun = text[start:offset].lower()
    found = [one for one in _offered(expected, text, catalog) if one.text.lower().startswith(begun)]
    return start, tuple(dict.fromkeys(found))[:ITEMS_MAX]


def _offered(expected: list[str], text: str, catalog: Catalog) -> Iterator[Completion]:
    if "a source" in expected:
        for name, info in sorted(catalog.sources.items()):
            yield Completion(name, "source", info.kind)
    if "a name" in expected and "CASE" in expected:
        for info in _read_by(text, catalog):
            for name, type in _properties({field.name: field.type for field in info.shape.fields}):
                yield Completion(name, "property", str(type))
        for row in AGGREGATES:
            yield Completion(f"{row.name}(", "aggregate", row.doc)
        for function in SCALARS:
            if not function.operator:
                yield Completion(f"{function.name}(", "function", function.doc)
    for word in expected:
        if word.isupper() or (" " in word and word.replace(" ", "").isupper()):
            yield Completion(word, "keyword")


def _read_by(text: str, catalog: Catalog) -> Iterator[SourceInfo]:
    """The sources that the text names, else the one that is meant where none is."""
    names = [name.strip() for found in _READS.findall(text) for name in found.split(",")]
    known = [catalog.sources[name] for name in names if name in catalog.sources]
    if not known and catalog.default is not None and catalog.default in catalog.sources:
        known = [catalog.sources[catalog.default]]
    yield from known or (catalog.sources.values() if len(catalog.sources) == 1 else ())


def _properties(fields: Mapping[str, DataType], before: str = "", depth: int = 0) -> Iterator[tuple[str, DataType]]:
    for name, type in fields.items():
        spelled = name if re.fullmatch(r"[A-Za-z_]\w*", name) else f"`{name}`"
        yield before + spelled, type
        if isinstance(type, StructOf) and depth < _NESTED_MAX:
            yield from _properties(dict(type.fields), f"{before}{spelled}.", depth + 1)
