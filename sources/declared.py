"""Sources as they are declared: the `sources:` of mql.yaml, and what is put to the API.

    sources:
      requests: {kind: generator, rate: 1000}
      orders:
        kind: http
        time: {field: created_at, unit: ms}
        lateness: 10s
        shape: {id: BIGINT, lines: ["STRUCT(sku VARCHAR, n BIGINT)"]}
        record: {age: 7d, bytes: 20GB}

Everything that is wrong is told at once, each with its path and, where there is a text, its line and column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from mql.catalog import SECOND_US, TimeRule
from mql.errors import MqlError, did_you_mean
from mql.exec.clock import Clock
from mql.exec.feed import Source
from mql.learn import parse_type
from mql.schema import DataType, ListOf, Shape, StructOf
from mql.schema import Field as Property
from sources.archive import Archive, RecordedSource, Retention
from sources.delimited import CsvForm
from sources.file import FileSource
from sources.formats.declared import FORMATS, Place, Told, WrongFormat, format_of
from sources.formats.files import Batches, RecordFiles, avro_files, cut_batches
from sources.formats.source import FormattedSource
from sources.generator import GeneratorSource
from sources.http import BOM, Body, HttpSource, lines_body, split_body, values_body
from sources.nexmark import NexmarkSource
from sources.reach import Reach
from sources.settings import Settings
from sources.stdin import stdin_source
from sources.strict_yaml import ConfigError, Document, Problem, Where

if TYPE_CHECKING:
    from sources.kafka.settings import Form as KafkaForm

__all__ = ["ConfigError", "declare", "load_sources"]

NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")
UNITS_US = {"us": 1, "ms": 1_000, "s": SECOND_US, "m": 60 * SECOND_US, "h": 3600 * SECOND_US, "d": 86_400 * SECOND_US}
UNITS_BYTES = {"": 1, "b": 1} | {
    unit + ending: (1000 if ending == "b" else 1024) ** power
    for power, unit in enumerate("kmgt", 1)
    for ending in ("b", "ib")
}


def load_sources(
    config: Mapping[str, Any],
    base_dir: Path,
    *,
    document: Document | None = None,
    where: Where = ("sources",),
    clock: Clock | None = None,
    data_dir: Path | None = None,
    notes: bool = True,
) -> list[Source]:
    """The sources of a `sources:` mapping. Paths are relative to `base_dir`; archives go to `data_dir`, where followed
    files are noted, unless it `notes` nothing.

    `document`, `where`: the text that the mapping is from, and where in it, for the places of errors. ConfigError
    tells all of them; then no source is left open.
    """
    told = document or Document(config)
    house = House(base_dir, data_dir or base_dir / ".mql", clock, notes=notes)
    problems: list[Problem] = []
    made: list[Source] = []
    for name, mapping in config.items():
        try:
            made.append(make(name, mapping, house))
        except Wrong as wrong:
            problems += [told.problem((*where, name, *inner), message) for inner, message in wrong.complaints]
    if problems:
        for source in made:
            source.close()
        raise told.error(*sorted(problems, key=lambda one: (one.line, one.column)))
    return made


def declare(
    name: str,
    mapping: Mapping[str, Any],
    base_dir: Path = Path(),
    *,
    clock: Clock | None = None,
    data_dir: Path | None = None,
    kinds: Collection[str] | None = None,
    reach: Reach | None = None,
) -> Source:
    """One source. `kinds`: those that may be declared here (None: all); ConfigError for any other, and as above.

    `reach`: it is declared by somebody else than the operator, and these addresses may be dialled for it.
    """
    try:
        return make(name, mapping, House(base_dir, data_dir or base_dir / ".mql", clock, kinds, reach))
    except Wrong as wrong:
        raise ConfigError(
            tuple(Document(mapping).problem(inner, message) for inner, message in wrong.complaints)
        ) from wrong


@dataclass(frozen=True, slots=True)
class House:
    """Where a source is declared. `reach`: which addresses may be dialled for one that the operator did not declare."""

    base_dir: Path
    data_dir: Path
    clock: Clock | None = None
    kinds: Collection[str] | None = None
    reach: Reach | None = None
    notes: bool = True

    def formatting(self, subject: str | None = None) -> Place:
        """Where a source's format is declared."""
        return Place(None if self.reach is not None else self.base_dir, subject, self.reach, self.clock)


@dataclass(frozen=True, slots=True)
class Shaping:
    """The formats of a source's values and of their keys."""

    value: Told
    key: Told | None = None


class Wrong(Exception):
    """What is wrong with one source's mapping: where in it, and a sentence."""

    def __init__(self, *complaints: tuple[Where, str]) -> None:
        super().__init__(complaints)
        self.complaints = complaints


def make(name: Any, mapping: Any, house: House) -> Source:
    if not isinstance(name, str) or not NAME.match(name):
        raise Wrong(((), f'"{name}" is no name: letters, digits, _ . - and a letter first'))
    if name.startswith("job."):
        raise Wrong(((), "names that begin with job. are those of jobs' results"))
    if not isinstance(mapping, Mapping):
        raise Wrong(((), "must be a mapping with a kind"))
    kind = mapping.get("kind")
    known = [one for one in KINDS if house.kinds is None or one in house.kinds]
    if kind not in known:
        said = "a source needs a kind" if kind is None else f'unknown kind "{kind}"'
        hint = did_you_mean(str(kind), known) or f"Known are {', '.join(known)}."
        raise Wrong((("kind",), f"{said}. {hint}"))
    model = checked(KINDS[kind], mapping)
    try:
        source = model.build(name, house)
    except MqlError as error:
        raise Wrong(((), f"{error.message}. {error.hint or ''}".strip())) from error
    except OSError as error:
        raise Wrong(((), f"cannot be opened: {error}")) from error
    return source


def checked(kind: type[Declared], mapping: Mapping[str, Any]) -> Declared:
    try:
        return kind.model_validate(dict(mapping))
    except ValidationError as error:
        raise Wrong(*(complaint(kind, one) for one in error.errors())) from error


def complaint(kind: type[BaseModel], error: Any) -> tuple[Where, str]:
    where: Where = tuple(part for part in error["loc"] if part not in UNION_TAGS)
    match error["type"]:
        case "extra_forbidden":
            known = [field.alias or name for name, field in kind.model_fields.items()]
            return where, f'unknown setting "{where[-1]}". {did_you_mean(str(where[-1]), known) or ""}'.strip()
        case "missing":
            return where, "is missing"
        case _:
            message = str(error["msg"]).removeprefix("Value error, ")
            return where, message[0].lower() + message[1:]


UNION_TAGS = ("bool", "str", "list[str]", "RecordModel", "TimeModel")

# --- values ------------------------------------------------------------------------------------------


def duration_us(value: Any) -> int:
    """`250ms`, `5s`, `2m`, `1h`, `7d`; a bare number is seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(value * SECOND_US)
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|m|h|d)\s*", str(value))
    if not found:
        raise ValueError(f'"{value}" is no duration; write it like 250ms, 5s, 2m, 1h, 7d')
    return round(float(found[1]) * UNITS_US[found[2]])


def size_bytes(value: Any) -> int:
    """`512MB`, `20GiB`; a bare number is bytes."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
    if not found or isinstance(value, bool) or found[2].lower() not in UNITS_BYTES:
        raise ValueError(f'"{value}" is no size; write it like 512MB or 20GiB')
    return int(float(found[1]) * UNITS_BYTES[found[2].lower()])


def type_text(value: Any) -> DataType:
    """A type's text; a mapping is a struct, a list of one type is a list of it."""
    match value:
        case str():
            try:
                return parse_type(value)
            except MqlError as error:
                raise ValueError(f"{error.message}. {error.hint or ''}".strip()) from error
        case [inner]:
            return ListOf(type_text(inner))
        case dict():
            return StructOf(tuple((str(name), type_text(inner)) for name, inner in value.items()))
        case _:
            raise ValueError(f'"{value}" is no type')


def shape_fields(value: Any) -> tuple[Property, ...]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping from names to types")
    return tuple(Property(str(name), type_text(type)) for name, type in value.items())


def property_path(value: Any) -> tuple[str, ...]:
    """`device.ts`, or a list of names where a name has a dot in it."""
    if isinstance(value, str) and value:
        return tuple(value.split("."))
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise ValueError("must be a property's name")


def time_rule(value: Any) -> Any:
    return {"field": value} if isinstance(value, str) else value


def one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Duration = Annotated[int, BeforeValidator(duration_us), Field(ge=0)]
Size = Annotated[int, BeforeValidator(size_bytes), Field(ge=0)]

# --- what each kind says -----------------------------------------------------------------------------


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class TimeModel(Strict):
    path: Annotated[tuple[str, ...], BeforeValidator(property_path), Field(alias="field")]
    unit: Literal["auto", "s", "ms", "us", "ns", "iso"] = "auto"


class RecordModel(Strict):
    """Keep the source's events: where, how long, how much, and whether each append reaches the disk itself."""

    directory: str | None = None
    age: Duration | None = None
    bytes: Size | None = None
    fsync: bool = False


class Declared(Strict):
    """What every source may say."""

    kind: str
    description: str | None = None
    time: Annotated[TimeModel | None, BeforeValidator(time_rule)] = None
    lateness: Duration = 5 * SECOND_US
    idle_timeout: Duration = 30 * SECOND_US
    max_ahead: Duration = 3600 * SECOND_US
    shape: Annotated[tuple[Property, ...] | None, BeforeValidator(shape_fields)] = None
    open: bool = False
    record: bool | RecordModel = False

    def settings(self) -> Settings:
        time = None if self.time is None else TimeRule(self.time.path, self.time.unit)
        shape = None if self.shape is None else Shape(self.shape, self.open)
        return Settings(time, self.lateness, self.idle_timeout, self.max_ahead, shape, self.open)

    def build(self, name: str, house: House) -> Source:
        """The source, recorded if it is to be. What was opened before something fails is closed again."""
        archive_at = self.archive_dir(name, house)
        shaping = self.shaping(house)
        with ExitStack() as opened:
            source = self.source(name, house) if shaping is None else self.raw_source(name, house, shaping)
            opened.callback(source.close)
            if archive_at is not None:
                archive = self.archive(archive_at, house)
                opened.callback(archive.close)
                source = RecordedSource(source, archive)
            opened.pop_all()
            return source if shaping is None else self.shaped(source, shaping, house)

    def shaping(self, house: House) -> Shaping | None:
        """The formats that are said; None where events are what the source makes of them by itself."""
        return None

    def shaped(self, source: Source, shaping: Shaping, house: House) -> Source:
        key = None if shaping.key is None else shaping.key.format
        return FormattedSource(source, shaping.value.format, self.settings(), key_format=key, clock=house.clock)

    def raw_source(self, name: str, house: House, shaping: Shaping) -> Source:
        """The source under the formats: it gives bytes."""
        raise AssertionError(f"the kind {self.kind} has no formats")

    def source(self, name: str, house: House) -> Source:
        raise AssertionError(f"the kind {self.kind} makes no source")

    def archive_dir(self, name: str, house: House) -> Path | None:
        if self.record is False:
            return None
        told = self.record.directory if isinstance(self.record, RecordModel) else None
        return house.base_dir / told if told else house.data_dir / "archive" / name

    def archive(self, directory: Path, house: House) -> Archive:
        record = self.record if isinstance(self.record, RecordModel) else RecordModel()
        retention = Retention(record.age, record.bytes)
        return Archive(directory, fsync=record.fsync, retention=retention, clock=house.clock)


def formatted(key: str, said: Any, place: Place) -> Told | None:
    try:
        return format_of(said, place)
    except WrongFormat as wrong:
        raise Wrong(*(((key, *inner), message) for inner, message in wrong.complaints)) from wrong


LINE_FORMATS = ("auto", "ndjson", "array", "csv", "parquet")
JSON_NAMES = ("json", {"type": "json"})
STREAMS: Mapping[str, Batches] = {"protobuf": cut_batches("protobuf"), "msgpack": cut_batches("msgpack")}


def known_format(said: Any) -> Any:
    """A format by its name; ValueError's sentence names those of files too."""
    if isinstance(said, str) and said not in FORMATS:
        known = (*LINE_FORMATS, *FORMATS)
        hint = did_you_mean(said, known) or f"Known are {', '.join(known)}."
        raise Wrong((("format",), f'unknown format "{said}". {hint}'))
    return said


def body_of(told: Told) -> Callable[[bytes, str], Body]:
    """How the body of a post is cut into values."""
    split = told.split
    if split is None:
        return lambda body, kind: split_body(body, kind) if told.name == "json" else lines_body(body.removeprefix(BOM))

    def cut(body: bytes, kind: str) -> Body:
        try:
            return values_body(split(body) if body else [])
        except ValueError as error:
            raise MqlError(
                f"the body is not {told.name}: {error}", hint=f"The source takes {told.name}.", code="malformed-body"
            ) from error

    return cut


class CsvModel(Strict):
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    header: bool = True
    quote: Annotated[str, Field(min_length=1, max_length=1)] = '"'

    def form(self) -> CsvForm:
        return CsvForm(self.delimiter, self.header, self.quote)


class FileModel(Declared):
    path: Annotated[list[str], BeforeValidator(one_or_many), Field(min_length=1)]
    format: Any = "auto"
    follow: bool = False
    csv: CsvModel = CsvModel()

    def shaping(self, house: House) -> Shaping | None:
        if self.format in LINE_FORMATS or self.is_avro(house):
            return None
        told = formatted("format", known_format(self.format), house.formatting())
        return None if told is None else Shaping(told)

    def is_avro(self, house: House) -> bool:
        """Object container files hold their schema themselves."""
        if self.format == "auto":
            return all(path.endswith((".avro", ".avro.gz", ".avro.zst")) for path in self.path)
        return self.format in ("avro", {"type": "avro"})

    def raw_source(self, name: str, house: House, shaping: Shaping) -> Source:
        """Lines, or the values of a stream."""
        if shaping.value.split is None and shaping.value.name != "json":
            return self.file_source(name, house, "ndjson")
        if self.record is not False or self.follow:
            raise Wrong((("follow",), f"files of {shaping.value.name} are read as a whole"))
        if shaping.value.name not in STREAMS:
            raise Wrong((("format",), f"a file holds no values of {shaping.value.name}"))
        paths = [house.base_dir / path for path in self.path]
        return RecordFiles(name, paths, STREAMS[shaping.value.name], settings=self.settings())

    def source(self, name: str, house: House) -> Source:
        if self.is_avro(house):
            if self.record is not False or self.follow:
                raise Wrong((("follow",), "files of Avro are read as a whole"))
            paths = [house.base_dir / path for path in self.path]
            return avro_files(name, paths, self.settings())
        return self.file_source(name, house, "ndjson" if self.format in JSON_NAMES else self.format)

    def file_source(self, name: str, house: House, format: str) -> Source:
        if self.record is not False and not self.follow:
            raise Wrong((("record",), "a file that is not followed is its own record"))
        return FileSource(
            name,
            [house.base_dir / path for path in self.path],
            format=format,
            follow=self.follow,
            csv=self.csv.form(),
            settings=self.settings(),
            clock=house.clock,
            registry=house.data_dir / "followed" / f"{name}.json" if self.follow else None,
            notes=house.notes,
        )


class StdinModel(Declared):
    format: Any = "auto"
    csv: CsvModel = CsvModel()

    def shaping(self, house: House) -> Shaping | None:
        if self.format in LINE_FORMATS:
            return None
        told = formatted("format", known_format(self.format), house.formatting())
        return None if told is None else Shaping(told)

    def raw_source(self, name: str, house: House, shaping: Shaping) -> Source:
        if shaping.value.split is not None or shaping.value.name == "json":
            raise Wrong((("format",), f"standard input holds lines; {shaping.value.name} can be read from a file"))
        return self.piped(name, house, "ndjson")

    def source(self, name: str, house: House) -> Source:
        return self.piped(name, house, "ndjson" if self.format in JSON_NAMES else self.format)

    def piped(self, name: str, house: House, format: str) -> Source:
        return stdin_source(name, format=format, csv=self.csv.form(), settings=self.settings(), clock=house.clock)


class HttpModel(Declared):
    buffer: Size = 64 << 20
    format: Any = "json"

    def shaping(self, house: House) -> Shaping | None:
        told = formatted("format", self.format, house.formatting())
        return None if told is None else Shaping(told)

    def build(self, name: str, house: House) -> Source:
        """An HTTP source writes its archive itself: before a post is answered."""
        shaping = self.shaping(house)
        at = self.archive_dir(name, house)
        archive = None if at is None else self.archive(at, house)
        source = HttpSource(
            name,
            settings=self.settings(),
            clock=house.clock,
            buffer_bytes=self.buffer,
            archive=archive,
            body=split_body if shaping is None else body_of(shaping.value),
        )
        return source if shaping is None else self.shaped(source, shaping, house)


class GeneratorModel(Declared):
    rate: Annotated[float, Field(gt=0, le=1_000_000)] = 1_000
    splits: Annotated[int, Field(ge=1, le=256)] = 2
    seed: int = 1
    rhythm: Annotated[float, Field(ge=0, lt=1)] = 0.4
    incidents: bool = True
    events: Annotated[int, Field(ge=0)] | None = None

    def source(self, name: str, house: House) -> Source:
        return GeneratorSource(
            name,
            rate=self.rate,
            splits=self.splits,
            seed=self.seed,
            rhythm=self.rhythm,
            incidents=self.incidents,
            events=self.events,
            settings=self.settings(),
            clock=house.clock,
        )


class NexmarkModel(Declared):
    stream: Literal["all", "person", "auction", "bid"] = "all"
    rate: Annotated[float, Field(gt=0, le=1_000_000)] = 1_000
    splits: Annotated[int, Field(ge=1, le=256)] = 2
    seed: int = 1
    events: Annotated[int, Field(ge=0)] | None = None

    def source(self, name: str, house: House) -> Source:
        return NexmarkSource(
            name,
            self.stream,
            rate=self.rate,
            splits=self.splits,
            seed=self.seed,
            events=self.events,
            settings=self.settings(),
            clock=house.clock,
        )


class KafkaModel(Declared):
    """The rest of its settings are those of the Kafka source itself."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)
    format: Any = "json"
    key_format: Any = None

    def shaping(self, house: House) -> Shaping | None:
        topic = (self.model_extra or {}).get("topic")
        alone = topic if isinstance(topic, str) else topic[0] if isinstance(topic, list) and len(topic) == 1 else None
        value = formatted("format", self.format, house.formatting(f"{alone}-value" if alone else None))
        if self.key_format is None:
            return None if value is None else Shaping(value)
        key = formatted("key_format", self.key_format, house.formatting(f"{alone}-key" if alone else None))
        if key is None or key.format.encoding == "json":
            raise Wrong((("key_format",), "a key of JSON is a text: ask for it with envelope: [key]"))
        if value is None:
            raise Wrong((("key_format",), "beside values of plain JSON keys are texts; give a format for both"))
        return Shaping(value, key)

    def raw_source(self, name: str, house: House, shaping: Shaping) -> Source:
        from sources.kafka.settings import Form

        return self.kafka_source(name, house, Form(json=False, text_keys=shaping.key is None))

    def source(self, name: str, house: House) -> Source:
        from sources.kafka.settings import Form

        return self.kafka_source(name, house, Form())

    def kafka_source(self, name: str, house: House, form: KafkaForm) -> Source:
        from sources.kafka.settings import KafkaSettings
        from sources.kafka.source import KafkaSource

        told = dict(self.model_extra or {})
        known = [field.name for field in fields(KafkaSettings)]
        known += ["format", "key_format"]
        unknown = [key for key in told if key not in known]
        if unknown:
            raise Wrong(
                *(((key,), f'unknown setting "{key}". {did_you_mean(key, known) or ""}'.strip()) for key in unknown)
            )
        try:
            kafka = TypeAdapter(KafkaSettings).validate_python(told)
        except ValidationError as error:
            raise Wrong(*(complaint(KafkaModel, one) for one in error.errors())) from error
        if self.key_format is not None and not {"key", "_kafka_key"} & {*kafka.envelope}:
            kafka = replace(kafka, envelope=(*kafka.envelope, "key"))
        return KafkaSource(name, kafka, self.settings(), clock=house.clock, form=form)


KINDS: dict[str, type[Declared]] = {
    "file": FileModel,
    "stdin": StdinModel,
    "http": HttpModel,
    "generator": GeneratorModel,
    "nexmark": NexmarkModel,
    "kafka": KafkaModel,
}
