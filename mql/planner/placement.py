"""Which task runs on which worker. Pure: the same plan and load give the same placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mql.planner.physical import Plan, Stage


@dataclass(frozen=True, slots=True)
class Placement:
    """`stages[s][t]` is the worker of task t of stage s."""

    stages: tuple[tuple[int, ...], ...]

    @property
    def tasks(self) -> int:
        return sum(len(stage) for stage in self.stages)


def place(
    plan: Plan, splits: int | Sequence[int], workers: int, load: Sequence[float] = (), wanted: int | None = None
) -> Placement:
    """Tasks that hand to each other sit on one worker, where they need not wait for another's thread; each such chain
    goes to the worker with the least load (of equal ones, the first). `splits`: of each scan, or of every one alike.

    A stage that may have any number of tasks gets as many as are `wanted`, else as many as read the sources: they have
    no more to do.
    """
    each = [splits] * len(plan.scans) if isinstance(splits, int) else list(splits)
    assert min(each) > 0
    assert workers > 0
    loads = [*load, *[0.0] * workers][:workers]
    chains = min(sum(each) if wanted is None else wanted, workers)
    order = sorted(range(workers), key=lambda worker: (loads[worker], worker))[:chains]

    def workers_of(stage: Stage) -> tuple[int, ...]:
        if stage.input != "scan":
            return tuple(order[: parallelism(stage, chains)])
        first = sum(each[: stage.scan])
        return tuple(order[(first + at) % chains] for at in range(parallelism(stage, min(each[stage.scan], workers))))

    return Placement(tuple(workers_of(stage) for stage in plan.stages))


def parallelism(stage: Stage, chains: int) -> int:
    match stage.parallel:
        case "splits" | "any":
            return chains
        case "one":
            return 1
        case kind:
            raise AssertionError(kind)


def show_placement(placement: Placement) -> str:
    """One line a stage: the worker of each of its tasks."""
    return "\n".join(
        f"stage {number}: " + ", ".join(f"task {task} on worker {worker}" for task, worker in enumerate(workers))
        for number, workers in enumerate(placement.stages)
    )
