"""Which sub-groups explain a deviation: EXPLAIN BY.

Of each group, the usual part of each sub-group is remembered: means with exponential weights, learned from windows that
are not unusual. When an episode is told, each sub-group's distance from what was expected of it is its share of the
whole distance; how many times what was expected it has is its lift. Sub-groups are looked for along each dimension and
along several together (one country, one device, that device in that country), after Adtributor (Bhagwan and others,
2014) with its explanatory power and surprise: the one whose share times log lift is largest is told first, its events
are taken out, and the next is looked for in what is left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from mql.exec.detectors.frame import Columns, Field, Floats, Ints, Keys, half_life

HALF_LIFE = 1000
"""After so many windows a window counts half in what is usual."""
CELLS_MAX = 1_000_000
"""Sub-groups that are remembered; of others nothing was expected."""
KAPPA = 50
"""Of ratios, each sub-group is given so many events at the rate of the whole group."""
SHARE_LEAST = 0.05
"""What explains less than that of a deviation is not told."""
SMALL = 200
"""A lift is dampened by one part in so many of the whole: small numbers are lifted easily."""
TTL = 1000
SWEEP_EVERY = 256

Cells = dict[str, float]
"""The parts of a window's measure, by sub-group."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """What is to be explained: the group's parts in this window, what was expected of it all, and `way` (1 or -1)."""

    amounts: Cells
    sizes: Cells | None
    expected: float
    way: int


@dataclass(frozen=True, slots=True)
class Contributor:
    what: str
    share: float
    lift: float | None
    value: float
    expected: float


class Usual:
    """What is usual of each sub-group of each group. Groups are known by their names, as the detector's keys are."""

    def __init__(self, with_sizes: bool) -> None:
        self.with_sizes = with_sizes
        self._keys = Keys()
        self._cells = Columns((Field("k"), Field("n"), Field("weight"), Field("turn", "int64"), Field("last", "int64")))
        self._of: dict[str, list[int]] = {}
        self._keep = 1 - half_life(HALF_LIFE)

    def learn(self, number: int, groups: Sequence[str], amounts: pa.Array, sizes: pa.Array | None) -> None:
        """One window: the parts of these groups, as maps."""
        if not len(groups):
            return
        names, at = [], []
        values: list[Floats] = []
        for column in (amounts, *(() if sizes is None else (sizes,))):
            found = flat(groups, column)
            names.append(found[0])
            values.append(found[1])
            at.append(found[2])
        whole = self._slots(list(groups), None)
        cells = self._cells
        cells["turn"][whole] += 1
        cells["weight"][whole] = cells["weight"][whole] * self._keep + 1
        cells["last"][whole] = number
        for field, name, value, rows in zip(("k", "n"), names, values, at, strict=False):
            slots = self._slots(name, [groups[row] for row in rows])
            known, turn = slots > 0, cells["turn"]
            slots, value, now = slots[known], value[known], turn[whole[rows[known]]]
            faded = np.power(self._keep, now - turn[slots])
            for other in ("k", "n"):
                cells[other][slots] *= faded
            cells[field][slots] += value
            turn[slots] = now
            cells["last"][slots] = number
        if number % SWEEP_EVERY == 0:
            self._forget(number)

    def explain(self, group: str, told: Deviation, dimensions: Sequence[str], top: int) -> list[Contributor]:
        """The sub-groups that explain the deviation, at most `top`; none where nothing stands out."""
        names = sorted({*self._names_of(group), *told.amounts, *(told.sizes or ())})
        if not names:
            return []
        amount = np.array([told.amounts.get(name, 0.0) for name in names])
        usual_k, usual_n = self._usual(group, names)
        if told.sizes is None:
            whole = usual_k.sum()
            expected = usual_k * (told.expected / whole) if whole else np.zeros(len(names))
        else:
            size = np.array([told.sizes.get(name, 0.0) for name in names])
            rate = usual_k.sum() / usual_n.sum() if usual_n.sum() else told.expected
            expected = size * (usual_k + KAPPA * rate) / (usual_n + KAPPA)
        return contributors(names, amount, expected, told.way, dimensions, top)

    def save(self) -> pa.Table:
        columns: dict[str, pa.Array] = {"key": self._keys.save()}
        self._cells.grow(self._keys.size)
        columns.update(self._cells.save(self._keys.size))
        return pa.table(columns)

    def load(self, table: pa.Table) -> None:
        names = table.column("key").to_pylist()
        self._keys.load(names)
        self._cells.grow(self._keys.size)
        self._cells.load(table.drop_columns(["key"]))
        self._of = {}
        for slot, name in enumerate(names):
            if name is not None and "\n" in name:
                self._of.setdefault(name.partition("\n")[0], []).append(slot)

    # --- the cells -------------------------------------------------------------------------------------

    def _slots(self, names: list[str], groups: Sequence[str] | None) -> Ints:
        """The slots of these names; 0 for what is new and one too many. `groups`: whose sub-groups they are."""
        if len(self._keys) + len(names) > CELLS_MAX and groups is not None:
            known = self._keys.find(names)
            if len(self._keys) + int((known < 0).sum()) > CELLS_MAX:
                return np.maximum(known, 0)
        slots, new = self._keys.slots(names)
        if len(new):
            self._cells.grow(self._keys.size)
            self._cells.reset(new)
            if groups is not None:
                fresh = set(new.tolist())
                for slot, group in zip(slots.tolist(), groups, strict=True):
                    if slot in fresh:
                        self._of.setdefault(group, []).append(slot)
        return slots

    def _names_of(self, group: str) -> list[str]:
        return [self._keys[slot].partition("\n")[2] for slot in self._of.get(group, ())]

    def _usual(self, group: str, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Decayed sums of amounts and sizes of these sub-groups, as of the last window learned."""
        known = self._keys.find([group, *(f"{group}\n{name}" for name in names)])
        if known[0] < 0:
            return np.zeros(len(names)), np.zeros(len(names))
        slots = np.maximum(known[1:], 0)
        cells = self._cells
        faded = np.power(self._keep, np.maximum(cells["turn"][known[0]] - cells["turn"][slots], 0))
        there = known[1:] > 0
        return np.where(there, cells["k"][slots] * faded, 0.0), np.where(there, cells["n"][slots] * faded, 0.0)

    def _forget(self, number: int) -> None:
        """Lets go of what was not seen for long."""
        live = self._keys.live()
        gone = live[number - self._cells["last"][live] >= TTL]
        if not len(gone):
            return
        for slot in gone.tolist():
            group, _, cell = self._keys[slot].partition("\n")
            if cell and group in self._of:
                self._of[group].remove(slot)
                if not self._of[group]:
                    del self._of[group]
        self._keys.drop(gone)
        self._cells.reset(gone)


def contributors(
    names: Sequence[str], amount: Floats, expected: Floats, way: int, dimensions: Sequence[str], top: int
) -> list[Contributor]:
    """The sub-groups by which the amounts differ most from what was expected of them."""
    away = way * (amount - expected)
    whole = float(away.sum())
    if not whole > 0:
        return []
    values = [json.loads(name) for name in names]
    unit = max(float(amount.sum()), float(expected.sum())) / SMALL
    sides = tuple(side for size in range(1, len(dimensions) + 1) for side in combinations(range(len(dimensions)), size))
    coded = [coded_by(values, side) for side in sides]
    left = np.ones(len(names), np.bool_)
    found: list[Contributor] = []
    while len(found) < top and left.any():
        best: tuple[float, int, int] | None = None
        for at, code in enumerate(coded):
            share, lift = weighed(code[left], away[left] / whole, amount[left], expected[left], way, unit)
            worth = np.where(share >= SHARE_LEAST, np.minimum(share, 1.0) * np.log2(np.maximum(lift, 1e-9)), 0.0)
            first = int(np.argmax(worth))
            if worth[first] > 1e-9 and (best is None or worth[first] > best[0] + 1e-9):
                best = float(worth[first]), at, first
        if best is None:
            break
        inside = left & (coded[best[1]] == best[2])
        left &= ~inside
        k, e = float(amount[inside].sum()), float(expected[inside].sum())
        one = values[int(np.flatnonzero(inside)[0])]
        found.append(
            Contributor(
                ", ".join(f"{dimensions[part]}={as_text(one[part])}" for part in sides[best[1]]),
                round(float(away[inside].sum()) / whole, 4),
                round(k / e, 4) if e > 0 else None,
                round(k, 6),
                round(e, 6),
            )
        )
    return found


def weighed(
    code: Ints, share: Floats, amount: Floats, expected: Floats, way: int, unit: float
) -> tuple[Floats, Floats]:
    """Share and dampened lift of each sub-group of one side."""
    size = int(code.max()) + 1
    k, e = added(code, amount, size) + unit, added(code, expected, size) + unit
    return added(code, share, size), (k / e if way > 0 else e / k)


def added(code: Ints, values: Floats, size: int) -> Floats:
    """The sums of values by their codes."""
    return np.asarray(np.bincount(code, values, size), np.float64)


def coded_by(values: Sequence[Sequence[str | None]], side: tuple[int, ...]) -> Ints:
    """A number for each sub-group of some of the dimensions."""
    known: dict[tuple[str | None, ...], int] = {}
    return np.array([known.setdefault(tuple(one[part] for part in side), len(known)) for one in values], np.int64)


def flat(groups: Sequence[str], maps: pa.Array) -> tuple[list[str], Floats, Ints]:
    """The parts of maps one after the other: their names below their groups', their values, and whose they are."""
    lengths = np.diff(maps.offsets.to_numpy())
    lengths = np.where(maps.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    rows = np.repeat(np.arange(len(groups)), lengths)
    first, last = maps.offsets[0].as_py(), maps.offsets[-1].as_py()
    cells = maps.keys.slice(first, last - first).to_pylist()
    values = np.nan_to_num(np.asarray(maps.items.slice(first, last - first).to_numpy(zero_copy_only=False), np.float64))
    return [f"{groups[row]}\n{cell}" for row, cell in zip(rows.tolist(), cells, strict=True)], values, rows


def cells_of(maps: pa.ChunkedArray, row: int) -> Cells:
    """One row's map; nothing where it is null."""
    found = maps[row].as_py()
    return {} if found is None else {name: float(value or 0.0) for name, value in found}


def as_text(value: str | None) -> str:
    return "null" if value is None else value
