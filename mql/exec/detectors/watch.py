"""A detector with its keys and their episodes: one call a window, in the order of windows.

What is known of keys that are not there is said here, once for all methods: a key that was seen before counts as 0
where the measure is a count or a sum, else its window changes nothing; after too many such windows it starts anew, and
after more it is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mql.exec.detectors.episodes import CLOSED, EPISODE_FIELDS, NOT_OPEN, OPENED, WORSE, Rule
from mql.exec.detectors.frame import (
    Columns,
    Detector,
    Field,
    Flags,
    Floats,
    Ints,
    Keys,
    Scored,
    Seen,
    Where,
    neighbours,
    none_of,
)

FRAME_FIELDS = (Field("last", "int64", -1),)
SEEN_FIELDS = (Field("seen", "int64"),)


@dataclass(frozen=True, slots=True)
class Limits:
    """`fill`: a known key that is absent counts as 0. `max_gap`: after so many missing windows a key starts anew.
    `ttl`: a key not seen for so many windows is forgotten. `max_keys`: at most so many, the least recently seen go.
    `told`: at most so many alerts a window, the worst. `scale`: scores count so many times less, bands are so
    many times as wide. `steps`: so many windows come in turn, each judged by what is known of those of its turn; an
    episode goes on through all of them."""

    fill: bool = True
    max_gap: int = 100
    ttl: int = 1000
    max_keys: int = 1_000_000
    told: int | None = None
    scale: float = 1.0
    steps: int = 1


@dataclass(frozen=True, slots=True)
class Guard:
    """What speaks against an alert: the wrong direction, too small a change."""

    direction: str = "both"
    change: float = 0.0

    def allows(self, way: npt.NDArray[np.int8], value: Floats, expected: Floats) -> Flags:
        allowed = np.ones(len(way), np.bool_)
        if self.direction == "up":
            allowed &= way > 0
        elif self.direction == "down":
            allowed &= way < 0
        if self.change > 0:
            allowed &= np.abs(value - expected) >= self.change
        return allowed


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one window. `number` counts windows; `ok`: the row's guards hold; `held`: it is not to be judged.

    `relative`: the denominator is the sum of all values of the window.
    """

    number: int
    start_us: int
    names: Sequence[str]
    value: Floats
    of: Floats | None = None
    ok: Flags | None = None
    held: Flags | None = None
    group: Ints | None = None
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """One window, judged: a line for each row of it, for each absent key that counts as 0, for each open episode.

    `row`: which row of the window, -1 for an absent key. `told`: the line is among the worst that may be told, where it
    asks for it. `gone`: the key is forgotten after this window. `reason` gives the reason of a line.
    """

    number: int
    slots: Ints
    row: Ints
    value: Floats
    score: Floats
    way: npt.NDArray[np.int8]
    expected: Floats
    lower: Floats
    upper: Floats
    hit: Flags
    phase: npt.NDArray[np.int8]
    since: Ints
    last_hit: Ints
    hits: npt.NDArray[np.uint64]
    told: Flags
    held: Flags | None
    seen: Ints
    gone: Flags
    suppressed: int
    reason: Callable[[int], str]


RULE, LIMITS, GUARD = Rule(), Limits(), Guard()
NOTHING_FRESH: tuple[Ints, Ints] = (np.empty(0, np.int64), np.empty(0, np.int64))


def stretched(scored: Scored, scale: float) -> Scored:
    """The same by a threshold that is so many times as high."""
    middle = scored.expected
    lower, upper = (middle + (bound - middle) * scale for bound in (scored.lower, scored.upper))
    return replace(scored, score=scored.score / scale, lower=lower, upper=upper)


class Watch:
    """Steps a detector window by window and keeps the episodes of all keys."""

    def __init__(self, detector: Detector, rule: Rule = RULE, limits: Limits = LIMITS, guard: Guard = GUARD) -> None:
        self.keys = Keys()
        self.number: int | None = None
        self.late = 0
        self.fresh = NOTHING_FRESH
        self.evicted = 0
        self._gone: dict[int, str] = {}
        self._detector = detector
        self._rule = rule
        self._limits = limits
        self._guard = guard
        self._state = Columns(detector.fields)
        self._episodes = Columns(EPISODE_FIELDS)
        self._frame = Columns(FRAME_FIELDS)
        self._seen = Columns(SEEN_FIELDS)

    @property
    def quiet(self) -> bool:
        """Whether a window without any row would change nothing."""
        return not len(self.keys) or (not self._limits.fill and not self._open().any())

    def step(self, rows: Rows) -> Told | None:
        """Judge one window, then learn from it. None where it is not after the last one (it is late)."""
        if self.number is not None and rows.number <= self.number:
            self.late += len(rows.names)
            return None
        self.number = rows.number
        slots = self._arrived(rows)
        order = np.argsort(slots, kind="stable")
        all_slots, row = self._lines(slots[order], order)
        here = row >= 0
        value = np.where(here, rows.value[np.maximum(row, 0)] if len(rows.value) else 0.0, 0.0)
        of = self._denominators(rows, row, value)
        judged = np.isfinite(value) & (np.isfinite(of) if of is not None else True)
        if self._limits.fill is False:
            judged &= here
        if rows.held is not None and len(rows.held):
            judged &= ~(here & rows.held[np.maximum(row, 0)])

        lines = np.flatnonzero(judged)
        at = self._in_turn(all_slots[lines], rows.number)
        group = None if rows.group is None or not len(rows.group) else rows.group[np.maximum(row, 0)][lines]
        scored = self._detector.step(
            self._state, Seen(at, value[lines], None if of is None else of[lines], group, rows.start_us)
        )
        if self._limits.scale != 1:
            scored = stretched(scored, self._limits.scale)
        self._seen["seen"][at] += 1

        count = len(all_slots)
        score, expected, lower, upper = none_of(count), none_of(count), none_of(count), none_of(count)
        score[lines], expected[lines] = scored.score, scored.expected
        lower[lines], upper[lines] = scored.lower, scored.upper
        way = np.ones(count, np.int8)
        way[lines] = scored.direction
        if of is not None:
            value = np.divide(value, of, out=none_of(count), where=of > 0)
        with np.errstate(invalid="ignore"):
            hit = (score >= 1) & self._guard.allows(way, value, expected)
        if rows.ok is not None and len(rows.ok):
            hit &= here & rows.ok[np.maximum(row, 0)]

        everywhere = neighbours(all_slots)
        unseen = rows.number - self._frame["last"][all_slots]
        gone = unseen >= self._limits.ttl
        turn = self._rule.step(self._episodes, everywhere, rows.number, score, hit & ~gone)
        turn.phase[gone & self._episodes["open"][all_slots]] = CLOSED
        asks = np.isin(turn.phase, (OPENED, WORSE)) | (hit & (turn.phase != NOT_OPEN) & (turn.phase != CLOSED))
        told = self._worst(asks, score)
        refused = asks & ~told
        suppressed = int((refused & np.isin(turn.phase, (OPENED, WORSE))).sum())
        self._rule.admit(self._episodes, everywhere, turn, score, way, refused)

        line_of = np.full(count, -1)
        line_of[lines] = np.arange(len(lines))

        def reason(line: int) -> str:
            if gone[line]:
                return f"not seen for {unseen[line]:,} windows"
            return scored.reason(int(line_of[line])) if line_of[line] >= 0 else "no value in this window"

        found = Told(
            rows.number,
            all_slots,
            row,
            value,
            score,
            np.where((turn.phase != NOT_OPEN) & ~hit, self._episodes["way"][all_slots], way),
            expected,
            lower,
            upper,
            hit,
            turn.phase,
            self._episodes["since"][all_slots],
            self._episodes["last_hit"][all_slots],
            self._episodes["hits"][all_slots],
            told,
            rows.held,
            self._seen["seen"][self._in_turn(all_slots, rows.number)],
            gone,
            suppressed,
            reason,
        )
        self._gone = {int(slot): self.keys[int(slot)] for slot in all_slots[gone]}
        self._forget(self._unseen_for_too_long())
        return found

    def named(self, slot: int) -> str:
        """The key of a line, also of one that was forgotten with its window."""
        return self._gone.get(slot) or self.keys[slot]

    def forget_more(self) -> Ints:
        """Lets go of the keys that are too many, the least recently seen; gives their slots."""
        too_many = len(self.keys) - self._limits.max_keys
        if too_many <= 0:
            return np.empty(0, np.int64)
        live = self.keys.live()
        oldest = live[np.argsort(self._frame["last"][live], kind="stable")[:too_many]]
        self._forget(np.sort(oldest))
        return oldest

    def numbers(self, warmup: int) -> dict[str, int]:
        """How many keys there are, how many of them are watched in silence still, and how many are in an episode; how
        many were forgotten, and how many rows came too late, since it was made."""
        live = self.keys.live()
        seen = self._seen["seen"][self._turns(live)].reshape(-1, self._limits.steps)
        return {
            "keys": len(live),
            "warming": int((seen <= warmup).any(axis=1).sum()) if warmup else 0,
            "open": int(self._open()[live].sum()),
            "evicted": self.evicted,
            "late": self.late,
        }

    def save(self) -> pa.Table:
        """Keys and state, a row a slot."""
        columns: dict[str, pa.Array] = {"key": self.keys.save()}
        self._grow()
        for name, part, steps in self._parts():
            saved = part.save(self.keys.size * steps)
            columns.update({f"{name}.{field}": _folded(array, steps) for field, array in saved.items()})
        return pa.table(columns)

    def load(self, table: pa.Table, number: int | None) -> None:
        """Goes on where another left off."""
        self.keys.load(table.column("key").to_pylist())
        self._grow()
        self.number = number
        for name, part, steps in self._parts():
            columns = {field.name: _unfolded(table.column(f"{name}.{field.name}"), steps) for field in part.fields}
            part.load(pa.table(columns))

    def _parts(self) -> tuple[tuple[str, Columns, int], ...]:
        """What is known of keys, each part with its name and how many slots of it a key has."""
        steps = self._limits.steps
        return (
            ("d", self._state, steps),
            ("s", self._seen, steps),
            ("e", self._episodes, 1),
            ("f", self._frame, 1),
        )

    # --- the keys of a window --------------------------------------------------------------------------

    def _arrived(self, rows: Rows) -> Ints:
        """The slots of the window's keys; new ones begin, and so do those that were away for too long."""
        slots, new = self.keys.slots(rows.names)
        self._grow()
        last = self._frame["last"]
        self.fresh = NOTHING_FRESH
        if len(new):
            of_new = np.flatnonzero(np.isin(slots, new))
            self.fresh = (slots[of_new], of_new)
            self._reset(new)
            last[new] = rows.number
        if not self._limits.fill:
            stale = slots[rows.number - last[slots] > self._limits.max_gap]
            if len(stale):
                self._state.reset(self._turns(stale))
                self._seen.reset(self._turns(stale))
        last[slots] = rows.number
        return slots

    def _lines(self, ordered: Ints, order: Ints) -> tuple[Ints, Ints]:
        """All slots that this window concerns, rising, and for each the row that it has in the window (or -1)."""
        others = self.keys.live() if self._limits.fill else np.flatnonzero(self._open())
        if not len(others) or np.array_equal(others, ordered):
            return ordered, order
        found = np.union1d(ordered, others)
        row = np.full(len(found), -1)
        row[np.searchsorted(found, ordered)] = order
        return found, row

    def _denominators(self, rows: Rows, row: Ints, value: Floats) -> Floats | None:
        if rows.relative:
            return np.full(len(row), np.nansum(value))
        if rows.of is None:
            return None
        return np.where(row >= 0, rows.of[np.maximum(row, 0)] if len(rows.of) else 0.0, 0.0)

    def _worst(self, asks: Flags, score: Floats) -> Flags:
        """Of the lines that ask to be told, the worst."""
        most = self._limits.told
        wanting = np.flatnonzero(asks)
        told = np.zeros(len(asks), np.bool_)
        if most is not None and len(wanting) > most:
            wanting = wanting[np.argsort(-score[wanting], kind="stable")[:most]]
        told[wanting] = True
        return told

    def _open(self) -> Flags:
        found: Flags = self._episodes["open"][: self.keys.size]
        return found

    def _unseen_for_too_long(self) -> Ints:
        assert self.number is not None
        live = self.keys.live()
        return live[self.number - self._frame["last"][live] >= self._limits.ttl]

    def _grow(self) -> None:
        for _, part, steps in self._parts():
            part.grow(self.keys.size * steps)

    def _reset(self, slots: Ints) -> None:
        for _, part, steps in self._parts():
            part.reset(slots if steps == 1 else self._turns(slots))

    def _turns(self, slots: Ints) -> Ints:
        """The places of all turns of these slots."""
        steps = self._limits.steps
        return slots if steps == 1 else (slots[:, None] * steps + np.arange(steps)).reshape(-1)

    def _in_turn(self, slots: Ints, number: int) -> Where:
        """The places of the turn that a window has."""
        steps = self._limits.steps
        return neighbours(slots if steps == 1 else slots * steps + number % steps)

    def _forget(self, slots: Ints) -> None:
        if len(slots):
            self.keys.drop(slots)
            self._reset(slots)
            self.evicted += len(slots)


def _folded(array: pa.Array, steps: int) -> pa.Array:
    """A slot's values of all turns side by side, where there are several."""
    return array if steps == 1 else pa.FixedSizeListArray.from_arrays(array, steps)


def _unfolded(column: pa.ChunkedArray, steps: int) -> pa.Array:
    array = column.combine_chunks()
    return array if steps == 1 else array.flatten()
