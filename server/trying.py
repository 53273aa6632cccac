"""A template's examples, tried by every route: in one statement, streamed by one task, by several, and restored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mql.catalog import Catalog, TimeRule
from mql.errors import MqlError
from mql.exec.drive import drive
from mql.exec.engine import Engine, Options, tables_of
from mql.exec.feed import From
from mql.exec.items import Chunk, Raw
from mql.exec.kernel import Kernel
from mql.planner.compile import compile_query
from mql.planner.physical import Plan
from server import encode
from server.templates import Example, Template, values_of
from sources.memory import MemorySource

SOURCE = "events"
DIGITS = 1e-9
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Tried:
    """One example by one route: `problem` says what differs, None where nothing does."""

    example: int
    route: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a template's examples."""

    tried: tuple[Tried, ...] = ()

    @property
    def good(self) -> bool:
        return all(one.problem is None for one in self.tried)

    def lines(self) -> list[str]:
        return [f"example {one.example} ({one.route}): {one.problem}" for one in self.tried if one.problem is not None]


def test_template(template: Template) -> Report:
    """Runs each example streamed and batched and compares the rows with those that are expected."""
    kernel = Kernel()
    try:
        found = [tries(template, example, at, kernel) for at, example in enumerate(template.examples)]
        return Report(tuple(tried for each in found for tried in each))
    finally:
        kernel.close()


def tries(template: Template, example: Example, at: int, kernel: Kernel) -> Iterator[Tried]:
    for route, rows in routes(template, example, kernel).items():
        try:
            problem = difference(rows(), example.expect)
        except MqlError as error:
            problem = str(error.in_text(template.query))
        yield Tried(at + 1, route, problem)


Rows = Callable[[], list[dict[str, Any]]]


def routes(template: Template, example: Example, kernel: Kernel) -> Mapping[str, Rows]:
    return {
        "batch": lambda: batched(template, example),
        "stream": lambda: streamed(template, example, kernel, 1),
        "stream, three tasks": lambda: streamed(template, example, kernel, 3),
        "stream, restored after each event": lambda: streamed(template, example, kernel, 1, restart_every=1),
    }


def source_of(example: Example) -> MemorySource:
    """The events as a source; their time is what the example says, or a property `time`, or one that looks like it."""
    rule = TimeRule((example.time,)) if example.time is not None else None
    if rule is None and all("time" in event for event in example.input):
        rule = TimeRule(("time",))
    return MemorySource(SOURCE, example.input, time=rule)


def batched(template: Template, example: Example) -> list[dict[str, Any]]:
    engine = Engine([source_of(example)], workers=1, piped=SOURCE)
    try:
        running = engine.start(template.query, values_of(template, example.params), Options(route="batch"))
        tables = list(tables_of(running))
        return told([name for name, _ in running.columns], tables)
    finally:
        engine.close()


def streamed(
    template: Template, example: Example, kernel: Kernel, tasks: int, restart_every: int | None = None
) -> list[dict[str, Any]]:
    """The rows of the stream route; each event comes in a batch of its own."""
    source = source_of(example)
    catalog = Catalog({SOURCE: source.info}, piped=SOURCE)
    plan = compile_query(template.query, catalog, values_of(template, example.params))
    rounds = [[line] for raw in source.history(From()) for line in lines_of(raw)]
    out = drive(plan, rounds, kernel, tasks, restart_every=restart_every)
    return settled(plan, out.tables)


def lines_of(raw: Raw) -> Iterator[Raw]:
    assert isinstance(raw, Chunk)
    base = raw.base
    for line in raw.data.splitlines(keepends=True):
        yield Chunk(raw.split, line, base, raw.arrival_us)
        base += len(line)


def settled(plan: Plan, tables: Sequence[pa.Table]) -> list[dict[str, Any]]:
    """All rows, or, where rows replace others, the last of each key less the deleted."""
    names = [name for name, _ in plan.result.columns]
    if not plan.result.keyed:
        return told(names, tables)
    last = {row["_key"]: row for table in tables for row in encode.rows_of(table)}
    return [{name: row[name] for name in names} for row in last.values() if row["_op"] != "delete"]


def told(names: Sequence[str], tables: Sequence[pa.Table]) -> list[dict[str, Any]]:
    return [row for table in tables for row in encode.rows_of(table.select(list(names)))]


def difference(rows: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> str | None:
    """What differs, in a sentence. The order of rows does not matter, nor do columns that are not expected."""
    left = list(rows)
    missing = []
    for wanted in expected:
        found = next((at for at, row in enumerate(left) if fits(row, wanted)), None)
        if found is None:
            missing.append(wanted)
        else:
            del left[found]
    parts = []
    if missing:
        parts.append(f"expected and not there: {some(missing)}")
    if left:
        parts.append(f"there and not expected: {some(left)}")
    return "; ".join(parts) or None


def some(rows: Sequence[Mapping[str, Any]]) -> str:
    text = ", ".join(encode.dumps(dict(row)).decode() for row in rows[:SHOWN])
    return text if len(rows) <= SHOWN else f"{text} and {len(rows) - SHOWN} more"


def fits(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in row and same(row[name], value) for name, value in wanted.items())


def same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return math.isclose(value, wanted, rel_tol=DIGITS, abs_tol=1e-12)
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(same(a, b) for a, b in zip(value, wanted, strict=True))
    return bool(value == wanted)
