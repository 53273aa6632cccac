"""Formats as mql.yaml says them: over files and posts, the same rows by every route, and what is wrong with them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from support.reading import read_all, read_rows, rows_of
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.exec.engine import Engine
from mql.exec.feed import From, Source
from mql.exec.frames import Failed
from server.settings import Registries, load_settings
from sources.declared import declare, load_sources
from sources.memory import MemorySource
from sources.strict_yaml import ConfigError, parse_yaml

EVENTS: list[dict[str, Any]] = [
    {"at": 1_700_000_000 + at * 3, "id": at, "node": f"n{at % 3}", "took": at / 4 if at % 5 else None}
    for at in range(40)
]
AVRO = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "at", "type": "long"},
        {"name": "id", "type": "long"},
        {"name": "node", "type": "string"},
        {"name": "took", "type": ["null", "double"]},
    ],
}
PROTO = """syntax = "proto3";
message Event { int64 at = 1; int64 id = 2; string node = 3; optional double took = 4; }"""
LINE = r"^(?P<at>\d+) (?P<id>\d+) (?P<node>\w+) (?:-|(?P<took>[0-9.]+))$"
TYPES = {"at": "BIGINT", "id": "BIGINT", "node": "VARCHAR", "took": "DOUBLE"}


def container(events: list[dict[str, Any]], codec: str = "null") -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(AVRO), events, codec=codec, sync_interval=200)
    return out.getvalue()


def messages(events: list[dict[str, Any]]) -> bytes:
    from sources.formats.protobuf import compiled

    make = compiled(PROTO).named(None).message
    found = [make(**event).SerializeToString() for event in events]
    return b"".join(bytes([len(one)]) + one for one in found)


def objects(events: list[dict[str, Any]]) -> bytes:
    return b"".join(map(msgspec.msgpack.encode, events))


def cells(events: list[dict[str, Any]]) -> bytes:
    return written("{at},{id},{node},{took}\n", events, missing="")


def lines(events: list[dict[str, Any]]) -> bytes:
    return written("{at} {id} {node} {took}\n", events, missing="-")


def written(form: str, events: list[dict[str, Any]], missing: str) -> bytes:
    return "".join(form.format(**event | ({} if event["took"] else {"took": missing})) for event in events).encode()


WRITTEN: Mapping[str, tuple[Callable[[list[dict[str, Any]]], bytes], Any]] = {
    "avro": (container, "avro"),
    "protobuf": (messages, {"type": "protobuf", "schema": PROTO}),
    "msgpack": (objects, "msgpack"),
    "csv": (cells, {"type": "csv", "columns": TYPES}),
    "text": (lines, {"type": "text", "pattern": LINE, "types": {k: v for k, v in TYPES.items() if v != "VARCHAR"}}),
}
QUERIES = (
    "SELECT id, node, took FROM s WHERE took > 2 ORDER BY id",
    "SELECT node, count(*) AS n, sum(took) AS took FROM s WINDOW TUMBLING 30s GROUP BY node",
    "SELECT * FROM s WHERE id = 7",
    "SELECT count(*) AS n, max(event_time()) AS at FROM s",
)


def answers(source: Source, workers: int, suffix: str = "") -> list[Any]:
    with closing(Engine((source,), workers=workers)) as engine:
        return [answer(engine, text + suffix) for text in QUERIES]


def answer(engine: Engine, text: str) -> list[str]:
    found = rows_of(read_all(engine.start(text).subscribe()))
    shown = [{name: value for name, value in row.items() if not name.startswith("_")} for row in found]
    return sorted(json.dumps(row, default=str, sort_keys=True) for row in shown)


@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_each_format_give_the_same_rows_by_every_route(name: str, tmp_path: Path) -> None:
    write, format = WRITTEN[name]
    (tmp_path / "a.bin").write_bytes(write(EVENTS[:25]))
    (tmp_path / "b.bin").write_bytes(write(EVENTS[25:]))
    mapping = {"kind": "file", "path": "*.bin", "format": format, "time": {"field": "at", "unit": "s"}}

    def source() -> Source:
        return declare("s", mapping, tmp_path)

    expected = answers(MemorySource("s", EVENTS, time=source().info.time), 1)
    assert len(expected[0]) == 25
    for workers in (1, 4):
        assert answers(source(), workers) == expected
    through_stages = " SETTINGS late = 'as_live'"
    assert answers(source(), 2, through_stages) == answers(
        MemorySource("s", EVENTS, time=source().info.time), 2, through_stages
    )


def test_a_reading_of_a_file_goes_on_where_it_stood(tmp_path: Path) -> None:
    (tmp_path / "a.avro").write_bytes(container(EVENTS))
    with closing(declare("s", {"kind": "file", "path": "a.avro"}, tmp_path)) as source:
        assert source.end() == {0: 40}
        items = list(source.history(From(positions={0: 11}), {0: 37}))
        assert [row["id"] for item in items for row in item.table.to_pylist()] == list(range(11, 37))


@pytest.mark.parametrize("codec", ["deflate", "snappy", "zstandard", "bzip2", "xz"])
def test_containers_are_unpacked(codec: str, tmp_path: Path) -> None:
    (tmp_path / "a.avro").write_bytes(container(EVENTS, codec))
    with closing(Engine((declare("s", {"kind": "file", "path": "a.avro"}, tmp_path),))) as engine:
        assert answer(engine, "SELECT sum(id) AS n FROM s") == ['{"final": true, "n": 780}']


def test_a_log_is_followed_as_it_grows(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_bytes(b"INFO started\n")
    mapping = {
        "kind": "file",
        "path": "app.log",
        "follow": True,
        "format": {"type": "text", "pattern": r"^(?P<level>[A-Z]+) (?P<text>.*)$"},
    }
    with closing(Engine((declare("s", mapping, tmp_path),))) as engine:
        run = engine.start("SELECT level, text FROM s SINCE EARLIEST")
        reading = run.subscribe()
        assert read_rows(reading, 1)[0]["text"] == "started"
        with log.open("ab") as out:
            out.write(b"???\nWARN full\n")
        assert read_rows(reading, 1)[0]["level"] == "WARN"
        assert [letter["text"] for letter in engine.dead_letters("s")] == ["???"]
        run.cancel()


def test_a_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(messages(EVENTS)[:-3])
    mapping = {"kind": "file", "path": "a.bin", "format": {"type": "protobuf", "schema": PROTO}}
    with closing(Engine((declare("s", mapping, tmp_path),))) as engine:
        last = read_all(engine.start("SELECT id FROM s").subscribe())[-1]
        assert isinstance(last, Failed)
        assert "a.bin" in str(last.data)
        assert "its last record is cut off" in str(last.data)


# --- posts -------------------------------------------------------------------------------------------

POSTS = {
    "avro": (container, {"type": "avro", "schema": AVRO}, "application/vnd.apache.avro"),
    "protobuf": (*WRITTEN["protobuf"], "application/x-protobuf"),
    "msgpack": (*WRITTEN["msgpack"], "application/msgpack"),
    "csv": (*WRITTEN["csv"], "text/csv"),
    "text": (*WRITTEN["text"], "text/plain"),
}


@pytest.mark.parametrize("name", POSTS)
def test_posts_of_each_format_are_events_and_are_kept(name: str, tmp_path: Path) -> None:
    write, format, kind = POSTS[name]
    mapping = {"kind": "http", "format": format, "record": True, "time": {"field": "at", "unit": "s"}}
    if name == "msgpack":  # of which a source that begins anew knows nothing by itself
        mapping["shape"] = TYPES
    text = "SELECT id, node, took FROM s SINCE EARLIEST UNTIL NOW"
    expected = sorted(
        json.dumps({name: event[name] for name in ("id", "node", "took")}, sort_keys=True) for event in EVENTS
    )
    with served([declare("s", mapping, tmp_path, data_dir=tmp_path)]) as server:
        live = server.engine.start("SELECT id FROM s")
        reading = live.subscribe()
        reply = server.send("POST", "/v1/sources/s/events", write(EVENTS), {"Content-Type": kind})
        assert (reply.status, reply.json()["accepted"]) == (200, 40)
        assert len(read_rows(reading, 40)) == 40
        live.cancel()
        assert answer(server.engine, text) == expected
        assert server.get("/v1/sources/s/sample?n=1").json()["events"][0]["id"] == 39
    with closing(Engine((declare("s", mapping, tmp_path, data_dir=tmp_path),))) as engine:
        assert answer(engine, text) == expected


def test_a_body_that_cannot_be_cut_is_refused_as_a_whole() -> None:
    mapping = {"kind": "http", "format": "msgpack"}
    with served([declare("s", mapping)]) as server:
        kind = {"Content-Type": "application/msgpack"}
        reply = server.send("POST", "/v1/sources/s/events", b"\x81\xa1a\x01\xc1", kind)
        assert (reply.status, reply.json()["code"]) == (400, "malformed-body")
        assert "byte 4" in reply.json()["title"] + reply.json().get("detail", "")


def test_a_source_with_a_format_can_be_declared_over_http() -> None:
    with served() as server:
        mapping = {"kind": "http", "format": {"type": "csv", "columns": ["a", "b"]}}
        assert server.send("PUT", "/v1/sources/fresh", mapping).status == 201
        shape = server.get("/v1/sources/fresh/shape").json()
        assert [(one["path"], one["type"]) for one in shape["properties"]] == [(["a"], "VARCHAR"), (["b"], "VARCHAR")]


@pytest.mark.parametrize(
    ("format", "said"),
    [
        ({"type": "avro", "registry": "http://127.0.0.1:8081"}, "is not https"),
        (
            {"type": "avro", "registry": {"url": "https://r", "token_env": "HOME"}},
            "registry.token_env can be said in mql.yaml alone",
        ),
        ({"type": "avro", "schema_file": "/etc/passwd"}, "schema_file can be said in mql.yaml alone"),
    ],
)
def test_over_http_no_secrets_and_no_files_are_named(format: Mapping[str, Any], said: str) -> None:
    with served(registries=Registries()) as server:
        reply = server.send("PUT", "/v1/sources/x", {"kind": "http", "format": format})
        assert (reply.status, reply.json()["code"]) == (422, "invalid-source")
        assert said in json.dumps(reply.json())


# --- what is wrong with a declaration ------------------------------------------------------------------

WRONG = """sources:
  one: {kind: kafka, bootstrap_servers: "b:9092", topic: t, format: avrro}
  two:
    kind: kafka
    bootstrap_servers: b:9092
    topic: t
    format:
      type: avro
      registry: {url: "http://r:8081", pasword: x}
  three:
    kind: kafka
    bootstrap_servers: b:9092
    topic: t
    format: {type: avro}
  four: {kind: http, format: {type: text, pattern: "(a)"}}
  five: {kind: http, format: {type: csv, columns: {a: INTEGR}}}
  six: {kind: http, format: {type: protobuf, schema_file: none.proto}}
  seven: {kind: file, path: "*.x", format: parket}
  eight: {kind: stdin, format: msgpack}
  nine: {kind: kafka, bootstrap_servers: "b:9092", topic: t, key_format: {type: text}}
  ten: {kind: http, format: [avro]}
  eleven: {kind: http, format: {type: csv, columns: [a, A]}}
  twelve: {kind: http, format: {}}
"""


def test_all_that_is_wrong_is_told_with_its_place() -> None:
    document = parse_yaml(WRONG, "mql.yaml")
    with pytest.raises(ConfigError) as wrong:
        load_sources(document.value["sources"], Path(), document=document)
    told = str(wrong.value).splitlines()
    expected = [
        ("2:", 'sources.one.format: unknown format "avrro". Did you mean "avro"?'),
        ("9:49: ", 'sources.two.format.registry.pasword: unknown setting "pasword". Did you mean "password"?'),
        ("14:13: ", "sources.three.format: avro needs to know the schema of its values"),
        ("15:", "sources.four.format: the pattern has no named group"),
        ("16:", 'sources.five.format: unknown type "INTEGR"'),
        ("17:", 'sources.six.format: there is no file "none.proto"'),
        ("18:", 'sources.seven.format: unknown format "parket". Did you mean "parquet"?'),
        ("19:", "sources.eight.format: standard input holds lines"),
        ("20:", "sources.nine.key_format: beside values of plain JSON"),
        ("21:", "sources.ten.format: must be a format's name"),
        ("22:", "sources.eleven.format: columns has a name twice"),
        ("23:", "sources.twelve.format.type: a format needs a type"),
    ]
    assert len(told) == len(expected), told
    for line, (place, message) in zip(told, expected, strict=True):
        assert line.startswith(f"mql.yaml:{place}"), line
        assert message in line


def test_schemas_stand_beside_mql_yaml(tmp_path: Path) -> None:
    (tmp_path / "event.avsc").write_text(json.dumps(AVRO))
    (tmp_path / "shared.proto").write_text('syntax = "proto3"; message Place { string city = 1; }')
    (tmp_path / "event.proto").write_text(
        'syntax = "proto3"; import "shared.proto"; message Other {} message Event { Place place = 1; }'
    )
    (tmp_path / "mql.yaml").write_text(
        """sources:
  a: {kind: http, format: {type: avro, schema_file: event.avsc}, shape: {extra: BIGINT}}
  b: {kind: http, format: {type: protobuf, schema_file: event.proto, message: Event}}
"""
    )
    _, sources = load_settings(tmp_path / "mql.yaml")
    shapes = {one.info.name: {field.name: str(field.type) for field in one.info.shape.fields} for one in sources}
    assert shapes == {
        "a": {"extra": "BIGINT", "at": "BIGINT", "id": "BIGINT", "node": "VARCHAR", "took": "DOUBLE"},
        "b": {"place": 'STRUCT("city" VARCHAR)'},
    }
    for one in sources:
        one.close()


def test_json_in_columns_is_json_in_rows(tmp_path: Path) -> None:
    schema = {
        "type": "record",
        "name": "Event",
        "fields": [
            {"name": "id", "type": "long"},
            {"name": "any", "type": ["null", "long", "string"]},
            {"name": "attrs", "type": {"type": "map", "values": "string"}},
        ],
    }
    events = [
        {"id": 1, "any": "s", "attrs": {"k": "1"}},
        {"id": 2, "any": 3, "attrs": {"k": "x", "odd name": "y"}},
        {"id": 3, "any": None, "attrs": {}},
    ]
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(schema), events)
    (tmp_path / "a.avro").write_bytes(out.getvalue())
    questions = (
        "SELECT * FROM s",
        "SELECT id, e FROM s",
        "SELECT id FROM s WHERE any = 's' OR any = 3",
        "SELECT attrs.k AS k, attrs['odd name'] AS y, any::BIGINT AS n FROM s",
        "SELECT attrs['k'] AS k, count(*) AS n FROM s GROUP BY attrs['k']",
        "SELECT id FROM s WHERE attrs.k == null",
    )
    found = []
    for source in (
        declare("s", {"kind": "file", "path": "a.avro"}, tmp_path),
        declare("s", lines_of(events, tmp_path), tmp_path),
    ):
        with closing(Engine((source,))) as engine:
            found.append([answer(engine, text) for text in questions])
    assert found[0] == found[1]
    assert found[0][2] == ['{"id": 1}', '{"id": 2}']


def lines_of(events: list[dict[str, Any]], directory: Path) -> dict[str, Any]:
    """The same events as JSON lines, with maps as JSON."""
    (directory / "a.ndjson").write_text("".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events))
    return {"kind": "file", "path": "a.ndjson", "shape": {"id": "BIGINT", "any": "JSON", "attrs": "JSON"}}


@pytest.mark.parametrize("name", ["avro", "csv"])
def test_a_job_goes_on_where_it_stood_over_a_restart(name: str, tmp_path: Path) -> None:
    write, format, kind = POSTS[name]
    mapping = {"kind": "http", "format": format, "record": True, "time": {"field": "at", "unit": "s"}}
    said = {"name": "j", "query": "SELECT id FROM s", "guarantee": "exactly_once", "checkpoint_every": 0.05}

    def ids(server: Served) -> list[int]:
        return [row["id"] for row in server.get("/v1/jobs/j/results").json()["rows"]]

    for first, last in ((0, 20), (20, 40)):
        with served([declare("s", mapping, tmp_path, data_dir=tmp_path)], home=tmp_path) as server:
            if first == 0:
                assert server.post("/v1/jobs", said).status == 201
            wait_for_state(server, "j", "running")
            server.send("POST", "/v1/sources/s/events", write(EVENTS[first:last]), {"Content-Type": kind})
            wait_for(lambda: len(ids(server)) >= last)  # noqa: B023 - waits at once
    assert ids_of_all(tmp_path, mapping) == list(range(40))


def ids_of_all(home: Path, mapping: dict[str, Any]) -> list[int]:
    with served([declare("s", mapping, home, data_dir=home)], home=home) as server:
        return [row["id"] for row in server.get("/v1/jobs/j/results").json()["rows"]]


def test_properties_that_differ_in_letter_case_alone_are_told_apart(tmp_path: Path) -> None:
    schema = {
        "type": "record",
        "name": "E",
        "fields": [{"name": name, "type": ["null", "int"]} for name in ("id", "ID")],
    }
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(schema), [{"id": 1, "ID": 5}])
    (tmp_path / "a.avro").write_bytes(out.getvalue())
    with closing(
        Engine((declare("s", {"kind": "file", "path": "a.avro", "shape": {"ID": "VARCHAR"}}, tmp_path),))
    ) as engine:
        assert answer(engine, "SELECT id AS a, `ID` AS b, e FROM s") == ['{"a": 1, "b": "5", "e": "{\\"id\\":1}"}']
