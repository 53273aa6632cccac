"""Jobs of a server: made, looked at, changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.commands.common import FILE, PARAM, TEXT, Command, exit_by, main, params_of, query_text, some

if TYPE_CHECKING:
    from server.job_sheet import Looked

JOBS_AT = click.option(
    "--server", envvar="MQL_SERVER", default="http://127.0.0.1:8642", metavar="URL", help="The server [this machine's]."
)
ACTIONS = ("start", "stop", "pause", "resume", "restart", "delete")
KINDS = ("unreadable", "late", "refused")
FOLLOW_S = 1.0


def form_of(*forms: str) -> Callable[[Command], Command]:
    """How it is written: for a person, who is at a terminal, or for programs."""
    told = f"The form [{forms[0]} on a terminal, else {forms[-1]}]."
    return click.option("-o", "--output", "--format", "output", type=click.Choice(forms), help=told)


VIEWS = ("ledger", "metrics", "topology", "checkpoints", "runs", "late")


def with_life(command: Command) -> Command:
    """What may be said of a job's life."""
    options = (
        click.option("--schedule", metavar="CRON", help='When it is started: "0 2 * * *".'),
        click.option("--timezone", metavar="ZONE", help="Whose clock the schedule means [UTC]."),
        click.option(
            "--policy",
            type=click.Choice(("keep_existing", "keep_new")),
            help="What becomes of a run that is still there when the next is due [keep_existing].",
        ),
        click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label."),
        click.option("--owner", metavar="WHO", help="Whom to ask about it."),
        click.option("--transient", metavar="TIME", help="End it so long after its last reader has left: 30s."),
        click.option("--runtime", metavar="TIME", help="End each of its runs after so long."),
        click.option("--rows-per-s", type=float, metavar="N", help="Tell no more rows a second than that."),
        click.option("--expect-events", metavar="TIME", help="Tell when no event comes for so long: 5m."),
        click.option("--expect-rows", metavar="TIME", help="Tell when it tells no row for so long."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def life_of(
    schedule: str | None,
    timezone: str | None,
    policy: str | None,
    labels: Sequence[str],
    owner: str | None,
    transient: str | None,
    runtime: str | None,
    rows_per_s: float | None,
    expect_events: str | None,
    expect_rows: str | None,
) -> dict[str, Any]:
    """The options as the API takes them; what was not said is left out."""
    if schedule is None and (timezone or policy):
        raise click.UsageError("Say when: --schedule CRON.")
    parts: dict[str, dict[str, Any]] = {
        "schedule": {"cron": schedule, "timezone": timezone, "policy": policy},
        "limits": {"runtime": runtime, "rows_per_s": rows_per_s},
        "expect": {"events": expect_events, "rows": expect_rows},
    }
    said: dict[str, Any] = {
        name: told
        for name, part in parts.items()
        if (told := {key: value for key, value in part.items() if value is not None})
    }
    said |= {name: value for name, value in (("owner", owner), ("transient", transient)) if value is not None}
    return said | ({"labels": params_as_texts(labels)} if labels else {})


def params_as_texts(pairs: Sequence[str]) -> dict[str, str]:
    if any("=" not in pair for pair in pairs):
        raise click.UsageError("Say it as NAME=VALUE.")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


@main.command()
@JOBS_AT
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only jobs with this label.")
@click.option("--owner", metavar="WHO", help="Only jobs of this owner.")
@click.option("--state", metavar="STATE", help="Only jobs in this state.")
@click.option("--template", metavar="NAME", help="Only jobs of this template.")
@form_of("table", "json", "lines")
def jobs(
    server: str,
    labels: Sequence[str],
    owner: str | None,
    state: str | None,
    template: str | None,
    output: str | None,
) -> None:
    """List the jobs of a server: state and since when, freshness, events a second, rows, failures in a row, and why
    where something is wrong. In lines: name, state, rows, guarantee, why."""
    wanted = [("label", label) for label in labels]
    wanted += [(name, said) for name, said in (("owner", owner), ("state", state), ("template", template)) if said]

    def work() -> int:
        from server.remote import call

        found = some(call(server, "GET", "/v1/jobs", params=wanted)["jobs"], "such jobs" if wanted else "jobs")
        match output or ("table" if sys.stdout.isatty() else "lines"):
            case "json":
                say_json(found)
            case "lines":
                say_lines(found)
            case _:
                from mql.exec.clock import SystemClock
                from server.job_sheet import listed

                for line in listed(found, SystemClock().now_us()) if found else ():
                    click.echo(line)
        return 0

    exit_by(work)


def say_json(told: Any) -> None:
    import json

    click.echo(json.dumps(told, indent=2))


def say_lines(jobs: Sequence[Any]) -> None:
    """A job a line, its parts between tabs."""
    for job in jobs:
        why = job["reason"] or job["trouble"] or ""
        told = [job["name"], job["state"], f"{job['results']['rows']} rows", job["guarantee"], why]
        click.echo("\t".join(told).rstrip())


@main.group()
def job() -> None:
    """Make a job on a server, start and stop it, read what happened to it."""


job.add_command(jobs, "list")


@job.command()
@click.argument("name")
@TEXT
@FILE
@PARAM
@JOBS_AT
@click.option(
    "--template", metavar="NAME|FILE", help="A template of the server's, or one in a file, instead of a query."
)
@click.option("--guarantee", type=click.Choice(("at_most_once", "at_least_once", "exactly_once")))
@click.option("--workers", type=click.IntRange(1, 64), help="Run it on so many of the server's workers.")
@with_life
def new(
    name: str,
    text: str | None,
    file: Any,
    params: Sequence[str],
    server: str,
    template: str | None,
    guarantee: str | None,
    workers: int | None,
    **life: Any,
) -> None:
    """Make a job and start it; with --schedule it starts when its time comes."""
    said: dict[str, Any] = {"name": name, "params": params_of(params), **life_of(**life)}
    said |= {name: told for name, told in (("guarantee", guarantee), ("workers", workers)) if told is not None}
    if template is None:
        said["query"] = query_text(text, file)

    def work() -> int:
        from server.remote import call

        kept = None if template is None else kept_template(server, template)
        call(server, "POST", "/v1/jobs" if kept is None else f"/v1/templates/{kept}/jobs", said)
        click.echo(f"{name} is made; its rows: {server}/v1/jobs/{name}/stream")
        return 0

    exit_by(work)


def kept_template(server: str, template: str) -> str:
    """The name of a template that the server keeps; one that is a file is given to it first."""
    from server.remote import call
    from server.templates import read_template

    path = Path(template)
    if not path.is_file():
        return template
    name = read_template(path).name
    call(server, "PUT", f"/v1/templates/{name}", path.read_bytes())
    return name


def acts(action: str) -> Callable[..., None]:
    def act(name: str, server: str) -> None:
        def work() -> int:
            from server.remote import call

            if action == "delete":
                call(server, "DELETE", f"/v1/jobs/{name}")
                click.echo(f"{name} is deleted")
            else:
                click.echo(f"{name} is {call(server, 'POST', f'/v1/jobs/{name}:{action}')['state']}")
            return 0

        exit_by(work)

    act.__doc__ = f"{action.capitalize()} a job."
    return act


for action in ACTIONS:
    job.command(action)(click.argument("name")(JOBS_AT(acts(action))))


@job.command()
@click.argument("name")
@click.argument("what", required=False, type=click.Choice(VIEWS))
@JOBS_AT
@form_of("text", "json")
def show(name: str, what: str | None, server: str, output: str | None) -> None:
    """Tell all about a job; or as JSON one thing: its ledger, numbers, tasks, checkpoints, runs, late events."""
    if what is not None and output == "text":
        raise click.UsageError(f"{what} is told as JSON alone; leave {what} out, or -o text.")

    def work() -> int:
        from server.remote import call

        path = f"/v1/jobs/{name}" + (f"/{what}" if what else "")
        if what is not None or (output or ("text" if sys.stdout.isatty() else "json")) == "json":
            say_json(call(server, "GET", path))
            return 0
        from mql.exec.clock import SystemClock
        from server.job_sheet import shown

        for line in shown(look_at(server, name), SystemClock().now_us()):
            click.echo(line)
        return 0

    exit_by(work)


def look_at(server: str, name: str) -> Looked:
    """All that a person is told of a job."""
    from mql.errors import MqlError
    from server.job_sheet import Looked
    from server.remote import call

    path = f"/v1/jobs/{name}"
    job = call(server, "GET", path)
    template = None
    if job["template"] is not None:
        with suppress(MqlError):  # it may have been taken away meanwhile; the job goes on
            version = {"version": str(job["version"])}
            template = call(server, "GET", f"/v1/templates/{job['template']}", params=version)["template"]
    return Looked(
        job,
        call(server, "GET", f"{path}/metrics"),
        call(server, "GET", f"{path}/ledger"),
        call(server, "GET", f"{path}/runs", params={"n": "200"})["runs"],
        call(server, "GET", "/v1/silences", params={"job": name})["silences"],
        template,
    )


@job.command()
@click.argument("name")
@TEXT
@FILE
@PARAM
@JOBS_AT
@click.option("--version", type=click.IntRange(1), metavar="N", help="This version of its template.")
@click.option("--workers", type=click.IntRange(1, 64), help="Run it on so many of the server's workers.")
@click.option("--discard", is_flag=True, help="Begin without what it knows, where that does not serve any more.")
@click.option(
    "--begin", type=click.Choice(("checkpoint", "now", "earliest")), help="Where to read from then [checkpoint]."
)
@click.option("--sink", "sinks", multiple=True, metavar="JSON", help='A sink more: {"kind": "parquet", "path": "out"}.')
@click.option("--drop-sink", "drops", multiple=True, type=int, metavar="N", help="Take this sink away, by its number.")
@click.option("--sinks-from", metavar="WHERE", help="Where new sinks begin: now, earliest, or a cursor [now].")
@click.option("--dry-run", is_flag=True, help="Only tell what would become of what it knows.")
@with_life
@click.option("--no-schedule", is_flag=True, help="Take its schedule away.")
def change(
    name: str,
    text: str | None,
    file: Any,
    params: Sequence[str],
    server: str,
    version: int | None,
    workers: int | None,
    discard: bool,
    begin: str | None,
    sinks: Sequence[str],
    drops: Sequence[int],
    sinks_from: str | None,
    dry_run: bool,
    no_schedule: bool,
    **life: Any,
) -> None:
    """Change a job: its query, params, schedule, labels, limits. It goes on with what it knows, or says why not."""
    said = life_of(**life) | ({"schedule": None} if no_schedule else {})
    given = {"version": version, "workers": workers, "begin": begin}
    said |= {key: told for key, told in given.items() if told is not None}
    if text is not None or file is not None:
        said["query"] = query_text(text, file)
    if params:
        said["params"] = params_of(params)
    if sinks:
        said["add_sinks"] = [sink_of(text) for text in sinks]
    if drops:
        said["drop_sinks"] = list(drops)
    if sinks_from is not None and not sinks:
        raise click.UsageError("Say which sink begins there: --sink JSON.")
    if sinks_from is not None:
        said["sinks_from"] = sinks_from
    if discard:
        said["state"] = "discard"
    if not said:
        raise click.UsageError("Say what is to be different.")

    def work() -> int:
        from server.remote import call

        query = [("dry_run", "true")] if dry_run else None
        fate = call(server, "PATCH", f"/v1/jobs/{name}", said, query)["change"]
        told = [*fate["sinks"], *fate["differences"], *(f"cannot: {reason}" for reason in fate["reasons"])]
        state = f"; its state: {fate['state']}" if fate["restarts"] else ""
        click.echo("\n".join([f"{name} {'would be' if dry_run else 'is'} changed{state}", *told]))
        return 0

    exit_by(work)


def sink_of(text: str) -> Any:
    """A sink as the API takes it."""
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--sink is no JSON: {error}") from None


@job.command()
@click.argument("name")
@click.argument("workers", type=click.IntRange(1, 64), required=False)
@JOBS_AT
def scale(name: str, workers: int | None, server: str) -> None:
    """Run a job on so many workers, from where it stands; without a number on as many as the server thinks right."""

    def work() -> int:
        from server.remote import call

        call(server, "POST", f"/v1/jobs/{name}:scale", {"workers": workers})
        click.echo(f"{name} goes on")
        return 0

    exit_by(work)


@job.command()
@click.argument("name")
@JOBS_AT
@click.option("-n", "lines", default=100, show_default=True, type=click.IntRange(1, 1_000), help="The newest N lines.")
def logs(name: str, server: str, lines: int) -> None:
    """Tell what happened to a job, the newest last."""

    def work() -> int:
        from datetime import UTC, datetime

        from server.remote import call

        for line in call(server, "GET", f"/v1/jobs/{name}/logs", params={"n": str(lines)})["lines"]:
            at = datetime.fromtimestamp(line["at_us"] / 1e6, UTC).isoformat(timespec="milliseconds")
            click.echo(f"{at} {line['level']}: {line['text']}")
        return 0

    exit_by(work)


@job.command("dead-letters")
@click.argument("name")
@click.argument("ids", nargs=-1)
@JOBS_AT
@click.option("--kind", type=click.Choice(KINDS), help="Of this kind alone.")
@click.option("--sink", metavar="N", help="Of this sink alone, by its number.")
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(1, 1_000), help="The newest N letters.")
@click.option("--follow", is_flag=True, help="Then those that come, until it is ended by Ctrl+C.")
@click.option("--retry", "act", flag_value="retry", help="Send them again to the sink that refused them.")
@click.option("--discard", "act", flag_value="discard", help="Let go of them.")
def dead_letters(
    name: str,
    ids: Sequence[str],
    server: str,
    kind: str | None,
    sink: str | None,
    count: int,
    follow: bool,
    act: str | None,
) -> None:
    """Tell what a job could not read, what came too late, and what its sinks refused, the newest last.

    One JSON object a line. With --retry or --discard: what is done with these IDS, or with all of a kind or a sink."""
    chosen = {key: said for key, said in (("ids", list(ids)), ("kind", kind), ("sink", sink)) if said}
    if act is not None and not chosen:
        raise click.UsageError("Say which: IDS, --kind or --sink.")
    if act is None and ids:
        raise click.UsageError("Say what is to become of them: --retry or --discard.")

    def work() -> int:
        from server.remote import call

        path = f"/v1/jobs/{name}/dead-letters"
        if act is not None:
            told = call(server, "POST", f"{path}:{act}", chosen)
            click.echo(", ".join(f"{number} {what}" for what, number in told.items()))
            return 0 if not told.get("refused") else 1
        wanted = [(key, str(said)) for key, said in (("kind", kind), ("sink", sink), ("n", count)) if said]
        page = call(server, "GET", path, params=wanted)
        say_letters(reversed(some(page["letters"], "dead letters")))
        while follow:
            time.sleep(FOLLOW_S)
            page = call(server, "GET", path, params=[*wanted, ("after", page["after"])])
            say_letters(page["letters"])
        return 0

    exit_by(work)


def say_letters(letters: Iterable[Any]) -> None:
    import json

    for letter in letters:
        click.echo(json.dumps(letter))
