"""One server on one data directory, and on one store: who comes second is told who is there, and goes without harm."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import NullPool, create_engine, text
from support.killing import call, start, wait_until_up
from support.postgres import free_port, postgres, why_not

from mql.errors import MqlError
from server.claims import claim_directory, claimed_by
from server.cli import main
from server.keeping import Keeper
from server.settings import Settings
from server.store_claims import DatabaseClaim, claim_store

CONFIG = """
server: {port: %d}
sources:
  orders: {kind: http, record: true}
  lines: {kind: file, path: lines.ndjson, format: ndjson, follow: true}
"""


def refused(home: Path, *more: str) -> str:
    """What a server says that does not start there."""
    command = [sys.executable, "-m", "server.cli", "serve", "--config", str(home / "mql.yaml"), "--port", "0", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.timeout(120)
def test_a_second_server_is_told_who_is_there_until_that_one_is_killed(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "mql.yaml").write_text(CONFIG % port)
    (tmp_path / "lines.ndjson").write_text('{"n": 1}\n')
    first = start(tmp_path)
    wait_until_up(port, first)
    followed = tmp_path / ".mql" / "followed" / "lines.json"
    noted = followed.read_bytes(), followed.stat().st_mtime_ns
    said = refused(tmp_path)
    assert f'.mql" is in use by the server with pid {first.pid} on host {socket.gethostname()}, since 20' in said
    assert "Stop that one first, or give this one a directory of its own" in said
    assert "listening" not in said
    config = ["--config", str(tmp_path / "mql.yaml")]
    done = CliRunner().invoke(main, ["query", "SELECT * FROM orders SINCE EARLIEST UNTIL NOW", *config])
    assert (done.exit_code, f"is recorded by the server with pid {first.pid}" in done.output) == (1, True), done.output
    assert "--server" in done.output
    done = CliRunner().invoke(main, ["query", "SELECT n FROM lines SINCE EARLIEST UNTIL NOW", *config, "-o", "json"])
    assert done.exit_code == 0, done.output
    assert (followed.read_bytes(), followed.stat().st_mtime_ns) == noted
    done = CliRunner().invoke(main, ["doctor", *config])
    assert f"ok   server: it runs: the server with pid {first.pid}" in done.output
    assert "in use" not in done.output.replace("Address already in use", "")
    assert call(port, "POST", "/v1/sources/orders/events", [{"n": 1}])["accepted"] == 1
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert claimed_by(tmp_path / ".mql") is None
    second = start(tmp_path)
    wait_until_up(port, second)
    second.terminate()
    assert second.wait(30) == 0
    assert claimed_by(tmp_path / ".mql") is None


def test_of_a_claim_that_tells_nothing_it_is_told_that_it_is_there(tmp_path: Path) -> None:
    held = claim_directory(tmp_path / "data")
    who = f"the server with pid {os.getpid()} on host {socket.gethostname()}, since "
    assert str(claimed_by(tmp_path / "data")).startswith(who)
    (tmp_path / "data" / "server.lock").write_text("half of it")
    with pytest.raises(MqlError, match="is in use by another server"):
        claim_directory(tmp_path / "data")
    held.let_go()
    claim_directory(tmp_path / "data").let_go()
    assert json.loads((tmp_path / "data" / "server.lock").read_text())["pid"] == os.getpid()


def test_who_may_not_write_needs_no_claim(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    as_nobody = "os.getuid() or (os.setgid(65534), os.setuid(65534))"  # root may write anywhere
    claims = "claim_directory(Path(sys.argv[1])).let_go()"
    program = (
        f"import os, sys; from pathlib import Path; from server.claims import claim_directory; {as_nobody}; {claims}"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "data")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "data").exists()


def test_a_store_of_sqlite_is_for_one_server(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    held = claim_store(url)
    assert held is not None
    with pytest.raises(MqlError, match=f'the store "{tmp_path}/shared.db" is in use by .* pid {os.getpid()}'):
        claim_store(url)
    held.let_go()
    assert claim_store("sqlite://") is None


@pytest.mark.timeout(120)
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_store_of_postgresql_is_for_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with postgres() as url:
        (tmp_path / "mql.yaml").write_text(f"server: {{port: {port}}}\nstore: {url}\n")
        process = start(tmp_path)
        wait_until_up(port, process)
        monkeypatch.setattr("server.store_claims.WAIT_S", 0.2)
        elsewhere = Keeper(Settings(base_dir=tmp_path / "elsewhere", store=url))
        who = f'is in use by "mql pid {process.pid} on {socket.gethostname()}", which connects from 127.0.0.1'
        with pytest.raises(MqlError, match=who) as refused:
            elsewhere.claim()
        assert "a store of its own" in str(refused.value.hint)
        assert claimed_by(tmp_path / "elsewhere" / ".mql") is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        monkeypatch.setattr("server.store_claims.WAIT_S", 30.0)
        elsewhere.claim()
        assert not elsewhere.has_lost()
        elsewhere.close()


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_claim_that_its_database_has_forgotten_is_made_again_unless_another_was_first() -> None:
    with postgres() as url, closing(create_engine(url, poolclass=NullPool).connect()) as operator, ExitStack() as held:
        operator = operator.execution_options(isolation_level="AUTOCOMMIT")
        own = f"application_name LIKE 'mql pid {os.getpid()} %'"
        ends = text(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {own}")
        claim = DatabaseClaim(url, "")
        held.callback(claim.let_go)
        assert operator.execute(ends).all() == [(True,)]
        assert claim.is_held()
        assert operator.execute(ends).all() == [(True,)]
        held.callback(DatabaseClaim(url, "").let_go)
        assert not claim.is_held()
    with pytest.raises(MqlError, match="cannot be reached"):
        DatabaseClaim(url, "")
