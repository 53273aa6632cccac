"""The physical plan: stages of operators with exchanges between them. Frozen data; it prints, hashes and travels.

Column names inside a plan: `k0 k1 …` group keys, `f0 f1 …` partial columns, `a0 a1 …` finished aggregates, `c0 c1 …` select
items, `p` the pane's start, `e` the first window end that a late-for-some row still counts for, `__h` the hash that
an exchange goes by. Result rows carry the names of the select list.
"""

from __future__ import annotations

from dataclasses import dataclass

from mql.catalog import TimeRule
from mql.schema import DataType, Path

ROWS = "rows"  # the port of ordinary rows and of the main partial table; bags travel on ports "bag0", "bag1", …


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading begins or ends. `kind`: live, earliest, time (`us`), offset (`offset` in every split), now."""

    kind: str
    us: int | None = None
    offset: int | None = None


LIVE = Start("live")


@dataclass(frozen=True, slots=True)
class Needles:
    """Bytes that every matching event's text must hold: one of `any_of`, byte for byte."""

    any_of: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """What is read. `columns` are decoded, sorted by path. `since`/`until` bound event time, too."""

    source: str
    encoding: str
    columns: tuple[tuple[Path, DataType], ...]
    time: TimeRule
    lateness_us: int
    idle_timeout_us: int
    max_ahead_us: int
    since: Start = LIVE
    until: Start = LIVE
    needles: Needles | None = None
    shape_version: int = 1

    @property
    def bounded(self) -> bool:
        """The query ends by itself, because what it reads has an end."""
        return self.until.kind != "live"


@dataclass(frozen=True, slots=True)
class Window:
    """`kind`: tumbling, hopping, cumulate, count, none. Times in microseconds (events, for count).

    Windows start at `offset + i * slide` (tumbling: slide = size; cumulate: every `size`, growing by `slide`). `pane` is the
    greatest common divisor: what windows share.
    """

    kind: str
    size: int = 0
    slide: int = 0
    offset: int = 0
    pane: int = 0


NO_WINDOW = Window("none")


@dataclass(frozen=True, slots=True)
class Sampling:
    """`sql` is true for the rows that stay; decided by a stable hash, before WHERE."""

    sql: str


@dataclass(frozen=True, slots=True)
class SelectRows:
    """Filter and project: one statement. Gives the select items by result name, and __t __s __o."""

    sql: str
    sampling: Sampling | None = None
    predicate: str | None = None


@dataclass(frozen=True, slots=True)
class Partial:
    """Filter and pre-aggregate a decoded batch: `sql` gives p, e, k…, f…, __h; `bags` the (value, n) tables.

    Each statement reads the table `batch`.
    """

    window: Window
    sql: str
    bags: tuple[str, ...]
    predicate: str | None
    late: str | None
    sampling: Sampling | None
    lateness_us: int


@dataclass(frozen=True, slots=True)
class Number:
    """Order rows by (event time, split, offset) as the watermark releases them, number them in their group, and
    pre-aggregate: for windows of a number of events. Reads k…, values and __t __s __o."""

    window: Window
    keys: int
    sql: str
    bags: tuple[str, ...]
    lateness_us: int


@dataclass(frozen=True, slots=True)
class Final:
    """Merge partials, and speak: when the watermark closes a window, on ticks, at the end.

    `merge` and `merge_bags` compact the state's tables; `close` computes finished rows (result columns, window_start,
    window_end, `_key`) of the windows in the table `windows`. See mql.exec.operators.final.
    """

    window: Window
    keys: int
    merge: str
    merge_bags: tuple[str, ...]
    close: str
    emit: str
    every_us: int | None
    early_us: int | None
    grouped: bool


@dataclass(frozen=True, slots=True)
class Arrange:
    """ORDER BY and LIMIT over rows as they become final: per window where there is one, else over all.

    `sql` sorts and cuts the table `rows`; `per_window` tells which.
    """

    sql: str
    per_window: bool
    kind: str


@dataclass(frozen=True, slots=True)
class TakeFirst:
    """LIMIT in total: so many rows, in arrival order (live) or event order (bounded), then the query is done."""

    count: int
    ordered: bool


OperatorSpec = SelectRows | Partial | Number | Final | Arrange | TakeFirst


@dataclass(frozen=True, slots=True)
class Stage:
    """The longest run without an exchange. `input`: `scan`, `hash` (by column __h), `gather` or `forward`.

    `parallel`: `splits` (as many tasks as the source gives), `any` (as many as workers), `one`.
    """

    number: int
    input: str
    parallel: str
    operators: tuple[OperatorSpec, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """The rows that come out. `keyed`: rows replace earlier ones of the same `_key`.

    `columns` are names and types as readers see them, without `_key`, `_revision`, `_op`, `final`.
    `ordered_by`: how equal results are compared; `windowed`: rows carry window_start and window_end.
    """

    columns: tuple[tuple[str, DataType], ...]
    keyed: bool
    windowed: bool
    emit: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled query: everything that running it needs, and nothing that a machine would know better.

    `hash` is equal for queries that mean the same (names normalised, AND in any order, parameters' values): they
    share one execution. `warnings` are told in the result's meta. `batch` is the one SQL statement that answers the query
    over stored events, in the table `events` (decoded columns).
    """

    text: str
    hash: str
    scan: Scan
    stages: tuple[Stage, ...]
    result: Result
    batch: str
    batch_live: str | None
    warnings: tuple[str, ...] = ()
    limits: tuple[tuple[str, int], ...] = ()
