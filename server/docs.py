"""docs/functions.md, made from the tables of names: `python -m server.docs` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mql import functions
from mql.aggregates import AGGREGATES, OF_DISTINCT, UNMOVED_BY_DISTINCT, AggregateRow
from mql.detectors import METHODS, Method, Parameter
from mql.functions import Function
from mql.overs import OVERS
from server.encode import duration

PAGE = Path(__file__).parent.parent / "docs" / "functions.md"
SECTIONS: tuple[tuple[str, tuple[Function, ...]], ...] = (
    ("Operators", functions.OPERATORS),
    ("Text", functions.TEXTS),
    ("Numbers", functions.NUMBERS),
    ("Choices", functions.CHOICES),
    ("Time", functions.TIMES),
    ("Lists", functions.LISTS),
    ("JSON", functions.JSONS),
    ("Web and network", functions.WEB),
)
WHERE_TO = {"both": "up and down", "up": "up", "down": "down"}
HEAD = """\
# Functions, aggregates, methods

All the names that a query may call; nothing else is reachable. This page is made from the tables in `mql/functions.py`,
`mql/aggregates.py` and `mql/detectors.py` by `python -m server.docs`, and a test holds it equal to them. Every example
of a function is a condition that holds.

A function of a null is null, unless its row says otherwise. What can't be computed (an overflow, a text that is no
number) is null, never an error.
"""


def page() -> str:
    return "\n".join((HEAD, *function_lines(), *aggregate_lines(), *over_lines(), *method_lines()))


def function_lines() -> Iterator[str]:
    for title, rows in SECTIONS:
        yield from (f"## {title}", "", "| call | gives | what | example |", "| --- | --- | --- | --- |")
        for row in rows:
            if row.example:
                yield line(f"`{call_of(row)}`", row.gives, row.doc, f"`{row.example}`")
        yield ""


def call_of(row: Function) -> str:
    takes = row.takes.split()
    match takes:
        case [left, right] if row.operator and right != "...":
            return f"{left} {row.name} {right}"
        case [many] if row.operator and many.endswith("..."):
            each = many.removesuffix("...")
            return f"{each} {row.name} {each}"
        case [only] if row.operator:
            return f"{row.name} {only}"
        case _:
            return f"{row.name}({', '.join(takes)})"


def aggregate_lines() -> Iterator[str]:
    yield from (
        "## Aggregates",
        "",
        "Nulls are skipped. Any of them takes `FILTER (WHERE …)`; those marked so take `DISTINCT`. Exact, unless the",
        "name says approx. Order is that of (event time, split, offset).",
        "",
        "| call | gives | what |",
        "| --- | --- | --- |",
    )
    for row in AGGREGATES:
        names = ", ".join(f"`{name}`" for name in row.aliases)
        notes = [f"Also {names}." if names else "", "Takes DISTINCT." if takes_distinct(row) else ""]
        yield line(f"`{aggregate_call(row)}`", str(row.gives), " ".join((row.doc, *filter(None, notes))))
    yield ""


def over_lines() -> Iterator[str]:
    yield from (
        "## Window functions",
        "",
        "They stand before `OVER (PARTITION BY … ORDER BY …)`, as aggregates do.",
        "",
        "| call | what |",
        "| --- | --- |",
    )
    for row in OVERS:
        yield line(f"`{row.sql.replace('{0}', 'x').replace('{x}', 'n')}`", row.doc)
    yield ""


def aggregate_call(row: AggregateRow) -> str:
    arguments = [row.takes] * row.args
    if row.constant in ("number", "integer"):
        arguments.append(f"{row.constant}!")
    return f"{row.name}({', '.join(arguments) or '*'})"


def takes_distinct(row: AggregateRow) -> bool:
    return row.name in OF_DISTINCT or row.name in UNMOVED_BY_DISTINCT


def method_lines() -> Iterator[str]:
    yield from (
        "## Methods of ANOMALY",
        "",
        "`USING method(name => value, …)`. Which one to choose: [anomaly.md](anomaly.md).",
    )
    for method in METHODS:
        yield from ("", f"### {method.name}", "", method_text(method), "")
        yield from ("| parameter | kind | default | what |", "| --- | --- | --- | --- |")
        for one in method.parameters:
            yield line(f"`{one.name}`", one.kind, default_of(one), one.doc)
    yield ""


def default_of(parameter: Parameter) -> str:
    match parameter.kind, parameter.default:
        case _, None:
            return "by itself"
        case "length", int(us):
            return duration(us)
        case "share", float(share):
            return f"{share:.4g}"
        case _:
            return str(parameter.default)


def method_text(method: Method) -> str:
    also = ", ".join(f"`{name}`" for name in method.aliases)
    return f"{method.doc} Looks {WHERE_TO[method.direction]}." + (f" Also {also}." if also else "")


def line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
