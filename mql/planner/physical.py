"""The physical plan: stages of operators with exchanges between them. Frozen data; it prints, hashes and travels.

Column names inside a plan: `k0 k1 …` group keys, `f0 f1 …` partial columns, `a0 a1 …` finished aggregates, `p` the
pane's start, `e` the first window end that a late-for-some row still counts for, `__h` the hash that
an exchange goes by. Result rows carry the names of the select list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mql.catalog import TimeRule
from mql.schema import DataType, Path, PropertyMask

ROWS = "rows"
"""The port of ordinary rows and of the main partial table; bags travel on ports bag0, bag1, …"""
SPLITS_MAX = 1 << 20
"""Where a plan reads several sources, the splits of its scan n have the numbers from n * SPLITS_MAX on."""
JOINED_ROWS_MAX = 4_000_000
"""What one batch of a join may give."""


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
    """What is read. `columns` are decoded, sorted by path, and `masks` put on them. `since`/`until` bound event time,
    too."""

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
    masks: tuple[PropertyMask, ...] = ()

    @property
    def bounded(self) -> bool:
        """The query ends by itself, because what it reads has an end."""
        return self.until.kind != "live"


@dataclass(frozen=True, slots=True)
class Window:
    """`kind`: tumbling, hopping, cumulate, session (`size` is the gap, `most` the length at most), sliding, count,
    several, none. Times in microseconds (events, for count).

    Windows start at `offset + i * slide` (tumbling: slide = size; cumulate: every `size`, growing by `slide`).
    `pane` is the greatest common divisor: what windows share. `zone`: whose clock they go by, where not by UTC.
    `of`: several windows at once, each with its `name`; the column `by` of grouped rows holds the number of a row's.
    `single`: each row counts in the first window alone that ends after it, which is the one that it was made for.
    """

    kind: str
    size: int = 0
    slide: int = 0
    offset: int = 0
    pane: int = 0
    zone: str | None = None
    of: tuple[Window, ...] = ()
    by: str = ""
    name: str = ""
    most: int = 0
    single: bool = False


NO_WINDOW = Window("none")


@dataclass(frozen=True, slots=True)
class Renumber:
    """Adds `first` to the numbers of the splits: so events of several sources are told apart, and have one order."""

    first: int


@dataclass(frozen=True, slots=True)
class AsEvents:
    """Rows of groups become the events of another query, decoded: they get __t __s __o __a __m. `time`: `window`, the
    last microsecond of their window; `end`, its end (that of its last event); `own`, the __t that they have; `none`.
    `split`: the number that they have as their split.
    """

    time: str
    split: int = 0


@dataclass(frozen=True, slots=True)
class SelectRows:
    """Sample, filter and project: `sql` over the table `batch` gives the select items by result name, and __t __s __o.

    `sql` asks for `sampling` and `predicate` by itself; rows that are `late` must be out of the batch before.
    `repeats`: a row may come out several times (once per window).
    """

    sql: str
    sampling: str | None
    predicate: str | None
    late: str | None
    lateness_us: int
    repeats: bool


@dataclass(frozen=True, slots=True)
class Partial:
    """Filter and pre-aggregate the table `batch`: `sql` gives p, e, k…, n, f…, __h; `bags` the tables of values with
    their counts. `sql` asks for `sampling` and `predicate` by itself; late rows must be out of the batch before.
    """

    window: Window
    sql: str
    bags: tuple[str, ...]
    predicate: str | None
    late: str | None
    sampling: str | None
    lateness_us: int


@dataclass(frozen=True, slots=True)
class Expand:
    """Where several queries share the plan: `sql` gives each row of the table `batch` once for each query that it
    matches, by the table `roster` of their numbers `__q` and literals; `late_sql` the same with all columns. Rows that
    are `late` must be out of the batch before; both statements ask for `sampling` by themselves.
    """

    sql: str
    late_sql: str
    late: str | None
    lateness_us: int
    sampling: str | None


@dataclass(frozen=True, slots=True)
class RateSample:
    """Keep the `per_second` rows of each second of event time whose hash is smallest; gives decoded batches. `weighs`:
    each with its __weight, how many rows of its second there were for each that is kept."""

    per_second: int
    hash: str
    lateness_us: int
    live: bool
    weighs: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """What the state of groups means: of `keys` the expressions k0 k1 …, of `columns` what each of f0 f1 … is the
    partial of, of `bags` which values are counted. So a changed query finds what it needs in what another has kept.
    """

    keys: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    bags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retold:
    """What is told of a window more than once: values before their time, at most every `pace_us` (None: not), `again`
    also those that have not changed; and for `revise_us` after it was over, those that late rows change. Then the
    watermark goes on by `look_us` at least between two looks at what is over."""

    pace_us: int | None
    again: bool = False
    revise_us: int = 0
    look_us: int = 0


@dataclass(frozen=True, slots=True)
class CountWindows:
    """Windows of a number of events, per group, in event order as the watermark releases rows.

    `number` gives the table `released` its running number i, by the table `counts` (k…, n seen before, done: the end of
    the last window told); `counts` brings that table up to date; `partial` and `partial_bags` pre-aggregate the table
    `numbered`; `close` gives the rows of windows that are full, and under $ended the last, shorter one; `done` then
    moves the counts' `done` on, and `keep` gives what of a state table (as `held`) later windows still need.
    """

    window: Window
    keys: int
    bags: int
    number: str
    counts: str
    partial: str
    partial_bags: tuple[str, ...]
    close: str
    done: str
    keep: str
    retold: Retold | None = None
    kept: Kept = Kept()


@dataclass(frozen=True, slots=True)
class Final:
    """Merge partials, and speak: when the watermark closes a window, on ticks, at the end.

    `merge` and `merge_bags` compact one table of the state (as `state`). `close` gives the result rows of the windows
    with $since < end <= $until that start at or after $not_before, with __ws, __we, _key, __keep (HAVING holds).
    `open` gives what of a state table (as `held`) belongs to windows that end after $until.
    `emit`: final, changes (each changed group every `every_us`), every (all open groups). `early_us`: values before
    their time, marked final=false. `revise_us`: for so long after it closed, a window takes rows and is told anew.
    `hold_us`: windows close so much later than the watermark passes their end.
    `blanks` give the state's tables without rows. `query`: the key that tells apart the queries that share the plan.
    """

    window: Window
    keys: int
    bags: int
    merge: str
    merge_bags: tuple[str, ...]
    close: str
    open: str
    emit: str
    every_us: int | None
    early_us: int | None
    revise_us: int
    blanks: tuple[str, ...]
    query: str = ""
    hold_us: int = 0
    kept: Kept = Kept()


@dataclass(frozen=True, slots=True)
class Fill:
    """Rows for groups that were not seen in a window. Rows come as ws, we, k…, a…; `close` gives the result rows (with
    __keep) of the table `rows`, windows that are over, and of those after $since and up to $limit in which a group was
    not seen; the table `seen` says in which window (we) each was seen last, and its statement brings that up to date.
    """

    window: Window
    keys: int
    close: str
    seen: str


@dataclass(frozen=True, slots=True)
class Arranging:
    """ORDER BY and LIMIT over the table `rows` as they become final: in each window, else over all.

    `kind` is rows, final, changes or every; where rows replace earlier ones, a list of the top is kept and its changes
    are told. For `revise_us` after a window has closed, its rows may change still.
    """

    sql: str
    per_window: bool
    kind: str
    every_us: int
    early_us: int | None
    revise_us: int = 0


@dataclass(frozen=True, slots=True)
class TakeFirst:
    """LIMIT in total: so many rows as they come (live) or in event order (bounded), then the query is done."""

    count: int
    ordered: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """How an episode's rows tell which sub-groups explain it: the `top` so many, by the values of `dimensions`.

    The aggregates of the numbers `amounts` and `sizes` are maps from a sub-group, a JSON list of its values, to its
    part of the measure, which is amounts over sizes, or amounts over `unit` where there are no sizes.
    """

    dimensions: tuple[str, ...]
    top: int
    amounts: int
    sizes: int | None
    unit: float = 1.0


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so many alerts in so much time, by the history of `over_us`."""

    alerts: int
    per_us: int
    over_us: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How a detector takes one of several windows: what lengths of time come to, and the parameters that go by them."""

    window: Window
    parameters: tuple[tuple[str, float | int | str | None], ...]
    warmup: int
    rearm: int
    max_gap: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Judge the rows of each window once all of them are there; rows come with k…, a…, __ws, __we, __id (the group),
    __x (the value), __having and, where the query needs them, __n (the denominator), __ok (MINIMUM holds), __among.

    `project` gives the result rows from the table `rows`: those columns and the detector's. `zeros`: columns that are 0
    for a group without rows, whose value is 0 where `fills`. `ends_us`: where the input ends, if that is a time; else
    windows without rows are stepped over as the watermark passes (`endless`) or as later rows come. Other lengths are
    numbers of windows. `seed` goes into the names of episodes. Windows that end by `told_after_us` are learned from in
    silence. `scale`: a score counts so many times less, for the sake of a `budget` of alerts. `adds_up`: a window that
    is shorter by the clock has a smaller value, and is judged as if it were as long as the others. `paces`: one for
    each of several windows, which are judged apart. `emit`: all, anomalies, episodes, or hits (of backtests: each
    unusual window).
    """

    window: Window
    method: str
    parameters: tuple[tuple[str, float | int | str | None], ...]
    keys: int
    project: str
    zeros: tuple[str, ...]
    fills: bool
    relative: bool
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
    endless: bool
    ends_us: int | None
    seed: str
    explained: Explained | None = None
    told_after_us: int | None = None
    budget: Budget | None = None
    scale: float = 1.0
    max_keys: int = 1_000_000
    adds_up: bool = False
    paces: tuple[Pace, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningMedian:
    """Adds `anomalous` to rows with a value __x: it is above `times` an estimate, which each value then moves by `step`
    towards itself. `ordered`: in event order, at the end; else as rows come."""

    step: float
    times: float
    ordered: bool


@dataclass(frozen=True, slots=True)
class Held:
    """Hold rows until their windows are final. `close` gives the result rows (with __keep) that are final at $until and
    were not at $since, of the table `held`; `keep` gives what of it later ones need. `ready_us`: how far the watermark
    must have passed a row before anything of it can be final; `pace_us`: how far it goes between two looks, at least.
    `by_end`: a window is final as soon as its end lies before the watermark.
    """

    window: Window
    close: str
    keep: str
    ready_us: int
    pace_us: int
    by_end: bool = False
    retold: Retold | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """Window functions that go on from row to row, in event order. `close` gives the rows of the table `held` that are
    told now, those from $since to before $until, with their results; `keep` what of it later ones need. Beside these
    stand tables of what each partition carries, named `carries`: `begin` gives each of them without rows, and `carry`
    brings it up to date.
    """

    close: str
    carry: tuple[str, ...]
    begin: tuple[str, ...]
    carries: tuple[str, ...]
    keep: str


@dataclass(frozen=True, slots=True)
class Ahead:
    """Window functions that look at later rows. `judge` gives the rows of the table `held` before $until with their
    results, and whether these are __ready and the rows __needed by others; $ended: no more rows come."""

    judge: str


@dataclass(frozen=True, slots=True)
class Sessions:
    """Sessions as panes that merge. `spans` tells the session (ws, last) of each pane (p) of the table `state`; beside
    that as `spans`, `close` gives the result rows (with __keep) of the sessions that are over at $until, `fold` and
    `fold_bags` the panes of the others put together (of a table of the state, as `state`).
    """

    window: Window
    bags: int
    spans: str
    close: str
    fold: str
    fold_bags: tuple[str, ...]
    retold: Retold | None = None
    kept: Kept = Kept()


@dataclass(frozen=True, slots=True)
class JoinSide:
    """One input of a join: `sql` gives the rows of the table `batch` as the join takes them: their columns by the names
    that they have behind it, keys j0 j1 …, __t __s __o __a, __u and __v (see `Join`), __h. It asks for `predicate` by
    itself; rows that are `late` are taken out of the batch before. `port`: which side, left or right. `repeats`: a row
    comes once for each of several windows.
    """

    port: str
    sql: str
    predicate: str | None
    late: str | None
    lateness_us: int
    sampling: str | None = None
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Join:
    """Meet the rows of the tables `l` and `r`; the statements give decoded batches.

    `pairs` gives the rows that have partners with them, `alone_left` and `alone_right` those that have none, `met_left`
    and `met_right` those that have one while they had none in the table `seen` (of the other side). A row waits until
    the watermark gets to its __u, for no partner comes after that, and is kept until it gets to its __v. Partners in
    `r` lie from `before_us` before a row of `l` to `after_us` after it. `retracts`: rows without partners are told at
    once, and withdrawn when one comes; else once they are decided, up to `hold_us` behind the watermark, or as far as
    to the start of its window where there is a `floor`.
    """

    kind: str
    pairs: str | None
    alone_left: str | None
    alone_right: str | None
    met_left: str | None
    met_right: str | None
    blank_left: str
    blank_right: str
    before_us: int
    after_us: int
    hold_us: int
    floor: Window | None
    retracts: bool
    bytes_max: int


@dataclass(frozen=True, slots=True)
class AsofJoin:
    """`joined` gives each row of `l` with the newest row of `r` that is not newer than it, nor older by more than
    `within_us`. `newest` gives the rows of `r` that rows of `l` after $until can have as partners."""

    kind: str
    joined: str
    newest: str
    blank_left: str
    blank_right: str
    within_us: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Lookup:
    """Join the table `batch` with the declared table `table`, which the statement calls `name`. `repeats`: a
    row may come out several times."""

    kind: str
    table: str
    name: str
    sql: str
    repeats: bool


OperatorSpec = (
    Renumber
    | AsEvents
    | Expand
    | SelectRows
    | Partial
    | RateSample
    | CountWindows
    | Final
    | Fill
    | Arranging
    | TakeFirst
    | Anomaly
    | RunningMedian
    | Held
    | Ahead
    | Running
    | Sessions
    | JoinSide
    | Join
    | AsofJoin
    | Lookup
)


@dataclass(frozen=True, slots=True)
class Stage:
    """The longest run without an exchange. `input`: `scan`, `hash` (by column __h), `gather` or `forward`.

    `parallel`: `splits` (as many tasks as the source gives), `any` (as many as workers), `one`. `scan`: which of the
    plan's scans it reads. `of`: the stages that it reads; where left out, the one before.
    """

    number: int
    input: str
    parallel: str
    operators: tuple[OperatorSpec, ...]
    scan: int = 0
    of: tuple[int, ...] = ()

    @property
    def inputs(self) -> tuple[int, ...]:
        """The numbers of the stages that it reads."""
        return () if self.input == "scan" else self.of or (self.number - 1,)


def on_events(stages: Sequence[Stage]) -> tuple[int, ...]:
    """Of each stage how many of its operators, its first ones, work on events: behind them are rows of windows or of
    joins, which the ledger of events does not count."""
    found: dict[int, int] = {}
    for stage in stages:
        above = all(found[before] == len(stages[before].operators) for before in stage.inputs)
        kinds = [isinstance(spec, AsEvents) for spec in stage.operators]
        for at, spec in enumerate(stage.operators[:-1]):
            if isinstance(spec, Join | AsofJoin) or (isinstance(spec, Lookup) and spec.repeats):
                kinds[at + 1] = True
        found[stage.number] = (kinds.index(True) if any(kinds) else len(kinds)) if above else -1
    return tuple(max(0, found[stage.number]) for stage in stages)


@dataclass(frozen=True, slots=True)
class Result:
    """The rows that come out. `keyed`: rows replace earlier ones of the same `_key`.

    `columns` are names and types as readers see them. Keyed rows have `_key`, `_revision`, `_op` and `final` beside
    them. Columns of operators' output that start with "__" are hidden. `emit`: rows, final, changes, every.
    """

    columns: tuple[tuple[str, DataType], ...]
    keyed: bool
    windowed: bool
    emit: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What an inner query's detector tells, as a table of the batch statement: the rows that `sql` gives, through
    `operators`. `blank` has its columns and no row."""

    table: str
    sql: str
    operators: tuple[OperatorSpec, ...]
    blank: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled query: everything that running it needs, and nothing that a machine would know better.

    `hash` is equal for queries that mean the same (names normalised, AND in any order, parameters' values): they
    share one execution. `batch` is the one SQL statement that answers the query over stored events, in the table
    `events` (decoded columns; `events0`, `events1`, … where there are several scans) and in those of `judged`, each of
    which may read the ones before it; its rows go through the operators `after_batch`. `as_live`: a bounded input is
    judged late or not as if it came live, so `__m` counts.
    `speed`: stored events are played by their times, so many times as fast as they came; else read at once.
    `warnings` are told in the result's meta. `explain` is the form that the text asks for instead of rows.
    """

    text: str
    hash: str
    scans: tuple[Scan, ...]
    stages: tuple[Stage, ...]
    result: Result
    batch: str
    judged: tuple[Judged, ...] = ()
    after_batch: tuple[OperatorSpec, ...] = ()
    as_live: bool = False
    warnings: tuple[str, ...] = ()
    explain: str | None = None
    speed: float | None = None

    @property
    def scan(self) -> Scan:
        """The first of the scans; all of them read the same stretch of time."""
        return self.scans[0]

    @property
    def lookups(self) -> tuple[tuple[str, str], ...]:
        """The declared tables that are looked up, each with what statements call it."""
        specs = (spec for stage in self.stages for spec in stage.operators)
        return tuple(dict.fromkeys((spec.table, spec.name) for spec in specs if isinstance(spec, Lookup)))

    @property
    def tables(self) -> tuple[str, ...]:
        """What the batch statement calls the decoded events of each scan."""
        return ("events",) if len(self.scans) == 1 else tuple(f"events{i}" for i in range(len(self.scans)))
