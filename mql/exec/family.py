"""Queries that differ in their literals only: one execution for all of them, and what is each one's own.

They come and go while it runs. Who comes is put into the roster, which goes down the line to the tasks at the next
border of each share, behind what the query is not to see; its windows count from there, as if it ran alone.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.errors import MqlError
from mql.exec.aside import Aside, aside_of, renamed_late, unread_mark
from mql.exec.clock import Clock
from mql.exec.collect import WINDOW_START, Collector, Sealing, digest_sql, seal_of, visible
from mql.exec.deadletters import Marks
from mql.exec.frames import Ended, Failed, Gap, Phase, Warn
from mql.exec.graph import Graph
from mql.exec.hub import NEEDLES_MAX
from mql.exec.items import MIN_US, Roster, State
from mql.exec.kernel import Session
from mql.exec.ledger import Tally, ledger_of_member
from mql.exec.operators.base import number_state
from mql.exec.operators.expand import Counted, ExpandOperator, own_in
from mql.exec.operators.final import FinalOperator
from mql.exec.results import KEY, Results
from mql.exec.running import PRIORITIES, Execution, Options, numbers_of, problem_of
from mql.exec.runtimes import Runtime
from mql.exec.state import Snapshot
from mql.exec.tallies import Ints, PerQuery
from mql.exec.task import Task
from mql.planner import sharing
from mql.planner.physical import Final, Needles, Plan
from mql.planner.sharing import QUERY, Sibling, Skeleton
from mql.schema import BIGINT, DOUBLE, TIMESTAMP, VARCHAR, DataType, ListOf, Scalar

if TYPE_CHECKING:
    from mql.exec.running import Running

KEPT_BYTES_MAX = 256 << 20
"""Of what all of them have told; what is older is let go of, whoever has not read it."""
GATHER_S = 0.3
"""For so long after the last has come, a family waits for more that go on from the same moment."""
LOOK_S = 0.5
SNAPSHOT_S = 20.0
NOW_MS = 30_000.0
"""One that lags by less reads what comes now: who joins begins where it is. One more that reads for itself would have
all of them lag more."""
NUMBER = "query"
OWN_LATE = "late of its own"
"""A mark: how many rows of one query were late."""
TOLD_AT_ONCE = 2_000
"""So many of them are told each second how it goes; where there are more, they take turns."""


class Family:
    """One execution of a plan for queries that differ in literals. Ends with the last of them. Thread-safe.

    One that reads for itself gives each of its queries a snapshot of its own, cut out of that of all. What goes on from
    such snapshots of one moment is put together again: while the family `is_gathering` it does not read yet.
    """

    def __init__(self, skeleton: Skeleton, runtime: Runtime, clock: Clock, reads_from: Snapshot | None = None) -> None:
        self.key = skeleton.key
        self.reads_from = reads_from
        """Where it began to read for itself: it drops nothing, and waits for those who read its results."""
        self.is_gathering = False
        self.graph: Graph | None = None
        self.epoch = secrets.token_hex(4)
        self.types = skeleton.types
        self.clock = clock
        options = Options(name="shared", priority=PRIORITIES[0])
        self.core = Execution(sharing.family_plan(skeleton), runtime, clock, Fan(self), options)
        self.not_before = PerQuery(MIN_US)
        self.members: dict[int, Member] = {}
        self.core.on_settled = self.on_settled
        self.counted: dict[tuple[str, int], Counted] = {}
        self.held: dict[tuple[str, int], PerQuery] = {}
        """What had become of each query's events at the last barrier, by operator; and how many were held."""
        self.places: dict[int, int] = {}
        self.crowded: list[Results] = []
        self.expands: tuple[ExpandOperator, ...] = ()
        self.finals: tuple[FinalOperator, ...] = ()
        self._next = 0
        self._closed = False
        self._version = 0
        self._roster = Roster(0, roster_table(self.types, (), ()))
        self._coming: list[Member] = []
        self._timed: list[Member] = []
        self._sent: dict[int, int] = {}
        self._fresh: dict[int, list[Member]] = {}
        self._guard = threading.RLock()
        self._joined_s = clock.monotonic_s()
        self._asking = threading.Condition()
        self._asked: list[tuple[Member, Future[tuple[Snapshot, int]]]] = []
        self._due_s = math.inf
        self._cutting: threading.Thread | None = None

    @property
    def over(self) -> bool:
        return self._closed or self.core.over

    def take_graph(self, graph: Graph) -> None:
        """The tasks that it runs on: operators that keep something of each query's."""
        self.graph = graph
        operators = [operator for task in graph.tasks for operator in task.operators]
        self.expands = tuple(one for one in operators if isinstance(one, ExpandOperator))
        self.finals = tuple(one for one in operators if isinstance(one, FinalOperator))
        for final in self.finals:
            final.not_before = self.not_before
        self._fresh = {share: [] for share in range(len(graph.entries))}

    def join(self, sibling: Sibling, plan: Plan, options: Options, restored: Snapshot | None = None) -> Member | None:
        """One more query; None where the family is over, or cannot go on from the query's snapshot."""
        number = None if restored is None else number_in(restored)
        with self._guard:
            if self.over or (number is not None and (number in self.members or not self.is_gathering)):
                return None
            if number is not None:
                assert restored is not None
                self._take_over(number, restored)
            member = Member(self, self._next if number is None else number, sibling, plan, options)
            if number is not None:
                member.carried = sum(final.held.get(number) for final in self.finals)
            self._next = max(self._next, member.number + 1)
            self._joined_s = self.clock.monotonic_s()
            self.members[member.number] = member
            if options.timeout_s is not None:
                self._timed.append(member)
            self._coming.append(member)
            for fresh in self._fresh.values():
                fresh.append(member)
            self._version += 1
        return member

    def beat(self, now_us: int) -> None:
        """Called ten times a second, as an execution is."""
        if self.is_gathering:
            with self._guard:
                if not self.members or self.clock.monotonic_s() - self._joined_s < GATHER_S:
                    return
            self.begin()
        self.core.beat(now_us)
        if self._timed:
            for member in list(self._timed):
                member.beat(now_us)
            with self._guard:
                self._timed = [member for member in self._timed if not member.over]

    def begin(self) -> None:
        """Reads from now on, for those who are in it."""
        with self._guard:
            if self.is_gathering:
                self.is_gathering = False
                for hub in self.core.hubs:
                    hub.begin()

    def leave(self, member: Member, reason: str) -> None:
        """A query is over; with the last of them, so is the family."""
        with self._guard:
            if self.members.pop(member.number, None) is None:
                return
            self._version += 1
            last = self._closed = not self.members
        if last:
            self.core.end(reason)

    def make_room(self) -> None:
        """One of its queries' readers has read: who waited for that goes on."""
        self.core.results.on_room()

    def at_border(self, share: int, positions: Mapping[int, int], newest_us: int) -> Roster | None:
        """The roster, where it has changed since this share's last border."""
        with self._guard:
            if self._sent.get(share) == self._version:
                return None
            self._sent[share] = self._version
            self._renew()
            fresh, self._fresh[share] = self._fresh[share], []
            numbers = np.array([member.number for member in fresh], np.int64)
            if self.reads_from is None:
                self.not_before.raise_to(numbers, newest_us)
            feed = self.core.feeds[0]
            feed.scan = replace(feed.scan, needles=self._needles())
            for member in fresh:
                member.attach(share, positions, feed.tallies[share])
            return self._roster

    def on_joined(self, us: int) -> None:
        """What its source had given before is not known: windows that started earlier are nobody's."""
        with self._guard:
            if self.reads_from is None:
                self.not_before.raise_to(np.arange(self._next), us)

    # --- snapshots -------------------------------------------------------------------------------------

    def ask(self, member: Member, within_s: float) -> Future[tuple[Snapshot, int]]:
        """What is known of a query, and the number of the frame behind all that was told of it before. It may take so
        long: whoever asks meanwhile is answered by the same barrier."""
        answer: Future[tuple[Snapshot, int]] = Future()
        with self._asking:
            self._asked.append((member, answer))
            self._due_s = min(self._due_s, self.clock.monotonic_s() + within_s)
            if self._cutting is None:
                self._cutting = threading.Thread(target=self._cut, name=f"mql-cut-{self.epoch}", daemon=True)
                self._cutting.start()
            self._asking.notify()
        return answer

    def _cut(self) -> None:
        """The thread that takes snapshots of all and cuts them up, until the family is over."""
        while not self.over:
            with self._asking:
                wait_s = self._due_s - self.clock.monotonic_s()
                if wait_s > 0:
                    self._asking.wait(min(wait_s, LOOK_S))
                    continue
                asked, self._asked = self._asked, []
                self._due_s = math.inf
            try:
                cutter = Cutter(self.core.snapshot(SNAPSHOT_S), self.core.plan)
                for member, answer in asked:
                    cut = cutter.cut(member.number, self.not_before.get(member.number))
                    ledger = member.ledger_at_barrier()
                    cut = replace(cut, marks={**cut.marks, OWN_LATE: ledger["late"]}, ledger=ledger)
                    answer.set_result((cut, self.places.get(member.number, 0)))
            except MqlError:  # it took too long, or the family is over: whoever asked waits for the next
                with self._asking:
                    self._asked = [*(one for one in asked if not one[1].done()), *self._asked]
                    self._due_s = self.clock.monotonic_s() + LOOK_S
            except Exception as error:  # what cannot be cut up now cannot later: its queries must not go on without
                with self._asking:
                    self._asked = [*asked, *self._asked]
                self.core.fail(error)
        with self._asking:
            for _, answer in self._asked:
                if not answer.done():
                    answer.set_exception(MqlError("the query ended", code="no-snapshot"))
            self._asked = []

    def on_settled(self, task: Task) -> None:
        """What had become of each query's events when a barrier passed one of the tasks."""
        for at, operator in enumerate(task.operators):
            match operator:
                case ExpandOperator():
                    self.counted[task.name, at] = operator.counted()
                case FinalOperator():
                    self.held[task.name, at] = operator.held.copy()
                case _:
                    pass

    def on_barrier(self, epoch: int) -> None:
        """What was told before the barrier ends here, for each query."""
        with self._guard:  # they come and go meanwhile
            members = list(self.members.values())
        self.places = {member.number: member.results.place.number for member in members}
        self.core.on_barrier(epoch)

    def is_up_to_date(self) -> bool:
        """It reads what comes now."""
        lag_ms = self.core.lag_ms(self.core.watermark_us())
        return not self.is_gathering and (lag_ms is None or lag_ms < NOW_MS)

    def goes_on_from(self, snapshot: Snapshot) -> bool:
        """Whether it waits to read on from just there."""
        start = self.reads_from
        if not self.is_gathering or start is None or start.splits is None or snapshot.splits is None:
            return False
        return start.positions == snapshot.positions and start.splits.equals(snapshot.splits)

    def _take_over(self, number: int, restored: Snapshot) -> None:
        """What a query knew, into operators that have not had anything yet."""
        assert self.is_gathering
        assert self.graph is not None
        for task in self.graph.tasks:
            task.pipeline.restore(restored.tasks.get(task.name, {}))
        self.not_before.put(np.array([number]), not_before_in(restored))

    def newest(self, count: int) -> Iterator[Member]:
        """The queries that came last, the newest of them last."""
        return reversed(list(islice(reversed(list(self.members.values())), count)))

    def _renew(self) -> None:
        """Brings the roster's table up to date."""
        if self._roster.version == self._version:
            return
        table = self._roster.table
        coming, self._coming = self._coming, []
        if coming:
            more = roster_table(self.types, [one.number for one in coming], [one.sibling.values for one in coming])
            table = pa.concat_tables([table, more])
        numbers = table.column(QUERY)
        if table.num_rows > len(self.members):
            there = np.isin(numbers.to_numpy(), np.fromiter(self.members, np.int64, len(self.members)))
            table = table.filter(pa.array(there))
        self._roster = Roster(self._version, table.combine_chunks())

    def _needles(self) -> Needles | None:
        """What events must hold that any of them could want, where they are few."""
        if len(self.members) > NEEDLES_MAX:
            return None
        found: set[bytes] = set()
        for member in self.members.values():
            if member.plan.scan.needles is None:
                return None
            found.update(member.plan.scan.needles.any_of)
        return Needles(tuple(sorted(found)))


class Fan(Results):
    """What is told of the execution goes to the results of each of its queries."""

    def __init__(self, family: Family) -> None:
        super().__init__(secrets.token_hex(4))
        self._family = family
        self._turn = 0

    @property
    def full(self) -> bool:
        """One of those who got rows last waits for its reader."""
        return any(results.full for results in self._family.crowded)

    def say(self, frame: Phase | Warn | Gap) -> None:
        for member in list(self._family.members.values()):
            member.results.say(frame)

    def progress(self, data: Mapping[str, Any]) -> None:
        members = list(self._family.members.values())
        turns = -(-len(members) // TOLD_AT_ONCE)
        self._turn += 1
        for member in members[self._turn % turns :: turns] if turns else ():
            if member.results.wants_progress:
                member.results.progress(member.numbers())

    def finish(self, frame: Ended | Failed) -> None:
        super().finish(frame)
        for member in list(self._family.members.values()):
            member.finish(frame)


class Member:
    """One query of a family: what an execution of its own would be to those who ask it."""

    def __init__(self, family: Family, number: int, sibling: Sibling, plan: Plan, options: Options) -> None:
        self.family = family
        self.number = number
        self.sibling = sibling
        self.plan = plan
        self.options = options
        self.private = family.reads_from is not None
        self.results = Results(f"{family.epoch}{number:x}", keep_all=self.private, once=self.private)
        self.results.on_room = family.make_room
        self.askers: tuple[Running, ...] = ()
        self.started_us = family.clock.now_us()
        self.ended_us: int | None = None
        self.state = "running"
        self.positions: dict[int, int] = {}
        self.is_in = False
        """It gets all that is read: `positions` tell from where."""
        self.carried = 0
        """Events that it held when it was restored."""
        self.on_in: Callable[[], None] = lambda: None
        self.on_over: Callable[[Member], None] = lambda member: None
        wanted = [one for one in (sibling.limit, options.max_rows) if one is not None]
        self._rows_left = min(wanted) if wanted else None
        self._before: dict[int, Tally] = {}
        self._guard = threading.Lock()

    @property
    def over(self) -> bool:
        return self.ended_us is not None

    @property
    def sharing(self) -> int:
        """How many queries the plan is shared by."""
        return len(self.family.members)

    def runs_by(self) -> tuple[Plan, Graph | None]:
        """The plan of all of them, and its tasks."""
        return self.family.core.plan, self.family.graph

    @property
    def feeds(self) -> Sequence[object]:
        return self.family.core.feeds

    def attach(self, share: int, positions: Mapping[int, int], tally: Tally) -> None:
        """From these positions on the share's events are its."""
        self.positions.update(positions)
        self._before[share] = replace(tally)
        if len(self._before) == len(self.family.core.feeds[0].channels):
            self.is_in = True
            self.on_in()

    def take(self, table: pa.Table, start: int, end: int, starts: Ints | None, size: int) -> int:
        """Its rows of a table; gives the number of their frame. With the last that it wants it ends."""
        if self._rows_left is not None:
            end = min(end, start + self._rows_left)
            self._rows_left -= end - start
        number = self.results.publish_part(table, start, end, size, None if starts is None else starts[start:end])
        if self._rows_left == 0:
            self.end("limit")
        return number

    def end(self, reason: str, data: Mapping[str, Any] | None = None) -> None:
        """Nothing more comes; readers get what is there, and then that it has ended."""
        self._over(reason, Ended(reason, {**(data or {}), **self.numbers()}))
        self.family.leave(self, reason)

    def fail(self, error: Exception) -> None:
        self._over("failed", Failed(problem_of(error)))
        self.family.leave(self, "failed")

    def finish(self, frame: Ended | Failed) -> None:
        """All of the family end."""
        match frame:
            case Ended(reason):
                self._over(reason, Ended(reason, self.numbers()))
            case Failed():
                self._over("failed", frame)

    def _over(self, state: str, frame: Ended | Failed) -> None:
        with self._guard:
            if self.over:
                return
            self.ended_us = self.family.clock.now_us()
            self.state = state
        self.results.finish(frame)
        self.on_over(self)

    def ask(self, within_s: float) -> Future[tuple[Snapshot, int]]:
        """What is known of it, and the number of the frame behind all that was told before."""
        return self.family.ask(self, within_s)

    def beat(self, now_us: int) -> None:
        timeout_s = self.options.timeout_s
        if timeout_s is not None and not self.over and now_us - self.started_us >= timeout_s * 1e6:
            self.end("timeout")

    def fellows(self, count: int) -> Sequence[Running]:
        """Who shares the execution, the newest of them."""
        return [asker for member in self.family.newest(count) for asker in member.askers][-count:]

    def has_begun(self) -> bool:
        """Events have come since it did: whoever joins now is late."""
        return self.over or self._since().seen > 0

    def frontier_us(self) -> int:
        return self.family.core.frontier_us()

    # --- what became of events -------------------------------------------------------------------------

    def ledger(self) -> Mapping[str, int]:
        """events = emitted_from + filtered + late + malformed + sampled + skipped + dropped + in_state."""
        # What comes later on an event's way is read first, for counts go on.
        held = sum(final.held.get(self.number) for final in self.family.finals)
        parts = [own_in(expand, self.number) for expand in self.family.expands]
        return ledger_of_member(self._since(), parts, held, self.carried)

    def ledger_at_barrier(self) -> Mapping[str, int]:
        """The same as of the last barrier, which has passed all tasks."""
        family = self.family
        held = sum(counts.get(self.number) for counts in family.held.values())
        parts = [own_in(counted, self.number) for counted in family.counted.values()]
        return ledger_of_member(self._since(family.core.feeds[0].handed), parts, held, self.carried)

    def numbers(self) -> dict[str, Any]:
        """What a progress frame says."""
        core = self.family.core
        watermark = core.watermark_us()
        return numbers_of(self.ledger(), self.results.rows, watermark, core.lag_ms(watermark), core.trouble)

    def status(self) -> Mapping[str, Any]:
        return {
            **self.numbers(),
            "state": self.state,
            "started_us": self.started_us,
            "ended_us": self.ended_us,
            "rate": self.family.core.rate,
            "readers": self.results.readers,
            "workers": self.family.core.workers,
            "priority": PRIORITIES[self.family.core.rank],
        }

    def late(self, n: int) -> pa.Table:
        """The newest late rows that are kept."""
        found = [rows for expand in self.family.expands if (rows := self._own(expand.late.between())) is not None]
        if not found:
            return pa.table({})
        rows = pa.concat_tables(found, promote_options="default")
        return renamed_late(rows.slice(max(0, rows.num_rows - n)))

    def marks(self) -> Marks:
        """How many events have been set aside until now."""
        late = sum(expand.late_of.get(self.number) for expand in self.family.expands)
        return {**self.family.core.marks(), OWN_LATE: late}

    def aside(self, since: Marks, until: Marks) -> Sequence[Aside]:
        """The events that were set aside between these, as far as they are kept."""
        core = self.family.core
        (feed,) = core.feeds
        unread = []
        for share in range(len(feed.tallies)):
            mark = unread_mark(0, share)
            end = until.get(mark, 0)
            first = since.get(mark, self._before[share].malformed if share in self._before else end)
            unread.append((feed.unread(share, first, end), end - first))
        count = until.get(OWN_LATE, 0) - since.get(OWN_LATE, 0)
        places = core.late_rows() if count else ()
        late = [self._own(one.rows.between(since.get(one.mark, 0), until.get(one.mark, 0))) for one in places]
        return [aside_of(self.plan.scan.source, unread, [*((rows, 0) for rows in late), (None, count)])]

    def _own(self, rows: pa.Table | None) -> pa.Table | None:
        """Its rows among those of all."""
        if rows is None:
            return None
        rows = rows.filter(pc.equal(rows.column(QUERY), self.number)).drop_columns([QUERY])
        return rows if rows.num_rows else None

    def _since(self, handed: Mapping[int, Tally] | None = None) -> Tally:
        """What has been handed on since it came; or what had been, at some moment."""
        found = Tally()
        for share, tally in enumerate(self.family.core.feeds[0].tallies if self._before else ()):
            if share in self._before:
                found.add(tally if handed is None else handed.get(share, self._before[share]))
                found.add(self._before[share], -1)
        return found


class Cutter:
    """The snapshot of a family, from which those of its queries are cut."""

    def __init__(self, whole: Snapshot, plan: Plan) -> None:
        self._whole = whole
        self._specs = {stage.number: stage.operators for stage in plan.stages}
        self._sorted: dict[tuple[str, int, str], tuple[pa.Table, Ints]] = {}

    def cut(self, number: int, not_before_us: int) -> Snapshot:
        """What is known of one query."""
        own = {NUMBER: number_state(number=number, not_before=not_before_us)}
        tasks = {
            task: {
                at: own if at == 0 and task.startswith("0.") else self._state(task, at, state, number)
                for at, state in operators.items()
            }
            for task, operators in self._whole.tasks.items()
        }
        return Snapshot(tasks, self._whole.splits, self._whole.positions, self._whole.marks)

    def _state(self, task: str, at: int, state: State, number: int) -> State:
        spec = self._specs[int(task.partition(".")[0])][at]
        key = spec.query if isinstance(spec, Final) else ""
        found = {}
        for name, table in state.items():
            column = next((one for one in (QUERY, key) if one and one in table.column_names), None)
            found[name] = table if column is None else self._rows((task, at, name), table, column, number)
        return found

    def _rows(self, place: tuple[str, int, str], table: pa.Table, column: str, number: int) -> pa.Table:
        """A query's rows of a table, which is put in the order of queries first."""
        if place not in self._sorted:
            numbers = table.column(column).to_numpy()
            order = np.argsort(numbers, kind="stable")
            self._sorted[place] = table.take(pa.array(order)), numbers[order]
        table, numbers = self._sorted[place]
        start, end = np.searchsorted(numbers, [number, number + 1])
        return table.take(pa.array(np.arange(start, end)))


def number_in(snapshot: Snapshot) -> int | None:
    """The number that a query had in its family when the snapshot was cut; None where it was in none."""
    found = snapshot.tasks.get("0.0", {}).get(0, {}).get(NUMBER)
    return None if found is None else int(found.column("number")[0].as_py())


def not_before_in(snapshot: Snapshot) -> int:
    return int(snapshot.tasks["0.0"][0][NUMBER].column("not_before")[0].as_py())


class FanOut(Collector):
    """The end of a family's tasks: rows go to the results of their queries, those that have any."""

    def __init__(self, family: Family, tasks: int, session: Session) -> None:
        core = family.core
        super().__init__(core.results, core.plan.result, tasks, session, core.end, None, family.on_barrier)
        self._family = family
        self._sealings: dict[tuple[int, int], dict[int, Sealing]] = {}
        self._kept: deque[tuple[int, list[tuple[Results, int]]]] = deque()
        self._kept_bytes = 0

    def rows(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        queries = table.column(QUERY).to_numpy()
        if np.any(queries[1:] < queries[:-1]):
            order = np.argsort(queries, kind="stable")
            table, queries = table.take(pa.array(order)), queries[order]
        firsts = np.flatnonzero(np.concatenate([[True], queries[1:] != queries[:-1]]))
        starts = None
        if self._result.windowed and WINDOW_START in table.column_names:
            starts = table.column(WINDOW_START).to_numpy()
            self._count(table)
        shown = shown_of(table)
        weighs = shown.nbytes / shown.num_rows
        told: list[tuple[Results, int]] = []
        ends = [*firsts[1:].tolist(), len(queries)]
        members = self._family.members
        for query, start, end in zip(queries[firsts].tolist(), firsts.tolist(), ends, strict=True):
            member = members.get(query)
            if member is not None:
                told.append((member.results, member.take(shown, start, end, starts, int(weighs * (end - start)))))
        if self._family.reads_from is None:
            self._keep(shown.nbytes, told)
        else:
            self._family.crowded = [results for results, _ in told if results.full]

    def _keep(self, size: int, told: list[tuple[Results, int]]) -> None:
        self._kept.append((size, told))
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1:
            gone, frames = self._kept.popleft()
            self._kept_bytes -= gone
            for results, number in frames:
                results.let_go_to(number)

    def _count(self, table: pa.Table) -> None:
        if self._result.emit != "final":
            return
        sql = digest_sql(shown_of(table).column_names, "final" in table.column_names, f'"{QUERY}" AS q')
        for row in self._session.run(sql, {"rows": table}).to_pylist():
            of_window = self._sealings.setdefault((row["we"], row["ws"]), {})
            before = of_window.get(row["q"], Sealing(0, 0))
            of_window[row["q"]] = Sealing(before.rows + row["n"], before.digest ^ row["d"])

    def _seal(self, reached_us: int) -> None:
        for we, ws in sorted(key for key in self._sealings if key[0] <= reached_us):
            for query, sealing in self._sealings.pop((we, ws)).items():
                member = self._family.members.get(query)
                if member is not None:
                    member.results.seal(seal_of(ws, we, sealing, 0))


def shown_of(table: pa.Table) -> pa.Table:
    """What readers see of the rows, each with the key that it has in its own query."""
    if KEY in table.column_names:
        own = table.column(sharing.KEY)
        table = table.set_column(table.column_names.index(KEY), KEY, own)
    return visible(table)


def roster_table(types: Sequence[DataType], numbers: Sequence[int], values: Sequence[Sequence[Any]]) -> pa.Table:
    """A row for each query: its number, and its literals."""
    columns = {QUERY: pa.array(numbers, pa.int64())}
    for at, type in enumerate(types):
        columns[f"__v{at}"] = pa.array([row[at] for row in values], arrow_type(type))
    return pa.table(columns)


def arrow_type(type: DataType) -> pa.DataType:
    """How a literal of a type stands in the roster."""
    if isinstance(type, ListOf):
        return pa.list_(arrow_type(type.item))
    assert isinstance(type, Scalar)
    return {BIGINT: pa.int64(), DOUBLE: pa.float64(), VARCHAR: pa.string(), TIMESTAMP: pa.timestamp("us")}[type]
