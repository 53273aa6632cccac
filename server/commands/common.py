"""The command line's first word, and what several commands take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from server.local import House

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])
CONFIG_NAME = "mql.yaml"
EARLY_US = 1_000_000


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mql-streams", prog_name="mql")
def main() -> None:
    """Ask questions of live event streams in MQL, and the same questions of yesterday.

    \b
    mql query "SELECT status, count(*) FROM 'logs/*.parquet' GROUP BY status"
    tail -f app.ndjson | mql query "SELECT * FROM app WHERE status >= 500"
    mql demo
    """


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


def some(entries: Sequence[T], what: str) -> Sequence[T]:
    """The entries of a listing; that there are none is said beside its output, not in it."""
    if not entries:
        click.echo(f"no {what}", err=True)
    return entries


def exit_by(work: Callable[[], int]) -> None:
    from server.exits import guarded

    sys.exit(guarded(work))
