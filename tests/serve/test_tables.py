"""The grammar's tables, kept between two processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ASK = "from server.local import parse_in; print(parse_in('select a from b').sources[0].name)"


def asked(cache: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK], env={**os.environ, "XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_tables_are_kept_for_the_next_process_and_for_nobody_else(tmp_path: Path) -> None:
    assert asked(tmp_path) == "b"
    (file,) = (tmp_path / "mql").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    written = file.stat().st_mtime_ns
    assert asked(tmp_path) == "b"
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("harm", ["garbage", "shared", "no folder"])
def test_without_a_cache_that_is_ours_the_tables_are_built(tmp_path: Path, harm: str) -> None:
    if harm == "no folder":
        (tmp_path / "mql").write_text("in the way")
        assert asked(tmp_path) == "b"
        return
    assert asked(tmp_path) == "b"
    (file,) = (tmp_path / "mql").iterdir()
    if harm == "garbage":
        file.write_bytes(b"garbage")
    else:
        file.chmod(0o666)
    assert asked(tmp_path) == "b"
