"""Every scalar function and operator that a query may use: the allow-list, read top to bottom.

A row says what a call takes, what it gives and which SQL computes it. Nothing outside these rows is reachable. What
could cost more than its input is long (repeat, lpad, range, printf), what reads a clock, chance or the outside (now,
random, getenv) is left out on purpose: a replay must give the same rows.

Kinds of argument (`takes`, in order; `...` after the last: one or more of it):
    any                      anything
    boolean integer text timestamp date interval json      a value of that type
    decimal                  BIGINT or DECIMAL
    number                   BIGINT, DECIMAL or DOUBLE
    same                     anything; all of them are brought to one type
    list, integer[] number[] text[]     a list
    kind!                    a constant of that kind
    regex part zone format jsonpath     a constant text of that form
Kinds of result (`gives`): a type's name as above (double, text[] …); `same`: the common type; `first`: the type of the
first argument; `item`: the type of its elements; `same[]`, `item[]` likewise.

In `sql` `{0}` stands for the first argument and `{all}` for all of them, with commas between. No template names an
argument twice (it would be computed twice, and nested calls would double each time): a lambda names it instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mql.errors import MqlError, Span
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DECIMAL,
    DOUBLE,
    INTERVAL,
    JSON,
    NULL,
    TIMESTAMP,
    VARCHAR,
    DataType,
    ListOf,
    Scalar,
    StructOf,
)

REGEX_BYTES_MAX = 1024


@dataclass(frozen=True, slots=True)
class Function:
    """One way to call a function or operator. Several rows of one name are its overloads, tried in this order.

    `example` is a condition in MQL that holds. `raises`: DuckDB may fail on some input, so the SQL is wrapped in TRY
    and gives null there. `strict`: null where any argument is null. `operator`: not callable by name.
    """

    name: str
    takes: str
    gives: str
    sql: str
    doc: str
    example: str
    raises: bool = False
    strict: bool = True
    operator: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.takes.replace("...", "").split())

    @property
    def arity_min(self) -> int:
        return len(self.kinds)

    @property
    def arity_max(self) -> int | None:
        """None where the last argument may come any number of times."""
        return None if self.takes.endswith("...") else len(self.kinds)

    def kind_of(self, position: int) -> str:
        """The kind of the argument at a position, counted from 0."""
        return self.kinds[min(position, len(self.kinds) - 1)]

    def takes_count(self, count: int) -> bool:
        return self.arity_min <= count and (self.arity_max is None or count <= self.arity_max)


DATE_PARTS = frozenset(
    [
        "microsecond",
        "millisecond",
        "second",
        "minute",
        "hour",
        "day",
        "week",
        "month",
        "quarter",
        "year",
        "decade",
        "century",
        "dow",
        "isodow",
        "doy",
        "isoyear",
        "epoch",
    ]
)
TYPES: Mapping[str, DataType] = MappingProxyType(
    {
        "boolean": BOOLEAN,
        "integer": BIGINT,
        "double": DOUBLE,
        "decimal": DECIMAL,
        "text": VARCHAR,
        "timestamp": TIMESTAMP,
        "date": DATE,
        "interval": INTERVAL,
        "json": JSON,
    }
)


def _operator(
    name: str, takes: str, gives: str, sql: str, doc: str, example: str, *, raises: bool = False, strict: bool = True
) -> Function:
    return Function(name, takes, gives, sql, doc, example, raises, strict, operator=True)


def _fails(name: str, takes: str, gives: str, sql: str, doc: str, example: str) -> Function:
    """A function that DuckDB may fail in: null there."""
    return Function(name, takes, gives, sql, doc, example, raises=True)


def _with_nulls(name: str, takes: str, gives: str, sql: str, doc: str, example: str) -> Function:
    """A function that may give a value although an argument is null."""
    return Function(name, takes, gives, sql, doc, example, strict=False)


def _once(argument: str, body: str) -> str:
    """SQL that computes an argument once and names it `v` in its body."""
    return f"list_transform([{argument}], lambda v: {body})[1]"


# A table reads best with a row a line.
# fmt: off

# --- operators ---------------------------------------------------------------------------------------

OPERATORS = (
    _operator("+", "integer integer", "integer", "({0} + {1})", "Sum; null on overflow.", "1 + 2 = 3", raises=True),
    _operator("+", "decimal decimal", "decimal", "CAST(({0} + {1}) AS DECIMAL(38,10))", "Sum.",
              "1::DECIMAL + 2 = 3", raises=True),
    _operator("+", "number number", "double", "({0} + {1})", "Sum.", "1 + 0.5 = 1.5"),
    _operator("+", "timestamp interval", "timestamp", "({0} + {1})", "Later by an interval.",
              "TIMESTAMP '2026-01-01T00:00:00Z' + 1h = TIMESTAMP '2026-01-01T01:00:00Z'", raises=True),
    _operator("+", "interval timestamp", "timestamp", "({0} + {1})", "Later by an interval.",
              "1h + TIMESTAMP '2026-01-01T00:00:00Z' = TIMESTAMP '2026-01-01T01:00:00Z'", raises=True),
    _operator("+", "date interval", "timestamp", "CAST({0} + {1} AS TIMESTAMP)", "Later by an interval.",
              "DATE '2026-01-01' + 1h = TIMESTAMP '2026-01-01T01:00:00Z'", raises=True),
    _operator("+", "date integer", "date", "({0} + CAST({1} AS INTEGER))", "Later by days.",
              "DATE '2026-01-01' + 1 = DATE '2026-01-02'", raises=True),
    _operator("+", "interval interval", "interval", "({0} + {1})", "Sum.", "1h + 30m = 90m", raises=True),
    _operator("-", "integer integer", "integer", "({0} - {1})", "Difference; null on overflow.", "3 - 2 = 1",
              raises=True),
    _operator("-", "decimal decimal", "decimal", "CAST(({0} - {1}) AS DECIMAL(38,10))", "Difference.",
              "3::DECIMAL - 2 = 1", raises=True),
    _operator("-", "number number", "double", "({0} - {1})", "Difference.", "1.5 - 1 = 0.5"),
    _operator("-", "timestamp timestamp", "interval", "({0} - {1})", "The time between.",
              "TIMESTAMP '2026-01-01T01:00:00Z' - TIMESTAMP '2026-01-01T00:00:00Z' = 1h", raises=True),
    _operator("-", "timestamp interval", "timestamp", "({0} - {1})", "Earlier by an interval.",
              "TIMESTAMP '2026-01-01T01:00:00Z' - 1h = TIMESTAMP '2026-01-01T00:00:00Z'", raises=True),
    _operator("-", "date date", "integer", "({0} - {1})", "Days between.",
              "DATE '2026-01-03' - DATE '2026-01-01' = 2", raises=True),
    _operator("-", "date interval", "timestamp", "CAST({0} - {1} AS TIMESTAMP)", "Earlier by an interval.",
              "DATE '2026-01-01' - 1h = TIMESTAMP '2025-12-31T23:00:00Z'", raises=True),
    _operator("-", "date integer", "date", "({0} - CAST({1} AS INTEGER))", "Earlier by days.",
              "DATE '2026-01-02' - 1 = DATE '2026-01-01'", raises=True),
    _operator("-", "interval interval", "interval", "({0} - {1})", "Difference.", "1h - 30m = 30m", raises=True),
    _operator("*", "integer integer", "integer", "({0} * {1})", "Product; null on overflow.", "2 * 3 = 6",
              raises=True),
    _operator("*", "decimal decimal", "decimal", "CAST(({0} * {1}) AS DECIMAL(38,10))", "Product.",
              "2::DECIMAL * 3 = 6", raises=True),
    _operator("*", "number number", "double", "({0} * {1})", "Product.", "3 * 1.5 = 4.5"),
    _operator("*", "interval integer", "interval", "({0} * {1})", "An interval so many times.", "30m * 2 = 1h",
              raises=True),
    _operator("*", "integer interval", "interval", "({0} * {1})", "An interval so many times.", "2 * 30m = 1h",
              raises=True),
    _operator("/", "number number", "double", "(CAST({0} AS DOUBLE) / nullif(CAST({1} AS DOUBLE), 0))",
              "Quotient as DOUBLE; by zero null.", "7 / 2 = 3.5", strict=False),
    _operator("/", "interval number", "interval", "({0} / nullif(CAST({1} AS DOUBLE), 0))", "A part of an interval.",
              "1h / 2 = 30m", raises=True),
    _operator("//", "integer integer", "integer", "({0} // nullif({1}, 0))",
              "Quotient, cut to an integer; by zero null.", "7 // 2 = 3", raises=True),
    _operator("//", "number number", "integer",
              "TRY_CAST(trunc(CAST({0} AS DOUBLE) / nullif(CAST({1} AS DOUBLE), 0)) AS BIGINT)",
              "Quotient, cut to an integer; by zero null.", "7.5 // 2 = 3"),
    _operator("%", "integer integer", "integer", "({0} % nullif({1}, 0))", "Rest of the division; by zero null.",
              "7 % 2 = 1", raises=True),
    _operator("%", "number number", "double", "(CAST({0} AS DOUBLE) % nullif(CAST({1} AS DOUBLE), 0))",
              "Rest of the division; by zero null.", "7.5 % 2 = 1.5", raises=True),
    _operator("negate", "integer", "integer", "(0 - {0})", "`-x`; null on overflow.", "-(1 + 1) = -2", raises=True),
    _operator("negate", "decimal", "decimal", "CAST(-({0}) AS DECIMAL(38,10))", "`-x`.", "-(1::DECIMAL) = -1",
              raises=True),
    _operator("negate", "number", "double", "(-({0}))", "`-x`.", "-(1.5 + 1) = -2.5"),
    _operator("negate", "interval", "interval", "(-({0}))", "`-x`.", "-(1h) < 1h", raises=True),
    _operator("||", "text...", "text", "", "The texts one after the other; null if any is.",
              "'a' || 'b' = 'ab'"),
    _operator("||", "list list", "first", "list_concat({0}, {1})", "The lists one after the other.",
              "len([1] || [2]) = 2", strict=False),
    _operator("=", "alike alike", "boolean", "({0} = {1})", "Equal; null if either is.", "1 = 1"),
    _operator("<>", "alike alike", "boolean", "({0} <> {1})", "Unequal; null if either is.", "1 <> 2"),
    _operator("<", "alike alike", "boolean", "({0} < {1})", "Smaller.", "1 < 2"),
    _operator("<=", "alike alike", "boolean", "({0} <= {1})", "Smaller or equal.", "1 <= 1"),
    _operator(">", "alike alike", "boolean", "({0} > {1})", "Greater; NaN is greater than all other numbers.", "2 > 1"),
    _operator(">=", "alike alike", "boolean", "({0} >= {1})", "Greater or equal.", "1 >= 1"),
    _operator("==", "alike alike", "boolean", "({0} IS NOT DISTINCT FROM {1})", "Equal; null equals only null.",
              "1 == 1.0", strict=False),
    _operator("!=", "alike alike", "boolean", "({0} IS DISTINCT FROM {1})", "Unequal; null equals only null.",
              "1 != null", strict=False),
    _operator("in", "alike alike...", "boolean", "", "Equal to any of them.", "2 IN (1, 2)", strict=False),
    _operator("between", "alike alike alike", "boolean", "({0} BETWEEN {1} AND {2})", "Within both bounds.",
              "abs(-2) BETWEEN 1 AND 3", strict=False),
    _operator("and", "boolean...", "boolean", "", "All of them.", "true AND true", strict=False),
    _operator("or", "boolean...", "boolean", "", "Any of them.", "false OR true", strict=False),
    _operator("not", "boolean", "boolean", "(NOT {0})", "The opposite; null of null.", "NOT false"),
    _operator("is_null", "any", "boolean", "({0} IS NULL)", "Whether there is no value.", "null IS NULL", strict=False),
    _operator("is_not_null", "any", "boolean", "({0} IS NOT NULL)", "Whether there is a value.", "1 IS NOT NULL",
              strict=False),
    _operator("like", "text text", "boolean", "({0} LIKE {1})", "`%` any text, `_` one character.", "'abc' LIKE 'a%'"),
    _operator("ilike", "text text", "boolean", "({0} ILIKE {1})", "LIKE in any letter case.", "'ABC' ILIKE 'a%'"),
    _operator("regex_full", "text regex", "boolean", "regexp_full_match({0}, {1}, 's')",
              "The whole text matches a regular expression.", "'abc' ==~ /a.c/"),
    _operator("regex_part", "text regex", "boolean", "regexp_matches({0}, {1}, 's')",
              "A part of the text matches a regular expression.", "'abc' =~ /b/"),
    _operator("contains_text", "text text", "boolean", "contains({0}, {1})", "The text contains another.",
              "'abc' ==+ 'bc'"),
    _operator("element", "list integer!", "item", "", "`list[0]`: counted from 0, negative from the end.",
              "[1, 2][0] = 1"),
    _operator("field", "any text!", "any", "", "A field of a struct.", ""),
    _operator("each_field", "list text!", "any", "", "The same field of every struct of a list.", ""),
    _operator("each_json", "json[] text!", "json[]",
              "list_transform({0}, lambda v: nullif(json_extract(v, {1}), 'null'))",
              "The same path in every element of a JSON list.", ""),
    _operator("json_get", "json text!", "json", "nullif(json_extract({0}, {1}), 'null')",
              "What lies at a path in JSON; null where nothing does.",
              "('{\"a\": {\"b\": 5}}'::JSON)['a']['b']::BIGINT = 5",
              strict=False),
    _operator("json_items", "json", "json[]", "CAST(json_extract({0}, '$[*]') AS JSON[])",
              "The elements of a JSON list.", ""),
    _operator("list", "same...", "same[]", "[{all}]", "`[a, b]`.", "len([1, 2]) = 2", strict=False),
    _operator("list", "", "json[]", "CAST([] AS JSON[])", "`[]`.", "len([]) = 0"),
)

# --- functions ---------------------------------------------------------------------------------------

SCALARS = (
    Function("upper", "text", "text", "upper({0})", "Upper case.", "upper('ab') = 'AB'"),
    Function("epoch_ms", "timestamp", "integer", "epoch_ms({0})", "Milliseconds since 1970.",
             "epoch_ms(TIMESTAMP '1970-01-01T00:00:01Z') = 1000"),
    Function("lower", "text", "text", "lower({0})", "Lower case.", "lower('AB') = 'ab'"),
)

# fmt: on

FUNCTIONS = OPERATORS + SCALARS


def _by_name(rows: tuple[Function, ...]) -> Mapping[str, tuple[Function, ...]]:
    found: dict[str, tuple[Function, ...]] = {}
    for row in rows:
        found[row.name] = (*found.get(row.name, ()), row)
    return MappingProxyType(found)


OVERLOADS = _by_name(FUNCTIONS)
CALLABLE = frozenset(row.name for row in SCALARS)
"""The names that a call may use."""

# --- which row, and of what type -----------------------------------------------------------------------


def cost(kind: str, type: DataType) -> int | None:
    """How far a type is from a kind of argument: 0 it fits as it is, more it fits once converted, None never."""
    base = kind.rstrip("!")
    if type == NULL or base in ("any", "alike", "same"):
        return 0
    if base == "list":
        return 0 if isinstance(type, ListOf) else None
    if base.endswith("[]"):
        return cost(base[:-2], type.item) if isinstance(type, ListOf) else None
    if base == "number":
        return 0 if is_number(type) else 1 if type == JSON else None
    if base == "decimal":
        return 0 if type == BIGINT or is_decimal(type) else 3 if type == JSON else None
    wanted = TYPES.get(base, VARCHAR)
    if type == wanted:
        return 0
    if type == JSON:
        return 2 if wanted == BIGINT else 1
    if wanted == TIMESTAMP and type == DATE:
        return 1
    if wanted == JSON and base != kind:
        return None
    return 1 if wanted == JSON and (type == VARCHAR or isinstance(type, ListOf | StructOf)) else None


def is_decimal(type: DataType) -> bool:
    return isinstance(type, Scalar) and type.name.startswith("DECIMAL")


def is_number(type: DataType) -> bool:
    return type in (BIGINT, DOUBLE) or is_decimal(type)


def common_type(types: Iterable[DataType]) -> DataType | None:
    """The type that values of all these types can be brought to without loss of meaning, None where there is none."""
    found: DataType = NULL
    for type in types:
        joined = _joined(found, type)
        if joined is None:
            return None
        found = joined
    return found


def _joined(one: DataType, other: DataType) -> DataType | None:
    if one in (other, NULL) or other == NULL:
        return other if one == NULL else one
    if is_number(one) and is_number(other):
        return DOUBLE if DOUBLE in (one, other) else DECIMAL
    if {one, other} == {TIMESTAMP, DATE}:
        return TIMESTAMP
    if JSON in (one, other):
        return JSON
    if isinstance(one, ListOf) and isinstance(other, ListOf):
        item = _joined(one.item, other.item)
        return None if item is None else ListOf(item)
    return None


def result_type(row: Function, types: tuple[DataType, ...]) -> DataType:
    """The type of a call of this row with arguments of these types."""
    gives = row.gives
    if gives.endswith("[]"):
        return ListOf(_result(gives[:-2], row, types))
    return _result(gives, row, types)


def _result(gives: str, row: Function, types: tuple[DataType, ...]) -> DataType:
    match gives:
        case "first":
            return types[0]
        case "item":
            return types[0].item if isinstance(types[0], ListOf) else NULL
        case "same":
            return common_type(type for at, type in enumerate(types) if row.kind_of(at) == "same") or JSON
        case _:
            return TYPES[gives]


def choose(name: str, types: tuple[DataType, ...]) -> Function | None:
    """The overload that arguments of these types fit best, the first of equals; None where none fits."""
    best: tuple[int, Function] | None = None
    for row in OVERLOADS.get(name, ()):
        if not row.takes_count(len(types)):
            continue
        costs = [cost(row.kind_of(at), type) for at, type in enumerate(types)]
        if None in costs:
            continue
        total = sum(cost for cost in costs if cost is not None)
        if best is None or total < best[0]:
            best = (total, row)
    return best[1] if best else None


# --- regular expressions -----------------------------------------------------------------------------------


def check_regex(pattern: str, span: Span | None = None) -> None:
    """Refuses what RE2 does not have, in words that help. What else is wrong with a pattern DuckDB tells."""
    if len(pattern.encode("utf-8", "replace")) > REGEX_BYTES_MAX:
        raise MqlError("the regular expression is too long", span, f"At most {REGEX_BYTES_MAX} bytes are allowed.")
    if "\0" in pattern:
        raise MqlError("a regular expression may not hold NUL", span)
    bare = re.sub(r"\\[^1-9kgGZ]", "", pattern)
    outside = re.sub(r"\[\^?\]?[^\]]*\]", "", bare)
    if re.search(r"\(\?(=|!|<=|<!|>)", outside):
        hint = "Regular expressions are RE2; use a second condition, joined by AND or AND NOT."
        raise MqlError("look-around is not supported in regular expressions", span, hint, code="invalid-regex")
    if re.search(r"\\[1-9kg]", outside):
        hint = "Regular expressions are RE2; extract the part and compare it instead."
        raise MqlError("back references are not supported in regular expressions", span, hint, code="invalid-regex")
