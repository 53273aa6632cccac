"""`mql doctor`: what is well, what is not, and what would mend it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli import main
from server.store import open_store


def told(home: Path, text: str) -> tuple[int, str]:
    path = home / "mql.yaml"
    path.write_text(text)
    done = CliRunner().invoke(main, ["doctor", "--config", str(path)])
    return done.exit_code, done.output


def test_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.doctor.FREE_LEAST_BYTES", 0)
    (tmp_path / "a.ndjson").write_text('{"n": 1}\n')
    code, text = told(tmp_path, "server: {port: 0}\nsources:\n  a: {kind: file, path: a.ndjson}\n")
    assert code == 0, text
    assert "ok   source a: file: events are there" in text
    assert "LOOK" not in text
    assert not (tmp_path / ".mql").exists(), "it looks only"


def test_what_is_wrong_is_told_with_its_remedy(tmp_path: Path) -> None:
    store = open_store(None, tmp_path / ".mql")
    store.add_job("j", {"query": "SELECT 1"}, "failed")
    store.close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = told(tmp_path, f"server: {{port: {taken.getsockname()[1]}}}\n")
    assert code == 1
    assert "failed: j" in text
    assert "mql job logs j tells why" in text
    assert "LOOK port" in text


def test_a_wrong_configuration_is_the_first_thing_to_mend(tmp_path: Path) -> None:
    code, text = told(tmp_path, "servr: {}\n")
    assert code == 1
    assert 'unknown setting "servr"' in text
    assert "LOOK configuration" in text
    code, text = told(tmp_path, "server: {host: 0.0.0.0}\n")
    assert code == 1
    assert "tokens: true" in text
