"""The ledger: events = emitted_from + filtered + late + malformed + sampled + skipped + dropped + in_state.

Each of its functions is told counts of one moment, or such as were read in the right order while they go on: what
comes later on an event's way first, so that nothing is counted behind a place that it has not been counted at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Ledger = dict[str, int]


@dataclass(slots=True)
class Tally:
    """What has been handed on, or could not be: of one share of a source, or of several together."""

    seen: int = 0
    malformed: int = 0
    skipped: int = 0
    dropped: int = 0

    def add(self, other: Tally, sign: int = 1) -> None:
        self.dropped += sign * other.dropped  # the last that is counted of an event
        self.seen += sign * other.seen
        self.malformed += sign * other.malformed
        self.skipped += sign * other.skipped


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the events that a task took, at one moment."""

    taken: int = 0
    filtered: int = 0
    late: int = 0
    sampled: int = 0
    in_state: int = 0


@dataclass(frozen=True, slots=True)
class Matched:
    """The same of one of the queries that share a plan. `matched`: the events that it wanted."""

    taken: int = 0
    matched: int = 0
    late: int = 0
    sampled: int = 0


def settled_together(parts: Iterable[Settled], taken: int) -> Settled:
    """What became of events in all tasks. `taken`: how many those took that events come to first."""
    filtered = late = sampled = in_state = 0
    for part in parts:
        in_state += part.in_state
        filtered += part.filtered
        late += part.late
        sampled += part.sampled
    return Settled(taken, filtered, late, sampled, in_state)


def ledger_of(handed: Tally, settled: Settled, carried: int = 0) -> Ledger:
    """`carried`: the events that its state held when it was restored: they are its own as much as those that come."""
    events = handed.seen + carried
    in_state = settled.in_state + max(0, handed.seen - handed.dropped - settled.taken)
    in_state = min(in_state, max(0, events - settled.filtered - settled.late - settled.sampled - handed.dropped))
    return _ledger(handed, events, settled.filtered, settled.late, settled.sampled, in_state)


def ledger_of_member(handed: Tally, parts: Sequence[Matched], held: int, carried: int = 0) -> Ledger:
    """The same of one of the queries that share a plan, which holds so many: what it took and did not want is
    filtered."""
    matched = sum(part.matched for part in parts)
    late = sum(part.late for part in parts)
    sampled = sum(part.sampled for part in parts)
    taken = max(sum(part.taken for part in parts), matched + late + sampled)
    in_state = min(held, matched + carried) + max(0, handed.seen - handed.dropped - taken)
    filtered = taken - matched - late - sampled
    return _ledger(handed, handed.seen + carried, filtered, late, sampled, in_state)


def _ledger(handed: Tally, decoded: int, filtered: int, late: int, sampled: int, in_state: int) -> Ledger:
    gone = filtered + late + sampled + handed.dropped + in_state
    return {
        "events": decoded + handed.malformed + handed.skipped,
        "emitted_from": max(0, decoded - gone),
        "filtered": filtered,
        "late": late,
        "malformed": handed.malformed,
        "sampled": sampled,
        "skipped": handed.skipped,
        "dropped": handed.dropped,
        "in_state": in_state,
    }
