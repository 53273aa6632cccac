"""An artifact's examples, tried in the process that its jobs have: events in, rows out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mql.errors import MqlError
from mql.exec.engine import Engine, Options, tables_of
from server import encode
from server.programs.manifest import Artifact, function_params, query_values
from server.programs.worker import Say, Worker
from server.templates import Example
from server.trying import SOURCE, Report, Tried, difference, source_of

ROUTE = "in its process"


def test_artifact(artifact: Artifact, say: Say) -> Report:
    """Runs each example and compares the rows with those that are expected. `say`: what the process printed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact.zip"
        path.write_bytes(artifact.data)
        examples = enumerate(artifact.program.examples, 1)
        return Report(tuple(Tried(at, ROUTE, problem_of(artifact, example, path, say)) for at, example in examples))


def problem_of(artifact: Artifact, example: Example, path: Path, say: Say) -> str | None:
    try:
        return difference(rows_of(artifact, example, path, say), example.expect)
    except MqlError as error:
        return str(error.in_text(artifact.program.query)) if error.span else error.message


def rows_of(artifact: Artifact, example: Example, path: Path, say: Say) -> list[dict[str, Any]]:
    program = artifact.program
    worker = Worker(program, path, function_params(program, example.params), path.with_name("process"), say)
    engine = Engine([source_of(example)], workers=1, piped=SOURCE)
    rows: list[dict[str, Any]] = []

    def drain() -> None:
        for table in worker.take():
            rows.extend(encode.rows_of(table))

    try:
        running = engine.start(program.query, query_values(program, example.params), Options(route="stream"))
        for table in tables_of(running):
            worker.give(table, drain, lambda: False)
        worker.finish(drain, lambda: False)
    finally:
        engine.close()
        worker.close()
    drain()
    return rows
