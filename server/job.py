"""One job: its states and what leads from one to the other, its thread, its log, its sinks.

docs/jobs.md has the states; TRANSITIONS in job_spec.py is the same as a table.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from mql.errors import MqlError
from mql.exec.checkpoint import Checkpoints
from mql.exec.engine import Running
from mql.exec.frames import Ended, Failed, Meta
from server.books import Books
from server.deadletters import DeadLogs
from server.delivery import Delivery
from server.departures import ANSWER_S, Departure, Leave, leaves, take_back
from server.groups import Groups
from server.job_run import LEAVE_S, LEFT, Outcome, Run
from server.job_spec import ALIVE, TRANSITIONS, Spec, has_episodes
from server.outline import Outline, forget_outline, read_outline
from server.programs.run import PythonRun
from server.resultlog import Keep, Length, LogReading, ResultLog
from server.seats import Seat, Seating, seats_of
from server.silences import SILENCED
from server.sinks import deliveries
from server.store import StoredJob
from server.templates import SINKS_MAX
from server.turns import Turn, Turns, Waits

if TYPE_CHECKING:
    from server.jobs import Jobs

T = TypeVar("T")
log = logging.getLogger("server")

BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
NO_SINKS: Mapping[int, Delivery] = {}
STEADY_S = 300.0
"""A run that lasted so long begins the backoff anew."""


class Job:
    """One job and its log. It has a turn while it runs, or waits to run again."""

    def __init__(self, jobs: Jobs, stored: StoredJob) -> None:
        self.jobs = jobs
        self.name = stored.name
        self.spec = Spec.model_validate(stored.spec)
        self.created_us = stored.created_us
        self.state = stored.state
        self.reason = stored.reason
        self.since_us = stored.updated_us
        self.running: Running | None = None
        self.attempts = 0
        home = jobs.directory(stored.name)
        keep = Keep(age_s=self.spec.keep_age, bytes=self.spec.keep_bytes)
        self.log = ResultLog(home / "results", keep, jobs.clock)
        self.checkpoints = Checkpoints(home / "checkpoints")
        self.books = Books(home, keeps_checkpoints=self.spec.keeps_checkpoints)
        self.dead = DeadLogs(home / "dead", self.spec.dead_letters.keep, jobs.clock)
        self.groups = Groups(home / "groups", self.log, jobs.clock)
        self.checkpointed: Mapping[str, Any] | None = None
        self.silence: str | None = None
        self.waits: str | None = None
        self.why: str | None = None
        self.fault: str | None = None
        self.next_us: int | None = None
        last = self.checkpoints.newest() if self.spec.keeps_checkpoints else None
        if self.spec.guarantee == "exactly_once":
            self.log.commit(Length(*last.notes["log"]) if last is not None else Length())
        if self.spec.keeps_checkpoints:
            self.dead.go_back({} if last is None else last.notes.get("dead"))
            self.books.go_back({} if last is None else last.notes.get("ledger", {}))
        self.sinks: tuple[Delivery, ...] = ()
        self.departures: tuple[Departure, ...] = ()
        self._told: str | None = None
        self._turn: Turn | None = None
        self._guard = threading.RLock()

    # --- what may be done ------------------------------------------------------------------------------

    def act(self, action: str) -> None:
        """start, stop, pause, resume or restart; MqlError where its state does not allow that."""
        with self._guard:
            if self.state not in TRANSITIONS[action]:
                allowed = [name for name, states in TRANSITIONS.items() if self.state in states]
                hint = f"It can {' or '.join(allowed)}." if allowed else "Delete it, or make another."
                raise MqlError(f'job "{self.name}" is {self.state}: it cannot {action}', hint=hint, code="wrong-state")
            self.jobs.store.acted(self.name, action)
            match action:
                case "start" | "resume":
                    self.begin()
                case "restart":
                    self.halt("stop")
                    self.begin()
                case _:
                    self.halt(action)

    def begin(self, adopted: Running | None = None) -> None:
        with self._guard:
            self.check_is_still()
            self._told = self.why = None
            self.attempts = 0
            self._set("starting", None)
            # What a process gives and takes may have to be waited for: it has a thread of its own.
            turns = self.jobs.turns if self.spec.artifact is None else Turns(1, f"mql-job-{self.name}")
            self._turn = Turn(turns, self._live(adopted))
            self._turn.begin()

    def halt(self, how: str) -> None:
        """Stops or pauses it, and waits until it has."""
        with self._guard:
            self.tell(how)
            self.join()
            if self.state not in ("completed", "failed"):
                self._set("paused" if how == "pause" else "stopped", None)

    def become(self, then: Callable[[], Spec], action: str, why: str, outline: Outline | None = None) -> None:
        """Goes on as something else: where it runs, from the checkpoint that it takes now, and readers stay. `then`
        says as what, once it stands still; `outline`: that of its rows, where it is another."""
        with self._guard:
            if self.state == "completed":
                hint = "Make another job."
                raise MqlError(f'job "{self.name}" is completed: it cannot {action}', hint=hint, code="wrong-state")
            if self.state in ALIVE:
                self.why = why
                self.tell("change")
                self.join()
                if self.is_busy:
                    self.tell("stop")
                    self._set("stopped", "it did not leave in time to be changed")
                self.check_is_still()
            runs = self.state in ALIVE  # it may have ended meanwhile, by itself
            try:
                spec = then()
                home = self.jobs.directory(self.name)
                if outline is not None:
                    forget_outline(home)  # where all ends here, it is made anew of whichever query the job has then
                self.jobs.store.change_job(self.name, spec.model_dump(mode="json"), action)
                self.take(spec)
                self._say("info", why)
                if outline is not None:
                    outline.write(home)
                    self.outline = outline
                    self.jobs.offer_anew(self)
                    self.close_sinks()
                    self.open_sinks()
            finally:
                if runs:
                    self.begin()

    def take(self, spec: Spec) -> None:
        """What is said of it from now on."""
        self.spec = spec
        self.log.keep = Keep(age_s=spec.keep_age, bytes=spec.keep_bytes)
        self.dead.keep_for(spec.dead_letters.keep)

    @property
    def is_busy(self) -> bool:
        """It runs, or waits to run again."""
        return self._turn is not None and not self._turn.is_over

    def check_is_still(self) -> None:
        if self.is_busy:
            hint = "Try again in a moment."
            raise MqlError(f'job "{self.name}" has not stopped yet', hint=hint, code="wrong-state")

    def tell(self, what: str) -> None:
        self._told = what
        self.ring()

    def ring(self) -> None:
        """Something waits for it."""
        turn = self._turn
        if turn is not None:
            turn.ring()

    def complete(self, why: str) -> None:
        """Its run is over, though its query is not."""
        with self._guard:
            if self.state in ALIVE and self._told is None:
                self.why = why
                self.tell("complete")

    def wait_for(self, what: str | None) -> None:
        """What it waits for before it can go on, to be seen by all who look; None when it goes on."""
        if what == self.waits:
            return
        self.waits = what
        self.reason = what
        self._say("error" if what else "info", f"waits: {what}" if what else "goes on")

    @property
    def readers(self) -> int:
        """Who reads its results, besides its own sinks."""
        return self.log.readers - len(self.sinks) - len(self.departures)

    @property
    def trouble(self) -> str | None:
        """Why less comes of it than was to be expected."""
        running = self.running
        own = None if running is None else running.status().get("trouble")
        return self.waits or own or self.silence or self._trouble_of_sinks()

    def _trouble_of_sinks(self) -> str | None:
        told = ((sink.about["kind"], sink.told()["trouble"]) for sink in self.sinks)
        return next((f"sink {kind}: {why}" for kind, why in told if why), None)

    def join(self) -> None:
        turn = self._turn
        if turn is not None:
            turn.join(LEAVE_S)

    def change(self, spec: Spec) -> None:
        """New labels, owner, restart policy or retention: at once, without a restart."""
        with self._guard:
            self.take(spec)
            self.jobs.store.change_job(self.name, self.spec.model_dump(mode="json"))

    def meta(self) -> Meta:
        """What a reader of its results is told first."""
        columns = self.columns()
        return Meta(
            {
                "id": self.name,
                "schema": [{"name": name, "type": type} for name, type in columns],
                "guarantee": self.spec.guarantee,
                "state": self.state,
            }
        )

    def columns(self) -> Sequence[tuple[str, str]]:
        running = self.running
        if running is None or self.spec.artifact is not None:
            return self.outline.columns
        plan = running.execution.plan
        own = [(name, str(type)) for name, type in plan.result.columns]
        return [*own, (SILENCED, "VARCHAR")] if has_episodes(plan) else own

    def read(self, cursor: str | None, *, live: bool) -> LogReading:
        reading = self.log.reading(self.meta(), cursor, live=live)
        if self.state not in ALIVE:
            reading.end(Ended(self.state, {"detail": self.reason}))
        return reading

    def open_sinks(self) -> None:
        """They go on sending while the job stands still, until it is deleted or the server stops."""
        self._go_on_leaving()
        if not self.spec.sinks:
            return
        self._clear_seats()
        try:
            self.sinks = self._sinks_of(self.spec.sinks, seats_of(self.spec.sinks, self.spec.seats))
        except MqlError as error:  # what was allowed when it was made may not be any more: the job goes on without
            self.say("error", f"its sinks cannot be opened: {error.message}")
        self._start_sinks()

    def _sinks_of(
        self, sinks: tuple[Any, ...], seats: Sequence[Seat], kept: Mapping[int, Delivery] = NO_SINKS
    ) -> tuple[Delivery, ...]:
        jobs = self.jobs
        found = deliveries(
            sinks,
            seats,
            kept,
            self.name,
            self.log,
            self._home_of_sinks,
            self.outline,
            jobs.engine,
            jobs.keeper.settings,
            jobs.clock,
            self.dead,
            self.say,
            lambda rows: jobs.silences.marked(self.name, self.spec.labels, rows),
            lambda: self.silence,
        )
        return tuple(found)

    def change_sinks(self, before: Spec, spec: Spec, seating: Seating) -> None:
        """Other sinks: who stays is not touched; who is taken away, or changed, ends what it is writing by itself. The
        guard is not held for that, and who asked waits a moment at most."""
        with self._guard:
            if self.spec is not before:
                raise MqlError(f'job "{self.name}" was changed meanwhile', hint="Try again.", code="conflict")
            self._check_places(spec, seating)
            stays = {sink.seat.number: sink for sink in self.sinks if sink.seat.number not in seating.changed}
            found = self._sinks_of(spec.sinks, seating.seats, stays)
            departures = tuple(self._departing(before, seating))
            try:
                for one in departures:
                    one.leave.note(self._home_of_sink(one.leave.seat))
                self.jobs.store.change_job(self.name, spec.model_dump(mode="json"))
            except (SQLAlchemyError, OSError):
                for one in departures:
                    take_back(self._home_of_sink(one.leave.seat))
                raise
            changed = [sink for sink in self.sinks if sink.seat.number in seating.changed]
            after = {sink.seat.number: sink for sink in found}
            for sink in changed:
                after[sink.seat.number].take_place_of(sink)
            self.take(spec)
            self.sinks = found
            self.departures += departures
            for one in departures:
                one.start()
            self._clear_seats()
            self._start_sinks()
        for line in seating.told:
            self.say("info", line)
        end_s = time.monotonic() + ANSWER_S
        for join in [one.join for one in departures] + [sink.join for sink in changed]:
            join(max(0.0, end_s - time.monotonic()))

    def _check_places(self, spec: Spec, seating: Seating) -> None:
        """No sink begins to write to where one that leaves still writes, and those that leave are not too many."""
        numbered = zip(seating.seats, spec.sinks, strict=True)
        new = [sink for seat, sink in numbered if seat.number not in {sink.seat.number for sink in self.sinks}]
        for one in self.departures:
            if any(sink.target == one.leave.sink.target for sink in new):
                told = f"sink {one.leave.seat.number} ({one.leave.sink.kind}) is leaving, and still writes there"
                raise MqlError(told, hint="Try again in a moment.", code="conflict")
        if len(self.departures) + len(seating.gone) > SINKS_MAX:
            told = f"{len(self.departures)} sinks are leaving already"
            raise MqlError(told, hint="Try again when they are gone.", code="conflict")

    def _departing(self, before: Spec, seating: Seating) -> Iterator[Departure]:
        seats = seats_of(before.sinks, before.seats)
        said = {seat.number: sink for seat, sink in zip(seats, before.sinks, strict=True)}
        until, now_us = self.log.committed.rows, self.jobs.clock.now_us()
        for sink in self.sinks:
            number = sink.seat.number
            if number in seating.gone:
                leave = Leave(seat=sink.seat, sink=said[number], until=until, since_us=now_us)
                yield Departure(leave, sink, self._home_of_sink(sink.seat), self.say, self._departed)

    def _departed(self, departure: Departure) -> None:
        with self._guard:
            self.departures = tuple(one for one in self.departures if one is not departure)

    def _go_on_leaving(self) -> None:
        """Sinks that were leaving when the last server stopped or crashed. One that the store has among the job's is to
        stay: the change was never made."""
        staying = {seat.number for seat in seats_of(self.spec.sinks, self.spec.seats)}
        leaving = {one.leave.seat.number for one in self.departures}
        for home, leave in leaves(self._home_of_sinks):
            if leave is None or leave.seat.number in staying:
                take_back(home)
            elif leave.seat.number not in leaving:
                try:
                    (sink,) = self._sinks_of((leave.sink,), (leave.seat,))
                except MqlError as error:
                    self.say("error", f"sink {leave.seat.number} ({leave.sink.kind}) is given up: {error.message}")
                    take_back(home)
                    continue
                departure = Departure(leave, sink, home, self.say, self._departed)
                self.departures += (departure,)
                departure.start()
                sink.start(self._shut_out)

    @property
    def _home_of_sinks(self) -> Path:
        return self.jobs.directory(self.name) / "sinks"

    def _home_of_sink(self, seat: Seat) -> Path:
        return self._home_of_sinks / str(seat.number)

    def _clear_seats(self) -> None:
        """What sinks have left that are not there any more."""
        seats = [*seats_of(self.spec.sinks, self.spec.seats), *(one.leave.seat for one in self.departures)]
        numbers = {str(seat.number) for seat in seats}
        if self._home_of_sinks.is_dir():
            for home in self._home_of_sinks.iterdir():
                if home.name not in numbers:
                    shutil.rmtree(home, ignore_errors=True)

    def _start_sinks(self) -> None:
        """Those that have not begun, and those that somebody else had shut out."""
        for sink in self.sinks:
            sink.start(self._shut_out)

    def _shut_out(self, why: str) -> None:
        """Somebody else writes to where a sink of this job does: its run fails, and begins again with the sink as it
        does after other failures."""
        self.fault = why
        self.ring()

    @cached_property
    def outline(self) -> Outline:
        """What is known of its results; told anew only where that was never written down."""
        jobs = self.jobs
        found = read_outline(jobs.directory(self.name))
        if found is None:
            bound = jobs.bound(self.spec)
            found = jobs.outline(self.spec, jobs.engine.plan(bound.query, bound.values))
            found.write(jobs.directory(self.name))
        return found

    def standing(self) -> str | None:
        """Why no rows come of it, for those who read them."""
        return None if self.state in ("starting", "running") else f"job {self.name} is {self.state}"

    def close_sinks(self) -> None:
        for sink in self.sinks:
            sink.close()

    def end_sinks(self, for_good: str | None = None) -> None:
        """Those that leave too. `for_good`: the job was deleted, and none of them comes again."""
        for sink in self.sinks:
            sink.close(for_good=for_good)
        for one in self.departures:
            one.end(for_good)

    def ask_sinks_to_close(self) -> None:
        for sink in self.sinks:
            sink.ask_to_close()
        for one in self.departures:
            one.break_off()

    # --- its life --------------------------------------------------------------------------------------

    def _live(self, adopted: Running | None) -> Waits[None]:
        """Runs, and runs again after failures, until it is told to stop or there is nothing more to do."""
        while True:
            self.fault = None
            self._start_sinks()
            began_s = self.jobs.clock.monotonic_s()
            number = self._noted(lambda: self.jobs.store.begin_run(self.name))
            outcome = yield from self._run(adopted)
            adopted = None
            if number is not None:
                self._end_run(number, outcome)
            if outcome.kind in ("left", "changed"):
                return
            if outcome.kind != "failed":
                self._say("info", outcome.kind + (f": {outcome.reason}" if outcome.reason else ""))
            if outcome.kind == "completed":
                self._set("completed", outcome.reason)
            if outcome.kind in ("stopped", "paused", "completed"):
                self.log.finish(Ended(outcome.kind))
                return
            if self.jobs.clock.monotonic_s() - began_s > STEADY_S:
                self.attempts = 0
            runs_again = yield from self._wait_to_run_again(outcome)
            if not runs_again:
                return

    def _wait_to_run_again(self, outcome: Outcome) -> Waits[bool]:
        """Whether it does, after a failure; when it does, the backoff is over."""
        self._say("error", f"failed: {outcome.reason}")
        gone = self.jobs.missing(self)
        if gone is not None:
            outcome = Outcome("failed", f'job "{gone}", whose results it reads, was deleted')
        if outcome.is_final or gone is not None or self.spec.restart == "never" or self.attempts >= self.spec.attempts:
            self._set("failed", outcome.reason)
            self.log.finish(Failed({"code": "job-failed", "detail": outcome.reason, "hint": None, "retryable": False}))
            return False
        wait_s = BACKOFF_S[min(self.attempts, len(BACKOFF_S) - 1)]
        self.attempts += 1
        self._set("restarting", outcome.reason)
        self._say("info", f"runs again in {wait_s:g} s (attempt {self.attempts})")
        until_s = time.monotonic() + wait_s
        while self._told is None and (rest_s := until_s - time.monotonic()) > 0:
            yield rest_s
        if self._told is not None:
            if self._told == "complete":
                self._set("completed", self.why)
            if self._told not in ("leave", "change"):
                self.log.finish(Ended(LEFT[self._told]))
            return False
        return True

    def _run(self, adopted: Running | None) -> Waits[Outcome]:
        """One run, from its start to its end, whatever that is."""
        try:
            return (yield from (Run if self.spec.artifact is None else PythonRun)(self, adopted).go())
        except MqlError as error:
            return Outcome("failed", error.message + (f". {error.hint}" if error.hint else ""))
        except Exception as error:
            log.exception("job %s", self.name)
            return Outcome("failed", f"{type(error).__name__}: {error}")
        finally:
            self.running = self.waits = None

    def runs(self) -> None:
        self._set("running", None)

    @property
    def told(self) -> str | None:
        return self._told

    def _end_run(self, number: int, outcome: Outcome) -> None:
        self._noted(lambda: self.jobs.store.end_run(number, outcome.kind, outcome.reason))

    def _say(self, level: str, text: str) -> None:
        self._noted(lambda: self.jobs.store.log(self.name, level, text))

    def _noted(self, note: Callable[[], T]) -> T | None:
        """A store that is away for a while does not end a job; what it would have noted is in the server's log."""
        try:
            return note()
        except SQLAlchemyError as error:
            log.warning("job %s: the store is away: %s", self.name, error)
            return None

    def say(self, level: str, text: str) -> None:
        self._say(level, text)

    def _set(self, state: str, reason: str | None) -> None:
        self.since_us = self.jobs.clock.now_us()
        self.state, self.reason = state, reason
        self._noted(lambda: self.jobs.store.set_state(self.name, state, reason))
