"""An asked query, from its first frame to the exit code: rows to the sheet, everything else to standard error."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, assert_never

from rich.console import Console

from mql.errors import MqlError
from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, Progress, RowsFrame, Seal, Warn
from server.exits import FAILED, INTERRUPTED, OK, TIMEOUT, say
from server.sheets import ENDINGS, SHEETS, Sheet
from server.terminal import Bar, TableSheet, truth


class Answer(Protocol):
    """A query that runs here or on a server."""

    def frames(self) -> Generator[Frame | None, None, None]: ...

    def stop(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Talk:
    """What is told on standard error: nothing (`quiet`), a line at the end, or a line each second (`stats`)."""

    quiet: bool = False
    stats: bool = False


def follow_into(out: Path, form: str | None, answer: Answer, talk: Talk) -> int:
    """The same into a file, with a progress bar. The file gets its name once it is whole; else there is none."""
    partial = out.with_name(f".{out.name}.partial")
    bar = Bar(Console(stderr=True)) if sys.stderr.isatty() and not talk.quiet else None
    try:
        with partial.open("wb") as opened:
            sheet = SHEETS[form or ENDINGS.get(out.suffix.lower(), "ndjson")](opened)
            code = follow(answer, sheet, talk, bar, must_end=True)
        if code == OK:
            partial.replace(out)
        return code
    finally:
        partial.unlink(missing_ok=True)


def sheet_for(form: str, out: IO[bytes]) -> Sheet:
    """The sheet of a format; a table for a person otherwise."""
    return SHEETS[form](out) if form in SHEETS else TableSheet(Console(highlight=False))


def follow(answer: Answer, sheet: Sheet, talk: Talk, bar: Bar | None = None, must_end: bool = False) -> int:
    """Reads the answer to its end and gives the exit code. The first Ctrl+C ends the query, the second this process."""
    started_s = time.monotonic()
    numbers: Mapping[str, Any] = {}
    final: Sequence[str] = ()
    code = OK
    with stopped_by_signal(answer), bar or nullcontext(), closing(answer.frames()) as frames:
        for frame in frames:
            match frame:
                case None:
                    sheet.beat()
                case Meta(data):
                    if must_end and not data["bounded"]:
                        raise MqlError("this query would never end", hint="Say from when: --since -1h.")
                    sheet.begin(data)
                    # Of what has an end, each row is told once: there is no need of keys and revisions.
                    final = [column["name"] for column in data["schema"]] if data["bounded"] else []
                    for warning in data.get("warnings", ()):
                        say(f"warning: {warning}")
                case RowsFrame(table):
                    sheet.rows(table.select(final) if final else table)
                    sheet.beat()
                case Progress(data):
                    numbers = data
                    if bar is not None:
                        bar.see(data)
                    elif talk.stats and not talk.quiet:
                        say(truth(data, time.monotonic() - started_s))
                case Gap(data):
                    missed = "rows" if data.get("rows") is None else f"{data['rows']:,} rows"
                    say(f"{missed} were missed: {data.get('why')}")
                case Warn(data):
                    say(f"warning: {data.get('detail')}")
                case Failed(data):
                    code = FAILED
                    say("\n".join(str(data[part]) for part in ("detail", "hint") if data.get(part)))
                case Ended(reason, data):
                    numbers = data or numbers
                    code = {"timeout": TIMEOUT, "interrupted": INTERRUPTED, "server stopping": FAILED}.get(reason, OK)
                case Phase() | Seal():
                    pass
                case _:
                    assert_never(frame)
    sheet.end()
    if not talk.quiet and code != FAILED:
        say(truth(numbers, time.monotonic() - started_s))
    return code


@contextmanager
def stopped_by_signal(answer: Answer) -> Iterator[None]:
    """While it holds, Ctrl+C and SIGTERM end the query; a second one ends this process."""
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        answer.stop("interrupted")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
