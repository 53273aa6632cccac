"""From the parse tree to the syntax tree: what each of the grammar's rules becomes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, cast

from lark import Token

from mql.errors import MqlError, Span, did_you_mean
from mql.precedence import InTail, Item, Operator, arrange
from mql.regexes import check_regex
from mql.syntax import (
    Anomaly,
    AnyElement,
    Call,
    Case,
    Cast,
    DateLiteral,
    Duration,
    Emit,
    Exists,
    Expression,
    Frame,
    Index,
    Instant,
    Join,
    Key,
    Limit,
    ListLiteral,
    Literal,
    Order,
    Over,
    Param,
    Point,
    Prefix,
    Property,
    Query,
    Regex,
    Sample,
    SelectItem,
    SourceRef,
    Star,
    Step,
    SubqueryRef,
    TypeName,
    Window,
)

COLUMNS_MAX = 1_000
DIGITS_MAX = 38
BIGINT_MAX = 2**63 - 1

_OPERATORS = frozenset(
    {"OR", "AND", "NOT", "SIGN", "PIPES", "COMPARISON", "MATCHES", "LIKE", "BETWEEN", "IS", "IS_DISTINCT"}
    | {"ADDITIVE", "MULTIPLICATIVE"}
)
_AMOUNTS = frozenset({"NUMBER", "PARAM", "DURATION"})
_UNITS_US = {
    "us": 1,
    "microsecond": 1,
    "ms": 1_000,
    "millisecond": 1_000,
    "s": 1_000_000,
    "sec": 1_000_000,
    "second": 1_000_000,
    "m": 60_000_000,
    "min": 60_000_000,
    "minute": 60_000_000,
    "h": 3_600_000_000,
    "hr": 3_600_000_000,
    "hour": 3_600_000_000,
    "d": 86_400_000_000,
    "day": 86_400_000_000,
    "w": 604_800_000_000,
    "week": 604_800_000_000,
}
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+)")
_DIRECTIONS = ("up", "down", "both")


# What a method of the builder gets: tokens, None where something optional is absent, and what was built below.
Kids = list[Any]


@dataclass(frozen=True, slots=True)
class _Clause:
    """A clause on its way into the query: the field it fills, and the words that begin it."""

    field: str
    words: str
    value: Any
    span: Span


# Clauses that say something of the whole result of a UNION ALL.
_OF_THE_WHOLE = ("order_by", "limit", "emit", "lateness", "since", "until", "replay_speed", "settings")


class Builder:
    """Makes a node of `mql.syntax` of each node of the parse tree; a method's name is the grammar's rule.

    `clean` is the text without its comments, by which the tree was made; `text` is as the user wrote it.
    """

    def __init__(self, clean: str, text: str) -> None:
        self.clean = clean
        self.text = text

    # --- queries ---------------------------------------------------------------------------------

    def start(self, kids: Kids, span: Span) -> Query:
        explain, query = kids
        assert isinstance(query, Query)
        if explain is None:
            return query
        words = explain.lower().split()
        return replace(query, explain=words[1] if len(words) > 1 else "plan", span=span)

    def truth(self, kids: Kids, span: Span) -> Query:
        return Query((SelectItem(Star(None, span), None, "*", span),), where=self.value(kids[0]), span=span)

    def query(self, kids: Kids, span: Span) -> Query:
        ctes, first, *others = kids
        assert isinstance(first, Query)
        names = [name for name, _ in ctes or ()]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise MqlError(f'there are two queries named "{name}" in "with"', span, "Give each a name of its own.")
        if not others:
            return replace(first, ctes=ctes or (), span=span)
        for branch in (first, *others[:-1]):
            for field in _OF_THE_WHOLE:
                if getattr(branch, field) != _default(field):
                    words = field.replace("_", " ")
                    raise MqlError(
                        f'"{words}" stands before "union all"',
                        _place_in(getattr(branch, field), branch.span),
                        f"Write {words.upper()} once, after the last query: it is about all rows together.",
                    )
        whole = {field: getattr(others[-1], field) for field in _OF_THE_WHOLE}
        others[-1] = replace(others[-1], **{field: _default(field) for field in _OF_THE_WHOLE})
        return replace(first, ctes=ctes or (), union=tuple(others), span=span, **whole)

    def with_(self, kids: Kids, span: Span) -> tuple[tuple[str, Query], ...]:
        return tuple(kids)

    def cte(self, kids: Kids, span: Span) -> tuple[str, Query]:
        return self.name(kids[0]), kids[1]

    def select(self, kids: Kids, span: Span) -> Query:
        distinct, *rest = kids
        items = tuple(kid for kid in rest if isinstance(kid, SelectItem))
        clauses = [kid for kid in rest if isinstance(kid, _Clause)]
        if len(items) > COLUMNS_MAX:
            raise MqlError(
                f"more than {COLUMNS_MAX:,} columns",
                items[COLUMNS_MAX].span,
                "Select fewer, or the whole event with *.",
            )
        values = self.clauses(clauses)
        fill, windows = values.pop("fill", None), values.get("windows", ())
        if fill is not None:
            if not windows:
                at = next(clause.span for clause in clauses if clause.field == "fill")
                raise MqlError('"fill" needs a window', at, "Add one, such as WINDOW TUMBLING 10s.")
            values["windows"] = tuple(replace(window, fill=fill[0], fill_for=fill[1]) for window in windows)
        return Query(items, distinct=distinct is not None, span=span, **values)

    def clauses(self, clauses: Sequence[_Clause]) -> dict[str, Any]:
        """The fields of a query that its clauses fill."""
        values: dict[str, Any] = {}
        anomaly = any(clause.field == "anomaly" for clause in clauses)
        for clause in clauses:
            field, value = clause.field, clause.value
            if field == "sources":
                if values:
                    raise MqlError(
                        f'"from" stands after "{clauses[0].words}"',
                        clause.span,
                        "FROM comes right after the list of columns, before all other clauses.",
                    )
                values["joins"] = value[1]
                value = value[0]
            if field == "limit_per_window":
                count, options = value
                if anomaly:
                    field, value = "anomaly_limit", [("limit", count), *options]
                elif options:
                    hint = "It is an option of ANOMALY."
                    raise MqlError(f'"limit" has no "{options[0][0].split("_")[0]}"', clause.span, hint)
                else:
                    field, value = "limit", Limit(count, (Property((Key("window_start"),), clause.span),), clause.span)
            if field in values:
                raise MqlError(
                    f'there are two "{clause.words}" clauses',
                    Span(clause.span.start, clause.span.start + len(clause.words)),
                    _hint_for_two(field),
                )
            values[field] = value
        more = values.pop("anomaly_limit", None)
        if more is not None:
            values["anomaly"] = _with_options(values["anomaly"], more)
        return values

    def item(self, kids: Kids, span: Span) -> SelectItem:
        expression, alias = kids[0], None
        written = span
        if len(kids) > 1 and kids[1] is not None:
            alias = self.name(kids[1])
            written = Span(span.start, self.end_before_alias(kids[1], span.start))
            if isinstance(expression, Star):
                raise MqlError(
                    '"*" has no name of its own', _span_of(kids[1]), "Take the alias out, or name one property."
                )
        return SelectItem(expression, alias, self.slice(written), span)

    def end_before_alias(self, alias: Token, start: int) -> int:
        """Where the expression before an alias ends."""
        before = self.clean[start : alias.start_pos].rstrip()
        if re.search(r"[^\w.$]as$", before, re.IGNORECASE):
            before = before[:-2].rstrip()
        return start + len(before)

    def star(self, kids: Kids, span: Span) -> Star:
        return Star(kids[0].partition(".")[0].strip() if kids else None, span)

    # --- FROM ------------------------------------------------------------------------------------

    def from_(self, kids: Kids, span: Span) -> _Clause:
        sources = tuple(kid for kid in kids if isinstance(kid, SourceRef | SubqueryRef))
        joins = [kid for kid in kids if not isinstance(kid, SourceRef | SubqueryRef)]
        flat = tuple(join for kid in joins for join in (kid if isinstance(kid, tuple) else (kid,)))
        return _Clause("sources", "from", (sources, flat), span)

    def source(self, kids: Kids, span: Span) -> SourceRef:
        named, alias = kids[0], self.alias(kids)
        match named.type:
            case "STRING":
                return SourceRef(path=_unquoted(named), alias=alias, span=span)
            case "PARAM":
                return SourceRef(param=str(named[1:]), alias=alias, span=span)
            case _:
                return SourceRef(name=self.name(named), alias=alias, span=span)

    def subquery(self, kids: Kids, span: Span) -> SubqueryRef:
        return SubqueryRef(kids[0], self.alias(kids), span)

    def alias(self, kids: Kids) -> str | None:
        if len(kids) < 2 or kids[1] is None:
            return None
        if str(kids[1]).lower() == "natural":
            hint = "Name what both sides have: JOIN b USING (id)."
            raise MqlError('"natural" is not available in joins', _span_of(kids[1]), hint)
        return self.name(kids[1])

    def join(self, kids: Kids, span: Span) -> Join:
        words, right, on, within = kids
        kind, asof = _join_kind(words)
        if on is None and kind != "cross":
            hint = "Add ON a.id = b.id or USING (id), with your own names."
            raise MqlError('"join" needs a condition', _span_of(words), hint)
        if isinstance(on, tuple):
            return Join(kind, right, None, within, asof, using=on, span=span)
        return Join(kind, right, on, within, asof, span=span)

    def shared(self, kids: Kids, span: Span) -> tuple[str, ...]:
        names = tuple(self.name(kid) for kid in kids)
        twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
        if twice is not None:
            raise MqlError(f'"{twice}" is named twice', span, "Name each property once.")
        return names

    def within(self, kids: Kids, span: Span) -> tuple[Expression, Expression]:
        amounts = [self.value(kid) for kid in kids]
        return amounts[0], amounts[-1]

    def mantis_join(self, kids: Kids, span: Span) -> tuple[Join, ...]:
        words, *rights, seconds, on = kids
        kind, asof = _join_kind(words)
        return tuple(Join(kind, right, on, None, asof, self.value(seconds), span=span) for right in rights)

    # --- the other clauses -----------------------------------------------------------------------

    def where(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("where", "where", kids[0], span)

    def having(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("having", "having", kids[0], span)

    def qualify(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("qualify", "qualify", kids[0], span)

    def group_by(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("group_by", "group by", tuple(kids), span)

    def order_by(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("order_by", "order by", tuple(kids), span)

    def order(self, kids: Kids, span: Span) -> Order:
        expression, direction, nulls = kids
        first = None if nulls is None else nulls.lower().endswith("first")
        return Order(expression, direction is not None and direction.lower() == "desc", first)

    def limit(self, kids: Kids, span: Span) -> _Clause:
        count, per = self.value(kids[0]), kids[1]
        options = [pair for kid in kids[2:] for pair in kid]
        if per == "window":
            return _Clause("limit_per_window", "limit", (count, options), span)
        if options:
            hint = "Write the options of ANOMALY before this LIMIT, or LIMIT n PER WINDOW."
            raise MqlError(f'"limit" has no "{options[0][0].split("_")[0]}"', span, hint)
        return _Clause("limit", "limit", Limit(count, per or (), span), span)

    def per(self, kids: Kids, span: Span) -> tuple[Expression, ...]:
        return tuple(kids)

    def per_window(self, kids: Kids, span: Span) -> str:
        return "window"

    def lateness(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("lateness", "lateness", self.value(kids[0]), span)

    def replay(self, kids: Kids, span: Span) -> _Clause:
        speed = kids[0]
        if speed.type == "FACTOR":
            value: Expression = Literal(self.number(speed[:-1], _span_of(speed)), str(speed), _span_of(speed))
        else:
            value = self.value(speed)
        return _Clause("replay_speed", "replay speed", value, span)

    def settings(self, kids: Kids, span: Span) -> _Clause:
        for at, (name, _) in enumerate(kids):
            if any(name == earlier for earlier, _ in kids[:at]):
                raise MqlError(f'the setting "{name}" is given twice', span, "Keep one of them.")
        return _Clause("settings", "settings", tuple(kids), span)

    def setting(self, kids: Kids, span: Span) -> tuple[str, Expression]:
        return str(kids[0]).lower(), kids[1]

    def since(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("since", "since", self.point(kids[0], span), span)

    def until(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("until", "until", self.point(kids[0], span), span)

    def point(self, written: Any, span: Span) -> Point:
        match written:
            case Token():
                return Point(str(written).lower(), None, _span_of(written))
            case Point():
                return written
            case Call("now", ()):
                return Point("now", None, written.span)
            case _:
                return Point("time", written, written.span)

    def from_offset(self, kids: Kids, span: Span) -> Point:
        return Point("offset", kids[0], span)

    # --- samples ---------------------------------------------------------------------------------

    def sample(self, kids: Kids, span: Span) -> _Clause:
        sample, by, extrapolate = kids
        whole = replace(sample, by=by or (), extrapolate=sample.extrapolate or extrapolate is not None, span=span)
        return _Clause("sample", "sample", whole, span)

    def percent(self, kids: Kids, span: Span) -> Sample:
        amount = kids[0]
        if amount.type == "PERCENT":
            number = str(amount).rstrip("% \t\r\n")
            return Sample("percent", Literal(self.number(number, span), number, span))
        return Sample("percent", self.value(amount))

    def rate(self, kids: Kids, span: Span) -> Sample:
        return Sample("rate", self.value(kids[0]))

    def sample_by(self, kids: Kids, span: Span) -> tuple[Expression, ...]:
        return tuple(kids[1:])

    def json(self, kids: Kids, span: Span) -> Sample:
        options = dict(kid for kid in kids if kid is not None)
        extrapolate = options.pop("extrapolate", False)
        if not isinstance(extrapolate, bool):
            raise MqlError('"extrapolate" is true or false', span)
        return Sample("json", options=tuple(options.items()), extrapolate=extrapolate)

    def pair(self, kids: Kids, span: Span) -> tuple[str, Any]:
        name, *value = kids
        return _unquoted(name), self.json_value(value, span)

    def json_value(self, value: Kids, span: Span) -> Any:
        match value:
            case [None | Token(), Token(type="NUMBER") as number]:
                size = self.number(number, _span_of(number))
                size = float(size) if isinstance(size, Decimal) else size
                return -size if value[0] == "-" else size
            case [Token(type="TRUTH") as truth]:
                return truth.lower() == "true"
            case [Token() as string]:
                return _unquoted(string)
            case _:
                return value[0]

    def json_list(self, kids: Kids, span: Span) -> tuple[str, ...]:
        return tuple(_unquoted(kid) for kid in kids if kid is not None)

    # --- windows ---------------------------------------------------------------------------------

    def window(self, kids: Kids, span: Span) -> _Clause:
        return _Clause("windows", "window", (self.with_options(kids, span),), span)

    def windows(self, kids: Kids, span: Span) -> _Clause:
        for at, window in enumerate(kids):
            if any(window.name == earlier.name for earlier in kids[:at]):
                raise MqlError(
                    f'there are two windows named "{window.name}"', window.span, "Give each a name of its own."
                )
        return _Clause("windows", "windows", tuple(kids), span)

    def named_window(self, kids: Kids, span: Span) -> Window:
        return replace(self.with_options(kids[1:], span), name=self.name(kids[0]))

    def with_options(self, kids: Kids, span: Span) -> Window:
        window, *options = kids
        values = dict(options)
        if len(values) < len(options):
            raise MqlError("an option of the window is given twice", span, "Keep one of them.")
        assert isinstance(window, Window)
        return replace(window, span=span, **values)

    def tumbling(self, kids: Kids, span: Span) -> Window:
        return Window("tumbling", self.value(kids[-1]), span=span)

    def hopping(self, kids: Kids, span: Span) -> Window:
        size, slide = self.amounts(kids)
        return Window("hopping", size, slide, span=span)

    def cumulate(self, kids: Kids, span: Span) -> Window:
        size, slide = self.amounts(kids)
        return Window("cumulate", size, slide, span=span)

    def session(self, kids: Kids, span: Span) -> Window:
        return Window("session", self.value(kids[-1]), span=span)

    def sliding(self, kids: Kids, span: Span) -> Window:
        return Window("sliding", self.value(kids[-1]), span=span)

    def counted(self, kids: Kids, span: Span) -> Window:
        amounts = self.amounts(kids)
        return Window("count", amounts[0], amounts[1] if len(amounts) > 1 else None, span=span)

    def amounts(self, kids: Kids) -> list[Expression]:
        """The amounts among words such as HOPPING and EVERY."""
        return [self.value(kid) for kid in kids if not isinstance(kid, Token) or kid.type in _AMOUNTS]

    def offset(self, kids: Kids, span: Span) -> tuple[str, Expression]:
        return "offset", self.value(kids[0])

    def timezone(self, kids: Kids, span: Span) -> tuple[str, Expression]:
        return "timezone", self.value(kids[0])

    def max_length(self, kids: Kids, span: Span) -> tuple[str, Expression]:
        return "max_length", self.value(kids[0])

    def start_when(self, kids: Kids, span: Span) -> tuple[str, Expression]:
        return "start_when", kids[0]

    def end_when(self, kids: Kids, span: Span) -> tuple[str, Expression]:
        return "end_when", kids[0]

    def fill(self, kids: Kids, span: Span) -> _Clause:
        duration = self.value(kids[-1]) if len(kids) > 1 else None
        return _Clause("fill", "fill", (kids[0], duration), span)

    # --- anomalies -------------------------------------------------------------------------------

    def anomaly(self, kids: Kids, span: Span) -> _Clause:
        on, *pairs = kids
        options = [pair for kid in pairs for pair in kid]
        return _Clause("anomaly", "anomaly", _with_options(Anomaly(on, None, (), span), options), span)

    def mantis_anomaly(self, kids: Kids, span: Span) -> _Clause:
        name, on, *numbers = kids
        arguments = []
        for sign, number in zip(numbers[::2], numbers[1::2], strict=True):
            value = self.value(number)
            assert isinstance(value, Literal)
            assert isinstance(value.value, int | float | Decimal)
            arguments.append(replace(value, value=-value.value, text=f"-{value.text}") if sign == "-" else value)
        method = Call(str(name).lower(), tuple(arguments), text=self.slice(span), span=_span_of(name))
        return _Clause("anomaly", "anomaly", Anomaly(on, method, (), span), span)

    def using(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        method = kids[0]
        if isinstance(method, Token):
            method = Call(method.lower(), (), text=str(method), span=_span_of(method))
        return [("using", method)]

    def anomaly_words(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        option, word = kids[0].lower(), kids[1].lower()
        if option == "direction" and word not in _DIRECTIONS:
            raise MqlError(
                f'no direction "{kids[1]}"',
                _span_of(kids[1]),
                did_you_mean(word, _DIRECTIONS) or "Write UP, DOWN or BOTH.",
            )
        return [(option, word)]

    def anomaly_list(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        return [(kids[0].lower(), tuple(kids[1:]))]

    def anomaly_span(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        option = kids[0].lower().split()[0]
        return [(option if len(kids) == 2 else f"{option}_windows", self.value(kids[1]))]

    def anomaly_for(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        counts = [self.value(kid) for kid in kids if kid is not None and kid.type == "NUMBER"]
        return [("for", counts[0]), ("of", counts[-1])]

    def anomaly_value(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        return [("relative_to", kids[1])]

    def anomaly_from(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        return [("warmup_from", self.value(kids[0]))]

    def anomaly_budget(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        return [("budget", self.value(kids[0])), ("budget_per", kids[1].lower().split()[1])]

    def anomaly_explain(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        *by, last = kids
        if not isinstance(last, Token):
            return [("explain_by", tuple(kids))]
        return [("explain_by", tuple(by)), ("top", self.value(last))]

    def anomaly_skip(self, kids: Kids, span: Span) -> list[tuple[str, Any]]:
        return [("skip", "missing")]

    # --- EMIT ------------------------------------------------------------------------------------

    def emit(self, kids: Kids, span: Span) -> _Clause:
        kind = kids[0].lower().split()[0]
        early = next((kid[1] for kid in kids if isinstance(kid, tuple)), None)
        revisions = any(isinstance(kid, Token) and kid.type == "REVISIONS" for kid in kids)
        at = next((at for at, kid in enumerate(kids) if isinstance(kid, Token) and kid.type == "EVERY"), None)
        every = None if at is None else self.value(kids[at + 1])
        return _Clause("emit", "emit", Emit(kind, every, early, revisions, span), span)

    def early(self, kids: Kids, span: Span) -> tuple[str, Expression]:
        return "early", self.value(kids[0])

    # --- expressions -----------------------------------------------------------------------------

    def expression(self, kids: Kids, span: Span) -> Expression:
        return arrange([self.as_item(kid) for kid in kids], self.clean)

    def as_item(self, kid: Any) -> Item:
        if not isinstance(kid, Token):
            return cast(Item, kid)
        if kid.type in _OPERATORS:
            return Operator(kid.type, " ".join(kid.lower().split()), _span_of(kid))
        return self.value(kid)

    def in_list(self, kids: Kids, span: Span) -> InTail:
        word, *items = kids
        choices = tuple(self.value(item) for item in items if item is not None)
        return InTail(choices, word.lower() != "in", span)

    def in_query(self, kids: Kids, span: Span) -> InTail:
        return InTail(kids[1], kids[0].lower() != "in", span, kids[2])

    def paren(self, kids: Kids, span: Span) -> Expression:
        return cast(Expression, kids[0])

    def list_literal(self, kids: Kids, span: Span) -> ListLiteral:
        return ListLiteral(tuple(kid for kid in kids if kid is not None), span)

    def exists(self, kids: Kids, span: Span) -> Exists:
        return Exists(kids[0], False, kids[1], span)

    def extract(self, kids: Kids, span: Span) -> Call:
        part = Literal(kids[0].lower(), f"'{kids[0].lower()}'", _span_of(kids[0]))
        return Call("date_part", (part, kids[1]), text=self.slice(span), span=span)

    def property(self, kids: Kids, span: Span) -> Property:
        head, *rest = kids
        steps: tuple[Step, ...] = (Key(self.name(head), "tick" if head.type == "TICKED" else "bare"),)
        return Property(steps + tuple(_step(token) for token in rest), span)

    def call(self, kids: Kids, span: Span) -> Call:
        name, distinct, *rest = kids
        *given, filter_by, over = rest
        positional: list[Expression] = []
        named: list[tuple[str, Expression]] = []
        order_by: tuple[Order, ...] = ()
        for kid in given:
            match kid:
                case None:
                    pass
                case _Clause(value=value):
                    order_by = value
                case (str() as key, value):
                    named.append((key, value))
                case _:
                    if named:
                        raise MqlError(
                            "a named argument stands before one without a name", kid.span, "Names come last."
                        )
                    positional.append(kid)
        return Call(
            str(name).lower(),
            tuple(positional),
            tuple(named),
            distinct is not None,
            order_by,
            filter_by,
            over,
            self.slice(span),
            span,
        )

    def named(self, kids: Kids, span: Span) -> tuple[str, Expression]:
        value = kids[1]
        if isinstance(value, Token):
            number = Decimal(str(value).rstrip("% \t\r\n")) / 100
            value = Literal(number, str(value), _span_of(value))
        return str(kids[0]).lower(), value

    def filter(self, kids: Kids, span: Span) -> Expression:
        return cast(Expression, kids[-1])

    def over(self, kids: Kids, span: Span) -> Over:
        partition, order_by, frame = kids
        return Over(partition or (), order_by.value if order_by else (), frame)

    def partition(self, kids: Kids, span: Span) -> tuple[Expression, ...]:
        return tuple(kids)

    def frame(self, kids: Kids, span: Span) -> Frame:
        unit, *bounds = (kid for kid in kids if not isinstance(kid, Token) or kid.type not in ("BETWEEN", "AND"))
        ends = [" ".join(bound.lower().split()) if isinstance(bound, Token) else bound for bound in bounds]
        return Frame(unit.lower(), ends[0], ends[1] if len(ends) > 1 else "current row")

    def bound(self, kids: Kids, span: Span) -> tuple[Expression, str]:
        return self.value(kids[0]), kids[1].lower()

    def case(self, kids: Kids, span: Span) -> Case:
        operand, *whens, otherwise = kids
        return Case(operand, tuple(whens), otherwise, span)

    def when(self, kids: Kids, span: Span) -> tuple[Expression, Expression]:
        return kids[0], kids[1]

    def convert(self, kids: Kids, span: Span) -> Cast:
        return Cast(kids[1], kids[2], kids[0].lower() == "try_cast", span)

    def shorthand_cast(self, kids: Kids, span: Span) -> Cast:
        return Cast(self.value(kids[0]), kids[1], False, span)

    def type_name(self, kids: Kids, span: Span) -> TypeName:
        name = " ".join(kids[0].upper().split())
        sizes = ",".join(kid for kid in kids[1:] if kid is not None and kid.type == "NUMBER")
        lists = sum(1 for kid in kids[1:] if kid is not None and kid.type == "LIST_OF")
        return TypeName(name + f"({sizes})" * bool(sizes) + "[]" * lists, span)

    # --- values ----------------------------------------------------------------------------------

    def value(self, token: Any) -> Expression:
        """The node for a single token; what is a node already stays as it is."""
        if not isinstance(token, Token):
            return cast(Expression, token)
        span, written = _span_of(token), str(token)
        match token.type:
            case "STRING":
                return Literal(_unquoted(token), written, span)
            case "NUMBER":
                return Literal(self.number(written, span), written, span)
            case "TRUTH":
                return Literal(written.lower() == "true", written, span)
            case "NULL":
                return Literal(None, written, span)
            case "PARAM":
                return Param(written[1:], span)
            case "DURATION":
                return _duration(written, span)
            case "REGEX":
                pattern = re.sub(r"\\(.)", lambda escaped: "/" if escaped[1] == "/" else escaped[0], written[1:-1])
                check_regex(pattern, span)
                return Regex(pattern, span)
            case other:
                raise AssertionError(f"no value is made of {other}")

    def number(self, written: str, span: Span) -> int | Decimal | float:
        """Whole numbers as int, with a point as Decimal, with an exponent as float."""
        if "e" in written.lower():
            number = float(written)
            if number in (float("inf"), float("-inf")):
                raise MqlError("the number is too large", span, "A DOUBLE goes up to about 1.8e308.")
            return number
        if len(written) > DIGITS_MAX + 1:
            raise MqlError("the number has too many digits", span, f"At most {DIGITS_MAX} digits; use an exponent.")
        return Decimal(written) if "." in written else int(written)

    def interval(self, kids: Kids, span: Span) -> Duration:
        amount, unit = kids[0], kids[1] if len(kids) > 1 else None
        if amount.type == "DURATION":
            return replace(_duration(str(amount), span), span=span)
        written = _unquoted(amount) + (f" {unit}" if unit is not None else "")
        return _duration(written, span)

    def instant(self, kids: Kids, span: Span) -> Instant:
        try:
            moment = datetime.fromisoformat(_unquoted(kids[0]).strip())
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            raise MqlError(
                f"{kids[0]} is no timestamp", _span_of(kids[0]), "Write it as: TIMESTAMP '2026-01-31T12:00:00Z'."
            ) from None
        since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return Instant((since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds, span)

    def date(self, kids: Kids, span: Span) -> DateLiteral:
        try:
            day = date.fromisoformat(_unquoted(kids[0]).strip())
        except ValueError:
            raise MqlError(f"{kids[0]} is no date", _span_of(kids[0]), "Write it as: DATE '2026-01-31'.") from None
        return DateLiteral((day - date(1970, 1, 1)).days, span)

    # --- names and slices ------------------------------------------------------------------------

    def name(self, token: Token) -> str:
        match token.type:
            case "TICKED":
                return str(token[1:-1]).replace("``", "`")
            case "STRING":
                return _unquoted(token)
            case _:
                return str(token)

    def slice(self, span: Span) -> str:
        return self.text[span.start : span.end]


def _place_in(value: Any, otherwise: Span) -> Span:
    """Where a clause's value stands, as near as the tree tells."""
    while isinstance(value, tuple) and value:
        value = value[-1]
    value = getattr(value, "expression", value)
    return getattr(value, "span", otherwise)


def _default(field: str) -> Any:
    return () if field in ("order_by", "settings") else None


def _with_options(anomaly: Anomaly, more: Sequence[tuple[str, Any]]) -> Anomaly:
    """The clause with further options; each may be given once."""
    method, options = anomaly.method, list(anomaly.options)
    for name, value in more:
        if name in [known for known, _ in options] or (name == "using" and method is not None):
            raise MqlError(f'"{name}" is given twice in "anomaly"', anomaly.span, "Keep one of them.")
        if name == "using":
            method = value
        else:
            options.append((name, value))
    return replace(anomaly, method=method, options=tuple(options))


def _hint_for_two(field: str) -> str:
    if field in ("where", "having", "qualify"):
        return "Join the conditions with AND."
    if field == "windows":
        return "Several windows at once: WINDOWS (fast AS TUMBLING 1m, slow AS TUMBLING 1h)."
    return "Each clause stands once; keep one of them."


def _span_of(token: Token) -> Span:
    assert token.start_pos is not None
    assert token.end_pos is not None
    return Span(token.start_pos, token.end_pos)


def _unquoted(token: Token) -> str:
    quote = token[0]
    return str(token[1:-1]).replace(quote * 2, quote)


def _step(token: Token) -> Step:
    """A step of a property; in brackets a backslash may stand before a quote too."""
    inside = token[1:-1].strip()
    match token.type:
        case "WORD":
            return Key(str(token), "dot")
        case "TICKED":
            return Key(str(token[1:-1]).replace("``", "`"), "tick")
        case "KEY_STEP":
            quote = inside[0]
            return Key(inside[1:-1].replace(f"\\{quote}", quote).replace(quote * 2, quote), "bracket")
        case "PREFIX_STEP":
            return Prefix(inside[1:].strip()[1:-1])
        case "INDEX_STEP":
            digits = "".join(inside.split())
            if len(digits) > 10:
                raise MqlError("no list is that long", _span_of(token))
            return Index(int(digits))
        case _:
            return AnyElement()


def _join_kind(words: Token) -> tuple[str, bool]:
    said = set(words.lower().split())
    kind = next((kind for kind in ("left", "right", "full", "cross", "semi", "anti") if kind in said), "inner")
    return kind, "asof" in said


def _duration(written: str, span: Span) -> Duration:
    """A length of time from `10s`, `1h30m`, `5 minutes` or what stands in INTERVAL's quotes."""
    text = written.strip().lower()
    sign = -1 if text.startswith("-") else 1
    text = text.removeprefix("-").strip()
    total, at = Decimal(0), 0
    for amount in _AMOUNT.finditer(text):
        unit = amount[2] if amount[2] in _UNITS_US else amount[2].removesuffix("s")
        if text[at : amount.start()].strip(" ,") or len(amount[1]) > DIGITS_MAX:
            break
        if unit in ("month", "quarter", "year"):
            raise MqlError(f"a {unit} has no fixed length", span, "Say it in days.")
        if unit not in _UNITS_US:
            break
        total, at = total + Decimal(amount[1]) * _UNITS_US[unit], amount.end()
    if not at or text[at:].strip():
        raise MqlError(f'"{written}" is no duration', span, "Write it as: 10s, 5 minutes or INTERVAL '1' HOUR.")
    if total > BIGINT_MAX:
        raise MqlError("the duration is too long", span, "At most about 292,000 years.")
    return Duration(sign * int(total), span)
