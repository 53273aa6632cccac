"""Plain files, read by the kernel itself: handing it their lines costs half as much again as reading them.

Only where nobody can tell the difference: all events of whole files of JSON lines, grouped, without WHERE or SAMPLE,
told their times by a plain number, and asked for nothing that depends on their places. What the statement does not
say it is told by a survey of the bytes beside it: how many events there are, and whether one of them needs a look of
its own. If one does, or the statement meets one that it can't read, nothing has been told yet and the decoder reads
everything again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from mql.exec.backfill import Backfill, Stopped, intake_of, results_of
from mql.exec.feed import Filed
from mql.exec.items import ARRIVAL, EARLIER, OFFSET, SPLIT, TIME
from mql.exec.kernel import Kernel, KernelError
from mql.exec.scan import sure_time, swift_columns, swift_named
from mql.exec.survey import Survey, look
from mql.planner.physical import Partial, Plan, Scan
from mql.planner.sql import column_name, decode_template, quote_identifier, quote_string

LEAST_BYTES = 16 << 20
"""Of less than this the decoder is through before a kernel of its own is open."""


def answered(
    plan: Plan, reading: Backfill, workers: int, tell: Callable[[pa.Table], None], is_full: Callable[[], bool]
) -> bool:
    """Answers the query so, if it can be; where not, nothing has been told."""
    files = _files(plan, reading)
    sql = events_sql(reading.scan, files) if files else None
    if sql is None:
        return False
    with ExitStack() as stack:
        kernel = Kernel(workers, files=[str(file) for file in files])
        stack.callback(kernel.close)
        session, other = kernel.session(), kernel.session()
        stack.callback(other.close)
        stack.callback(session.close)
        reading.runs(session)
        stack.callback(reading.runs, None)
        surveying = _Surveying(reading, files, workers, session.interrupt)
        stack.callback(surveying.end)
        try:
            session.define(plan.tables[0], sql)
            found = results_of(plan, session, other, {})
            first = next(found, None)
        except (KernelError, pa.ArrowException, OSError):
            first, found = None, None
        if found is None or not surveying.fits() or _files(plan, reading) != files:
            surveying.end()
            if reading.stopping:
                raise Stopped
            reading.surveyed(0, 0.0)
            return False
        while first is not None:
            reading.wait_while(is_full)
            tell(first)
            first = next(found, None)
    reading.ended = True
    return True


def _files(plan: Plan, reading: Backfill) -> Sequence[Path]:
    """The files that hold just what the plan reads; none where it can't be answered from them alone."""
    if len(plan.scans) > 1 or plan.as_live or not isinstance(reading.source, Filed):
        return ()
    intake, scan = intake_of(plan, 0), reading.scan
    if not isinstance(intake, Partial) or intake.predicate is not None or intake.sampling is not None:
        return ()
    if scan.masks or scan.encoding != "json" or scan.needles is not None or reading.source.info.envelope:
        return ()
    files = reading.source.plain_files(*reading.bounds())
    return files if sum(file.stat().st_size for file in files) >= LEAST_BYTES else ()


def events_sql(scan: Scan, files: Sequence[Path]) -> str | None:
    """The decoded events of the files. It fails at an event that it is not sure of, and where a place is asked for."""
    decoded = swift_columns(scan.columns, scan.time, frozenset())
    if decoded is None or () in decoded:
        return None
    layout = json.loads(decode_template(decoded.items()))
    types = ", ".join(f"{quote_string(name)}: {quote_string(_type(of))}" for name, of in layout.items())
    paths = ", ".join(quote_string(str(file)) for file in files)
    fields = ", ".join(f"{quote_identifier(name)} := {quote_identifier(name)}" for name in layout)
    parsed = (
        f"SELECT struct_pack({fields}) AS j FROM read_json([{paths}], format = 'newline_delimited', "
        f"records = 'true', compression = 'none', ignore_errors = true, columns = {{{types}}})"
    )
    named = swift_named(scan.columns, decoded, scan.time, frozenset(), (), parsed)
    sure, micros = sure_time(scan.time)
    places = ((SPLIT, "INTEGER"), (OFFSET, "BIGINT"), (ARRIVAL, "BIGINT"), (EARLIER, "BIGINT"))
    items = [f"{micros} AS {quote_identifier(TIME)}"]
    items += [f"CAST(error('no place') AS {type}) AS {quote_identifier(name)}" for name, type in places]
    items += [quote_identifier(column_name(path)) for path, _ in scan.columns]
    only = f"CASE WHEN {sure} THEN true ELSE CAST(error('not sure') AS BOOLEAN) END"
    return f"SELECT {', '.join(items)} FROM ({named}) WHERE {only}"


def _type(structure: object) -> str:
    """A type as `read_json` spells it, from how `json_transform` does."""
    match structure:
        case str():
            return structure
        case [item]:
            return f"{_type(item)}[]"
        case dict():
            return f"STRUCT({', '.join(f'{quote_identifier(name)} {_type(of)}' for name, of in structure.items())})"
        case _:
            raise AssertionError(structure)


class _Surveying:
    """The survey of the files, by threads of its own; the statement is stopped where it finds something odd."""

    def __init__(self, reading: Backfill, files: Sequence[Path], threads: int, stop: Callable[[], None]) -> None:
        self.survey = Survey()
        self._reading = reading
        self._files = files
        self._bytes = sum(file.stat().st_size for file in files)
        self._stop = stop
        self._errors: list[OSError] = []
        self._guard = threading.Lock()
        self._threads = [
            threading.Thread(target=self._look, args=(part, threads), name=f"mql-survey-{part}", daemon=True)
            for part in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _look(self, part: int, parts: int) -> None:
        try:
            for _ in look(self.survey, self._guard, self._files, part, parts):
                self._reading.surveyed(self.survey.lines, self.survey.bytes / self._bytes)
                if self._reading.stopping:
                    self.survey.stopped = True
        except OSError as error:  # told by the thread that asks whether it fits
            self._errors.append(error)
        if self._errors or self.survey.odd:
            self._stop()

    def fits(self) -> bool:
        """Whether all lines are events as the statement takes them."""
        self._join()
        return self.survey.plain and not self._errors

    def end(self) -> None:
        self.survey.stopped = True
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
