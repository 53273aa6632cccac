"""mql.yaml: what is wrong in it is told at once, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mql.errors import MqlError
from server.settings import Server, check_reach, load_settings, read_settings
from sources.strict_yaml import ConfigError


def test_a_file_declares_limits_and_sources(tmp_path: Path) -> None:
    file = tmp_path / "mql.yaml"
    file.write_text(
        "default: orders\n"
        "server: {port: 9000, limits: {body: 2MiB, query_timeout: 5m}}\n"
        "sources:\n  orders: {kind: http, lateness: 10s}\n"
    )
    settings, (source,) = load_settings(file)
    assert (settings.server.port, settings.server.limits.body, settings.server.limits.query_timeout) == (
        9000,
        2 << 20,
        300.0,
    )
    assert source.info.lateness_us == 10_000_000


def test_an_empty_file_is_all_defaults() -> None:
    settings = read_settings("")
    assert settings.server.host == "127.0.0.1"
    assert not settings.sources


def test_every_fault_is_told_with_its_line_and_what_was_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings("server:\n  prt: 9\n  limits: {bdy: 1, queries: no}\n")
    assert str(caught.value).splitlines() == [
        "3:29: server.limits.queries: must be a whole number",
        '3:17: server.limits.bdy: unknown setting "bdy". Did you mean "body"?',
        '2:8: server.prt: unknown setting "prt". Did you mean "port"?',
    ]


def test_a_faulty_source_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "mql.yaml"
    file.write_text("sources:\n  a: {kind: htpp}\n")
    with pytest.raises(ConfigError, match=r'2:13: sources.a.kind: unknown kind "htpp". Did you mean "http"\?'):
        load_settings(file)


def test_a_default_must_be_a_source(tmp_path: Path) -> None:
    file = tmp_path / "mql.yaml"
    file.write_text("default: order\nsources: {orders: {kind: http}}\n")
    with pytest.raises(ConfigError, match=r'1:10: default: no source "order". Did you mean "orders"\?'):
        load_settings(file)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_may_be_listened_on(host: str) -> None:
    check_reach(Server(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_beyond_this_machine_is_refused_unless_it_is_meant(host: str) -> None:
    with pytest.raises(MqlError, match="will not listen"):
        check_reach(Server(host=host))
    check_reach(Server(host=host, insecure=True))
