"""Which of a job's sinks are the same when others are asked for: each has a seat, whose number is its own for good.

A sink keeps its seat, and with it its place, while it writes to where it wrote; what writes elsewhere has a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Seat(BaseModel):
    """A sink's own number, and the number of the result row from which on it is told rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=0)
    begins: int = Field(default=0, ge=0)


class Aimed(Protocol):
    """What is said of a sink, as far as it decides where it writes."""

    @property
    def kind(self) -> str: ...

    @property
    def target(self) -> tuple[Any, ...]: ...


@dataclass(frozen=True, slots=True)
class Seating:
    """Seats for the sinks that are asked for, in their order. `gone`: those that are free now. `told`: what becomes
    of each sink, in sentences."""

    seats: tuple[Seat, ...]
    seats_made: int
    gone: tuple[int, ...]
    changed: tuple[int, ...]
    told: tuple[str, ...]


def seats_of(sinks: Sequence[Any], seats: tuple[Seat, ...]) -> tuple[Seat, ...]:
    """Those of a job whose sinks were never changed are numbered as they were said."""
    return seats or tuple(Seat(number=at) for at in range(len(sinks)))


def seated(
    before: Sequence[Aimed], seats: tuple[Seat, ...], seats_made: int, after: Sequence[Aimed], begins: int
) -> Seating:
    """Who is as before sits where it sat; then who only has other settings; who is left begins at the row `begins`."""
    free = dict(zip((seat.number for seat in seats), zip(seats, before, strict=True), strict=True))
    found: dict[int, Seat] = {}
    changed: list[int] = []
    for is_same in (_is_equal, _aims_alike):
        for at, sink in enumerate(after):
            if at in found:
                continue
            number = next((number for number, (_, was) in free.items() if is_same(was, sink)), None)
            if number is not None:
                found[at] = free.pop(number)[0]
                if is_same is _aims_alike:
                    changed.append(number)
    made = max([seats_made, *(seat.number + 1 for seat in seats)])
    new: list[int] = []
    for at in range(len(after)):
        if at not in found:
            found[at] = Seat(number=made, begins=begins)
            new.append(made)
            made += 1
    order = tuple(found[at] for at in range(len(after)))
    told = [_told(seat, sink, changed, new) for seat, sink in zip(order, after, strict=True)]
    told += [f"sink {number} ({was.kind}) is taken away" for number, (_, was) in free.items()]
    return Seating(order, made, tuple(free), tuple(changed), tuple(told))


def _is_equal(was: Aimed, sink: Aimed) -> bool:
    return was == sink


def _aims_alike(was: Aimed, sink: Aimed) -> bool:
    return was.target == sink.target


def _told(seat: Seat, sink: Aimed, changed: Sequence[int], new: Sequence[int]) -> str:
    name = f"sink {seat.number} ({sink.kind})"
    if seat.number in new:
        return f"{name} is new: it begins with row {seat.begins}"
    return f"{name} keeps its place, with other settings" if seat.number in changed else f"{name} stays as it is"


def as_said(seating: Seating) -> Mapping[str, Any]:
    """As a job's spec keeps it."""
    return {"seats": seating.seats, "seats_made": seating.seats_made}
