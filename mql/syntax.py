"""The syntax tree: what a query's text says, before anybody looks up what its names mean.

Every node is frozen and carries its span; spans do not count when trees are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from mql.errors import NOWHERE, Span


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


# --- expressions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, a number, true, false or null. `text` is the literal as written (it names a column)."""

    value: str | int | Decimal | float | bool | None
    text: str = field(default="", compare=False)
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Duration:
    """`10s`, `INTERVAL '10' SECOND`: a length of time in microseconds."""

    us: int
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Instant:
    """`TIMESTAMP '2026-01-31T12:00:00Z'`: microseconds since the epoch, UTC."""

    us: int
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class DateLiteral:
    """`DATE '2026-01-31'`: days since the epoch."""

    days: int
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Param:
    """`$name`: a value that is bound into the tree, never into the text."""

    name: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Key:
    """One named step of a property. `style` tells how it was written: bare, dot, tick (backticks), bracket."""

    name: str
    style: str = "bare"


@dataclass(frozen=True, slots=True)
class Index:
    """`[0]`: an element of a list, counted from 0; negative ones count from the end."""

    value: int


@dataclass(frozen=True, slots=True)
class AnyElement:
    """`[*]`: any element of a list."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """`[^'metric']`: every property whose name starts so."""

    text: str


Step = Key | Index | AnyElement | Prefix


@dataclass(frozen=True, slots=True)
class Property:
    """`status`, `device.id`, `e['device']['id']`, `tags[0]`: a path into an event, roots and aliases included.

    The first step is always a Key: the name that stands first (`e` in `e['x']`, an alias in `a.x`).
    """

    steps: tuple[Step, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Star:
    """`*`: the whole event (in SELECT) or every row (in `count(*)`); `alias` in `a.*`."""

    alias: str | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    """`op` is "-", "+" or "not"."""

    op: str
    operand: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    """`op`: + - * / // % || = <> == != < <= > >= ==~ =~ ==+ and or.

    `||` stays only where neither side is written as a condition; between conditions it has become "or".
    """

    op: str
    left: Expression
    right: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Regex:
    """`/re/`, the right side of `==~` and `=~`; slashes unescaped."""

    pattern: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Like:
    operand: Expression
    pattern: Expression
    negated: bool = False
    ignore_case: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Between:
    operand: Expression
    low: Expression
    high: Expression
    negated: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class InList:
    """`x IN (a, b)`. A single parameter or list expression (`x IN $countries`) stands as one item."""

    operand: Expression
    items: tuple[Expression, ...]
    negated: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class InQuery:
    operand: Expression
    query: Query
    negated: bool = False
    within: tuple[Expression, Expression] | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Exists:
    query: Query
    negated: bool = False
    within: tuple[Expression, Expression] | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class IsNull:
    operand: Expression
    negated: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class IsDistinct:
    """`a IS DISTINCT FROM b`; `negated` for IS NOT DISTINCT FROM."""

    left: Expression
    right: Expression
    negated: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Case:
    """`operand` is None in `CASE WHEN …`."""

    operand: Expression | None
    whens: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type as written, upper case: `BIGINT`, `DECIMAL(10,2)`, `VARCHAR[]`."""

    text: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Cast:
    """`CAST(x AS t)`, `x::t`, and TRY_CAST where `lenient`."""

    operand: Expression
    type: TypeName
    lenient: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class ListLiteral:
    items: tuple[Expression, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Order:
    """One item of ORDER BY. `nulls_first` is None where the text does not say."""

    expression: Expression
    descending: bool = False
    nulls_first: bool | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """`ROWS|RANGE BETWEEN start AND end`; a bound is "unbounded preceding", "current row", "unbounded
    following" or (amount, "preceding" | "following")."""

    unit: str
    start: str | tuple[Expression, str]
    end: str | tuple[Expression, str]


@dataclass(frozen=True, slots=True)
class Over:
    partition_by: tuple[Expression, ...]
    order_by: tuple[Order, ...]
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """`f(a, b)`, `f(DISTINCT a)`, `f(*)` (then `args` is one Star), `f(x => 1)`, FILTER, ORDER BY, OVER.

    `name` is lower case; `text` is the whole call as written.
    """

    name: str
    args: tuple[Expression, ...]
    named: tuple[tuple[str, Expression], ...] = ()
    distinct: bool = False
    order_by: tuple[Order, ...] = ()
    filter: Expression | None = None
    over: Over | None = None
    text: str = field(default="", compare=False)
    span: Span = _span()


Expression = (
    Literal
    | Duration
    | Instant
    | DateLiteral
    | Param
    | Property
    | Star
    | Unary
    | Binary
    | Regex
    | Like
    | Between
    | InList
    | InQuery
    | Exists
    | IsNull
    | IsDistinct
    | Case
    | Cast
    | ListLiteral
    | Call
)


# --- clauses ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SelectItem:
    """`text` is the expression as written: it names the column where there is no alias."""

    expression: Expression
    alias: str | None = None
    text: str = field(default="", compare=False)
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class SourceRef:
    """FROM's operand: a declared name, a quoted file or glob (`path`), or a `$parameter`."""

    name: str | None = None
    path: str | None = None
    param: str | None = None
    alias: str | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class SubqueryRef:
    query: Query
    alias: str | None
    span: Span = _span()


From = SourceRef | SubqueryRef


@dataclass(frozen=True, slots=True)
class Join:
    """`kind`: inner left right full cross semi anti. `within` is (before, after) in microseconds. `using`: properties
    that are equal on both sides, in place of `on`.

    `mantis_seconds` and `on` alone: the form `join b 5 seconds on e['node']`.
    """

    kind: str
    right: From
    on: Expression | None
    within: tuple[Expression, Expression] | None = None
    asof: bool = False
    mantis_seconds: Expression | None = None
    using: tuple[str, ...] = ()
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Window:
    """`kind`: tumbling hopping cumulate session sliding count.

    Amounts are expressions (a Duration, a number of seconds or events, a `$parameter`): for count, `size`
    and `slide` count events; for session, `size` is the gap. `name` within WINDOWS (…).
    """

    kind: str
    size: Expression
    slide: Expression | None = None
    offset: Expression | None = None
    timezone: Expression | None = None
    max_length: Expression | None = None
    start_when: Expression | None = None
    end_when: Expression | None = None
    fill: Expression | None = None
    fill_for: Expression | None = None
    name: str | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Sample:
    """`kind`: percent (amount of 100), rate (rows per second) or json (Mantis' form, in `options`)."""

    kind: str
    amount: Expression | None = None
    by: tuple[Expression, ...] = ()
    options: tuple[tuple[str, str | int | float | bool | tuple[str, ...]], ...] = ()
    extrapolate: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Emit:
    """`kind`: final changes every anomalies episodes all.

    `every` for CHANGES EVERY and EVERY; `early` for FINAL WITH EARLY; `revisions` for WITH REVISIONS.
    """

    kind: str
    every: Expression | None = None
    early: Expression | None = None
    revisions: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Point:
    """Where SINCE or UNTIL points. `kind`: earliest, now, live, time (an expression: an Instant, a string
    such as '-1h', a Duration), offset (an expression)."""

    kind: str
    value: Expression | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Anomaly:
    """The ANOMALY clause. `method` with its named arguments (`1%` is 0.01), the rest by option name.

    direction, transform: a word in lower case; by, among, minimum: expressions; history, warmup, rearm: a length of
    time, or history_windows, warmup_windows, rearm_windows: a count; for, of: counts, both or neither; relative_to:
    an expression; limit: rows per window; warmup_from: a length of history; budget: a number of alerts per budget_per
    (hour, day, week); explain_by: expressions, of which the top so many are told.
    """

    on: Expression
    method: Call | None = None
    options: tuple[tuple[str, Expression | str | tuple[Expression, ...]], ...] = ()
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Limit:
    count: Expression
    per: tuple[Expression, ...] = ()
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Query:
    """One query. `explain` is None or one of: plan analyze logical physical sql estimate.

    `sources` is empty where FROM was left out; several are merged, as in Mantis' `from a, b`. `union` holds the further
    queries of UNION ALL; the first one then keeps ORDER BY, LIMIT, EMIT, LATENESS, SINCE, UNTIL, REPLAY SPEED and
    SETTINGS, which are about all of them.
    """

    select: tuple[SelectItem, ...]
    sources: tuple[From, ...] = ()
    distinct: bool = False
    joins: tuple[Join, ...] = ()
    where: Expression | None = None
    sample: Sample | None = None
    windows: tuple[Window, ...] = ()
    group_by: tuple[Expression, ...] = ()
    having: Expression | None = None
    anomaly: Anomaly | None = None
    qualify: Expression | None = None
    order_by: tuple[Order, ...] = ()
    limit: Limit | None = None
    emit: Emit | None = None
    lateness: Expression | None = None
    since: Point | None = None
    until: Point | None = None
    replay_speed: Expression | None = None
    settings: tuple[tuple[str, Expression], ...] = ()
    ctes: tuple[tuple[str, Query], ...] = ()
    union: tuple[Query, ...] = ()
    explain: str | None = None
    span: Span = _span()
