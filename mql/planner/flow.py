"""Stages as they are cut: where the rows of a plan have got to, and how they go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mql.planner.physical import OperatorSpec, Stage


@dataclass(frozen=True, slots=True)
class Flow:
    """Stages cut so far, numbered by their place, and those of them whose rows flow on (`tails`).

    Operators are added to the stages where rows are; an exchange begins a stage that reads all of these. So the inputs
    of a union, or the sides of a join, come together at the next exchange, under the smallest of their watermarks.
    """

    stages: tuple[Stage, ...]
    tails: tuple[int, ...]

    def then(self, *operators: OperatorSpec) -> Flow:
        """The same rows through more operators, without an exchange."""
        stages = tuple(
            replace(stage, operators=(*stage.operators, *operators)) if stage.number in self.tails else stage
            for stage in self.stages
        )
        return Flow(stages, self.tails)

    def gathered(self, *operators: OperatorSpec) -> Flow:
        """All rows in one task."""
        return self._exchanged("gather", "one", operators)

    def hashed(self, *operators: OperatorSpec) -> Flow:
        """Rows of equal `__h` in the same task."""
        return self._exchanged("hash", "any", operators)

    def as_one(self) -> Flow:
        """Rows that come out of one stage."""
        return self if len(self.tails) == 1 else self.gathered()

    def _exchanged(self, how: str, parallel: str, operators: tuple[OperatorSpec, ...]) -> Flow:
        number = len(self.stages)
        of = () if self.tails == (number - 1,) else self.tails
        return Flow((*self.stages, Stage(number, how, parallel, operators, of=of)), (number,))


def scanning(scan: int, *operators: OperatorSpec) -> Flow:
    """The events of one of a plan's scans."""
    return Flow((Stage(0, "scan", "splits", operators, scan),), (0,))


def side_by_side(flows: Sequence[Flow]) -> Flow:
    """The rows of all of them: stages one after the other, and of all the last ones flow on."""
    stages: list[Stage] = []
    tails: list[int] = []
    for flow in flows:
        first = len(stages)
        for stage in flow.stages:
            of = tuple(number + first for number in stage.of)
            stages.append(replace(stage, number=stage.number + first, of=of))
        tails.extend(number + first for number in flow.tails)
    return Flow(tuple(stages), tuple(tails))
