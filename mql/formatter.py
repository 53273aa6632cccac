"""A query as canonical text: keywords in capitals, one clause a line, no brackets that are not needed.

`parse(format_query(parse(text))) == parse(text)` holds for every text that parses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import assert_never

from mql.precedence import flatten
from mql.syntax import (
    Anomaly,
    AnyElement,
    Between,
    Binary,
    Call,
    Case,
    Cast,
    DateLiteral,
    Duration,
    Emit,
    Exists,
    Expression,
    Frame,
    From,
    Index,
    InList,
    InQuery,
    Instant,
    IsDistinct,
    IsNull,
    Join,
    Key,
    Like,
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
    Unary,
    Window,
)

# How tightly a form binds; what binds looser than its place allows gets brackets.
_OR, _AND, _NOT, _COMPARISON, _CONCATENATION, _SUM, _PRODUCT, _SIGN, _TIGHT = range(1, 10)
_BINDING = {"or": _OR, "and": _AND, "||": _CONCATENATION, "+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT}
_BINDING |= {"//": _PRODUCT, "%": _PRODUCT}

_PLAIN_NAME = re.compile(r"[^\W\d]\w*")
_PLAIN_SOURCE = re.compile(r"[^\W\d]\w*([.:-]\w+)*")
# Words that stand in backticks where they are names: the reserved ones, and those that begin a clause or an option.
_KEYWORDS = frozenset(
    {"advance", "alert", "all", "among", "analyze", "and", "anomaly", "as", "asc", "asof", "between", "both", "by"}
    | {"case", "cast", "changes", "cross", "cumulate", "current", "date", "desc", "direction", "distinct"}
    | {"earliest", "early", "else", "emit", "end", "episodes", "estimate", "events", "every", "exists"}
    | {"explain", "extract", "extrapolate", "false", "fill", "filter", "final", "first", "following", "for"}
    | {"from", "full", "gap", "group", "having", "history", "hop", "hopping", "ilike", "in", "inner"}
    | {"interval", "is", "join", "lateness", "left", "like", "limit", "live", "logical", "max", "minimum"}
    | {"not", "now", "null", "nulls", "of", "offset", "on", "or", "order", "outer", "over", "partition", "per"}
    | {"percent", "physical", "preceding", "qualify", "range", "rearm", "relative", "replay", "right", "rows"}
    | {"sample", "select", "session", "settings", "since", "size", "slide", "sliding", "sql", "start", "then"}
    | {"timestamp", "timezone", "top", "transform", "true", "try_cast", "tumble", "tumbling", "unbounded", "union"}
    | {"until", "using", "warmup", "when", "where", "window", "windows", "with", "within"}
)


def format_query(query: Query) -> str:
    """The query as text, in the order in which the clauses are told in the language's reference."""
    lines = list(_lines(query))
    if query.explain is not None:
        word = "EXPLAIN" if query.explain == "plan" else f"EXPLAIN {query.explain.upper()}"
        lines.insert(0, word)
    return "\n".join(lines)


def format_expression(expression: Expression) -> str:
    """One expression as text, as it stands in a query."""
    return _bound(expression, 0)


def _lines(query: Query) -> Iterator[str]:
    if query.ctes:
        yield "WITH " + ",\n".join(f"{_name(name)} AS ({_inline(cte)})" for name, cte in query.ctes)
    yield from _of_one_select(query)
    for other in query.union:
        yield "UNION ALL"
        yield from _of_one_select(other)
    yield from _of_the_whole(query)


def _of_one_select(query: Query) -> Iterator[str]:
    distinct = "DISTINCT " if query.distinct else ""
    yield f"SELECT {distinct}{_list(_item(item) for item in query.select)}"
    if query.sources:
        yield f"FROM {_list(_source(source) for source in query.sources)}"
    for join in query.joins:
        yield _join(join)
    if query.where is not None:
        yield f"WHERE {_bound(query.where, 0)}"
    if query.sample is not None:
        yield _sample(query.sample)
    yield from _windows(query.windows)
    if query.group_by:
        yield f"GROUP BY {_expressions(query.group_by)}"
    if query.having is not None:
        yield f"HAVING {_bound(query.having, 0)}"
    if query.anomaly is not None:
        yield _anomaly(query.anomaly)
    if query.qualify is not None:
        yield f"QUALIFY {_bound(query.qualify, 0)}"


def _of_the_whole(query: Query) -> Iterator[str]:
    if query.order_by:
        yield _order_by(query.order_by)
    if query.limit is not None:
        yield _limit(query.limit)
    if query.emit is not None:
        yield _emit(query.emit)
    if query.lateness is not None:
        yield f"LATENESS {_bound(query.lateness, 0)}"
    if query.since is not None:
        yield f"SINCE {_point(query.since)}"
    if query.until is not None:
        yield f"UNTIL {_point(query.until)}"
    if query.replay_speed is not None:
        yield f"REPLAY SPEED {_bound(query.replay_speed, 0)}"
    if query.settings:
        yield "SETTINGS " + _list(f"{name} = {_bound(value, 0)}" for name, value in query.settings)


def _inline(query: Query) -> str:
    return " ".join(_lines(query))


# --- clauses ---------------------------------------------------------------------------------------


def _item(item: SelectItem) -> str:
    return _bound(item.expression, 0) + _alias(item.alias)


def _alias(alias: str | None) -> str:
    return "" if alias is None else f" AS {_name(alias)}"


def _source(source: From) -> str:
    match source:
        case SubqueryRef(query, alias):
            return f"({_inline(query)}){_alias(alias)}"
        case SourceRef(name=str(name), alias=alias):
            plain = _PLAIN_SOURCE.fullmatch(name) and name.lower() not in _KEYWORDS
            return (name if plain else _ticked(name)) + _alias(alias)
        case SourceRef(path=str(path), alias=alias):
            return _quoted(path) + _alias(alias)
        case SourceRef(param=param, alias=alias):
            return f"${param}{_alias(alias)}"


def _join(join: Join) -> str:
    kind = "" if join.kind == "inner" else f"{join.kind.upper()} "
    text = f"{'ASOF ' if join.asof else ''}{kind}JOIN {_source(join.right)}"
    if join.mantis_seconds is not None:
        text += f" {_bound(join.mantis_seconds, 0)}"
    if join.on is not None:
        text += f" ON {_bound(join.on, 0)}"
    if join.using:
        text += f" USING ({', '.join(_name(name) for name in join.using)})"
    return text + _within(join.within)


def _within(within: tuple[Expression, Expression] | None) -> str:
    match within:
        case None:
            return ""
        case before, after if before == after:
            return f" WITHIN {_bound(before, 0)}"
        case before, after:
            return f" WITHIN ({_bound(before, 0)}, {_bound(after, 0)})"


def _sample(sample: Sample) -> str:
    amount = "" if sample.amount is None else _bound(sample.amount, 0)
    match sample.kind:
        case "percent":
            size = f"{amount} PERCENT" if isinstance(sample.amount, Param) else f"{amount}%"
        case "rate":
            size = f"{amount} PER SECOND"
        case _:
            size = "{" + _list(f"{_quoted(name)}: {_json(value)}" for name, value in sample.options) + "}"
    by = f" BY {_expressions(sample.by)}" if sample.by else ""
    return f"SAMPLE {size}{by}{' EXTRAPOLATE' if sample.extrapolate else ''}"


def _json(value: str | int | float | bool | tuple[str, ...]) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return _quoted(value)
        case tuple():
            return f"[{_list(_quoted(item) for item in value)}]"
        case int() | float():
            return repr(value)


def _windows(windows: tuple[Window, ...]) -> Iterator[str]:
    if not windows:
        return
    if windows[0].name is None:
        yield f"WINDOW {_window(windows[0])}"
    else:
        yield "WINDOWS (" + _list(f"{_name(window.name or '')} AS {_window(window)}" for window in windows) + ")"
    fill, fill_for = windows[0].fill, windows[0].fill_for
    if fill is not None:
        yield f"FILL {_bound(fill, 0)}" + (f" FOR {_bound(fill_for, 0)}" if fill_for is not None else "")


def _window(window: Window) -> str:
    size = _bound(window.size, 0)
    slide = f" EVERY {_bound(window.slide, 0)}" if window.slide is not None else ""
    text = f"{size} EVENTS{slide}" if window.kind == "count" else f"{window.kind.upper()} {size}{slide}"
    for word, value in (
        ("OFFSET", window.offset),
        ("TIMEZONE", window.timezone),
        ("MAX", window.max_length),
        ("START WHEN", window.start_when),
        ("END WHEN", window.end_when),
    ):
        if value is not None:
            text += f" {word} {_bound(value, 0)}"
    return text


def _anomaly(anomaly: Anomaly) -> str:
    text = f"ANOMALY ON {_before_by(_bound(anomaly.on, 0))}"
    if anomaly.method is not None:
        text += f" USING {_call(anomaly.method)}"
    options = dict(anomaly.options)
    for name, value in anomaly.options:
        match name, value:
            case "for", needed:
                text += f" FOR {_option(needed)} OF {_option(options['of'])} WINDOWS"
            case "of" | "budget_per" | "top", _:
                pass
            case "warmup_from", length:
                text += f" WARMUP FROM HISTORY {_option(length)}"
            case "budget", alerts:
                text += f" ALERT BUDGET {_option(alerts)} PER {_option(options['budget_per'])}"
            case "explain_by", by:
                text += f" EXPLAIN BY {_option(by)}" + (f" TOP {_option(options['top'])}" if "top" in options else "")
            case "limit", most:
                text += f" LIMIT {_option(most)} PER WINDOW"
            case "rearm" | "rearm_windows", quiet:
                text += f" REARM AFTER {_option(quiet)}{_unit_of(name)}"
            case _:
                text += f" {name.removesuffix('_windows').replace('_', ' ').upper()} {_option(value)}{_unit_of(name)}"
    return text


def _before_by(text: str) -> str:
    """In brackets what ends like the beginning of a clause: `order` before BY."""
    return f"({text})" if re.search(r"\b(group|order|partition|explain)$", text, re.IGNORECASE) else text


def _option(value: Expression | str | tuple[Expression, ...]) -> str:
    match value:
        case str():
            return value.upper()
        case tuple():
            return _list(_before_by(_bound(expression, 0)) for expression in value)
        case expression:
            return _before_by(_bound(expression, 0))


def _unit_of(option: str) -> str:
    return " WINDOWS" if option.endswith("_windows") else ""


def _order_by(orders: tuple[Order, ...]) -> str:
    return f"ORDER BY {_list(_order(order) for order in orders)}"


def _order(order: Order) -> str:
    direction = " DESC" if order.descending else ""
    nulls = "" if order.nulls_first is None else f" NULLS {'FIRST' if order.nulls_first else 'LAST'}"
    return f"{_bound(order.expression, 0)}{direction}{nulls}"


def _limit(limit: Limit) -> str:
    return f"LIMIT {_bound(limit.count, 0)}" + (f" PER {_expressions(limit.per)}" if limit.per else "")


def _emit(emit: Emit) -> str:
    every = f" EVERY {_bound(emit.every, 0)}" if emit.every is not None else ""
    text = f"EMIT{every}" if emit.kind == "every" else f"EMIT {emit.kind.upper()}{every}"
    if emit.early is not None:
        text += f" WITH EARLY {_bound(emit.early, 0)}"
    return text + (" WITH REVISIONS" if emit.revisions else "")


def _point(point: Point) -> str:
    value = "" if point.value is None else _bound(point.value, 0)
    match point.kind:
        case "time":
            return value
        case "offset":
            return f"OFFSET {value}"
        case kind:
            return kind.upper()


# --- expressions -----------------------------------------------------------------------------------


def _bound(expression: Expression, least: int) -> str:
    """The expression, in brackets where it binds looser than its place asks for."""
    text = _expression(expression)
    return f"({text})" if _binding(expression) < least else text


def _binding(expression: Expression) -> int:
    match expression:
        case Binary(op):
            return _BINDING.get(op, _COMPARISON)
        case Unary("not"):
            return _NOT
        case Unary():
            return _SIGN
        case Like() | Between() | InList() | InQuery() | IsNull() | IsDistinct():
            return _COMPARISON
        case Literal(int() | float() | Decimal() as number) if not isinstance(number, bool) and str(number)[0] == "-":
            return _SIGN
        case _:
            return _TIGHT


def _expression(expression: Expression) -> str:
    match expression:
        case Literal():
            return _literal(expression)
        case Duration(us):
            return _duration(us)
        case Instant(us):
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
            return f"TIMESTAMP '{moment.replace(tzinfo=None).isoformat()}Z'"
        case DateLiteral(days):
            day = datetime(1970, 1, 1) + timedelta(days=days)
            return f"DATE '{day.date().isoformat()}'"
        case Param(name):
            return f"${name}"
        case Property(steps):
            return "".join(_step(step, at == 0) for at, step in enumerate(steps))
        case Star(alias):
            return "*" if alias is None else f"{alias}.*"
        case Unary(op, operand):
            return _unary(op, operand)
        case Binary():
            return _binary(expression)
        case Regex(pattern):
            return _regex(pattern)
        case Like(operand, pattern, negated, ignore_case):
            word = _negated(negated, "ILIKE" if ignore_case else "LIKE")
            return f"{_bound(operand, _CONCATENATION)} {word} {_bound(pattern, _CONCATENATION)}"
        case Between(operand, low, high, negated):
            bounds = f"{_bound(low, _CONCATENATION)} AND {_bound(high, _CONCATENATION)}"
            return f"{_bound(operand, _CONCATENATION)} {_negated(negated, 'BETWEEN')} {bounds}"
        case InList(operand, items, negated):
            return f"{_bound(operand, _CONCATENATION)} {_negated(negated, 'IN')} ({_expressions(items)})"
        case InQuery(operand, query, negated, within):
            asked = f"({_inline(query)}){_within(within)}"
            return f"{_bound(operand, _CONCATENATION)} {_negated(negated, 'IN')} {asked}"
        case Exists(query, negated, within):
            return f"{_negated(negated, 'EXISTS')} ({_inline(query)}){_within(within)}"
        case IsNull(operand, negated):
            return f"{_bound(operand, _CONCATENATION)} {'IS NOT NULL' if negated else 'IS NULL'}"
        case IsDistinct(left, right, negated):
            word = "IS NOT DISTINCT FROM" if negated else "IS DISTINCT FROM"
            return f"{_bound(left, _CONCATENATION)} {word} {_bound(right, _CONCATENATION)}"
        case Case():
            return _case(expression)
        case Cast(operand, type_name, lenient):
            return f"{'TRY_CAST' if lenient else 'CAST'}({_bound(operand, 0)} AS {type_name.text})"
        case ListLiteral(items):
            return f"[{_expressions(items)}]"
        case Call():
            return _call(expression)
        case _:
            assert_never(expression)


def _negated(negated: bool, word: str) -> str:
    return f"NOT {word}" if negated else word


def _literal(literal: Literal) -> str:
    match literal.value:
        case None:
            return "NULL"
        case bool():
            return str(literal.value).upper()
        case str():
            return _quoted(literal.value)
        case Decimal():
            digits = f"{literal.value:f}"
            return digits if "." in digits else f"{digits}.0"
        case float():
            number = repr(literal.value)
            return number if "e" in number else number.removesuffix(".0") + "e0"
        case int():
            return str(literal.value)


def _duration(us: int) -> str:
    if us < 0:
        return f"INTERVAL '-{_duration(-us)}'"
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)):
        if us and us % size == 0:
            return f"{us // size}{unit}"
    return f"{us}us" if us else "0s"


def _step(step: Step, first: bool) -> str:
    match step:
        case Key(name, "bracket"):
            return f"[{_quoted(name)}]"
        case Key(name, "dot"):
            return f".{name}"
        case Key(name, "tick"):
            return _ticked(name) if first else f".{_ticked(name)}"
        case Key(name):
            return name
        case Index(value):
            return f"[{value}]"
        case AnyElement():
            return "[*]"
        case Prefix(text):
            quote = '"' if "'" in text else "'"
            return f"[^{quote}{text}{quote}]"
        case _:
            assert_never(step)


def _unary(op: str, operand: Expression) -> str:
    if op == "not":
        return f"NOT {_bound(operand, _TIGHT if _begins_with_concatenation(operand) else _NOT)}"
    # A number right behind a minus would become a negative number, two minuses a comment.
    if isinstance(operand, Literal | Unary):
        return f"{op}({_expression(operand)})"
    return f"{op}{_bound(operand, _SIGN)}"


def _begins_with_concatenation(expression: Expression) -> bool:
    """Whether it reads `a || b = c`: behind NOT that would be `(NOT a) OR b = c`."""
    match expression:
        case Binary(op, left, _) if op not in ("and", "or"):
            first = left
        case Like(first) | Between(first) | InList(first) | InQuery(first) | IsNull(first) | IsDistinct(first):
            pass
        case _:
            return False
    return isinstance(first, Binary) and first.op == "||"


def _binary(expression: Binary) -> str:
    binding = _binding(expression)
    if expression.op in ("and", "or"):
        terms = flatten(expression.op, expression)
        return f" {expression.op.upper()} ".join(_bound(term, binding) for term in terms)
    if binding == _COMPARISON:
        left, right = _bound(expression.left, _CONCATENATION), _bound(expression.right, _CONCATENATION)
    else:
        left, right = _bound(expression.left, binding), _bound(expression.right, binding + 1)
    return f"{left} {expression.op} {right}"


def _regex(pattern: str) -> str:
    return "/" + re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], pattern, flags=re.DOTALL) + "/"


def _case(case: Case) -> str:
    operand = "" if case.operand is None else f" {_bound(case.operand, 0)}"
    whens = "".join(f" WHEN {_bound(when, 0)} THEN {_bound(then, 0)}" for when, then in case.whens)
    otherwise = "" if case.otherwise is None else f" ELSE {_bound(case.otherwise, 0)}"
    return f"CASE{operand}{whens}{otherwise} END"


def _call(call: Call) -> str:
    arguments = [_bound(argument, 0) for argument in call.args]
    arguments += [f"{name} => {_bound(value, 0)}" for name, value in call.named]
    inside = ("DISTINCT " if call.distinct else "") + _list(arguments)
    if call.order_by:
        inside = f"{inside} {_order_by(call.order_by)}".strip()
    text = f"{call.name}({inside})"
    if call.filter is not None:
        text += f" FILTER (WHERE {_bound(call.filter, 0)})"
    return text if call.over is None else f"{text} OVER ({_over(call.over)})"


def _over(over: Over) -> str:
    parts: list[str] = []
    if over.partition_by:
        parts.append(f"PARTITION BY {_expressions(over.partition_by)}")
    if over.order_by:
        parts.append(_order_by(over.order_by))
    if over.frame is not None:
        parts.append(_frame(over.frame))
    return " ".join(parts)


def _frame(frame: Frame) -> str:
    return f"{frame.unit.upper()} BETWEEN {_frame_end(frame.start)} AND {_frame_end(frame.end)}"


def _frame_end(end: str | tuple[Expression, str]) -> str:
    return end.upper() if isinstance(end, str) else f"{_bound(end[0], 0)} {end[1].upper()}"


# --- names and lists -------------------------------------------------------------------------------


def _list(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _expressions(expressions: Iterable[Expression]) -> str:
    return _list(_bound(expression, 0) for expression in expressions)


def _name(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) and name.lower() not in _KEYWORDS else _ticked(name)


def _ticked(name: str) -> str:
    return "`" + name.replace("`", "``") + "`" if name else "''"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
