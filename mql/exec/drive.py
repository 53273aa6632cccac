"""Runs a plan on one thread, step by step, with a clock that stands still: the same tasks, lines and operators as a
runtime hosts, and nothing that depends on timing. Tests use it to compare routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from mql.exec.deadletters import DeadLetter
from mql.exec.graph import connect
from mql.exec.items import MIN_US, Barrier, Batch, Done, End, Item, Operator, Raw, Roster, State, Tick, Watermark
from mql.exec.kernel import Kernel
from mql.exec.operators import build, no_tables
from mql.exec.operators.lookup import Tables
from mql.exec.prefilter import Prefilter
from mql.exec.rescale import rescaled
from mql.exec.scan import Decoder
from mql.exec.splits import Splits
from mql.exec.state import Snapshot, snapshot_bytes, snapshot_from_bytes, together
from mql.planner.physical import SPLITS_MAX, OperatorSpec, Plan, Scan
from mql.planner.placement import parallelism

SECOND_US = 1_000_000
Round = Sequence[Raw] | Mapping[str, Sequence[Raw]]
"""What comes at once: of the one source, or of each by its name."""


@dataclass(slots=True)
class Driven:
    """What came out: rows as the last operators gave them (hidden columns included), dead letters, what was late."""

    tables: list[pa.Table] = field(default_factory=list)
    malformed: list[DeadLetter] = field(default_factory=list)
    late: int = 0
    ended: bool = False


class Driver:
    """One plan with `tasks` tasks per parallel stage, stepped by hand.

    `restored`: the bytes of a snapshot to go on from, taken of so many tasks or of others.
    """

    def __init__(
        self,
        plan: Plan,
        kernel: Kernel,
        tasks: int = 1,
        *,
        now_us: int = 0,
        restored: bytes | None = None,
        tables: Tables = no_tables,
    ) -> None:
        self.plan = plan
        self._tables = tables
        self.out = Driven()
        self.now_us = now_us
        self._session = kernel.session()
        self._splits = tuple(Splits(scan.idle_timeout_us, scan.max_ahead_us) for scan in plan.scans)
        self._graph = connect(plan, [parallelism(stage, tasks) for stage in plan.stages], self._make, self._tell)
        self._decoders = tuple(
            tuple(self._decoder(scan, splits) for _ in entries)
            for scan, splits, entries in zip(plan.scans, self._splits, self._graph.feeds, strict=True)
        )
        self._states: dict[str, Mapping[int, State]] = {}
        self._positions: dict[int, int] = {}
        for task in self._graph.tasks:
            task.on_snapshot = self._remember
        if restored is not None:
            self._restore(snapshot_from_bytes(restored))

    def expect(self, splits: Sequence[int], scan: int = 0) -> None:
        """These splits will speak."""
        self._splits[scan].expect(splits, self.now_us)

    def feed(self, round: Round, *, watermarks: bool = True) -> None:
        """One round: what came of each split goes to its task; then the watermark moves, and the clock by a second."""
        for number in range(len(self.plan.scans)):
            self._feed(number, raws_of(self.plan, number, round))
        self._run()
        if watermarks:
            self.watermark()
        self.now_us += SECOND_US
        self._to_all(Tick(self.now_us))

    def _feed(self, number: int, raws: Sequence[Raw]) -> None:
        decoders, entries = self._decoders[number], self._graph.feeds[number]
        for at, decoder in enumerate(decoders):
            mine = [raw for raw in raws if raw.split % len(decoders) == at]
            if not mine:
                continue
            decoded = decoder.decode(mine)
            self.out.malformed.extend(decoded.malformed)
            self._positions.update({raw.split + number * SPLITS_MAX: raw.next_offset for raw in mine})
            entries[at].put(Batch(decoded.table))

    def introduce(self, roster: Roster) -> None:
        """These queries share the plan from here on."""
        self._to_all(roster)

    def watermark(self) -> None:
        """The watermarks that the splits allow, now."""
        for scan, splits, entries in zip(self.plan.scans, self._splits, self._graph.feeds, strict=True):
            frontier = splits.frontier(self.now_us)
            if frontier > MIN_US:
                for channel in entries:
                    channel.put(Watermark(frontier - scan.lateness_us))
        self._run()

    def snapshot(self, epoch: int) -> bytes:
        """Sends a barrier through and gives what everybody knew as it passed."""
        self._states = {}
        self._to_all(Barrier(epoch))
        names = {task.name for task in self._graph.tasks}
        assert set(self._states) == names, "a barrier was lost"
        reached = together(splits.snapshot() for splits in self._splits)
        return snapshot_bytes(Snapshot(self._states, reached, self._positions))

    def finish(self) -> Driven:
        """The input is over."""
        self._to_all(End())
        self.out.late = sum(task.settled.late for task in self._graph.tasks)
        return self.out

    def close(self) -> None:
        self._session.close()

    def _to_all(self, item: Item) -> None:
        for channel in self._graph.entries:
            channel.put(item)
        self._run()

    def _run(self) -> None:
        """Every task runs as long as it can, until nothing can."""
        moved = True
        while moved:
            moved = False
            for task in self._graph.tasks:
                while task.ready:
                    task.step()
                    moved = True

    def _decoder(self, scan: Scan, splits: Splits) -> Decoder:
        prefilter = None if scan.needles is None else Prefilter(scan.needles)
        return Decoder(
            self._session,
            scan.encoding,
            scan.time,
            scan.columns,
            splits=splits,
            prefilter=prefilter,
            masks=scan.masks,
        )

    def _make(self, stage: int, task: int, spec: OperatorSpec) -> Operator:
        return build(spec, self._session, self._tables)

    def _tell(self, task: int, item: Item) -> None:
        match item:
            case Batch(table):
                if not self.out.ended:
                    self.out.tables.append(table)
            case Done():
                self.out.ended = True
            case _:
                pass

    def _remember(self, name: str, epoch: int, states: Mapping[int, State]) -> None:
        self._states[name] = states

    def _restore(self, snapshot: Snapshot) -> None:
        snapshot = rescaled(snapshot, self.plan, [len(stage) for stage in self._graph.stages])
        for task in self._graph.tasks:
            task.pipeline.restore(snapshot.tasks.get(task.name, {}))
        for number, splits in enumerate(self._splits):
            mine = snapshot.of_scan(number)
            if mine.splits is not None:
                splits.restore(mine.splits, self.now_us)
        self._positions = dict(snapshot.positions)


def drive(
    plan: Plan,
    rounds: Sequence[Round],
    kernel: Kernel,
    tasks: int = 1,
    *,
    restart_every: int | None = None,
    then: Sequence[int] = (),
    tables: Tables = no_tables,
) -> Driven:
    """Runs a plan over rounds of raw batches to its end. `restart_every`: after so many rounds it is stopped, put
    into bytes, and goes on from them in tasks made anew, of which there are as many as before, or as `then` says in
    turn."""
    driver = Driver(plan, kernel, tasks, tables=tables)
    for number in range(len(plan.scans)):
        driver.expect(sorted({raw.split for round in rounds for raw in raws_of(plan, number, round)}), number)
    watermarks = not plan.scan.bounded or plan.as_live
    before: list[Driven] = []
    for number, round in enumerate(rounds, 1):
        driver.feed(round, watermarks=watermarks)
        if restart_every is not None and number % restart_every == 0:
            data = driver.snapshot(number)
            before.append(driver.out)
            driver.close()
            tasks = then[number // restart_every % len(then)] if then else tasks
            driver = Driver(plan, kernel, tasks, now_us=driver.now_us, restored=data, tables=tables)
            driver.out.ended = before[-1].ended
    out = driver.finish()
    driver.close()
    return Driven(
        [table for part in [*before, out] for table in part.tables],
        [letter for part in [*before, out] for letter in part.malformed],
        out.late,
        out.ended,
    )


def raws_of(plan: Plan, scan: int, round: Round) -> Sequence[Raw]:
    """What a round holds for one of the plan's scans."""
    source = plan.scans[scan].source
    if isinstance(round, Mapping):
        return round.get(source, ())
    return round if source == plan.scans[0].source else ()
