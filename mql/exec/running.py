"""A query that runs: one execution of a plan, and the askers who share it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mql.errors import MqlError
from mql.exec.aside import Aside, Late, aside_of, late_between, late_rows, renamed_late, unread_mark
from mql.exec.backfill import SEAM, Backfill, Stopped
from mql.exec.clock import Clock
from mql.exec.collect import Collector
from mql.exec.deadletters import DeadLetter, Marks
from mql.exec.drift import Drift
from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, Warn
from mql.exec.graph import Graph
from mql.exec.hub import Feed, Hub
from mql.exec.items import MAX_US, MIN_US, State, Tick
from mql.exec.ledger import Settled, Tally, ledger_of, settled_together
from mql.exec.results import Cursor, Reading, Results, cursor_of
from mql.exec.runtimes import Runtime
from mql.exec.splits import Splits
from mql.exec.state import Snapshot, together
from mql.exec.task import Task
from mql.planner.physical import SPLITS_MAX, CountWindows, Final, Held, OperatorSpec, Plan, SelectRows, Sessions

if TYPE_CHECKING:
    from mql.exec.family import Member

TICK_US = 100_000
PROGRESS_US = 1_000_000
SHOWN_MAX = 100
LINGER_LEAST_S = 10.0
"""How long a query waits for its first reader, however short its linger is."""

Subscription = Reading


PRIORITIES = ("low", "normal", "high")


@dataclass(frozen=True, slots=True)
class Options:
    """How a query is run.

    `on_lag`: conflate, drop or disconnect (None: by the kind of result). `max_rows`: end after so many.
    `timeout_s`: end after so long. `name`: what listings show. `early_us`: early values every so often where the
    query says no EMIT of its own (the console and the terminal ask for a second). `linger_s`: how long the query
    outlives its last reader. `route`: "auto", "stream" or "batch" for bounded queries. `source`: what is read where the
    query says no FROM. `workers`: on so many of the runtime's workers, where it has as many. `priority`: who goes first
    where there is more to do than can be done, and who loses last: low, normal or high.
    """

    on_lag: str | None = None
    max_rows: int | None = None
    timeout_s: float | None = None
    name: str | None = None
    early_us: int | None = None
    linger_s: float = 30.0
    route: str = "auto"
    source: str | None = None
    workers: int | None = None
    priority: str = "normal"

    @property
    def rank(self) -> int:
        return PRIORITIES.index(self.priority)


class Execution:
    """One run of a plan, for all who ask the same. Ends once, by whatever comes first, and says why."""

    def __init__(self, plan: Plan, runtime: Runtime, clock: Clock, results: Results, options: Options) -> None:
        self.plan = plan
        self.results = results
        self.options = options
        self.askers: tuple[Running, ...] = ()
        self.rank = options.rank
        self.state = "starting"
        self.trouble: str | None = None
        self.started_us = clock.now_us()
        self.ended_us: int | None = None
        self.graph: Graph | None = None
        self.collector: Collector | None = None
        self.hubs: tuple[Hub, ...] = ()
        self.feeds: tuple[Feed, ...] = ()
        self.backfills: tuple[Backfill, ...] = ()
        self.caught_up = threading.Barrier(len(plan.scans))
        """Where scans that have read their history wait for each other."""
        self.not_before_us = MIN_US
        self.carried = 0
        """Events that its state held when it was restored: they are its own as much as those that come."""
        self.private = False
        """It waits for its reader, so nobody else may be one."""
        self.barrier_at: Cursor | None = None
        """What was told before the last barrier ends here."""
        self.on_over: Callable[[Execution], None] = lambda execution: None
        self.lost: Lost = Lost()
        self._clock = clock
        self._runtime = runtime
        self._epoch = SEAM
        self._states: dict[str, Mapping[int, State]] = {}
        self._late_marks: dict[str, int] = {}
        self._settled: dict[str, Settled] = {}
        self.on_settled: Callable[[Task], None] = lambda task: None
        """Called at a barrier with a task that it has passed."""
        self._whole = threading.Event()
        self._snapshots = threading.Lock()
        self._paced = any(speaks_early(spec) for stage in plan.stages for spec in stage.operators) or any(
            stage.parallel == "one" and plan.result.keyed for stage in plan.stages
        )
        self._drifts: tuple[Drift, ...] = ()
        self._troubles: dict[int, str | None] = {}
        self._next_tick_us = 0
        self._next_progress_us = 0
        self._rate = 0.0
        self._rate_events = 0
        self._rate_at_us = self.started_us
        self._guard = threading.RLock()

    # --- its life --------------------------------------------------------------------------------------

    def end(self, reason: str, data: Mapping[str, Any] | None = None) -> None:
        """Nothing more comes; readers get what is there, and then that it has ended."""
        self._over(reason, Ended(reason, {**(data or {}), **self.numbers()}))

    def fail(self, error: Exception) -> None:
        """An error ends the query, and no other."""
        if not isinstance(error, Stopped):
            self._over("failed", Failed(problem_of(error)))

    @property
    def over(self) -> bool:
        return self.ended_us is not None

    def _over(self, state: str, frame: Ended | Failed) -> None:
        with self._guard:
            if self.over:
                return
            self.ended_us = self._clock.now_us()
            self.state = state
        self.lost.tell(self.results)
        self.results.finish(frame)
        self._whole.set()
        self.caught_up.abort()
        for backfill in self.backfills:
            backfill.cancel()
        for hub, feed in zip(self.hubs, self.feeds, strict=True):
            hub.detach(feed)
        if self.graph is not None:
            self._runtime.release(self.graph.tasks)
        if self.collector is not None:
            self.collector.close()
        self.on_over(self)

    def beat(self, now_us: int) -> None:
        """Called ten times a second: ticks for the operators, once a second how it goes for the readers."""
        if self.over:
            return
        self.lost.tell(self.results)
        if now_us >= self._next_tick_us:
            self._next_tick_us = now_us + (TICK_US if self._paced else PROGRESS_US)
            if self.graph is not None:
                for entry in self.graph.entries:
                    entry.put(Tick(now_us))
        if now_us >= self._next_progress_us:
            self._next_progress_us = now_us + PROGRESS_US
            self._measure(now_us)
            self._look_for_drift()
            self.results.progress(self.numbers())
        options = self.options
        if options.timeout_s is not None and now_us - self.started_us >= options.timeout_s * 1e6:
            self.end("timeout")

    def _look_for_drift(self) -> None:
        """A source's events may have changed their shape; the query does not, and says so."""
        shapes = [hub.source.info.shape for hub in self.hubs]
        if not self._drifts:
            self._drifts = tuple(Drift(scan, shape) for scan, shape in zip(self.plan.scans, shapes, strict=False))
        for drift, shape in zip(self._drifts, shapes, strict=False):
            detail = drift.look(shape)
            if detail is not None:
                self.results.say(Warn({"code": "shape-drift", "detail": detail}))

    def fellows(self, count: int) -> Sequence[Running]:
        """Who shares it, the newest of them."""
        return self.askers[-count:]

    def on_trouble(self, scan: int, trouble: str | None) -> None:
        """Why nothing comes of one of its sources, or that all is well again."""
        self._troubles[scan] = trouble
        self.trouble = next((one for one in self._troubles.values() if one is not None), None)

    def others_us(self, feed: Feed) -> int:
        """How far the watermarks of the other sources have come, of those that have one."""
        others = [other.watermark_us for other in self.feeds if other is not feed and other.watermark_us > MIN_US]
        return min(others, default=MIN_US)

    def go_live(self) -> None:
        """History is done: from now on the ring lets go of what slow readers have not had."""
        self.results.keep_all = False
        self.results.on_room()
        if not self.over:
            self.state = "running"

    # --- barriers --------------------------------------------------------------------------------------

    @property
    def sharing(self) -> int:
        """How many queries the plan is shared by."""
        return 1

    def runs_by(self) -> tuple[Plan, Graph | None]:
        """The plan, and its tasks."""
        return self.plan, self.graph

    def snapshot(self, timeout_s: float = 30.0) -> Snapshot:
        """What the running query knows, and the offsets up to which it knows it. One at a time; live queries only."""
        assert self.feeds
        with self._snapshots:
            self._epoch += 1
            self._states = {}
            self.barrier_at = None
            self._whole.clear()
            for feed in self.feeds:
                feed.ask_barrier(self._epoch)
            if not self._whole.wait(timeout_s) or self.over:
                raise MqlError("the query ended, or gave no snapshot in time", code="no-snapshot")
            splits = together(Splits.together(feed.reached.values()) for feed in self.feeds)
            positions = {
                split + scan * SPLITS_MAX: offset
                for scan, feed in enumerate(self.feeds)
                for split, offset in feed.passed.items()
            }
            unread = {
                unread_mark(scan, share): handed.malformed
                for scan, feed in enumerate(self.feeds)
                for share, handed in feed.handed.items()
            }
            assert self.graph is not None
            ledger = self._ledger_at_barrier(self.graph)
            return Snapshot(dict(self._states), splits, positions, unread | self._late_marks, ledger)

    def on_snapshot(self, task: str, epoch: int, states: Mapping[int, State]) -> None:
        """What a task knows at a barrier, on its thread."""
        if epoch == self._epoch:
            assert self.graph is not None
            passed = next(one for one in self.graph.tasks if one.name == task)
            self._late_marks |= {one.mark: one.rows.total for one in self.late_rows() if one.task == task}
            self._settled[task] = passed.settled
            self.on_settled(passed)
            self._states[task] = states
            self._look_whether_whole()

    def on_barrier(self, epoch: int) -> None:
        """A barrier has passed all tasks."""
        if epoch == SEAM and self.feeds:
            several = {
                scan.source: dict(feed.positions) for scan, feed in zip(self.plan.scans, self.feeds, strict=True)
            }
            offsets = several if len(self.feeds) > 1 else dict(self.feeds[0].positions)
            self.results.say(Phase({"phase": "live", "share": 1.0, "offsets": offsets}))
        elif epoch == self._epoch:
            self.barrier_at = self.results.place
            self._look_whether_whole()

    def _look_whether_whole(self) -> None:
        """The barrier has passed all tasks, and all of them have said what they knew: the last says so after it."""
        assert self.graph is not None
        if self.barrier_at is not None and len(self._states) == len(self.graph.tasks):
            self._whole.set()

    def join_at(self, us: int) -> None:
        """Windows that start earlier were joined in their midst: they are not told."""
        self.not_before_us = max(self.not_before_us, us)
        if self.graph is not None:
            for task in self.graph.tasks:
                for operator in task.operators:
                    if hasattr(operator, "not_before_us"):
                        operator.not_before_us = max(operator.not_before_us, us)

    def has_begun(self) -> bool:
        """Events have come: whoever joins now is late."""
        return not self.feeds or any(feed.seen > 0 for feed in self.feeds) or self.over

    def frontier_us(self) -> int:
        """The event time before which this run has seen events already."""
        return max((hub.newest_us for hub in self.hubs), default=MIN_US)

    # --- what became of events -------------------------------------------------------------------------

    def ledger(self) -> Mapping[str, int]:
        """events = emitted_from + filtered + late + malformed + sampled + skipped + dropped + in_state."""
        feeds, backfills, graph = self.feeds, self.backfills, self.graph
        if graph is not None:
            settled = self._settled_in(graph, {task.name: task.settled for task in reversed(graph.tasks)})
        else:
            filtered = sum(backfill.filtered for backfill in backfills)
            settled = Settled(filtered=filtered, sampled=sum(backfill.sampled for backfill in backfills))
        handed = Tally()
        for tally in (tally for feed in feeds for tally in feed.tallies):
            handed.add(tally)
        for backfill in backfills:
            handed.add(Tally(backfill.decoded, backfill.malformed, backfill.skipped))
        return ledger_of(handed, settled if graph is not None else replace(settled, taken=handed.seen), self.carried)

    def _ledger_at_barrier(self, graph: Graph) -> Mapping[str, int]:
        """The same as of the last barrier, which has passed all tasks."""
        handed = Tally()
        for tally in (tally for feed in self.feeds for tally in feed.handed.values()):
            handed.add(tally)
        return ledger_of(handed, self._settled_in(graph, self._settled), self.carried)

    def _settled_in(self, graph: Graph, found: Mapping[str, Settled]) -> Settled:
        return settled_together(found.values(), sum(found[task.name].taken for task in self._first_tasks(graph)))

    def numbers(self) -> dict[str, Any]:
        """What a progress frame says."""
        ledger = self.ledger()
        watermark = self.watermark_us()
        data = numbers_of(ledger, self.results.rows, watermark, self.lag_ms(watermark), self.trouble)
        reading = [backfill for backfill in self.backfills if not backfill.ended]
        if reading:
            slowest = min(reading, key=lambda backfill: backfill.share)
            data["share"] = round(slowest.share, 4)
            data["eta_s"] = slowest.eta_s
        return data

    def status(self) -> Mapping[str, Any]:
        return {
            **self.numbers(),
            "state": self.state,
            "started_us": self.started_us,
            "ended_us": self.ended_us,
            "rate": self.rate,
            "readers": self.results.readers,
            "workers": self.workers,
            "priority": PRIORITIES[self.rank],
        }

    def raise_to(self, rank: int) -> None:
        """Who shares a plan has it run with the highest priority of all who ever shared it."""
        if rank > self.rank:
            self.rank = rank
            for feed in self.feeds:
                feed.rank = rank
            for task in self.graph.tasks if self.graph is not None else ():
                task.rank = rank

    @property
    def rate(self) -> float:
        """Events a second."""
        return round(self._rate, 1)

    @property
    def workers(self) -> int:
        """On how many workers its tasks may run."""
        return min(self.options.workers or self._runtime.workers, self._runtime.workers)

    def watermark_us(self) -> int | None:
        found = min((feed.watermark_us for feed in self.feeds), default=MIN_US)
        if self.collector is not None:
            found = max(found, self.collector.watermark_us)
        return found if MIN_US < found < MAX_US else None

    def detector(self) -> Mapping[str, int]:
        """How the detector of its ANOMALY clause does; empty where it has none, or has judged no window yet."""
        found: dict[str, int] = {}
        for task in self.graph.tasks if self.graph is not None else ():
            for operator in task.operators:
                for name, number in getattr(operator, "numbers", {}).items():
                    found[name] = found.get(name, 0) + number
        return found

    def late(self, n: int) -> pa.Table:
        """The newest late rows that are kept."""
        tables = [found for one in self.late_rows() if (found := one.rows.between()) is not None]
        if not tables:
            return pa.table({})
        rows = pa.concat_tables(tables, promote_options="default")
        return renamed_late(rows.slice(max(0, rows.num_rows - n)))

    def late_rows(self) -> Iterator[Late]:
        """Where late rows are set aside."""
        return late_rows(self.plan, self.graph)

    def marks(self) -> Marks:
        """How many events have been set aside until now."""
        unread = {
            unread_mark(scan, share): tally.malformed
            for scan, feed in enumerate(self.feeds)
            for share, tally in enumerate(feed.tallies)
        }
        history = {f"history.{scan}": backfill.letters.total for scan, backfill in enumerate(self.backfills)}
        return unread | history | {one.mark: one.rows.total for one in self.late_rows()}

    def aside(self, since: Marks, until: Marks) -> Sequence[Aside]:
        """The events that were set aside between these, as far as they are kept, for each source."""
        late = [(one.scan, found) for one in self.late_rows() if (found := late_between(one, since, until)) is not None]
        return [
            aside_of(scan.source, tuple(self._unread(number, since, until)), [of for at, of in late if at == number])
            for number, scan in enumerate(self.plan.scans)
        ]

    def _unread(self, scan: int, since: Marks, until: Marks) -> Iterator[tuple[Sequence[DeadLetter], int]]:
        """Letters, and how many events they are of, of each of a source's shares."""
        for share in range(len(self.feeds[scan].tallies) if self.feeds else 0):
            mark = unread_mark(scan, share)
            first, end = since.get(mark, 0), until.get(mark, 0)
            yield self.feeds[scan].unread(share, first, end), end - first
        if self.backfills:
            first, end = (marks.get(f"history.{scan}", 0) for marks in (since, until))
            yield self.backfills[scan].letters.between(first, end), end - first

    def _first_tasks(self, graph: Graph) -> Iterator[Task]:
        """The tasks that take events in: of each scan's stages the first with operators."""
        if len(graph.feeds) == 1:
            yield from next((stage for stage in graph.stages if stage[0].operators), ())
            return
        for stage, tasks in zip(self.plan.stages, graph.stages, strict=True):
            if stage.input == "scan":
                yield from tasks

    def lag_ms(self, watermark: int | None) -> float | None:
        if watermark is None or self.over:
            return None
        return max(0.0, (self._clock.now_us() - watermark - self.plan.scan.lateness_us) / 1000)

    def _measure(self, now_us: int) -> None:
        events = self.ledger()["events"]
        seconds = (now_us - self._rate_at_us) / 1e6
        if seconds > 0:
            self._rate = (events - self._rate_events) / seconds
        self._rate_events, self._rate_at_us = events, now_us


NOT_MATCHED = ("filtered", "late", "malformed", "sampled", "skipped")


def numbers_of(
    ledger: Mapping[str, int], rows: int, watermark_us: int | None, lag_ms: float | None, trouble: str | None
) -> dict[str, Any]:
    """How it goes with a query, as a progress frame says it."""
    return {
        "scanned": ledger["events"],
        "matched": ledger["events"] - sum(ledger[kind] for kind in NOT_MATCHED),
        **{kind: ledger[kind] for kind in (*NOT_MATCHED, "dropped", "in_state")},
        "rows": rows,
        "watermark": watermark_us,
        "lag_ms": lag_ms,
        "trouble": trouble,
    }


class Lost:
    """Rows that a query could not take in time: counted as they go, told at most ten times a second."""

    def __init__(self) -> None:
        self._rows = 0
        self._why = ""
        self._guard = threading.Lock()

    def add(self, rows: int, why: str) -> None:
        with self._guard:
            self._rows += rows
            self._why = why

    def tell(self, results: Results) -> None:
        with self._guard:
            rows, self._rows = self._rows, 0
        if rows:
            results.say(
                Warn({"code": "dropped", "detail": f"{rows} events were left out: {self._why}", "events": rows})
            )
            here = str(results.place)
            results.say(Gap({"rows": None, "events": rows, "from": here, "to": here, "why": self._why}))


class Running:
    """One asker's view of an execution, which others may share, or of its part in a family's."""

    def __init__(
        self,
        execution: Execution | Member,
        text: str,
        options: Options,
        start: Cursor,
        not_before_us: int,
        clock: Clock,
        explainer: Callable[[str], str],
    ) -> None:
        self.id = f"q-{secrets.token_hex(6)}"
        self.name = options.name
        self.text = text
        self.params: Mapping[str, Any] = {}
        self.plan_hash = execution.plan.hash
        self.columns: Sequence[tuple[str, str]] = tuple(
            (name, str(type)) for name, type in execution.plan.result.columns
        )
        self.execution = execution
        self.left = False
        self._options = options
        self._start = start
        self._not_before_us = not_before_us
        self._clock = clock
        self._explainer = explainer
        self._readings: set[Reading] = set()
        self._ever_read = False
        self._idle_since_s = clock.monotonic_s()
        self._guard = threading.Lock()

    @property
    def source(self) -> str | None:
        """What it reads where its text says no FROM."""
        return self._options.source

    @property
    def shared_with(self) -> Sequence[str]:
        """The ids of the others who share its execution, the newest of them where there are very many."""
        return tuple(other.id for other in self.execution.fellows(SHOWN_MAX) if other is not self)

    def subscribe(self, cursor: str | None = None, on_lag: str | None = None, *, progress: bool = True) -> Subscription:
        """A reader of the results: from a cursor on, else from where this asker began. `progress`: it is told how it
        goes, too."""
        policy = on_lag or self._options.on_lag or ("conflate" if self.execution.plan.result.keyed else "drop")
        results = self.execution.results
        at, gap = self._place(cursor)
        reading = results.read(
            Meta(self._meta()),
            at,
            on_lag=policy,
            not_before_us=self._not_before_us,
            on_close=self._read_no_more,
            progress=progress,
        )
        with self._guard:
            self._readings.add(reading)
            self._ever_read = True
        if self.left:
            reading.end(Ended("deleted"))
        if gap is not None:
            reading.say(gap)
        return reading

    def runs_by(self) -> tuple[Plan, Graph | None]:
        """The plan that it runs by, which others may share, and its tasks."""
        return self.execution.runs_by()

    def status(self) -> Mapping[str, Any]:
        return {**self.execution.status(), "shared_with": list(self.shared_with)}

    def ledger(self) -> Mapping[str, int]:
        return self.execution.ledger()

    def late(self, n: int = 100) -> pa.Table:
        return self.execution.late(n)

    def marks(self) -> Marks:
        """How many events have been set aside until now."""
        return self.execution.marks()

    def aside(self, since: Marks, until: Marks) -> Sequence[Aside]:
        """The events that were set aside between these, as far as they are kept, for each source."""
        return self.execution.aside(since, until)

    def detector(self) -> Mapping[str, int]:
        """How the detector of its ANOMALY clause does: see `Execution.detector`."""
        return self.execution.detector() if isinstance(self.execution, Execution) else {}

    def explain(self, form: str = "plan") -> str:
        return self._explainer(form)

    def cancel(self, reason: str = "deleted") -> None:
        """The asker leaves; the execution ends with the last."""
        self.left = True
        execution = self.execution
        execution.askers = tuple(other for other in execution.askers if other is not self)
        if not execution.askers:
            execution.end(reason)
            return
        with self._guard:
            readings = tuple(self._readings)
        for reading in readings:
            reading.end(Ended(reason))

    def is_forsaken(self, now_s: float) -> bool:
        """Nobody has read for longer than it is to linger."""
        linger = self._options.linger_s if self._ever_read else max(self._options.linger_s, LINGER_LEAST_S)
        return not self._readings and now_s - self._idle_since_s >= linger

    def _read_no_more(self, reading: Reading) -> None:
        with self._guard:
            self._readings.discard(reading)
            self._idle_since_s = self._clock.monotonic_s()

    def _place(self, text: str | None) -> tuple[Cursor, Frame | None]:
        """Where a reader begins, and what it missed where its cursor is of no use."""
        if text is None:
            return self._start, None
        cursor = cursor_of(text)
        if cursor is not None and cursor.epoch == self._start.epoch and cursor.number >= 0:
            here = self.execution.results.place
            return (cursor if cursor.number <= here.number else here), None
        why = "the cursor is from another run of the query"
        return self._start, Gap({"rows": None, "from": text, "to": str(self._start), "why": why})

    def _meta(self) -> Mapping[str, Any]:
        plan = self.execution.plan
        scan = plan.scan
        return {
            "id": self.id,
            "schema": [{"name": name, "type": type} for name, type in self.columns],
            "plan_hash": plan.hash,
            "shared_with": list(self.shared_with),
            "guarantee": "at_most_once",
            "watermark": {
                "lateness_ms": scan.lateness_us / 1000,
                "idle_timeout_ms": scan.idle_timeout_us / 1000,
                "max_ahead_ms": scan.max_ahead_us / 1000,
            },
            "emit": plan.result.emit,
            "keyed": plan.result.keyed,
            "windowed": plan.result.windowed,
            "bounded": not self.execution.feeds,
            "warnings": list(plan.warnings),
        }


def problem_of(error: Exception) -> Mapping[str, Any]:
    """What readers are told of an error."""
    if isinstance(error, MqlError):
        return {"code": error.code, "detail": error.message, "hint": error.hint, "retryable": False}
    detail = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return {"code": "query-failed", "detail": detail, "hint": None, "retryable": True}


def speaks_early(spec: OperatorSpec) -> bool:
    """Whether it tells something by the clock."""
    match spec:
        case Final():
            return spec.emit != "final" or spec.early_us is not None
        case CountWindows() | Held() | Sessions():
            return spec.retold is not None and spec.retold.pace_us is not None
        case _:
            return False


def is_joinable(plan: Plan) -> bool:
    """Whether somebody who asks later may share the execution: rows as they come, and windows of time."""
    specs = [spec for stage in plan.stages for spec in stage.operators]
    if len(plan.scans) > 1:
        return False
    if plan.result.windowed:
        return not any(isinstance(spec, CountWindows) for spec in specs)
    return all(isinstance(spec, SelectRows) for spec in specs)
