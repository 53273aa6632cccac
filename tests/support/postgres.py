"""A PostgreSQL of the test's own: Debian's programs, a fresh directory, a free port of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 60.0
DEBIAN = "/usr/lib/postgresql"


def programs() -> Path | None:
    """Where initdb and postgres are; None where they are not installed."""
    found = sorted(Path(DEBIAN).glob("*/bin")) if Path(DEBIAN).is_dir() else []
    for place in reversed(found):
        if (place / "initdb").exists():
            return place
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).parent


def why_not() -> str | None:
    """Why there is none here, and what to do about it."""
    if programs() is None:
        return "no PostgreSQL here: apt-get install postgresql, or MQL_TEST_POSTGRES=postgresql+psycopg://…"
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL refuses to run as root, and there is no setpriv to become another user"
    return None


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database, for as long as it is needed."""
    given = os.environ.get("MQL_TEST_POSTGRES")
    if given:
        yield given
        return
    at = programs()
    assert at is not None
    home = Path(tempfile.mkdtemp(prefix="mql-postgres-"))
    as_user: list[str] = []
    if os.getuid() == 0:
        os.chown(home, 65534, 65534)
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    data = home / "data"
    port = free_port()
    made = [
        *as_user,
        str(at / "initdb"),
        "-D",
        str(data),
        "-U",
        "mql",
        "-A",
        "trust",
        "-N",
        "--no-locale",
        "-E",
        "UTF8",
    ]
    subprocess.run(made, check=True, capture_output=True, cwd=home)
    started = [*as_user, str(at / "postgres"), "-D", str(data), "-p", str(port), "-k", str(home), "-h", "127.0.0.1"]
    server = subprocess.Popen([*started, "-F"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home)
    try:
        wait_for(port)
        yield f"postgresql+psycopg://mql@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(WAIT_S)
        shutil.rmtree(home, ignore_errors=True)


def wait_for(port: int) -> None:
    """Until it answers: it listens some time before."""
    import psycopg

    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="mql", dbname="postgres", connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise AssertionError("PostgreSQL did not come up")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
