"""Templates, run and tried in this process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from server.commands.asking import ask
from server.commands.common import CONFIG, EARLY_US, PARAM, QUIET, TIME_FIELD, exit_by, house, main, seconds_of, some
from server.commands.jobs import JOBS_AT


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
        if any("=" not in pair for pair in params):
            raise click.BadParameter("write NAME=VALUE", param_hint="-p")
        given = dict(pair.split("=", 1) for pair in params)
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


@main.group()
def template() -> None:
    """Templates that a server keeps: what its jobs are made of (mql job new NAME --template …)."""


@template.command("list")
@JOBS_AT
def list_templates(server: str) -> None:
    """List a server's templates: name, newest version, description."""

    def work() -> int:
        from server.remote import call

        for one in some(call(server, "GET", "/v1/templates")["templates"], "templates"):
            click.echo("\t".join((one["name"], str(one["version"]), one["description"] or "")).rstrip())
        return 0

    exit_by(work)


@template.command("show")
@click.argument("name")
@JOBS_AT
@click.option("--version", type=click.IntRange(1), metavar="N", help="This version [the newest].")
def show_template(name: str, server: str, version: int | None) -> None:
    """Print a template as it was put, so that it can be changed and put again."""

    def work() -> int:
        from server.remote import call

        wanted = {} if version is None else {"version": str(version)}
        click.echo(call(server, "GET", f"/v1/templates/{name}", params=wanted)["text"].rstrip())
        return 0

    exit_by(work)


@template.command("put")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@JOBS_AT
def put_template(files: Sequence[Path], server: str) -> None:
    """Give templates to a server, each as a new version where it says something new. Jobs stay of theirs."""

    def work() -> int:
        from server.remote import call
        from server.templates import read_template

        for file in files:
            path = f"/v1/templates/{read_template(file).name}"
            put = call(server, "PUT", path, file.read_bytes())
            click.echo(f"{put['name']} is kept, version {put['version']}")
            for warning in put["warnings"]:
                click.echo(f"{put['name']}: {warning}", err=True)
        return 0

    exit_by(work)


@template.command("delete")
@click.argument("name")
@JOBS_AT
def delete_template(name: str, server: str) -> None:
    """Take a template away from a server."""

    def work() -> int:
        from server.remote import call

        call(server, "DELETE", f"/v1/templates/{name}")
        return 0

    exit_by(work)
