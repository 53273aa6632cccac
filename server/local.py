"""Queries without a server: an engine in this process over files, standard input and the sources of mql.yaml."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec.engine import Engine, Options, Running
from mql.exec.feed import Source
from mql.exec.frames import Frame
from mql.parser import parse
from mql.planner.reading import asked_by
from mql.syntax import Join, Query, SourceRef, SubqueryRef
from server.claims import claimed_by
from server.settings import Settings, settings_of
from server.tables import use_kept_tables
from sources.declared import load_sources
from sources.declared_tables import load_tables
from sources.file import FileSource
from sources.formats.files import avro_files
from sources.settings import Settings as Shared
from sources.stdin import stdin_source
from sources.strict_yaml import Document, read_yaml
from sources.table_readings import FileReading
from sources.tables import DeclaredTable, TableSettings

STDIN = "stdin"
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class House:
    """What this process can read: the operator's file, if there is one, and how undeclared input tells its time."""

    settings: Settings
    document: Document
    time_field: str | None = None
    stdin_taken: bool = False

    def shared(self) -> Shared:
        field = self.time_field
        return Shared() if field is None else Shared(time=TimeRule(tuple(field.split("."))))

    @property
    def piped(self) -> bool:
        return not self.stdin_taken and is_piped()


def house_of(config: Path | None, time_field: str | None = None, stdin_taken: bool = False) -> House:
    """The house of a configuration file; without one, nothing is declared. ConfigError tells what is wrong with it."""
    document = Document({}) if config is None else read_yaml(config)
    settings = settings_of(document, Path() if config is None else config.parent)
    return House(settings, document, time_field, stdin_taken)


def is_piped() -> bool:
    """Whether somebody gives us something at standard input: a pipe, a file, a socket; not a terminal or /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def engine_for(house: House, text: str, params: Mapping[str, Any], workers: int = 2) -> Engine:
    """An engine with what the query reads, and nothing else: a query on a file opens no broker's connections. A file
    that is joined without a bound in time is a table."""
    tree = parse_in(text)
    names, paths = read_by(tree, params)
    looked_up = tuple(path for path in tables_in(tree) if path in paths)
    tables = [*declared_tables(house, names), *(file_table(path) for path in looked_up)]
    paths = tuple(path for path in paths if path not in looked_up)
    names = tuple(name for name in names if name not in house.settings.tables)
    default = house.settings.default
    if not names and not paths:
        names = (default,) if default is not None else tuple(house.settings.sources)
    sources: list[Source] = list(declared(house, names))
    for path in paths:
        sources.append(file_of(path, house))
    known = {source.info.name for source in sources}
    piped = None
    if house.piped and (not sources or any(name not in known for name in names)):
        sources.append(stdin_source(STDIN, fd=sys.stdin.fileno(), settings=house.shared()))
        piped = STDIN
    chosen = default if default in known else piped
    return Engine(sources, workers=workers, default=chosen, piped=piped, tables=tables)


def declared(house: House, names: Sequence[str]) -> Sequence[Source]:
    """The sources of these names that the configuration declares, which a server may be reading, too."""
    wanted = {name: mapping for name, mapping in house.settings.sources.items() if name in names}
    base, data = house.settings.base_dir, house.settings.base_dir / house.settings.data_dir
    recorded = [name for name, mapping in wanted.items() if isinstance(mapping, Mapping) and mapping.get("record")]
    who = claimed_by(data) if recorded else None
    if who is not None:
        hint = "Ask that server, by --server and its address; or stop it first."
        raise MqlError(f'source "{recorded[0]}" is recorded by {who}', hint=hint, code="in-use")
    return load_sources(wanted, base, document=house.document, data_dir=data, notes=False)


def declared_tables(house: House, names: Sequence[str]) -> Sequence[DeclaredTable]:
    """The tables of these names that the configuration declares."""
    wanted = {name: mapping for name, mapping in house.settings.tables.items() if name in names}
    return load_tables(wanted, house.settings.base_dir, document=house.document)


def file_table(path: str) -> DeclaredTable:
    return DeclaredTable(path, FileReading(Path(path)), TableSettings())


def tables_in(tree: Query) -> Iterator[str]:
    """The files that a query looks rows up in: joined, without WITHIN, and read in no other way."""
    joins = [join for query in queries_in(tree) for join in query.joins]
    others = {join.right.path for join in joins if isinstance(join.right, SourceRef) and is_of_streams(join)}
    others |= {source.path for query in queries_in(tree) for source in query.sources if isinstance(source, SourceRef)}
    for join in joins:
        match join.right:
            case SourceRef(path=str(path)) if path not in others:
                yield path
            case _:
                pass


def is_of_streams(join: Join) -> bool:
    return join.within is not None or join.mantis_seconds is not None or join.asof or join.kind in ("right", "full")


def source_of(house: House, name: str) -> Source:
    """The source of that name: declared, a file, or standard input."""
    found = declared(house, (name,))
    if found:
        return found[0]
    if name in (STDIN, "-") and house.piped:
        return stdin_source(STDIN, fd=sys.stdin.fileno(), settings=house.shared())
    if Path(name).exists() or any(sign in name for sign in "*?["):
        return file_of(name, house)
    names = ", ".join(f'"{known}"' for known in sorted(house.settings.sources))
    hint = f"Declared are {names}." if names else "Name a file, or declare the source in mql.yaml."
    raise MqlError(f'no source "{name}"', hint=hint, code="no-such-source")


def file_of(path: str, house: House) -> Source:
    """A file by its path, or those that match a pattern."""
    if path.endswith((".avro", ".avro.gz", ".avro.zst")):
        return avro_files(path, [path], house.shared())
    return FileSource(path, path, settings=house.shared())


def parse_in(text: str) -> Query:
    use_kept_tables()
    try:
        return parse(text)
    except MqlError as error:
        raise error.in_text(text) from None


def read_by(tree: Query, params: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sources that a query names, and the files."""
    names: list[str] = []
    paths: list[str] = []
    for source in sources_in(tree, frozenset()):
        match source:
            case SourceRef(path=str(path)):
                paths.append(path)
            case SourceRef(name=str(name)):
                names.append(name)
            case SourceRef(param=str(param)):
                names.append(str(params.get(param)))
            case _:
                pass
    return tuple(dict.fromkeys(names)), tuple(dict.fromkeys(paths))


def sources_in(tree: Query, known: frozenset[str]) -> Iterator[SourceRef]:
    """What a query reads, at any depth, less the names of queries that are `known` where they stand."""
    for name, query in tree.ctes:
        yield from sources_in(query, known)
        known |= {name}
    for part in (tree, *tree.union):
        for source in (*part.sources, *(join.right for join in part.joins)):
            if isinstance(source, SubqueryRef):
                yield from sources_in(source.query, known)
            elif source.name not in known:
                yield source
        for query in asked_by(part.where):
            yield from sources_in(query, known)


def queries_in(tree: Query) -> Iterator[Query]:
    yield tree
    read = (*tree.sources, *(join.right for join in tree.joins))
    inner = [*(source.query for source in read if isinstance(source, SubqueryRef)), *asked_by(tree.where)]
    for query in (*inner, *(cte for _, cte in tree.ctes), *tree.union):
        yield from queries_in(query)


class LocalAnswer:
    """A query that runs in this process, as frames. Closes the engine with its end."""

    def __init__(self, engine: Engine, text: str, params: Mapping[str, Any], options: Options) -> None:
        self.engine = engine
        self.running: Running | None = None
        try:
            self.running = engine.start(text, params, options)
        except BaseException:
            engine.close()
            raise

    def frames(self) -> Generator[Frame | None, None, None]:
        """The frames, and None now and then while nothing comes."""
        assert self.running is not None
        subscription = self.running.subscribe()
        try:
            while not subscription.ended:
                yield from subscription.take()
                if not subscription.ended:
                    subscription.wait(LOOK_S)
                    yield None
        finally:
            self.engine.close()

    def stop(self, reason: str) -> None:
        """Ends the query; what it has told already still comes."""
        assert self.running is not None
        self.running.cancel(reason)
