"""Names, types and parameters of expressions: what a text means against a shape."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from mql import syntax
from mql.errors import MqlError
from mql.exec.kernel import Kernel, Session
from mql.parser import parse
from mql.planner.binding import (
    Scope,
    bind_condition,
    bind_constant,
    bind_expression,
    constant_duration,
    constant_int,
    duration_us,
)
from mql.planner.expressions import Apply, Bound, Column, Constant, Output, normalise
from mql.planner.sql import expression_sql
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    JSON,
    TIMESTAMP,
    VARCHAR,
    Field,
    ListOf,
    Shape,
    StructOf,
)

SHAPE = Shape(
    (
        Field("status", BIGINT),
        Field("latency", DOUBLE),
        Field("node", VARCHAR),
        Field("ok", BOOLEAN),
        Field("at", TIMESTAMP),
        Field("day", DATE),
        Field("device", StructOf((("id", VARCHAR), ("os", StructOf((("name", VARCHAR),)))))),
        Field("device.model", VARCHAR),
        Field("a b", BIGINT),
        Field("tags", ListOf(VARCHAR)),
        Field("metrics", ListOf(StructOf((("latency", BIGINT), ("name", VARCHAR))))),
        Field("payload", JSON),
        Field("d", StructOf((("id", VARCHAR),))),
    )
)
SCOPE = Scope(
    SHAPE,
    "requests",
    params={"n": 5, "names": ["a", "b"], "since": datetime(2026, 1, 1, tzinfo=UTC), "gap": timedelta(seconds=10)},
    aliases=frozenset({"r"}),
)


@pytest.fixture(scope="module")
def session() -> Session:
    return Kernel().session()


def expression(text: str) -> syntax.Expression:
    return parse(f"select {text} from requests").select[0].expression


def bound(text: str, scope: Scope = SCOPE) -> Bound:
    return bind_expression(expression(text), scope)


def sql(text: str, scope: Scope = SCOPE) -> str:
    return expression_sql(bound(text, scope))


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("status", '"/status"'),
        ("e['status']", '"/status"'),
        ("e.status", '"/status"'),
        ("r.status", '"/status"'),
        ("r['status']", '"/status"'),
        ("`a b` + 1", 'TRY("/a b" + 1)'),
        ("e['a b']", '"/a b"'),
        ("device.id", '"/device/id"'),
        ("device.os.name", '"/device/os/name"'),
        ("e['device']['id']", '"/device/id"'),
        ("r.device.id", '"/device/id"'),
        ("device.model", '"/device.model"'),
        ("e['device.model']", '"/device.model"'),
        ("tags[0]", 'list_extract("/tags", 1)'),
        ("tags[-1]", 'list_extract("/tags", -1)'),
        ("metrics[0].latency", "struct_extract(list_extract(\"/metrics\", 1), 'latency')"),
        ("metrics[*].latency", "list_transform(\"/metrics\", lambda v: struct_extract(v, 'latency'))"),
        ("payload.a.b", "nullif(json_extract(\"/payload\", '/a/b'), 'null')"),
        ("payload['x/y']", "nullif(json_extract(\"/payload\", '/x~1y'), 'null')"),
        ("status >= 500", '("/status" >= 500)'),
        ("status = 500.0", '("/status" = 500.0e0)'),
        ("status == null", '("/status" IS NULL)'),
        ("status != null", '("/status" IS NOT NULL)'),
        ("status == 5", '("/status" IS NOT DISTINCT FROM 5)'),
        ("node == 5", "false"),
        ("node != 5", "true"),
        ("payload.n = 5", "(TRY_CAST(nullif(json_extract(\"/payload\", '/n'), 'null') AS DOUBLE) = 5)"),
        ("payload = 'x'", "(json_extract_string(\"/payload\", '$') = 'x')"),
        ("at > '2026-01-01'", '("/at" > make_timestamp(1767225600000000::BIGINT))'),
        ("status between 400 and 499", '(("/status" >= 400) AND ("/status" <= 499))'),
        ("status not in (1, 2)", '(NOT ("/status" IN (1, 2)))'),
        ("node in $names", "(\"/node\" IN ('a', 'b'))"),
        ("node in tags", 'coalesce(len(list_filter("/tags", lambda e1: ("/node" = e1))) > 0, false)'),
        ("node like 'a%'", "(\"/node\" LIKE 'a%')"),
        ("node ==~ /a.*/", "regexp_full_match(\"/node\", 'a.*', 's')"),
        ("node =~ /a/", "regexp_matches(\"/node\", 'a', 's')"),
        ("node ==+ 'a'", "contains(\"/node\", 'a')"),
        ("tags[*] = 'a'", "coalesce(len(list_filter(\"/tags\", lambda e1: (e1 = 'a'))) > 0, false)"),
        ("not ok", '(NOT "/ok")'),
        ("ok and true and status = 1", '("/ok" AND ("/status" = 1))'),
        ("node || '-' || status", '("/node" || \'-\' || TRY_CAST("/status" AS VARCHAR))'),
        ("status / 2", '("/status" / 2)'),
        ("status // 2", 'TRY("/status" // 2)'),
        ("-status", 'TRY(0 - "/status")'),
        ("-9223372036854775808", "CAST(-9223372036854775808 AS BIGINT)"),
        ("9223372036854775808", "9.223372036854776e+18"),
        ("status::varchar", 'TRY_CAST("/status" AS VARCHAR)'),
        ("case when ok then 1 else 2.5 end", 'CASE WHEN "/ok" THEN 1.0e0 ELSE 2.5e0 END'),
        ("case status when 1 then 'a' end", "CASE WHEN (\"/status\" = 1) THEN 'a' ELSE CAST(NULL AS VARCHAR) END"),
        ("coalesce(status, latency)", 'coalesce(TRY_CAST("/status" AS DOUBLE), "/latency")'),
        ("tick()", 'TRY(epoch_ms(make_timestamp("__a")))'),
        ("source()", "'requests'"),
        ("at + 1h", 'TRY("/at" + to_microseconds(3600000000::BIGINT))'),
        ("at - at", 'TRY("/at" - "/at")'),
        ("day = '2026-01-01'", "(\"/day\" = (DATE '1970-01-01' + 20454::INTEGER))"),
        ("e", '"*"'),
        ("[1, 2.5]", "CAST([1.0e0, 2.5e0] AS DOUBLE[])"),
        ("upper(null)", "CAST(NULL AS VARCHAR)"),
    ],
)
def test_a_text_has_this_sql(text: str, spelled: str) -> None:
    assert sql(text) == spelled


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("staus", 'no property "staus" in source "requests"', 'Did you mean "status"?'),
        ("STATUS", 'no property "STATUS" in source "requests"', 'Did you mean "status"?'),
        ("e['staus']", 'no property "staus" in source "requests"', 'Did you mean "status"?'),
        ("device.idd", 'no property "device.idd" in source "requests"', 'Did you mean "device.id"?'),
        ("r.staus", 'no property "staus" in source "requests"', 'Did you mean "status"?'),
        ("tags.x", '"tags" is a list: it has no "x"', "Write [0].x for its first element, [*].x for any."),
        ("status.x", '"status" is BIGINT: it has no "x"', None),
        ("status[0]", '"status" is BIGINT, no list', None),
        ("node = 500", "VARCHAR and BIGINT can not be compared", "\"node\" is VARCHAR; write '500' or node::BIGINT."),
        ("status = 'a'", "BIGINT and VARCHAR can not be compared", None),
        ("node < 5", "VARCHAR and BIGINT can not be compared", None),
        (
            "status and ok",
            "a condition must stand here, this is BIGINT",
            "Compare it with something, as in status != 0.",
        ),
        ("node + 1", '"+" does not take VARCHAR and BIGINT', '"node" is VARCHAR; write node::BIGINT or node::DOUBLE.'),
        ("upper(status)", '"upper" takes text here, this is BIGINT', "Write status::VARCHAR."),
        ("upper(node, node)", '"upper" does not take 2 arguments', "Write upper(text)."),
        ("uper(node)", 'no function "uper"', 'Did you mean "upper"?'),
        ("getenv('HOME')", 'no function "getenv"', None),
        ("is_null(node)", 'no function "is_null"', None),
        ("$m", 'no value for parameter "m"', None),
        ("node ==~ /(?=a)b/", "regular expressions here have no look-around", None),
        ("node =~ /(a)\\1/", "regular expressions here have no back-references", None),
        ("regexp_matches(node, node)", 'this argument of "regexp_matches" must be a constant', None),
        ("regexp_extract(node, '(a)', 2)", "the regular expression has no group 2", "It has 1, counted from 1."),
        ("date_trunc('hours', at)", 'no part of a time "hours"', 'Did you mean "hour"?'),
        ("status::nothing", 'unknown type "NOTHING"', None),
        ("at::boolean", "TIMESTAMP can not be cast to BOOLEAN", None),
        ("tags[*] = metrics[*].name", "only one side of a condition may have [*]", None),
        ("case when ok then 1 else 'a' end", "the branches of CASE have different types", None),
        ("time_bucket(0s, at)", "the interval must be longer than nothing", None),
        ("upper(distinct node)", '"upper" is no aggregate', None),
    ],
)
def test_a_mistake_is_told_with_what_mends_it(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(MqlError) as raised:
        bound(text)
    assert raised.value.message == message
    assert raised.value.span is not None
    if hint is not None:
        assert raised.value.hint == hint


def test_replacements_may_not_explode() -> None:
    text = "node"
    for _ in range(8):
        text = f"replace({text}, 'a', 'aaaaaaaaaa')"
    with pytest.raises(MqlError, match="too long"):
        bound(text)
    assert bound("replace(node, '&', '&amp;')").type == VARCHAR


def test_nested_cases_may_not_explode() -> None:
    text = "status"
    for _ in range(12):
        text = f"case ({text}) when 1 then 2 when 2 then 3 when 3 then 4 end"
    with pytest.raises(MqlError, match="too large"):
        bound(text)


def test_thousands_of_conditions_are_one_flat_list(session: Session) -> None:
    chain = " and ".join(f"status != {number}" for number in range(1000))
    found = bound(chain)
    assert isinstance(found, Apply)
    assert len(found.args) == 1000
    rows = pa.table({"/status": [1, 5000, None]})
    assert (
        session.run(f"SELECT count(*) AS n FROM t WHERE {expression_sql(found)}", {"t": rows}).column(0)[0].as_py() == 2
    )


def test_a_property_called_e_is_itself_but_e_with_brackets_is_the_event() -> None:
    scope = Scope(Shape((Field("e", StructOf((("x", BIGINT), ("y", BIGINT)))), Field("x", VARCHAR))))
    assert bound("e", scope) == Column(("e",), StructOf((("x", BIGINT), ("y", BIGINT))))
    assert bound("e.x", scope) == Column(("e", "x"), BIGINT)
    assert bound("e['x']", scope) == Column(("x",), VARCHAR)
    assert bound("e['y']", scope) == Column(("e", "y"), BIGINT)


def test_an_open_source_takes_unknown_names_and_tells_them() -> None:
    opened: set[tuple[str, ...]] = set()
    scope = Scope(Shape((Field("a", StructOf((("b", BIGINT),))),), open=True), opened=opened)
    assert bound("new.deep", scope) == Apply("json_get", (Column(("new",), JSON), Constant("/deep", VARCHAR)), JSON)
    assert bound("e['a']['c']", scope) == Column(("a", "c"), JSON)
    assert opened == {("new",), ("a", "c")}


def test_outputs_are_found_by_mantis_capitals() -> None:
    scope = Scope(SHAPE, outputs={"count( status )": Output("a0", BIGINT), "node": Output("k0", VARCHAR)})
    assert bound("e['COUNT(status)'] > 2", scope) == Apply(">", (Output("a0", BIGINT), Constant(2, BIGINT)), BOOLEAN)
    assert bound("node", scope) == Output("k0", VARCHAR)
    inner = Scope(SHAPE, outputs={"node": Output("k0", VARCHAR)}, outputs_first=False)
    assert bound("node", inner) == Column(("node",), VARCHAR)


def test_the_sides_of_a_join_are_found_by_alias_and_bare() -> None:
    left = StructOf((("id", BIGINT), ("x", BIGINT)))
    right = StructOf((("id", BIGINT), ("y", BIGINT)))
    scope = Scope(Shape((Field("a", left), Field("b", right))), sides=("a", "b"))
    assert bound("a.id = b.id", scope) == Apply(
        "=", (Column(("a", "id"), BIGINT), Column(("b", "id"), BIGINT)), BOOLEAN
    )
    assert bound("y", scope) == Column(("b", "y"), BIGINT)
    assert bound("e['x']", scope) == Column(("a", "x"), BIGINT)
    with pytest.raises(MqlError, match="ambiguous"):
        bound("id", scope)


def test_calls_are_claimed_by_whoever_knows_aggregates() -> None:
    class Counts:
        def claim(self, call: syntax.Call, scope: Scope) -> Bound | None:
            return Output("a0", BIGINT) if call.name == "count" else None

    assert sql("count(*) + length(node)", Scope(SHAPE, aggregates=Counts())) == 'TRY("a0" + length("/node"))'


# --- meaning -------------------------------------------------------------------------------------------------

ROWS = pa.table(
    {
        "/status": pa.array([1, None, 2**63 - 1], pa.int64()),
        "/latency": pa.array([1.0, None, float("nan")]),
        "/node": ["a", None, "5"],
        "/payload": pa.array(["1", None, '"5"'], pa.string()),
        "/d": pa.array([{"id": "x"}, None, {"id": "y"}]),
        "/tags": pa.array([["a", "b"], None, []], pa.list_(pa.string())),
    }
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("status = 1", [True, None, False]),
        ("status == 1", [True, False, False]),
        ("status != 1", [False, True, True]),
        ("status <> 1", [False, None, True]),
        ("status == latency", [True, True, False]),
        ("status = 1.0", [True, None, False]),
        ("status + 1", [2, None, None]),
        ("status / 0", [None, None, None]),
        ("status // 0", [None, None, None]),
        ("status % 0", [None, None, None]),
        ("latency > 5", [False, None, True]),
        ("latency = latency", [True, None, True]),
        ("payload == 1", [True, False, False]),
        ("payload == '5'", [False, False, True]),
        ("payload is null", [False, True, False]),
        ("payload == node", [False, True, True]),
        ("node::bigint", [None, None, 5]),
        ("cast(node as double)", [None, None, 5.0]),
        ("node in ('a', null)", [True, None, None]),
        ("node not in ('a')", [False, None, True]),
        ("status in (1, 2.5)", [True, None, False]),
        ("e['tags'][*] = 'b'", [True, False, False]),
        ("tags[*] = 'a' and tags[*] = 'b'", [True, False, False]),
        ("not tags[*] = 'b'", [False, True, True]),
        ("payload::bigint", [1, None, 5]),
        ("d[*] = 'x'", [True, False, False]),
        ("payload[*] = 'x'", [False, False, False]),
        ("to_json(payload)::varchar", ["1", None, "5"]),
        ("json_type(payload)", ["UBIGINT", None, "VARCHAR"]),
        ("tags[1]", ["b", None, None]),
        ("tags[-2]", ["a", None, None]),
        ("status = 1 or null", [True, None, None]),
        ("case when status = 1 then 'one' end", ["one", None, None]),
        ("status between 1 and 5", [True, None, False]),
        ("status not between 1 and 5", [False, None, True]),
        ("node is not distinct from null", [False, True, False]),
        ("node like '_'", [True, None, True]),
        ("'x' || status", ["x1", None, "x9223372036854775807"]),
        ("concat('x', node)", ["xa", "x", "x5"]),
    ],
)
def test_it_means_what_the_page_of_the_language_says(session: Session, text: str, values: list[object]) -> None:
    found = session.run(f"SELECT {sql(text)} AS x FROM rows", {"rows": ROWS})
    assert found.column(0).to_pylist() == values


def test_equal_conditions_have_one_normal_form() -> None:
    same = ["status = 1 and node = 'a'", "'a' = node and 1 = status", "node = 'a' and status = 1 and node = 'a'"]
    assert len({normalise(bound(text)) for text in same}) == 1
    assert normalise(bound("5 < status")) == normalise(bound("status > 5"))
    assert normalise(bound("status in (2, 1)")) == normalise(bound("status in (1, 2, 1)"))
    assert normalise(bound("status < 5")) != normalise(bound("status > 5"))


# --- constants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("10", 10_000_000),
        ("0.5", 500_000),
        ("250ms", 250_000),
        ("'1h30m'", 5_400_000_000),
        ("$gap", 10_000_000),
        ("$n", 5_000_000),
    ],
)
def test_durations_are_written_in_many_ways(text: str, us: int) -> None:
    assert constant_duration(expression(text), SCOPE) == us


def test_a_text_that_is_no_duration_is_none() -> None:
    assert [duration_us(text) for text in ("", "10", "s", "10 parsecs", "1h x", "-5m")] == [None] * 5 + [-300_000_000]


def test_whole_numbers_have_bounds() -> None:
    assert constant_int(expression("$n"), SCOPE, 1, 10) == 5
    with pytest.raises(MqlError, match="11 is out of bounds"):
        constant_int(expression("11"), SCOPE, 1, 10)
    with pytest.raises(MqlError, match="a whole number"):
        constant_int(expression("1.5"), SCOPE)
    with pytest.raises(MqlError, match="must stand here"):
        bind_constant(expression("upper('a')"), SCOPE)


def test_a_condition_is_boolean() -> None:
    assert bind_condition(expression("ok"), SCOPE).type == BOOLEAN
    with pytest.raises(MqlError, match="a condition must stand here"):
        bind_condition(expression("node"), SCOPE)
