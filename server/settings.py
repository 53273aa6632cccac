"""mql.yaml: what the operator says, checked whole before anything starts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from mql.errors import MqlError, did_you_mean
from mql.exec.feed import Source
from server.complaints import complaint
from server.silences import Silence
from sources.declared import load_sources
from sources.declared_tables import load_tables, wrong_tables
from sources.strict_yaml import Document, parse_yaml, read_yaml
from sources.tables import DeclaredTable

DURATION = r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(us|ms|s|m|h|d)?"
UNIT_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
UNIT_BYTES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


def seconds(value: Any) -> Any:
    """`10s`, `5m`, `250ms` or a number of seconds."""
    found = re.fullmatch(DURATION, value) if isinstance(value, str) else None
    return float(found[1]) * UNIT_S[found[2] or "s"] if found else value


def size(value: Any) -> Any:
    """`16MiB`, `500kB` or a number of bytes."""
    found = re.fullmatch(r"(\d+)\s*([kmg]?i?b)", value.strip().lower()) if isinstance(value, str) else None
    return int(found[1]) * UNIT_BYTES[found[2]] if found and found[2] in UNIT_BYTES else value


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(size), Field(ge=0)]


class Said(BaseModel):
    """A part of the file: frozen, and no name that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Said):
    """How much one server takes on. What is above is answered 429 (or 413 for bodies), never cut silently."""

    connections: int = Field(default=12_000, ge=1, description="open connections in all")
    queries: int = Field(default=1_000, ge=1, description="queries that run at the same time")
    readers: int = Field(default=10_000, ge=1, description="streams that are being read")
    replays: int = Field(default=16, ge=1, description="replays that run at the same time")
    body: Bytes = Field(default=1 << 20, description="a request's body, except events")
    events_body: Bytes = Field(default=16 << 20, description="a body of events as it comes over the wire")
    events_decoded: Bytes = Field(default=64 << 20, description="a body of events after decompression")
    event: Bytes = Field(default=1 << 20, description="one event")
    body_timeout: Seconds = Field(default=10.0, description="for a body, and a second more for each 64 KiB that came")
    write_timeout: Seconds = Field(default=60.0, description="a reader that takes nothing for so long is cut off")
    query_timeout: Seconds | None = Field(default=None, description="a query ends after so long, whatever it asked for")
    linger: Seconds = Field(default=30.0, description="a query asked for by itself outlives its last reader by so long")
    replay_wait: Seconds = Field(default=1.0, description="a replay that is done within that is answered at once")
    replay_result: Bytes = Field(default=256 << 20, description="a replay's result")
    replay_keep: Seconds = Field(default=600.0, description="a replay's result is kept for so long")


class Dialled(Said):
    """What may be dialled, besides https to public addresses, where somebody else than the operator says where to."""

    allowed: tuple[str, ...] = Field(default=(), description="networks that may be dialled though they are not public")
    plain: bool = Field(default=False, description="http:// is allowed too")

    @field_validator("allowed")
    @classmethod
    def are_networks(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        for network in allowed:
            ipaddress.ip_network(network)
        return allowed


class Sinks(Said):
    """Where jobs may write to, besides addresses (`webhooks`)."""

    kinds: tuple[str, ...] = Field(
        default=(
            "webhook",
            "alertmanager",
            "slack",
            "pagerduty",
            "stdout",
            "kafka",
            "parquet",
            "duckdb",
            "postgres",
        ),
        description="the kinds of sinks that jobs may have",
    )
    directory: Path | None = Field(default=None, description="files are written below it; data_dir/sinks if left out")
    kafka: tuple[str, ...] = Field(default=(), description="brokers (host:port) that jobs may write to by name")


class Webhooks(Dialled):
    """Where jobs may send their rows."""


class Registries(Dialled):
    """Where schemas of sources that are declared over HTTP may come from."""


class Server(Said):
    """Where the server listens and what it promises to itself. `insecure` lets it listen beyond this machine."""

    host: str = "127.0.0.1"
    port: int = Field(default=8642, ge=0, le=65535)
    workers: int = Field(default=2, ge=1, le=64, description="threads that run queries")
    insecure: bool = False
    tokens: bool = Field(default=False, description="every call needs a token, even before there is one")
    hosts: tuple[str, ...] = Field(
        default=(), description="names by which clients may call this server, besides localhost"
    )
    declare: tuple[str, ...] = Field(default=("http",), description="kinds of sources that may be declared over HTTP")
    declare_tables: tuple[str, ...] = Field(
        default=("rows",), description="kinds of tables that may be declared over HTTP"
    )
    stop_within: Seconds = Field(default=10.0, description="how long a stop waits for what is under way")
    url: str | None = Field(default=None, description="by which people reach it: for links in alerts")
    webhooks: Webhooks = Webhooks()
    registries: Registries = Registries()
    sinks: Sinks = Sinks()
    limits: Limits = Limits()


class Settings(Said):
    """The whole file. `sources` and `tables` are checked by the modules that declare them; their paths start at
    `base_dir`."""

    server: Server = Server()
    default: str | None = Field(default=None, description="the source of a query without FROM")
    sources: Mapping[str, Any] = Field(default_factory=dict)
    tables: Mapping[str, Any] = Field(default_factory=dict)
    silences: tuple[Silence, ...] = Field(default=(), max_length=200, description="when nobody is to be woken")
    base_dir: Path = Field(default=Path(), exclude=True)
    store: str | None = Field(default=None, description="the database of templates and jobs; a file if left out")
    data_dir: Path = Field(default=Path(".mql"), description="where archives and followed positions are kept")

    @field_validator("silences")
    @classmethod
    def have_a_time(cls, silences: tuple[Silence, ...]) -> tuple[Silence, ...]:
        for one in silences:
            if one.starts is None and not one.every:
                raise ValueError(f'silence "{one.name}" says no starts')
        if len({one.name for one in silences}) < len(silences):
            raise ValueError("two silences have one name")
        return silences


def load_settings(path: Path) -> tuple[Settings, Sequence[Source]]:
    """The settings in a file and the sources that it declares; ConfigError tells all that is wrong, with places."""
    settings, document = read_config(path)
    return settings, sources_of(settings, document)


def read_config(path: Path) -> tuple[Settings, Document]:
    """The settings in a file, whose sources are not opened; ConfigError as above."""
    document = read_yaml(path)
    settings = settings_of(document, path.parent)
    check_default(settings, document)
    check_tables(settings, document)
    return settings, document


def read_settings(text: str) -> Settings:
    """The settings in a text, without its sources."""
    return settings_of(parse_yaml(text), Path())


def sources_of(settings: Settings, document: Document | None = None) -> Sequence[Source]:
    data_dir = settings.base_dir / settings.data_dir
    return load_sources(settings.sources, settings.base_dir, document=document, data_dir=data_dir)


def tables_of(settings: Settings, document: Document | None = None) -> Sequence[DeclaredTable]:
    return load_tables(settings.tables, settings.base_dir, document=document)


def settings_of(document: Document, base_dir: Path) -> Settings:
    value = document.value
    if not isinstance(value, Mapping):
        raise document.error(document.problem((), "must be a mapping: server:, sources:"))
    if "base_dir" in value:
        raise document.error(document.problem(("base_dir",), "is where the file is"))
    try:
        return Settings.model_validate({**value, "base_dir": base_dir})
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise document.error(*(document.problem(fault["loc"], said_of(fault)) for fault in faults)) from None


def check_default(settings: Settings, document: Document) -> None:
    """A default that is no source would fail each query without FROM."""
    name = settings.default
    if name is not None and name not in settings.sources:
        hint = did_you_mean(name, settings.sources) or "Declare it under sources:."
        raise document.error(document.problem(("default",), f'no source "{name}". {hint}'))


def check_tables(settings: Settings, document: Document) -> None:
    """What is wrong with the tables; and none may have the name of a source."""
    problems = list(wrong_tables(settings.tables, document))
    for name in settings.tables:
        if name in settings.sources:
            problems.append(document.problem(("tables", name), "a source has this name too"))
    if problems:
        raise document.error(*problems)


def said_of(fault: Any) -> str:
    """A fault in the operator's words."""
    if fault["type"] != "extra_forbidden":
        return complaint(fault)
    name = str(fault["loc"][-1])
    return f'unknown setting "{name}". {did_you_mean(name, names_in(fault["loc"][:-1])) or ""}'.strip()


def names_in(location: tuple[int | str, ...]) -> Iterable[str]:
    """The settings that a part of the file may hold."""
    match location:
        case ():
            return Settings.model_fields
        case ("server",):
            return Server.model_fields
        case ("server", "webhooks" | "registries"):
            return Dialled.model_fields
        case ("silences", _):
            return [field.alias or name for name, field in Silence.model_fields.items()]
        case ("server", "sinks"):
            return Sinks.model_fields
        case _:
            return Limits.model_fields


def check_reach(server: Server) -> None:
    """Refuses to listen beyond this machine unless the operator said that it is meant."""
    if is_loopback(server.host) or server.insecure or server.tokens:
        return
    raise MqlError(
        f'will not listen on "{server.host}": anybody who reaches it could ask and ingest',
        hint="Say tokens: true under server:, or listen on 127.0.0.1; insecure: true lets everybody in.",
        code="not-loopback",
    )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
