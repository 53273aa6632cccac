"""What a query asks of one event, piece by piece: why it is among those that are answered with, or why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mql import syntax
from mql.catalog import Catalog
from mql.errors import MqlError
from mql.parser import parse
from mql.planner import windows
from mql.planner.binder import Given, bind
from mql.planner.compile import compile_forms
from mql.planner.expressions import Bound, columns_of
from mql.planner.logical import Merge, Sampled
from mql.planner.logical import Scan as Read
from mql.planner.lower import sampling_sql
from mql.planner.parts import Parts, parts_of
from mql.planner.physical import Scan, Window
from mql.planner.sql import column_name, expression_sql
from mql.planner.standins import with_properties
from mql.schema import Path

TIME = '"__t"'


@dataclass(frozen=True, slots=True)
class Condition:
    """One that must be true of an event. `sql` is over a decoded event; `paths` are the properties that it looks at."""

    text: str
    sql: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Questions:
    """`scan`: how the event is read. `conditions`: the pieces of WHERE that AND joins. `bounds`: of SINCE and UNTIL.

    `sample`: None where all events are taken, "" where an event's place decides, which one that is pasted does not
    have. `windows`: a statement over the table `event` that gives `ws` and `we`; None where time cuts no windows.
    `keys`: what it is grouped by, over the same.
    """

    scan: Scan
    conditions: tuple[Condition, ...]
    bounds: str | None
    sample: str | None
    windows: str | None
    window: Window | None
    keys: tuple[tuple[str, str], ...]


def questions(
    text: str, catalog: Catalog, params: Mapping[str, object], now_us: int, source: str | None = None
) -> Questions:
    """What the query asks of an event of its source, or of the one of its sources that is named. MqlError where it is
    wrong, or reads the rows of other queries."""
    compiled = compile_forms(text, catalog, params, now_us=now_us)
    parts = parts_of(compiled.logical)
    try:
        scan = _scan(compiled.plan.scans, parts, source)
        tree = with_properties(parse(text), params)
    except MqlError as error:
        raise error.in_text(text) from None
    given = Given(params, now_us)
    conditions = tuple(_conditions(text, tree, catalog, given))
    bounds = parts_of(bind(replace(tree, where=None), catalog, given).plan).where
    group, window = parts.group, parts.window
    bound_keys = () if group is None else group.keys
    keys = tuple((_key_name(parts, number), expression_sql(key)) for number, key in enumerate(bound_keys))
    return Questions(
        scan,
        conditions,
        None if bounds is None else expression_sql(bounds),
        None if parts.sampled is None else _sample(parts.sampled),
        None if window is None else _windows(window),
        window,
        keys,
    )


def _scan(scans: tuple[Scan, ...], parts: Parts, source: str | None) -> Scan:
    if not isinstance(parts.scan, Read | Merge):
        raise MqlError("why is told of queries over sources", None, "Ask it of the query that reads the source.")
    found = next((scan for scan in scans if source in (None, scan.source)), None)
    if found is None:
        names = ", ".join(scan.source for scan in scans)
        raise MqlError(f'the query does not read "{source}"', None, f"It reads {names}.", code="no-such-source")
    return found


def _conditions(text: str, tree: syntax.Query, catalog: Catalog, given: Given) -> Iterator[Condition]:
    """Each piece bound by itself, without the bounds of time."""
    alone = replace(tree, since=None, until=None)
    for piece in _pieces(tree.where):
        bound: Bound | None = parts_of(bind(replace(alone, where=piece), catalog, given).plan).where
        if bound is not None:
            shown = text[piece.span.start : piece.span.end]
            yield Condition(shown, expression_sql(bound), tuple(sorted(columns_of(bound))))


def _pieces(where: syntax.Expression | None) -> Iterator[syntax.Expression]:
    match where:
        case None:
            return
        case syntax.Binary("and", left, right):
            yield from _pieces(left)
            yield from _pieces(right)
        case _:
            yield where


def _sample(sampled: Sampled) -> str:
    return (sampling_sql(sampled) or "") if sampled.by else ""


def _windows(window: Window) -> str | None:
    if window.kind in ("none", "count", "session", "sliding"):
        return None
    rows = f"SELECT *, {windows.pane_sql(window, TIME)} AS p FROM {windows.numbered_sql(window, 'event')}"
    return f"SELECT ws, we FROM ({windows.expanded_sql(window, f'({rows})')}) WHERE p IS NOT NULL ORDER BY we, ws"


def _key_name(parts: Parts, number: int) -> str:
    """What the query calls a key, else its number."""
    return next(
        (name for name, bound in parts.project.items if expression_sql(bound) == f'"k{number}"'), f"key {number + 1}"
    )


def column_of(path: Path) -> tuple[str, str]:
    """What a property is called, and its column in a decoded event."""
    return ".".join(path) or "the event", column_name(path)
