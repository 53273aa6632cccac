"""The detector of a query: judges each window once all of its groups are there, and tells what is asked for."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.detectors import detector
from mql.exec.detectors.contributors import Cells, Deviation, Usual, cells_of
from mql.exec.detectors.episodes import CLOSED, GOES_ON, NOT_OPEN, OPENED, WORSE, Rule
from mql.exec.detectors.frame import Flags, Floats, Ints
from mql.exec.detectors.watch import Guard, Limits, Rows, Told, Watch
from mql.exec.items import MAX_US, MIN_US, Batch, End, Item, State, Watermark
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, Pile, number_state
from mql.planner.grid import Grid
from mql.planner.physical import Anomaly, Explained
from mql.planner.windows import HOUR_US

PHASES = {OPENED: "open", GOES_ON: "update", WORSE: "update", CLOSED: "close"}
TOLD_ROWS = 10_000
"""Rows of several windows are told together, at most about so many."""
PARTS = ("numbers", "watch", "held", "known", "usual")
"""The tables that a judge's state is made of."""
EXPLAINED_MAX = 1_000
"""Rows of one window that are explained; LIMIT keeps them fewer."""
CONTRIBUTORS = pa.list_(
    pa.struct(
        [
            ("what", pa.string()),
            *((name, pa.float64()) for name in ("share", "lift", "value", "expected")),
        ]
    )
)


class AnomalyOperator(Base):
    """Holds rows until their window is complete, has them judged, and tells what is asked for. Of several windows each
    has a judge of its own, and no part in what the others know."""

    def __init__(self, spec: Anomaly, session: Session) -> None:
        super().__init__(session)
        self._spec = spec
        self._judges = [Judge(one, session) for one in _each_window(spec)]

    @property
    def numbers(self) -> Mapping[str, int]:
        """How the detector does, for the metrics."""
        found: Counter[str] = Counter()
        for judge in self._judges:
            found.update(judge.numbers)
        return found

    def on_batch(self, batch: Batch) -> Iterable[Item]:
        self.counts.seen += batch.table.num_rows
        if len(self._judges) == 1:
            self._judges[0].hold(batch.table)
            return ()
        number = batch.table.column(self._spec.window.by)
        for at, judge in enumerate(self._judges):
            judge.hold(batch.table.filter(pc.equal(number, at)))
        return ()

    def in_state(self) -> int:
        return sum(judge.held_rows for judge in self._judges)

    def on_watermark(self, us: int) -> Iterable[Item]:
        yield from self._judge(us, us if self._spec.endless else MIN_US)
        yield Watermark(us)

    def on_end(self) -> Iterable[Item]:
        yield from self._judge(MAX_US, MIN_US if self._spec.ends_us is None else self._spec.ends_us)
        yield End()

    def snapshot(self) -> State:
        return {
            f"{name}{at or ''}": table for at, judge in enumerate(self._judges) for name, table in judge.save().items()
        }

    def restore(self, state: State) -> None:
        for at, judge in enumerate(self._judges):
            judge.load({name: state[f"{name}{at or ''}"] for name in PARTS if f"{name}{at or ''}" in state})

    def _judge(self, until_us: int, empty_until_us: int) -> Iterator[Item]:
        """All windows that end by then, those without rows too: up to the last that has some, or the time given."""
        told: list[pa.Table] = []
        rows = 0
        judged = [judge.judged(until_us, empty_until_us) for judge in self._judges]
        for _, found in heapq.merge(*judged, key=itemgetter(0)):
            told.append(found)
            rows += found.num_rows
            if rows >= TOLD_ROWS:
                yield from self._tell(told)
                told, rows = [], 0
        yield from self._tell(told)

    def _tell(self, told: list[pa.Table]) -> Iterator[Item]:
        if told:
            rows = self.rows(self._spec.project, pa.concat_tables(told), "rows")
            self.counts.emitted += rows.num_rows
            yield Batch(rows)


def _each_window(spec: Anomaly) -> Iterator[Anomaly]:
    """What is said of one window, or of each of several."""
    if not spec.paces:
        yield spec
    for pace in spec.paces:
        by = spec.explained
        if by is not None and by.unit != 1:
            by = replace(by, unit=pace.window.size / 1e6)
        yield replace(
            spec,
            window=pace.window,
            parameters=pace.parameters,
            warmup=pace.warmup,
            rearm=pace.rearm,
            max_gap=pace.max_gap,
            ttl=pace.ttl,
            explained=by,
            paces=(),
        )


class Judge:
    """One detector: judges windows in order, with those that have no row at all."""

    def __init__(self, spec: Anomaly, session: Session) -> None:
        self._spec = spec
        self._grid = Grid(spec.window)
        every_us = spec.window.slide * self._grid.steps
        made = detector(spec.method, dict(spec.parameters), spec.warmup, every_us, spec.direction)
        limits = Limits(
            fill=spec.fills,
            max_gap=spec.max_gap,
            ttl=spec.ttl,
            max_keys=spec.max_keys,
            told=spec.limit,
            scale=spec.scale,
            steps=self._grid.steps,
        )
        guard = Guard(spec.direction, spec.change)
        self._watch = Watch(made, Rule(spec.needed, spec.out_of, spec.rearm), limits, guard)
        self._warmup = made.warmup
        self._held = Pile(session, None)
        self._known = Known(spec.keys)
        by = spec.explained
        self._usual = None if by is None else Usual(by.sizes is not None)
        self._suppressed = 0
        self.numbers: Mapping[str, int] = {}

    @property
    def held_rows(self) -> int:
        return self._held.rows

    def hold(self, rows: pa.Table) -> None:
        """Rows of windows that are judged once the watermark has passed them."""
        self._held.add(rows)

    def judged(self, until_us: int, empty_until_us: int) -> Iterator[tuple[int, pa.Table]]:
        """What is told of the windows that end by then, with the end of each."""
        for number, table in self._windows(until_us, empty_until_us):
            found = self._window(number, table)
            if found is not None:
                yield self._grid.end(number), found

    def save(self) -> dict[str, pa.Table]:
        number = MIN_US if self._watch.number is None else self._watch.number
        found = {"numbers": number_state(number=number, late=self._watch.late), "watch": self._watch.save()}
        held, known = self._held.table(), self._known.save(self._watch)
        if held is not None:
            found["held"] = held
        if known is not None:
            found["known"] = known
        if self._usual is not None:
            found["usual"] = self._usual.save()
        return found

    def load(self, state: Mapping[str, pa.Table]) -> None:
        if "held" in state:
            self._held.add(state["held"])
        if "numbers" in state:
            numbers = state["numbers"].to_pylist()[0]
            self._watch.late = numbers["late"]
            self._watch.load(state["watch"], None if numbers["number"] == MIN_US else numbers["number"])
        if "known" in state:
            self._known.load(state["known"], self._watch)
        if self._usual is not None and "usual" in state:
            self._usual.load(state["usual"])

    # --- windows ---------------------------------------------------------------------------------------

    def _windows(self, until_us: int, empty_until_us: int) -> Iterator[tuple[int, pa.Table | None]]:
        """The windows to be judged, in order, with their rows."""
        held = self._held.table()
        if held is not None:
            ready = pc.less_equal(held.column("__we"), until_us)
            rows = held.filter(ready)
            if rows.num_rows:
                rows = rows.take(pc.sort_indices(rows, [("__we", "ascending")])).combine_chunks()
                self._held.drop(ready)
                ends, starts = rows.column("__we").to_numpy(), rows.column("__ws").to_numpy()
                borders = np.flatnonzero(np.r_[True, ends[1:] != ends[:-1]]).tolist()
                for first, last in zip(borders, [*borders[1:], len(ends)], strict=True):
                    number = self._grid.number_at(int(starts[first]), int(ends[first]))
                    yield from self._without_rows(number)
                    yield number, rows.slice(first, last - first)
        if empty_until_us > MIN_US:
            yield from self._without_rows(self._grid.last_by(empty_until_us) + 1)

    def _without_rows(self, before: int) -> Iterator[tuple[int, None]]:
        """The windows between the last one judged and this one, as long as they may change anything."""
        number = before if self._watch.number is None else self._watch.number + 1
        while number < before and not self._watch.quiet:
            if self._grid.end(number) > self._grid.start(number):
                yield number, None
            number += 1

    def _window(self, number: int, table: pa.Table | None) -> pa.Table | None:
        """Judge one window; the rows to be told of it, with the detector's columns."""
        judged = self._watch.step(self._rows_of(number, table))
        if judged is None:
            return None
        if table is not None:
            self._known.learn(table, self._watch)
        found = self._told(judged, table)
        self._learn_parts(judged, table)
        self._watch.forget_more()
        self._known.forget(self._watch)
        self._suppressed += judged.suppressed
        self.numbers = self._numbers()
        return found

    def _numbers(self) -> Mapping[str, int]:
        """How the detector does, for the metrics."""
        return {**self._watch.numbers(self._warmup), "suppressed": self._suppressed}

    def _rows_of(self, number: int, table: pa.Table | None) -> Rows:
        start = self._grid.start(number)
        if table is None:
            return Rows(number, start, [], _NOTHING, relative=self._spec.relative)
        names = table.column_names
        value = _floats(table, "__x")
        group = None
        if "__among" in names:
            encoded = table.column("__among").combine_chunks().dictionary_encode()
            group = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return Rows(
            number,
            start,
            table.column("__id").to_pylist(),
            self._scaled(value, number),
            _floats(table, "__n") if "__n" in names else None,
            _flags(table, "__ok") if "__ok" in names else None,
            ~_flags(table, "__having"),
            group,
            self._spec.relative,
        )

    def _scaled(self, value: Floats, number: int) -> Floats:
        """What is judged: of a window that a clock makes shorter or longer than others, as if it were as long as they.
        TRANSFORM log: of 0 too, where 0 is what a missing group counts as."""
        if self._spec.adds_up:
            value = value * self._grid.stretch(number)
        if not self._spec.log:
            return value
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.log1p(value) if self._spec.fills else np.log(value)
        return np.where(np.isfinite(found), found, np.nan)

    def _unscaled(self, value: Floats, number: int) -> Floats:
        if self._spec.log:
            value = np.expm1(value) if self._spec.fills else np.exp(value)
        return value / self._grid.stretch(number) if self._spec.adds_up else value

    # --- telling ---------------------------------------------------------------------------------------

    def _told(self, judged: Told, table: pa.Table | None) -> pa.Table | None:
        wanted = np.flatnonzero(self._wanted(judged))
        after_us = self._spec.told_after_us
        silent = after_us is not None and self._grid.end(judged.number) <= after_us
        if silent or not len(wanted):
            return None
        rows = self._lines(judged, wanted, table)
        phase = judged.phase[wanted]
        slots, since = judged.slots[wanted], judged.since[wanted]
        is_open = (phase != NOT_OPEN) & (phase != CLOSED)
        in_episode = phase != NOT_OPEN
        points = in_episode | (judged.score[wanted] >= 1)
        starts = self._each(self._grid.news, since)
        lasted = (self._each(self._grid.end, judged.last_hit[wanted]) - starts) / 1e6
        expected, lower, upper = (
            _nullable(self._unscaled(each[wanted], judged.number))
            for each in (judged.expected, judged.lower, judged.upper)
        )
        columns: dict[str, pa.Array] = {
            "is_anomaly": pa.array(is_open),
            "score": _nullable(judged.score[wanted]),
            "direction": pa.array(np.where(judged.way[wanted] < 0, "down", "up"), mask=~points),
            "expected": expected,
            "lower": lower,
            "upper": upper,
            "episode": pa.array(
                [
                    self._episode(int(slot), int(start)) if inside else None
                    for slot, start, inside in zip(slots, starts, in_episode, strict=True)
                ],
                pa.string(),
            ),
            "phase": pa.array([PHASES.get(int(each)) for each in phase], pa.string()),
            "__since": pa.array(starts, mask=~in_episode),
            "duration": pa.array(lasted, mask=~in_episode),
            "method": pa.array([self._spec.method] * len(wanted), pa.string()),
            "reason": pa.array(self._reasons(judged, wanted), pa.string()),
            "__more": pa.array(np.full(len(wanted), judged.suppressed)),
        }
        if self._spec.explained is not None:
            columns["contributors"] = self._contributors(self._spec.explained, judged, wanted, table)
        for name, column in columns.items():
            rows = rows.append_column(name, column)
        return rows

    # --- what explains it ------------------------------------------------------------------------------

    def _learn_parts(self, judged: Told, table: pa.Table | None) -> None:
        """What is usual of sub-groups is learned from windows in which their group is not unusual."""
        by = self._spec.explained
        if by is None or self._usual is None or table is None:
            return
        usual = (judged.row >= 0) & ~judged.hit & ((judged.phase == NOT_OPEN) | (judged.phase == CLOSED))
        rows = np.sort(judged.row[usual])
        if not len(rows):
            return
        told = table.take(pa.array(rows))
        groups = told.column("__id").to_pylist()
        amounts, sizes = _map_of(told, by.amounts), None if by.sizes is None else _map_of(told, by.sizes)
        self._usual.learn(judged.number, groups, amounts, sizes)

    def _contributors(self, by: Explained, judged: Told, wanted: Ints, table: pa.Table | None) -> pa.Array:
        """Of unusual windows in episodes, the sub-groups that explain them."""
        assert self._usual is not None
        found: list[list[dict[str, object]] | None] = []
        for line in wanted.tolist():
            phase, row = judged.phase[line], int(judged.row[line])
            if not judged.hit[line] or phase in (NOT_OPEN, CLOSED) or len(found) >= EXPLAINED_MAX:
                found.append(None)
                continue
            amounts: Cells = {}
            sizes: Cells | None = None if by.sizes is None else {}
            if row >= 0 and table is not None:
                amounts = cells_of(table.column(f"a{by.amounts}"), row)
                sizes = None if by.sizes is None else cells_of(table.column(f"a{by.sizes}"), row)
            expected = float(self._unscaled(judged.expected[line : line + 1], judged.number)[0]) * by.unit
            told = Deviation(amounts, sizes, expected, int(judged.way[line]))
            group = self._watch.named(int(judged.slots[line]))
            found.append([asdict(one) for one in self._usual.explain(group, told, by.dimensions, by.top)])
        return pa.array(found, CONTRIBUTORS)

    def _wanted(self, judged: Told) -> Flags:
        """Which lines are told, by what EMIT says."""
        phase, here = judged.phase, judged.row >= 0
        in_episode: Flags = phase != NOT_OPEN
        match self._spec.emit:
            case "episodes":
                wanted = (phase == CLOSED) | (judged.told & np.isin(phase, (OPENED, WORSE)))
            case "hits":
                wanted = judged.hit
            case "anomalies":
                wanted = judged.told & judged.hit & in_episode & (phase != CLOSED)
            case _:
                kept = here
                if judged.held is not None and len(judged.held):
                    kept = here & ~judged.held[np.maximum(judged.row, 0)]
                wanted = kept | in_episode
        return np.asarray(wanted, np.bool_)

    def _lines(self, judged: Told, wanted: Ints, table: pa.Table | None) -> pa.Table:
        """The rows of the window, and made-up ones for groups that are not there."""
        number = judged.number
        row = judged.row[wanted]
        schema = self._known.schema
        assert schema is not None, "no window had rows"
        here, away = np.flatnonzero(row >= 0), np.flatnonzero(row < 0)
        parts = []
        if len(here):
            assert table is not None
            parts.append(table.select(schema.names).take(pa.array(row[here])))
        if len(away):
            keys = self._known.rows_of(judged.slots[wanted[away]])
            columns = []
            for field in schema:
                if field.name in keys.column_names:
                    column = keys.column(field.name).combine_chunks()
                elif field.name in ("__ws", "__we"):
                    at = self._grid.start(number) if field.name == "__ws" else self._grid.end(number)
                    column = pa.array([at] * len(away), field.type)
                elif field.name in self._spec.zeros:
                    column = pa.array([0] * len(away)).cast(field.type)
                else:
                    column = pa.nulls(len(away), field.type)
                columns.append(column)
            parts.append(pa.table(columns, schema=schema))
        if len(parts) == 1:
            return parts[0]
        order = np.empty(len(row), np.int64)
        order[np.r_[here, away]] = np.arange(len(row))
        return pa.concat_tables(parts).take(pa.array(order))

    def _each(self, time: Callable[[int], int], windows: Ints) -> Ints:
        """A time of each of many windows, which mostly are few different ones."""
        different, at = np.unique(windows, return_inverse=True)
        return np.array([time(number) for number in different.tolist()], np.int64)[at]

    def _episode(self, slot: int, start_us: int) -> str:
        """The name of an episode: the same after a restart, and in history as in the live stream."""
        text = f"{self._spec.seed}|{self._watch.named(slot)}|{start_us}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _reasons(self, judged: Told, wanted: Ints) -> list[str | None]:
        found: list[str | None] = []
        for line in wanted.tolist():
            score = judged.score[line]
            if judged.hit[line] or judged.phase[line] == OPENED:
                found.append(judged.reason(line) + self._how_judged(judged.number) + self._how_many(judged, line))
            elif judged.phase[line] == CLOSED:
                quiet = judged.number - int(judged.last_hit[line])
                many = "window" if quiet == 1 else "windows"
                found.append(judged.reason(line) if judged.gone[line] else f"quiet for {quiet:,} {many}")
            elif score != score and judged.seen[line] <= self._warmup:
                found.append(f"warming up {judged.seen[line]}/{self._warmup}")
            else:
                found.append(None)
        return found

    def _how_judged(self, number: int) -> str:
        """Said where it is not the value as it is that was judged: its logarithm, or as if its window were longer."""
        if self._spec.log:
            return "; of logarithms"
        if not self._spec.adds_up or self._grid.stretch(number) == 1:
            return ""
        hours = (self._grid.end(number) - self._grid.start(number)) / HOUR_US
        return f"; these {hours:g} hours counted as {self._spec.window.size / HOUR_US:g}"

    def _how_many(self, judged: Told, line: int) -> str:
        if self._spec.out_of == 1:
            return ""
        return f"; {int(judged.hits[line]).bit_count()} of {self._spec.out_of} windows"


class Known:
    """The group keys of all slots, for groups that are not there in a window."""

    def __init__(self, keys: int) -> None:
        self.schema: pa.Schema | None = None
        self._names = [f"k{i}" for i in range(keys)]
        self._rows: pa.Table | None = None
        self._at = np.empty(0, np.int64)

    def learn(self, table: pa.Table, watch: Watch) -> None:
        """The keys of new slots."""
        if self.schema is None:
            keep = [field for field in table.schema if not field.name.startswith("_") or field.name in ("__ws", "__we")]
            self.schema = pa.schema(keep)
        slots, rows = watch.fresh
        if not len(slots):
            return
        if len(self._at) < watch.keys.size:
            self._at = np.r_[self._at, np.full(watch.keys.size - len(self._at) + 64, -1)]
        before = 0 if self._rows is None else self._rows.num_rows
        self._at[slots] = before + np.arange(len(slots))
        new = table.select(self._names).take(pa.array(rows)) if self._names else None
        if new is not None:
            self._rows = new if self._rows is None else pa.concat_tables([self._rows, new])

    def rows_of(self, slots: Ints) -> pa.Table:
        if self._rows is None:
            return pa.table({})
        return self._rows.take(pa.array(self._at[slots]))

    def forget(self, watch: Watch) -> None:
        """Lets go of keys that are not known any more, once they are the most."""
        if self._rows is not None and self._rows.num_rows > 1000 + 2 * len(watch.keys):
            live = watch.keys.live()
            self._rows = self._rows.take(pa.array(self._at[live])).combine_chunks()
            self._at[live] = np.arange(len(live))

    def save(self, watch: Watch) -> pa.Table | None:
        """The keys of the slots in use, and the columns that rows have, in an empty list of rows."""
        if self.schema is None:
            return None
        live = watch.keys.live()
        slots = pa.table({"__slot": pa.array(live)})
        if self._rows is not None:
            slots = self.rows_of(live).append_column("__slot", slots.column(0))
        return slots.replace_schema_metadata({"rows": self.schema.serialize().to_pybytes()})

    def load(self, table: pa.Table, watch: Watch) -> None:
        self.schema = pa.ipc.read_schema(pa.py_buffer(table.schema.metadata[b"rows"]))
        live = table.column("__slot").to_numpy()
        self._at = np.full(watch.keys.size + 64, -1)
        self._at[live] = np.arange(len(live))
        if self._names:
            self._rows = table.select(self._names).replace_schema_metadata(None)


_NOTHING = np.empty(0)


def _floats(table: pa.Table, name: str) -> Floats:
    return np.asarray(table.column(name).to_numpy(), np.float64)


def _map_of(table: pa.Table, number: int) -> pa.Array:
    return table.column(f"a{number}").combine_chunks()


def _flags(table: pa.Table, name: str) -> Flags:
    return np.asarray(table.column(name).to_numpy(), np.bool_)


def _nullable(values: Floats) -> pa.Array:
    return pa.array(values, mask=~np.isfinite(values))
