"""A job's rows on their way to one sink: from its result log, which is the outbox, in a thread of their own.

The sink says where to go on; what cannot be handed over now is tried again, later and later, from the place that the
sink then says. So a stop of the job, of the server, or of the system behind the sink loses nothing that the log keeps.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from mql.exec.conditions import Condition
from mql.exec.frames import Frame, Gap, Meta, RowsFrame
from server.resultlog import LogReading, ResultLog
from sources.sinks.contract import Away, Fenced, Portion, Sink

log = logging.getLogger("server")

WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
LOOK_S = 1.0
JOIN_S = 10.0


class Closing(Exception):
    """It is told to close, in the midst of a portion: that comes again with the next server."""


@runtime_checkable
class Leaving(Protocol):
    """A sink that has something to say when its job is deleted."""

    def leave(self) -> None: ...


class Delivery:
    """Hands a log's rows to one sink until it is closed. `only`: the condition under which rows are sent.

    `closing` is set when it is to end; sinks that wait, wait for that too. `say` notes in the job's own log what
    somebody should know of.
    """

    def __init__(
        self,
        name: str,
        results: ResultLog,
        sink: Sink,
        about: Mapping[str, Any],
        closing: threading.Event,
        say: Callable[[str, str], None],
        only: Condition | None = None,
    ) -> None:
        self.name = name
        self.log = results
        self.sink = sink
        self.about = about
        self.sent = 0
        self.lost = 0
        self.trouble: str | None = None
        self._only = only
        self._say = say
        self._closing = closing
        self._for_good = False
        self._tried = 0
        self._place = 0
        self._reading: LogReading | None = None
        self._thread = threading.Thread(target=self._run, name=f"mql-sink-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_close(self) -> None:
        self._closing.set()
        reading = self._reading
        if reading is not None:
            reading.ring()

    def close(self, *, for_good: bool = False) -> None:
        """`for_good`: the job is deleted; what is to be said of that is said."""
        self._for_good = for_good
        self.ask_to_close()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)

    def told(self) -> Mapping[str, Any]:
        """How it goes. `behind`: rows that wait."""
        own = {"sent": self.sent, "lost": self.lost, "behind": max(0, self.log.committed.rows - self._place)}
        return {**self.about, **self.sink.told(), **own, "trouble": self.trouble or self.sink.told().get("trouble")}

    # --- its life --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._hand_over(self.sink.open())
            except Closing:
                return
            except Fenced as fenced:
                self._trouble(str(fenced))
                return
            except Away as away:
                self._trouble(str(away))
            except Exception as error:  # an error of ours must not keep the rows from being tried again
                log.exception("a sink of job %s", self.name)
                self._trouble(f"an error of ours, see the server's log: {type(error).__name__}")
            finally:
                self._leave()
                self.sink.close()
            wait_s = WAITS_S[min(self._tried, len(WAITS_S) - 1)] * random.uniform(0.5, 1.5)
            self._tried += 1
            self._closing.wait(wait_s)

    def _leave(self) -> None:
        if self._for_good and isinstance(self.sink, Leaving):
            try:
                self.sink.leave()
            except Exception:  # it is the end in any case
                log.exception("a sink of job %s could not take its leave", self.name)

    def _trouble(self, why: str) -> None:
        if self.trouble != why:
            self._say("error", f"sink {self.about.get('kind')}: {why}")
        self.trouble = why

    def _hand_over(self, place: int) -> None:
        """What the log has behind that place, and what comes, until it is told to close."""
        self._place = place
        reading = self._opened()
        try:
            while not self._closing.is_set():
                frames = reading.take()
                for portion in self._portions(frames):
                    self._send(portion)
                if reading.ended:  # the job stands still; what comes when it runs again is sent too
                    reading.close()
                    reading = self._opened()
                if not any(isinstance(frame, RowsFrame) for frame in frames):
                    self.sink.idle()
                    self.trouble, self._tried = None, 0
                    reading.wait(LOOK_S)
        finally:
            reading.close()

    def _opened(self) -> LogReading:
        oldest = self.log.oldest.rows
        if self._place < oldest:
            self._miss(oldest - self._place, "results are not kept that long")
        reading = self.log.reading(Meta({}), self.log.cursor(self.log.at_row(self._place)), live=False)
        self._reading = reading
        return reading

    def _miss(self, rows: int, why: str) -> None:
        self.lost += rows
        self._say("error", f"sink {self.about.get('kind')}: {rows} rows were not sent: {why}")
        self.sink.missed(why)

    def _portions(self, frames: Sequence[Frame]) -> Iterator[Portion]:
        """The frames' rows in portions of the sink's size; what it has had already is left out."""
        tables: list[pa.Table] = []
        first, end = self._place, self._place
        for frame in frames:
            match frame:
                case RowsFrame(table, cursor):
                    after = rows_of(cursor)
                    before = after - table.num_rows
                    if after <= end:
                        continue
                    table = table.slice(max(0, end - before))
                    differs = bool(tables) and not tables[0].schema.equals(table.schema)
                    if tables and (differs or self.sink.whole_frames or end - first >= self.sink.rows_max):
                        yield Portion(pa.concat_tables(tables), first, end)
                        tables, first = [], end
                    tables.append(table)
                    end = after
                case Gap(data):
                    if tables:
                        yield Portion(pa.concat_tables(tables), first, end)
                        tables, first = [], end
                    self._gap(data)
                case _:
                    pass
        if tables:
            yield Portion(pa.concat_tables(tables), first, end)

    def _gap(self, data: Mapping[str, Any]) -> None:
        """Rows that the log has lost, or a stretch of time for which the job did not run."""
        if isinstance(data.get("rows"), int) and data["rows"] > 0:
            self._miss(data["rows"], str(data.get("why")))
        else:
            self.sink.missed(str(data.get("why")))

    def _send(self, portion: Portion) -> None:
        """In pieces of the sink's size where a frame is bigger."""
        size = portion.rows.num_rows if self.sink.whole_frames else self.sink.rows_max
        lost = portion.end - portion.first - portion.rows.num_rows
        for at in range(0, portion.rows.num_rows, max(1, size)):
            if self._closing.is_set():
                raise Closing
            rows = portion.rows.slice(at, size)
            piece = Portion(self._chosen(rows), self._place, portion.first + lost + at + rows.num_rows)
            self.sink.write(piece)
            self._place = piece.end
            self.sent += piece.rows.num_rows

    def _chosen(self, rows: pa.Table) -> pa.Table:
        return rows if self._only is None else rows.filter(pa.array(self._only.holds(rows)))


def rows_of(cursor: str) -> int:
    """How many rows are behind a place in the log."""
    return int(cursor.rpartition(".")[2])
