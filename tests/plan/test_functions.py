"""Every row of the table of functions, run by the engine that it is written for."""

from __future__ import annotations

import itertools
import re

import pyarrow as pa
import pytest

from mql import syntax
from mql.errors import MqlError, Span
from mql.exec.kernel import Kernel, Session
from mql.functions import CALLABLE, FUNCTIONS, OVERLOADS, Function
from mql.parser import parse
from mql.planner.binding import Scope, apply, bind_expression
from mql.planner.expressions import Bound, Column, Constant, walk
from mql.planner.sql import expression_sql, type_sql
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DECIMAL,
    DOUBLE,
    INTERVAL,
    JSON,
    TIMESTAMP,
    VARCHAR,
    DataType,
    Field,
    ListOf,
    Shape,
)

NOWHERE = Scope()


@pytest.fixture(scope="module")
def session() -> Session:
    return Kernel().session()


def value(session: Session, sql: str) -> object:
    return session.run(f"SELECT {sql} AS x", {}).column(0)[0].as_py()


@pytest.mark.parametrize("row", [row for row in FUNCTIONS if row.example], ids=lambda row: f"{row.name}-{row.takes}")
def test_the_example_of_a_function_holds(session: Session, row: Function) -> None:
    bound = bind_expression(parse(f"select {row.example} from s").select[0].expression, NOWHERE)
    assert bound.type == BOOLEAN
    assert value(session, expression_sql(bound)) is True


@pytest.mark.parametrize("name", sorted(CALLABLE))
def test_the_example_of_a_function_calls_it(name: str) -> None:
    for row in OVERLOADS[name]:
        assert re.search(rf"\b{name}\(", row.example), row
        assert row.doc.endswith("."), row


def test_a_template_that_may_fail_is_one_call_or_one_pair_of_parentheses() -> None:
    for row in FUNCTIONS:
        if row.raises and row.sql.startswith("("):
            depths = list(itertools.accumulate((char == "(") - (char == ")") for char in row.sql))
            assert 0 not in depths[:-1], row


def test_no_template_computes_an_argument_twice() -> None:
    for row in FUNCTIONS:
        for at, kind in enumerate(row.kinds):
            if not kind.endswith("!"):
                assert row.sql.count(f"{{{at}}}") <= 1, row


@pytest.mark.parametrize(
    "name",
    [
        *("repeat", "lpad", "rpad", "range", "generate_series", "sleep_ms", "list_resize", "printf", "format"),
        *("getenv", "query", "current_setting", "nextval", "json_execute_serialized_sql", "write_log"),
        *("random", "now", "uuid", "today", "current_date", "current_timestamp", "gen_random_uuid", "hash"),
    ],
)
def test_what_costs_without_bound_or_reads_a_clock_is_not_there(name: str) -> None:
    assert name not in OVERLOADS


# --- any input -----------------------------------------------------------------------------------------------

BIG = 2**63 - 1
VALUES: dict[DataType, list[object]] = {
    BOOLEAN: [True, False, None],
    BIGINT: [BIG, -BIG - 1, 0, 1, -1, 2**31, -(2**31), 10**6, None],
    DOUBLE: [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.5, -1.5, 5e-324, 1.7e308, -1.7e308, 1e19, None],
    DECIMAL: ["0", "9999999999999999999999999999.9999999999", "-9999999999999999999999999999.9999999999", "1.5", None],
    VARCHAR: ["", "a", "ñ", "\0", "a\0b", "😀", "%", "_", "\\", "'", '"', "x" * 100_000, "[1, 2]", '{"a": 1}', "null",
              "%zz", "%ff", "2026-01-31T12:00:00Z", "10.0.0.1", "999.1.1.1/99", "::ffff:1.2.3.4", "http://a:99999999999/?a=%",
              "9" * 400, "NaN", "infinity", "\n", "YQ=", "//8=", None],
    TIMESTAMP: [0, BIG, -BIG, 1767225600000000, -1, 2**62, -(2**62), BIG - 1, None],
    DATE: [0, 2**31 - 1, -(2**31), 2**31 - 2, 20000, -1, None],
    INTERVAL: [0, BIG, -BIG - 1, 1, -1, 86400 * 10**6, None],
    JSON: ["null", "1", "1.5", '"a"', "[]", "{}", '[1, "a", null]', '{"a": {"b": [1]}}', "1e999",
           "99999999999999999999", "true", None],
    ListOf(BIGINT): [[], [1, 2, None], [BIG, BIG], [-BIG - 1, -1], None],
    ListOf(DOUBLE): [[], [float("nan"), 1.0], [1e308, 1e308], None],
    ListOf(VARCHAR): [[], ["a", None, ""], ["\0"], None],
}  # fmt: skip


def extremes(session: Session, types: tuple[DataType, ...]) -> pa.Table:
    """Every combination of extreme values of these types."""
    combined = list(itertools.product(*[VALUES[type] for type in types]))[:3000]
    inputs = {}
    columns = []
    for at, type in enumerate(types):
        stored = pa.array([row[at] for row in combined], ARROW.get(type))
        inputs[f"c{at}"] = stored
        raw = f'"r{at}"'
        match str(type):
            case "TIMESTAMP":
                sql = f"try(make_timestamp({raw}))"
            case "DATE":
                sql = f"try(DATE '1970-01-01' + {raw}::INTEGER)"
            case "INTERVAL":
                sql = f"to_microseconds({raw})"
            case "VARCHAR" | "BIGINT" | "DOUBLE" | "BOOLEAN":
                sql = raw
            case _:
                sql = f"CAST({raw} AS {type_sql(type)})"
        columns.append(f'{sql} AS "c{at}"')
    raw_table = pa.table({f"r{at}": inputs[f"c{at}"] for at in range(len(types))})
    return session.run(f"SELECT {', '.join(columns)} FROM raw", {"raw": raw_table})


ARROW = {
    BOOLEAN: pa.bool_(),
    BIGINT: pa.int64(),
    DOUBLE: pa.float64(),
    DECIMAL: pa.string(),
    VARCHAR: pa.string(),
    TIMESTAMP: pa.int64(),
    DATE: pa.int64(),
    INTERVAL: pa.int64(),
    JSON: pa.string(),
    ListOf(BIGINT): pa.list_(pa.int64()),
    ListOf(DOUBLE): pa.list_(pa.float64()),
    ListOf(VARCHAR): pa.list_(pa.string()),
}
CONSTANTS = {
    "regex": [Constant("a(.)?|^$", VARCHAR)],
    "group": [Constant(1, BIGINT)],
    "part": [Constant("hour", VARCHAR), Constant("year", VARCHAR), Constant("epoch", VARCHAR)],
    "zone": [Constant("America/New_York", VARCHAR)],
    "format": [Constant("%Y-%m-%dT%H:%M:%S.%f %j %U", VARCHAR)],
    "jsonpath": [Constant("$.a.b[0]", VARCHAR), Constant("/0", VARCHAR)],
    "text!": [Constant("a", VARCHAR), Constant("", VARCHAR), Constant("\\1\\0\\\\", VARCHAR)],
    "span": [Constant(1, INTERVAL), Constant(BIG, INTERVAL), Constant(86400 * 10**6, INTERVAL)],
    "integer!": [Constant(0, BIGINT), Constant(-5, BIGINT), Constant(BIG - 1, BIGINT)],
}
TYPES_OF = {
    "any": [BIGINT, VARCHAR, JSON, TIMESTAMP, ListOf(VARCHAR)],
    "alike": [BIGINT, DOUBLE, VARCHAR, TIMESTAMP, INTERVAL],
    "same": [BIGINT, DOUBLE, VARCHAR, TIMESTAMP],
    "boolean": [BOOLEAN],
    "integer": [BIGINT],
    "text": [VARCHAR],
    "timestamp": [TIMESTAMP, DATE],
    "date": [DATE],
    "interval": [INTERVAL],
    "json": [JSON, VARCHAR],
    "decimal": [DECIMAL, BIGINT],
    "number": [DOUBLE, BIGINT, DECIMAL, JSON],
    "list": [ListOf(BIGINT), ListOf(VARCHAR)],
    "lists": [ListOf(BIGINT), ListOf(DOUBLE), ListOf(VARCHAR)],
    "item": [BIGINT, DOUBLE, VARCHAR],
    "integer[]": [ListOf(BIGINT)],
    "number[]": [ListOf(DOUBLE)],
    "text[]": [ListOf(VARCHAR)],
    "json[]": [],
}


def calls(row: Function) -> list[Bound]:
    """Calls of a row over columns c0, c1 … of all the types that it takes."""
    kinds = [*row.kinds, row.kinds[-1]] if row.takes.endswith("...") else list(row.kinds)
    found = []
    alike = kinds.count("alike") + kinds.count("same") > 1
    choices = [
        CONSTANTS[kind] if kind in CONSTANTS else [Column((f"c{at}",), type) for type in TYPES_OF[kind]]
        for at, kind in enumerate(kinds)
    ]
    for args in itertools.product(*choices):
        types = {str(arg.type) for kind, arg in zip(kinds, args, strict=True) if kind in ("alike", "same")}
        if alike and len(types) > 1 and types != {"BIGINT", "DOUBLE"}:
            continue
        found.append(args)
    return [bound for args in found[:24] if (bound := bind_call(row, args)) is not None]


def bind_call(row: Function, args: tuple[Bound, ...]) -> Bound | None:
    try:
        return apply(row.name, args, Span(0, 0))
    except MqlError:
        return None


@pytest.mark.parametrize("row", [row for row in FUNCTIONS if row.takes], ids=lambda row: f"{row.name}-{row.takes}")
def test_no_input_makes_a_function_fail_and_its_type_is_as_declared(session: Session, row: Function) -> None:
    if row.name in ("field", "each_field", "each_json", "json_items", "row"):
        return
    bounds = calls(row)
    assert bounds, row
    for bound in bounds:
        columns = sorted({part.path[0]: part for part in walk_columns(bound)}.items())
        sql = expression_sql(bound, lambda path: f'"{path[0]}"')
        if not columns:
            continue
        ordered = tuple(column.type for _, column in columns)
        table = extremes(session, ordered).rename_columns([name for name, _ in columns])
        result = session.run(f"SELECT count({sql}) FROM t", {"t": table})
        assert result.num_rows == 1
        declared = session.run(f"SELECT DISTINCT typeof({sql}) FROM t", {"t": table}).column(0).to_pylist()
        assert declared == [type_sql(bound.type)], (bound, sql)


def walk_columns(bound: Bound) -> list[Column]:
    return [part for part in walk(bound) if isinstance(part, Column)]


CASTS = [BOOLEAN, BIGINT, DOUBLE, DECIMAL, VARCHAR, TIMESTAMP, DATE, INTERVAL, JSON, ListOf(BIGINT), ListOf(VARCHAR)]


@pytest.mark.parametrize("source", list(VALUES), ids=str)
def test_no_value_makes_a_cast_fail(session: Session, source: DataType) -> None:
    table = extremes(session, (source,))
    for target in CASTS:
        name = syntax.TypeName(str(target))
        try:
            bound = bind_expression(syntax.Cast(syntax.Property((syntax.Key("c0"),)), name), shaped(source))
        except MqlError:
            continue
        sql = expression_sql(bound, lambda path: f'"{path[0]}"')
        types = session.run(f"SELECT typeof({sql}), count({sql}) FROM t GROUP BY ALL", {"t": table}).column(0)
        assert types.to_pylist() == [type_sql(target)] or source == target == JSON


def shaped(type: DataType) -> Scope:
    return Scope(Shape((Field("c0", type),)))
