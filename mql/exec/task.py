"""One parallel instance of a stage: its inputs, aligned, its operators, its way out. A runtime decides when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from mql.exec.exchange import Channel, Exchange, nothing
from mql.exec.items import (
    MAX_US,
    MIN_US,
    Barrier,
    Batch,
    Counts,
    Done,
    End,
    Item,
    Operator,
    Roster,
    State,
    Tick,
    Watermark,
)
from mql.exec.ledger import Settled
from mql.exec.pipeline import Pipeline


@dataclass(slots=True)
class Input:
    """One line that a task reads, and how far it has come. `held`: the barrier that has come while others lack it."""

    channel: Channel
    watermark_us: int = MIN_US
    tick_us: int = MIN_US
    held: Barrier | None = None
    roster: Roster | None = None
    ended: bool = False


NOTHING_YET = Settled()


@dataclass(slots=True)
class Task:
    """Runs on one thread at a time; `step` does one item and may be called whenever `ready` says so.

    The watermark is the smallest of the inputs'; a barrier holds an input back until all have it; the task ends when
    all its inputs have. `on_snapshot` gets what the operators said at a barrier.
    """

    name: str
    operators: Sequence[Operator]
    channels: Sequence[Channel]
    exchange: Exchange
    on_snapshot: Callable[[str, int, Mapping[int, State]], None] = lambda name, epoch, states: None
    on_failure: Callable[[Exception], None] = lambda error: None
    on_events: int | None = None
    """How many of its operators work on events, where not all do: what the others hold is made of these."""
    rank: int = 0
    """Which tasks go first where several have something to do: those of the highest rank."""
    ended: bool = False
    stopped: bool = False
    in_state: int = 0
    settled: Settled = NOTHING_YET
    """What became of events, as of the last item."""
    wake: Callable[[], None] = nothing
    inputs: list[Input] = field(init=False)
    pipeline: Pipeline = field(init=False)
    _watermark_us: int = MIN_US
    _tick_us: int = MIN_US
    _roster: int = 0
    _turn: int = 0

    def __post_init__(self) -> None:
        assert self.channels, f"task {self.name} has no input"
        self.inputs = [Input(channel) for channel in self.channels]
        self.pipeline = Pipeline(self.operators, self.exchange.send)

    @property
    def counts(self) -> Sequence[Counts]:
        return tuple(operator.counts for operator in self.operators)

    def recount(self) -> None:
        """What it holds, where it was restored or a barrier has passed."""
        self.in_state = self.pipeline.in_state(self.on_events)
        self._settle()

    def _settle(self) -> None:
        """Between two items all counts fit each other: so they are told."""
        counts = [operator.counts for operator in self.operators[: self.on_events]]
        self.settled = Settled(
            self.operators[0].counts.seen if self.operators else 0,
            sum(one.filtered for one in counts),
            sum(one.late for one in counts),
            sum(one.sampled for one in counts),
            self.in_state,
        )

    @property
    def ready(self) -> bool:
        return not self.stopped and not self.ended and not self.exchange.full and self._next() is not None

    def step(self) -> None:
        """Does the next item, of the inputs in turn."""
        at = self._next()
        assert at is not None, f"task {self.name} has nothing to do"
        self._turn = at + 1
        item = self.inputs[at].channel.take()
        if item is not None:
            self._do(self.inputs[at], item)
            self._settle()

    def stop(self) -> None:
        """It will not be run again; who waits to write to it is let go."""
        self.stopped = True
        for one in self.inputs:
            one.channel.on_item = nothing
            one.channel.clear()

    def _next(self) -> int | None:
        """The input whose turn it is: the next one that is not held and has something."""
        count = len(self.inputs)
        for at in range(self._turn, self._turn + count):
            one = self.inputs[at % count]
            if one.channel and one.held is None:
                return at % count
        return None

    def _do(self, source: Input, item: Item) -> None:
        match item:
            case Batch() | Done():
                self.pipeline.push(item)
            case Watermark(us):
                source.watermark_us = max(source.watermark_us, us)
                self._move_watermark()
            case Tick(us):
                source.tick_us = max(source.tick_us, us)
                self._move_tick()
            case Barrier():
                source.held = item
                self._align(item)
            case Roster():
                source.roster = item
                self._move_roster()
            case End():
                self._end(source)
            case _:
                assert_never(item)

    def _move_watermark(self) -> None:
        reached = min(one.watermark_us for one in self.inputs)
        if reached > self._watermark_us:
            self._watermark_us = reached
            self.pipeline.push(Watermark(reached))
            self.in_state = self.pipeline.in_state(self.on_events)

    def _move_tick(self) -> None:
        reached = min(one.tick_us for one in self.inputs)
        if reached > self._tick_us:
            self._tick_us = reached
            self.pipeline.push(Tick(reached))
            self.in_state = self.pipeline.in_state(self.on_events)

    def _move_roster(self) -> None:
        """The oldest that one of the inputs stands at: nothing of queries that are not in it will come any more."""
        rosters = [one.roster for one in self.inputs if not one.ended]
        if any(roster is None for roster in rosters):
            return
        oldest = min((roster for roster in rosters if roster is not None), key=lambda roster: roster.version)
        if oldest.version > self._roster:
            self._roster = oldest.version
            self.pipeline.push(oldest)

    def _align(self, barrier: Barrier) -> None:
        if not all(one.held is not None or one.ended for one in self.inputs):
            return
        for one in self.inputs:
            one.held = None
        self.pipeline.push(barrier)
        self.recount()
        self.on_snapshot(self.name, barrier.epoch, self.pipeline.snapshot())

    def _end(self, source: Input) -> None:
        source.ended = True
        source.watermark_us = source.tick_us = MAX_US
        if all(one.ended for one in self.inputs):
            # Settled first: who hears of the end looks at the ledger at once, and nothing is held any more then.
            self.in_state = 0
            self._settle()
            self.pipeline.push(End())
            self.ended = True
            return
        self._move_watermark()
        self._move_tick()
        held = next((one.held for one in self.inputs if one.held is not None), None)
        if held is not None:
            self._align(held)
