"""The client of a schema registry, against one that speaks HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.schema_registry import SchemaRegistry, schema_registry

from mql.errors import MqlError
from mql.exec.clock import ManualClock
from sources.formats.registry import Registered, Registry, RegistrySettings, Unknown
from sources.formats.values import Unavailable
from sources.reach import Reach


@pytest.fixture
def running() -> Iterator[SchemaRegistry]:
    with schema_registry() as made:
        yield made


def test_a_schema_is_asked_for_once(running: SchemaRegistry) -> None:
    number = running.add("s", '"string"')
    registry = Registry(RegistrySettings(running.url))
    assert registry.schema(number) == registry.schema(number) == Registered("AVRO", '"string"')
    assert running.asked == [f"/schemas/ids/{number}"]


def test_the_newest_of_a_subject_is_asked_for_again_after_a_while(running: SchemaRegistry) -> None:
    clock = ManualClock()
    registry = Registry(RegistrySettings(running.url), clock)
    one = running.add("a/b c", '"string"')
    assert registry.latest("a/b c") == one
    two = running.add("a/b c", '"long"')
    assert registry.latest("a/b c") == one
    clock.advance(31_000_000)
    assert registry.latest("a/b c") == two
    assert registry.schema(two).text == '"long"'
    assert len(running.asked) == 2


def test_references_come_before_what_names_them(running: SchemaRegistry) -> None:
    running.add("in", "inner", "PROTOBUF")
    running.add("mid", "middle", "PROTOBUF", [{"name": "in.proto", "subject": "in", "version": 1}])
    number = running.add(
        "out",
        "outer",
        "PROTOBUF",
        [{"name": "mid.proto", "subject": "mid", "version": 1}, {"name": "in.proto", "subject": "in", "version": 1}],
    )
    found = Registry(RegistrySettings(running.url)).schema(number)
    assert found == Registered("PROTOBUF", "outer", (("in.proto", "inner"), ("mid.proto", "middle")))


def test_schemas_that_refer_to_each_other_come_to_an_end(running: SchemaRegistry) -> None:
    running.add("a", "a", "PROTOBUF", [{"name": "b", "subject": "b", "version": 1}])
    number = running.add("b", "b", "PROTOBUF", [{"name": "a", "subject": "a", "version": 1}])
    assert [name for name, _ in Registry(RegistrySettings(running.url)).schema(number).references] == ["b", "a"]


def test_what_is_not_there_is_not_asked_for_again_and_again(running: SchemaRegistry) -> None:
    clock = ManualClock()
    registry = Registry(RegistrySettings(running.url), clock)
    for _ in range(3):
        with pytest.raises(Unknown, match="schema 7 is not in the schema registry"):
            registry.schema(7)
    assert len(running.asked) == 1
    running.add("late", '"string"', id=7)
    clock.advance(31_000_000)
    assert registry.schema(7).text == '"string"'


def test_one_that_is_away_is_left_alone_longer_each_time(running: SchemaRegistry) -> None:
    clock = ManualClock()
    registry = Registry(RegistrySettings(running.url), clock)
    running.add("s", '"string"')
    running.status = 500
    for wait_s in (0.5, 1.0, 2.0):
        asked = len(running.asked)
        for _ in range(3):
            with pytest.raises(Unavailable, match="answered 500"):
                registry.schema(1)
        assert len(running.asked) == asked + 1
        clock.advance(round(wait_s * 1e6))
    running.status = None
    assert registry.schema(1).text == '"string"'


def test_the_next_address_is_tried_where_one_is_away(running: SchemaRegistry) -> None:
    running.add("s", '"string"')
    registry = Registry(RegistrySettings(f"http://127.0.0.1:1, {running.url}", timeout_s=2))
    assert registry.schema(1).text == '"string"'


def test_it_lets_itself_in(running: SchemaRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    running.login = ("ann", "s3cret")
    running.add("s", '"string"')
    settings = RegistrySettings(running.url, username="ann", password_env="REGISTRY_PASSWORD")
    clock = ManualClock()
    registry = Registry(settings, clock)
    with pytest.raises(Unavailable, match="REGISTRY_PASSWORD is not set"):
        registry.schema(1)
    monkeypatch.setenv("REGISTRY_PASSWORD", "wrong")
    clock.advance(60_000_000)
    with pytest.raises(Unavailable, match="answered 401") as refused:
        registry.schema(1)
    assert "wrong" not in str(refused.value)
    monkeypatch.setenv("REGISTRY_PASSWORD", "s3cret")
    clock.advance(60_000_000)
    assert registry.schema(1).text == '"string"'
    assert "s3cret" not in repr(RegistrySettings("http://x", "ann", "s3cret"))


def test_addresses_of_others_are_dialled_where_the_operator_allows(running: SchemaRegistry) -> None:
    running.add("s", json.dumps("string"))
    for reach in (Reach(plain=True), Reach(("10.0.0.0/8",), plain=True)):
        with pytest.raises(Unavailable, match="may be dialled"):
            Registry(RegistrySettings(running.url, reach=reach)).schema(1)
    assert running.asked == []
    allowed = Reach(("127.0.0.0/8",), plain=True)
    assert Registry(RegistrySettings(running.url, reach=allowed)).schema(1).text == '"string"'


@pytest.mark.parametrize(
    "settings",
    [
        RegistrySettings(" , "),
        RegistrySettings("registry:8081"),
        RegistrySettings("ftp://registry"),
        RegistrySettings("https://ann:pw@registry"),
        RegistrySettings("http://[::"),
        RegistrySettings("https://registry?x=1"),
        RegistrySettings("http://registry", reach=Reach()),
        RegistrySettings("https://registry", username="ann"),
        RegistrySettings("https://registry", password="x"),
        RegistrySettings("https://registry", username="ann", password="x", token_env="T"),
        RegistrySettings("https://registry", ca_file="/no/such/file"),
    ],
    ids=lambda given: given.url,
)
def test_settings_that_cannot_be_meant_are_refused(settings: RegistrySettings) -> None:
    with pytest.raises(MqlError):
        Registry(settings)
