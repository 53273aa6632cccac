"""Texts and the trees they stand for."""

from __future__ import annotations

from decimal import Decimal

import pytest
from support.shapes import shape

from mql.errors import MqlError, Span
from mql.parser import expected_at, parse
from mql.syntax import (
    Anomaly,
    Binary,
    Call,
    Duration,
    Emit,
    Frame,
    Instant,
    Join,
    Key,
    Limit,
    Literal,
    Order,
    Param,
    Point,
    Property,
    Query,
    Sample,
    SourceRef,
    Star,
    SubqueryRef,
    Window,
)

SECOND = 1_000_000


def seconds(count: float) -> Duration:
    return Duration(int(count * SECOND))


def named(name: str) -> Property:
    return Property((Key(name),))


EXPRESSIONS = [
    # arithmetic, from left to right, product before sum
    ("a + b * 2", "(+ a (* b 2))"),
    ("(a + b) * 2", "(* (+ a b) 2)"),
    ("a - b - c", "(- (- a b) c)"),
    ("7 // 2 % 3 / 4", "(/ (% (// 7 2) 3) 4)"),
    ("-5", "-5"),
    ("- -5", "(- -5)"),
    ("-(5)", "(- 5)"),
    ("a -1", "(- a 1)"),
    ("-a::bigint", "(- (cast a BIGINT))"),
    ("1.50", "1.50"),
    ("1e3", "1000.0"),
    ("1.", "1"),
    (".5", "0.5"),
    # conditions
    ("a = 1 and b = 2 or c = 3", "(or (and (= a 1) (= b 2)) (= c 3))"),
    ("a = 1 or b = 2 and c = 3", "(or (= a 1) (and (= b 2) (= c 3)))"),
    ("a and (b and c)", "(and (and a b) c)"),
    ("not a == 1", "(not (== a 1))"),
    ("not not a", "(not (not a))"),
    ("!(a == 1) && b <> 2", "(and (not (== a 1)) (<> b 2))"),
    ("a==1and b=='x'", "(and (== a 1) (== b 'x'))"),
    ("a between 1 and 2 and b", "(and (between a 1 2) b)"),
    ("a not between 1 + 1 and 3", "(not-between a (+ 1 1) 3)"),
    ("a in (1, 'x') or a not in (2)", "(or (in a 1 'x') (not-in a 2))"),
    ("a in $countries", "(in a $countries)"),
    ("a in [1, 2]", "(in a [1 2])"),
    ("a in (select x from y)", "(in a 1 columns)"),
    ("exists (select x from y)", "(exists)"),
    ("a is null and b is not null", "(and (null a) (not-null b))"),
    ("a is true", "(not-distinct a True)"),
    ("a is not distinct from 4", "(not-distinct a 4)"),
    ("a like 'x%' or b not ilike '%y'", "(or (like a 'x%') (not-ilike b '%y'))"),
    (r"a ==~ /\/api\/.*/", "(==~ a //api/.*/)"),
    ("a =~ $re", "(=~ a $re)"),
    ("a ==~ //", "(==~ a //)"),
    ("a ==+ 'text'", "(==+ a 'text')"),
    # `||` is OR between conditions, else it joins texts
    ("a == 1 || b == 2", "(or (== a 1) (== b 2))"),
    ("a == 1 || b == 2 && c == 3", "(or (== a 1) (and (== b 2) (== c 3)))"),
    ("(a == 1) || (b == 2)", "(or (== a 1) (== b 2))"),
    ("a in (1) || not b", "(or (in a 1) (not b))"),
    ("a is null || b ==~ /x/", "(or (null a) (==~ b /x/))"),
    ("a || '-' || b = 'x-y'", "(= (|| (|| a '-') b) 'x-y')"),
    ("a = 'x' || b", "(= a (|| 'x' b))"),
    ("a || b = 'c' || d == 1", "(or (= (|| a b) 'c') (== d 1))"),
    ("x between a || b and 'c' || d", "(between x (|| a b) (|| 'c' d))"),
    # properties
    ("device.id", "device.id"),
    ("e['device'][\"id\"][0][-1][*]", "e['device']['id'][0][-1][*]"),
    ("e[^'metric']", "e[^metric]"),
    ("`a b`.`c``d`", "`a b``c`d`"),
    ('e["th\\"is"]', "e['th\"is']"),
    ("a.from.select", "a.from.select"),
    # calls
    ("COUNT(*)", "count(*)"),
    ("count(distinct a) filter (where b > 1)", "count(distinct a) filter (> b 1)"),
    ("f(a, x => 5%, y => 2)", "f(a x=>0.05 y=>2)"),
    ("left(a, 3)", "left(a 3)"),
    ("extract(hour from ts)", "date_part('hour' ts)"),
    ("cast(a as decimal(10, 2)[])", "(cast a DECIMAL(10,2)[])"),
    ("try_cast(a as timestamp with time zone)", "(try_cast a TIMESTAMP WITH TIME ZONE)"),
    ("case when a then 1 else 2 end", "(case a -> 1 else 2)"),
    ("case a when 1 then 'x' when 2 then 'y' end", "(case a: 1 -> 'x', 2 -> 'y')"),
    # strings, durations
    ("'it''s' || \"it's\"", '(|| "it\'s" "it\'s")'),
    ("'a -- b /* c */'", "'a -- b /* c */'"),
    ("10s + 250ms", "(+ 10000000us 250000us)"),
    ("1h30m", "5400000000us"),
    ("5 MINUTES", "300000000us"),
    ("interval '10' second", "10000000us"),
    ("INTERVAL '1 hour 30 minutes'", "5400000000us"),
]


@pytest.mark.parametrize(("text", "expected"), EXPRESSIONS)
def test_an_expression_binds_as_it_should(text: str, expected: str) -> None:
    assert shape(parse(f"select {text} from x").select[0].expression) == expected


CLAUSES = [
    ("from requests", "sources", (SourceRef("requests"),)),
    ("from a, b as c, `d e` f", "sources", (SourceRef("a"), SourceRef("b", alias="c"), SourceRef("d e", alias="f"))),
    ("from 'logs/*.parquet' l", "sources", (SourceRef(path="logs/*.parquet", alias="l"),)),
    ("from $source", "sources", (SourceRef(param="source"),)),
    ("from my-source.topic", "sources", (SourceRef("my-source.topic"),)),
    ("from (select 1) as q", "sources", (SubqueryRef(parse("select 1"), "q"),)),
    (
        "from a join b on x within 5m",
        "joins",
        (Join("inner", SourceRef("b"), named("x"), (seconds(300), seconds(300))),),
    ),
    (
        "from a asof left join b on x within (5m, 1h)",
        "joins",
        (Join("left", SourceRef("b"), named("x"), (seconds(300), seconds(3600)), asof=True),),
    ),
    ("from a join b 5 seconds on k", "joins", (Join("inner", SourceRef("b"), named("k"), mantis_seconds=seconds(5)),)),
    ("sample 5%", "sample", Sample("percent", Literal(5))),
    ("sample 5 percent by a extrapolate", "sample", Sample("percent", Literal(5), (named("a"),), extrapolate=True)),
    ("sample 100 per second", "sample", Sample("rate", Literal(100))),
    (
        "sample {'strategy':\"STICKY\",'keys':['zip'],'threshold':200,'extrapolate':true}",
        "sample",
        Sample("json", options=(("strategy", "STICKY"), ("keys", ("zip",)), ("threshold", 200)), extrapolate=True),
    ),
    ("window 10", "windows", (Window("tumbling", Literal(10)),)),
    ("window 60 10", "windows", (Window("hopping", Literal(60), Literal(10)),)),
    ("window |100|", "windows", (Window("count", Literal(100)),)),
    ("window 100 events every 10", "windows", (Window("count", Literal(100), Literal(10)),)),
    (
        "window tumbling 10s offset 2s timezone 'UTC'",
        "windows",
        (Window("tumbling", seconds(10), offset=seconds(2), timezone=Literal("UTC")),),
    ),
    ("window TUMBLE(10s)", "windows", (Window("tumbling", seconds(10)),)),
    ("window hopping 60s every 10s", "windows", (Window("hopping", seconds(60), seconds(10)),)),
    ("window HOP(1m, 10s)", "windows", (Window("hopping", seconds(60), seconds(10)),)),
    (
        "window hopping (size 30 seconds, advance by 10 seconds)",
        "windows",
        (Window("hopping", seconds(30), seconds(10)),),
    ),
    ("window size 60s slide 10s", "windows", (Window("hopping", seconds(60), seconds(10)),)),
    ("window cumulate 1d every 1h", "windows", (Window("cumulate", seconds(86400), seconds(3600)),)),
    (
        "window session 30s max 30m start when a end when b",
        "windows",
        (Window("session", seconds(30), max_length=seconds(1800), start_when=named("a"), end_when=named("b")),),
    ),
    ("window sliding $w", "windows", (Window("sliding", Param("w")),)),
    (
        "windows (fast as tumbling 1m, slow as 1h) fill 0 for 2h",
        "windows",
        (
            Window("tumbling", seconds(60), fill=Literal(0), fill_for=seconds(7200), name="fast"),
            Window("tumbling", seconds(3600), fill=Literal(0), fill_for=seconds(7200), name="slow"),
        ),
    ),
    ("group by 1, node", "group_by", (Literal(1), named("node"))),
    ("order by a desc nulls last, b", "order_by", (Order(named("a"), True, False), Order(named("b")))),
    ("limit 3 per node", "limit", Limit(Literal(3), (named("node"),))),
    ("emit final with early 1s with revisions", "emit", Emit("final", early=seconds(1), revisions=True)),
    ("emit changes every 1s", "emit", Emit("changes", every=seconds(1))),
    ("emit every 5s", "emit", Emit("every", every=seconds(5))),
    ("emit episodes", "emit", Emit("episodes")),
    ("lateness 2m", "lateness", seconds(120)),
    ("since '-1h'", "since", Point("time", Literal("-1h"))),
    ("since timestamp '1970-01-01T00:00:01Z'", "since", Point("time", Instant(SECOND))),
    ("since earliest", "since", Point("earliest")),
    ("since offset 5", "since", Point("offset", Literal(5))),
    ("until now()", "until", Point("now")),
    ("until live", "until", Point("live")),
    ("replay speed 10x", "replay_speed", Literal(10)),
    ("settings late = 'as_live', TTL = 1h", "settings", (("late", Literal("as_live")), ("ttl", seconds(3600)))),
    (
        "anomaly mad cpu 1.0 2.5",
        "anomaly",
        Anomaly(named("cpu"), Call("mad", (Literal(Decimal("1.0")), Literal(Decimal("2.5"))))),
    ),
    (
        "anomaly on a / b using ratio(fdr => 1%) direction up by k, l history 1 hour warmup 20 windows for 3 of"
        " 5 windows rearm after 5 minutes minimum b >= 20, change >= 2 limit 20 per window",
        "anomaly",
        Anomaly(
            Binary("/", named("a"), named("b")),
            Call("ratio", (), (("fdr", Literal(Decimal("0.01"))),)),
            (
                ("direction", "up"),
                ("by", (named("k"), named("l"))),
                ("history", seconds(3600)),
                ("warmup_windows", Literal(20)),
                ("for", Literal(3)),
                ("of", Literal(5)),
                ("rearm", seconds(300)),
                ("minimum", (Binary(">=", named("b"), Literal(20)), Binary(">=", named("change"), Literal(2)))),
                ("limit", Literal(20)),
            ),
        ),
    ),
]


@pytest.mark.parametrize(("text", "field", "expected"), CLAUSES)
def test_a_clause_fills_its_field(text: str, field: str, expected: object) -> None:
    assert getattr(parse(f"select * {text}"), field) == expected


def test_window_functions_keep_their_frame() -> None:
    call = (
        parse("select lag(a) over (partition by b order by event_time rows between 5 preceding and current row) from x")
        .select[0]
        .expression
    )
    assert isinstance(call, Call)
    assert call.over is not None
    assert call.over.partition_by == (named("b"),)
    assert call.over.order_by == (Order(named("event_time")),)
    assert call.over.frame == Frame("rows", (Literal(5), "preceding"), "current row")


def test_columns_are_named_by_their_text_as_written() -> None:
    items = parse('select COUNT( a ) , (b) n, \'x\' as "y z", e["c"] /* why */ from s').select
    assert [(item.text, item.alias) for item in items] == [
        ("COUNT( a )", None),
        ("(b)", "n"),
        ("'x'", "y z"),
        ('e["c"]', None),
    ]
    assert isinstance(items[0].expression, Call)
    assert items[0].expression.text == "COUNT( a )"


def test_spans_point_into_the_text_comments_included() -> None:
    text = "select /* all of it */ a, b from c where d = 'x'"
    query = parse(text)
    assert isinstance(query.where, Binary)
    spans = [query.select[1].span, query.where.span, query.where.right.span, query.sources[0].span]
    assert [text[span.start : span.end] for span in spans] == ["b", "d = 'x'", "'x'", "c"]


def test_clauses_come_in_any_order() -> None:
    one = parse("select a from b where c group by a window 10 limit 5 having d")
    other = parse("select a from b limit 5 having d window 10 group by a where c")
    assert one == other


def test_options_of_anomaly_come_in_any_order_the_limit_per_window_too() -> None:
    def options(text: str) -> set[tuple[str, str]]:
        anomaly = parse(f"select a from s anomaly on a {text} emit all").anomaly
        assert anomaly is not None
        return {(name, str(getattr(value, "value", value))) for name, value in anomaly.options}

    last = options("for 2 of 3 windows rearm after 5 windows limit 20 per window")
    assert options("limit 20 per window for 2 of 3 windows rearm after 5 windows") == last
    assert options("rearm after 5 windows limit 20 per window for 2 of 3 windows") == last


def test_bare_true_and_false_are_queries() -> None:
    assert parse("TRUE;") == Query(parse("select *").select, where=Literal(True))
    assert parse("false") == parse("select * where false")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("explain select 1", "plan"), ("EXPLAIN ANALYZE select 1", "analyze"), ("explain\nsql select 1", "sql")],
)
def test_explain_says_what_it_explains(text: str, kind: str) -> None:
    assert parse(text).explain == kind


def test_a_union_keeps_what_is_said_of_the_whole_in_its_first_query() -> None:
    query = parse("with w as (select 1) select a from b where c union all select a from d order by a limit 3")
    assert [name for name, _ in query.ctes] == ["w"]
    assert query.where == named("c")
    assert query.order_by == (Order(named("a")),)
    assert query.limit == Limit(Literal(3))
    assert query.union == (parse("select a from d"),)


# Words of the language that are common as names of properties.
FREE_WORDS = """
window_start count first last time key value name status date timestamp seconds events every size offset end
start  type path source order group limit window sample by per for of emit since until settings max min fill
live now  history anomaly direction minimum rows range interval left right inner session final changes all
explain with per  second hop gap speed percent unit partition current
"""


@pytest.mark.parametrize("word", sorted(set(FREE_WORDS.split())))
def test_a_word_that_is_no_reserved_one_names_a_property(word: str) -> None:
    query = parse(f"select {word}, max({word}) as {word} from s where {word} = 1 and x.{word} > 2 group by {word}")
    assert query.select[0].expression == named(word)
    assert query.select[1].alias == word
    assert query.group_by == (named(word),)


@pytest.mark.parametrize("word", ["n", "p99", "history", "minimum", "desc", "direction", "first", "count"])
def test_an_alias_needs_no_as(word: str) -> None:
    assert parse(f"select count(*) {word} from s").select[0].alias == word


def test_keywords_come_in_any_case() -> None:
    assert parse("SeLeCt a FrOm b WhErE c Is NoT nUlL gRoUp  \n bY d") == parse(
        "select a from b where c is not null group by d"
    )


def test_star_of_an_alias() -> None:
    assert [item.expression for item in parse("select *, r.* from requests r").select] == [Star(), Star("r")]


MANTIS = """
select MAX(a), b from stream group by b
select sum(a) from stream window |2|
select count(a), b from stream window 1 group by b limit 1
select count(a) from stream window 1 order by e['COUNT(a)'] desc
select count(a), b from stream window 1 group by b order by e['COUNT(a)'] DESC limit 1
select count(distinct a), list(distinct a), b from stream window 1 group by b having e['COUNT(a)'] > 2
select p50(a) from stream window 1
select COUNT(a), SUM(a) from stream window 1 sample {'strategy': 'RANDOM', 'threshold':5000, 'extrapolate': true}
select COUNT(a), 'abc', 3 from stream window 1
select 1 as 'test_id', 'b' as 'code', 3.14 as 'pi', a as 'prop', COUNT(a) as 'cnt' from stream window 1
select * from stream anomaly mad cpu 1.0 2.5
select * from table1 join table2 1 seconds on e['node']
select e['metrics'][1]['loadAvg5'] from stream where e['metrics'][1]['loadAvg5'] > 12.0
select e[^'metric'], metrics, e['metrics']['latency'] from stream
select e['node'], tick() from stream
select * from stream where e['metrics'][*][*] < 12
select COUNT(distinct node) from stream
select * from stream where a ==~ /.*prop\\"\\:\\"123.*/
select * from stream where a ==~ /^\\(focus\\).*/
select * from stream where true
select * where false
select a, 'b' where a == 2
select a as 'test', b as 'test' from stream
select a, e['c '] where e['c '] == 2
SELECT a,b from observable where c ==~ /bacon/
SELECT * FROM observable WHERE ((e["type"] == "A") || (e["type"] == "B") || (e["tagUiAction"] == "true"))
SELECT * FROM observable WHERE e["ts"] % 25 == 0
select e["is_failure"] from obs where not e["is_failure"] == true
select * from obs where !(e["a"] == e["b"])
select * from obs where ( (e['a'] == 'test' ) )
select * from obs where e['a'] <> null
select * from obs where p ==~ /\\/nccp\\/controller\\/(2.11|2.1[3-9]|3).*\\/license$/
select * from obs where e["prop1"] ==~ /^value1.*/ && e["prop2"] ==~ /^value2.*/
SELECT * FROM obs WHERE e["identity.matcher.1"] == "mismatch"
select * from obs where e['prop1'] ==~ //
select * from obs where e['prop'] ==~ /test\\:.*this/
SELECT esn,mantis.meta.sourceName from obs SAMPLE {"strategy":"STICKY","threshold":360000,"keys":["esn"],"salt":1}
select e['events'][-1] from stream
select * from stream where e['errors'][*]['code'] = 'err456'
SELECT name, value WHERE category == 'metrics' AND value > 100
select * from defaultStream, requestStream where id = 3
select esn, country where e["response.header.x-netflix.api-script-endpoint"]=="/account/geo"
SELECT uiver, _ts_, targettype FROM stream WHERE e["type"] == "disconnect" && e["sev"] == "info"
select "string literal", 45, e["tags"]["cluster"], nf.node from servo
select average(e["metrics"]["latency"]), e["node"] from servo window 10
select count(distinct esn) from stream window 10 1
select * from servo where (node == "i-123456" AND e["metrics"]["latency"] > 350) OR node == "1-abcdef"
select AVERAGE(latency) from servo window 60 limit 10
select MAX(e["m"]["latency"]), node from servo window 10 2 where app == "api" AND c ==~ /.*\\-prod/ group by c, node
select * from servo LIMIT 10 SAMPLE {"strategy": "RANDOM", "threshold": 500}
SELECT * FROM stream WHERE e["dimensions"]["test.groupname"][*] == 1
select * from stream where a == 15E-1
select * from stream where a == 1.
select * from stream where null == a
select * from stream limit 1.5
select -1.5 from stream
select not a from stream
select * from "s1"
select * from t1 join t2, t3 1 seconds on k
select * from stream sample 5 %
select count(a) as 'n' from stream sample {'strategy':'RPS','threshold':2,'factor':4,'extrapolate':true}
select * from stream anomaly mad cpu 1 2 limit 3
select * from stream where 日本 == 1
select * from a, c join b 1 seconds on k
select e[0] from stream
select a/b from stream
""".strip().split("\n")


@pytest.mark.parametrize("text", MANTIS)
def test_the_mantis_dialect_parses(text: str) -> None:
    assert parse(text).select


def test_long_chains_of_conditions_are_no_deep_trees() -> None:
    query = parse("select a from b where " + " and ".join(f"x = {n}" for n in range(1_000)))
    assert len(repr(query)) > 1_000
    assert query == query.__class__(**{field: getattr(query, field) for field in query.__dataclass_fields__})


BOUNDS = [
    ("select " + "a" * 70_000, "the query is longer than 64 KiB"),
    ("select " + "é" * 40_000, "the query is longer than 64 KiB"),
    ("select " + "(" * 65 + "1" + ")" * 65, "more than 64 brackets inside each other"),
    ("select " + ", ".join(["a"] * 1_001), "more than 1,000 columns"),
    ("select " + "1," * 4_000 + "1", "the query has more than 6,000 words and signs"),
    ("select " + "not " * 500 + "a", "more than 64 operators inside each other"),
    ("select " + "- " * 500 + "a", "more than 64 operators inside each other"),
    ("select " + "+".join(["a"] * 500), "the expression is more than 128 operators deep"),
    ("select a" + "::int" * 500, "the expression is more than 128 operators deep"),
    ("select " + "case when 1 then " * 200 + "1" + " end" * 200, "the expression is more than 128 operators deep"),
    ("select " + "a in (select " * 60 + "1" + ")" * 60, "the expression is more than 128 operators deep"),
    ("select " + "9" * 40, "the number has too many digits"),
    ("select 1e999", "the number is too large"),
    ("select '\ud800'", "the text holds half a character"),
]


@pytest.mark.parametrize(("text", "message"), BOUNDS, ids=[message for _, message in BOUNDS])
def test_what_is_out_of_bounds_is_refused(text: str, message: str) -> None:
    with pytest.raises(MqlError) as error:
        parse(text)
    assert error.value.message == message


def test_a_thousand_columns_are_fine() -> None:
    assert len(parse("select " + ", ".join(f"e['c{n}'] as x{n}" for n in range(1_000)) + " from s").select) == 1_000


def test_an_error_knows_its_place() -> None:
    with pytest.raises(MqlError) as error:
        parse("select a from b where x = 5 and")
    assert error.value.span == Span(31, 31)
    assert error.value.text == "select a from b where x = 5 and"


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("", {"SELECT", "EXPLAIN", "WITH"}),
        ("sel", {"SELECT"}),
        ("select a from b ", {"WHERE", "WINDOW", "GROUP BY", "JOIN", "the end of the query"}),
        ("select count(", {"a name", '")"', "DISTINCT"}),
        ("select a /* ( */ from b window ", {"TUMBLING", "HOPPING", "a duration such as 10s"}),
        ("select a from b emit cha", {"CHANGES", "FINAL", "EVERY"}),
        ("select a ! b", set()),
    ],
)
def test_an_editor_learns_what_may_come_next(text: str, some: set[str]) -> None:
    assert some <= set(expected_at(text, len(text)))
