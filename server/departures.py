"""Sinks that are taken away while their job runs: each gets the rows that were there by then, ends the write that it is
amid, and is gone. How long that takes is up to the system behind it, so nobody waits for it.

What leaves is noted beside its place, before the job's spec is without it: after a crash it goes on leaving.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mql.exec.files import replace_file
from server.delivery import END_S, JOIN_S, Delivery
from server.seats import Seat
from server.sinks import AnySink

NOTE = "leaving.json"
DRAIN_S = 5.0
"""For its last rows. Who is taken away because it takes none is not waited for longer."""
ANSWER_S = 1.0
"""Who takes a sink away is answered when it is gone, and after that long in any case."""


class Leave(BaseModel):
    """A sink that is taken away, as it was said. `until`: the number behind the last row that it is to have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seat: Seat
    sink: AnySink
    until: int = Field(ge=0)
    since_us: int

    def note(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        replace_file(home / NOTE, self.model_dump_json().encode())


def leaves(homes: Path) -> Iterator[tuple[Path, Leave | None]]:
    """What is noted of sinks that leave, each with its directory; None where nobody can read it."""
    for note in sorted(homes.glob(f"*/{NOTE}")):
        try:
            yield note.parent, Leave.model_validate_json(note.read_bytes())
        except ValidationError:
            yield note.parent, None


def take_back(home: Path) -> None:
    """It does not leave after all."""
    (home / NOTE).unlink(missing_ok=True)


class Departure:
    """One sink that leaves, in a thread of its own. `over` is called when it is gone; `say` notes in the job's log what
    somebody should know of."""

    def __init__(
        self,
        leave: Leave,
        sink: Delivery,
        home: Path,
        say: Callable[[str, str], None],
        over: Callable[[Departure], None],
    ) -> None:
        self.leave = leave
        self.sink = sink
        self._home = home
        self._say = say
        self._over = over
        self._is_broken_off = False
        self._thread = threading.Thread(target=self._go, name=f"mql-leaving-{sink.name}", daemon=True)

    def start(self) -> None:
        self.sink.take_until(self.leave.until)
        self._thread.start()

    def join(self, within_s: float) -> bool:
        """Whether it is gone."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def break_off(self) -> None:
        """The server stops: the next one goes on with it."""
        self._is_broken_off = True
        self.sink.ask_to_close()

    def end(self, why: str | None = None) -> None:
        """It has no more time; `why`: its job was deleted, and what leaves is gone with it."""
        self._is_broken_off = True
        self.sink.close(for_good=why)
        self._thread.join(JOIN_S)

    def told(self) -> dict[str, Any]:
        return {**self.sink.told(), "leaving": True, "leaving_since_us": self.leave.since_us}

    def _go(self) -> None:
        lacks = self.sink.drain(DRAIN_S)
        if self._is_broken_off:
            return
        name = f"sink {self.leave.seat.number} ({self.leave.sink.kind})"
        if lacks:
            self._say("error", f"{name} is taken away without its last {lacks} rows")
        if not self.sink.close(for_good="the sink was taken away", within_s=END_S):
            self._say("error", f"{name} is given up: it has not ended what it was writing for {END_S:g} s")
        if self._is_broken_off:
            return
        take_back(self._home)
        shutil.rmtree(self._home, ignore_errors=True)
        self._over(self)
