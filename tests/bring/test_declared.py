"""Sources declared in YAML: what comes of them, and every mistake at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mql.catalog import TimeRule
from mql.schema import BIGINT, VARCHAR, ListOf, StructOf
from sources.archive import RecordedSource
from sources.declared import ConfigError, declare, load_sources
from sources.file import FileSource
from sources.http import HttpSource
from sources.strict_yaml import parse_yaml, read_yaml

GOOD = """
sources:
  requests: {kind: generator, rate: 1e2, splits: 3, lateness: 10s, idle_timeout: 1m}
  bids: {kind: nexmark, stream: bid}
  log:
    kind: file
    path: logs/*.json
    time: {field: meta.at, unit: ms}
    open: true
  orders:
    kind: http
    shape: {id: BIGINT, country: VARCHAR, tags: [VARCHAR], device: {id: VARCHAR}}
    record: {age: 7d, bytes: 20GB}
  kept: {kind: generator, rate: 10, record: true}
"""

BAD = """sources:
  a: {kind: generatr}
  b:
    kind: http
    latenes: 5s
    lateness: soon
    shape: {id: BIGINTT}
  c: {kind: file}
  d: {kind: file, path: none/*.json}
  e: {kind: file, path: [a, 5]}
  f f: {kind: http}
  g: http
  h: {kind: kafka, topic: t, bootstrap: x}
"""


def test_declared_sources_are_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.json").write_text('{"meta":{"at":1700000000000}}\n')
    document = parse_yaml(GOOD)
    found = {one.info.name: one for one in load_sources(document.value["sources"], tmp_path, document=document)}
    assert list(found) == ["requests", "bids", "log", "orders", "kept"]
    requests = found["requests"].info
    assert (requests.splits, requests.lateness_us, requests.idle_timeout_us) == (3, 10_000_000, 60_000_000)
    assert isinstance(found["log"], FileSource)
    assert found["log"].info.time == TimeRule(("meta", "at"), "ms")
    assert found["log"].info.shape.open
    orders = found["orders"].info.shape
    assert [(field.name, field.type) for field in orders.fields] == [
        ("id", BIGINT),
        ("country", VARCHAR),
        ("tags", ListOf(VARCHAR)),
        ("device", StructOf((("id", VARCHAR),))),
    ]
    assert isinstance(found["orders"], HttpSource)
    assert (tmp_path / ".mql" / "archive" / "orders").is_dir()
    assert isinstance(found["kept"], RecordedSource)
    for source in found.values():
        source.close()


def test_all_mistakes_are_told_at_once_each_at_its_place(tmp_path: Path) -> None:
    document = parse_yaml(BAD, "mql.yaml")
    with pytest.raises(ConfigError) as raised:
        load_sources(document.value["sources"], tmp_path, document=document)
    text = str(raised.value)
    for wanted in (
        'mql.yaml:2:13: sources.a.kind: unknown kind "generatr". Did you mean "generator"?',
        'mql.yaml:5:14: sources.b.latenes: unknown setting "latenes". Did you mean "lateness"?',
        'mql.yaml:6:15: sources.b.lateness: "soon" is no duration; write it like 250ms, 5s, 2m, 1h, 7d',
        'mql.yaml:7:12: sources.b.shape: unknown type "BIGINTT"',
        "mql.yaml:8:6: sources.c.path: is missing",
        "mql.yaml:9:6: sources.d: no file matches",
        "mql.yaml:10:29: sources.e.path[1]: input should be a valid string",
        'mql.yaml:11:8: sources.f f: "f f" is no name',
        "mql.yaml:12:6: sources.g: must be a mapping with a kind",
        'mql.yaml:13:41: sources.h.bootstrap: unknown setting "bootstrap". Did you mean "bootstrap_servers"?',
    ):
        assert wanted in text, text
    assert len(raised.value.problems) == 10


def test_one_source_can_be_declared_alone_and_kinds_can_be_held_back(tmp_path: Path) -> None:
    source = declare("h", {"kind": "http", "buffer": "1MB"}, tmp_path)
    assert source.info.kind == "http"
    with pytest.raises(ConfigError, match='unknown kind "file"'):
        declare("f", {"kind": "file", "path": "/etc/passwd"}, tmp_path, kinds=("http", "generator"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[NO, yes, true, FALSE, null, ~]", ["NO", "yes", True, False, None, None]),
        ("[1e3, 0x10, 0o17, 010, -1, .5, 1_000]", [1000.0, 16, 15, 10, -1, 0.5, "1_000"]),
        ("[2024-01-01, 12:30:45, '1', \"true\", <<]", ["2024-01-01", "12:30:45", "1", "true", "<<"]),
        ("", {}),
    ],
)
def test_yaml_means_what_it_says(text: str, value: object) -> None:
    assert parse_yaml(text).value == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "3:1: a: stands here twice"),
        ("a: &x 1\nb: *x", "2:4: aliases are not allowed"),
        ("a: !!python/name:os.system x", "1:4: a: the tag"),
        ("a: [1, 2", "1:9: "),
        ("? [a]\n: 1", "1:3: a key must be a text"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ("#" * (257 << 10), "bigger than 256 KiB"),
    ],
)
def test_yaml_that_could_surprise_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_yaml(text)
    assert message in str(raised.value)


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
