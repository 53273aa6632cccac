"""The logical plan: what a query means, before anybody decides how it runs. A tree of frozen nodes.

Each query (SELECT … FROM …) is a chain of nodes, from Speak at its top down to an *input*: what FROM reads. An input
has a shape (`info`), event times and places, and the `columns` that are read of it, whatever it is made of:

    Scan      the events of a source
    Merge     those of several sources as one (FROM a, b)
    Derived   the rows of another query, a chain of its own (a query in FROM, a name of WITH)
    Union     those of several queries (UNION ALL)
    Joined    the rows of two inputs that meet
    Enriched  the rows of an input with what a declared table says of them

What an input is made of is listed by `inputs_of`; everything that walks the tree goes by that. The columns of an input
are named by paths, as events' properties are, and decided by the rule that reads only what is used; a Derived's own
query then gives exactly these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from mql.catalog import SourceInfo, TableInfo
from mql.planner.expressions import Aggregate, Bound, Constant
from mql.planner.physical import Budget, Explained, Pace, Start, Window
from mql.schema import DataType, Path


@dataclass(frozen=True, slots=True)
class Sampled:
    """Which rows a SAMPLE clause keeps, decided by a stable hash of `by` (or of the row's place) and `seed`.

    `share` of 1 for the kinds percent and sticky; `per_second` for a rate. `extrapolate`: counts and sums
    are estimates of what all rows would give.
    """

    share: float | None
    per_second: int | None
    by: tuple[Bound, ...]
    seed: int
    extrapolate: bool = False


@dataclass(frozen=True, slots=True)
class Scan:
    """The events of one source from `since` until `until`; only `columns` are decoded. `beside`: columns that come
    with them, where several queries share the plan."""

    info: SourceInfo
    since: Start
    until: Start
    lateness_us: int
    columns: tuple[tuple[Path, DataType], ...] = ()
    beside: tuple[tuple[str, DataType], ...] = ()


@dataclass(frozen=True, slots=True)
class Merge:
    """The events of several sources as those of one, `info`; the numbers of their splits tell which they are of."""

    scans: tuple[Scan, ...]
    info: SourceInfo

    @property
    def since(self) -> Start:
        return self.scans[0].since

    @property
    def until(self) -> Start:
        return self.scans[0].until

    @property
    def lateness_us(self) -> int:
        return self.scans[0].lateness_us

    @property
    def columns(self) -> tuple[tuple[Path, DataType], ...]:
        return self.scans[0].columns


@dataclass(frozen=True, slots=True)
class Derived:
    """The rows of a query as events: its columns are their properties. A row without a group keeps the time and place
    of its event; one of a group lies in the last microsecond of its window, so that shorter windows fill longer ones.
    """

    query: Logical
    info: SourceInfo
    columns: tuple[tuple[Path, DataType], ...] = ()

    @property
    def since(self) -> Start:
        return scans_of(self)[0].since

    @property
    def until(self) -> Start:
        return scans_of(self)[0].until

    @property
    def lateness_us(self) -> int:
        return scans_of(self)[0].lateness_us


@dataclass(frozen=True, slots=True)
class Union:
    """The rows of several queries, whose columns have the same names and types, as those of one."""

    queries: tuple[Derived, ...]
    info: SourceInfo
    columns: tuple[tuple[Path, DataType], ...] = ()

    @property
    def since(self) -> Start:
        return self.queries[0].since

    @property
    def until(self) -> Start:
        return self.queries[0].until

    @property
    def lateness_us(self) -> int:
        return self.queries[0].lateness_us


@dataclass(frozen=True, slots=True)
class Key:
    """Two values, of the left and the right side, that are equal in rows that meet; two nulls too, where `nulls`."""

    left: Bound
    right: Bound
    nulls: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """The rows of two inputs that meet. Properties are called by their side first, except those of a side without a
    name (a join itself, or what a query reads where IN or EXISTS asks).

    `how`: interval (partners lie from `before_us` before a left row to `after_us` after it), window (in the same
    `window`), asof (the newest not newer than the left row, nor older by more than `before_us`; nor of the same time
    where `strict`). `where`s are judged before rows meet, `rest` for those with equal keys. `unbounded`: nobody said
    how far apart rows may be, so it is what state is kept for. `retracts`: rows without partners are told at once and
    withdrawn when one comes. `bytes_max`: what each task may hold.
    """

    left: Input
    right: Input
    left_name: str | None
    right_name: str
    kind: str
    how: str
    keys: tuple[Key, ...]
    rest: Bound | None
    left_where: Bound | None
    right_where: Bound | None
    before_us: int
    after_us: int
    strict: bool
    window: Window | None
    unbounded: bool
    retracts: bool
    bytes_max: int
    info: SourceInfo
    columns: tuple[tuple[Path, DataType], ...] = ()

    @property
    def since(self) -> Start:
        return self.left.since

    @property
    def until(self) -> Start:
        return self.left.until

    @property
    def lateness_us(self) -> int:
        return self.left.lateness_us


@dataclass(frozen=True, slots=True)
class Enriched:
    """Rows with what a declared table says of them. `single`: of each row it says at most one thing."""

    left: Input
    table: TableInfo
    left_name: str | None
    right_name: str
    kind: str
    keys: tuple[Key, ...]
    rest: Bound | None
    left_where: Bound | None
    right_where: Bound | None
    single: bool
    info: SourceInfo
    columns: tuple[tuple[Path, DataType], ...] = ()

    @property
    def since(self) -> Start:
        return self.left.since

    @property
    def until(self) -> Start:
        return self.left.until

    @property
    def lateness_us(self) -> int:
        return self.left.lateness_us


Input = Scan | Merge | Derived | Union | Joined | Enriched
"""What a query reads. All scans of a plan read the same stretch of time with the same lateness."""


@dataclass(frozen=True, slots=True)
class Sample:
    input: Logical
    sampled: Sampled


@dataclass(frozen=True, slots=True)
class Filter:
    """Keep the rows for which the predicate is true. Null is not true."""

    input: Logical
    predicate: Bound


@dataclass(frozen=True, slots=True)
class Filled:
    """What the aggregates of a group are in a window in which it was not seen, and for how long after it was."""

    value: Constant
    for_us: int


@dataclass(frozen=True, slots=True)
class Group:
    """One row per window and group: keys as k0 k1 …, aggregates as a0 a1 …, window_start, window_end.

    `begins`, `ends`: the events that a session begins and ends with, beside its gap. `hidden`: so many of the last
    keys are not the query's own, but tell apart the queries that share the plan.
    """

    input: Logical
    window: Window
    keys: tuple[Bound, ...]
    aggregates: tuple[Aggregate, ...]
    begins: Bound | None = None
    ends: Bound | None = None
    filled: Filled | None = None
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class Windowed:
    """Each row once per window that it lies in, with window_start and window_end; no grouping."""

    input: Logical
    window: Window


@dataclass(frozen=True, slots=True)
class Detect:
    """Which of the windows' rows are unusual: a detector over `value` (or the ratio `value` / `of`, or the share of the
    window's sum where `relative`) of each group. Lengths of time are numbers of windows.

    `zeros`: the aggregates that are 0 in a window without rows; `fills`: so is the value then. `told_after_us`: windows
    that end by then are learned from in silence. `scale`: by how much the `budget` of alerts
    raises the threshold, once it is picked. `adds_up`: a shorter window has a smaller value.
    `paces`: one for each of several windows, which are judged apart.
    """

    input: Logical
    method: str
    parameters: tuple[tuple[str, float | int | str | None], ...]
    value: Bound
    of: Bound | None
    relative: bool
    among: tuple[Bound, ...]
    guards: tuple[Bound, ...]
    zeros: tuple[int, ...]
    fills: bool
    log: bool
    direction: str
    warmup: int
    needed: int
    out_of: int
    rearm: int
    change: float
    limit: int | None
    emit: str
    max_gap: int
    ttl: int
    explained: Explained | None = None
    told_after_us: int | None = None
    budget: Budget | None = None
    scale: float | None = None
    max_keys: int = 1_000_000
    adds_up: bool = False
    paces: tuple[Pace, ...] = ()


@dataclass(frozen=True, slots=True)
class Track:
    """Mantis' `anomaly mad x step times` over plain rows: an estimate that each value moves by `step`; a value above
    `times` the estimate is anomalous. Adds the column `anomalous`."""

    input: Logical
    value: Bound
    step: float
    times: float


@dataclass(frozen=True, slots=True)
class Project:
    """The select list: names and expressions."""

    input: Logical
    items: tuple[tuple[str, Bound], ...]


@dataclass(frozen=True, slots=True)
class SortKey:
    """An ordering by an expression over the input's columns."""

    expression: Bound
    descending: bool
    nulls_first: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """The rows around a row that a window function looks at: from `start` to `end` in rows or in what is ordered by
    (time in microseconds), counted from the row itself; None is without bound. `unit`: rows or range."""

    unit: str
    start: int | float | None
    end: int | float | None


@dataclass(frozen=True, slots=True)
class OverCall:
    """One window function: `call` is a row of mql.overs or of mql.aggregates. `scope` tells which rows it is taken over
    (mql.planner.overs). Without `order` rows are in event order."""

    call: Aggregate
    partition: tuple[Bound, ...]
    order: tuple[SortKey, ...]
    frame: Frame | None
    scope: str

    @property
    def forgets(self) -> bool:
        """Whether a partition that has been silent for long begins anew: what goes on keeps something of each."""
        in_range = self.frame is not None and self.frame.unit == "range" and self.frame.start is not None
        return self.scope == "run" and bool(self.partition) and not in_range


@dataclass(frozen=True, slots=True)
class Over:
    """Adds the window functions w0 w1 … to rows. A partition that is silent for longer than `ttl_us` begins anew."""

    input: Logical
    calls: tuple[OverCall, ...]
    ttl_us: int


@dataclass(frozen=True, slots=True)
class Arrange:
    """ORDER BY and LIMIT [PER]; per window where the input has windows. Sits below Project."""

    input: Logical
    order: tuple[SortKey, ...]
    limit: int | None
    per: tuple[Bound, ...]
    per_window: bool


@dataclass(frozen=True, slots=True)
class Speak:
    """When rows are told. `kind`: rows (each at once), final, changes, every. Times in microseconds.

    `revise_us`: for so long after a window has closed, late rows re-open it and its row is told anew. `hold_us`: a
    window closes so much later, for a detector judges it once. `inner`: rows are told to another query.
    """

    input: Logical
    kind: str
    every_us: int | None
    early_us: int | None
    revise_us: int = 0
    hold_us: int = 0
    inner: bool = False


Logical = Input | Sample | Filter | Group | Windowed | Detect | Track | Over | Project | Arrange | Speak


def chain(node: Logical) -> Iterator[Logical]:
    """The nodes of one query, from the top (what is told) down to what it reads."""
    while True:
        yield node
        if isinstance(node, Input):
            return
        node = node.input


def find(node: Logical, kind: type) -> Logical | None:
    """The first node of a kind, from the top."""
    return next((found for found in chain(node) if isinstance(found, kind)), None)


def with_input(node: Logical, below: Logical) -> Logical:
    """The same node over another input."""
    return node if isinstance(node, Input) else replace(node, input=below)


def inputs_of(node: Input) -> tuple[Input, ...]:
    """The inputs that an input is made of: of the rows of a query, what that reads."""
    match node:
        case Scan():
            return ()
        case Merge(scans):
            return scans
        case Derived(query):
            return (input_of(query),)
        case Union(queries):
            return queries
        case Joined(left, right):
            return (left, right)
        case Enriched(left):
            return (left,)
        case _:
            assert_never(node)


def input_of(node: Logical) -> Input:
    """What a query reads."""
    while not isinstance(node, Input):
        node = node.input
    return node


def scans_of(node: Logical) -> tuple[Scan, ...]:
    """The scans below a node, in the order of their numbers: first inputs first."""
    read = input_of(node)
    if isinstance(read, Scan):
        return (read,)
    return tuple(scan for one in inputs_of(read) for scan in scans_of(one))


def has_events(node: Input) -> bool:
    """Whether rows keep the times and places of events, so that one may come too late. Rows of windows do not."""
    match node:
        case Scan() | Merge():
            return True
        case Union(queries):
            return any(has_events(query) for query in queries)
        case Derived(query):
            return find(query, Group) is None and has_events(input_of(query))
        case Enriched(left):
            return has_events(left)
        case Joined():
            return False
        case _:
            assert_never(node)


def has_detector(top: Logical) -> bool:
    """Whether a query judges its rows, or one that it reads, at any depth."""
    waiting = [top]
    while waiting:
        query = waiting.pop()
        if find(query, Detect) is not None:
            return True
        read = input_of(query)
        waiting.extend([read.query] if isinstance(read, Derived) else inputs_of(read))
    return False


def has_times(node: Input) -> bool:
    """Whether rows have an event time: groups of everything have none."""
    if isinstance(node, Derived):
        group = find(node.query, Group)
        if isinstance(group, Group):
            return group.window.kind != "none"
    return all(has_times(one) for one in inputs_of(node))


def lie_at_ends(node: Input) -> bool:
    """Whether all rows are of windows, and so lie in a window's last microsecond."""
    if isinstance(node, Derived):
        group = find(node.query, Group)
        if isinstance(group, Group):
            return group.window.kind not in ("none", "count", "sliding")
    inner = inputs_of(node)
    return bool(inner) and all(lie_at_ends(one) for one in inner)


def numbered(nodes: Sequence[Input], first: int | None) -> Iterator[tuple[Input, int | None]]:
    """Inputs that stand side by side, each with the number of its first scan; None where a plan has one scan."""
    for node in nodes:
        yield node, first
        first = None if first is None else first + len(scans_of(node))


def first_number(top: Logical) -> int | None:
    """The number of a plan's first scan, where there are several to tell apart."""
    return 0 if len(scans_of(top)) > 1 else None
