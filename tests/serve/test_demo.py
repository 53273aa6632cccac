"""The commands of the README that lead from nothing to an alert: they are run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.killing import wait_until_up
from support.postgres import free_port
from support.waiting import wait_for

ROOT = Path(__file__).parents[2]
MQL = f"{shlex.quote(sys.executable)} -m server.cli"


def commands() -> list[str]:
    """The block of commands behind "in five commands"."""
    found = re.search(r"in five commands.*?\n\n((?:    .*\n)+)", (ROOT / "README.md").read_text())
    assert found is not None
    return [line.strip() for line in found[1].splitlines()]


@pytest.mark.timeout(120)
def test_five_commands_lead_to_an_alert_that_fires_and_is_resolved(tmp_path: Path) -> None:
    demo, activate, *rest = commands()
    assert len(rest) == 3
    assert (demo, activate) == ("make demo", ". .venv/bin/activate")
    port = free_port()
    home = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    said = tmp_path / "said.txt"
    with said.open("wb") as out:
        started = [*shlex.split(MQL), "demo", "--port", str(port)]
        server = subprocess.Popen(started, stdout=out, stderr=subprocess.STDOUT, cwd=tmp_path, env=home)
    try:
        wait_until_up(port, server)
        script = "\n".join(["set -e", *rest]).replace("8080", str(port)).replace("mql ", f"{MQL} ")
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        assert "incidents is made" in done.stdout
        assert '"phase":"open"' in done.stdout
        wait_for(lambda: "RESOLVED [critical]" in said.read_text())
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    alerts = [line for line in said.read_text().splitlines() if line.startswith(("FIRING", "RESOLVED"))]
    about = [line.split("(since")[0].partition("] ")[2].split(":")[0] for line in alerts]
    assert alerts[0].startswith("FIRING")
    assert about[0] in about[1:]
    for one in set(about):
        turns = [line.split()[0] for line, who in zip(alerts, about, strict=True) if who == one]
        assert turns[:2] == ["FIRING", "RESOLVED"][: len(turns)]
