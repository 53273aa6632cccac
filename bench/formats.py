"""What it costs to make columns of values in each format: `python bench/formats.py [events]`.

From the bytes of messages, as a broker gives them, to the five decoded columns that a query reads; one thread,
processor time. Beside it, the way that makes a Python object of each event.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import events
import fastavro
import msgspec
import pyarrow as pa

from mql.catalog import TimeRule
from mql.exec.items import Rows
from mql.exec.kernel import Kernel
from mql.exec.scan import Decoder
from mql.learn import parse_type
from mql.schema import Field
from sources.formats.avro import AvroReader
from sources.formats.csv import CsvFormat
from sources.formats.msgpack import MsgpackFormat
from sources.formats.protobuf import compiled
from sources.formats.source import put_together
from sources.formats.text import TextFormat
from sources.formats.values import Format, Single, Values

BATCH = 50_000
WANTED = ("ts", "country", "status", "latency_ms", "device")
AVRO_NAMES = {"BIGINT": "long", "VARCHAR": "string", "DOUBLE": "double", "BOOLEAN": "boolean"}
PROTO_NAMES = {"BIGINT": "int64", "VARCHAR": "string", "DOUBLE": "double", "BOOLEAN": "bool"}
LINE = " ".join(rf"(?P<{name}>\S+)" for name in WANTED)


class Json:
    """Texts as they are."""

    encoding = "json"

    def read(self, values: pa.BinaryArray) -> Values:
        return Values(pa.RecordBatch.from_arrays([values.cast(pa.string())], ["_raw"]))


def main(count: int) -> None:
    lines = b"".join(events.blocks(count)).splitlines()
    given = [json.loads(line) for line in lines]
    schema = {
        "type": "record",
        "name": "E",
        "fields": [{"name": name, "type": ["null", AVRO_NAMES[told]]} for name, told in events.SHAPE.items()],
    }
    slow = {**schema, "fields": [*schema["fields"], {"name": "extra", "type": "bytes", "default": ""}]}
    fields = "".join(
        f"optional {PROTO_NAMES[told]} {name} = {at};" for at, (name, told) in enumerate(events.SHAPE.items(), 1)
    )
    messages = compiled(f'syntax = "proto3"; message E {{ {fields} }}').named(None)
    cells = [Field(name, parse_type(told)) for name, told in events.SHAPE.items()]
    types = {name: parse_type(events.SHAPE[name]) for name in WANTED if events.SHAPE[name] != "VARCHAR"}
    routes: list[tuple[str, Format, list[bytes]]] = [
        ("json", Json(), lines),  # type: ignore[list-item]
        ("avro", Single(AvroReader(schema)), datums(schema, given)),
        ("avro with a field of bytes (fastavro)", Single(AvroReader(slow)), datums(slow, given)),
        ("protobuf", Single(messages), [messages.message(**each).SerializeToString() for each in given]),
        ("msgpack", MsgpackFormat(), [msgspec.msgpack.encode(each) for each in given]),
        ("csv", CsvFormat(cells), [",".join(str(each[n]) for n in events.SHAPE).encode() for each in given]),
        ("text", TextFormat(LINE, types), [" ".join(str(each[n]) for n in WANTED).encode() for each in given]),
    ]
    del given
    print(f"{count:,} events, {len(events.SHAPE)} fields, {len(WANTED)} of them read\n")
    print(f"{'format':40} {'bytes/event':>12} {'M events/s':>12}")
    for name, format, values in routes:
        took = best(lambda format=format, values=values: decode(format, values))  # type: ignore[misc]
        print(f"{name:40} {sum(map(len, values)) / count:12.0f} {count / took / 1e6:12.2f}")


def datums(schema: Any, given: list[dict[str, Any]]) -> list[bytes]:
    parsed = fastavro.parse_schema(schema)
    found = []
    for each in given:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, {"extra": b"", **each})
        found.append(out.getvalue())
    return found


def decode(format: Format, values: list[bytes]) -> None:
    kernel = Kernel(threads=1)
    session = kernel.session()
    columns = [((name,), parse_type(events.SHAPE[name])) for name in WANTED]
    decoder = Decoder(session, format.encoding, TimeRule(("ts",), "ms"), columns)
    for start in range(0, len(values), BATCH):
        some = pa.array(values[start : start + BATCH], pa.binary())
        offsets = pa.array(range(start, start + len(some)), pa.int64())
        rows = Rows(0, pa.RecordBatch.from_pydict({"_raw": some, "_offset": offsets}), 0, start + len(some))
        found = decoder.decode((put_together(rows, format.read(some), None, format.encoding),))
        assert found.table.num_rows == len(some), found.malformed[:1]
    session.close()
    kernel.close()


def best(work: Callable[[], None]) -> float:
    """Seconds of processor time, the least of three."""
    found = []
    for _ in range(3):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
