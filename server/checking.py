"""Queries and configurations, checked as files: what an editor, a hook or a CI job calls."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mql.catalog import Catalog
from mql.errors import MqlError
from mql.planner.compile import compile_query
from mql.scan import blank_comments
from server.formatting import told
from server.local import House, house_of, parse_in, read_by
from server.settings import check_tables, settings_of
from server.templates import is_template, read_template
from sources.declared import load_sources
from sources.declared_tables import load_tables
from sources.strict_yaml import ConfigError, Document, read_yaml

SHAPED_ELSEWHERE = ("kafka", "stdin")
"""Kinds whose shape only the running system can tell: queries on them are checked by grammar alone."""
YAML_ENDINGS = (".yaml", ".yml")


def check_files(files: Sequence[Path], config: Path | None, params: Mapping[str, Any]) -> Sequence[str]:
    """All that is wrong in the files (of a directory: its .mql and .yaml files), as file:line:column: message."""
    problems: list[str] = []
    house = None
    for file in expanded(files):
        if file.suffix in YAML_ENDINGS:
            problems += check_config(file)
        else:
            house = house or safe_house(config)
            problems += check_query(file, house, params)
    return problems


def expanded(files: Sequence[Path]) -> Sequence[Path]:
    found: list[Path] = []
    for file in files:
        inside = (
            (one for one in sorted(file.rglob("*")) if one.suffix in (".mql", *YAML_ENDINGS))
            if file.is_dir()
            else (file,)
        )
        found += inside
    return found


def safe_house(config: Path | None) -> House | None:
    """The house of the configuration; a wrong one is told where it is checked itself."""
    try:
        return None if config is None else house_of(config)
    except ConfigError:
        return None


def check_config(file: Path) -> Sequence[str]:
    """A configuration, or a template."""
    try:
        document = read_yaml(file)
        if is_template(document.value):
            read_template(file)
            return []
        settings = settings_of(document, file.parent)
        check_tables(settings, document)
        for source in load_quietly(settings.sources, file.parent, document):
            source.close()
    except ConfigError as error:
        return [f"{file}:{problem}" for problem in error.problems]
    return []


def load_quietly(sources: Mapping[str, Any], base_dir: Path, document: Document) -> Any:
    """The sources, without touching anything that a running server uses: no archives, no notes about followed files."""
    quiet = {
        name: {**mapping, "record": False} if isinstance(mapping, Mapping) else mapping
        for name, mapping in sources.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        return load_sources(quiet, base_dir, document=document, data_dir=Path(scratch))


def check_query(file: Path, house: House | None, params: Mapping[str, Any]) -> Sequence[str]:
    text = file.read_text("utf-8")
    try:
        tree = parse_in(text)
        catalog = catalog_of(house, read_by(tree, params)[0])
        if catalog is not None and (params or "$" not in blank_comments(text)):
            compile_query(text, catalog, params)
    except MqlError as error:
        return [told(file, text, error)]
    except ConfigError:
        return []
    return []


def catalog_of(house: House | None, names: Sequence[str]) -> Catalog | None:
    """What a query on these sources may read; None where that cannot be told here."""
    if house is None or not house.settings.sources:
        return None
    wanted = names or ((house.settings.default,) if house.settings.default else tuple(house.settings.sources))
    kinds = {name: house.settings.sources[name].get("kind") for name in wanted if name in house.settings.sources}
    tables = {name: mapping for name, mapping in house.settings.tables.items() if name in names}
    if any(kind in SHAPED_ELSEWHERE for kind in kinds.values()) or any(map(is_far, tables.values())):
        return None
    chosen = {name: house.settings.sources[name] for name in kinds}
    made = load_quietly(chosen, house.settings.base_dir, house.document)
    infos = {source.info.name: source.info for source in made}
    for source in made:
        source.close()
    known = load_tables(tables, house.settings.base_dir, document=house.document)
    looked_up = {table.name: table.info for table in known}
    for table in known:
        table.close()
    return Catalog(infos, house.settings.default if house.settings.default in infos else None, tables=looked_up)


def is_far(mapping: Any) -> bool:
    """Whether a table is on another machine, which a check does not ask."""
    return isinstance(mapping, Mapping) and mapping.get("kind") in ("http", "postgres")
