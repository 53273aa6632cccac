"""Protocol Buffers: messages whose type is declared, or told by a schema registry.

ptars makes Arrow columns of the wire format in Rust (about 1 M events/s). A `.proto` is compiled by protoc, which
grpcio-tools brings, in a process of its own. Fields that hold themselves, and google.protobuf's Struct, Value and Any,
are JSON: of these alone Python objects are made.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from ptars import HandlerPool, PtarsConfig

from mql.errors import MqlError
from mql.schema import Field
from sources.formats.nested import DEPTH_MAX, json_field, json_text, plain_batch, plain_field, shape_fields
from sources.formats.values import without_panic

PROTOC_S = 20.0
LOGGED = re.compile(r"WARNING: |[IWEF]\d{4} ")
"""Lines in which the compiler talks of itself."""
CONFIG = PtarsConfig(timestamp_tz=None, timestamp_unit="us", time_unit="us", duration_unit="us", enum_repr="string")
BY_HAND = frozenset(f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue", "Any", "FieldMask", "Empty"))
VARINT_BYTES_MAX = 10
MESSAGE_BYTES_MAX = 64 << 20


class ProtobufReader:
    """Reads messages of one type."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._handler = HandlerPool([descriptor.file], CONFIG).get_for_message(descriptor)
        self.message = message_factory.GetMessageClass(descriptor)
        self._by_hand = frozenset(field.name for field in descriptor.fields if is_by_hand(field, ()))
        schema: pa.Schema = self._handler.schema()
        self.columns = tuple(
            json_field(field.name) if field.name in self._by_hand else plain_field(field) for field in schema
        )
        self.fields: tuple[Field, ...] = shape_fields(self.columns)

    def read(self, values: list[bytes]) -> pa.RecordBatch:
        batch = without_panic(self._handler.list_to_record_batch, values)
        swift = batch.select([name for name in batch.schema.names if name not in self._by_hand])
        plain = plain_batch(swift) if swift.num_columns else swift
        by_hand = self._json_columns(values) if self._by_hand else {}
        arrays = [
            by_hand[field.name] if field.name in by_hand else plain.column(plain.schema.get_field_index(field.name))
            for field in self.columns
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(self.columns))

    def check(self, values: list[bytes]) -> None:
        without_panic(self._handler.list_to_record_batch, values).validate(full=True)
        if self._by_hand:
            self._json_columns(values)

    def _json_columns(self, values: Sequence[bytes]) -> dict[str, pa.Array]:
        found: dict[str, list[str | None]] = {name: [] for name in self._by_hand}
        for value in values:
            try:
                told = told_by_hand(self.message.FromString(value), self._by_hand)
            except (DecodeError, json_format.Error, TypeError, RecursionError) as error:
                raise ValueError(f"not of its message type: {error}") from error
            for name, texts in found.items():
                texts.append(told.get(name))
        return {name: pa.array(texts, pa.string()) for name, texts in found.items()}


def told_by_hand(message: Any, names: frozenset[str]) -> dict[str, str | None]:
    """These fields of a message, as JSON texts, where they are set."""
    told: dict[str, str | None] = {}
    for field, _ in message.ListFields():
        if field.name in names:
            only = type(message)()
            only.MergeFrom(message)
            for other, _ in message.ListFields():
                if other.name != field.name:
                    only.ClearField(other.name)
            as_dict = json_format.MessageToDict(only, preserving_proto_field_name=True)
            told[field.name] = json_text(as_dict.get(field.name))
    return told


def is_by_hand(field: FieldDescriptor, inside: tuple[str, ...]) -> bool:
    """Whether a field holds what has no columns: something of any form, or itself."""
    message = field.message_type
    if message is None:
        return False
    if message.full_name in BY_HAND or message.full_name in inside or len(inside) >= DEPTH_MAX:
        return True
    if not message.fields:
        return True
    return any(is_by_hand(each, (*inside, message.full_name)) for each in message.fields)


# --- schemas -----------------------------------------------------------------------------------------


class Messages:
    """The message types of a `.proto` or a descriptor set; the last file is the one that was meant."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        try:
            for each in files.file:
                self._pool.Add(each)
            self._main = self._pool.FindFileByName(files.file[-1].name)
        except (TypeError, KeyError, IndexError) as error:
            raise unusable(str(error)) from error
        self._names = [message.full_name for message in messages_in(self._main.message_types_by_name.values())]

    def named(self, name: str | None) -> ProtobufReader:
        """The reader of a type; without a name, of the first one, as producers take it."""
        if not self._names:
            raise unusable("it has no message")
        try:
            return ProtobufReader(self._pool.FindMessageTypeByName(name or self._names[0]))
        except KeyError:
            there = ", ".join(self._names[:10])
            raise MqlError(
                f'the schema has no message "{name}"', hint=f"There are {there}.", code="invalid-schema"
            ) from None

    def path_to(self, name: str | None) -> tuple[int, ...]:
        """Where in the file a type is; without a name, the first one."""
        for path, message in places_in(self._main.message_types_by_name.values(), ()):
            if name in (None, message.full_name, message.name):
                return path
        return (0,)

    def numbered(self, path: Sequence[int]) -> ProtobufReader:
        """The reader of the type at this place in the file: the n-th message, the m-th inside of it …"""
        found = list(self._main.message_types_by_name.values())
        message: Descriptor | None = None
        for at in path:
            if not 0 <= at < len(found):
                raise ValueError(f"its schema has no message at {list(path)}")
            message = found[at]
            found = list(message.nested_types)
        assert message is not None
        return ProtobufReader(message)


def places_in(found: Any, inside: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Descriptor]]:
    for at, message in enumerate(found):
        yield (*inside, at), message
        yield from places_in(message.nested_types, (*inside, at))


def messages_in(found: Any) -> Iterator[Descriptor]:
    for message in found:
        yield message
        yield from messages_in(message.nested_types)


def unusable(why: str) -> MqlError:
    said = " ".join(why.split())[:300]
    return MqlError(f"the Protobuf schema cannot be used: {said}", hint="Check the schema.", code="invalid-schema")


def compiled(text: str, imports: Mapping[str, str] | None = None) -> Messages:
    """The messages of a `.proto`'s text; `imports`: the texts of what it imports, by path."""
    with tempfile.TemporaryDirectory(prefix="mql-proto-") as home:
        files = {**(imports or {}), "mql_main.proto": text}
        for name, body in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.suffix:
                raise unusable(f'it imports "{name}"')
            target = Path(home, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(body)
        return Messages(protoc([home], "mql_main.proto"))


def compiled_file(path: Path) -> Messages:
    """The messages of a `.proto` file, which may import its neighbours, or of a descriptor set."""
    data = path.read_bytes()
    if path.suffix != ".proto":
        try:
            return Messages(descriptor_pb2.FileDescriptorSet.FromString(data))
        except DecodeError as error:
            raise unusable(f"{path.name} is neither a .proto nor a descriptor set") from error
    return Messages(protoc([str(path.parent)], path.name))


def protoc(folders: Sequence[str], file: str) -> descriptor_pb2.FileDescriptorSet:
    import grpc_tools

    known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory(prefix="mql-protoc-") as home:
        out = Path(home, "set")
        command = [sys.executable, "-m", "grpc_tools.protoc", "--include_imports", f"--descriptor_set_out={out}"]
        includes = [f"--proto_path={folder}" for folder in (*folders, known)]
        try:
            done = subprocess.run([*command, *includes, file], capture_output=True, text=True, timeout=PROTOC_S)
        except subprocess.TimeoutExpired as error:
            raise unusable("the compiler took too long") from error
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if not LOGGED.match(line)]
            raise unusable(" ".join(said).replace(f"{folders[0]}/", "") or "the compiler failed")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


# --- on the wire -------------------------------------------------------------------------------------


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it. ValueError where there is none."""
    number = 0
    for count in range(VARINT_BYTES_MAX):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << (7 * count)
        if not byte & 0x80:
            return number, at
    raise ValueError("a number that never ends")


def message_path(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """Which message a framed value is, as places in its schema's file, and where the message begins."""
    if data[at : at + 1] == b"\x00":
        return (0,), at + 1
    count, at = zigzag(*read_varint(data, at))
    if not 0 < count <= 32:
        raise ValueError(f"{count} message indexes")
    path = []
    for _ in range(count):
        number, at = zigzag(*read_varint(data, at))
        path.append(number)
    return tuple(path), at


def zigzag(number: int, at: int) -> tuple[int, int]:
    return (number >> 1) ^ -(number & 1), at


def cut(data: bytes) -> tuple[list[bytes], bytes]:
    """The messages of a stream, each behind its length, and the rest, of which the end has not come."""
    values: list[bytes] = []
    at, size, many = 0, len(data), MESSAGE_BYTES_MAX
    while at < size:
        length = data[at]
        start = at + 1
        if length > 0x7F:
            try:
                length, start = read_varint(data, at)
            except ValueError:
                if size - at >= VARINT_BYTES_MAX:
                    raise
                break
        if length > many:
            raise ValueError(f"a message of {length} bytes at byte {at}")
        if start + length > size:
            break
        values.append(data[start : start + length])
        at = start + length
    return values, data[at:]
