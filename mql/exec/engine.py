"""Everything that runs queries in this process: what the server, the command line and `mql.run` talk to."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa

from mql.catalog import Catalog, SourceInfo
from mql.errors import MqlError, did_you_mean
from mql.exec.analyze import LIVE_S, analyzed
from mql.exec.backtest import DAY_US, Label, Picked
from mql.exec.clock import Clock, SystemClock
from mql.exec.deadletters import DeadLetters
from mql.exec.family import Family, Member, number_in
from mql.exec.feed import Source, Table
from mql.exec.frames import Failed, RowsFrame
from mql.exec.items import MIN_US
from mql.exec.kernel import Kernel, Session
from mql.exec.launching import Launcher
from mql.exec.rescale import rescaled
from mql.exec.results import Cursor, Results
from mql.exec.running import Execution, Options, Running, Subscription, is_joinable
from mql.exec.runtimes.local import LocalRuntime
from mql.exec.state import Snapshot
from mql.exec.trials import Trial, backtest, pick, told_of
from mql.exec.why import why
from mql.parser import parse
from mql.planner.backtesting import detector_of
from mql.planner.compile import Compiled, compile_forms
from mql.planner.explain import explain
from mql.planner.physical import Plan, Result
from mql.planner.placement import show_placement
from mql.planner.why import questions
from mql.schema import VARCHAR

__all__ = ["Engine", "EngineApi", "Options", "Running", "Subscription", "tables_of"]

DEFAULTS = Options()
BEAT_S = 0.1
STOP_S = 1.5
COMPILED_MAX = 256
MANY, SELDOM = 500, 10
"""Of more queries than so many, one beat in ten looks whether they are still read."""
ALONE_MAX = 3
"""So many queries that differ in literals only run each by itself; those that follow share one plan."""
KEPT_OVER_MAX = 200
"""How many queries that have ended stay in the listing."""


class Engine:
    """Sources and tables, and the queries that run on them. Thread-safe; the user's errors are MqlError.

    `workers`: threads that run tasks. `default`: the source of a query that names none. `piped`: the one that stands
    for any undeclared name. `secret`: gives the key of masks.
    """

    def __init__(
        self,
        sources: Sequence[Source] = (),
        *,
        workers: int = 2,
        clock: Clock | None = None,
        default: str | None = None,
        piped: str | None = None,
        tables: Sequence[Table] = (),
        secret: Callable[[], str] | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._default = default
        self._piped = piped
        self._sources: dict[str, Source] = {}
        self._tables: dict[str, Table] = {}
        self._kernel = Kernel(secret=secret)
        self._runtime = LocalRuntime(self._kernel, workers)
        self._launcher = Launcher(self._kernel, self._runtime, self._clock, self._rows_of, secret)
        self._askers: dict[str, Running] = {}
        self._joinable: dict[str, Execution | Member] = {}
        self._families: dict[str, Family] = {}
        self._private: tuple[Family, ...] = ()
        self._alone: dict[str, set[Execution]] = {}
        """Which queries run by themselves that could share a plan, by the family that they would be of."""
        self.view: Callable[[Catalog], Catalog] = everything
        """What of the catalog may be known to who asks in this context."""
        self._compiled: dict[Any, Compiled] = {}
        self._picks: dict[Any, Picked | None] = {}
        self._closed = threading.Event()
        self._guard = threading.RLock()
        self._starting = threading.Lock()
        for source in sources:
            self.add_source(source)
        for table in tables:
            self.add_table(table)
        self._timer = threading.Thread(target=self._beat, name="mql-timer", daemon=True)
        self._timer.start()

    # --- sources ---------------------------------------------------------------------------------------

    def add_source(self, source: Source) -> None:
        """Declares a source; one of the same name is replaced, unless somebody reads it."""
        name = source.info.name
        with self._starting, self._guard:
            self._check_unused(name)
            if name in self._tables:
                raise MqlError(f'there is a table "{name}"', hint="Drop it first.", code="table-exists")
            self._sources[name] = source
            self._launcher.letters[name] = DeadLetters()
            self._compiled.clear()

    def drop_source(self, name: str) -> None:
        with self._starting, self._guard:
            self.source(name)
            self._check_unused(name)
            idle = self._launcher.take_hubs_of(name)
            source = self._sources.pop(name)
            self._launcher.letters.pop(name)
            self._compiled.clear()
        for hub in idle:
            hub.close()
        source.close()

    def source(self, name: str) -> Source:
        with self._guard:
            if name not in self._sources:
                hint = did_you_mean(name, self._sources) or "Declare it first."
                raise MqlError(f'no source "{name}"', hint=hint, code="no-such-source")
            return self._sources[name]

    def catalog(self, default: str | None = None) -> Catalog:
        """What there is to read; `default` is read where a query says no FROM."""
        if default is not None:
            self.source(default)
        with self._guard:
            known = {name: source.info for name, source in self._sources.items()}
            tables = {name: table.info for name, table in self._tables.items()}
        return self.view(Catalog(known, self._default if default is None else default, self._piped, tables))

    def dead_letters(self, source: str, n: int = 100) -> Sequence[Mapping[str, Any]]:
        """The newest malformed events: reason, split, offset, arrival_us, text (first 4 KiB)."""
        self.source(source)
        return tuple(asdict(letter) for letter in self._launcher.letters[source].newest(n))

    def troubles(self) -> Mapping[str, str]:
        """Why nothing comes from a source that is read now, by its name."""
        return self._launcher.troubles()

    def _check_unused(self, name: str) -> None:
        users = [asker.id for asker in self._askers.values() if not asker.execution.over and reads(asker, name)]
        if users:
            raise MqlError(
                f'source "{name}" is read by {len(users)} queries', hint="End them first.", code="source-in-use"
            )

    def session(self) -> Session:
        """A session of the kernel, for one thread of its owner's."""
        return self._kernel.session()

    # --- tables ----------------------------------------------------------------------------------------

    def add_table(self, table: Table) -> None:
        """Declares a table, whose owner the engine is from now on."""
        name = table.info.name
        with self._starting, self._guard:
            if name in self._tables or name in self._sources:
                what = "table" if name in self._tables else "source"
                raise MqlError(f'there is a {what} "{name}" already', hint="Drop it first.", code="table-exists")
            self._tables[name] = table
            self._compiled.clear()

    def drop_table(self, name: str) -> None:
        with self._starting, self._guard:
            table = self.table(name)
            users = [one.id for one in self._askers.values() if not one.execution.over and looks_up(one, name)]
            if users:
                hint = "End them first."
                raise MqlError(f'table "{name}" is read by {len(users)} queries', hint=hint, code="table-in-use")
            del self._tables[name]
            self._compiled.clear()
        table.close()

    def table(self, name: str) -> Table:
        with self._guard:
            if name not in self._tables:
                hint = did_you_mean(name, self._tables) or "Declare it first."
                raise MqlError(f'no table "{name}"', hint=hint, code="no-such-table")
            return self._tables[name]

    def tables(self) -> Sequence[Table]:
        with self._guard:
            return tuple(self._tables.values())

    def _rows_of(self, name: str) -> pa.Table:
        return self.table(name).rows

    # --- asking ----------------------------------------------------------------------------------------

    def plan(self, text: str, params: Mapping[str, Any] | None = None) -> Plan:
        """The plan by which the query would run now. MqlError where it is wrong."""
        return self._compile(text, params, None).plan

    def validate(self, text: str, params: Mapping[str, Any] | None = None, source: str | None = None) -> None:
        """MqlError where the query is wrong. `source`: what it reads where it says no FROM."""
        self._compile(text, params, None, source)

    def explain(
        self, text: str, params: Mapping[str, Any] | None = None, form: str = "plan", source: str | None = None
    ) -> str:
        compiled = self._compile(text, params, None, source)
        return explain(compiled, form, self._placed(compiled.plan))

    def why(
        self, text: str, event: bytes, params: Mapping[str, Any] | None = None, source: str | None = None
    ) -> Mapping[str, Any]:
        """Why an event, a JSON text, would be among those that the query answers with now, or why not."""
        now_us = self._clock.now_us()
        asked = questions(text, self.catalog(source), params or {}, now_us, source)
        hubs = self._launcher.hubs_of(asked.scan.source)
        reached = max((hub.splits.frontier(now_us) for hub in hubs), default=MIN_US)
        session = self.session()
        try:
            return why(asked, event, session, now_us, reached if reached > MIN_US else None)
        finally:
            session.close()

    def start(self, text: str, params: Mapping[str, Any] | None = None, options: Options = DEFAULTS) -> Running:
        """Begins to answer a query: by a run that answers the same already, else by one of its own."""
        if self._closed.is_set():
            raise MqlError("the engine is closed", code="stopping")
        asker = self._start(self._compile(text, params, options.early_us, options.source), options)
        asker.params = dict(params or {})
        return asker

    def _start(self, compiled: Compiled, options: Options) -> Running:
        if compiled.plan.explain is not None:
            return self._explained(compiled, options)
        with self._starting:
            found = self._joinable.get(compiled.plan.hash) if is_shareable(options) else None
            if found is not None and not found.over and (is_joinable(found.plan) or not found.has_begun()):
                return self._asker(found, compiled, options, joins=True)
            execution = self._as_member(compiled, options) or self._begin(compiled, options)
            asker = self._asker(execution, compiled, options)
            if is_shareable(options) and execution.feeds:
                self._joinable[compiled.plan.hash] = execution
        return asker

    def _as_member(self, compiled: Compiled, options: Options) -> Member | None:
        """Where enough queries run that differ from it in literals only, it shares a plan with all that follow."""
        sibling = compiled.sibling
        if sibling is None:
            return None
        family = self._families.get(sibling.key)
        if family is None or family.over:
            if len(self._alone.get(sibling.key, ())) < ALONE_MAX:
                return None
            family = self._families[sibling.key] = Family(sibling.skeleton, self._runtime, self._clock)
            family.core.on_over = partial(self._forget_family, family)
            self._launcher.begin_live(family.core, [self.source(compiled.plan.scan.source)], family=family)
        member = family.join(sibling, compiled.plan, options)
        if member is not None:
            member.on_over = self._forget
        return member

    def recall(
        self,
        text: str,
        params: Mapping[str, Any] | None,
        known: Mapping[str, SourceInfo],
        *,
        now_us: int | None = None,
        early_us: int | None = None,
        scale: float | None = None,
    ) -> Compiled:
        """The query as it means with sources that look so, at that time: see `resume`."""
        catalog = self.catalog()
        catalog = replace(catalog, sources={**catalog.sources, **known})
        now_us = self._clock.now_us() if now_us is None else now_us
        return compile_forms(text, catalog, params, now_us=now_us, early_us=early_us, scale=scale)

    def resume(
        self,
        snapshot: Snapshot,
        text: str,
        params: Mapping[str, Any] | None = None,
        options: Options = DEFAULTS,
        *,
        wait_for_readers: bool = False,
        known: Mapping[str, SourceInfo] | None = None,
        now_us: int | None = None,
        scale: float | None = None,
        together: bool = False,
        from_now: bool = False,
    ) -> Running:
        """Goes on with a live query from a snapshot of it: what it knew, and at the very next offset of each split.

        It may have another number of tasks than it had. It drops nothing: where `wait_for_readers` holds, it waits for
        the slowest of its readers. A snapshot that knows nothing but positions begins there. It shares with nobody but,
        where it may run `together`, with others that do, differ in literals only, and go on from the same moment;
        `from_now`: it has just been made, so it may as well begin where such others are that read what comes now.
        `known`: what its sources looked like when it first began, so that it means the same though they look else now;
        `now_us`: when that was, and `scale`: what its ALERT BUDGET picked then.
        """
        if known or now_us is not None:
            compiled = self.recall(text, params, known or {}, now_us=now_us, early_us=options.early_us, scale=scale)
        else:
            compiled = self._compile(text, params, options.early_us)
        plan = compiled.plan
        with self._starting:
            shares = together and wait_for_readers
            member = self._as_private_member(compiled, options, snapshot, from_now) if shares else None
            if member is not None:
                return self._asker(member, compiled, options)
            results = Results(secrets.token_hex(4), keep_all=wait_for_readers)
            execution = Execution(plan, self._runtime, self._clock, results, options)
            execution.private = wait_for_readers
            execution.on_over = self._forget
            self._launcher.begin_live(execution, [self.source(scan.source) for scan in plan.scans], snapshot)
            return self._asker(execution, compiled, options)

    def backtest(
        self,
        text: str,
        params: Mapping[str, Any] | None = None,
        *,
        since: str | None = None,
        until: str | None = None,
        labels: Sequence[Label] | None = None,
        timeout_s: float | None = None,
    ) -> Mapping[str, Any]:
        """What the query's ANOMALY clause would have told of a stretch of history, blocking: `report` of
        mql.exec.backtest says what that is. MqlError where the query is wrong, or it takes longer than `timeout_s`."""
        now_us = self._clock.now_us()
        trial = self._trial(params, now_us, timeout_s)

        def compile(over: str) -> Compiled:
            return self._within_budget(trial.compile(over), params, now_us, None)

        return backtest(replace(trial, compile=compile), text, since, until, labels)

    def rows(
        self, text: str, params: Mapping[str, Any] | None = None, options: Options = DEFAULTS
    ) -> Iterator[pa.Table]:
        """The result rows of a query, blocking; a bounded query ends by itself. MqlError where it fails."""
        return tables_of(self.start(text, params, options))

    def queries(self) -> Sequence[Running]:
        with self._guard:
            return tuple(self._askers.values())

    def query(self, id: str) -> Running:
        with self._guard:
            if id not in self._askers:
                raise MqlError(f'no query "{id}"', hint="It has ended, or never was.", code="no-such-query")
            return self._askers[id]

    def close(self) -> None:
        """Ends all queries and stops all threads."""
        if self._closed.is_set():
            return
        self._closed.set()
        for asker in self.queries():
            asker.execution.end("server stopping")
        self._launcher.stop_reading()
        self._runtime.close()
        self._launcher.close()
        if self._timer is not threading.current_thread():
            self._timer.join(STOP_S)
        for source in list(self._sources.values()):
            source.close()
        for table in self.tables():
            table.close()
        self._kernel.close()

    # --- beginning -------------------------------------------------------------------------------------

    def _compile(
        self, text: str, params: Mapping[str, Any] | None, early_us: int | None, source: str | None = None
    ) -> Compiled:
        """Compiled anew where its meaning may have changed: other shapes, or times told from now."""
        catalog = self.catalog(source)
        versions = tuple(
            (name, info.shape.version, info.bounded, info.hidden, info.masks)
            for name, info in sorted(catalog.sources.items())
        )
        tables = sorted(catalog.tables.items())
        ready = tuple((name, info.shape.fields) for name, info in tables if info.trouble is None)
        key = (text, repr(sorted((params or {}).items())), early_us, source, versions, ready)
        found = self._compiled.get(key)
        if found is not None:
            return found
        now_us = self._clock.now_us()
        compiled = self._within_budget(
            compile_forms(text, catalog, params, now_us=now_us, early_us=early_us), params, now_us, None
        )
        scan = compiled.plan.scan
        if scan.since.kind == "live" and scan.until.kind == "live":
            with self._guard:
                if len(self._compiled) >= COMPILED_MAX:
                    self._compiled.pop(next(iter(self._compiled)))
                self._compiled[key] = compiled
        return compiled

    def _within_budget(
        self, compiled: Compiled, params: Mapping[str, Any] | None, now_us: int, scale: float | None
    ) -> Compiled:
        """The query with the threshold that its ALERT BUDGET asks for: the one given, else picked once a day."""
        spec = detector_of(compiled)
        if spec is None or spec.budget is None:
            return compiled
        text, catalog = compiled.plan.text, self.catalog()
        note: tuple[str, ...] = ()
        if scale is None:
            key = (text, repr(sorted((params or {}).items())), now_us // DAY_US)
            if key not in self._picks:
                while len(self._picks) >= COMPILED_MAX:
                    self._picks.pop(next(iter(self._picks)))
                self._picks[key] = pick(self._trial(params, now_us, None), text, compiled, now_us)
            picked = self._picks[key]
            scale = 1.0 if picked is None else picked.scale
            note = (told_of(picked, spec.budget, spec),)
        found = compile_forms(text, catalog, params, now_us=now_us, scale=scale)
        return replace(found, plan=replace(found.plan, warnings=(*found.plan.warnings, *note)))

    def _trial(self, params: Mapping[str, Any] | None, now_us: int, timeout_s: float | None) -> Trial:
        """How queries are tried over history here."""

        def run(compiled: Compiled) -> Iterator[pa.Table]:
            running = self._start(compiled, Options(timeout_s=timeout_s, name="backtest"))
            yield from tables_of(running)
            if running.execution.state == "timeout":
                hint = "Take a shorter stretch, or allow it more time."
                raise MqlError(f"the history was not read within {timeout_s:g} s", hint=hint, code="out-of-time")

        return Trial(lambda text: compile_forms(text, self.catalog(), params, now_us=now_us), run)

    def _as_private_member(
        self, compiled: Compiled, options: Options, snapshot: Snapshot, from_now: bool
    ) -> Member | None:
        """A query that reads for itself, with others of its family that do; None where it is to run alone."""
        sibling = compiled.sibling
        goes_on = number_in(snapshot) is not None
        if sibling is None or sibling.limit is not None or (snapshot.tasks and not goes_on) or not snapshot.positions:
            return None
        wanted = options.workers
        alike = [one for one in self._private if one.key == sibling.key and not one.over]
        for family in (one for one in alike if one.core.options.workers == wanted):
            if family.goes_on_from(snapshot) if goes_on else from_now and family.is_up_to_date():
                member = family.join(sibling, compiled.plan, options, dealt_to(family, snapshot))
                if member is not None:
                    return member
        bare = replace(snapshot, tasks={})
        family = Family(sibling.skeleton, self._runtime, self._clock, bare)
        family.is_gathering = True  # it must have its first query before it reads: that gets all of it
        family.core.on_over = partial(self._forget_family, family)
        family.core.options = replace(family.core.options, workers=wanted)
        self._launcher.begin_live(family.core, [self.source(compiled.plan.scan.source)], bare, family)
        try:
            snapshot = dealt_to(family, snapshot)
        except MqlError:
            family.core.end("deleted")
            raise
        self._private = (*self._private, family)
        member = family.join(sibling, compiled.plan, options, snapshot)
        if member is None:
            raise MqlError("the engine is closed", code="stopping")
        if from_now:
            family.begin()
        return member

    def _asker(
        self, execution: Execution | Member, compiled: Compiled, options: Options, joins: bool = False
    ) -> Running:
        """Who begins an execution gets all of it; who joins one, what comes from then on."""

        def explainer(form: str) -> str:
            return explain(compiled, form, self._placed(compiled.plan))

        results = execution.results
        start = results.place if joins else Cursor(results.epoch, 0, 0)
        not_before_us = execution.frontier_us() if joins and execution.has_begun() else MIN_US
        asker = Running(execution, compiled.plan.text, options, start, not_before_us, self._clock, explainer)
        execution.askers = (*execution.askers, asker)
        (execution if isinstance(execution, Execution) else execution.family.core).raise_to(options.rank)
        with self._guard:
            self._askers[asker.id] = asker
        return asker

    def _explained(self, compiled: Compiled, options: Options) -> Running:
        """EXPLAIN as a query: its rows are the lines of the text."""
        plan = replace(compiled.plan, result=Result((("plan", VARCHAR),), False, False, "rows"))
        execution = Execution(plan, self._runtime, self._clock, Results(secrets.token_hex(4)), options)
        asker = self._asker(execution, replace(compiled, plan=plan), options)
        if plan.explain == "analyze":
            self._launcher.spawn(execution, lambda: self._analyze(compiled, execution))
        else:
            lines = explain(compiled, str(plan.explain), self._placed(plan)).splitlines()
            execution.results.publish(pa.table({"plan": pa.array(lines, pa.string())}))
            execution.end("done")
        return asker

    def _analyze(self, compiled: Compiled, told: Execution) -> None:
        """Runs the query without readers, to its end or for a while, and tells what its operators did."""
        plan = replace(compiled.plan, explain=None)
        began_s = self._clock.monotonic_s()
        run = self._begin(replace(compiled, plan=plan), Options(route="stream"))
        run.results.keep_all = False
        most_s = LIVE_S if plan.scan.until.kind == "live" else float("inf")
        while not (run.over or told.over) and self._clock.monotonic_s() - began_s < most_s:
            if self._closed.wait(BEAT_S):
                break
        assert run.graph is not None
        seconds = self._clock.monotonic_s() - began_s
        lines = analyzed(plan, run.graph, run.ledger(), run.results.rows, seconds)
        run.end("done")
        told.results.publish(pa.table({"plan": pa.array(lines, pa.string())}))
        told.end("done")

    def _begin(self, compiled: Compiled, options: Options) -> Execution:
        plan = compiled.plan
        sources = tuple(self.source(scan.source) for scan in plan.scans)
        bounded = plan.scan.bounded or sources[0].info.bounded
        results = Results(secrets.token_hex(4), keep_all=bounded or plan.scan.since.kind != "live")
        execution = Execution(plan, self._runtime, self._clock, results, options)
        execution.on_over = self._forget
        if bounded and options.route != "stream" and plan.speed is None:
            self._launcher.begin_batch(execution, sources)
        elif bounded:
            self._launcher.begin_stream(execution, sources)
        else:
            self._launcher.begin_live(execution, sources)
            if compiled.sibling is not None:
                self._alone.setdefault(compiled.sibling.key, set()).add(execution)
                execution.on_over = partial(self._forget_alone, compiled.sibling.key)
        return execution

    def _placed(self, plan: Plan) -> str:
        """On which workers the plan's tasks would run."""
        return show_placement(self._launcher.placement(plan, [self.source(scan.source) for scan in plan.scans]))

    @property
    def workers(self) -> int:
        """On how many workers queries run."""
        return self._runtime.workers

    # --- the timer -------------------------------------------------------------------------------------

    def _beat(self) -> None:
        parse("SELECT 1 FROM warm_up")  # the first text costs a third of a second: not at somebody's expense
        beats = 0
        while not self._closed.wait(BEAT_S):
            now_us = self._clock.now_us()
            askers = self.queries()
            families = (*self._families.values(), *self._private)
            for execution in {asker.execution for asker in askers if not isinstance(asker.execution, Member)}:
                execution.beat(now_us)
            for family in families:
                family.beat(now_us)
            beats += 1
            if len(askers) <= MANY or beats % SELDOM == 0:
                self._let_go()

    def _let_go(self) -> None:
        """Of askers whom nobody reads any more, of queries long over, of hubs without queries."""
        now_s = self._clock.monotonic_s()
        for asker in self.queries():
            if asker.is_forsaken(now_s):
                asker.cancel("no readers")
            if asker.left:
                with self._guard:
                    self._askers.pop(asker.id, None)
        with self._guard:
            over = [asker for asker in self._askers.values() if asker.execution.over]
            for asker in over[: max(0, len(over) - KEPT_OVER_MAX)]:
                self._askers.pop(asker.id, None)
        if self._starting.acquire(blocking=False):
            try:
                idle = self._launcher.take_idle_hubs(now_s)
            finally:
                self._starting.release()
            for hub in idle:
                hub.close()

    def _forget(self, execution: Execution | Member) -> None:
        """It is over: nobody is to join it any more."""
        with self._guard:
            if self._joinable.get(execution.plan.hash) is execution:
                del self._joinable[execution.plan.hash]

    def _forget_alone(self, key: str, execution: Execution) -> None:
        self._forget(execution)
        with self._guard:
            alone = self._alone.get(key, set())
            alone.discard(execution)
            if not alone:
                self._alone.pop(key, None)

    def _forget_family(self, family: Family, core: Execution) -> None:
        with self._guard:
            if self._families.get(family.key) is family:
                del self._families[family.key]
            self._private = tuple(other for other in self._private if other is not family)


EngineApi = Engine


def tables_of(running: Running) -> Iterator[pa.Table]:
    """The result rows of a query as they come, blocking, until it ends; it ends with its reader."""
    subscription = running.subscribe()
    try:
        while True:
            for frame in subscription.take():
                match frame:
                    case RowsFrame(table):
                        yield table
                    case Failed(data):
                        raise MqlError(str(data["detail"]), hint=data.get("hint"), code=str(data["code"]))
                    case _:
                        pass
            if subscription.ended:
                return
            subscription.wait(1.0)
    finally:
        subscription.close()
        running.cancel("done")


def dealt_to(family: Family, snapshot: Snapshot) -> Snapshot:
    """The snapshot of a query, for as many tasks as its family has."""
    assert family.graph is not None
    return rescaled(snapshot, family.core.plan, [len(stage) for stage in family.graph.stages])


def everything(catalog: Catalog) -> Catalog:
    return catalog


def is_shareable(options: Options) -> bool:
    """A query with bounds of its own runs by itself."""
    return options.max_rows is None and options.timeout_s is None and options.workers is None


def reads(asker: Running, source: str) -> bool:
    return any(scan.source == source for scan in asker.execution.plan.scans)


def looks_up(asker: Running, table: str) -> bool:
    return any(name == table for name, _ in asker.execution.plan.lookups)
