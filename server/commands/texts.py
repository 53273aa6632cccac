"""What may be known of a query's text without its answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from server.commands.common import CONFIG, PARAM, config_path, exit_by, house, main, params_of, query_text, with_query

FORMS = ("plan", "logical", "physical", "sql", "estimate")


@main.command()
@with_query
@click.option("--form", type=click.Choice(FORMS), default="plan", show_default=True, help="Which form of the query.")
def explain(
    text: str | None,
    file: Any,
    params: Sequence[str],
    config: Path | None,
    server: str | None,
    time_field: str | None,
    form: str,
) -> None:
    """Show how a query would be answered, without answering it."""
    written = query_text(text, file)

    def work() -> int:
        given = params_of(params)
        if server is not None:
            from server.remote import call

            told = call(server, "POST", "/v1/queries:explain", {"query": written, "params": given}, {"form": form})
            click.echo(told["text"])
            return 0
        from server.local import engine_for

        engine = engine_for(house(config, time_field, file), written, given)
        try:
            click.echo(engine.explain(written, given, form))
        finally:
            engine.close()
        return 0

    exit_by(work)


@main.command()
@with_query
@click.option("--event", required=True, metavar="JSON", help="The event, as it would come.")
@click.option("--source", metavar="NAME", help="Which of the query's sources it is of [the first].")
def why(
    text: str | None,
    file: Any,
    params: Sequence[str],
    config: Path | None,
    server: str | None,
    time_field: str | None,
    event: str,
    source: str | None,
) -> None:
    """Tell why an event would be among a query's, or what keeps it out. Exit code 1 where it is kept out."""
    written = query_text(text, file)

    def work() -> int:
        given = params_of(params)
        if server is not None:
            from server.remote import call

            asked = {"query": written, "params": given, "event": event, "source": source}
            found = call(server, "POST", "/v1/queries:why", asked, {})
        else:
            from server.local import engine_for

            engine = engine_for(house(config, time_field, file), written, given)
            try:
                found = engine.why(written, event.encode(), given, source)
            finally:
                engine.close()
        signs = {True: "yes", False: "NO", None: "?"}
        for step in found["steps"]:
            click.echo(f"{signs[step['ok']]:<4} {step['step']:<9} {step['detail']}")
        click.echo({True: "kept", False: "kept out", None: "can't be told"}[found["kept"]] + f": {found['reason']}")
        return 1 if found["kept"] is False else 0

    exit_by(work)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@CONFIG
@PARAM
def check(files: Sequence[Path], config: Path | None, params: Sequence[str]) -> None:
    """Check queries (.mql), configurations and templates (.yaml) without running them: file:line:column: what is wrong.

    Names in a query are looked up where its source is declared and its shape is known; else its grammar is checked.
    """

    def work() -> int:
        from server.checking import check_files

        problems = check_files(files, config_path(config), params_of(params))
        for problem in problems:
            click.echo(problem, err=True)
        return 1 if problems else 0

    exit_by(work)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True, path_type=Path))
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 where a file would change.")
def fmt(files: Sequence[Path], only_check: bool) -> None:
    """Bring queries into one canonical form, in place; - reads standard input and writes standard output."""

    def work() -> int:
        from server.formatting import format_files

        return format_files(files, only_check)

    exit_by(work)
