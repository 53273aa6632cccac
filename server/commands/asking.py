"""Asking a query, of files, pipes, declared sources or a server."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.commands.common import (
    EARLY_US,
    QUIET,
    SINCE,
    UNTIL,
    exit_by,
    house,
    main,
    params_of,
    query_text,
    seconds_of,
    with_bounds,
    with_house,
    with_query,
)

if TYPE_CHECKING:
    from server.answering import Answer
    from server.local import House

OUTPUTS = ("table", "ndjson", "csv", "json", "parquet", "arrow")


@main.command()
@with_query
@SINCE
@UNTIL
@click.option("--limit", type=click.IntRange(1), help="End after so many rows.")
@click.option("--timeout", callback=seconds_of, metavar="TIME", help="End after so long, with exit code 4.")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), help="The format [table on a terminal, else ndjson].")
@click.option("--stats", is_flag=True, help="Tell each second what became of the events.")
@QUIET
def query(
    text: str | None,
    file: Any,
    params: Sequence[str],
    config: Path | None,
    server: str | None,
    time_field: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    timeout: float | None,
    output: str | None,
    stats: bool,
    quiet: bool,
) -> None:
    """Answer a query: over files, over what is piped in, over declared sources, or on a server.

    FROM names a declared source, a file or a pattern in quotes ('logs/*.parquet'), or stdin. While something is piped
    in, any name that is not declared means that. A redirected file ends by itself; a pipe is live.
    """
    written = query_text(text, file)
    form = output or ("table" if sys.stdout.isatty() else "ndjson")
    if form in ("parquet", "arrow") and sys.stdout.isatty():
        raise click.UsageError(f"{form} is nothing for a terminal: mql query … -o {form} > rows.{form}")

    def work() -> int:
        from server.answering import Talk, follow, sheet_for

        asked = with_bounds(written, since, until)
        early_us = EARLY_US if form == "table" else None
        place = None if server is not None else house(config, time_field, file)
        answer = ask(asked, params_of(params), server, place, limit, timeout, early_us)
        return follow(answer, sheet_for(form, sys.stdout.buffer), Talk(quiet, stats))

    exit_by(work)


def ask(
    text: str,
    params: Mapping[str, Any],
    server: str | None,
    place: House | None,
    limit: int | None = None,
    timeout: float | None = None,
    early_us: int | None = None,
) -> Answer:
    """The query, begun: on the server, or in this process over what the house holds."""
    if server is not None:
        from server.remote import RemoteAnswer

        said = {"query": text, "params": params, "max_rows": limit, "timeout": timeout}
        if early_us is not None:
            said["early"] = early_us / 1e6
        return RemoteAnswer(server, {name: value for name, value in said.items() if value is not None})
    from mql.exec.engine import Options
    from server.local import LocalAnswer, engine_for

    assert place is not None
    options = Options(max_rows=limit, timeout_s=timeout, early_us=early_us)
    return LocalAnswer(engine_for(place, text, params), text, params, options)


@main.command()
@with_query
@SINCE
@UNTIL
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file: .parquet .csv .json .ndjson .arrow",
)
@click.option("-o", "--output", type=click.Choice(OUTPUTS[1:]), help="The format [by the file's ending].")
@QUIET
def replay(
    text: str | None,
    file: Any,
    params: Sequence[str],
    config: Path | None,
    server: str | None,
    time_field: str | None,
    since: str | None,
    until: str | None,
    out: Path,
    output: str | None,
    quiet: bool,
) -> None:
    """Answer a query over stored events into a file. The file appears once it is whole."""
    written = query_text(text, file)

    def work() -> int:
        from server.answering import Talk, follow_into

        asked = with_bounds(written, since, until, must_end=True)
        place = None if server is not None else house(config, time_field, file)
        return follow_into(out, output, ask(asked, params_of(params), server, place), Talk(quiet))

    exit_by(work)


@main.command()
@click.argument("source")
@with_house
@click.option(
    "-n", "lines", default=20, show_default=True, type=click.IntRange(0), help="Begin with the last N events."
)
@SINCE
@click.option("-e", "--end", "ends", is_flag=True, help="End where the events end now, instead of waiting for more.")
def tail(
    source: str,
    config: Path | None,
    server: str | None,
    time_field: str | None,
    lines: int,
    since: str | None,
    ends: bool,
) -> None:
    """Show a source's events as they came, before any query: one JSON text a line."""

    def work() -> int:
        from server.tailing import tail_local, tail_remote

        if server is not None:
            return tail_remote(server, source, lines, since, ends)
        return tail_local(house(config, time_field), source, lines, since, ends)

    exit_by(work)


@main.command()
@with_query
@SINCE
@UNTIL
@click.option("--job", metavar="NAME", help="Try this job of the server instead of a query.")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="When something was wrong: CSV, JSON lines or a JSON array with start, end and, where known, keys.",
)
@click.option("--timeout", callback=seconds_of, metavar="TIME", help="Give up after so long.")
@click.option("-o", "--output", type=click.Choice(("text", "json")), default="text", show_default=True)
def backtest(
    text: str | None,
    file: Any,
    params: Sequence[str],
    config: Path | None,
    server: str | None,
    time_field: str | None,
    since: str | None,
    until: str | None,
    job: str | None,
    labels: Path | None,
    timeout: float | None,
    output: str,
) -> None:
    """Tell what a query's ANOMALY clause would have alerted of: how often, how late, about what, and how rightly."""
    if job is not None and (text is not None or file is not None or params):
        raise click.UsageError("A job has its query; leave it out, or --job.")
    if job is not None and server is None:
        raise click.UsageError("Say which server's job: --server URL.")
    written = "" if job is not None else query_text(text, file)
    given = params_of(params)

    def work() -> int:
        from server.backtesting import labels_in, lines_of

        known = None if labels is None else labels_in(labels)
        if server is not None:
            from server.remote import call

            said: dict[str, Any] = {"since": since, "until": until, "labels": known, "timeout": timeout}
            said |= {} if job is not None else {"query": written, "params": given}
            path = f"/v1/jobs/{job}:backtest" if job is not None else "/v1/queries:backtest"
            told = call(server, "POST", path, {name: value for name, value in said.items() if value is not None})
        else:
            told = tried_here(written, given, house(config, time_field, file), since, until, known, timeout)
        if output == "json":
            import json

            click.echo(json.dumps(told, indent=2))
            return 0
        for line in lines_of(told):
            click.echo(line)
        return 0

    exit_by(work)


def tried_here(
    text: str,
    params: Mapping[str, Any],
    place: House,
    since: str | None,
    until: str | None,
    labels: Any,
    timeout: float | None,
) -> Mapping[str, Any]:
    """The backtest in this process."""
    from mql.exec.trials import labels_of
    from server.local import engine_for

    engine = engine_for(place, text, params)
    try:
        known = None if labels is None else labels_of(labels)
        return engine.backtest(text, params, since=since, until=until, labels=known, timeout_s=timeout)
    finally:
        engine.close()
