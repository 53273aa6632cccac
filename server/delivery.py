"""A job's rows on their way to one sink: from its result log, which is the outbox, in a thread of their own.

The sink says where to go on; what cannot be handed over now is tried again, later and later, from the place that the
sink then says. So a stop of the job, of the server, or of the system behind the sink loses nothing that the log keeps.

What the sink refuses for good is found by halves, goes to its dead letters, and the rest goes on. So does a row over
which the sink stumbles three times, by an error of ours.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.errors import MqlError
from mql.exec.conditions import Condition
from mql.exec.frames import Frame, Gap, Meta, RowsFrame
from server.deadletters import EVENT, DeadLog, flat
from server.resultlog import LogReading, ResultLog
from server.seats import Seat
from sources.sinks.contract import Away, Fenced, Ints, Portion, Refused, Sink

log = logging.getLogger("server")

WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
LOOK_S = 1.0
JOIN_S = 10.0
END_S = 60.0
"""A sink may end the write that it is amid: longer than a transaction of Kafka takes."""
STUMBLES_MAX = 3
BURIED_MAX = 1_000
ASKED_MAX = 100
DRAIN_LOOK_S = 0.02
AGAIN_TRIES_MAX = 3


FIRST = Seat(number=0)


class Closing(Exception):
    """It is told to close, in the midst of a portion: that comes again with the next server."""


@runtime_checkable
class Leaving(Protocol):
    """A sink that has something to finish, or to say, when its job is deleted or it is taken away."""

    def leave(self, why: str) -> None: ...


def unheard(why: str) -> None:
    """Nobody asks."""


@dataclass(slots=True)
class Again:
    """Letters that are to be sent again, by their numbers, and what became of them. `gone`: neither the letter nor the
    job's results have the row any more, or it never was one."""

    numbers: Sequence[int]
    sent: int = 0
    refused: int = 0
    gone: int = 0
    tries: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def waiting(self) -> int:
        return 0 if self.done.is_set() else len(self.numbers) - self.sent - self.refused - self.gone


class Delivery:
    """Hands a log's rows to one sink until it is closed. `only`: the condition under which rows are sent.

    `letters`: where rows go that the sink refuses. `closing` is set when it is to end; sinks that wait, wait for that
    too. `say` notes in the job's own log what somebody should know of.
    """

    def __init__(
        self,
        name: str,
        results: ResultLog,
        sink: Sink,
        about: Mapping[str, Any],
        closing: threading.Event,
        say: Callable[[str, str], None],
        letters: DeadLog,
        only: Condition | None = None,
        seat: Seat = FIRST,
    ) -> None:
        self.name = name
        self.log = results
        self.sink = sink
        self.letters = letters
        self.seat = seat
        self.about = about
        self.sent = 0
        self.lost = 0
        self.trouble: str | None = None
        self._only = only
        self._say = say
        self._closing = closing
        self._for_good: str | None = None
        self._is_shut_out = False
        self._tried = 0
        self._place = 0
        self._buried: set[int] = set()
        self._stumbled: tuple[int, int] = (0, 0)
        self._careful_to = 0
        self._has_said = False
        self._asked: deque[Again] = deque()
        self._reading: LogReading | None = None
        self._thread: threading.Thread | None = None
        self._before: Delivery | None = None
        self._until: int | None = None

    def take_place_of(self, before: Delivery) -> None:
        """It writes where the other one has written, which is told to close; it begins when that one has ended."""
        self._before = before
        before.ask_to_close()

    def start(self, shut_out: Callable[[str], None] = unheard) -> None:
        """Begins, also again after somebody else had taken its place. `shut_out` is told why when somebody does; from
        then on it stands still."""
        if self._thread is not None:
            if not self._is_shut_out:
                return
            self._thread.join(JOIN_S)
        self._is_shut_out, self._tried = False, 0
        self._thread = threading.Thread(target=self._run, args=(shut_out,), name=f"mql-sink-{self.name}", daemon=True)
        self._thread.start()

    def ask_to_close(self) -> None:
        self._closing.set()
        reading = self._reading
        if reading is not None:
            reading.ring()

    def again(self, numbers: Sequence[int]) -> Again:
        """Asks for letters to be sent again, those of them that are open: as soon as the sink takes rows."""
        asked = Again(numbers)
        if len(self._asked) >= ASKED_MAX:
            raise MqlError("too many letters wait to be sent again", hint="Try again later.", code="too-many-retries")
        self._asked.append(asked)
        reading = self._reading
        if reading is not None:
            reading.ring()
        return asked

    def take_until(self, until: int) -> None:
        """From now on it takes only rows before the number `until`."""
        self._until = until

    def drain(self, wait_s: float) -> int:
        """Waits until no rows wait for it; gives how many still do."""
        end_s = time.monotonic() + wait_s
        while self.behind and time.monotonic() < end_s and not self._closing.wait(DRAIN_LOOK_S):
            pass
        return self.behind

    def close(self, *, for_good: str | None = None, within_s: float = JOIN_S) -> bool:
        """Whether it has ended: who is amid a write does so with that. `for_good`: why it does not come again; what is
        to be said of that is said."""
        self._for_good = for_good
        self.ask_to_close()
        return self.join(within_s)

    def join(self, within_s: float) -> bool:
        """Whether it has ended, or never begun."""
        if self._thread is None:
            return True
        self._thread.join(within_s)
        return not self._thread.is_alive()

    @property
    def behind(self) -> int:
        """Rows that wait."""
        return max(0, (self.log.committed.rows if self._until is None else self._until) - self._reached)

    @property
    def _reached(self) -> int:
        """The first row that it is still to have; its place is before that while it has had none of its rows."""
        return max(self._place, self.seat.begins)

    def told(self) -> Mapping[str, Any]:
        """How it goes."""
        own = {"sent": self.sent, "lost": self.lost, "behind": self.behind}
        own["dead"] = self.letters.numbers()["open"]
        return {**self.about, **self.sink.told(), **own, "trouble": self.trouble or self.sink.told().get("trouble")}

    # --- its life --------------------------------------------------------------------------------------

    def _run(self, shut_out: Callable[[str], None]) -> None:
        self._wait_for_place()
        while not self._closing.is_set():
            try:
                self._hand_over(self.sink.open())
            except Closing:
                return
            except Fenced as fenced:
                self._trouble(str(fenced))
                self._is_shut_out = True
            except Away as away:
                self._trouble(str(away))
            except Exception as error:  # an error of ours must not keep the rows from being tried again
                log.exception("a sink of job %s", self.name)
                self._trouble(f"{OURS}: {type(error).__name__}")
            finally:
                self._leave()
                self.sink.close()
            if self._closing.is_set():
                return
            if self._is_shut_out:
                shut_out(f"sink {self.about.get('kind')}: {self.trouble}")
                return
            wait_s = WAITS_S[min(self._tried, len(WAITS_S) - 1)] * random.uniform(0.5, 1.5)
            self._tried += 1
            self._closing.wait(wait_s)

    def _wait_for_place(self) -> None:
        """Until the one before has ended its write, even where it is to close itself: who comes next waits for this."""
        before, self._before = self._before, None
        if before is None or before.join(LOOK_S):
            return
        self._trouble("it has not ended what it is writing with its settings from before")
        if not before.join(END_S):
            self._trouble(f"it goes on though it has not ended what it was writing for {END_S:g} s")

    def _leave(self) -> None:
        if self._for_good is not None and isinstance(self.sink, Leaving):
            try:
                self.sink.leave(self._for_good)
            except Exception:  # it is the end in any case
                log.exception("a sink of job %s could not take its leave", self.name)

    def _trouble(self, why: str) -> None:
        if self.trouble != why:
            self._say("error", f"sink {self.about.get('kind')}: {why}")
        self.trouble = why

    def _hand_over(self, place: int) -> None:
        """What the log has behind that place, and what comes, until it is told to close."""
        self._place = place
        self._buried = self.letters.buried_from(place)
        reading = self._opened()
        try:
            while not self._closing.is_set():
                self._send_again()
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
        if self._reached < oldest:
            self._miss(oldest - self._reached, "results are not kept that long")
        reading = self.log.reading(Meta({}), self.log.cursor(self.log.at_row(self._reached)), live=False)
        self._reading = reading
        return reading

    def _miss(self, rows: int, why: str) -> None:
        self.lost += rows
        self._say("error", f"sink {self.about.get('kind')}: {rows} rows were not sent: {why}")
        self.sink.missed(why)

    def _portions(self, frames: Sequence[Frame]) -> Iterator[Portion]:
        """The frames' rows in portions of the sink's size; what it has had already is left out."""
        tables: list[pa.Table] = []
        first, end = self._reached, self._reached
        for frame in frames:
            match frame:
                case RowsFrame(table, cursor):
                    after = rows_of(cursor)
                    before = after - table.num_rows
                    after = after if self._until is None else min(after, self._until)
                    if after <= end:
                        continue
                    table = table.slice(max(0, end - before), after - max(end, before))
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
        """In pieces of the sink's size where a frame is bigger; row by row where it has stumbled."""
        rows = portion.rows
        number = portion.end - rows.num_rows
        at = 0
        while at < rows.num_rows:
            if self._closing.is_set():
                raise Closing
            careful = not self.sink.whole_frames and number + at < self._careful_to
            size = rows.num_rows if self.sink.whole_frames else 1 if careful else self.sink.rows_max
            piece = rows.slice(at, max(1, size))
            at += piece.num_rows
            self._write(piece, number + at)

    def _write(self, rows: pa.Table, end: int) -> None:
        """These rows, the last before the number `end`, without what is refused for good."""
        piece = self._piece(rows, end)
        try:
            self.sink.write(piece)
        except Refused as refused:
            if piece.rows.num_rows == 0:
                raise Away("it refuses what has no rows") from refused
            self._take_apart(piece, rows, end, refused)
            return
        except (Away, Fenced, Closing):
            raise
        except Exception as error:
            self._stumble(piece, error)
            raise
        self._place = piece.end
        self.sent += int(self._is_wanted(piece.places).sum())
        if len(self._buried) > BURIED_MAX:
            self._buried = {place for place in self._buried if place >= self._place}

    def _piece(self, rows: pa.Table, end: int) -> Portion:
        """The rows that the sink is to have: those that are chosen, and were not refused before. A record that is to be
        whole stays so while any of its rows is wanted: the sink knows what was refused of it."""
        places = np.arange(end - rows.num_rows, end)
        if self._only is not None:
            chosen = np.asarray(self._only.holds(rows), np.bool_)
            rows, places = rows.filter(pa.array(chosen)), places[chosen]
        if self._buried:
            there = self._is_wanted(places)
            if not (self.sink.whole_frames and there.any()):
                rows, places = rows.filter(pa.array(there)), places[there]
        return Portion(rows, self._place, end, places)

    def _is_wanted(self, places: Ints) -> npt.NDArray[np.bool_]:
        """Those that are not among the dead letters."""
        if not self._buried:
            return np.ones(len(places), np.bool_)
        return np.array([int(place) not in self._buried for place in places], np.bool_)

    def _take_apart(self, piece: Portion, rows: pa.Table, end: int, refused: Refused) -> None:
        """Sets aside what is refused, and hands over the rest: by halves where nobody knows which rows it is."""
        if self._closing.is_set():
            raise Closing
        known = refused.rows or ({0: str(refused)} if piece.rows.num_rows == 1 else {})
        if known:
            at = list(known)
            self.bury(piece.rows.take(pa.array(at)), piece.places[at], list(known.values()))
            self._write(rows, end)
            return
        half = rows.num_rows // 2
        self._write(rows.slice(0, half), end - rows.num_rows + half)
        self._write(rows.slice(half), end)

    def bury(self, rows: pa.Table, places: Ints, whys: Sequence[str]) -> None:
        """Rows that are refused for good become dead letters, each once. On disk when it returns."""
        fresh = self._is_wanted(places)
        if not fresh.any():
            return
        try:
            self.letters.bury(rows.filter(pa.array(fresh)), places[fresh], np.array(whys, object)[fresh].tolist())
        except OSError as error:
            raise Away(f"a dead letter cannot be written: {error.strerror or error}") from error
        if not self._has_said:
            self._has_said = True
            self._say("error", f"sink {self.about.get('kind')}: it refuses rows, which become dead letters")
        self._buried.update(places.tolist())

    def _stumble(self, piece: Portion, error: Exception) -> None:
        """An error of ours: the third at the same place makes it go row by row, and the row is set aside."""
        at, times = self._stumbled
        times = times + 1 if at == piece.first else 1
        self._stumbled = (piece.first, times)
        if times < STUMBLES_MAX:
            return
        if piece.rows.num_rows > 1 and not self.sink.whole_frames:
            self._careful_to, self._stumbled = piece.end, (piece.first, times - 1)
        else:
            self.bury(piece.rows, piece.places, [f"{OURS}: {type(error).__name__}"] * piece.rows.num_rows)

    # --- letters that are sent again -------------------------------------------------------------------

    def _send_again(self) -> None:
        """What is asked for. What the sink stumbles over again and again is left: rows that come now must not wait."""
        while self._asked and not self._closing.is_set():
            asked = self._asked[0]
            asked.tries += 1
            asked.refused = 0
            for numbers, letters in self.letters.letters(asked.numbers):
                if asked.tries > AGAIN_TRIES_MAX:
                    asked.refused += len(numbers)
                    continue
                for there, rows in self._rows_of(numbers, letters):
                    size = self.sink.rows_max  # which may change with each write
                    for at in range(0, rows.num_rows, size):
                        self._write_again(rows.slice(at, size), there[at : at + size], asked)
            asked.gone = len(asked.numbers) - asked.sent - asked.refused
            asked.done.set()
            self._asked.popleft()

    def _rows_of(self, numbers: Ints, letters: pa.Table) -> Iterator[tuple[Ints, pa.Table]]:
        """The rows that letters are about: kept with them, or among the job's results."""
        if EVENT in letters.column_names:
            yield numbers, flat(letters)
            return
        for at, row in enumerate(letters.column("row").to_pylist()):
            for _, part in self.log.parts(range(row, row + 1)) if row is not None else ():
                yield numbers[at : at + 1], part

    def _write_again(self, rows: pa.Table, numbers: Ints, asked: Again) -> None:
        """What is refused again stays a letter."""
        name = f"again-{numbers[0]}-{numbers[-1]}"
        refused: set[int] = set()
        while len(refused) < rows.num_rows:
            left = [at for at in range(rows.num_rows) if at not in refused]
            given = list(range(rows.num_rows)) if self.sink.whole_frames else left
            try:
                self.sink.write(Portion(rows.take(pa.array(given)), self._place, self._place, again=name))
            except Refused as error:
                found = {given[at] for at in error.rows} or set(given if len(given) == 1 else ())
                if not found:
                    for half in (left[: len(left) // 2], left[len(left) // 2 :]):
                        self._write_again(rows.take(pa.array(half)), numbers[half], asked)
                    asked.refused += len(refused)
                    return
                refused |= found
            else:
                asked.sent += self.letters.close_letters(numbers[left].tolist(), "sent")
                break
        asked.refused += len(refused)


OURS = "an error of ours, see the server's log"


def rows_of(cursor: str) -> int:
    """How many rows are behind a place in the log."""
    return int(cursor.rpartition(".")[2])
