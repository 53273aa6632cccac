"""Artifacts of Python jobs: packed, tried, sent to a server."""

from __future__ import annotations

from pathlib import Path

import click

from server.commands.common import exit_by, main, some
from server.commands.jobs import JOBS_AT

FOLDER = click.argument("folder", type=click.Path(exists=True, path_type=Path))


@main.group()
def artifact() -> None:
    """Python jobs: a directory (or zip) with job.yaml and a module of your own."""


@artifact.command("test")
@FOLDER
def try_it(folder: Path) -> None:
    """Try an artifact by its own examples, in a process as its jobs have."""

    def work() -> int:
        from server.programs.manifest import read_artifact
        from server.programs.trying import test_artifact

        report = test_artifact(read_artifact(zipped(folder)), lambda _, line: click.echo(f"  {line}", err=True))
        for line in report.lines():
            click.echo(f"{folder}: {line}", err=True)
        click.echo(f"{folder}: {sum(one.problem is None for one in report.tried)} of {len(report.tried)} good")
        return 0 if report.good else 1

    exit_by(work)


@artifact.command()
@FOLDER
@click.argument("version")
@JOBS_AT
def push(folder: Path, version: str, server: str) -> None:
    """Send an artifact to a server, as that version."""

    def work() -> int:
        from server.programs.manifest import read_artifact
        from server.remote import call

        data = zipped(folder)
        name = read_artifact(data).program.name
        told = call(server, "PUT", f"/v1/artifacts/{name}/{version}", data)
        click.echo(f"{told['name']} {told['version']} is there ({told['digest'][:12]})")
        return 0

    exit_by(work)


@artifact.command("list")
@JOBS_AT
def list_all(server: str) -> None:
    """List a server's artifacts and their versions."""

    def work() -> int:
        from server.remote import call

        for one in some(call(server, "GET", "/v1/artifacts")["artifacts"], "artifacts"):
            click.echo(f"{one['name']:<30} {', '.join(one['versions']):<30} {one['description']}")
        return 0

    exit_by(work)


@artifact.command()
@click.argument("name")
@click.argument("version")
@JOBS_AT
def delete(name: str, version: str, server: str) -> None:
    """Take a version away from a server."""

    def work() -> int:
        from server.remote import call

        call(server, "DELETE", f"/v1/artifacts/{name}/{version}")
        return 0

    exit_by(work)


@artifact.command()
@click.argument("name")
@click.option("--as", "job", metavar="JOB", help="What the job is called [a made-up name].")
@click.option("--version", help="Which version [the last that was added].")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A value for a parameter.")
@JOBS_AT
def start(name: str, job: str | None, version: str | None, params: tuple[str, ...], server: str) -> None:
    """Make a job of an artifact, and start it."""

    def work() -> int:
        from server.commands.common import params_of
        from server.remote import call

        said = (
            {"params": params_of(params)} | ({"name": job} if job else {}) | ({"version": version} if version else {})
        )
        for one in call(server, "POST", f"/v1/artifacts/{name}/jobs", said)["jobs"]:
            click.echo(f"{one['name']} is {one['state']}")
        return 0

    exit_by(work)


def zipped(folder: Path) -> bytes:
    from server.programs.manifest import packed

    return packed(folder) if folder.is_dir() else folder.read_bytes()
