"""Templates, run and tried in this process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from server.commands.asking import ask
from server.commands.common import CONFIG, EARLY_US, PARAM, QUIET, TIME_FIELD, exit_by, house, main, seconds_of


@main.command()
@click.argument("template", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@PARAM
@CONFIG
@TIME_FIELD
@click.option("--limit", type=click.IntRange(1), help="End after so many rows.")
@click.option("--timeout", callback=seconds_of, metavar="TIME", help="End after so long, with exit code 4.")
@click.option("-o", "--output", type=click.Choice(("table", "ndjson", "csv", "json")), help="As for query.")
@QUIET
def run(
    template: Path,
    params: Sequence[str],
    config: Path | None,
    time_field: str | None,
    limit: int | None,
    timeout: float | None,
    output: str | None,
    quiet: bool,
) -> None:
    """Answer a template's query, its parameters given by -p NAME=VALUE, in this process."""
    form = output or ("table" if sys.stdout.isatty() else "ndjson")

    def work() -> int:
        from server.answering import Talk, follow, sheet_for
        from server.templates import read_template, said_as_text, values_of

        found = read_template(template)
        given = dict(pair.split("=", 1) for pair in params if "=" in pair)
        values = values_of(found, said_as_text(found, given))
        early_us = EARLY_US if form == "table" else None
        answer = ask(found.query, values, None, house(config, time_field), limit, timeout, early_us)
        return follow(answer, sheet_for(form, sys.stdout.buffer), Talk(quiet))

    exit_by(work)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def test(files: Sequence[Path]) -> None:
    """Try templates by their own examples: streamed by one task and by several, restored, and in one statement."""

    def work() -> int:
        from server.templates import read_template
        from server.trying import test_template

        code = 0
        for file in files:
            report = test_template(read_template(file))
            for line in report.lines():
                click.echo(f"{file}: {line}", err=True)
            click.echo(f"{file}: {sum(one.problem is None for one in report.tried)} of {len(report.tried)} good")
            code = code if report.good else 1
        return code

    exit_by(work)


@main.command()
@click.argument("what", type=click.Choice(("template",)))
def schema(what: str) -> None:
    """The JSON Schema of a file, for editors."""
    import json

    from server.templates import schema as schema_of_template

    click.echo(json.dumps(schema_of_template(), indent=2))
