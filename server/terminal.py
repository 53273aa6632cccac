"""What a person sees: tables that grow or change in place, a line that tells what became of the events, progress."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from server import encode
from server.encode import Look
from server.exits import clean
from server.sheets import Columns, columns_of

HEAD_ROWS, TAIL_ROWS = 60, 20
KEPT_MAX = 100_000
REFRESH_S = 0.25
HIDDEN = frozenset(("_key", "_op", "_revision", "final"))
NUMBERS = ("BIGINT", "INTEGER", "DOUBLE", "FLOAT", "DECIMAL", "UBIGINT", "SMALLINT", "TINYINT", "HUGEINT")


class TableSheet:
    """Rows for a person. Rows with keys change in place; what a live query gives is added below, as it comes; a
    bounded answer is drawn once it is whole, its middle left out where it is long."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.columns: Columns = ()
        self.look = Look()
        self.keyed = self.bounded = False
        self.kept: list[Mapping[str, Any]] = []
        self.open: dict[str, Mapping[str, Any]] = {}
        self.count = 0
        self.live: Live | None = None
        self.widths: list[int] | None = None
        self.drawn_s = 0.0

    def begin(self, meta: Mapping[str, Any]) -> None:
        self.columns = columns_of(meta)
        self.look = encode.look_of(self.columns)
        self.bounded = bool(meta.get("bounded"))
        self.keyed = bool(meta.get("keyed")) and not self.bounded
        if self.keyed and self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop")
            self.live.start()

    def rows(self, table: pa.Table) -> None:
        rows = encode.rows_of(table, self.look)
        self.count += len(rows)
        if self.keyed:
            self.take_keyed(rows)
        elif self.bounded:
            self.take_bounded(rows)
        else:
            self.print_lines(rows)

    def take_keyed(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The newest row of each key; what has become final is printed for good."""
        final: list[Mapping[str, Any]] = []
        for row in rows:
            key = str(row["_key"])
            if row["_op"] == "delete":
                self.open.pop(key, None)
            elif row["final"]:
                self.open.pop(key, None)
                final.append(row)
            else:
                self.open[key] = row
        if final:
            self.print_lines(final)
        self.draw()

    def take_bounded(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.kept += rows
        if len(self.kept) > KEPT_MAX:
            self.kept = [*self.kept[:HEAD_ROWS], *self.kept[-KEPT_MAX // 2 :]]

    def beat(self) -> None:
        self.draw()

    def draw(self, last: bool = False) -> None:
        """The rows that may still change, at most four times a second."""
        if self.live is None or (not last and time.monotonic() - self.drawn_s < REFRESH_S):
            return
        self.drawn_s = time.monotonic()
        room = max(5, self.console.height - 6)
        shown = list(self.open.values())[-room:]
        more = len(self.open) - len(shown)
        note = [Text(f"… and {more} more that may still change", style="dim")] if more else []
        self.live.update(Group(*note, self.table(shown, dim=True)) if shown else Text(""), refresh=True)

    def end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
        rows = [*self.kept, *self.open.values()]
        if not rows:
            if self.bounded:
                self.console.print(self.table([]))
            return
        if len(rows) > HEAD_ROWS + TAIL_ROWS:
            self.console.print(self.table(rows[:HEAD_ROWS]))
            self.console.print(Text(f"  … {self.count - HEAD_ROWS - TAIL_ROWS:,} rows left out …", style="dim"))
            rows = rows[-TAIL_ROWS:]
        self.console.print(self.table(rows, dim=not self.bounded))

    def names(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        told = [name for name, _ in self.columns]
        return told or [name for name in (rows[0] if rows else ()) if name not in HIDDEN]

    def table(self, rows: Sequence[Mapping[str, Any]], dim: bool = False) -> Table:
        types = dict(self.columns)
        drawn = Table(box=None, pad_edge=False, header_style="bold", style="dim" if dim else "")
        for name in self.names(rows):
            right = types.get(name, "").startswith(NUMBERS)
            drawn.add_column(Text(clean(name)), justify="right" if right else "left", overflow="ellipsis", no_wrap=True)
        for row in rows:
            drawn.add_row(*(cell(row.get(name)) for name in self.names(rows)))
        return drawn

    def print_lines(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows below each other in columns that were made wide enough for the first of them, and grow if need be."""
        types = dict(self.columns)
        names = self.names(rows)
        cells = [[cell(row.get(name)) for name in names] for row in rows]
        if self.widths is None:
            self.widths = [max(len(clean(name)), 4) for name in names]
            for at, width in enumerate(self.widths):
                self.widths[at] = min(40, max(width, *(line[at].cell_len for line in cells)))
            head = "  ".join(
                fitted(clean(name), width, types[name]) for name, width in zip(names, self.widths, strict=True)
            )
            self.console.print(Text(head.rstrip(), style="bold"), no_wrap=True, overflow="ellipsis", crop=True)
        for line in cells:
            shown = Text("  ").join(
                padded(one, width, types[name]) for one, width, name in zip(line, self.widths, names, strict=True)
            )
            self.console.print(shown, no_wrap=True, overflow="ellipsis", crop=True)


def fitted(text: str, width: int, type: str) -> str:
    return text.rjust(width) if type.startswith(NUMBERS) else text.ljust(width)


def padded(text: Text, width: int, type: str) -> Text:
    gap = Text(" " * max(0, width - text.cell_len))
    return gap + text if type.startswith(NUMBERS) else text + gap


def cell(value: Any) -> Text:
    """A value in a table. What an event holds never commands the terminal: control signs are written out."""
    match value:
        case None:
            return Text("null", style="dim italic")
        case bool():
            return Text("true" if value else "false")
        case float():
            return Text(f"{value:.6g}" if abs(value) < 1e15 else repr(value))
        case str():
            return Text(clean(value))
        case int():
            return Text(str(value))
        case _:
            return Text(clean(orjson.dumps(value, default=encode.unusual, option=encode.OPTIONS).decode()))


# --- what became of the events -----------------------------------------------------------------------------


def truth(numbers: Mapping[str, Any], seconds: float) -> str:
    """One line: how many events were read, and what became of them."""
    parts = [f"scanned {numbers.get('scanned', 0):,}", f"matched {numbers.get('matched', 0):,}"]
    parts += [f"{kind} {numbers.get(kind, 0):,}" for kind in ("late", "malformed")]
    parts += [f"{kind} {numbers[kind]:,}" for kind in ("skipped", "sampled", "dropped") if numbers.get(kind)]
    parts.append(f"rows {numbers.get('rows', 0):,}")
    if numbers.get("lag_ms") is not None:
        parts.append(f"lag {numbers['lag_ms'] / 1000:.1f} s")
    parts.append(f"{seconds:.1f} s")
    if numbers.get("trouble"):
        parts.append(clean(str(numbers["trouble"])))
    return " · ".join(parts)


class Bar:
    """How far a replay is, on standard error."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self.task = self.progress.add_task("replaying", total=1.0)

    def __enter__(self) -> None:
        self.progress.start()

    def see(self, numbers: Mapping[str, Any]) -> None:
        told = f"{numbers.get('scanned', 0):,} events"
        self.progress.update(self.task, completed=numbers.get("share") or 0.0, description=told)

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
