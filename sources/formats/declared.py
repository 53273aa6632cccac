"""`format:` of mql.yaml: what each format may say, and the table that names them.

The packages that read a format are imported when a source declares it: who has JSON alone needs none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mql.errors import MqlError, did_you_mean
from mql.exec.clock import Clock
from mql.learn import parse_type
from mql.schema import VARCHAR, DataType
from mql.schema import Field as Property
from sources.formats.framed import Framed
from sources.formats.registry import Registered, Registry, RegistrySettings
from sources.formats.values import Format, Reader, Single
from sources.reach import Reach

Where = tuple[str | int, ...]
Split = Callable[[bytes], list[bytes]]
"""The values in some bytes; ValueError where they can't be told apart."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a format is declared. `base_dir`: paths are relative to it; None: files may not be named here. `subject`:
    the usual one of the registry. `reach`: which registries may be dialled; None: any."""

    base_dir: Path | None = None
    subject: str | None = None
    reach: Reach | None = None
    clock: Clock | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A format that was said. `split`: the values in a body or a stream; None where each line is one."""

    name: str
    format: Format
    split: Split | None = None


class WrongFormat(Exception):
    """What is wrong with a format's mapping: where in it, and a sentence."""

    def __init__(self, *complaints: tuple[Where, str]) -> None:
        super().__init__(complaints)
        self.complaints = complaints


def format_of(said: Any, place: Place) -> Told | None:
    """The format that is said; None for JSON that needs none. WrongFormat tells all that is wrong."""
    mapping = {"type": said} if isinstance(said, str) else said
    if not isinstance(mapping, Mapping):
        raise WrongFormat(((), f"must be a format's name or a mapping with a type; there are {', '.join(FORMATS)}"))
    name = str(mapping.get("type", ""))
    if name not in FORMATS:
        told = f'unknown format "{name}"' if name else "a format needs a type"
        hint = did_you_mean(name, FORMATS) or f"Known are {', '.join(FORMATS)}."
        raise WrongFormat((("type",) if isinstance(said, Mapping) else (), f"{told}. {hint}"))
    model = FORMATS[name]
    try:
        valid = model.model_validate(dict(mapping))
        format = valid.format(place)
        return None if format is None else Told(name, format, valid.split(format))
    except ValidationError as error:
        raise WrongFormat(*(complaint(model, one) for one in error.errors())) from error
    except MqlError as error:
        raise WrongFormat(((), f"{error.message}. {error.hint or ''}".strip())) from error
    except ModuleNotFoundError as error:
        extra = model.extra
        message = f"{error.name} is not installed: pip install 'mql-streams[{extra}]'"
        raise WrongFormat((("type",) if isinstance(said, Mapping) else (), message)) from error


def complaint(model: type[Said], error: Any) -> tuple[Where, str]:
    where: Where = tuple(part for part in error["loc"] if part not in UNION_TAGS)
    match error["type"]:
        case "extra_forbidden":
            names = RegistryModel.model_fields if "registry" in where else model.model_fields
            return where, f'unknown setting "{where[-1]}". {did_you_mean(str(where[-1]), names) or ""}'.strip()
        case "missing":
            return where, "is missing"
        case _:
            message = str(error["msg"]).removeprefix("Value error, ")
            return where, message[0].lower() + message[1:]


UNION_TAGS = ("str", "dict[str,any]", "list[any]")


class Said(BaseModel):
    """What every format says: its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    extra: ClassVar[str] = ""
    type: str

    def format(self, place: Place) -> Format | None:
        raise AssertionError(f"the format {self.type} makes nothing")

    def split(self, format: Format) -> Split | None:
        """The values of a body; those of a registry come one by one."""
        return (lambda body: [body]) if isinstance(format, Framed) else None


class RegistryModel(BaseModel):
    """A schema registry."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: Annotated[str, Field(min_length=1, max_length=2000)]
    username: str | None = None
    password: str | None = None
    password_env: str | None = None
    password_file: str | None = None
    token_env: str | None = None
    ca_file: str | None = None
    timeout: Annotated[float, Field(gt=0, le=60)] = 3.0

    def registry(self, place: Place) -> Registry:
        if place.base_dir is None:
            for name in ("password_env", "password_file", "token_env", "ca_file"):
                if getattr(self, name) is not None:
                    raise MqlError(f"registry.{name} can be said in mql.yaml alone", hint="Declare the source there.")
        files = {
            name: None if file is None else str((place.base_dir or Path()) / file)
            for name, file in (("password_file", self.password_file), ("ca_file", self.ca_file))
        }
        settings = RegistrySettings(
            self.url,
            self.username,
            self.password,
            self.password_env,
            files["password_file"],
            self.token_env,
            files["ca_file"],
            self.timeout,
            place.reach,
        )
        return Registry(settings, place.clock)


def with_url(said: Any) -> Any:
    return {"url": said} if isinstance(said, str) else said


def with_types(said: Any) -> Any:
    """Cells are texts where nothing else is said."""
    return dict.fromkeys(unlike(said), "VARCHAR") if isinstance(said, list) else said


def unlike(names: Sequence[Any]) -> Sequence[str]:
    found = [str(name) for name in names]
    if len(set(found)) < len(found):
        raise ValueError("has a name twice")
    return found


class SchemaModel(Said):
    """A format with a schema: from a registry, a file, or as it stands here."""

    registry: Annotated[RegistryModel | None, BeforeValidator(with_url)] = None
    subject: str | None = None
    schema_file: str | None = None
    schema_: Annotated[str | dict[str, Any] | list[Any] | None, Field(alias="schema")] = None

    def where_from(self) -> Literal["registry", "file", "text"]:
        """Exactly one of the three."""
        given = [self.registry is not None, self.schema_file is not None, self.schema_ is not None]
        if sum(given) != 1:
            hint = "Give one of registry, schema_file and schema."
            raise MqlError(f"{self.type} needs to know the schema of its values", hint=hint)
        if self.subject is not None and self.registry is None:
            raise MqlError("a subject is one of a registry", hint="Leave it out, or give registry.")
        return "registry" if given[0] else "file" if given[1] else "text"

    def client(self, place: Place) -> Registry:
        assert self.registry is not None
        return self.registry.registry(place)

    def file(self, place: Place) -> Path:
        assert self.schema_file is not None
        if place.base_dir is None:
            raise MqlError("schema_file can be said in mql.yaml alone", hint="Give the schema itself, as schema.")
        path = place.base_dir / self.schema_file
        if not path.is_file():
            raise MqlError(f'there is no file "{self.schema_file}"', hint="It is looked for beside mql.yaml.")
        return path


class JsonModel(SchemaModel):
    """JSON; with a registry, in its wire format."""

    type: Literal["json"]

    def format(self, place: Place) -> Format | None:
        if self.registry is None and self.schema_file is None and self.schema_ is None:
            return None
        from sources.formats.json_schema import JsonReader

        match self.where_from():
            case "registry":

                def compiled(schema: Registered, path: tuple[int, ...]) -> Reader:
                    return JsonReader(schema.text, dict(schema.references))

                return Framed(self.client(place), "JSON", self.subject or place.subject, compiled, encoding="json")
            case "file":
                return Single(JsonReader(self.file(place).read_text()), "json")
            case _:
                if not isinstance(self.schema_, str | dict):
                    raise MqlError("schema must be a JSON Schema", hint="It is an object, or its text.")
                return Single(JsonReader(self.schema_), "json")


class AvroModel(SchemaModel):
    """Avro records."""

    extra: ClassVar[str] = "avro"
    type: Literal["avro"]

    def format(self, place: Place) -> Format:
        origin = self.where_from()
        avro = importlib.import_module("sources.formats.avro")
        if origin == "registry":

            def compiled(schema: Registered, path: tuple[int, ...]) -> Reader:
                made: Reader = avro.AvroReader(schema.text, [text for _, text in schema.references])
                return made

            return Framed(self.client(place), "AVRO", self.subject or place.subject, compiled)
        return Single(avro.AvroReader(self.file(place).read_text() if origin == "file" else self.schema_))

    def split(self, format: Format) -> Split | None:
        """A container file, or one record."""
        avro = importlib.import_module("sources.formats.avro")
        if not isinstance(format, Single):
            return SchemaModel.split(self, format)
        reader = format.reader
        return lambda body: avro.values_of(body, reader) if body.startswith(b"Obj\x01") else [body]


class ProtobufModel(SchemaModel):
    """Protobuf messages. `message`: the full name of their type, where the schema has several."""

    extra: ClassVar[str] = "protobuf"
    type: Literal["protobuf"]
    message: str | None = None

    def format(self, place: Place) -> Format:
        origin = self.where_from()
        protobuf = importlib.import_module("sources.formats.protobuf")
        match origin:
            case "registry":

                def compiled(schema: Registered, path: tuple[int, ...]) -> Reader:
                    made: Reader = protobuf.compiled(schema.text, dict(schema.references)).numbered(path)
                    return made

                def main_path(schema: Registered) -> tuple[int, ...]:
                    messages = protobuf.compiled(schema.text, dict(schema.references))
                    found: tuple[int, ...] = messages.path_to(self.message)
                    return found

                subject = self.subject or place.subject
                return Framed(self.client(place), "PROTOBUF", subject, compiled, protobuf.message_path, main_path)
            case "file":
                return Single(protobuf.compiled_file(self.file(place)).named(self.message))
            case _:
                if not isinstance(self.schema_, str):
                    raise MqlError("schema must be the text of a .proto", hint="Write it behind schema: |.")
                return Single(protobuf.compiled(self.schema_).named(self.message))

    def split(self, format: Format) -> Split | None:
        """Messages, each behind its length."""
        protobuf = importlib.import_module("sources.formats.protobuf")
        return SchemaModel.split(self, format) or (lambda body: whole_of(protobuf.cut(body)))


class MsgpackModel(Said):
    """MessagePack."""

    extra: ClassVar[str] = "msgpack"
    type: Literal["msgpack"]

    def format(self, place: Place) -> Format:
        made: Format = importlib.import_module("sources.formats.msgpack").MsgpackFormat()
        return made

    def split(self, format: Format) -> Split | None:
        msgpack = importlib.import_module("sources.formats.msgpack")
        return lambda body: whole_of(msgpack.cut(body))


class CsvModel(Said):
    """CSV records. `columns`: the names of the cells, or names and types."""

    type: Literal["csv"]
    columns: Annotated[dict[str, str], BeforeValidator(with_types), Field(min_length=1, max_length=1000)]
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(min_length=1, max_length=1)] = '"'

    def format(self, place: Place) -> Format:
        from sources.formats.csv import CsvFormat

        names = list(self.columns)
        if not all(name.strip() and "\0" not in name for name in names):
            raise MqlError("columns has a name that is empty", hint="Name each cell.")
        if len({name.lower() for name in names}) < len(names):
            raise MqlError("columns has a name twice", hint="Names that differ in letter case alone count as one.")
        types = types_of(self.columns)
        return CsvFormat([Property(name, types.get(name, VARCHAR)) for name in names], self.delimiter, self.quote)


class TextModel(Said):
    """Lines of text. `pattern`: a regular expression whose named groups are columns; `types`: what they are."""

    type: Literal["text"]
    pattern: Annotated[str, Field(min_length=1)] | None = None
    types: Mapping[str, str] = Field(default_factory=dict)

    def format(self, place: Place) -> Format:
        from sources.formats.text import TextFormat

        return TextFormat(self.pattern, types_of(self.types))


def whole_of(cut: tuple[list[bytes], bytes]) -> list[bytes]:
    values, rest = cut
    if rest:
        raise ValueError(f"the last value is cut off after {len(rest)} bytes")
    return values


def types_of(said: Mapping[str, str]) -> dict[str, DataType]:
    """Types by their names; lists and objects are no types of a text."""
    found = {name: parse_type(text) for name, text in said.items()}
    for name, type in found.items():
        if str(type).endswith("]") or str(type).startswith(("STRUCT", "MAP")):
            raise MqlError(f'"{name}" cannot be {type}', hint="A text is a number, a time, a boolean, a text or JSON.")
    return found


FORMATS: Mapping[str, type[Said]] = {
    "json": JsonModel,
    "avro": AvroModel,
    "protobuf": ProtobufModel,
    "msgpack": MsgpackModel,
    "csv": CsvModel,
    "text": TextModel,
}
