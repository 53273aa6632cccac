"""Hints of the API, as the command line tells them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.serving import served

import server
from server.cli import main
from server.hints import REQUEST, as_commands

BASE = "http://mql.example:8642"


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("GET /v1/jobs lists them.", "mql job list lists them."),
        (
            "GET /v1/jobs/a.b-c lists its sinks with their numbers.",
            "mql job show a.b-c lists its sinks with their numbers.",
        ),
        ("Its log has what it said: GET /v1/jobs/{name}/logs.", "Its log has what it said: mql job logs NAME."),
        ("GET /v1/jobs/j/dead-letters lists them.", "mql job dead-letters j lists them."),
        ('Say "state": "discard" to begin anew.', "Say --discard to begin anew."),
        ("Or end one: DELETE /v1/queries/{id}.", f"Or end one: curl -X DELETE {BASE}/v1/queries/{{id}}."),
        ("GET /v1/sources lists them.", f"curl {BASE}/v1/sources lists them."),
        (
            "Send a token of this server's: Authorization: Bearer mql_…",
            "Say one of this server's: export MQL_TOKEN=mql_…",
        ),
        ('Did you mean "jobs"?', 'Did you mean "jobs"?'),
        (None, None),
    ],
)
def test_a_hint_says_a_command_instead_of_a_request(hint: str | None, told: str | None) -> None:
    assert as_commands(hint, BASE + "/") == told


def hints() -> Iterator[str]:
    """All texts of the server that name a request within a sentence."""
    for path in Path(server.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                yield from [node.value] if REQUEST.search(node.value) else []


def test_no_hint_tells_the_command_line_a_request() -> None:
    found = list(hints())
    assert len(found) > 10
    for hint in found:
        told = str(as_commands(hint, BASE))
        assert "mql " in told or "curl " in told, hint
        assert not REQUEST.search(told), told


def test_who_types_a_command_is_told_a_command(tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_text("name: big\nquery: SELECT * FROM orders\n")
    with served() as running:
        there = ["--server", f"http://127.0.0.1:{running.port}"]
        for command, told in (
            (["job", "show", "nope"], "mql job list"),
            (["template", "show", "nope"], "mql template list"),
            (["job", "new", "x", "--template", "nope"], "mql template list"),
            (["silence", "delete", "nope"], "mql silence list"),
        ):
            done = CliRunner().invoke(main, [*command, *there])
            assert (done.exit_code, told in done.stderr, "GET" in done.stderr) == (1, True, False), done.stderr
        said = lambda *command: CliRunner().invoke(main, ["template", *command, *there])  # noqa: E731
        assert said("put", str(file)).stdout == "big is kept, version 1\n"
        assert said("list").stdout == "big\t1\n"
        assert said("show", "big").stdout == file.read_text()
        assert (said("delete", "big").exit_code, said("list").stdout) == (0, "")
