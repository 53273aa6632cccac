"""How an execution begins: from which sources, by which hubs, with which tasks on which workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa

from mql.exec.backfill import Backfill, answer, held_for
from mql.exec.clock import Clock
from mql.exec.collect import Collector
from mql.exec.deadletters import DeadLetters
from mql.exec.direct import answered
from mql.exec.family import Family, FanOut
from mql.exec.feed import Source
from mql.exec.frames import Phase
from mql.exec.graph import connect
from mql.exec.hub import Feed, Hub
from mql.exec.items import Operator
from mql.exec.kernel import Kernel, Session
from mql.exec.operators import build
from mql.exec.rescale import rescaled
from mql.exec.running import Execution
from mql.exec.runtimes.local import LocalRuntime
from mql.exec.state import Snapshot
from mql.planner.physical import OperatorSpec, Plan, Scan
from mql.planner.placement import Placement, place

HUB_LINGER_S = 2.0
STOP_S = 1.5


class Launcher:
    """Begins executions, and owns what runs beside them: hubs, the threads of histories, a kernel for whole files.

    `rows_of`: the rows of a declared table. `secret`: gives the key of masks. Who calls sees to it that one execution
    begins at a time.
    """

    def __init__(
        self,
        kernel: Kernel,
        runtime: LocalRuntime,
        clock: Clock,
        rows_of: Callable[[str], pa.Table],
        secret: Callable[[], str] | None,
    ) -> None:
        self.hubs: tuple[Hub, ...] = ()
        self.letters: dict[str, DeadLetters] = {}
        """What of each source could not be read."""
        self._kernel = kernel
        self._runtime = runtime
        self._clock = clock
        self._rows_of = rows_of
        self._secret = secret
        self._bulk: Kernel | None = None
        self._threads: set[threading.Thread] = set()
        self._guard = threading.Lock()

    def placement(self, plan: Plan, sources: Sequence[Source]) -> Placement:
        """Where the plan's tasks would run now."""
        shares = [self._shares(source) for source in sources]
        return place(plan, shares, self._runtime.workers, self._runtime.load())

    def begin_live(
        self,
        execution: Execution,
        sources: Sequence[Source],
        restored: Snapshot | None = None,
        family: Family | None = None,
    ) -> None:
        plan = execution.plan
        parts = [None if restored is None else restored.of_scan(number) for number in range(len(plan.scans))]
        wanted = execution.options.workers
        hubs = tuple(self._hub(*one, wanted) for one in zip(sources, plan.scans, parts, strict=True))
        self._connect(execution, [len(hub.shares) for hub in hubs], restored, family)
        assert execution.graph is not None
        for task in execution.graph.tasks if restored is not None else ():
            task.recount()
        execution.carried = execution.graph.in_state
        join_at = execution.join_at if restored is None else goes_on
        feeds = []
        for number, (scan, entries) in enumerate(zip(plan.scans, execution.graph.feeds, strict=True)):
            feed = Feed(scan, entries, execution.lost.add, join_at, partial(execution.on_trouble, number))
            feed.may_drop = restored is None
            feed.rank = execution.rank
            feed.others = partial(execution.others_us, feed) if len(hubs) > 1 else None
            if family is not None:
                feed.on_border, feed.on_joined = family.at_border, family.on_joined
            feeds.append(feed)
        execution.hubs, execution.feeds = hubs, tuple(feeds)
        execution.state = "running"
        has_history = plan.scan.since.kind != "live" and restored is None
        if has_history:
            for hub, feed in zip(hubs, feeds, strict=True):
                feed.held = held_for(len(hub.shares))
            execution.backfills = self._backfills(plan, sources)
            execution.state = "backfilling"
        for hub, feed in zip(hubs, feeds, strict=True):
            hub.attach(feed)
        for hub in hubs:
            if family is None or not family.is_gathering:
                hub.begin()
        if has_history:
            for number in range(len(hubs)):
                self.spawn(execution, partial(self._cross_the_seam, execution, number))

    def _cross_the_seam(self, execution: Execution, scan: int) -> None:
        """One of the query's scans, from its history into the live stream; the last to get there says so."""
        backfill, hub, feed = execution.backfills[scan], execution.hubs[scan], execution.feeds[scan]
        backfill.seam(hub, feed, lambda data: execution.results.say(Phase(data)), execution.caught_up)
        if all(one.ended for one in execution.backfills):
            execution.go_live()

    def _backfills(self, plan: Plan, sources: Sequence[Source]) -> tuple[Backfill, ...]:
        return tuple(
            Backfill(plan, number, source, self._kernel, self.letters[scan.source], self._runtime.workers)
            for number, (scan, source) in enumerate(zip(plan.scans, sources, strict=True))
        )

    def begin_batch(self, execution: Execution, sources: Sequence[Source]) -> None:
        plan = execution.plan
        bulk = self._bulk_kernel()
        backfills = execution.backfills = self._backfills(plan, sources)
        execution.state = "running"
        execution.results.on_room = backfills[0].room.set
        session = self._kernel.session()
        collector = Collector(execution.results, plan.result, 1, session, execution.end, execution.options.max_rows)

        def go() -> None:
            try:
                told = (collector.rows, lambda: execution.results.full)
                if not answered(plan, backfills[0], self._runtime.workers, *told):
                    tables = {called: self._rows_of(name) for name, called in plan.lookups}
                    answer(plan, backfills, bulk, *told, tables)
                execution.end("done")
            finally:
                collector.close()

        self.spawn(execution, go)

    def begin_stream(self, execution: Execution, sources: Sequence[Source]) -> None:
        self._connect(execution, self._runtime.workers)
        assert execution.graph is not None
        execution.backfills = self._backfills(execution.plan, sources)
        execution.state = "running"
        for backfill, entries in zip(execution.backfills, execution.graph.feeds, strict=True):
            self.spawn(execution, partial(backfill.stream, entries))

    def _connect(
        self,
        execution: Execution,
        splits: int | Sequence[int],
        restored: Snapshot | None = None,
        family: Family | None = None,
    ) -> None:
        """Makes the plan's tasks, as they were where they are restored, and has them hosted where is least to do."""
        plan = execution.plan
        wanted = execution.options.workers
        placement = place(plan, splits, self._runtime.workers, self._runtime.load(), wanted)
        counts = [len(stage) for stage in placement.stages]
        restored = None if restored is None else rescaled(restored, plan, counts)
        sessions: dict[tuple[int, int], Session] = {}

        def make(stage: int, task: int, spec: OperatorSpec) -> Operator:
            if (stage, task) not in sessions:
                sessions[stage, task] = self._runtime.session()
            return build(spec, sessions[stage, task], self._rows_of)

        rows_max = execution.options.max_rows
        collector = (
            FanOut(family, counts[-1], self._kernel.session())
            if family is not None
            else Collector(
                execution.results,
                plan.result,
                counts[-1],
                self._kernel.session(),
                execution.end,
                rows_max,
                execution.on_barrier,
            )
        )
        graph = connect(plan, counts, make, collector.tell, lambda: execution.results.full)
        execution.graph, execution.collector = graph, collector
        if family is not None:
            family.take_graph(graph)
        last = graph.stages[-1]

        def on_room() -> None:
            for task in last:
                task.wake()

        execution.results.on_room = on_room
        for number, workers in enumerate(placement.stages):
            for at, worker in enumerate(workers):
                task = graph.stages[number][at]
                task.on_failure = execution.fail
                task.on_snapshot = execution.on_snapshot
                task.rank = execution.rank
                if restored is not None:
                    task.pipeline.restore(restored.tasks.get(task.name, {}))
                self._runtime.host(task, worker, sessions.get((number, at)) or self._runtime.session())

    # --- hubs --------------------------------------------------------------------------------------------

    def hubs_of(self, source: str) -> Sequence[Hub]:
        return tuple(hub for hub in self.hubs if hub.info.name == source)

    def take_hubs_of(self, source: str) -> Sequence[Hub]:
        """The same, for who asks to close: nothing begins on them any more."""
        return self._take(self.hubs_of(source))

    def take_idle_hubs(self, now_s: float) -> Sequence[Hub]:
        """Those that nobody has read for a while, for who asks to close."""
        return self._take([hub for hub in self.hubs if hub.idle_for_s(now_s) > HUB_LINGER_S])

    def troubles(self) -> Mapping[str, str]:
        """Why nothing comes from a source that is read now, by its name."""
        return {hub.info.name: hub.trouble for hub in self.hubs if hub.trouble is not None}

    def _take(self, hubs: Sequence[Hub]) -> Sequence[Hub]:
        self.hubs = tuple(hub for hub in self.hubs if hub not in hubs)
        return hubs

    def _hub(self, source: Source, scan: Scan, restored: Snapshot | None, workers: int | None = None) -> Hub:
        """The hub that reads this source for queries like this one; a new one where there is none.

        What goes on from a snapshot has offsets, and so a hub, of its own.
        """
        for hub in self.hubs:
            if restored is None and hub.source is source and hub.takes(scan):
                return hub
        letters, shares = self.letters[scan.source], self._shares(source, workers if restored is not None else None)
        hub = Hub(source, scan, shares, self._kernel, self._clock, letters, restored)
        self.hubs = (*self.hubs, hub)
        return hub

    def _shares(self, source: Source, workers: int | None = None) -> int:
        """How many threads read and decode a live source: each beside a worker that computes on what it gives.

        One keeps up with half a million events a second; more of them only make the batches smaller.
        """
        workers = self._runtime.workers if workers is None else min(workers, self._runtime.workers)
        return max(1, min(source.info.splits, workers // 2))

    # --- threads -----------------------------------------------------------------------------------------

    def spawn(self, execution: Execution, work: Callable[[], None]) -> None:
        """A thread of the query's own; what it raises ends the query."""

        def run() -> None:
            try:
                work()
            except Exception as error:  # told to the query's readers
                execution.fail(error)
            finally:
                with self._guard:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"mql-history-{execution.results.epoch}", daemon=True)
        with self._guard:
            self._threads.add(thread)
        thread.start()

    def _bulk_kernel(self) -> Kernel:
        if self._bulk is None:
            self._bulk = Kernel(threads=self._runtime.workers, secret=self._secret)
        return self._bulk

    def stop_reading(self) -> None:
        """Closes all hubs."""
        hubs = self._take(self.hubs)
        for hub in hubs:
            hub.ask_to_close()
        for hub in hubs:
            hub.close()

    def close(self) -> None:
        """Waits for its threads, and closes what is its own."""
        with self._guard:
            threads = tuple(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(STOP_S)
        if self._bulk is not None:
            self._bulk.close()


def goes_on(not_before_us: int) -> None:
    """A query that goes on joins nothing in its midst."""
