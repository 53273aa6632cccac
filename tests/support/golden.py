"""Golden cases: a query, events in, rows out, in text files that are read like code.

A file holds cases; a case is `== what it shows`, the query, and sections: `-- source` with settings (lateness; the
names of sources, `sources=a,b`, else there is one called `events`), `-- events` (whose source and split may stand first
in them, as `@source` and `@split`), `-- tables` (rows of declared tables, `name {…}`; `key=name:column` in the source's
settings says what tells rows apart), `-- rows` (what every route gives), `-- live` (what the live routes give). With
MQL_ACCEPT=1 the rows that the batch gives are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from sources.declared_tables import declare_table
from sources.tables import DeclaredTable

SECTIONS = ("source", "query", "tables", "events", "rows", "live")
GOLDEN = Path(__file__).parent.parent / "golden"


@dataclass(frozen=True)
class Case:
    """One case. Events are texts with their source and the number of their split."""

    file: str
    title: str
    query: str
    lateness_us: int
    sources: tuple[str, ...]
    events: tuple[tuple[str, int, str], ...]
    tables: tuple[DeclaredTable, ...]
    rows: tuple[str, ...]
    live: tuple[str, ...] | None
    sections: tuple[tuple[str, str], ...]

    @property
    def id(self) -> str:
        return f"{self.file}: {self.title}"

    def table_rows(self, name: str) -> pa.Table:
        """What a declared table says."""
        return next(table.rows for table in self.tables if table.info.name == name)


def all_cases() -> list[Case]:
    return [case for path in sorted(GOLDEN.glob("*.case")) for case in read(path)]


def read(path: Path) -> list[Case]:
    """The cases of a file, in order."""
    parts = re.split(r"^== ", path.read_text(), flags=re.MULTILINE)[1:]
    return [_case(path.stem, part) for part in parts]


def write(path: Path, cases: Sequence[Case]) -> None:
    """The file of these cases."""
    path.write_text("\n".join(_text(case) for case in cases))


def with_rows(case: Case, rows: Sequence[str]) -> Case:
    """The case with other expected rows."""
    others = tuple((name, text) for name, text in case.sections if name not in ("rows", "live"))
    live = tuple((name, text) for name, text in case.sections if name == "live")
    return replace(case, rows=tuple(rows), sections=(*others, ("rows", "\n".join(rows)), *live))


def _case(file: str, part: str) -> Case:
    title, _, rest = part.partition("\n")
    sections: list[tuple[str, str]] = []
    name, lines = "query", []
    for line in rest.split("\n"):
        found = re.match(r"-- (\w+)\s?(.*)", line)
        if found and found[1] in SECTIONS:
            if lines:
                sections.append((name, "\n".join(lines).strip("\n")))
            name, lines = found[1], [found[2]] if found[2] else []
            if name == "source":
                sections.append((name, found[2]))
                name, lines = "query", []
        else:
            lines.append(line)
    sections.append((name, "\n".join(lines).strip("\n")))
    by_name = dict(sections)
    settings = dict(pair.split("=") for pair in by_name.get("source", "").split())
    sources = tuple(settings.get("sources", "events").split(","))
    return Case(
        file,
        title.strip(),
        by_name["query"],
        round(float(settings.get("lateness", "5s").removesuffix("s")) * 1e6),
        sources,
        tuple(_event(line, sources[0]) for line in by_name["events"].split("\n") if line),
        _tables(by_name.get("tables", ""), settings.get("key", "")),
        tuple(line for line in by_name.get("rows", "").split("\n") if line),
        tuple(line for line in by_name["live"].split("\n") if line) if "live" in by_name else None,
        tuple((name, text) for name, text in sections if text or name in ("rows", "live")),
    )


def _tables(text: str, key: str) -> tuple[DeclaredTable, ...]:
    rows: dict[str, list[object]] = {}
    for line in text.split("\n"):
        name, _, row = line.partition(" ")
        if row:
            rows.setdefault(name, []).append(json.loads(row))
    keys = dict([key.split(":")]) if key else {}
    return tuple(
        declare_table(name, {"kind": "rows", "rows": found, "key": [keys[name]] if name in keys else []})
        for name, found in rows.items()
    )


def _event(line: str, source: str) -> tuple[str, int, str]:
    found = re.match(r'\{("@source": "(\w+)", )?("@split": (\d+), )?', line)
    if found is None or found.end() == 1:
        return source, 0, line
    return found[2] or source, int(found[4] or 0), "{" + line[found.end() :]


def _text(case: Case) -> str:
    lines = [f"== {case.title}"]
    for name, text in case.sections:
        if name == "source":
            lines.append(f"-- source {text}")
        elif name == "query":
            lines.append(text)
        else:
            lines.extend([f"-- {name}", *([text] if text else [])])
    return "\n".join(lines) + "\n"


def as_json(row: dict[str, object]) -> str:
    """A result row as the cases spell it."""
    return json.dumps(row, ensure_ascii=False, default=str)
