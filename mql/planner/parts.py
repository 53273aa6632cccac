"""A query's chain of nodes taken apart, by what each is for."""

from __future__ import annotations

from dataclasses import dataclass

from mql.planner.expressions import Bound, conjunction
from mql.planner.logical import (
    Arrange,
    Derived,
    Detect,
    Enriched,
    Filter,
    Group,
    Input,
    Joined,
    Logical,
    Merge,
    Over,
    Project,
    Sample,
    Sampled,
    Scan,
    Speak,
    Track,
    Union,
    Windowed,
    chain,
)
from mql.planner.physical import Window


@dataclass(frozen=True, slots=True)
class Parts:
    """The nodes of a logical plan, each at most once, in the order in which rows pass them."""

    scan: Input
    sampled: Sampled | None
    where: Bound | None
    windowed: Windowed | None
    group: Group | None
    having: Bound | None
    detect: Detect | None
    track: Track | None
    over: Over | None
    qualify: Bound | None
    arrange: Arrange | None
    project: Project
    speak: Speak
    inner: bool = False
    """Its rows are the events of another query."""

    @property
    def retracts(self) -> bool:
        """Whether rows can be withdrawn."""
        return isinstance(self.scan, Joined) and self.scan.retracts

    @property
    def window(self) -> Window | None:
        if self.group is not None:
            return self.group.window
        return self.windowed.window if self.windowed is not None else None

    @property
    def limit(self) -> int | None:
        """How many rows there are in all, where LIMIT says that and nothing else decides which."""
        arrange = self.arrange
        counts = arrange is not None and not (arrange.order or arrange.per or arrange.per_window)
        return arrange.limit if arrange is not None and counts else None

    @property
    def patience_us(self) -> int:
        """How far behind its split a window may have ended and still take a row."""
        return self.scan.lateness_us + self.speak.revise_us + self.speak.hold_us


def parts_of(top: Logical) -> Parts:
    """Take a query's chain apart."""
    scan = sampled = windowed = group = detect = track = over = arrange = project = speak = None
    judged: list[Bound] = []
    above: list[Bound] = []
    below: list[Bound] = []
    for node in chain(top):
        match node:
            case Scan() | Merge() | Derived() | Union() | Joined() | Enriched():
                scan = node
            case Sample():
                sampled = node.sampled
            case Filter():
                (below if group is not None else above).append(node.predicate)
            case Windowed():
                windowed = node
            case Group():
                group = node
            case Detect():
                detect = node
            case Track():
                track = node
            case Project():
                project = node
            case Over():
                over = node
                judged, above = above, []
            case Arrange():
                arrange = node
            case Speak():
                speak = node
    assert scan is not None
    assert project is not None
    assert speak is not None
    if group is None:
        below, above = above, []
    where = conjunction(below) if below else None
    having = conjunction(above) if above else None
    qualify = conjunction(judged) if judged else None
    return Parts(
        scan,
        sampled,
        where,
        windowed,
        group,
        having,
        detect,
        track,
        over,
        qualify,
        arrange,
        project,
        speak,
        speak.inner,
    )
