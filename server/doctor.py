"""`mql doctor`: is everything here as it must be? Looks only, changes nothing, and says what would mend it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from mql.errors import MqlError
from mql.exec.feed import Source
from server.checking import load_quietly
from server.claims import claimed_by
from server.keeping import Keeper
from server.settings import Settings, check_reach, read_config
from server.store import open_store
from sources.strict_yaml import ConfigError

FREE_LEAST_BYTES = 1 << 30
SOURCE_S = 5.0
PACKAGES = ("duckdb", "pyarrow", "aiohttp", "reactivex", "sqlalchemy", "aiokafka")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing; `remedy` where it is not as it must be."""

    what: str
    detail: str
    remedy: str | None = None


def examine(config: Path | None) -> Iterator[Finding]:
    """All findings, one after the other. Without a configuration, those of a server that has none."""
    yield versions()
    try:
        settings, sources = (Settings(), ()) if config is None else configured(config)
    except (ConfigError, MqlError) as error:
        yield Finding("configuration", str(error), f"Mend {config}; mql check {config} tells the same.")
        return
    yield Finding("configuration", "none: the defaults hold" if config is None else str(config))
    yield reach(settings)
    yield disk(settings)
    yield store(settings)
    yield server(settings)
    yield port(settings)
    try:
        yield from (looked_at(source) for source in sources)
    finally:
        close_all(sources)


def configured(config: Path) -> tuple[Settings, Sequence[Source]]:
    settings, document = read_config(config)
    return settings, load_quietly(settings.sources, settings.base_dir, document)


def versions() -> Finding:
    found = [f"Python {platform.python_version()}"]
    missing = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    remedy = f"pip install {' '.join(missing)}" if missing else None
    return Finding("versions", ", ".join(found), remedy)


def reach(settings: Settings) -> Finding:
    server = settings.server
    try:
        check_reach(server)
    except MqlError as error:
        return Finding("reach", error.message, error.hint)
    return Finding("reach", f"{server.host}, " + ("tokens are needed" if server.tokens else "tokens as the store says"))


def disk(settings: Settings) -> Finding:
    home = settings.base_dir / settings.data_dir
    there = home if home.exists() else settings.base_dir
    free = shutil.disk_usage(there).free
    detail = f"{home}: {free >> 20:,} MiB free"
    if not os.access(there, os.W_OK):
        return Finding(
            "disk", f"{home} cannot be written", "Give this user the right to write there, or set data_dir:."
        )
    if free < FREE_LEAST_BYTES:
        return Finding("disk", detail, "Make room, keep less (keep_bytes of jobs, keep of record:), or set data_dir:.")
    return Finding("disk", detail)


def store(settings: Settings) -> Finding:
    if not Keeper(settings).has_something:
        return Finding("store", "none yet: it is made when it is first needed")
    try:
        found = open_store(settings.store, settings.base_dir / settings.data_dir, migrates=False)
    except SQLAlchemyError as error:
        return unwell(error)
    try:
        jobs = found.jobs()
        failed = [job.name for job in jobs if job.state == "failed"]
        detail = f"schema {found.schema_version}, {len(jobs)} jobs, {len(found.templates())} templates"
        if failed:
            remedy = f"mql job logs {failed[0]} tells why; mql job start {failed[0]} tries again."
            return Finding("store", f"{detail}; failed: {', '.join(failed[:5])}", remedy)
        return Finding("store", detail)
    except SQLAlchemyError as error:
        return unwell(error)
    finally:
        found.close()


def unwell(error: SQLAlchemyError) -> Finding:
    why = str(error.__cause__ or error).splitlines()[0]
    return Finding("store", why, "Is the database up, and is store: right?")


def server(settings: Settings) -> Finding:
    """Whether a server has the data directory already: then another one would not start."""
    who = claimed_by(settings.base_dir / settings.data_dir)
    return Finding("server", "none runs on this data directory" if who is None else f"it runs: {who}")


def port(settings: Settings) -> Finding:
    server = settings.server
    with socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((server.host.strip("[]"), server.port))
        except OSError as error:
            why = error.strerror or str(error)
            remedy = "If that is this server, all is well; else set port: under server:."
            return Finding("port", f"{server.host}:{server.port}: {why}", remedy)
    return Finding("port", f"{server.host}:{server.port} is free")


def looked_at(source: Source) -> Finding:
    """Whether the source gives an event, or at least no error, in a few seconds."""
    name, kind = source.info.name, source.info.kind
    found: list[Sequence[bytes] | Exception] = []

    def look() -> None:
        try:
            found.append(source.sample(1))
        except Exception as error:  # whatever it is, it is what is to be told
            found.append(error)

    in_time(look)
    remedy = f"Is what it reads there? mql tail {name} shows its events, or what is in the way."
    match found:
        case []:
            return Finding(f"source {name}", f"{kind}: no answer within {SOURCE_S:g} s", remedy)
        case [Exception() as error]:
            return Finding(f"source {name}", f"{kind}: {error or type(error).__name__}", remedy)
        case _:
            return Finding(f"source {name}", kind + (": events are there" if found[0] else ": no event seen yet"))


def in_time(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, name="mql-doctor", daemon=True)
    thread.start()
    thread.join(SOURCE_S)


def close_all(sources: Sequence[Source]) -> None:
    def close() -> None:
        for source in sources:
            source.close()

    in_time(close)
