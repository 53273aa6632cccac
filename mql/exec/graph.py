"""A plan's tasks with the lines between them: what a runtime hosts, and what a driver steps through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mql.exec.exchange import Channel, Exchange, Forward, Hash, Outlet
from mql.exec.items import Item, Operator
from mql.exec.task import Task
from mql.planner.physical import OperatorSpec, Plan, Stage
from mql.planner.physical import on_events as on_events_of

Tell = Callable[[int, Item], None]
"""What gets the items of the last stage, with the number of the task that they come from."""


@dataclass(frozen=True, slots=True)
class Graph:
    """`feeds[n][t]` feeds task t of the stage that reads scan n."""

    stages: tuple[tuple[Task, ...], ...]
    feeds: tuple[tuple[Channel, ...], ...]

    @property
    def entries(self) -> tuple[Channel, ...]:
        """The lines into the tasks of all scans."""
        return tuple(channel for feed in self.feeds for channel in feed)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(task for stage in self.stages for task in stage)

    @property
    def in_state(self) -> int:
        """Events that operators and lines hold back."""
        return sum(task.in_state for task in self.tasks)


def connect(
    plan: Plan,
    counts: Sequence[int],
    make: Callable[[int, int, OperatorSpec], Operator],
    tell: Tell,
    is_full: Callable[[], bool] = lambda: False,
) -> Graph:
    """The tasks of a plan, `counts[s]` of them for stage s. `make` gives the operator for a task (stage, number)."""
    feeds: dict[int, tuple[Channel, ...]] = {}
    reads: dict[int, list[list[Channel]]] = {}
    outlets = [Outlet(bind_task(tell, at), is_full) for at in range(counts[-1])]
    ways: dict[int, Sequence[Exchange]] = {len(plan.stages) - 1: outlets}
    for stage in plan.stages:
        count = counts[stage.number]
        if stage.input == "scan":
            feeds[stage.scan] = tuple(Channel() for _ in range(count))
        reads[stage.number] = [[channel] for channel in feeds[stage.scan]] if stage.input == "scan" else _none(count)
        for before in stage.inputs:
            ways[before], into = lines(stage, counts[before], count)
            for mine, more in zip(reads[stage.number], into, strict=True):
                mine.extend(more)
    stages = []
    on_events = on_events_of(plan.stages)
    for stage in plan.stages:
        tasks = []
        for at in range(counts[stage.number]):
            operators = tuple(make(stage.number, at, spec) for spec in stage.operators)
            task = Task(f"{stage.number}.{at}", operators, reads[stage.number][at], ways[stage.number][at])
            task.on_events = on_events[stage.number]
            tasks.append(task)
        stages.append(tuple(tasks))
    return Graph(tuple(stages), tuple(feeds[scan] for scan in range(len(plan.scans))))


def _none(count: int) -> list[list[Channel]]:
    return [[] for _ in range(count)]


def lines(stage: Stage, writers: int, readers: int) -> tuple[Sequence[Exchange], Sequence[Sequence[Channel]]]:
    """The ways out of the tasks before a stage, and for each of its tasks the lines that it reads."""
    match stage.input:
        case "forward":
            assert writers == readers
            straight = [Channel() for _ in range(writers)]
            ways: list[Exchange] = [Forward(channel) for channel in straight]
            return ways, [(channel,) for channel in straight]
        case "hash" | "gather":
            crossed = [[Channel() for _ in range(readers)] for _ in range(writers)]
            ways = [Hash(row) if readers > 1 else Forward(row[0]) for row in crossed]
            return ways, [tuple(row[at] for row in crossed) for at in range(readers)]
        case kind:
            raise AssertionError(kind)


def bind_task(tell: Tell, at: int) -> Callable[[Item], None]:
    return lambda item: tell(at, item)
