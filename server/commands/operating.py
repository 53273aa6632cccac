"""Serving, and what who runs a server has to look after: its health, tokens, silences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from server.commands.common import CONFIG, config_path, exit_by, main, some
from server.commands.jobs import JOBS_AT

DEMO_PORT = 8080


@main.command()
@CONFIG
def doctor(config: Path | None) -> None:
    """Look whether all is as it must be: versions, configuration, disk, store, port, sources. Exit code 1 if not."""

    def work() -> int:
        from server.doctor import examine

        sick = 0
        for finding in examine(config_path(config)):
            sick += finding.remedy is not None
            click.echo(f"{'ok  ' if finding.remedy is None else 'LOOK'} {finding.what}: {finding.detail}")
            if finding.remedy is not None:
                click.echo(f"     {finding.remedy}")
        return 1 if sick else 0

    exit_by(work)


@main.group()
def token() -> None:
    """Say who may call a server: from the first token on nobody gets in without. Yours is in MQL_TOKEN."""


@token.command("new")
@click.argument("name")
@JOBS_AT
@click.option("--scope", type=click.Choice(("read", "write", "admin")), default="read", show_default=True)
@click.option("--expires", metavar="MOMENT", help="From when on it is not taken any more: 2027-01-31T00:00:00Z.")
@click.option("--queries", type=click.IntRange(0), metavar="N", help="So many queries at the same time.")
@click.option("--requests", type=click.IntRange(1), metavar="N", help="So many requests a minute.")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="What it may read: requests, job.* [all].")
@click.option("--hide", multiple=True, metavar="SOURCE:PATH", help="A property that it may not read.")
@click.option("--mask", multiple=True, metavar="SOURCE:PATH=KIND", help="One that it gets as null, hash or partial.")
@click.option("--comment", default="", help="For people.")
def new_token(
    name: str,
    server: str,
    scope: str,
    expires: str | None,
    queries: int | None,
    requests: int | None,
    sources: Sequence[str],
    hide: Sequence[str],
    mask: Sequence[str],
    comment: str,
) -> None:
    """Make a token, and print it: it is not told again. The first must be an admin's."""
    quotas = {name: most for name, most in (("queries", queries), ("requests", requests)) if most is not None}
    said: dict[str, Any] = {"name": name, "scope": scope, "expires": expires, "quotas": quotas, "comment": comment}
    hidden: dict[str, list[str]] = {}
    for pair in hide:
        source, colon, path = pair.partition(":")
        if not (source and colon and path):
            raise click.BadParameter(f'"{pair}" is not SOURCE:PATH', param_hint="--hide")
        hidden.setdefault(source, []).append(path)
    masked: dict[str, dict[str, str]] = {}
    for text in mask:
        source, colon, rest = text.partition(":")
        path, equals, kind = rest.rpartition("=")
        if not (source and colon and path and equals and kind):
            raise click.BadParameter(f'"{text}" is not SOURCE:PATH=KIND', param_hint="--mask")
        masked.setdefault(source, {})[path] = kind
    said |= {"sources": list(sources) or None, "hide": hidden, "mask": masked}

    def work() -> int:
        from server.remote import call

        click.echo(call(server, "POST", "/v1/tokens", said)["token"])
        return 0

    exit_by(work)


@token.command("list")
@JOBS_AT
def list_tokens(server: str) -> None:
    """List the tokens of a server: name, scope, until when, comment."""

    def work() -> int:
        from server.remote import call

        none = "tokens: whoever reaches the server may do everything"
        for one in some(call(server, "GET", "/v1/tokens")["tokens"], none):
            click.echo("\t".join((one["name"], one["scope"], one["expires"] or "", one["comment"])).rstrip())
        return 0

    exit_by(work)


@token.command("delete")
@click.argument("name")
@JOBS_AT
def delete_token(name: str, server: str) -> None:
    """Take a token away: nobody gets in with it any more."""

    def work() -> int:
        from server.remote import call

        call(server, "DELETE", f"/v1/tokens/{name}")
        return 0

    exit_by(work)


@main.command()
@JOBS_AT
@click.option("-n", "count", default=100, show_default=True, type=click.IntRange(1, 1_000), help="The newest N.")
def changes(server: str, count: int) -> None:
    """Tell who changed what on a server, the newest first: templates, jobs, silences, tokens."""

    def work() -> int:
        from datetime import UTC, datetime

        from server.remote import call

        for one in some(call(server, "GET", "/v1/changes", params={"n": str(count)})["changes"], "changes"):
            at = datetime.fromtimestamp(one["at_us"] / 1e6, UTC).isoformat(timespec="milliseconds")
            click.echo(f"{at}\t{one['who'] or '-'}\t{one['kind']} {one['name']}: {one['action']}")
        return 0

    exit_by(work)


@main.group()
def silence() -> None:
    """Say when, and about what, a server's jobs are to wake nobody; episodes are recorded none the less."""


@silence.command("list")
@JOBS_AT
@click.option("--job", metavar="NAME", help="Only those about this job.")
def list_silences(server: str, job: str | None) -> None:
    """List silences: name, whether it is on, when, and about what."""

    def work() -> int:
        from server.job_sheet import span
        from server.remote import call

        wanted: dict[str, str] = {} if job is None else {"job": job}
        for one in some(call(server, "GET", "/v1/silences", params=wanted)["silences"], "silences"):
            when = f"{one['starts'] or ''} .. {one['ends'] or ''}"
            if one["every"]:
                when = f"{', '.join(one['every'])} at {one['at']} {one['timezone']} for {span(one['for'])}"
            about = [
                *one["jobs"],
                *(f"{key}={value}" for part in ("labels", "keys") for key, value in one[part].items()),
            ]
            told = [one["name"], "on" if one["holds"] else "off", when, " ".join(about), one["comment"]]
            click.echo("\t".join(told).rstrip())
        return 0

    exit_by(work)


@silence.command("new")
@click.argument("name")
@JOBS_AT
@click.option("--job", "jobs", multiple=True, metavar="PATTERN", help="Jobs it is about; * for any part [all].")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only jobs with this label.")
@click.option("--key", "keys", multiple=True, metavar="COLUMN=PATTERN", help="Only rows with this value.")
@click.option("--starts", metavar="TIME", help="2026-01-31T02:00:00Z [now].")
@click.option("--ends", metavar="TIME", help="Until when.")
@click.option("--for", "lasts", metavar="TIME", help="For how long: 2h, 90m.")
@click.option("--every", multiple=True, metavar="DAY", help="day, or mon … sun: a maintenance window that comes again.")
@click.option("--at", metavar="HH:MM", help="When it begins on such a day.")
@click.option("--timezone", metavar="ZONE", help="Whose clock [UTC].")
@click.option("--comment", default="", help="Why.")
def new_silence(
    name: str, server: str, jobs: Sequence[str], labels: Sequence[str], keys: Sequence[str], **said: Any
) -> None:
    """Make a silence, or with --every a maintenance window."""
    body: dict[str, Any] = {"name": name, "labels": pairs_of(labels, "--label"), "keys": pairs_of(keys, "--key")}
    body |= {"jobs": list(jobs)} if jobs else {}
    said["for"] = said.pop("lasts")
    body |= {key: list(value) if isinstance(value, tuple) else value for key, value in said.items() if value}

    def work() -> int:
        from server.remote import call

        made = call(server, "POST", "/v1/silences", body)
        click.echo(f"{name} is made, and {'on' if made['holds'] else 'not on'} now")
        return 0

    exit_by(work)


@silence.command("delete")
@click.argument("name")
@JOBS_AT
def delete_silence(name: str, server: str) -> None:
    """Take a silence away."""

    def work() -> int:
        from server.remote import call

        call(server, "DELETE", f"/v1/silences/{name}")
        return 0

    exit_by(work)


def pairs_of(pairs: Sequence[str], option: str) -> dict[str, str]:
    """`name=value`, as texts."""
    if any("=" not in pair for pair in pairs):
        raise click.BadParameter("write NAME=VALUE", param_hint=option)
    return dict(pair.split("=", 1) for pair in pairs)


@main.command()
@CONFIG
@click.option("--host", help="The address to listen on [127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="The port [8642].")
@click.option("--workers", type=click.IntRange(1, 64), help="Threads that run queries [2].")
def serve(config: Path | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the declared sources over HTTP, until SIGTERM or Ctrl+C."""

    def work() -> int:
        from server.app import serve as serve_settings
        from server.settings import Settings, read_config

        found = config_path(config)
        settings, document = (Settings(), None) if found is None else read_config(found)
        told = {"host": host, "port": port, "workers": workers}
        changes = {name: value for name, value in told.items() if value is not None}
        server = settings.server.model_copy(update=changes)
        log_to_stderr()
        serve_settings(settings.model_copy(update={"server": server}), document)
        return 0

    exit_by(work)


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=DEMO_PORT, show_default=True, help="The port.")
@click.option(
    "--rate", type=click.FloatRange(1, 1_000_000), default=1_000, show_default=True, help="Events a second, of each."
)
def demo(port: int, rate: float) -> None:
    """A server with made-up events to play with: `requests` of a video service, `bids` of an auction site."""

    def work() -> int:
        from server.demonstration import run_demo

        return run_demo(port, rate)

    exit_by(work)


def log_to_stderr() -> None:
    import logging

    from server.seldom import Seldom

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom())
