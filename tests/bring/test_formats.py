"""Formats of values, one by one: what each makes of bytes, and of bytes that are not its own."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import uuid
from collections.abc import Mapping
from typing import Any

import fastavro
import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as thorough
from hypothesis import strategies as st

from mql.errors import MqlError
from mql.schema import BIGINT, BOOLEAN, DOUBLE, TIMESTAMP, VARCHAR, Field
from sources.formats.avro import AvroReader, values_of
from sources.formats.csv import CsvFormat
from sources.formats.json_schema import JsonReader
from sources.formats.msgpack import MsgpackFormat
from sources.formats.msgpack import cut as cut_msgpack
from sources.formats.nested import plain_batch
from sources.formats.protobuf import compiled, message_path
from sources.formats.protobuf import cut as cut_protobuf
from sources.formats.text import TextFormat
from sources.formats.values import Single, Values, united

UTC = datetime.UTC


def values(*given: bytes) -> pa.BinaryArray:
    return pa.array(given, pa.binary())


def rows(found: Values) -> list[dict[str, Any]]:
    return found.columns.to_pylist(maps_as_pydicts="lossy")


def datum(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def record(type: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": "x", "type": type}]}


# --- Avro --------------------------------------------------------------------------------------------

POINT = {"type": "record", "name": "Point", "fields": [{"name": "y", "type": ["null", "int"]}]}
AVRO_TYPES = [
    ("boolean", True, "BOOLEAN", True),
    ("int", -5, "BIGINT", -5),
    ("long", 2**62, "BIGINT", 2**62),
    ("float", 1.5, "DOUBLE", 1.5),
    ("double", 0.1, "DOUBLE", 0.1),
    ("string", "é", "VARCHAR", "é"),
    ("bytes", b"\xff\x00", "VARCHAR", "/wA="),
    ({"type": "fixed", "name": "F", "size": 2}, b"ab", "VARCHAR", "YWI="),
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", "VARCHAR", "B"),
    (["null", "string"], None, "VARCHAR", None),
    (["string", "null"], "a", "VARCHAR", "a"),
    (["null", "long", "string"], 7, "JSON", "7"),
    (["null", "long", "string"], "7", "JSON", '"7"'),
    ("null", None, "JSON", None),
    ({"type": "array", "items": ["null", "long"]}, [1, None], "BIGINT[]", [1, None]),
    ({"type": "map", "values": "long"}, {"a": 1}, "JSON", {"a": 1}),
    (POINT, {"y": 1}, 'STRUCT("y" BIGINT)', {"y": 1}),
    (["null", POINT], None, 'STRUCT("y" BIGINT)', None),
    ({"type": "array", "items": POINT}, [{"y": None}], 'STRUCT("y" BIGINT)[]', [{"y": None}]),
    (
        {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2},
        decimal.Decimal("1.25"),
        "DECIMAL(38,10)",
        decimal.Decimal("1.25"),
    ),
    ({"type": "int", "logicalType": "date"}, datetime.date(2024, 5, 1), "DATE", datetime.date(2024, 5, 1)),
    (
        {"type": "long", "logicalType": "timestamp-millis"},
        datetime.datetime(2024, 5, 1, 12, tzinfo=UTC),
        "TIMESTAMP",
        datetime.datetime(2024, 5, 1, 12),
    ),
    (
        ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        datetime.datetime(2024, 5, 1, 12, 0, 0, 5, tzinfo=UTC),
        "TIMESTAMP",
        datetime.datetime(2024, 5, 1, 12, 0, 0, 5),
    ),
    ({"type": "int", "logicalType": "time-millis"}, datetime.time(1, 2, 3), "VARCHAR", "01:02:03"),
    (
        {"type": "string", "logicalType": "uuid"},
        uuid.UUID("12345678-1234-5678-1234-567812345678"),
        "VARCHAR",
        "12345678-1234-5678-1234-567812345678",
    ),
]


@pytest.mark.parametrize(("type", "value", "told", "seen"), AVRO_TYPES, ids=lambda given: str(given)[:40])
def test_avro_types(type: Any, value: Any, told: str, seen: Any) -> None:
    reader = AvroReader(record(type))
    assert [str(field.type) for field in reader.fields] == [told]
    found = Single(reader).read(values(datum(record(type), {"x": value})))
    assert (rows(found), found.bad) == ([{"x": seen}], {})


@pytest.mark.parametrize(("type", "value", "told", "seen"), AVRO_TYPES, ids=lambda given: str(given)[:40])
def test_avro_reads_the_same_by_the_slow_way(type: Any, value: Any, told: str, seen: Any) -> None:
    schema = {"type": "record", "name": "Q", "fields": [{"name": "x", "type": type}, {"name": "slow", "type": "bytes"}]}
    reader = AvroReader(schema)
    assert not reader.is_swift
    assert rows(Single(reader).read(values(datum(schema, {"x": value, "slow": b""})))) == [{"x": seen, "slow": ""}]


def test_a_record_inside_of_itself_is_json() -> None:
    schema = record(["null", "R"])
    reader = AvroReader(schema)
    assert [str(field.type) for field in reader.fields] == ["JSON"]
    assert rows(Single(reader).read(values(datum(schema, {"x": {"x": None}})))) == [{"x": '{"x":null}'}]


def test_what_is_no_record_is_the_column_value() -> None:
    assert rows(Single(AvroReader('"string"')).read(values(b"\x02a"))) == [{"value": "a"}]


def test_avro_schemas_may_name_others() -> None:
    inner = {"type": "record", "name": "In", "namespace": "n", "fields": [{"name": "v", "type": "long"}]}
    outer = {
        "type": "record",
        "name": "Out",
        "namespace": "n",
        "fields": [{"name": "a", "type": "In"}, {"name": "b", "type": ["null", "n.In"]}],
    }
    reader = AvroReader(json.dumps(outer), [json.dumps(inner)])
    assert reader.is_swift
    assert reader.read([b"\x02\x02\x04"]).to_pylist() == [{"a": {"v": 1}, "b": {"v": 2}}]


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "Nobody"}]}',
        json.dumps(record({"type": "array", "items": "null"})),
        json.dumps(record({"type": "array", "items": {"type": "record", "name": "E", "fields": []}})),
    ],
)
def test_avro_schemas_that_cannot_be_used_are_refused(schema: str) -> None:
    with pytest.raises(MqlError, match="Avro schema"):
        AvroReader(schema)


def test_bad_values_are_set_apart_and_the_rest_stays_in_order() -> None:
    good = [datum(record("string"), {"x": str(at)}) for at in range(20)]
    given = [*good[:5], b"\x08a", *good[5:10], b"", b"\x02\xff", *good[10:]]
    found = Single(AvroReader(record("string"))).read(values(*given))
    assert [row["x"] for row in rows(found)] == [str(at) for at in range(20)]
    assert sorted(found.bad) == [5, 11, 12]


def test_a_container_is_read_in_another_schema_by_avros_own_rules() -> None:
    old = record("int")
    new = {
        "type": "record",
        "name": "R",
        "fields": [*record("long")["fields"], {"name": "y", "type": "string", "default": "-"}],
    }
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(old), [{"x": 1}, {"x": 2}])
    reader = AvroReader(new)
    assert reader.read(values_of(out.getvalue(), reader)).to_pylist() == [{"x": 1, "y": "-"}, {"x": 2, "y": "-"}]
    with pytest.raises(ValueError, match="container file"):
        values_of(b"Obj\x01nonsense", reader)


# --- Protobuf ----------------------------------------------------------------------------------------

PROTO = """syntax = "proto3"; package shop;
import "google/protobuf/timestamp.proto"; import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto";
enum Kind { NONE = 0; BIG = 1; }
message Tree { string name = 1; repeated Tree kids = 2; }
message Order {
  int64 id = 1; Kind kind = 2; bytes raw = 3; uint64 big = 4; optional int32 n = 5; map<string, int32> counts = 6;
  google.protobuf.Timestamp at = 7; google.protobuf.Struct any = 8; Tree tree = 9;
  google.protobuf.StringValue note = 10;
  repeated string tags = 11;
}"""


def test_protobuf_types() -> None:
    reader = compiled(PROTO).named("shop.Order")
    assert {field.name: str(field.type) for field in reader.fields} == {
        "id": "BIGINT",
        "kind": "VARCHAR",
        "raw": "VARCHAR",
        "big": "DECIMAL(38,10)",
        "n": "BIGINT",
        "counts": "JSON",
        "at": "TIMESTAMP",
        "any": "JSON",
        "tree": "JSON",
        "note": "VARCHAR",
        "tags": "VARCHAR[]",
    }
    message = reader.message(id=7, kind=1, raw=b"\xff", big=2**64 - 1, tags=["a"])
    message.counts["a"] = 2
    message.at.FromMilliseconds(1_700_000_000_000)
    message.any.update({"k": [1, None]})
    message.tree.kids.add(name="leaf")
    found = Single(reader).read(values(message.SerializeToString(), b"", b"\x08"))
    full, empty = rows(found)
    assert full == {
        "id": 7,
        "kind": "BIG",
        "raw": "/w==",
        "big": 2**64 - 1,
        "n": None,
        "counts": {"a": 2},
        "at": datetime.datetime(2023, 11, 14, 22, 13, 20),
        "any": '{"k":[1.0,null]}',
        "tree": '{"kids":[{"name":"leaf"}]}',
        "note": None,
        "tags": ["a"],
    }
    assert (empty["id"], empty["at"], empty["tree"]) == (0, None, None)
    assert list(found.bad) == [2]


def test_a_map_that_says_a_key_twice_keeps_the_last() -> None:
    reader = compiled('syntax = "proto3"; message M { map<string, int32> m = 1; }').named(None)
    twice = b"\x0a\x05\x0a\x01a\x10\x01\x0a\x05\x0a\x01a\x10\x02"
    assert rows(Values(reader.read([twice]))) == [{"m": {"a": 2}}]


def test_protobuf_schemas_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(MqlError, match="Protobuf schema cannot be used: mql_main"):
        compiled("message M { oops }")
    with pytest.raises(MqlError, match=r'imports "../x.proto"'):
        compiled('syntax = "proto3";', {"../x.proto": ""})
    with pytest.raises(MqlError, match='no message "Nobody"'):
        compiled('syntax = "proto3"; message M { int32 a = 1; }').named("Nobody")


def test_which_message_a_value_is() -> None:
    assert message_path(b"\x00rest", 0) == ((0,), 1)
    assert message_path(b"\x04\x02\x00rest", 0) == ((1, 0), 3)
    for bad in (b"", b"\x01", b"\xff" * 12, b"\x80\x80\x04"):
        with pytest.raises(ValueError, match=r"number|indexes"):
            message_path(bad, 0)


def test_streams_are_cut_where_values_end() -> None:
    long = b"x" * 300
    assert cut_protobuf(b"\x02ab\x00\xac\x02" + long + b"\x05cut") == ([b"ab", b"", long], b"\x05cut")
    assert cut_protobuf(b"\x01a\x80") == ([b"a"], b"\x80")
    with pytest.raises(ValueError, match="message of"):
        cut_protobuf(b"\xff\xff\xff\xff\x7f")
    one, two = (msgspec.msgpack.encode({"a": at, "b": [None, "x"]}) for at in (1, 2))
    assert cut_msgpack(one + two + two[:-1]) == ([one, two], two[:-1])
    with pytest.raises(ValueError, match=f"byte {len(one)}"):
        cut_msgpack(one + b"\xc1")


# --- MessagePack, CSV, text, JSON Schema -------------------------------------------------------------


def test_messagepack_says_what_json_can_say() -> None:
    given = {"a": 1, "b": b"\xff", "at": datetime.datetime(2024, 5, 1, tzinfo=UTC), "nan": float("nan"), "n": [None]}
    found = MsgpackFormat().read(values(msgspec.msgpack.encode(given), b"\xc1", b"\x91" * 5000, b"\x81\x91\x01\x02"))
    assert [json.loads(row["_raw"]) for row in rows(found)] == [
        {"a": 1, "b": "/w==", "at": "2024-05-01T00:00:00Z", "nan": None, "n": [None]}
    ]
    assert sorted(found.bad) == [1, 2, 3]


CSV = CsvFormat([Field("n", BIGINT), Field("x", DOUBLE), Field("on", BOOLEAN), Field("s", VARCHAR)])


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (b"1,0.5,true,a", {"n": 1, "x": 0.5, "on": True, "s": "a"}),
        (b"1,0.5,true,a\r\n", {"n": 1, "x": 0.5, "on": True, "s": "a"}),
        (b",,,", {"n": None, "x": None, "on": None, "s": None}),
        (b'no, 2 ,no,"a ""b"", c"', {"n": None, "x": 2.0, "on": False, "s": 'a "b", c'}),
        (b'1,1e3,x,"two\nlines"', {"n": 1, "x": 1000.0, "on": None, "s": "two\nlines"}),
        (b"99999999999999999999,nan,1,\xc3\xa9", {"n": None, "x": None, "on": True, "s": "é"}),
    ],
)
def test_csv_records(text: bytes, row: Mapping[str, Any]) -> None:
    assert rows(CSV.read(values(text))) == [row]
    # Beside others, and beside what is none, it is the same.
    found = CSV.read(values(b"1,2,f,", text, b"1,2", b"", b"\xff,,,", b'"', b"1,2,3,4\n5,6,7,8", text))
    assert rows(found)[1:] == [row, row]
    assert found.bad == {
        2: "2 cells instead of 4",
        3: "empty",
        4: "not UTF-8",
        5: found.bad[5],
        6: "2 records in one event",
    }


LOG = r'^(?P<ip>\S+) (?:-|(?P<user>\w+)) \[(?<at>[^\]]+)\] "(GET|POST) (?P<path>[^"]*)" (?P<status>\d{3})$'


def test_named_groups_of_a_pattern_are_columns() -> None:
    format = TextFormat(LOG, {"status": BIGINT, "at": TIMESTAMP})
    assert [(field.name, field.type) for field in format.shape.fields] == [
        ("ip", VARCHAR),
        ("user", VARCHAR),
        ("at", TIMESTAMP),
        ("path", VARCHAR),
        ("status", BIGINT),
    ]
    lines = [
        b'10.0.0.1 ann [2024-05-01T12:00:00Z] "GET /a b" 200\n',
        b"nothing of the kind",
        b'10.0.0.2 - [2024-05-01T14:00:00+02:00] "POST /" 500',
        b"\xff",
        b'10.0.0.3 - [then] "GET /" 404',
    ]
    found = format.read(values(*lines))
    noon = datetime.datetime(2024, 5, 1, 12)
    assert rows(found) == [
        {"ip": "10.0.0.1", "user": "ann", "at": noon, "path": "/a b", "status": 200},
        {"ip": "10.0.0.2", "user": None, "at": noon, "path": "/", "status": 500},
        {"ip": "10.0.0.3", "user": None, "at": None, "path": "/", "status": 404},
    ]
    assert found.bad == {1: "does not match the pattern", 3: "not UTF-8"}


def test_without_a_pattern_the_line_is_a_column() -> None:
    assert rows(TextFormat().read(values(b"a b\r\n", b"c"))) == [{"line": "a b"}, {"line": "c"}]


@pytest.mark.parametrize(
    "pattern",
    [r"(?P<a>x)(?=y)", r"(?P<a>x)(?P=a)", r"(a)", r"(?P<a>x", r"(?P<a>x)(?P<a>y)", "(?P<a>x{5000})", "a" * 5000],
)
def test_patterns_that_cannot_be_used_are_refused(pattern: str) -> None:
    with pytest.raises(MqlError):
        TextFormat(pattern)


def test_a_json_schema_tells_a_shape() -> None:
    schema = {
        "$defs": {"place": {"type": "object", "properties": {"city": {"type": "string"}}}},
        "properties": {
            "id": {"type": "integer"},
            "price": {"type": ["number", "null"]},
            "either": {"oneOf": [{"type": "null"}, {"type": "integer"}, {"type": "number"}]},
            "mixed": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "from": {"$ref": "#/$defs/place"},
            "other": {"$ref": "other.json"},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/place"}},
            "free": {"type": "object"},
            "self": {"$ref": "#"},
        },
    }
    reader = JsonReader(schema, {"other.json": '{"type": "boolean"}'})
    told = {field.name: str(field.type) for field in reader.fields}
    assert told.pop("self").startswith("STRUCT")
    assert told == {
        "id": "BIGINT",
        "price": "DOUBLE",
        "either": "DOUBLE",
        "mixed": "JSON",
        "from": 'STRUCT("city" VARCHAR)',
        "other": "BOOLEAN",
        "lines": 'STRUCT("city" VARCHAR)[]',
        "free": "JSON",
    }


# --- columns -----------------------------------------------------------------------------------------


def test_columns_of_unlike_types_are_json_together() -> None:
    one = pa.RecordBatch.from_pydict({"a": pa.array([1]), "b": pa.array(["x"])})
    two = pa.RecordBatch.from_pydict({"a": pa.array(["1"]), "c": pa.array([True])})
    assert united([one, two]).to_pylist() == [{"a": "1", "b": "x", "c": None}, {"a": '"1"', "b": None, "c": True}]


def test_nested_columns_become_plain_wherever_they_lie() -> None:
    inner = pa.array(
        [{"n": 1, "b": b"\xff"}, None, {"n": None, "b": None}], pa.struct({"n": pa.int8(), "b": pa.binary()})
    )
    listed = pa.array([[{"n": 5}], None, []], pa.large_list(pa.struct({"n": pa.uint64()})))
    named = pa.array(["a", "b", "a"]).dictionary_encode()
    batch = pa.RecordBatch.from_arrays([inner, listed, named], ["s", "l", "d"])
    expected = [
        {"s": {"n": 1, "b": "/w=="}, "l": [{"n": decimal.Decimal(5)}], "d": "a"},
        {"s": None, "l": None, "d": "b"},
        {"s": {"n": None, "b": None}, "l": [], "d": "a"},
    ]
    assert plain_batch(batch).to_pylist() == expected
    assert plain_batch(batch.slice(1)).to_pylist() == expected[1:]


FORMATS = {
    "avro": Single(
        AvroReader({**POINT, "fields": [*POINT["fields"], {"name": "m", "type": {"type": "map", "values": "string"}}]})
    ),
    "slow avro": Single(AvroReader(record({"type": "array", "items": ["null", "bytes"]}))),
    "protobuf": Single(compiled(PROTO).named("shop.Tree")),
    "msgpack": MsgpackFormat(),
    "csv": CSV,
    "text": TextFormat(r"(?P<a>\w+)=(?P<b>.*)"),
}


@pytest.mark.parametrize("name", FORMATS)
@thorough(max_examples=60)
@given(given=st.lists(st.binary(max_size=24), max_size=6))
def test_no_bytes_are_more_than_malformed(name: str, given: list[bytes]) -> None:
    found = FORMATS[name].read(values(*given))
    assert found.columns.num_rows + len(found.bad) == len(given)
    found.columns.validate(full=True)
