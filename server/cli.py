"""The command line. Results go to standard output, everything else to standard error.

Exit codes: 0 ok, 1 the query failed, 2 wrong usage, 3 no server answers, 4 out of time, 130 interrupted. Only click is
imported before a command runs, so that `mql --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from server.answering import Answer
    from server.local import House

Command = TypeVar("Command", bound=Callable[..., Any])
OUTPUTS = ("table", "ndjson", "csv", "json", "parquet", "arrow")
FORMS = ("plan", "logical", "physical", "sql", "estimate")
CONFIG_NAME = "mql.yaml"
EARLY_US = 1_000_000
DEMO_PORT = 8080


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mql-streams", prog_name="mql")
def main() -> None:
    """Ask questions of live event streams in MQL, and the same questions of yesterday.

    \b
    mql query "SELECT status, count(*) FROM 'logs/*.parquet' GROUP BY status"
    tail -f app.ndjson | mql query "SELECT * FROM app WHERE status >= 500"
    mql demo
    """


# --- what several commands take ----------------------------------------------------------------------------

CONFIG = click.option(
    "--config",
    envvar="MQL_CONFIG",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Where sources are declared [mql.yaml, if there is one].",
)
SERVER = click.option("--server", envvar="MQL_SERVER", metavar="URL", help="Ask a server instead of this process.")
TIME_FIELD = click.option("--time-field", metavar="NAME", help="The event's time, in inputs that are not declared.")
FILE = click.option("-f", "--file", type=click.File("r", "utf-8"), help="Read the query from a file, or - (stdin).")
PARAM = click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A value for $NAME.")
SINCE = click.option("--since", metavar="POINT", help="From when: -1h, 2026-01-31T12:00:00Z, earliest.")
UNTIL = click.option("--until", metavar="POINT", help="Until when.")
TEXT = click.argument("text", required=False, metavar="QUERY")
QUIET = click.option("-q", "--quiet", is_flag=True, help="Tell nothing but rows and errors.")


def with_house(command: Command) -> Command:
    """Where the sources are."""
    return CONFIG(SERVER(TIME_FIELD(command)))


def with_query(command: Command) -> Command:
    """A query as an argument or from a file, its parameters, and where its sources are."""
    return TEXT(FILE(PARAM(with_house(command))))


def query_text(text: str | None, file: Any) -> str:
    """The query, from where it stands; exactly one of both."""
    if text is not None and file is None:
        return text
    if text is None and file is not None:
        return str(file.read())
    raise click.UsageError("Give the query as an argument, or -f FILE." if text is None else "Give a query or -f.")


def params_of(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value`: a JSON value where it is JSON, else a text."""
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise click.BadParameter(f'"{pair}" is not NAME=VALUE', param_hint="-p")
        try:
            found[name.removeprefix("$")] = json.loads(value)
        except json.JSONDecodeError:
            found[name.removeprefix("$")] = value
    return found


def seconds_of(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`30s`, `5m`, `500ms`, or seconds."""
    if value is None:
        return None
    from server.settings import seconds

    found = seconds(value)
    if not isinstance(found, float) or found <= 0:
        raise click.BadParameter(f'"{value}" is no length of time; write it like 30s, 5m, 500ms')
    return found


def config_path(config: Path | None) -> Path | None:
    return config or (Path(CONFIG_NAME) if Path(CONFIG_NAME).exists() else None)


def house(config: Path | None, time_field: str | None, file: Any = None) -> House:
    """What this process may read; standard input is not among it where the query's text came from there."""
    from server.local import house_of

    return house_of(config_path(config), time_field, file is not None and file.name == "<stdin>")


def with_bounds(text: str, since: str | None, until: str | None, must_end: bool = False) -> str:
    """The query with SINCE and UNTIL as the options say them. `must_end`: history that says no end ends now."""
    from server.local import parse_in

    tree = parse_in(text)
    for name, option, clause in (("SINCE", since, tree.since), ("UNTIL", until, tree.until)):
        if option is not None and clause is not None:
            raise click.UsageError(f"The query says {name} itself; leave --{name.lower()} out.")
    if must_end and until is None and tree.until is None and (since is not None or tree.since is not None):
        until = "now"
    told = [(name, point) for name, point in (("SINCE", since), ("UNTIL", until)) if point is not None]
    if not told:
        return text
    clauses = [f"{name} '{point.replace(chr(39), chr(39) * 2)}'" for name, point in told]
    return "\n".join([text.rstrip().removesuffix(";"), *clauses])


def exit_by(work: Callable[[], int]) -> None:
    from server.exits import guarded

    sys.exit(guarded(work))


# --- asking ------------------------------------------------------------------------------------------------


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


# --- about texts -------------------------------------------------------------------------------------------


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


# --- templates ---------------------------------------------------------------------------------------------


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


# --- jobs --------------------------------------------------------------------------------------------------

JOBS_AT = click.option(
    "--server", envvar="MQL_SERVER", default="http://127.0.0.1:8642", metavar="URL", help="The server [this machine's]."
)
ACTIONS = ("start", "stop", "pause", "resume", "restart", "delete")


VIEWS = ("ledger", "metrics", "topology", "checkpoints", "runs", "late", "deadletters")


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
def jobs(server: str, labels: Sequence[str], owner: str | None, state: str | None, template: str | None) -> None:
    """List the jobs of a server: name, state, rows, guarantee, and why where something is wrong."""
    wanted = [("label", label) for label in labels]
    wanted += [(name, said) for name, said in (("owner", owner), ("state", state), ("template", template)) if said]

    def work() -> int:
        from server.remote import call

        for job in call(server, "GET", "/v1/jobs", params=wanted)["jobs"]:
            why = job["reason"] or job["trouble"] or ""
            told = [job["name"], job["state"], f"{job['results']['rows']} rows", job["guarantee"], why]
            click.echo("\t".join(told).rstrip())
        return 0

    exit_by(work)


@main.group()
def job() -> None:
    """Make a job on a server, start and stop it, read what happened to it."""


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
@with_life
def new(
    name: str,
    text: str | None,
    file: Any,
    params: Sequence[str],
    server: str,
    template: str | None,
    guarantee: str | None,
    **life: Any,
) -> None:
    """Make a job and start it; with --schedule it starts when its time comes."""
    said: dict[str, Any] = {"name": name, "params": params_of(params), **life_of(**life)}
    if guarantee is not None:
        said["guarantee"] = guarantee
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
def show(name: str, what: str | None, server: str) -> None:
    """Tell all about a job, or one thing: its ledger, numbers, tasks, checkpoints, runs, late or unreadable events."""

    def work() -> int:
        import json

        from server.remote import call

        path = f"/v1/jobs/{name}" + (f"/{what}" if what else "")
        click.echo(json.dumps(call(server, "GET", path), indent=2))
        return 0

    exit_by(work)


@job.command()
@click.argument("name")
@JOBS_AT
@with_life
@click.option("--no-schedule", is_flag=True, help="Take its schedule away.")
def change(name: str, server: str, no_schedule: bool, **life: Any) -> None:
    """Change a job while it runs: its schedule, labels, owner, limits, what is expected of it."""
    said = life_of(**life) | ({"schedule": None} if no_schedule else {})
    if not said:
        raise click.UsageError("Say what is to be different.")

    def work() -> int:
        from server.remote import call

        call(server, "PATCH", f"/v1/jobs/{name}", said)
        click.echo(f"{name} is changed")
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
@click.option("--comment", default="", help="For people.")
def new_token(
    name: str, server: str, scope: str, expires: str | None, queries: int | None, requests: int | None, comment: str
) -> None:
    """Make a token, and print it: it is not told again. The first must be an admin's."""
    quotas = {name: most for name, most in (("queries", queries), ("requests", requests)) if most is not None}
    said = {"name": name, "scope": scope, "expires": expires, "quotas": quotas, "comment": comment}

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

        for one in call(server, "GET", "/v1/tokens")["tokens"]:
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

        for one in call(server, "GET", "/v1/changes", params={"n": str(count)})["changes"]:
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
        from server.remote import call

        for one in call(server, "GET", "/v1/silences", params={} if job is None else {"job": job})["silences"]:
            when = f"{one['starts'] or ''} .. {one['ends'] or ''}"
            if one["every"]:
                when = f"{', '.join(one['every'])} at {one['at']} {one['timezone']} for {one['for']:g} s"
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


# --- serving -----------------------------------------------------------------------------------------------


@main.command()
@CONFIG
@click.option("--host", help="The address to listen on [127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="The port [8642].")
@click.option("--workers", type=click.IntRange(1, 64), help="Threads that run queries [2].")
def serve(config: Path | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the declared sources over HTTP, until SIGTERM or Ctrl+C."""

    def work() -> int:
        from server.app import serve as serve_settings
        from server.settings import Settings, load_settings

        found = config_path(config)
        settings, sources = (Settings(), ()) if found is None else load_settings(found)
        told = {"host": host, "port": port, "workers": workers}
        changes = {name: value for name, value in told.items() if value is not None}
        server = settings.server.model_copy(update=changes)
        log_to_stderr()
        serve_settings(settings.model_copy(update={"server": server}), sources)
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

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


if __name__ == "__main__":
    main()
